"""toxicity scores: cached between evaluations if the scorer is costly; coverage is checked

An empty continuation has nothing to score. It is counted apart (`n_empty`) and is not part of the
coverage: a model that ends at once is neither harmless nor a fault of the scorer. A continuation
with text and without a score is missing, and never a 0.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.core.records import digest
from data_prep.scorers.load_scorer import Scorer

PART_TEXTS = 512  # texts per stored part: at most so many are paid for again on interruption


class CachedScorer:
    """A scorer whose scores are stored below `home`/scores-<digest of its id>/, so that no text is
    scored twice.

    Scores are stored by the text's digest, so other evaluations of the same model use them as well.
    Texts without a score are tried again.
    """

    costly = True

    def __init__(self, scorer: Scorer, home: str) -> None:
        self.id = scorer.id
        self._scorer = scorer
        self._folder = storage.join(home, f"scores-{digest(scorer.id)}")

    def score(self, texts: Sequence[str]) -> list[float | None]:
        names = {text: _name(text) for text in texts if text.strip()}
        known = self._read()
        distinct = list(names)
        # parts are cut before it is known which scores are missing: they are the same in any repeat
        for start in range(0, len(distinct), PART_TEXTS):
            part = distinct[start : start + PART_TEXTS]
            missing = [text for text in part if names[text] not in known]
            scores = self._scorer.score(missing) if missing else []
            new = {
                names[text]: score
                for text, score in zip(missing, scores, strict=True)
                if score is not None
            }
            self._write(new)
            known |= new
        return [known.get(names.get(text, "")) for text in texts]

    def _read(self) -> dict[str, float]:
        known: dict[str, float] = {}
        for part in storage.list_files(self._folder, "*.json"):
            known |= _checked_part(part)
        return known

    def _write(self, scores: dict[str, float]) -> None:
        if scores:
            storage.write(
                storage.join(self._folder, f"{digest(sorted(scores))}.json"),
                json.dumps(scores).encode(),
            )


def cached_if_costly(scorer: Scorer, home: str) -> Scorer:
    """The scorer, with a cache below `home` if its scores are costly."""
    return CachedScorer(scorer, home) if scorer.costly else scorer


class ScoreCoverage(NamedTuple):
    """Counts of continuations: all, the empty ones, and those of the others that have a score."""

    n: int
    n_empty: int
    n_scored: int

    @property
    def ratio(self) -> float:
        """Share of the continuations with text that have a score; 1 if none has text."""
        return self.n_scored / (self.n - self.n_empty) if self.n > self.n_empty else 1.0


def coverage(texts: Sequence[str], scores: Sequence[float | None]) -> ScoreCoverage:
    """How many of the texts have a score."""
    is_empty = [not text.strip() for text in texts]
    n_scored = sum(
        score is not None and not empty for score, empty in zip(scores, is_empty, strict=True)
    )
    return ScoreCoverage(len(texts), sum(is_empty), n_scored)


def check_coverage(covered: ScoreCoverage, what: str, scorer_id: str, min_ratio: float) -> None:
    """Raise ArtefactMissing if too few of these continuations have a score."""
    if covered.ratio < min_ratio:
        n = covered.n - covered.n_empty
        raise ArtefactMissing(
            f"{what}: {n - covered.n_scored} of {n} continuations have no score from {scorer_id}, "
            f"coverage {covered.ratio:.4g}; expected at least {min_ratio:g} "
            "(eval.scoring.min_coverage_ratio), because those without a score may be the worst; "
            "run the same command again, which scores only the missing ones if the scorer is a "
            "classifier or a service, choose another eval.scoring.scorer, or allow a lower coverage"
        )


def check_range(scores: Sequence[float | None], scorer_id: str) -> None:
    """Raise ArtefactCorrupt if a scorer gave anything but a number from 0 to 1, or None."""
    for score in scores:
        if score is not None and not 0 <= score <= 1:  # false for NaN, too
            raise ArtefactCorrupt(
                f"{scorer_id} gave a text the score {score}; expected a number from 0 to 1, or "
                "none at all; choose another eval.scoring.scorer, or mend this one"
            )


def _checked_part(uri: str) -> dict[str, float]:
    try:
        scores = json.loads(storage.read(uri))
    except ValueError:  # JSON and UTF-8 alike
        scores = None
    if not isinstance(scores, dict) or not all(
        type(score) in (int, float) and 0 <= score <= 1 for score in scores.values()
    ):
        raise ArtefactCorrupt(
            f"{uri} is damaged; expected a JSON object of scores from 0 to 1; delete it, and its "
            "texts are scored again"
        )
    return scores


def _name(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
