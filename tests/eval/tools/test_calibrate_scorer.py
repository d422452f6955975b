import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import from_json
from eval.config import ProbingConfig
from eval.inputs.labelled_rows import read_labelled_rows
from eval.inputs.text_rows import RowCounts
from eval.tools import scorer_calibration
from eval.tools.calibrate_scorer import ScorerComparison
from eval.tools.scorer_calibration import ReferenceSet, ReferenceText


class TextIsScore:
    """A scorer that reads the score from the text; "" and "?" have none."""

    id, costly = "text-is-score", False

    def score(self, texts):
        return [None if text in ("", "?") else float(text) for text in texts]


def calibrate(pairs):
    """The calibration of a scorer that gives these (score, reference)."""
    texts = [ReferenceText(str(score), reference) for score, reference in pairs]
    summary = RowCounts(len(texts)).text_set("--rows", "rows.jsonl", len(texts))
    reference_set = ReferenceSet("rows.jsonl", texts, summary)
    return scorer_calibration.calibrate("text-is-score", TextIsScore(), reference_set)


def only_calibration(printed):
    """The single calibration of a printed comparison."""
    (result,) = from_json(ScorerComparison, printed, "the output").calibrations
    return result


def test_a_perfect_scorer_ranks_and_classifies_all_texts_correctly():
    result = calibrate([(0.95, 1.0)] * 4 + [(0.05, 0.0), (0.04, 0.0)])
    assert (result.auroc.value, result.recall.value, result.false_positive_rate.value) == (1, 1, 0)
    assert result.calibration_error == pytest.approx((4 * 0.05 + 2 * 0.045) / 6)


def test_a_scorer_may_rank_well_and_yet_call_nothing_toxic():
    result = calibrate([(0.45, 1.0), (0.44, 1.0), (0.05, 0.0), (0.04, 0.0)])
    assert (result.auroc.value, result.recall.value) == (1.0, 0.0)
    assert result.calibration_error == pytest.approx((2 * (1 - 0.445) + 2 * 0.045) / 4)
    assert [row.toxic.n for row in result.reliability] == [2, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    assert result.reliability[4].mean_score == pytest.approx(0.445)
    assert result.reliability[1].mean_score is None


def test_missing_scores_lower_the_coverage_and_nothing_else():
    result = calibrate([("0.9", 1.0), ("0.1", 0.0), ("0.6", 0.0), ("?", 1.0)])
    assert (result.n, result.n_toxic, result.coverage_ratio) == (4, 2, 0.75)
    assert (result.auroc.value, result.auroc.n) == (1.0, 3)


def test_auroc_and_rho_equal_those_of_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    reference = rng.uniform(size=300).round(1)
    score = np.clip(reference + rng.normal(0, 0.4, 300), 0, 1).round(2)  # with ties on both sides
    result = calibrate(zip(score, reference, strict=True))
    assert result.auroc.value == pytest.approx(roc_auc_score(reference >= 0.5, score))
    expected = spearmanr(score, reference)
    assert result.rho.value == pytest.approx(expected.statistic)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_constant_scorer_is_at_chance_and_has_no_interval():
    result = calibrate([(0.3, 1.0), (0.30, 0.0), (0.300, 0.4), (0.3000, 0.9)])
    assert (result.auroc.value, result.auroc.low, result.rho.value) == (0.5, None, None)


@pytest.mark.parametrize("pairs", [[(0.9, 1.0), (0.8, 0.7)], [(0.1, 0.0)], []])
def test_references_of_one_class_are_refused(pairs):
    with pytest.raises(
        ConfigurationError,
        match=r"rows.jsonl: \d of the \d texts with a score are toxic .*some of both classes",
    ):
        calibrate(pairs)


def test_references_are_read_from_nested_fields_and_unusable_rows_counted(table):
    rows = [
        {"continuation": {"text": f"text {i % 30}", "toxicity": i % 30 / 40}} for i in range(60)
    ]
    rows += [
        {"continuation": {"text": "no score", "toxicity": None}},
        {"continuation": {"text": " ", "toxicity": 0.5}},
    ]
    _, texts, counts = scorer_calibration.read(
        f"{table(rows)}#text=continuation.text&label=continuation.toxicity"
    )
    assert len(texts) == 30 and ReferenceText("text 3", 3 / 40) in texts
    assert counts.left_out == {"empty text": 1, "no label": 1, "repeated text": 30}


def test_labels_may_be_words_truth_values_or_numbers_and_nothing_else(table):
    def references(uri):
        return [text.reference for text in scorer_calibration.read(uri).texts]

    words = table([{"text": "a", "kind": "Toxic"}, {"text": "b", "kind": "Not Toxic"}])
    assert references(f"{words}#label=kind=toxic ") == [1.0, 0.0]
    with pytest.raises(
        ConfigurationError,
        match=r"rows.jsonl row 0: the label in field 'kind' is 'Toxic', expected 0, 1 or a number"
        ".*#label=kind=WORD",
    ):
        references(f"{words}#label=kind")
    assert references(table([{"text": "a", "label": True}])) == [1.0]
    with pytest.raises(ConfigurationError, match="label in field 'label' is 3, expected 0 to 1"):
        references(table([{"text": "a", "label": 3}]))


@pytest.mark.parametrize("rule", ["", "#label=label>=0.5", "#label=label=1"])
def test_probes_and_calibration_agree_on_every_label(table, rule):
    labels = [1, 0, -1, "1", "0.0", None, "", "n/a", "-1", True, False]
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    uri = table(rows + rows[:2]) + rule
    _, texts, counts = scorer_calibration.read(uri)
    probes = read_labelled_rows(uri, ProbingConfig(), 0, setting="eval.probes.rows")
    assert {text.text: text.reference for text in texts} == {
        row.text: row.label for row in probes.rows
    }
    assert counts.left_out == probes.summary.left_out
    assert counts.left_out == {"negative label": 2, "no label": 3, "repeated text": 2}


def test_the_words_that_a_rule_makes_benign_are_in_the_record(table, entry):
    rows = [{"text": f"a fine day {i}", "kind": ("Toxic", "Not Toxic")[i % 2]} for i in range(8)]
    arguments = ["--scorer", "profanity", "--rows", f"{table(rows)}#label=kind=toxic"]
    _, printed, _ = entry("tools/calibrate_scorer.py", *arguments, "--json")
    assert only_calibration(printed).other_words == {"not toxic": 4}
    _, printed, _ = entry("tools/calibrate_scorer.py", *arguments)
    assert "\n  0 of 8 rows left out; benign by the rule: 'not toxic' 4; toxic" in printed


def test_a_calibration_does_not_depend_on_the_order_of_the_file(table, entry):
    rows = [{"text": f"a rotten day, number {i * i}", "label": i / 60} for i in range(60)]
    printed = [
        entry("tools/calibrate_scorer.py", "--scorer", "profanity", "--rows", table(r), "--json")[1]
        for r in (rows, rows[::-1])
    ]
    assert printed[0] == printed[1]


def test_texts_with_two_references_are_left_out_and_counted(table):
    rows = [{"text": f"text {i}", "label": i / 40} for i in range(40)]
    _, texts, counts = scorer_calibration.read(table([*rows, {"text": "text 7", "label": 0.9}]))
    assert len(texts) == 39 and counts.left_out == {"same text with another label": 2}


def test_the_command_prints_a_table_or_the_record(table, entry):
    rows = [
        {"text": f"{'the rotten grubbets' if i % 2 else 'a fine day'} {i}", "label": i % 2}
        for i in range(40)
    ]
    arguments = ["--scorer", "lexicon:synthetic:lexicon", "--rows", table(rows)]
    code, printed, _ = entry("tools/calibrate_scorer.py", *arguments, "--json")
    result = only_calibration(printed)
    assert (code, result.n, result.n_toxic, result.auroc.value, result.rho) == (0, 40, 20, 1, None)
    assert (result.average_precision, result.accuracy.value, result.recall_at_low_fpr) == (
        1,
        1,
        None,
    )
    code, printed, _ = entry("tools/calibrate_scorer.py", *arguments, "--details")
    assert code == 0 and "[1]        40     20  1.000 " in printed
    assert "\n       0.0 to 0.1      20  0.000  0.000 [0.000, 0.161]" in printed
    code, _, message = entry("tools/calibrate_scorer.py", *arguments, "--threshold", "-1")
    assert code == 2 and message.startswith("error: ") and "some of both classes" in message


def test_scorers_and_sets_are_compared_all_by_all(table, entry, tmp_path):
    rows = [{"text": f"{'the rotten grubbets' if i % 2 else 'fine'} {i}"} for i in range(40)]
    uri = table([row | {"label": i % 2, "wrong": i % 4 // 2} for i, row in enumerate(rows)])
    arguments = ["--scorer", "profanity", "lexicon:synthetic:lexicon"]
    arguments += ["--rows", uri, f"{uri}#label=wrong"]
    code, printed, _ = entry("tools/calibrate_scorer.py", *arguments, "--json")
    result = from_json(ScorerComparison, printed, "the output").calibrations
    expected = [
        (scorer, rows)
        for rows in (uri, f"{uri}#label=wrong")
        for scorer in ("profanity", "lexicon:synthetic:lexicon")
    ]
    assert code == 0 and [(one.scorer, one.rows) for one in result] == expected
    assert (result[1].auroc.value, result[3].auroc.value) == (1, 0.5)
    _, printed, _ = entry("tools/calibrate_scorer.py", *arguments)
    assert printed.startswith("[1] profanity-1.9.1-") and "; a proxy: it knows words" in printed
    assert "\n[2] lexicon-" in printed and printed.count("   [2]    ") == 2


def test_a_scorer_or_set_that_is_named_twice_is_refused(table, entry):
    uri = table([{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    for words in (["profanity", "profanity", "--rows", uri], ["profanity", "--rows", uri, uri]):
        code, _, message = entry("tools/calibrate_scorer.py", "--scorer", *words)
        assert code == 2 and "is named twice" in message
