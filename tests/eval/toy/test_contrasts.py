"""The contrasts' intervals and tests: level and coverage by simulation."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from eval.toy import contrasts
from eval.toy.toy_result import QUANTITIES, ToyCell, ToyQuantity

N_SEEDS = 20
N_SIMULATIONS = 2000
RATIOS = (0.001, 1.0)


def simulated_quantity(generator: np.random.Generator, effect: float = 0.0) -> ToyQuantity:
    """Levels around 0.85 with a part per seed that both groups and all ratios share."""
    shared_S = generator.normal(0.85, 0.05, size=N_SEEDS)
    under_GS, control_GS = (
        shared_S + generator.normal(0, 0.03, size=(len(RATIOS), N_SEEDS)) for _ in range(2)
    )
    return contrasts.quantity(under_GS + effect, control_GS, shared_S, RATIOS, "|cos|")


def simulated_cell(generator: np.random.Generator, effect: float = 0.0) -> ToyCell:
    return ToyCell(
        learning_rate=1e-3,
        weight_decay=0.0,
        estimator="lda",
        layer=1,
        quantities={name: simulated_quantity(generator, effect) for name in QUANTITIES},
    )


def test_a_contrast_is_scipys_paired_test():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, N_SEEDS))
    found = contrasts.paired(first, second, "|cos|")
    expected = ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference.value == pytest.approx((first - second).mean())
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(interval))


def test_contrasts_reject_a_true_null_in_5_percent_and_cover_in_95():
    generator = np.random.default_rng(1)
    found = [simulated_quantity(generator) for _ in range(N_SIMULATIONS)]
    error = (0.05 * 0.95 / N_SIMULATIONS) ** 0.5
    for name in ("minus_control", "drop"):
        tests = [getattr(one, name) for one in found]
        rejected = np.mean([test.p <= 0.05 for test in tests])
        missed = np.mean([test.difference.low > 0 or test.difference.high < 0 for test in tests])
        assert abs(rejected - 0.05) < 4 * error
        assert rejected == missed


def test_holm_keeps_the_level_of_a_whole_table():
    generator = np.random.default_rng(2)
    n_tables, n_cells = 300, 8
    false_alarms = 0
    for _ in range(n_tables):
        cells, n_tests = contrasts.corrected(simulated_cell(generator) for _ in range(n_cells))
        assert n_tests == n_cells * len(QUANTITIES) * 2
        false_alarms += any(
            test.p_holm <= 0.05 for cell in cells for test in contrasts._tests(cell)
        )
    error = (0.05 * 0.95 / n_tables) ** 0.5
    assert false_alarms / n_tables < 0.05 + 4 * error
    assert false_alarms  # a test that never rejects has no level to keep


def test_a_planted_difference_survives_the_correction():
    generator = np.random.default_rng(3)
    nulls = [simulated_cell(generator), simulated_cell(generator)]
    *_, found = contrasts.corrected([*nulls, simulated_cell(generator, effect=0.1)])[0]
    for one in found.quantities.values():
        test = one.minus_control
        assert test.p is not None and test.p_holm is not None
        assert test.p < test.p_holm < 0.001
        assert one.drop.p_holm is not None and one.drop.p_holm > 0.05  # both ratios are raised


def test_equal_sides_and_missing_values_are_not_tested():
    values = np.full(N_SEEDS, 1.0)
    equal = contrasts.paired(values, values + 1e-12, "|cos|")
    assert (equal.difference.value, equal.difference.low, equal.p) == (0.0, 0.0, None)
    missing = contrasts.paired(np.append(values[1:], np.nan), values, "|cos|")
    assert (missing.difference.value, missing.p) == (None, None)
