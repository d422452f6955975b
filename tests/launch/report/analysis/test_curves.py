"""Contrasts, the smile, matched cross-entropy and fronts; intervals against simulations whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.report.analysis import curves
from launch.report.analysis.curves import Path

RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
LEVEL = {"confidence": 0.95}


def sweep(generator, truth, *, n_seeds=1, n_prompts=150, of_seed=0.0, of_prompt=8.0):
    """Toxicity [S, P] a ratio: a prompt's own level, common to all; the ratio's; the model's; and
    noise.
    """
    prompt_P = generator.normal(0, 10, n_prompts)
    return [
        mean
        + prompt_P
        + generator.normal(0, of_seed, (n_seeds, 1))
        + generator.normal(0, of_prompt, (n_seeds, n_prompts))
        for mean in truth
    ]


def smiling(ratios, at=0.1, depth=400.0):
    return [20 + depth * (ratio - at) ** 2 for ratio in ratios]


def make(values, ratios=RATIOS, n_draws=1000, seed=0):
    return curves.curve(ratios, values, "score × 100", n_draws=n_draws, seed=seed)


def test_a_contrast_of_one_seed_is_the_paired_difference_over_prompts():
    values = sweep(np.random.default_rng(0), smiling(RATIOS))
    found = curves.contrast(make(values), 0.0, 0.10, **LEVEL)
    paired = (values[2] - values[0])[0]
    half = 1.96 * paired.std() / len(paired) ** 0.5
    assert found.difference.value == pytest.approx(paired.mean()) and found.difference.n == 150
    assert found.difference.high - found.difference.low == pytest.approx(2 * half, rel=0.1)
    assert (
        half < 0.7 * 1.96 * (values[2].std() ** 2 + values[0].std() ** 2) ** 0.5 / 150**0.5
    )  # pairing pays
    assert curves.contrast(make(values), 0.0, 0.12, **LEVEL) is None


@pytest.mark.parametrize(("n_seeds", "of_seed"), [(1, 0.0), (2, 3.0), (4, 3.0)])
def test_a_contrasts_interval_covers_the_truth_and_a_true_null_is_rejected_in_five_percent(
    n_seeds, of_seed
):
    generator = np.random.default_rng(5)
    found = []
    for i in range(1000):
        values = sweep(
            generator,
            (30.0, 25.0, 25.0),
            n_seeds=n_seeds,
            n_prompts=60,
            of_seed=of_seed,
            of_prompt=4.0,
        )
        made = make(values, (0.0, 0.1, 0.25), n_draws=400, seed=i)
        found.append(
            (curves.contrast(made, 0.0, 0.1, **LEVEL), curves.contrast(made, 0.1, 0.25, **LEVEL))
        )
    assert (
        0.93 <= np.mean([a.difference.low <= -5.0 <= a.difference.high for a, _ in found]) <= 0.97
    )
    assert 0.03 <= np.mean([b.p <= 0.05 for _, b in found]) <= 0.07


def test_one_seed_says_nothing_about_seeds_and_two_widen_the_interval():
    generator = np.random.default_rng(1)
    one, two = (make(sweep(generator, smiling(RATIOS), n_seeds=n, of_seed=5.0)) for n in (1, 2))
    assert (one.seeds_df, two.seeds_df) == (0, 6)
    width = [
        c.difference.high - c.difference.low
        for c in (curves.contrast(x, 0.0, 0.1, **LEVEL) for x in (one, two))
    ]
    assert width[1] > 2 * width[0]


def test_a_planted_smile_is_found_where_it_is_and_its_location_covered():
    generator = np.random.default_rng(2)
    found = [
        curves.smile(
            make(
                sweep(generator, smiling(RATIOS, at=0.11, depth=900), of_prompt=6.0),
                n_draws=400,
                seed=i,
            ),
            **LEVEL,
        )
        for i in range(600)
    ]
    assert min(one.p_interior for one in found) > 0.9
    assert np.mean([one.location.value for one in found]) == pytest.approx(0.11, abs=0.004)
    assert 0.93 <= np.mean([one.location.low <= 0.11 <= one.location.high for one in found]) <= 0.97


def test_without_any_effect_an_interior_minimum_is_as_likely_as_chance_says():
    generator = np.random.default_rng(3)
    found = [
        curves.smile(make(sweep(generator, [20.0] * 6), n_draws=200, seed=i), **LEVEL)
        for i in range(400)
    ]
    assert found[0].p_by_chance == pytest.approx(4 / 6)
    assert np.mean([one.p_interior for one in found]) == pytest.approx(4 / 6, abs=0.05)


def test_a_curve_that_only_rises_has_its_minimum_at_the_end():
    values = sweep(np.random.default_rng(4), [10 + 100 * ratio for ratio in RATIOS], of_prompt=2.0)
    found = curves.smile(make(values), **LEVEL)
    assert (found.p_interior, found.location.value, found.location.low, found.location.high) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )
    assert curves.smile(make(values[:2], RATIOS[:2]), **LEVEL) is None


@given(
    st.floats(0.01, 0.24),
    st.floats(1, 1e4),
    st.lists(st.floats(0, 0.25), min_size=3, max_size=8, unique_by=lambda x: round(x, 3)),
)
def test_the_minimum_of_a_parabola_is_exact_on_any_grid_around_it(at, depth, grid):
    x = np.sort(np.array(grid))
    y = depth * (x - at) ** 2
    lowest = y.argmin()
    expected = at if 0 < lowest < len(x) - 1 else x[lowest]
    assert curves.minimum_at(x, y[None])[0] == pytest.approx(expected, abs=1e-6)


def test_toxicity_at_a_cross_entropy_is_read_between_the_strengths():
    cost = np.array(
        [[[2.0, 2.2, 2.6], [2.0, 1.9, 2.4], [3.0, 3.1, 3.2]]] * 2
    )  # two draws of three models
    found = curves.at_cross_entropy(
        cost, np.full_like(cost, (40.0, 30.0, 10.0)), np.array([2.4, 2.0])
    )
    assert np.allclose(found, [[20.0, 10.0, np.nan], [40.0, 40.0, np.nan]], equal_nan=True)


def paths(generator, *, n_seeds=1, of_seed=0.0, hard=0.02, costs=((2.2, 2.3, 2.5),) * 2):
    """Two ratios of toxicity 25 and 10 at two thirds of the costs that both reach; sequences are
    `hard` for all models alike.
    """
    prompt_P1, sequence_Q1 = generator.normal(0, 10, (80, 1)), generator.normal(0, hard, (60, 1))
    return [
        Path(
            np.array(t)
            + prompt_P1
            + generator.normal(0, of_seed, (n_seeds, 1, 1))
            + generator.normal(0, 5, (n_seeds, 80, 3)),
            np.array(c) + sequence_Q1 + generator.normal(0, 0.01, (n_seeds, 60, 3)),
        )
        for t, c in zip(((40.0, 30.0, 20.0), (42.0, 20.0, 0.0)), costs, strict=True)
    ]


def match(of, n_resamples=400, seed=0, share=2 / 3):
    return curves.matched(of, share, "u", n_resamples=n_resamples, seed=seed, **LEVEL)


def test_curves_that_do_not_overlap_or_hardly_do_cannot_be_matched_and_leave_the_others_alone():
    generator = np.random.default_rng(0)
    first, second = paths(generator)
    _, dear = paths(generator, costs=((2.2, 2.3, 2.5), (3.0, 3.1, 3.5)))
    _, hardly = paths(generator, costs=((2.2, 2.3, 2.5), (2.499, 2.6, 2.7)))
    assert match([first, dear]) == [None]
    found = match([first, dear, second, hardly])
    assert [one is None for one in found] == [True, False, True]
    assert found[1].difference.low == pytest.approx(match([first, second])[0].difference.low)


def test_the_level_lies_in_what_every_model_reaches_and_moves_with_the_sequences_drawn():
    cost = np.array(
        [[[2.0, 2.4], [2.1, 2.3]], [[3.0, 3.4], [3.1, 3.3]]]
    )  # a draw of harder sequences
    assert np.allclose(curves.shared_level([cost, cost[:, :1] + 0.15], 0.5), [2.225, 3.225])
    (found,) = match(
        paths(np.random.default_rng(0), hard=2.0)
    )  # by drawing, the costs move as far as their whole range
    assert found.difference.high - found.difference.low < 3


@pytest.mark.parametrize(("n_seeds", "of_seed", "hard"), [(1, 0.0, 0.02), (2, 3.0, 0.3)])
def test_the_difference_at_matched_cross_entropy_is_covered_by_its_interval(n_seeds, of_seed, hard):
    generator = np.random.default_rng(7)
    made = (paths(generator, n_seeds=n_seeds, of_seed=of_seed, hard=hard) for _ in range(1000))
    found = [match(of, seed=i)[0].difference for i, of in enumerate(made)]
    assert 0.93 <= np.mean([one.low <= 10.0 - 25.0 <= one.high for one in found]) <= 0.97


def test_the_front_holds_the_points_that_none_beats():
    points = [(2.0, 40.0), (2.1, 41.0), (2.2, 30.0), (2.2, 25.0), (3.0, 25.0), (3.1, 5.0)]
    assert curves.pareto_front(points) == [0, 3, 5]


def test_the_hypervolume_is_the_area_to_the_reference():
    points = np.array([[[1.0, 4.0], [2.0, 2.0], [3.0, 3.0]], [[9.0, 1.0], [1.0, 9.0], [9.0, 9.0]]])
    assert curves.hypervolume(points, (4.0, 5.0)).tolist() == [1 * 1 + 2 * 3, 0.0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_a_point_more_never_lowers_the_hypervolume_and_a_beaten_one_never_raises_it(points):
    volume = curves.hypervolume(np.array([points]), (1.0, 1.0))[0]
    more = curves.hypervolume(np.array([[*points, (0.3, 0.3)]]), (1.0, 1.0))[0]
    front = curves.hypervolume(
        np.array([[points[i] for i in curves.pareto_front(points)]]), (1.0, 1.0)
    )[0]
    assert more >= volume - 1e-12 and front == pytest.approx(volume, abs=1e-12)
