"""Tails of head accuracies, on simulated heads with a known truth."""

from pathlib import Path

import fake_sweep
import numpy as np
import pytest
from estimate_checks import covers, interval
from safetensors.numpy import save
from scipy.stats import ks_2samp

from eval.eval_report import eval_uri
from launch.report.analysis import head_tails
from launch.report.analysis.head_tails import HeadRows


def heads_with_tail(share: float, ids=range(400), seed=7) -> HeadRows:
    """A hundred heads of accuracy 0.6, of which a share has 0.8."""
    accuracy_H = np.where(np.arange(100) < 100 * share, 0.8, 0.6)
    correct_PH = np.random.default_rng(seed).random((len(ids), 100)) < accuracy_H
    return HeadRows([f"r{i}" for i in ids], correct_PH, accuracy_H)


def reports_at(*ratios):
    return [fake_sweep.run(ratio)[1] for ratio in ratios]


def test_a_fatter_right_tail_is_found():
    heads = [heads_with_tail(0.05), None, heads_with_tail(0.15)]
    tail = head_tails.compare(reports_at(0.0, 0.1, 0.25), heads)
    assert tail is not None
    assert (tail.first, tail.last, tail.difference.n) == (0.0, 0.25, 400)
    assert tail.difference.value == pytest.approx(0.18, abs=0.04)
    assert interval(tail.difference)[0] > 0.1
    assert 0.6 < tail.threshold < 0.85 and tail.above == pytest.approx((0.05, 0.15), abs=0.011)
    assert tail.p_above == tail.p_floor == 1e-4
    assert tail.by_model == pytest.approx([0.1], abs=0.02)
    assert tail.distance == pytest.approx(0.1, abs=0.03)


def test_equal_tails_do_not_differ():
    heads = [heads_with_tail(0.3), heads_with_tail(0.3)]
    tail = head_tails.compare(reports_at(0.0, 0.25), heads)
    assert tail is not None and tail.difference.value == 0.0 and covers(tail.difference, 0.0)
    assert (tail.p_above, tail.distance, tail.p_distance) == (1.0, 0.0, 1.0)


def test_heads_without_common_rows_are_not_compared():
    reports, heads = reports_at(0.0, 0.25), heads_with_tail(0.3)
    assert head_tails.compare(reports, [None, heads]) is None
    assert head_tails.compare(reports, [heads, heads_with_tail(0.3, range(1000, 1400))]) is None


@pytest.mark.slow
def test_equal_heads_with_correlated_errors_are_rejected_in_5_percent(monkeypatch):
    monkeypatch.setattr(head_tails, "N_PERMUTATIONS", 99)
    rng = np.random.default_rng(3)
    skill_H = np.sort(rng.normal(0.3, 0.2, 60))
    p_values = []
    for _ in range(400):
        row_P1 = rng.normal(0, 0.5, (150, 1))
        first_PH, last_PH = (
            row_P1 + rng.normal(0, 0.3, (150, 1)) + rng.normal(0, 0.8, (150, 60)) < skill_H
            for _ in range(2)
        )
        p_values.append(
            head_tails.permutation_p(first_PH.astype(float), last_PH.astype(float), seed=0)
        )
    rejected = np.mean(np.array(p_values) <= 0.05, axis=0)
    assert (rejected >= 0.01).all() and (rejected <= 0.07).all(), rejected


def test_the_place_of_heads_in_the_model_does_not_change_p():
    reports = reports_at(0.0, 0.25)
    first, last = heads_with_tail(0.1), heads_with_tail(0.2, seed=8)
    last = last._replace(validation_H=last.validation_H + np.arange(100) / 1e4)
    order = np.random.default_rng(0).permutation(100)
    elsewhere = HeadRows(last.ids, last.correct_PH[:, order], last.validation_H[order])
    tail = head_tails.compare(reports, [first, last])
    assert tail is not None and tail.p_above < 0.05
    assert head_tails.compare(reports, [first, elsewhere]) == tail


def test_the_distance_of_two_groups_of_heads_is_scipys():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 30, (4, 20)).astype(float)
    last = rng.integers(5, 40, (4, 20)).astype(float)
    expected = [ks_2samp(a, b).statistic for a, b in zip(first, last, strict=True)]  # pyright: ignore[reportAttributeAccessIssue]
    assert head_tails.tail_statistics(first, last).distance_B == pytest.approx(expected)


def test_head_rows_are_read_with_their_ids(tmp_path):
    _, report = fake_sweep.run(0.1)
    folder = Path(eval_uri(str(tmp_path), report.config))
    folder.mkdir()
    assert head_tails.read(str(tmp_path), report.config) is None
    correct_RLN = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) % 2
    accuracy_LN = np.array([[0.5, 0.6], [0.7, 0.8]], np.float32)
    content = save(
        {"test_correct_RLN": correct_RLN, "validation_accuracy_LN": accuracy_LN},
        {"test_ids": '["a", "b", "c"]'},
    )
    (folder / "heads.safetensors").write_bytes(content)
    rows = head_tails.read(str(tmp_path), report.config)
    assert rows is not None and rows.ids == ["a", "b", "c"]
    assert rows.correct_PH.tolist() == correct_RLN.reshape(3, 4).tolist()
    assert rows.validation_H.tolist() == accuracy_LN.ravel().tolist()
