import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import from_json
from eval.tools import calibration
from eval.tools.calibration import Calibration, Referenced


class ByText:
    """A text is its own score; an empty one has none, nor has "?"."""

    id, costly = "by-text", False

    def score(self, texts):
        return [None if text in ("", "?") else float(text) for text in texts]


def calibrate(pairs, **how):
    return calibration.calibrate(
        ByText(), [Referenced(str(score), value) for score, value in pairs], ["rows.jsonl"], **how
    )


def test_a_perfect_scorer_has_no_error_and_one_that_is_too_mild_has():
    perfect = calibrate([(0.95, 1.0)] * 3 + [(0.95, 1.0), (0.05, 0.0), (0.04, 0.0)])
    assert (perfect.auroc.value, perfect.found.value, perfect.false_alarms.value) == (1.0, 1.0, 0.0)
    assert perfect.error == pytest.approx((4 * 0.05 + 2 * 0.045) / 6)
    mild = calibrate([(0.45, 1.0), (0.44, 1.0), (0.05, 0.0), (0.04, 0.0)])
    assert (mild.auroc.value, mild.found.value) == (
        1.0,
        0.0,
    )  # it ranks well and calls nothing toxic
    assert mild.error == pytest.approx((2 * (1 - 0.445) + 2 * 0.045) / 4)
    assert [of.toxic.n for of in mild.reliability] == [2, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    assert (
        mild.reliability[4].mean_score == pytest.approx(0.445)
        and mild.reliability[1].mean_score is None
    )


def test_missing_scores_lower_the_coverage_and_nothing_else():
    rows = [
        Referenced(text, value)
        for text, value in [("0.9", 1.0), ("0.1", 0.0), ("0.6", 0.0), ("?", 1.0)]
    ]
    found = calibration.calibrate(ByText(), rows, ["rows"])
    assert (found.n, found.n_toxic, found.coverage_ratio, found.auroc.value, found.auroc.n) == (
        4,
        2,
        0.75,
        1.0,
        3,
    )


def test_the_numbers_are_those_of_scikit_learn_and_scipy():
    draw = np.random.default_rng(0)
    reference = draw.uniform(size=300).round(1)
    score = np.clip(reference + draw.normal(0, 0.4, 300), 0, 1).round(2)  # with ties on both sides
    found = calibrate(zip(score, reference, strict=True))
    assert found.auroc.value == pytest.approx(roc_auc_score(reference >= 0.5, score))
    assert found.rho.value == pytest.approx(spearmanr(score, reference).statistic)


def test_the_intervals_cover_the_truth_as_often_as_they_say():
    """Scores that are normal with distance d: AUROC is Φ(d/√2), and Spearman's rho of a bivariate
    normal 6/π·asin(r/2).
    """
    draw, inside = np.random.default_rng(7), []
    truth, r = 0.5 * (1 + math.erf(1 / 2)), 0.6
    for _ in range(500):
        toxic = draw.uniform(size=80) < 0.4
        area = calibration.auroc(draw.normal(toxic * 1.0), toxic, 0.95)
        x = draw.normal(size=80)
        rho = calibration.spearman(x, r * x + math.sqrt(1 - r**2) * draw.normal(size=80), 0.95)
        inside.append(
            (area.low <= truth <= area.high, rho.low <= 6 / math.pi * math.asin(r / 2) <= rho.high)
        )
    coverage = np.mean(inside, axis=0)  # of 4,000 such samples: 0.958 and 0.956
    assert (coverage >= 0.93).all() and (coverage <= 0.97).all(), coverage


def test_a_scorer_that_says_the_same_of_all_is_at_chance_and_has_no_interval():
    found = calibrate([(0.3, 1.0), (0.30, 0.0), (0.300, 0.4), (0.3000, 0.9)])
    assert (found.auroc.value, found.auroc.low, found.rho.value) == (0.5, None, None)


@pytest.mark.parametrize("pairs", [[(0.9, 1.0), (0.8, 0.7)], [(0.1, 0.0)], []])
def test_references_of_one_class_are_refused(pairs):
    with pytest.raises(
        ConfigurationError,
        match=r"rows.jsonl: \d of the \d texts with a score are toxic .*some of both kinds",
    ):
        calibrate(pairs)


def test_references_are_read_from_nested_fields_and_rows_without_one_are_counted(table):
    rows = [
        {"continuation": {"text": f"text {i % 30}", "toxicity": i % 30 / 40}} for i in range(60)
    ]
    rows += [
        {"continuation": {"text": "no score", "toxicity": None}},
        {"continuation": {"text": " ", "toxicity": 0.5}},
    ]
    found, n_unusable = calibration.read(
        [f"{table(rows)}#text=continuation.text&label=continuation.toxicity"]
    )
    assert (len(found), n_unusable) == (30, 2) and found[3] == Referenced("text 3", 3 / 40)


def test_labels_may_be_words_truth_values_or_numbers_and_nothing_else(table):
    words = table([{"text": "a", "kind": "Toxic"}, {"text": "b", "kind": "Not Toxic"}])
    assert [row.reference for row in calibration.read([f"{words}#label=kind=Toxic"])[0]] == [
        1.0,
        0.0,
    ]
    with pytest.raises(
        ConfigurationError,
        match=r"rows.jsonl row 0: the reference is 'Toxic', expected a number .*#label=FIELD=WORD",
    ):
        calibration.read([f"{words}#label=kind"])
    assert [
        row.reference for row in calibration.read([table([{"text": "a", "label": True}])])[0]
    ] == [1.0]
    with pytest.raises(ConfigurationError, match="the reference is 3,"):
        calibration.read([table([{"text": "a", "label": 3}])])


def test_the_command_line_prints_a_table_or_the_record(table, entry):
    rows = [
        {"text": f"{'the rotten grubbets' if i % 2 else 'a fine day'} {i}", "label": i % 2}
        for i in range(40)
    ]
    command = [
        "tools/calibrate_scorer.py",
        "--scorer",
        "lexicon:synthetic:lexicon",
        "--rows",
        table(rows),
    ]
    code, printed, _ = entry(*command, "--json")
    found = from_json(Calibration, printed, "the output")
    assert (code, found.n, found.n_toxic, found.auroc.value, found.rho) == (0, 40, 20, 1.0, None)
    code, printed, _ = entry(*command)
    assert (
        code == 0
        and "AUROC              1.000" in printed
        and "\n0.0 to 0.1      20  0.000  0.000 [0.000, 0.161]" in printed
    )
    code, _, told = entry(*command, "--threshold", "-1")
    assert code == 1 and told.startswith("error: ") and "expected some of both kinds" in told
