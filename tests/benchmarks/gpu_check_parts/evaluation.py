"""evaluation of an OLMo-1B on the device: cross-entropy, steered generation, activations, probes

The rates are projected to the paper's protocol for one model. Weights are random, which changes no
time. Transformers generates beside us, with hooks that steer it.
"""

from statistics import median
from typing import Any, NamedTuple

import eval_contenders
import numpy as np
import torch
from eval_contenders import ROWS_PER_PROMPT, DecodingTask, ModelPair, timed

from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.probing import logistic_probes, permutation_null
from eval.steering import measure_strengths
from eval.steering.conditions import Condition
from eval.steering.intervention import Shift
from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder
from launch.recipes import registry
from training.config import SIZES, ModelConfig

STEERING_BAR = 0.03
L2 = 1.0


class Work(NamedTuple):
    """How much of each kind of work is measured."""

    model: ModelConfig
    n_windows: int
    n_prompts: int  # of ROWS_PER_PROMPT rows each
    n_new_tokens: int
    n_texts: int
    n_probe_rows: int
    n_permutations: int
    n_rounds: int


FULL = Work(
    ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=50_304), 64, 128, 20, 2000, 7526, 1000, 3
)
TINY = Work(one_billion.TINY, 4, 4, 5, 20, 80, 10, 2)


def run(recorder: Recorder) -> None:
    work = TINY if recorder.is_tiny else FULL
    with recorder.item("bf16"):
        _record_model(recorder, work, torch.bfloat16)
    with recorder.item("probes"):
        _record_probes(recorder, work)
    if recorder.has_time(20, "fp32"):
        with recorder.item("fp32"):
            less = work._replace(
                n_windows=max(2, work.n_windows // 8),
                n_prompts=max(2, work.n_prompts // 4),
                n_texts=work.n_texts // 4,
            )
            _record_model(recorder, less, torch.float32)
    if recorder.device.type == "cuda":
        gib = torch.cuda.max_memory_allocated() / 2**30
        recorder.number("largest memory", gib, "GiB", "of both models and all work")


def _record_model(recorder: Recorder, work: Work, dtype: torch.dtype) -> None:
    name = "bf16" if dtype is torch.bfloat16 else "fp32"
    models = eval_contenders.models(work.model, recorder.device, dtype, initialise=False)
    with recorder.item(f"{name}, cross-entropy"):
        _record_cross_entropy(recorder, name, models, work)
    task = eval_contenders.decoding(work.model, work.n_prompts, 24, work.n_new_tokens)
    if work.model is TINY.model:
        task = eval_contenders.decoding(work.model, work.n_prompts, 6, work.n_new_tokens)
    with recorder.item(f"{name}, generation"):
        _record_generation(recorder, name, models, task, work.n_rounds)
    with recorder.item(f"{name}, activations"):
        _record_activations(recorder, name, models, work)


def _record_cross_entropy(recorder: Recorder, name: str, models: ModelPair, work: Work) -> None:
    """Held-out windows at two strengths, as the evaluation measures them."""
    config = work.model
    T = config.max_sequence_length
    tokens_RT = np.random.default_rng(0).integers(1, config.vocab_size, (work.n_windows // 2, T))
    shift_LD = torch.randn(config.n_layers, config.d_model, generator=torch.Generator())
    condition = Condition("steered", [], Shift(shift_LD), (0.0, 4.0), "all")
    session = _session(models, T)

    def measure() -> Any:
        return measure_strengths.measure_cross_entropy(session, tokens_RT, condition)

    measure()
    seconds = timed(measure).seconds
    rate = work.n_windows / seconds
    recorder.number(f"{name}: windows of {T} tokens", rate, "per s", f"{rate * T:,.0f} tokens/s")
    paper = registry.named("paper").eval
    n = 2 * paper.capability.cross_entropy_sequences * len(paper.steering.strengths)
    recorder.number(f"{name}: cross-entropy of the paper's protocol", n / rate, "s", f"{n} windows")


def _session(models: ModelPair, length: int) -> EvalSession:
    """A session with what cross-entropy uses of it; there is no tokenizer and no store."""
    absent: Any = None
    loaded = LoadedModel(
        model=models.ours,
        tokenizer=absent,
        held_out={},
        sequence_length=length,
        batch_size=eval_contenders.batch_size_of(models.ours),
        weights_id="random",
    )
    return EvalSession(loaded=loaded, store=absent, seed=0, advance=lambda n: None)


def _record_generation(
    recorder: Recorder, name: str, models: ModelPair, task: DecodingTask, n_rounds: int
) -> None:
    """Rates of generation; `steered` and `unsteered` share prompt passes as an evaluation does."""
    contenders = {
        "unsteered": lambda: eval_contenders.generate_unsteered(models.ours, task),
        "steered": lambda: eval_contenders.generate_steered(models.ours, task),
        "transformers with hooks": lambda: eval_contenders.generate_with_hooks(models.peer, task),
    }
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    for round_ in range(1 + n_rounds):
        for contender, generate in contenders.items():
            elapsed = timed(generate).seconds
            if round_:  # the first one warms up
                seconds[contender].append(elapsed)
    n_rows = len(task.prompts)
    n_tokens = n_rows * task.n_new_tokens
    note = f"{n_rows // ROWS_PER_PROMPT} prompts × {ROWS_PER_PROMPT} strengths"
    for contender, own in seconds.items():
        rate = n_tokens / median(own)
        recorder.number(f"{name}: generation, {contender}", rate, "tokens/s", note)
    ratios = [b / a - 1 for a, b in zip(seconds["unsteered"], seconds["steered"], strict=True)]
    recorder.goal(f"{name}: overhead of steering", median(ratios), "share", bar=STEERING_BAR)


def _record_activations(recorder: Recorder, name: str, models: ModelPair, work: Work) -> None:
    rng = np.random.default_rng(0)
    longest = min(36, work.model.max_sequence_length)
    rows = {
        str(i): rng.integers(1, work.model.vocab_size, n).tolist()
        for i, n in enumerate(rng.integers(longest // 3, longest, work.n_texts))
    }
    eval_contenders.read_heads(models.ours, rows)
    ours = timed(lambda: eval_contenders.read_heads(models.ours, rows))
    some = dict(list(rows.items())[: max(10, len(rows) // 20)])
    theirs = timed(lambda: eval_contenders.read_heads_with_hooks(models.peer, some))
    recorder.number(f"{name}: texts read", work.n_texts / ours.seconds, "texts/s", "all heads")
    rate = len(some) / theirs.seconds
    recorder.number(f"{name}: texts read by hooks on transformers", rate, "texts/s", "one by one")


def _record_probes(recorder: Recorder, work: Work) -> None:
    """The heads of one layer: probes, and the chance level of permuted labels."""
    heads = (work.model.n_heads, work.model.d_head)
    generator = torch.Generator().manual_seed(0)
    labels_R = torch.randint(0, 2, (work.n_probe_rows,), generator=generator)
    x_RNH = torch.randn(work.n_probe_rows, *heads, generator=generator)
    x_RNH += (labels_R[:, None, None] - 0.5) * 0.1
    x_RNH, labels_on_device_R = x_RNH.to(recorder.device), labels_R.to(recorder.device)
    n_train = 3 * work.n_probe_rows // 4
    train, test = x_RNH[:n_train], x_RNH[n_train:]
    logistic_probes.fit(train, labels_on_device_R[:n_train], L2)
    fit = timed(lambda: logistic_probes.fit(train, labels_on_device_R[:n_train], L2))
    n_layers = work.model.n_layers
    note = f"{n_layers} layers: {n_layers * fit.seconds:.1f} s"
    recorder.number("probes", heads[0] / fit.seconds, "heads/s", note)
    names = [str(i) for i in range(len(labels_R))]
    permuted = permutation_null.permuted_labels(labels_R.tolist(), names, work.n_permutations, 0)
    labels_BR = np.vstack([labels_R.numpy(), permuted])

    def null() -> np.ndarray:
        return permutation_null.null_accuracy(
            train, labels_BR[:, :n_train], test, labels_BR[:, n_train:], L2
        )

    seconds = timed(null).seconds
    note = f"{work.n_permutations} labellings; {n_layers} layers: {n_layers * seconds:.1f} s"
    recorder.number("permuted probes", heads[0] * work.n_permutations / seconds, "probes/s", note)
