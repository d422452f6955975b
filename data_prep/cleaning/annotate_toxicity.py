"""MEDA and INST: prefix documents with their toxicity

Two arms of pretraining (Prabhumoye et al. 2023, PAPER §6). MEDA puts the raw score before the text
as metadata; INST puts a sentence that says whether the text is toxic. The paper generates with the
prefix of "not toxic" before the prompt. Its wording and its share of annotated samples are not
published: templates and tagged_ratio are our choice, and settings.

    plain   The fog came in.
    MEDA    toxicity: 0.1                       the score, rounded to one decimal
            The fog came in.
    INST    The following text is not toxic.    toxic: a score of at least `threshold`
            The fog came in.

An annotated stream has the same documents in the same order as its plain twin, because they are
cleaned and dropped as plain text, and ordered by the bytes and row of their file. Which documents
are annotated is decided by a keyed hash of the same, so a higher share annotates the same ones and
more. Held-out documents stay plain, so that losses, probes and prompts on them are comparable with
the twin's.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from data_prep.config import SLOTS, AnnotationConfig
from data_prep.core import keyed_random, telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.sources import label_values

if TYPE_CHECKING:
    from data_prep.scorers.load_scorer import Scorer

VERSION = 1  # raise it with any change of the output
MAX_ALIKE = 0.95  # share of annotated toxic documents that may be annotated as not toxic
SIGMAS = 5  # by which the number of documents chosen may differ from the one expected


def prefixes(
    texts: Sequence[str],
    keys: Sequence[int] | np.ndarray,
    scores: Sequence[dict[str, float] | None],
    labels: Sequence[str | None],
    annotation: AnnotationConfig,
) -> list[str]:
    """The prefix of each text; "" if its key does not choose it or its score is missing.

    keys: the shuffle keys. scores, labels: those that the corpus itself carries, for the scorers
    `corpus:NAME` and `label`.
    """
    chosen = np.flatnonzero(is_tagged(keys, annotation)).tolist()
    if annotation.scorer == "label":
        scores_of_chosen = [_score_of_label(labels[i]) for i in chosen]
    elif annotation.scorer.startswith("corpus:"):
        name = annotation.scorer.removeprefix("corpus:")
        scores_of_chosen = [(scores[i] or {}).get(name) for i in chosen]
    else:
        scores_of_chosen = _load_scorer(annotation.scorer).score([texts[i] for i in chosen])
    prefix_of = {
        i: prefix(score, annotation)
        for i, score in zip(chosen, scores_of_chosen, strict=True)
        if score is not None
    }
    return [prefix_of.get(i, "") for i in range(len(texts))]


def is_tagged(keys: Sequence[int] | np.ndarray, annotation: AnnotationConfig) -> np.ndarray:
    """[documents] bool: which are annotated, by a hash of their keys that is independent of their
    place in the stream.
    """
    key = np.array(keys, dtype=np.uint64) ^ np.uint64(keyed_random.key("tagged documents"))
    return keyed_random.uniforms(key, 0) < annotation.tagged_ratio


def prefix(score: float, annotation: AnnotationConfig) -> str:
    """The text before a document of this score in [0, 1]."""
    verdict = "toxic" if score >= annotation.threshold else "not toxic"
    value = f"{score:.1f}" if annotation.kind == "meda" else verdict
    return annotation.text.replace(SLOTS[annotation.kind], value)


def control_text(annotation: AnnotationConfig) -> str:
    """The text to put before a prompt, so that a model trained on this annotation continues as if
    the text were not toxic; empty without an annotation.
    """
    return prefix(0.0, annotation) if annotation.is_on else ""


def identity(annotation: AnnotationConfig) -> str:
    """Identifies everything that decides the annotated text, including the data of the scorer,
    which is loaded.
    """
    from_corpus = annotation.scorer == "label" or annotation.scorer.startswith("corpus:")
    scorer_id = None if from_corpus else _load_scorer(annotation.scorer).id
    return digest(VERSION, annotation.in_use, scorer_id)


def check(
    stream: str,
    n_annotated: int,
    n_documents: int,
    held_out_ratio: float,
    annotation: AnnotationConfig,
) -> None:
    """Raise if no document of a stream was annotated: it would be its plain twin under another
    name. Warn if clearly fewer were than chosen: the others have no score, and stay plain.
    """
    if not annotation.is_on:
        return
    telemetry.logger.info("%s stream: %s documents are annotated", stream, f"{n_annotated:,}")
    chosen_ratio = annotation.tagged_ratio * (1 - held_out_ratio)  # each document by a random key
    n_chosen = n_documents * chosen_ratio
    chance = SIGMAS * math.sqrt(n_chosen * (1 - chosen_ratio))
    if 0 < n_annotated < n_chosen - chance:
        telemetry.logger.warning(
            "%s stream: about %s of the %s documents chosen for annotation have no score from %s, "
            "and stay plain",
            stream,
            f"{n_chosen - n_annotated:,.0f}",
            f"{n_chosen:,.0f}",
            annotation.scorer,
        )
    if n_annotated == 0:
        raise ConfigurationError(
            f"the {stream} corpus: no document was annotated: data.annotation.scorer "
            f"{annotation.scorer!r} gave no score to any of those chosen (tagged_ratio "
            f"{annotation.tagged_ratio:g}); name a score that the corpus carries (corpus:NAME, or "
            "URI#label=FIELD and label), or a local scorer such as profanity"
        )


def check_contrast(texts: Sequence[str], annotation: AnnotationConfig) -> None:
    """Warn if nearly all of these training documents of the toxic stream are annotated like a
    harmless one: then the control text says nothing.
    """
    n_expected = annotation.tagged_ratio * len(texts)
    n_alike = sum(text.startswith(control_text(annotation)) for text in texts)
    if n_alike > MAX_ALIKE * n_expected:
        telemetry.logger.warning(
            "toxic stream: %s of its first %s documents begin with %r, as harmless ones do, so the "
            "%s arm can hardly learn the difference; name another data.annotation.scorer than %s, "
            "or for inst lower data.annotation.threshold",
            f"{n_alike:,}",
            f"{len(texts):,}",
            control_text(annotation),
            annotation.kind,
            annotation.scorer,
        )


@lru_cache(maxsize=1)
def _load_scorer(name: str) -> "Scorer":
    # Imported only when needed, because stream_paths.py computes paths without a scorer.
    from data_prep.scorers import load_scorer

    return load_scorer.load(name)


def _score_of_label(label: str | None) -> float | None:
    if label is None:
        return None
    score = label_values.as_number(label)
    if score is None or not 0 <= score <= 1:
        raise ConfigurationError(
            f"data.annotation.scorer is 'label', but a document's label is {label[:40]!r}; "
            "expected a number in [0, 1], true or false, or null to leave the document plain; name "
            "another field with URI#label=FIELD, or a local scorer such as profanity"
        )
    return score
