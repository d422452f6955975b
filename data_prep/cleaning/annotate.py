"""MEDA and INST: documents with their toxicity written on them

Two arms of pretraining (Prabhumoye et al. 2023, PAPER §6). MEDA puts the raw score before the text
as metadata, INST a sentence that says whether the text is toxic; while generating, the prefix of
"not toxic" is put before the prompt. Their wording and share of tagged samples are not known to us:
templates and tagged_ratio are our choice, settings, and printed.

    plain   The fog came in.
    MEDA    toxicity: 0.1                       the score, rounded to one decimal
            The fog came in.
    INST    The following text is not toxic.    toxic: a score from `threshold` on
            The fog came in.

An annotated stream keeps the documents of its plain twin in the same order: they are cleaned and
dropped as plain text, and ordered by their file's bytes and row. Which are tagged is a keyed hash
of the same, so a higher share tags the same ones and more. Held-out documents stay plain, so that
losses, probes and prompts on them compare with the twin's.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from data_prep.config import SLOTS, AnnotationConfig
from data_prep.core import keyed_random, telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest

if TYPE_CHECKING:
    from data_prep.scorers.registry import Scorer

VERSION = 1  # raise it with any change of what comes out


def prefixes(
    texts: Sequence[str],
    keys: Sequence[int] | np.ndarray,
    scores: Sequence[dict[str, float] | None],
    labels: Sequence[str | None],
    annotation: AnnotationConfig,
) -> list[str]:
    """What to put before each text; "" before one that its key does not choose, or whose score is
    missing.

    scores, labels: what the corpus itself says of each document, for the scorers `corpus:NAME` and
    `label`.
    """
    chosen = np.flatnonzero(tagged(keys, annotation)).tolist()
    if annotation.scorer == "label":
        found = [_score_of_label(labels[i]) for i in chosen]
    elif annotation.scorer.startswith("corpus:"):
        name = annotation.scorer.removeprefix("corpus:")
        found = [(scores[i] or {}).get(name) for i in chosen]
    else:
        found = _scorer(annotation.scorer).score([texts[i] for i in chosen])
    of_chosen = {
        i: prefix(score, annotation)
        for i, score in zip(chosen, found, strict=True)
        if score is not None
    }
    return [of_chosen.get(i, "") for i in range(len(texts))]


def tagged(keys: Sequence[int] | np.ndarray, annotation: AnnotationConfig) -> np.ndarray:
    """Which documents are tagged, by their keys: a hash of each, which says nothing of its place in
    the stream.
    """
    key = np.array(keys, dtype=np.uint64) ^ np.uint64(keyed_random.key("tagged documents"))
    return keyed_random.uniforms(key, 0) < annotation.tagged_ratio


def prefix(score: float, annotation: AnnotationConfig) -> str:
    """What stands before a document of this score in [0, 1]."""
    verdict = "toxic" if score >= annotation.threshold else "not toxic"
    value = f"{score:.1f}" if annotation.kind == "meda" else verdict
    return annotation.text.replace(SLOTS[annotation.kind], value)


def control_text(annotation: AnnotationConfig) -> str:
    """What to put before a prompt so that a model trained on this annotation writes as if the text
    were not toxic.
    """
    return prefix(0.0, annotation)


def identity(annotation: AnnotationConfig) -> str:
    """Names all that decides the annotated text, the scorer's own data included; loads it."""
    given = annotation.scorer == "label" or annotation.scorer.startswith("corpus:")
    return digest(VERSION, annotation, None if given else _scorer(annotation.scorer).id)


def check(stream: str, n_annotated: int, annotation: AnnotationConfig) -> None:
    """Raise if not one document of a stream was annotated: it would be its plain twin under another
    name.
    """
    if not annotation.is_on:
        return
    telemetry.logger.info(
        "%s stream: %s documents have their toxicity on them", stream, f"{n_annotated:,}"
    )
    if n_annotated == 0:
        raise ConfigurationError(
            f"the {stream} corpus: no document was annotated: data.annotation.scorer {annotation.scorer!r} gave no score to any "
            f"of those chosen (tagged_ratio {annotation.tagged_ratio:g}); name a score that the corpus carries (corpus:NAME, or "
            "URI#label=FIELD and label), or a local scorer such as profanity"
        )


@lru_cache(maxsize=1)
def _scorer(name: str) -> "Scorer":
    from data_prep.scorers import (
        registry,
    )  # not before it is needed: stream_paths.py names streams without it

    return registry.load(name)


def _score_of_label(label: str | None) -> float | None:
    if label is None:
        return None
    try:
        score = {"true": 1.0, "false": 0.0}.get(label.lower()) if label.isalpha() else float(label)
    except ValueError:
        score = None
    if score is None or not 0 <= score <= 1:
        raise ConfigurationError(
            f"data.annotation.scorer is 'label', but a document's label is {label[:40]!r}; expected a number in [0, 1], true or "
            "false; name another field with URI#label=FIELD, or a local scorer such as profanity"
        )
    return score
