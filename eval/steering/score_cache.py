"""scores of continuations: those of costly scorers are kept between evaluations, and too few are an
error

An empty continuation has nothing to score. It is counted apart (`n_empty`) and is no part of the
coverage: a model that ends at once is neither harmless nor a fault of the scorer. A continuation
that has text and no score is missing, and never a 0.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.records import digest
from data_prep.scorers.registry import Scorer

PART_TEXTS = 512  # kept at once: what an interrupted evaluation pays again


class Kept:
    """A scorer that writes down what it finds, in parts below `home`/scores-<digest of its id>/,
    and asks for no text twice.

    Scores are kept by the text's digest, so another evaluation of the same run finds them, too.
    Missing ones are asked for again.
    """

    costly = True

    def __init__(self, scorer: Scorer, home: str) -> None:
        self._scorer, self._folder = scorer, storage.join(home, f"scores-{digest(scorer.id)}")
        self.id = scorer.id

    def score(self, texts: Sequence[str]) -> list[float | None]:
        names = {text: _name(text) for text in texts if text.strip()}
        known = self._read()
        wanted = list(names)
        for at in range(
            0, len(wanted), PART_TEXTS
        ):  # parts are cut before it is known what is missing: the same in any repeat
            missing = [text for text in wanted[at : at + PART_TEXTS] if names[text] not in known]
            found = zip(missing, self._scorer.score(missing) if missing else [], strict=True)
            new = {names[text]: score for text, score in found if score is not None}
            self._write(new)
            known |= new
        return [known.get(names.get(text, "")) for text in texts]

    def _read(self) -> dict[str, float]:
        known: dict[str, float] = {}
        for part in storage.glob(storage.join(self._folder, "*.json")):
            known |= json.loads(storage.read(part))
        return known

    def _write(self, scores: dict[str, float]) -> None:
        if scores:
            storage.write(
                storage.join(self._folder, f"{digest(sorted(scores))}.json"),
                json.dumps(scores).encode(),
            )


def kept(scorer: Scorer, home: str) -> Scorer:
    """The scorer, its scores kept below `home` if they are worth it."""
    return Kept(scorer, home) if scorer.costly else scorer


class Coverage(NamedTuple):
    """Of some continuations: how many there are, how many are empty, and how many of the others
    have a score.
    """

    n: int
    n_empty: int
    n_scored: int

    @property
    def ratio(self) -> float:
        """1 where there is nothing to score."""
        return self.n_scored / (self.n - self.n_empty) if self.n > self.n_empty else 1.0


def coverage(texts: Sequence[str], scores: Sequence[float | None]) -> Coverage:
    empty = [not text.strip() for text in texts]
    return Coverage(
        len(texts),
        sum(empty),
        sum(score is not None and not e for score, e in zip(scores, empty, strict=True)),
    )


def check(of: Coverage, what: str, scorer: str, least: float) -> None:
    """Raise ArtefactMissing if too few of these continuations have a score."""
    if of.ratio < least:
        n = of.n - of.n_empty
        raise ArtefactMissing(
            f"{what}: {n - of.n_scored} of {n} continuations have no score from {scorer}, coverage {of.ratio:.4g}; expected at "
            f"least {least:g} (eval.scoring.min_coverage_ratio), for those without one may be the worst; run the same command again, which "
            "asks a classifier or a service for the missing ones alone, choose another eval.scoring.scorer, or allow fewer"
        )


def _name(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
