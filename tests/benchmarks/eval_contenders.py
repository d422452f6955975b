"""contenders of bench_eval.py and gpu_check.py: ours and transformers with hooks, on any device

Both have the same weights. Generation is greedy from prompts of one length without an early end,
so both return the same tokens, but for ties, and do the same work.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import OlmoConfig, OlmoForCausalLM

from eval.config import EvalComputeConfig, ProbingConfig
from eval.model import generation
from eval.model.batch_size import MOST_ROWS, BatchSize, decoding_bytes
from eval.model.generation import Sampling, Slots
from eval.model.subject.olmo_subject import OLMoSubject
from eval.probing import activations
from eval.steering import intervention
from eval.steering.intervention import Shift
from training.config import ModelConfig
from training.model.hf_export import hugging_face_config, to_hugging_face

T = TypeVar("T")
STRENGTH = 0.5
ROWS_PER_PROMPT = 4  # an evaluation continues a prompt at four strengths by default


class TimedResult(NamedTuple, Generic[T]):
    seconds: float
    result: T


def timed(run: Callable[[], T], clock: Callable[[], float] = time.perf_counter) -> TimedResult[T]:
    """What `run` returns, and its seconds until the device is done."""
    _synchronize()
    start = clock()
    result = run()
    _synchronize()
    return TimedResult(clock() - start, result)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class ModelPair(NamedTuple):
    """Our model and transformers', with the same weights."""

    ours: OLMoSubject
    peer: Any

    @property
    def device(self) -> torch.device:
        return self.ours.device


def models(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    initialise: bool = True,
) -> ModelPair:
    """Both models; initialise: draw our initial weights, which takes 15 s for the 1B, or else keep
    those that torch draws on the device.
    """
    with torch.device(device):
        ours = OLMoSubject(config).eval()
        options = OlmoConfig(**hugging_face_config(config, 0, "float32"))
        peer: Any = OlmoForCausalLM(options).eval()
    if initialise:
        ours.initialise(0)
    else:
        nn.init.normal_(ours.embedding.weight, std=0.02)
    ours.requires_grad_(False).to(dtype)
    convert(peer, dtype)
    peer.load_state_dict(to_hugging_face(ours.state_dict()), strict=False)
    peer.tie_weights()
    peer.generation_config.eos_token_id = None
    peer.generation_config.pad_token_id = 0
    return ModelPair(ours, peer)


def convert(peer: Any, dtype: torch.dtype) -> None:
    """Convert transformers' weights, but not the frequencies of its rotary positions, which
    `from_pretrained` would leave in fp32 as well.
    """
    rotary = peer.model.rotary_emb
    frequencies = {name: buffer.clone() for name, buffer in rotary.named_buffers(recurse=False)}
    peer.to(dtype)
    for name, exact in frequencies.items():
        setattr(rotary, name, exact)


class DecodingTask(NamedTuple):
    """What both generate: `n_new_tokens` after each prompt, each row steered by its strength times
    the shift.
    """

    prompts: list[list[int]]
    n_new_tokens: int
    shift_LD: Tensor
    strengths: list[float]


def decoding(config: ModelConfig, n_prompts: int, n_tokens: int, n_new_tokens: int) -> DecodingTask:
    """Random prompts of one length, ROWS_PER_PROMPT rows each, and a random shift of all heads."""
    strengths = (STRENGTH,) * ROWS_PER_PROMPT
    return decoding_at_strengths(config, n_prompts, (n_tokens, n_tokens), n_new_tokens, strengths)


def decoding_at_strengths(
    config: ModelConfig,
    n_prompts: int,
    n_tokens: tuple[int, int],
    n_new_tokens: int,
    strengths: Sequence[float],
) -> DecodingTask:
    """Random prompts of lengths spread over a range, the shortest first, each at every strength."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(*n_tokens, n_prompts).round().long().tolist()
    prompts = [
        torch.randint(1, config.vocab_size, (length,), generator=generator).tolist()
        for length in lengths
    ]
    generator = torch.Generator().manual_seed(1)
    shift_LD = torch.randn(config.n_layers, config.d_model, generator=generator)
    rows = [(prompt, strength) for prompt in prompts for strength in strengths]
    return DecodingTask(
        [prompt for prompt, _ in rows], n_new_tokens, shift_LD, [strength for _, strength in rows]
    )


def greedy(model: OLMoSubject, task: DecodingTask) -> Sampling:
    """Greedy sampling without an early end."""
    vocab_size = model.config.vocab_size
    return Sampling(task.n_new_tokens, "greedy", 1.0, vocab_size - 1, vocab_size - 1)


def generate_unsteered(model: OLMoSubject, task: DecodingTask) -> list[list[int]]:
    """Our tokens as `generate_steered` returns them, but with a shift that changes nothing."""
    no_shift = intervention.no_shift(model.shape)
    return generate_steered(model, task._replace(shift_LD=no_shift.values_LD))


def generate_steered(
    model: OLMoSubject, task: DecodingTask, sampling: Sampling | None = None
) -> list[list[int]]:
    """Our tokens, each row steered by its strength at the last position; greedy by default.

    As in an evaluation, rows of one prompt share the pass over all but its last token, and batches
    have the size that an evaluation has by default.
    """
    sampling = sampling or greedy(model, task)
    tokens: list[list[int]] = []

    def sample(n_rows: int) -> None:
        strength_B = torch.tensor(task.strengths)
        keys = range(len(task.prompts))
        with intervention.steered(model, Shift(task.shift_LD), strength_B, "last") as steering:
            tokens[:] = generation.sample(
                model, task.prompts, keys, sampling, steering, Slots(n_rows)
            )

    longest = max(map(len, task.prompts))
    batch_size_of(model).with_rows(
        len(task.prompts),
        sample,
        bytes_per_row=decoding_bytes(model.shape, longest, task.n_new_tokens, model.dtype),
    )
    return tokens


@torch.inference_mode()
def generate_with_hooks(
    peer: Any, task: DecodingTask, sampling: Sampling | None = None
) -> list[list[int]]:
    """Tokens of transformers' generate, steered by hooks, on the device of the model, in batches as
    large as ours; greedy by default.
    """
    weight = peer.lm_head.weight
    most = MOST_ROWS[weight.device.type]
    tokens: list[list[int]] = []
    for start in range(0, len(task.prompts), most):
        rows = slice(start, start + most)
        prompts_BT, padding_B = generation.left_padded(task.prompts[rows], 0)
        strength_B1 = torch.tensor(task.strengths[rows])[:, None]
        shift_LBD = (strength_B1 * task.shift_LD[:, None]).to(weight)
        is_token_BT = torch.arange(prompts_BT.shape[1]) >= padding_B[:, None]
        with _steered_by_hooks(peer, shift_LBD):
            out_BT = peer.generate(
                prompts_BT.to(weight.device),
                attention_mask=is_token_BT.long().to(weight.device),
                max_new_tokens=task.n_new_tokens,
                **_options_of_generate(sampling),
            )
        tokens.extend(out_BT[:, prompts_BT.shape[1] :].tolist())
    return tokens


def _options_of_generate(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None or sampling.decoding == "greedy":
        return {"do_sample": False}
    return {"do_sample": True, "top_p": sampling.top_p, "top_k": 0}


@contextmanager
def _steered_by_hooks(peer: Any, shift_LBD: Tensor) -> Iterator[None]:
    """Add each row's shift to the last position of every pass."""

    def add_shift(layer: int) -> Callable[..., tuple[Tensor]]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            x = inputs[0].clone()
            x[:, -1] += shift_LBD[layer]
            return (x,)

        return hook

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(add_shift(i))
        for i, layer in enumerate(peer.model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_heads(model: OLMoSubject, rows: Mapping[str, Sequence[int]]) -> activations.Activations:
    """The activations of every head at the last token of each row, by our code."""
    batch = batch_size_of(model)
    return activations.collect(model, rows, ProbingConfig(), batch=batch, advance=lambda n: None)


def batch_size_of(model: OLMoSubject) -> BatchSize:
    """The batch size of an evaluation by default."""
    weight = model.embedding.weight
    number_format = "bf16" if weight.dtype is torch.bfloat16 else "fp32"
    return BatchSize.on(weight.device, EvalComputeConfig().batch_size, number_format)


@torch.inference_mode()
def read_heads_with_hooks(peer: Any, rows: Mapping[str, Sequence[int]]) -> Tensor:
    """The same by hooks on transformers, one text at a time, as the public ITI code does: [L, R,
    D].
    """
    readings: list[Tensor] = []

    def read_last_token(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        readings.append(inputs[0][0, -1])

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(read_last_token)
        for layer in peer.model.layers
    ]
    for row in rows.values():
        peer(torch.tensor([list(row)], device=peer.lm_head.weight.device))
    for handle in handles:
        handle.remove()
    return torch.stack(readings).view(len(rows), len(peer.model.layers), -1).transpose(0, 1)
