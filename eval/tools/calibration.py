"""how good a toxicity scorer is: against scores or labels that others gave to the same texts

Ranking (AUROC, Spearman's rho) and calibration are apart: a scorer that ranks well may call nothing
toxic. Intervals are closed forms: DeLong et al. (1988) for AUROC, on the logit scale; Bonett and
Wright (2000) for rho; Wilson for the reliability table. The calibration error has none, for
resampling only raises it.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest, record
from data_prep.scorers.registry import Scorer
from data_prep.sources import corpus_reader
from eval.inputs import label_rules
from eval.inputs.prompts import text_id
from eval.stats import intervals
from eval.stats.estimate import Estimate, not_measured
from eval.steering import score_cache

N_BINS = 10


class Referenced(NamedTuple):
    """A text and what others say of it, from 0 to 1."""

    text: str
    reference: float


@record
class Bin:
    """Texts scored from `low` to below `high`: their mean score, and the share that is toxic by the
    reference.
    """

    low: float
    high: float
    mean_score: float | None
    toxic: Estimate


@record
class Calibration:
    """A scorer against references. A text is toxic where its reference is at least `threshold`.

    n_unusable: rows without a text or a reference. rho: rank correlation of scores and references,
    None where these are mere labels. error: mean |score − share toxic| over the bins, by texts.
    found, false_alarms: of the toxic and of the other texts, the share scored at least 0.5. Texts
    without a score are in none of these, and lower coverage_ratio.
    """

    scorer_id: str
    rows: tuple[str, ...]
    rows_digest: str
    threshold: float
    n: int
    n_toxic: int
    n_unusable: int
    coverage_ratio: float
    auroc: Estimate
    rho: Estimate | None
    error: float
    found: Estimate
    false_alarms: Estimate
    reliability: tuple[Bin, ...]


def read(uris: Sequence[str]) -> tuple[list[Referenced], int]:
    """The texts of `uris` (#text=FIELD&label=FIELD), each once, with their references, and how many
    rows could not be used.

    A reference is a number from 0 to 1, or true or false; a rule in the field's place
    (label_rules.py) makes it 0 or 1.
    """
    found: dict[str, Referenced] = {}
    n_unusable = 0
    for source in corpus_reader.expand(uris):
        label, bad = source.label_field or "label", corpus_reader.BadRows()
        rule = label_rules.parse(label, 0.5)
        is_score = rule.fields == (label,)
        for document in corpus_reader.read(
            source._replace(label_field=rule.fields[0]), bad, max_bad_rows_ratio=0.05
        ):
            where = f"{source.uri} row {document.row}"
            value = (
                _reference(document.fields[label], where)
                if is_score
                else float(rule.label(document.fields, where))
            )
            if document.text.strip():
                found.setdefault(text_id(document.text), Referenced(document.text, value))
            else:
                n_unusable += 1
        n_unusable += bad.count
    return list(found.values()), n_unusable


def calibrate(
    scorer: Scorer,
    rows: Sequence[Referenced],
    uris: Sequence[str],
    *,
    n_unusable: int = 0,
    threshold: float = 0.5,
    confidence: float = 0.95,
) -> Calibration:
    """Score the rows and compare. Raises ConfigurationError where all of those with a score are of
    one class.
    """
    texts = [row.text for row in rows]
    given = scorer.score(texts)
    pairs = [
        (score, row.reference) for score, row in zip(given, rows, strict=True) if score is not None
    ]
    score_N, reference_N = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    toxic_N = reference_N >= threshold
    if not 0 < toxic_N.sum() < len(toxic_N):
        raise ConfigurationError(
            f"{', '.join(uris)}: {int(toxic_N.sum())} of the {len(toxic_N)} texts with a score are toxic (reference ≥ "
            f"{threshold:g}); expected some of both kinds; name other rows, another rule behind #label=, or another threshold"
        )
    high_N = score_N >= 0.5
    bins = _reliability(score_N, toxic_N, confidence)
    return Calibration(
        scorer_id=scorer.id,
        rows=tuple(uris),
        rows_digest=digest(sorted(rows)),
        threshold=threshold,
        n=len(rows),
        n_toxic=sum(row.reference >= threshold for row in rows),
        n_unusable=n_unusable,
        coverage_ratio=score_cache.coverage(texts, given).ratio,
        auroc=auroc(score_N, toxic_N, confidence),
        rho=spearman(score_N, reference_N, confidence) if len(np.unique(reference_N)) > 2 else None,
        error=sum(abs((of.mean_score or 0.0) - (of.toxic.value or 0.0)) * of.toxic.n for of in bins)
        / len(score_N),
        found=_rate(high_N[toxic_N], confidence),
        false_alarms=_rate(high_N[~toxic_N], confidence),
        reliability=bins,
    )


def auroc(score_N: np.ndarray, toxic_N: np.ndarray, confidence: float) -> Estimate:
    """The chance that a toxic text scores above another, ties half, with DeLong's interval."""
    from scipy.stats import rankdata

    toxic, other = score_N[toxic_N], score_N[~toxic_N]
    rank = rankdata(score_N)
    above_toxic = (rank[toxic_N] - rankdata(toxic)) / len(
        other
    )  # of each toxic text: how many others it scores above
    above_other = 1 - (rank[~toxic_N] - rankdata(other)) / len(toxic)
    value, n = float(above_toxic.mean()), len(score_N)
    variances = [
        float(of.var(ddof=1)) / len(of) for of in (above_toxic, above_other) if len(of) > 1
    ]
    deviation = math.sqrt(sum(variances))
    if len(variances) < 2 or not deviation or not 0 < value < 1:
        return Estimate(value=value, low=None, high=None, n=n, unit="AUROC")
    half = _z(confidence) * deviation / (value * (1 - value))  # of the logit
    low, high = (
        1 / (1 + math.exp(-(math.log(value / (1 - value)) + sign * half))) for sign in (-1, 1)
    )
    return Estimate(value=value, low=low, high=high, n=n, unit="AUROC")


def spearman(a_N: np.ndarray, b_N: np.ndarray, confidence: float) -> Estimate:
    """Rank correlation, ties by their mean rank, with Bonett and Wright's interval."""
    from scipy.stats import rankdata

    n, ranks = len(a_N), np.stack([rankdata(a_N), rankdata(b_N)])
    if n < 4 or (ranks.std(axis=1) == 0).any():
        return not_measured("rho")
    rho = float(np.corrcoef(ranks)[0, 1])
    if abs(rho) >= 1 - 1e-12:
        return Estimate(value=rho, low=None, high=None, n=n, unit="rho")
    half = _z(confidence) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Estimate(
        value=rho,
        low=math.tanh(math.atanh(rho) - half),
        high=math.tanh(math.atanh(rho) + half),
        n=n,
        unit="rho",
    )


def _reliability(score_N: np.ndarray, toxic_N: np.ndarray, confidence: float) -> tuple[Bin, ...]:
    bin_N = np.minimum((score_N * N_BINS).astype(int), N_BINS - 1)
    return tuple(
        Bin(
            low=k / N_BINS,
            high=(k + 1) / N_BINS,
            mean_score=float(score_N[bin_N == k].mean()) if (bin_N == k).any() else None,
            toxic=_rate(toxic_N[bin_N == k], confidence),
        )
        for k in range(N_BINS)
    )


def _rate(true_N: np.ndarray, confidence: float) -> Estimate:
    return intervals.wilson(int(true_N.sum()), len(true_N), "ratio", confidence=confidence)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _reference(value: Any, where: str) -> float:
    try:
        number = float(label_rules.WORDS.get(str(value).lower(), value))
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigurationError(
            f"{where}: the reference is {value!r}, expected a number from 0 to 1, true or false; name its field with "
            "#label=FIELD, or where labels are words the toxic one with #label=FIELD=WORD"
        )
    return number
