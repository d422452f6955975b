"""Results of finished runs and comparisons of them, and runs of two ranks."""

import json
from pathlib import Path
from socket import socket
from typing import Any, NamedTuple

import multi_rank
import pytest
import rank_worker
import tolerances
import torch
from safetensors.torch import load_file
from tolerances import largest_relative_error

from training.config import RunConfig
from training.model.hf_export import to_hugging_face
from training.model.olmo import OLMo
from training.run_record import load_config

TIMED = (  # fields of metrics.jsonl that depend on the clock or on the process
    "tokens_per_second",
    "mfu_ratio",
    "matmul_ratio",
    "data_wait_seconds",
    "train_seconds",
    "memory_bytes",
)


class RunResult(NamedTuple):
    """The exported weights of a run and its lines of metrics.jsonl without the timed fields.

    updates: the weights minus the initial ones.
    """

    weights: dict[str, torch.Tensor]
    updates: dict[str, torch.Tensor]
    lines: list[dict[str, Any]]


def run_result(root: Path, run_id: str) -> RunResult:
    folder = root / "runs" / run_id
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    untimed = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
    weights = load_file(folder / "export" / "model.safetensors")
    return RunResult(weights, weight_updates(weights, load_config(str(root), run_id)), untimed)


def weight_updates(weights: dict[str, torch.Tensor], run: RunConfig) -> dict[str, torch.Tensor]:
    """What training has added to the initial weights of a run; under Hugging Face's names."""
    model = OLMo(run.train.model)
    model.initialise(run.seed)
    initial = to_hugging_face(model.state_dict())
    return {name: value - initial[name] for name, value in weights.items()}


def assert_same(a: RunResult, b: RunResult) -> None:
    """Bit for bit."""
    assert a.lines == b.lines
    assert {name: value.tolist() for name, value in a.weights.items()} == {
        name: value.tolist() for name, value in b.weights.items()
    }


def assert_close(a: RunResult, b: RunResult) -> None:
    """Up to the rounding of sums in another order, in fp32 with AdamW."""
    relative_tolerance = {
        "loss": tolerances.ADAMW_LOSS,
        "grad_norm": tolerances.ADAMW_GRADIENT,
        # of a few windows: continuous scores in the same order
        "auroc": 1e-6,
        "mean_auroc": 1e-6,
    }
    for field, rel in relative_tolerance.items():
        of_a, of_b = ([line[field] for line in r.lines if field in line] for r in (a, b))
        assert of_a == pytest.approx(of_b, rel=rel)
        assert of_a or field in ("auroc", "mean_auroc")  # only some runs are probed
    for a_line, b_line in zip(a.lines, b.lines, strict=True):
        for field, rel in (
            ("source_loss", tolerances.ADAMW_LOSS),
            ("block_grad_norm", tolerances.ADAMW_GRADIENT),
            ("attention_logit_max", tolerances.ADAMW_GRADIENT),
        ):
            assert a_line.get(field, {}) == pytest.approx(b_line.get(field, {}), rel=rel)
    error = largest_relative_error(a.updates, b.updates)
    assert error < tolerances.ADAMW_UPDATES


def run_two_ranks(root: Path, *attempts: str) -> list[list[str]]:
    """Train the attempts on two ranks (rank_worker.py); the lines that each rank printed."""
    port = free_port()
    ranks = multi_rank.run_ranks(
        rank_worker.main, *((str(root), str(rank), "2", port, *attempts) for rank in range(2))
    )
    assert [rank.status for rank in ranks] == [0, 0], "".join(rank.err[-3000:] for rank in ranks)
    return [rank.out.splitlines() for rank in ranks]


def free_port() -> str:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
