"""The roofline: its table in the README, and its counts against independent ones."""

from pathlib import Path

import pytest

from training.config import SIZES, ModelConfig
from training.engine import roofline
from training.engine.devices import find_accelerator

README = Path(__file__).parents[3] / "training" / "README.md"
OLMO_1B = ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=roofline.VOCABULARY)
SETTING = (roofline.N_ROWS, roofline.LENGTH, roofline.N_PASSES)


def test_the_readme_has_the_table_that_is_computed():
    """But for the column of measurements, which are filled in by hand."""
    lines = README.read_text().splitlines()
    heading, _, *rows = roofline.table(OLMO_1B, *SETTING).splitlines()
    for row in (heading, *rows):
        computed = row.rpartition(" | ")[0]
        assert any(line.startswith(computed + " | ") for line in lines), computed


def test_its_flops_are_those_of_mfu_with_causal_attention():
    """MFU's convention counts full attention, and no recomputation in its backward pass."""
    n_tokens = roofline.N_ROWS * roofline.LENGTH
    counted = {part.name: part.flops for part in roofline.parts(OLMO_1B, *SETTING)}
    attention = counted.pop("attention")
    full_attention = 12 * OLMO_1B.n_layers * OLMO_1B.d_model * roofline.LENGTH * n_tokens
    convention = OLMO_1B.flops_per_token(roofline.LENGTH) * n_tokens
    assert sum(counted.values()) == convention - full_attention
    assert attention == pytest.approx(full_attention / 2 * 3.5 / 3)


def test_no_rate_exceeds_the_vendors():
    h200 = find_accelerator("NVIDIA H200")
    assert h200 and h200.peak_flops_per_second > roofline.MATMUL_FLOPS
    assert roofline.COPY_BYTES < 4.8e12
