"""fixtures of the eval tests: a tiny model, a finished run, rows in a file, entry commands"""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_finished_run
import torch

from data_prep.core import telemetry
from eval.model.subject.olmo_subject import OLMoSubject
from training.config import ModelConfig


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices of a tiny model are too small for several threads: on a busy machine they wait
    for each other, and a test takes five times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny() -> ModelConfig:
    return ModelConfig(
        d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=64, max_sequence_length=128
    )


@pytest.fixture
def model(tiny: ModelConfig) -> OLMoSubject:
    """Random weights, larger than at initialization, so that the model neither predicts all tokens
    alike nor repeats the last one.
    """
    model = OLMoSubject(tiny).eval()
    model.initialise(0)
    with torch.no_grad():
        model.embedding.weight.mul_(2)
        for block in model.blocks:
            block.attention.out.weight.mul_(10)
            block.mlp.down.weight.mul_(20)
    return model.requires_grad_(False)


@pytest.fixture
def token_rows(tiny: ModelConfig) -> list[list[int]]:
    """Nine rows of four lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 7, 7, 5, 3, 12, 7, 5, 3)
    return [torch.randint(1, tiny.vocab_size, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> str:
    """An object root with a finished run. Tests add to it and do not change what it holds."""
    root = str(tmp_path_factory.mktemp("root"))
    tiny_finished_run.write_run(root, tiny_finished_run.MODEL)
    return root


@pytest.fixture
def entry(monkeypatch, capsys) -> Callable[..., tuple[object, str, str]]:
    """Run an entry command of eval/ in this process: (exit status, stdout, stderr)."""

    def run(name: str, *arguments: str) -> tuple[object, str, str]:
        (path,) = map(str, (Path(__file__).parents[2] / "eval").rglob(name))
        with monkeypatch.context() as patch:
            # the entry configures logging for its process; this undoes it afterwards
            patch.setattr(telemetry.logger, "propagate", True)
            patch.setattr(telemetry.logger, "handlers", [])
            patch.setattr(sys, "argv", [path, *arguments])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def table(tmp_path: Path) -> Callable[[list[dict]], str]:
    """Write rows as JSON lines; returns the path."""

    def write(rows: list[dict]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
