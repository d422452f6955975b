"""A tiny model for the tests of reading, steering and sampling."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.config import ModelConfig
from training.model import OLMo


@pytest.fixture
def tiny() -> ModelConfig:
    return ModelConfig(d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=64, max_sequence_length=128)


@pytest.fixture
def model(tiny: ModelConfig) -> OLMo:
    """Random weights, larger than the usual ones, so that predictions are neither uniform nor the last token again."""
    model = OLMo(tiny).eval()
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


@pytest.fixture
def table(tmp_path: Path) -> Callable[[list[dict]], str]:
    """Writes rows as JSON lines and says where."""

    def write(rows: list[dict]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
