"""score texts with a head trained on labelled rows, over the embeddings of an encoder

    trained:FOLDER#encoder=ENCODER_FOLDER

FOLDER is written by eval/tools/train_scorer.py: a logistic head, and a record of the rows, the
encoder and the AUROC on rows held out. The score is the head's probability of toxic, for as many
toxic texts as others. Without #encoder= the encoder is in FOLDER/encoder. It may be moved, and lie
elsewhere on every machine: it is known by the digest of its files, and another one is refused.
The scorer's id is the digest of the record, which has those of the head, the encoder and the rows.

Shapes: R texts, D width of the encoder.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
)
from data_prep.core.records import Sha256, digest, format_version, record
from data_prep.scorers.text_encoder import TextEncoder
from data_prep.sources.uri_options import split_options

FORMAT_VERSION = 1
RECORD_NAME = "record.json"
HEAD_NAME = "head.safetensors"
ENCODER_NAME = "encoder"
OPTIONS = {"encoder": "FOLDER"}
SCORE_DECIMALS = 6  # beyond them a score depends on which texts share its batch


@record
class HeldOutAuroc:
    """An AUROC on n rows that the head was not trained on, with its 95 % interval (DeLong), if it
    has one.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@record
class TrainingRows:
    """One labelled set of a trained head.

    name: its files and label rule, without the folder they lie in.
    rows_digest: of the texts and labels that were used. left_out: rows that were not, by reason.
    n_trained, n_held_out: rows, half of them toxic.
    held_out: AUROC on the held-out rows of this set.
    without_this_set: AUROC on its rows of a head that was trained on the other sets alone; None if
        there is no other set.
    """

    name: str
    rule: str
    rows_digest: str
    n_read: int
    left_out: dict[str, int]
    n_trained: int
    n_held_out: int
    held_out: HeldOutAuroc
    without_this_set: HeldOutAuroc | None


@record
class TrainedHead:
    """How a head was trained and how well it does; no path of the machine is in it.

    encoder_digest: of the encoder's files (text_encoder.FILE_PATTERNS). width: of its embeddings.
    l2: penalty, chosen by the log loss of validation rows among `l2_candidates`.
    held_out: AUROC on all held-out rows. calibration_error: |share toxic − mean score| of ten bins
        of them, averaged by rows.
    """

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
    encoder_digest: str
    encoder_type: str
    width: int
    max_length: int
    head_sha256: Sha256
    seed: int
    max_rows_per_class: int
    l2: float
    l2_candidates: tuple[float, ...]
    sets: tuple[TrainingRows, ...]
    held_out: HeldOutAuroc
    calibration_error: float


class LogisticHead(NamedTuple):
    """The log odds of toxic are weight_D · embedding + bias, in float64."""

    weight_D: np.ndarray
    bias: float

    def probabilities(self, embeddings_RD: np.ndarray) -> np.ndarray:
        """The probability of toxic of each text: [R]."""
        score_R = embeddings_RD.astype(np.float64) @ self.weight_D + self.bias
        return 0.5 * (1 + np.tanh(0.5 * score_R))  # the sigmoid, without overflow


class TrainedScorer:
    """A trained head and its encoder. The order of the texts never changes a score."""

    costly = True

    def __init__(self, name: str) -> None:
        base, options = split_options(name, OPTIONS)
        folder = base.removeprefix("trained:")
        trained, self._head = read(folder)
        encoder_folder = options.get("encoder") or storage.join(folder, ENCODER_NAME)
        if "encoder" not in options and not Path(encoder_folder).is_dir():
            raise ArtefactMissing(
                f"{name}: there is no encoder in {encoder_folder}; name its folder, "
                f"{base}#encoder=FOLDER, or copy it there"
            )
        self._encoder = TextEncoder(Path(encoder_folder), trained.max_length)
        if self._encoder.digest != trained.encoder_digest:
            raise ConfigurationError(
                f"{name}: the encoder in {encoder_folder} has the digest {self._encoder.digest}; "
                f"expected {trained.encoder_digest}, that of the {trained.encoder_type} which the "
                "head was trained on; name that encoder's folder with #encoder=FOLDER, or train "
                "a head on this one"
            )
        self.id = f"trained-{digest(trained)}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        distinct = sorted({text for text in texts if text.strip()})
        probability_R = self._head.probabilities(self._encoder.embed(distinct))
        scores = {
            text: round(p, SCORE_DECIMALS)
            for text, p in zip(distinct, probability_R.tolist(), strict=True)
            if math.isfinite(p)
        }
        return [scores.get(text) for text in texts]


def head_bytes(head: LogisticHead) -> bytes:
    """The head as a safetensors file."""
    from safetensors.numpy import save

    return save({"weight": head.weight_D, "bias": np.array([head.bias])})


def read(folder: str) -> tuple[TrainedHead, LogisticHead]:
    """The record and the head in a folder, which may be on an object store.

    Raises ArtefactMissing for another folder, ArtefactCorrupt for a head that is not the record's.
    """
    from safetensors.numpy import load

    place = storage.join(folder, RECORD_NAME)
    if not storage.exists(place):
        raise ArtefactMissing(
            f"{folder} has no {RECORD_NAME}; expected a folder that eval/tools/train_scorer.py "
            "wrote"
        )
    trained = storage.load(TrainedHead, place)
    uri = storage.join(folder, HEAD_NAME)
    content = storage.read(uri)
    actual = hashlib.sha256(content).hexdigest()
    if actual != trained.head_sha256:
        raise ArtefactCorrupt(
            f"{uri} has sha256 {actual[:16]}…; expected {trained.head_sha256[:16]}…, the head of "
            f"{RECORD_NAME}; copy both from one folder, or train the scorer again"
        )
    tensors = load(content)
    return trained, LogisticHead(tensors["weight"], float(tensors["bias"][0]))
