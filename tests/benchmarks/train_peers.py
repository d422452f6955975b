"""peer implementations of an OLMo's optimizer step, for bench_train.py

Each builds a function that takes one optimizer step of a model of the same shape. litgpt and
OLMo-core conflict with our pinned versions; this file imports nothing of this project, so that an
interpreter that has one of them can run it. It then measures that peer and prints a line of JSON:

    PYTHON tests/benchmarks/train_peers.py litgpt '{"d_model": 256, …}'
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Any]
LEARNING_RATE = 1e-4
GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class Shape:
    """The model that all contenders train, and a step of `rows` sequences, `micro` per pass."""

    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int
    vocab_size: int
    length: int
    rows: int
    micro: int
    bf16: bool
    compile: bool
    n_steps: int
    n_warm_up: int

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class StepCost:
    """What one contender's step takes."""

    seconds: float
    """Median of a step."""
    first_seconds: float
    """Building the model, and the first step."""
    gib: float
    """Peak memory on the GPU."""
    micro: int
    """Sequences per pass."""


def measure(
    builds: dict[str, Callable[[Shape], Step]], shape: Shape
) -> Iterator[tuple[str, StepCost | Exception]]:
    """Measure steps on random tokens.

    On a CPU, which may be shared, all contenders take turns, step by step. On a GPU they come one
    after the other, because its memory holds one at a time.
    """
    if shape.device == "cpu":
        yield from _measure_in_turns(builds, shape).items()
        return
    for name, build in builds.items():
        yield from _measure_alone(name, build, shape).items()


def _measure_alone(
    name: str, build: Callable[[Shape], Step], shape: Shape
) -> dict[str, StepCost | Exception]:
    """Measure one contender; if it runs out of memory, again with half the sequences per pass."""
    costs = _measure_in_turns({name: build}, shape)
    if isinstance(costs[name], torch.OutOfMemoryError) and shape.micro > 1:
        release()
        return _measure_alone(name, build, replace(shape, micro=shape.micro // 2))
    return costs


def _measure_in_turns(
    builds: dict[str, Callable[[Shape], Step]], shape: Shape
) -> dict[str, StepCost | Exception]:
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(shape.vocab_size, (shape.rows, shape.length), generator=generator)
    tokens_BT = tokens_BT.to(shape.device)
    steps: dict[str, Step] = {}
    first_seconds: dict[str, float] = {}
    failed: dict[str, Exception] = {}
    seconds: dict[str, list[float]] = {name: [] for name in builds}
    if shape.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for turn in range(shape.n_warm_up + shape.n_steps):
        for name in (name for name in builds if name not in failed):
            start = clock(shape)
            try:
                if turn == 0:
                    steps[name] = builds[name](shape)
                steps[name](tokens_BT)
                synchronize()
            except Exception as error:  # the other contenders continue
                failed[name] = error.with_traceback(None)
                continue
            elapsed = clock(shape) - start
            first_seconds.setdefault(name, elapsed)
            if turn >= shape.n_warm_up:
                seconds[name].append(elapsed)
    gib = torch.cuda.max_memory_allocated() / 2**30 if shape.device == "cuda" else 0.0
    steps.clear()
    release()
    costs: dict[str, StepCost | Exception] = dict(failed)
    for name in builds:
        if name not in failed:
            costs[name] = StepCost(median(seconds[name]), first_seconds[name], gib, shape.micro)
    return costs


def clock(shape: Shape) -> float:
    """Seconds; on a CPU, which may be shared, only those spent on this process."""
    return time.perf_counter() if shape.device == "cuda" else time.process_time()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def plain_pytorch(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Tensor], Tensor],
    shape: Shape,
    *,
    autocast: bool,
) -> Step:
    """A step of plain PyTorch: fused AdamW, clipping, gradients summed over the passes."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def step(tokens_BT: Tensor) -> None:
        for tokens in tokens_BT.split(shape.micro):
            with (
                torch.autocast(shape.device, torch.bfloat16)
                if autocast and shape.bf16
                else nullcontext()
            ):
                loss = loss_of(model, tokens)
            (loss * shape.micro / shape.rows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def hugging_face(shape: Shape) -> nn.Module:
    from transformers import OlmoConfig, OlmoForCausalLM

    config = OlmoConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        max_position_embeddings=shape.length,
        tie_word_embeddings=True,
        pad_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    with torch.device(shape.device):
        return OlmoForCausalLM(config)


def hugging_face_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, labels=tokens).loss


def hugging_face_ddp(shape: Shape) -> Step:
    model = nn.parallel.DistributedDataParallel(hugging_face(shape).to(shape.device))
    if shape.compile:
        model.compile()
    return plain_pytorch(model, hugging_face_loss, shape, autocast=True)


def hugging_face_fsdp2(shape: Shape) -> Step:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = hugging_face(shape).to(shape.device)
    dtype = torch.bfloat16 if shape.bf16 else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in model.model.layers:  # type: ignore[union-attr]
        if shape.compile:
            layer.compile()
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    return plain_pytorch(model, hugging_face_loss, shape, autocast=False)


def litgpt(shape: Shape) -> Step:
    from litgpt import GPT, Config  # pyright: ignore[reportMissingImports]
    from litgpt.utils import chunked_cross_entropy  # pyright: ignore[reportMissingImports]

    config = Config.from_name(
        "OLMo-1B-hf",
        n_embd=shape.d_model,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_query_groups=shape.n_heads,
        head_size=shape.d_model // shape.n_heads,
        intermediate_size=shape.d_mlp,
        padded_vocab_size=shape.vocab_size,
        block_size=shape.length,
    )
    model: Any = GPT(config).to(shape.device)
    model.lm_head.weight = model.transformer.wte.weight
    if shape.bf16:
        model = model.bfloat16()
    forward = torch.compile(model) if shape.compile else model

    def loss_of(_: nn.Module, tokens: Tensor) -> Tensor:
        return chunked_cross_entropy(forward(tokens[:, :-1]), tokens[:, 1:], chunk_size=0)

    return plain_pytorch(model, loss_of, shape, autocast=False)


def olmo_core(shape: Shape) -> Step:
    """OLMo-core with the parts nearest to OLMo; its embedding and head are two matrices."""
    from olmo_core.nn.layer_norm import LayerNormType  # pyright: ignore[reportMissingImports]
    from olmo_core.nn.transformer import TransformerConfig  # pyright: ignore[reportMissingImports]

    config: Any = TransformerConfig.llama_like(
        d_model=shape.d_model,
        vocab_size=shape.vocab_size,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        hidden_size_multiplier=1.5 * shape.d_mlp / (4 * shape.d_model),
        layer_norm_name=LayerNormType.default,
        rope_theta=10_000,
    )
    model: Any = config.build(init_device=shape.device)
    if shape.compile:
        model.apply_compile()

    def loss_of(_: nn.Module, tokens: Tensor) -> Tensor:
        labels = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=-100)
        return model(tokens, labels=labels).loss

    return plain_pytorch(model, loss_of, shape, autocast=True)


SEPARATE_PEERS = {"litgpt": litgpt, "olmo-core": olmo_core}
"""Peers that need an interpreter of their own."""


def main() -> None:
    name = sys.argv[1]
    shape = Shape(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    ((_, cost),) = measure({name: SEPARATE_PEERS[name]}, shape)
    if isinstance(cost, Exception):
        raise cost
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()
