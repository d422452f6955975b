"""ENTRY: compare a toxicity scorer with texts of known scores or labels

    python eval/tools/calibrate_scorer.py --scorer profanity \\
        --rows 'rtp.jsonl.gz#text=continuation.text&label=continuation.toxicity'
    python eval/tools/calibrate_scorer.py --scorer classifier:FOLDER \\
        --rows 'comments.csv#label=is_toxic=Toxic'

Ranking (AUROC, Spearman's rho) and calibration are separate: a scorer that ranks well may call
nothing toxic. Intervals are closed forms: DeLong et al. (1988) for AUROC, on the logit scale;
Bonett and Wright (2000) for rho; Wilson for rates. The calibration error has none, because
resampling only raises it.

Shapes: R texts with a score.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core import telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest, record, to_json
from data_prep.scorers import load_scorer
from data_prep.scorers.load_scorer import Scorer
from data_prep.sources import corpus_reader
from eval.eval_report import TextSet
from eval.inputs import text_rows
from eval.inputs.labelled_rows import LabelReader
from eval.inputs.text_rows import OneOfEach, RowCounts, text_key
from eval.stats import intervals, roc
from eval.stats.estimate_with_interval import Estimate
from eval.steering import score_cache

TOXIC_SCORE = 0.5  # a scorer calls a text toxic from this score on


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
    recall: share of the toxic texts scored at least 0.5.
    false_positive_rate: share of the other texts scored at least 0.5.
    Texts without a score are in none of these; they lower coverage_ratio.
    """

    scorer_id: str
    rows: tuple[str, ...]
    rows_digest: str
    threshold: float
    n: int
    n_toxic: int
    n_read: int
    left_out: dict[str, int]
    other_words: dict[str, int]
    coverage_ratio: float
    auroc: Estimate
    rho: Estimate | None
    calibration_error: float
    recall: Estimate
    false_positive_rate: Estimate
    reliability: tuple[CalibrationBin, ...]


@entry_command
def main() -> int:
    arguments = _parse_arguments()
    telemetry.configure()
    texts, text_set = read(arguments.rows)
    result = calibrate(
        load_scorer.load(arguments.scorer),
        texts,
        arguments.rows,
        text_set=text_set,
        threshold=arguments.threshold,
    )
    print(to_json(result) if arguments.json else _table(result), end="")
    return 0


def read(uris: Sequence[str]) -> tuple[list[ReferenceText], TextSet]:
    """The texts of `uris` (#text=FIELD&label=FIELD), each once, and what was left out.

    A reference is a number from 0 to 1, or true or false; a rule in place of the field
    (label_rules.py) turns it into 0 or 1. Raises ConfigurationError for any other value.
    """
    corpus_reader.expand(uris)  # refuses a file that is named twice
    counts = RowCounts()
    other_words: Counter[str] = Counter()
    distinct: OneOfEach[ReferenceText] = OneOfEach()
    for uri in uris:
        labels = LabelReader(uri, TOXIC_SCORE)
        judge = labels.rule.score if labels.is_score else labels.rule.label
        for document, reference in labels.read(counts, judge):
            text = ReferenceText(document.text, float(reference))
            distinct.add(text_key(document.text), text.reference, text)
        other_words += labels.other_words
    where = ", ".join(uris)
    texts = distinct.items(counts, where)
    return texts, counts.text_set("--rows", where, len(texts), other_words)


def calibrate(
    scorer: Scorer,
    texts: Sequence[ReferenceText],
    uris: Sequence[str],
    *,
    text_set: TextSet | None = None,
    threshold: float = 0.5,
) -> ScorerCalibration:
    """Score the texts and compare with their references. Raises ConfigurationError if all texts
    with a score are of one class.
    """
    text_set = text_set or RowCounts(len(texts)).text_set("--rows", ", ".join(uris), len(texts))
    texts = sorted(texts)  # sums of scores, and so their last digits, have one order
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
            f"{', '.join(uris)}: {int(is_toxic_R.sum())} of the {len(is_toxic_R)} texts with a "
            f"score are toxic (reference ≥ {threshold:g}); expected some of both classes; "
            f"{text_rows.in_words(text_set.n_read, text_set.left_out)}; name other rows, another "
            "rule behind #label=, or another threshold"
        )
    is_called_toxic_R = score_R >= TOXIC_SCORE
    has_scores_as_reference = len(np.unique(reference_R)) > 2
    return ScorerCalibration(
        scorer_id=scorer.id,
        rows=tuple(uris),
        rows_digest=digest(sorted(texts)),
        threshold=threshold,
        n=len(texts),
        n_toxic=sum(text.reference >= threshold for text in texts),
        n_read=text_set.n_read,
        left_out=text_set.left_out,
        other_words=text_set.other_words,
        coverage_ratio=score_cache.coverage([text.text for text in texts], scores).ratio,
        auroc=roc.auroc_of_scores(score_R, is_toxic_R),
        rho=intervals.spearman(score_R, reference_R) if has_scores_as_reference else None,
        calibration_error=float(roc.calibration_error(score_R[:, None], is_toxic_R)[0]),
        recall=_rate(is_called_toxic_R[is_toxic_R]),
        false_positive_rate=_rate(is_called_toxic_R[~is_toxic_R]),
        reliability=_reliability(score_R, is_toxic_R),
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--scorer",
        required=True,
        metavar="NAME",
        help="as eval.scoring.scorer: profanity, lexicon:URI, classifier:NAME, …",
    )
    parser.add_argument(
        "--rows",
        required=True,
        nargs="+",
        metavar="URI",
        help="texts: URI#text=FIELD&label=FIELD, or a rule for the label: FIELD=WORD",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="a text is toxic from this reference on (default 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole record")
    return parser.parse_args()


def _table(result: ScorerCalibration) -> str:
    rho = _format(result.rho) if result.rho else "not measured, the references are labels"
    lines = [
        f"{result.scorer_id}: {result.n} texts, {result.n_toxic} of them toxic (reference ≥ "
        f"{result.threshold:g}), coverage {result.coverage_ratio:.4f}",
        text_rows.in_words(result.n_read, result.left_out, result.other_words),
        f"AUROC               {_format(result.auroc)}",
        f"Spearman's rho      {rho}",
        f"recall              {_format(result.recall)}",
        f"false positive rate {_format(result.false_positive_rate)}",
        f"calibration error   {result.calibration_error:.3f}",
        "score        texts   mean  toxic",
    ]
    for row in result.reliability:
        mean = "     –" if row.mean_score is None else f"{row.mean_score:6.3f}"
        share = _format(row.toxic)
        lines.append(f"{row.low:.1f} to {row.high:.1f} {row.toxic.n:7} {mean}  {share}")
    return "\n".join(lines) + "\n"


def _format(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


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


if __name__ == "__main__":
    sys.exit(main())
