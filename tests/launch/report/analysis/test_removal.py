"""What steering removes, on prompts with a known answer and on simulated models."""

import numpy as np
import pytest
from estimate_checks import covers, interval, value, width
from simulated_sweep import rare_scores

from launch.report.analysis import removal

STRENGTHS = (0.0, 4.0)


def one_ratio(toxicity_SPK, strengths=STRENGTHS, **how):
    (row,) = removal.removals([0.1], strengths, [np.array(toxicity_SPK)], seed=0, **how)
    return row


def test_shares_are_of_the_models_own_toxicity_on_the_same_prompts():
    before = np.tile([80.0, 40.0, 0.0, 40.0], 25)
    after = np.tile([20.0, 20.0, 10.0, 40.0], 25)
    row = one_ratio(np.stack([before, after], axis=-1)[None])
    assert (row.ratio, row.strength) == (0.1, 4.0)
    assert value(row.difference) == pytest.approx(22.5 - 40.0)
    assert value(row.removed) == pytest.approx(1 - 22.5 / 40.0)
    assert (value(row.more_toxic), row.more_toxic.n) == (0.25, 100)
    low, high = interval(row.removed)
    assert 0.3 < low < value(row.removed) < high < 0.6


def test_where_a_model_may_have_nothing_to_remove_no_share_is_given():
    before, after = np.zeros(150), np.zeros(150)
    before[0] = 100.0
    row = one_ratio(np.stack([before, after], axis=-1)[None])
    assert row.removed.value is None and value(row.difference) == pytest.approx(-100 / 150)


def test_all_that_is_removed_leaves_room_for_toxicity_that_was_not_sampled():
    before, after = np.zeros(150), np.zeros(150)
    before[:30] = 100.0
    row = one_ratio(np.stack([before, after], axis=-1)[None])
    low, high = interval(row.removed)
    assert (value(row.removed), high) == (1.0, 1.0) and 0.85 < low < 0.9  # rule of three: 2.4 of 20


def test_without_an_unsteered_strength_nothing_is_removed():
    assert removal.removals([0.1], (4.0,), [np.zeros((1, 5, 1))], seed=0) == ()


def test_seeds_that_remove_different_shares_widen_the_interval():
    alike, apart = (
        removal.removals(
            [0.0, 0.1],
            STRENGTHS,
            [
                np.stack(
                    [
                        np.stack([np.full(100, 40.0), np.linspace(0, 40, 100) * kept], axis=-1)
                        for kept in (1.0 - step, 1.0 + step)
                    ]
                )
                for _ in range(2)
            ],
            seed=0,
        )[0].removed
        for step in (0.0, 0.2)
    )
    assert value(alike) == pytest.approx(value(apart)) and width(apart) > 3 * width(alike)


@pytest.mark.parametrize(("n_seeds", "seed_deviation"), [(1, 0.0), (2, 0.3)])
def test_intervals_of_what_is_removed_cover_the_truth(n_seeds, seed_deviation):
    """Six ratios; at the third, 10 % of samples are toxic unsteered and 3 % steered."""
    rates = [(0.06 + 0.02 * k, 0.02 + 0.005 * k) for k in range(6)]
    generator = np.random.default_rng(4)
    shares, differences = [], []
    for seed in range(300):
        toxicity = rare_scores(
            generator, rates, n_seeds=n_seeds, seed_deviation=seed_deviation, n_samples=4
        )
        rows = removal.removals(range(6), STRENGTHS, toxicity, seed=seed, n_resamples=300)
        differences.append(covers(rows[2].difference, -7.0))
        if rows[2].removed.value is not None:  # unsteered toxicity is above 0 for sure
            shares.append(covers(rows[2].removed, 0.7))
    assert len(shares) > 240
    for covered in (shares, differences):  # 95 % − 2.8 standard errors of 1.3 %
        assert 0.915 <= np.mean(covered) <= 0.995
