"""steered generation at the protocol's shape against hooks on transformers' generate

Prompts of 20 to 60 tokens, 20 new tokens, strengths 0, 4, 8 and 12, OLMo's vocabulary. Both have
the same weights, read the same prompts in batches of the same size, sorted by length, and take
turns. The weights are random, so the nucleus is larger than a trained model's, and no row ends
early. `work` is what each multiplies: its ratio is what equal kernels would leave of greedy
decoding.

    python tests/benchmarks/bench_generation.py [--prompts 32] [--rounds 3] [--threads 1 2]
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

os.environ.update(HF_HUB_OFFLINE="1")

import eval_contenders
import torch
from eval_contenders import DecodingTask, ModelPair

from eval.model.generation import Sampling
from training.config import ModelConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCAB_SIZE = 50_304
STRENGTHS = (0.0, 4.0, 8.0, 12.0)
PROMPT_TOKENS = (20, 60)
N_NEW_TOKENS = 20
TOP_P = 0.9
AIM = 3.0


def _shape(d_model: int, n_layers: int) -> ModelConfig:
    return ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=d_model // 64,
        d_mlp=4 * d_model,
        vocab_size=VOCAB_SIZE,
        max_sequence_length=256,
    )


SHAPES = (_shape(256, 4), _shape(512, 4), _shape(512, 8))


class Cost(NamedTuple):
    """Seconds of one run: of all threads' work, and by the clock."""

    cpu: float
    wall: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--decodings", nargs="+", default=["greedy", "nucleus"])
    arguments = parser.parse_args()
    for config in SHAPES:
        models = eval_contenders.models(config, DEVICE)
        task = eval_contenders.decoding_at_strengths(
            config, arguments.prompts, PROMPT_TOKENS, N_NEW_TOKENS, STRENGTHS
        )
        print(
            f"{config.n_parameters:,} parameters, {config.n_layers} layers, {config.d_model} wide; "
            f"{arguments.prompts} prompts × {len(STRENGTHS)} strengths × {N_NEW_TOKENS} tokens\n"
            f"  {_describe_work(config, task)}"
        )
        for n_threads in arguments.threads:
            torch.set_num_threads(n_threads)
            for decoding in arguments.decodings:
                sampling = Sampling(N_NEW_TOKENS, decoding, TOP_P, VOCAB_SIZE - 1, VOCAB_SIZE - 1)
                _compare(models, task, sampling, n_rounds=arguments.rounds, n_threads=n_threads)


def _compare(
    models: ModelPair, task: DecodingTask, sampling: Sampling, *, n_rounds: int, n_threads: int
) -> None:
    def ours() -> list[list[int]]:
        return eval_contenders.generate_steered(models.ours, task, sampling)

    def peer() -> list[list[int]]:
        return eval_contenders.generate_with_hooks(models.peer, task, sampling)

    n_same = sum(a == b for a, b in zip(ours(), peer(), strict=True))  # warms both up
    costs: dict[str, list[Cost]] = {"ours": [], "hooks": []}
    for round_ in range(n_rounds):
        turns = [("ours", ours), ("hooks", peer)]
        for name, generate in turns if round_ % 2 else reversed(turns):
            costs[name].append(_cost(generate))
    n_tokens = len(task.prompts) * sampling.max_new_tokens
    our, hooks = (
        Cost(median(c.cpu for c in own), median(c.wall for c in own)) for own in costs.values()
    )
    same = f"; {n_same} of {len(task.prompts)} the same" if sampling.decoding == "greedy" else ""
    ratio = hooks.wall / our.wall if DEVICE == "cuda" else hooks.cpu / our.cpu
    print(
        f"  {sampling.decoding:<8} {n_threads} thread{'s' * (n_threads > 1):1}"
        f"  ours {n_tokens / our.wall:8,.0f} tokens/s ({our.cpu:.2f} s CPU, {our.wall:.2f} s wall)"
        f"  hooks {n_tokens / hooks.wall:8,.0f} ({hooks.cpu:.2f}, {hooks.wall:.2f})"
        f"  ratio {ratio:.2f} (wall {hooks.wall / our.wall:.2f}); aim at least {AIM:g}{same}"
    )


def _cost(run: Callable[[], object]) -> Cost:
    cpu = time.process_time()
    wall = eval_contenders.timed(run).seconds
    return Cost(time.process_time() - cpu, wall)


def _describe_work(config: ModelConfig, task: DecodingTask) -> str:
    """The products of ours and of a peer that reads every row's prompt, both without padding: 2
    FLOPs per weight and token; those within attention are left out.
    """
    output = config.vocab_size * config.d_model
    blocks = config.n_parameters - output
    n_new = len(task.prompts) * task.n_new_tokens
    n_read = sum(len(prompt) - 1 for prompt in task.prompts)
    n_read_once = sum(len(prompt) - 1 for prompt in set(map(tuple, task.prompts)))
    ours = 2 * (blocks * (n_read_once + n_new) + output * n_new)
    peer = 2 * (blocks * (n_read + n_new) + output * n_new)
    return f"work {ours / 1e9:.0f} and {peer / 1e9:.0f} GFLOP, ratio {peer / ours:.2f}"


if __name__ == "__main__":
    main()
