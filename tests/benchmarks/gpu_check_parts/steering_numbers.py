"""generation and steering on the device, against transformers with hooks and against fp32 on a CPU

A row with strength 0 must have the bits of the unsteered model, alone and beside steered rows.
"""

import eval_contenders
import torch
from eval_contenders import DecodingTask, ModelPair
from torch import Tensor

from eval.model.subject.olmo_subject import OLMoSubject
from eval.steering import intervention
from eval.steering.intervention import Shift
from gpu_check_parts.recorder import Recorder
from training.config import ModelConfig

MIN_SAME = 0.9  # greedy ties break either way where kernels round differently
LOGITS_LIMIT = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def run(recorder: Recorder) -> None:
    if recorder.is_tiny:
        config = ModelConfig(d_model=32, n_layers=2, n_heads=2, d_mlp=64, vocab_size=128)
        task = eval_contenders.decoding(config, 2, 6, 5)
    else:
        config = ModelConfig(d_model=512, n_layers=8, n_heads=8, d_mlp=2048, vocab_size=8192)
        task = eval_contenders.decoding(config, 8, 24, 20)
    expected = _steered_logits(eval_contenders.models(config).ours, task, 1.0)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        with recorder.item(name):
            models = eval_contenders.models(config, recorder.device, dtype)
            logits = _steered_logits(models.ours, task, 1.0).float().cpu()
            error = float((logits - expected).norm() / expected.norm())
            limit = LOGITS_LIMIT[dtype]
            recorder.at_most(f"{name}: steered logits against fp32 CPU", error, limit)
            _check_zero_strength(recorder, name, models.ours, task)
            if dtype is torch.float32:
                _check_generation(recorder, models, task)


def _check_generation(recorder: Recorder, models: ModelPair, task: DecodingTask) -> None:
    """Greedy tokens of ours and of transformers, both steered."""
    ours = eval_contenders.generate_steered(models.ours, task)
    theirs = eval_contenders.generate_with_hooks(models.peer, task)
    share = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    recorder.check(
        "float32: steered continuations as by hooks on transformers",
        share >= MIN_SAME,
        f"{share:.0%} of {len(ours)} are the same, at least {MIN_SAME:.0%} expected",
    )
    plain = eval_contenders.generate_unsteered(models.ours, task)
    recorder.check("float32: steering changes continuations", plain != ours)


def _check_zero_strength(
    recorder: Recorder, name: str, model: OLMoSubject, task: DecodingTask
) -> None:
    plain = _logits(model, task)
    zero = _steered_logits(model, task, 0.0)
    recorder.check(f"{name}: α = 0 has the unsteered logits, bit for bit", _same_bits(plain, zero))
    strength_B = torch.zeros(len(task.prompts))
    strength_B[1::2] = 1.0
    mixed = _steered_logits(model, task, strength_B)
    is_same = _same_bits(plain[0::2], mixed[0::2])
    recorder.check(f"{name}: α = 0 beside steered rows, bit for bit", is_same)
    recorder.check(f"{name}: the rows beside it change", not _same_bits(plain[1::2], mixed[1::2]))
    tokens = eval_contenders.generate_unsteered(model, task)
    unsteered_task = task._replace(strengths=[0.0] * len(task.prompts))
    with_zero = eval_contenders.generate_steered(model, unsteered_task)
    recorder.check(f"{name}: α = 0 generates the tokens of no shift", tokens == with_zero)


@torch.inference_mode()
def _logits(model: OLMoSubject, task: DecodingTask) -> Tensor:
    return model(torch.tensor(task.prompts).to(model.device))


def _steered_logits(model: OLMoSubject, task: DecodingTask, strength: float | Tensor) -> Tensor:
    """Logits with every position steered."""
    strength_B = torch.as_tensor(strength).expand(len(task.prompts))
    with intervention.steered(model, Shift(task.shift_LD), strength_B, "all"):
        return _logits(model, task)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    integers = torch.int32 if a.dtype is torch.float32 else torch.int16
    return torch.equal(a.view(integers), b.view(integers))
