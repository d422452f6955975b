"""score texts with a sequence classifier from the Hugging Face hub or a local folder

    classifier:ibm-granite/granite-guardian-hap-125m#revision=COMMIT
    classifier:/models/my-classifier#label=abusive&max_length=256&activation=sigmoid

The score is the probability of one label of the classification head. Which label means toxic is
listed in KNOWN_HEADS for a few classifiers, or evident from its name (`toxic`, `hate`, …). Any
other head is refused until the setting names the label, because the score of a wrong label looks
like any other number. Two labels exclude each other (softmax); several labels are independent
(sigmoid) where the model's configuration says so. Texts are truncated to max_length tokens.

Only safetensors weights and the model code of transformers are used: pickled weights and code in
the folder could run anything. Needs the extra `classifiers`. Every file that influences a score is
in the digest of the id.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.sources.uri_options import split_options

TOXIC_LABELS = {"toxic", "toxicity", "hate", "hateful"}
# The files a classifier consists of; other suffixes are never opened.
FILE_PATTERNS: tuple[str, ...] = ("*.json", "*.txt", "*.model", "*.safetensors")
# Model types whose position ids start after the padding id, so that they have fewer positions.
OFFSET_POSITION_TYPES = {"roberta", "xlm-roberta", "camembert", "longformer"}
DEFAULT_MAX_LENGTH = 512  # tokens, or fewer if the model has fewer positions
BATCH_TOKENS = 1 << 14  # padding included
SCORE_DECIMALS = 6  # beyond them a score depends on which texts share its batch
OPTIONS = {
    "label": "NAME",
    "max_length": "TOKENS",
    "activation": ("softmax", "sigmoid"),
    "revision": "COMMIT",
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
        location = base.removeprefix("classifier:")
        requested_length = _requested_length(name, options)
        transformers = _import_transformers()
        import torch

        folder = _local_folder(location, options.get("revision"))
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
        self._max_length = _max_length(location, requested_length, self._tokenizer, config)
        self.id = (
            f"classifier-{Path(location).name}-{_content_digest(folder)}"
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
        for batch in batches(rows):
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


def batches(rows: list[list[int]]) -> Iterator[list[int]]:
    """Row numbers in batches of at most BATCH_TOKENS with padding, or of one longer row.

    The longest rows come first, so that a batch that does not fit in memory fails at once.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        size = max(1, BATCH_TOKENS // max(1, longest))
        yield order[start : start + size]
        start += size


def _requested_length(name: str, options: dict[str, str]) -> int | None:
    text = options.get("max_length")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(
            f"{name}: max_length is {text!r}; expected a number of tokens, e.g. max_length=256"
        )
    return int(text)


def _import_transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ArtefactMissing(
            f"a scorer classifier:… needs the package {error.name}, which is not installed; "
            "install hormesis[classifiers], or choose the scorer profanity or lexicon:URI"
        ) from error
    return transformers


def _local_folder(location: str, revision: str | None) -> Path:
    """A local folder with the classifier: the one named, or a cached download from the hub."""
    folder = Path(location)
    if not folder.is_dir():
        folder = _download(location, revision)
    if not list(folder.glob("[!.]*.safetensors")):
        raise ArtefactMissing(
            f"classifier:{location}: {folder} has no *.safetensors, and other weights are not "
            "read because they may run code; choose a revision that has them "
            "(#revision=refs/pr/N), or save the model again with save_pretrained"
        )
    return folder


def _download(location: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = list(FILE_PATTERNS)
    try:
        return Path(
            snapshot_download(
                location, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except (OSError, ValueError) as error:
        raise ArtefactMissing(
            f"classifier:{location} is no local folder, and the hub did not provide it: "
            f"{str(error).splitlines()[0]}; check the name, or download it where there is a "
            "network and name the folder"
        ) from error


def _load_model(transformers: Any, folder: Path) -> Any:
    try:
        model, loading_info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype="float32",
            output_loading_info=True,
        )
    except Exception as error:  # a broken folder raises OSError, ValueError, KeyError, safetensors'
        raise ArtefactCorrupt(
            f"{folder} cannot be loaded as a sequence classifier: {str(error).splitlines()[0]}; "
            "download its files again"
        ) from error
    if loading_info["missing_keys"]:
        missing = ", ".join(sorted(loading_info["missing_keys"])[:5])
        raise ArtefactCorrupt(
            f"{folder}: its weights lack {missing}, which would be initialized at random; "
            "name a model that was trained to classify"
        )
    return model.eval()


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


def _max_length(location: str, requested: int | None, tokenizer: Any, config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    if config.model_type in OFFSET_POSITION_TYPES:
        positions -= config.pad_token_id + 1
    limit = min(positions, tokenizer.model_max_length)
    length = requested or min(limit, DEFAULT_MAX_LENGTH)
    if length > limit:
        raise ConfigurationError(
            f"classifier:{location}: max_length {length} exceeds the {limit} tokens that the "
            f"model can read; lower it to {limit}"
        )
    return length


def _content_digest(folder: Path) -> str:
    """The digest of the weights, the configuration and the tokenizer."""
    checksums: dict[str, str] = {}
    for path in sorted({path for pattern in FILE_PATTERNS for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(checksums)
