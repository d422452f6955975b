"""compare a scorer with texts of known scores or labels: ranking, decisions, calibration

Ranking (AUROC, average precision, Spearman's rho) and calibration are separate: a scorer that ranks
well may call nothing toxic. Intervals are closed forms: DeLong et al. (1988) for AUROC, on the
logit scale; Bonett and Wright (2000) for rho; Wilson for rates. The calibration error has none,
because resampling only raises it.

Shapes: R texts with a score.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest, record
from data_prep.scorers.load_scorer import Scorer
from eval.eval_report import TOXIC_SCORE, TextSet
from eval.inputs import text_rows
from eval.inputs.labelled_rows import LabelReader
from eval.inputs.text_rows import OneOfEach, RowCounts, text_key
from eval.stats import intervals, roc
from eval.stats.estimate_with_interval import Estimate
from eval.steering.measures import score_cache

LOW_FALSE_POSITIVE_RATE = 0.01


class ReferenceText(NamedTuple):
    """A text and its reference score, from 0 to 1."""

    text: str
    reference: float


@record
class CalibrationBin:
    """Texts scored from `low` to below `high`: their mean score, and the share that is toxic by the
    reference.
    """

    low: float
    high: float
    mean_score: float | None
    toxic: Estimate


@record
class ScorerCalibration:
    """A scorer compared with references. A text is toxic if its reference is at least `threshold`.

    left_out: rows of the n_read that are not among the n texts, by reason.
    other_words: rows by word, of the words that a rule with a word makes benign.
    rho: rank correlation of scores and references; None if the references are labels.
    calibration_error: |mean score − share toxic| of the bins, averaged by texts.
    accuracy: share of the texts on the right side of 0.5.
    recall: share of the toxic texts scored at least 0.5.
    false_positive_rate: share of the other texts scored at least 0.5.
    recall_at_low_fpr: share of the toxic texts above the threshold that 1 % of the others exceed;
    None with fewer than 100 others.
    Texts without a score are in none of these; they lower coverage_ratio.
    """

    scorer: str
    scorer_id: str
    rows: str
    rows_digest: str
    threshold: float
    n: int
    n_toxic: int
    n_read: int
    left_out: dict[str, int]
    other_words: dict[str, int]
    coverage_ratio: float
    auroc: Estimate
    average_precision: float
    rho: Estimate | None
    calibration_error: float
    accuracy: Estimate
    recall: Estimate
    false_positive_rate: Estimate
    recall_at_low_fpr: float | None
    reliability: tuple[CalibrationBin, ...]


class ReferenceSet(NamedTuple):
    """The texts of one labelled set, each once, and what was left out."""

    uri: str
    texts: list[ReferenceText]
    summary: TextSet


def read(uri: str) -> ReferenceSet:
    """The texts of a labelled set, URI#text=FIELD&label=FIELD.

    A reference is a number from 0 to 1, or true or false; a rule in place of the field
    (label_rules.py) turns it into 0 or 1. Raises ConfigurationError for any other value.
    """
    counts = RowCounts()
    distinct: OneOfEach[ReferenceText] = OneOfEach()
    labels = LabelReader(uri, TOXIC_SCORE)
    judge = labels.rule.score if labels.is_score else labels.rule.label
    for document, reference in labels.read(counts, judge):
        text = ReferenceText(document.text, float(reference))
        distinct.add(text_key(document.text), text.reference, text)
    # sums of scores, and so their last digits, have one order
    texts = sorted(distinct.items(counts, uri))
    return ReferenceSet(
        uri, texts, counts.text_set("--rows", uri, len(texts), Counter(labels.other_words))
    )


def calibrate(
    name: str, scorer: Scorer, reference_set: ReferenceSet, *, threshold: float = 0.5
) -> ScorerCalibration:
    """Score the texts and compare with their references. `name`: the setting of the scorer.

    Raises ConfigurationError if all texts with a score are of one class.
    """
    uri, texts, summary = reference_set
    scores = scorer.score([text.text for text in texts])
    score_cache.check_range(scores, scorer.id)
    pairs = [
        (score, text.reference)
        for score, text in zip(scores, texts, strict=True)
        if score is not None
    ]
    score_R, reference_R = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    is_toxic_R = reference_R >= threshold
    if not 0 < is_toxic_R.sum() < len(is_toxic_R):
        raise ConfigurationError(
            f"{uri}: {int(is_toxic_R.sum())} of the {len(is_toxic_R)} texts with a score are toxic "
            f"(reference ≥ {threshold:g}); expected some of both classes; "
            f"{text_rows.in_words(summary.n_read, summary.left_out)}; name other rows, another "
            "rule behind #label=, or another threshold"
        )
    is_called_toxic_R = score_R >= TOXIC_SCORE
    has_scores_as_reference = len(np.unique(reference_R)) > 2
    return ScorerCalibration(
        scorer=name,
        scorer_id=scorer.id,
        rows=uri,
        rows_digest=digest(sorted(texts)),
        threshold=threshold,
        n=len(texts),
        n_toxic=sum(text.reference >= threshold for text in texts),
        n_read=summary.n_read,
        left_out=summary.left_out,
        other_words=summary.other_words,
        coverage_ratio=score_cache.coverage([text.text for text in texts], scores).ratio,
        auroc=roc.auroc_of_scores(score_R, is_toxic_R),
        average_precision=roc.average_precision(score_R, is_toxic_R),
        rho=intervals.spearman(score_R, reference_R) if has_scores_as_reference else None,
        calibration_error=float(roc.calibration_error(score_R[:, None], is_toxic_R)[0]),
        accuracy=_rate(is_called_toxic_R == is_toxic_R),
        recall=_rate(is_called_toxic_R[is_toxic_R]),
        false_positive_rate=_rate(is_called_toxic_R[~is_toxic_R]),
        recall_at_low_fpr=roc.recall_at_false_positive_rate(
            score_R, is_toxic_R, LOW_FALSE_POSITIVE_RATE
        ),
        reliability=_reliability(score_R, is_toxic_R),
    )


def _reliability(score_R: np.ndarray, is_toxic_R: np.ndarray) -> tuple[CalibrationBin, ...]:
    bin_R = roc.probability_bin(score_R)
    n_bins = roc.N_CALIBRATION_BINS
    return tuple(
        CalibrationBin(
            low=k / n_bins,
            high=(k + 1) / n_bins,
            mean_score=float(score_R[bin_R == k].mean()) if (bin_R == k).any() else None,
            toxic=_rate(is_toxic_R[bin_R == k]),
        )
        for k in range(n_bins)
    )


def _rate(is_true_R: np.ndarray) -> Estimate:
    return intervals.wilson(int(is_true_R.sum()), len(is_true_R), "ratio")
