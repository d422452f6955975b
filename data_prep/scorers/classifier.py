"""score texts with a sequence classifier from the Hugging Face hub or a local folder

    classifier:ibm-granite/granite-guardian-hap-38m@COMMIT
    classifier:/models/my-classifier#label=abusive&max_length=256&activation=sigmoid

COMMIT pins a revision of the hub: 40 hex digits, because a branch or a tag can move. An unpinned
name is allowed, with a warning that names the commit it stands for now. The id holds the commit
and a digest of every file that influences a score, so two models never share an id.

The score is the probability of one label of the classification head. Which label means toxic is
listed in KNOWN_HEADS for a few classifiers, or evident from its name (`toxic`, `hate`, …). Any
other head is refused until the setting names the label, because the score of a wrong label looks
like any other number. Two labels exclude each other (softmax); several labels are independent
(sigmoid) where the model's configuration says so. Texts are truncated to max_length tokens.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core import telemetry
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.scorers import transformer_folder
from data_prep.sources.uri_options import split_options

TOXIC_LABELS = {"toxic", "toxicity", "hate", "hateful"}
# The files a classifier consists of; other suffixes are never opened.
FILE_PATTERNS: tuple[str, ...] = ("*.json", "*.txt", "*.model", "*.safetensors")
COMMIT = re.compile("[0-9a-f]{40}")
SHOWN_DIGITS = 12  # of a commit in an id
SCORE_DECIMALS = 6  # beyond them a score depends on which texts share its batch
OPTIONS = {
    "label": "NAME",
    "max_length": "TOKENS",
    "activation": ("softmax", "sigmoid"),
}


class Head(NamedTuple):
    """The label that means toxic, and the activation that turns logits into probabilities.

    activation: "" leaves it to the model's configuration.
    """

    label: str
    activation: str = ""


# By the last part of the name, from their model cards; a head with a telling label needs no entry.
KNOWN_HEADS = {
    "granite-guardian-hap-125m": Head("LABEL_1", "softmax"),
    "granite-guardian-hap-38m": Head("LABEL_1", "softmax"),
    "toxigen_roberta": Head("LABEL_1", "softmax"),
    "unbiased-toxic-roberta": Head("toxicity", "sigmoid"),
    "toxic-bert": Head("toxic", "sigmoid"),
}


class Classifier:
    """A sequence classifier of transformers, on the GPU if there is one.

    The order of the texts never changes a score. Shape suffixes: B texts of a batch, C labels.
    """

    costly = True

    def __init__(self, name: str) -> None:
        base, options = split_options(name, OPTIONS)
        place = _split_revision(base.removeprefix("classifier:"))
        requested_length = _requested_length(name, options)
        transformers = transformer_folder.import_transformers("classifier")
        import torch

        location = place.name
        folder, revision = _local_folder(place)
        self._torch = torch
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._model: Any = _load_model(transformers, folder)
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        config = self._model.config
        head = _choose_head(location, options, config)
        self._column = _labels(config).index(head.label)
        self._activation = head.activation
        self._max_length = transformer_folder.max_length(
            f"classifier:{location}", requested_length, self._tokenizer, config
        )
        pin = f"@{revision[:SHOWN_DIGITS]}" if revision else ""
        files_digest = transformer_folder.content_digest(folder, FILE_PATTERNS)
        self.id = (
            f"classifier-{Path(location).name}{pin}-{files_digest}"
            f"#label={head.label}&{head.activation}&max_length={self._max_length}"
        )

    def score(self, texts: Sequence[str]) -> list[float | None]:
        distinct = sorted({text for text in texts if text.strip()})
        if not distinct:
            return [None] * len(texts)
        encodable = [text.encode("utf-8", "replace").decode() for text in distinct]
        rows = self._tokenizer(
            encodable, truncation=True, max_length=self._max_length, return_attention_mask=False
        )["input_ids"]
        scores: dict[str, float | None] = {}
        for batch in transformer_folder.batches(rows):
            probabilities = self._score([rows[i] for i in batch])
            for i, p in zip(batch, probabilities, strict=True):
                scores[distinct[i]] = round(p, SCORE_DECIMALS) if math.isfinite(p) else None
        return [scores.get(text) for text in texts]

    def _score(self, rows: list[list[int]]) -> list[float]:
        padded = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(
            self._model.device
        )
        with self._torch.inference_mode():
            logits_BC = self._model(**padded).logits.double()
        p_BC = logits_BC.sigmoid() if self._activation == "sigmoid" else logits_BC.softmax(-1)
        return p_BC[:, self._column].tolist()


def _requested_length(name: str, options: dict[str, str]) -> int | None:
    text = options.get("max_length")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(
            f"{name}: max_length is {text!r}; expected a number of tokens, e.g. max_length=256"
        )
    return int(text)


class _Place(NamedTuple):
    """A folder, or a name on the hub with the commit that pins it; "" where none does."""

    name: str
    revision: str


def _split_revision(location: str) -> _Place:
    """Raises ConfigurationError for a revision that is no commit, and for one of a local folder."""
    name, at, revision = location.rpartition("@")
    if not at or Path(location).is_dir():
        return _Place(location, "")
    if not COMMIT.fullmatch(revision):
        raise ConfigurationError(
            f"classifier:{location}: the revision behind @ is {revision!r}; expected a commit of "
            "the hub, 40 hex digits, which the model's page lists under 'Files and versions': a "
            "branch or a tag can move"
        )
    if Path(name).is_dir():
        raise ConfigurationError(
            f"classifier:{location}: {name} is a local folder, which has no revision; leave out "
            f"@{revision[:SHOWN_DIGITS]}…: the digest of its files is in the scorer's id"
        )
    return _Place(name, revision)


def _local_folder(place: _Place) -> tuple[Path, str]:
    """A local folder with the classifier, and its commit: the folder named (no commit), or a
    cached download from the hub.
    """
    folder, revision = Path(place.name), ""
    if not folder.is_dir():
        folder = _download(place)
        # the cache of the hub names a snapshot's folder by its commit
        revision = place.revision or (folder.name if COMMIT.fullmatch(folder.name) else "")
        if not place.revision:
            pinned = f"classifier:{place.name}@{revision or 'COMMIT'}"
            telemetry.logger.warning(
                "classifier:%s names no commit, so another download may be another model; "
                "pin it: %s",
                place.name,
                pinned,
            )
    transformer_folder.check_safetensors(
        folder,
        f"classifier:{place.name}",
        "name a commit that has them (the hub's converter offers one as a pull request), or save "
        "the model again with save_pretrained",
    )
    return folder, revision


def _download(place: _Place) -> Path:
    from huggingface_hub import snapshot_download

    patterns = list(FILE_PATTERNS)
    try:
        return Path(
            snapshot_download(
                place.name,
                revision=place.revision or None,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
            )
        )
    except (OSError, ValueError) as error:
        raise ArtefactMissing(
            f"classifier:{place.name} is no local folder, and the hub did not provide it: "
            f"{str(error).splitlines()[0]}; check the name and the commit, or download it where "
            "there is a network and name the folder"
        ) from error


def _load_model(transformers: Any, folder: Path) -> Any:
    model, missing = transformer_folder.load_model(
        transformers.AutoModelForSequenceClassification, folder, "a sequence classifier"
    )
    if missing:
        raise ArtefactCorrupt(
            f"{folder}: its weights lack {', '.join(missing[:5])}, which would be initialized at "
            "random; name a model that was trained to classify"
        )
    return model


def _labels(config: Any) -> list[str]:
    return [config.id2label[i] for i in range(config.num_labels)]


def _choose_head(location: str, options: dict[str, str], config: Any) -> Head:
    """The head from the options, else from KNOWN_HEADS, else from the model's configuration."""
    labels = _labels(config)
    known = KNOWN_HEADS.get(Path(location).name, Head(""))
    telling = [label for label in labels if label.casefold() in TOXIC_LABELS]
    label = options.get("label") or known.label or (telling[0] if len(telling) == 1 else "")
    if label not in labels:
        problem = (
            f"the label {label!r} is not among them"
            if label
            else "it is not known which one means toxic"
        )
        raise ConfigurationError(
            f"classifier:{location}: its labels are {', '.join(labels)}; {problem}; "
            "name it with #label=NAME"
        )
    by_config = {
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }.get(config.problem_type or "")
    by_size = {1: "sigmoid", 2: "softmax"}.get(len(labels))
    activation = options.get("activation") or known.activation or by_config or by_size
    if not activation:
        raise ConfigurationError(
            f"classifier:{location}: it is not known whether its {len(labels)} labels exclude "
            "each other; add &activation=softmax if they do, &activation=sigmoid if they do not"
        )
    return Head(label, activation)
