"""Other ways to train an OLMo of one shape, for bench_train.py: each builds what takes one
optimizer step.

Run as a program by a Python that has litgpt or OLMo-core, which pin other versions than ours, it
measures that one and prints a line of JSON; it imports nothing of this project.

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
LEARNING_RATE, CLIP = 1e-4, 1.0


@dataclass(frozen=True)
class Shape:
    """What all train: the model, and a step of `rows` sequences in passes of `micro`."""

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
class Measured:
    """seconds: median of a step; first: of building and the first step; gib: most memory on the
    GPU; micro: rows a pass.
    """

    seconds: float
    first: float
    gib: float
    micro: int


def measure(
    builds: dict[str, Callable[[Shape], Step]], shape: Shape
) -> Iterator[tuple[str, Measured | Exception]]:
    """Median seconds of a step on random tokens. On a CPU, which others may keep busy, all
    contenders take turns, step by step; a GPU is ours alone, and its memory holds one at a time.
    """
    if shape.device == "cpu":
        yield from _by_turns(builds, shape).items()
        return
    for name, build in builds.items():
        yield from _fitting(name, build, shape).items()


def _fitting(
    name: str, build: Callable[[Shape], Step], shape: Shape
) -> dict[str, Measured | Exception]:
    """One contender alone; where memory does not suffice, again with half the rows a pass."""
    found = _by_turns({name: build}, shape)
    if isinstance(found[name], torch.OutOfMemoryError) and shape.micro > 1:
        release()
        return _fitting(name, build, replace(shape, micro=shape.micro // 2))
    return found


def _by_turns(
    builds: dict[str, Callable[[Shape], Step]], shape: Shape
) -> dict[str, Measured | Exception]:
    draw = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(shape.vocab_size, (shape.rows, shape.length), generator=draw).to(
        shape.device
    )
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
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
            except Exception as error:  # one that fails is told, and the others still run
                failed[name] = error.with_traceback(None)
                continue
            took = clock(shape) - start
            first.setdefault(name, took)
            if turn >= shape.n_warm_up:
                seconds[name].append(took)
    gib = torch.cuda.max_memory_allocated() / 2**30 if shape.device == "cuda" else 0.0
    steps.clear()
    release()
    made = {
        name: Measured(median(seconds[name]), first[name], gib, shape.micro)
        for name in builds
        if name not in failed
    }
    return {name: made.get(name) or failed[name] for name in builds}


def clock(shape: Shape) -> float:
    """Seconds; on a CPU those it spent on us, for there others may work beside."""
    return time.perf_counter() if shape.device == "cuda" else time.process_time()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def plain(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Tensor], Tensor],
    shape: Shape,
    *,
    autocast: bool,
) -> Step:
    """torch's own step: fused AdamW, clipping, gradients added up over the passes."""
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
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
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
    return plain(model, hugging_face_loss, shape, autocast=True)


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
    return plain(model, hugging_face_loss, shape, autocast=False)


def litgpt(shape: Shape) -> Step:
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

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

    return plain(model, loss_of, shape, autocast=False)


def olmo_core(shape: Shape) -> Step:
    """Its parts nearest to OLMo: SwiGLU, rotary positions, a LayerNorm; its embedding and head are
    two matrices.
    """
    from olmo_core.nn.layer_norm import LayerNormType
    from olmo_core.nn.transformer import TransformerConfig

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

    return plain(model, loss_of, shape, autocast=True)


OUTSIDE = {"litgpt": litgpt, "olmo-core": olmo_core}


def main() -> None:
    name, shape = sys.argv[1], Shape(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    ((_, made),) = measure({name: OUTSIDE[name]}, shape)
    if isinstance(made, Exception):
        raise made
    print(json.dumps(asdict(made)))


if __name__ == "__main__":
    main()
