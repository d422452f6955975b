"""Tails of head accuracies, on simulated heads with a known truth."""

from pathlib import Path

import fake_sweep
import numpy as np
import pytest
from estimate_checks import covers, interval
from safetensors.numpy import save
from scipy.stats import ks_2samp
from simulated_sweep import RATIOS, head_rows

from eval.eval_report import eval_uri
from launch.report.analysis import head_accuracy_tails, ratio_curves
from launch.report.analysis.head_accuracy_tails import HeadRows


def heads_with_tail(share: float, ids=range(400), seed=7) -> HeadRows:
    """A hundred heads of accuracy 0.6, of which a share has 0.8."""
    accuracy_H = np.where(np.arange(100) < 100 * share, 0.8, 0.6)
    correct_PH = np.random.default_rng(seed).random((len(ids), 100)) < accuracy_H
    return HeadRows([f"r{i}" for i in ids], correct_PH)


def reports_at(*ratios, seeds=(0,)):
    return [fake_sweep.run(ratio, seed)[1] for ratio in ratios for seed in seeds]


def test_a_fatter_right_tail_of_two_models_has_an_interval_and_no_p():
    heads = [heads_with_tail(0.05), None, heads_with_tail(0.15)]
    tail = head_accuracy_tails.compare(reports_at(0.0, 0.1, 0.25), heads)
    assert tail is not None
    assert (tail.first, tail.last, tail.difference.n) == (0.0, 0.25, 400)
    assert tail.difference.value == pytest.approx(0.18, abs=0.04)
    assert interval(tail.difference)[0] > 0.1 and interval(tail.above_difference)[0] > 0
    assert 0.6 < tail.threshold < 0.85 and tail.above == pytest.approx((0.05, 0.15), abs=0.011)
    assert tail.above_difference.value == pytest.approx(0.1, abs=0.02)
    assert tail.by_model == pytest.approx([0.1], abs=0.02)
    assert tail.distance == pytest.approx(0.1, abs=0.03)
    assert (tail.p_difference, tail.p_above, tail.p_floor) == (None, None, None)


def test_a_fatter_right_tail_of_three_seeds_has_a_p():
    heads = [heads_with_tail(share, seed=i) for i, share in enumerate((0.05,) * 3 + (0.15,) * 3)]
    tail = head_accuracy_tails.compare(reports_at(0.0, 0.25, seeds=(0, 1, 2)), heads)
    assert tail is not None and tail.p_above is not None and tail.p_difference is not None
    assert tail.p_floor <= tail.p_above < 0.01 and tail.p_difference < 0.01
    assert len(tail.by_model) == 3


def test_seeds_that_differ_as_much_as_the_ratios_take_the_p_away():
    shares = (0.05, 0.15, 0.25, 0.05, 0.15, 0.35)
    heads = [heads_with_tail(share, seed=i) for i, share in enumerate(shares)]
    tail = head_accuracy_tails.compare(reports_at(0.0, 0.25, seeds=(0, 1, 2)), heads)
    assert tail is not None and tail.p_above > 0.3 and tail.p_difference > 0.3


def test_equal_tails_do_not_differ():
    heads = [heads_with_tail(0.3), heads_with_tail(0.3)]
    tail = head_accuracy_tails.compare(reports_at(0.0, 0.25), heads)
    assert tail is not None and tail.difference.value == 0.0 and covers(tail.difference, 0.0)
    assert (tail.above_difference.value, tail.distance) == (0.0, 0.0)


def test_heads_without_common_rows_are_not_compared():
    reports, heads = reports_at(0.0, 0.25), heads_with_tail(0.3)
    assert head_accuracy_tails.compare(reports, [None, heads]) is None
    assert (
        head_accuracy_tails.compare(reports, [heads, heads_with_tail(0.3, range(1000, 1400))])
        is None
    )


def test_heads_of_seeds_that_differ_are_rejected_in_5_percent():
    """No ratio has an effect: of 300 sweeps 5 % ± 2.8 standard errors of 1.3 % are rejected."""
    generator = np.random.default_rng(3)
    ids = [f"r{i}" for i in range(120)]
    p_values = []
    for seed in range(300):
        correct = head_rows(generator, 16, 120, (0.3,) * 4, seed_deviation=0.1, n_seeds=2)
        models = [[HeadRows(ids, correct_PH) for correct_PH in pair] for pair in correct]
        curves = head_accuracy_tails.curves_of_heads(RATIOS[:4], models, ids, seed, n_draws=200)[:2]
        contrasts = [ratio_curves.contrast(curve, RATIOS[0], RATIOS[3]) for curve in curves]
        p_values.append([contrast.p for contrast in contrasts])
    rejected = np.mean(np.array(p_values) <= 0.05, axis=0)
    assert (rejected <= 0.085).all(), rejected


def test_the_place_of_heads_in_the_model_changes_nothing():
    reports = reports_at(0.0, 0.25)
    first, last = heads_with_tail(0.1), heads_with_tail(0.2, seed=8)
    order = np.random.default_rng(0).permutation(100)
    elsewhere = HeadRows(last.ids, last.correct_PH[:, order])
    tail = head_accuracy_tails.compare(reports, [first, last])
    assert tail is not None and head_accuracy_tails.compare(reports, [first, elsewhere]) == tail


def test_the_distance_of_two_groups_of_heads_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(4):
        first, last = rng.integers(0, 30, 20) / 40, rng.integers(5, 40, 25) / 40
        expected = ks_2samp(first, last).statistic  # pyright: ignore[reportAttributeAccessIssue]
        assert head_accuracy_tails.distance(first, last) == pytest.approx(expected)


def test_head_rows_are_read_with_their_ids(tmp_path):
    _, report = fake_sweep.run(0.1)
    folder = Path(eval_uri(str(tmp_path), report.config))
    folder.mkdir()
    assert head_accuracy_tails.read(str(tmp_path), report.config) is None
    correct_RLN = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) % 2
    content = save({"test_correct_RLN": correct_RLN}, {"test_ids": '["a", "b", "c"]'})
    (folder / "heads-held_out.safetensors").write_bytes(content)
    rows = head_accuracy_tails.read(str(tmp_path), report.config)
    assert rows is not None and rows.ids == ["a", "b", "c"]
    assert rows.correct_PH.tolist() == correct_RLN.reshape(3, 4).tolist()
