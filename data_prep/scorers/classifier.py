"""toxicity classifiers of the Hugging Face hub, or of a folder laid out like one, as scorers

    classifier:ibm-granite/granite-guardian-hap-125m#revision=COMMIT
    classifier:/models/my-classifier#label=abusive&max_length=256&activation=sigmoid

A text's score is the probability of one label of the head. Which label that is stands in KNOWN for
a few classifiers, or one label is called so (`toxic`, `hate`, …); any other head is refused until
the setting names it, for a score of the wrong label is a number like any other. Two labels exclude
each other (softmax); several are answered one by one (sigmoid) where the model's configuration says
so. Texts are cut after max_length tokens. Weights are safetensors and the code is that of
transformers.

Needs the extra `classifiers`. Every file that decides a score enters the id's digest.
"""

import math
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest

TOXIC_LABELS = {"toxic", "toxicity", "hate", "hateful"}
FILES = (
    "*.json",
    "*.txt",
    "*.model",
    "*.safetensors",
)  # what a classifier is made of; other suffixes are never opened
OFFSET_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "longformer",
}  # position ids begin after the padding id
MAX_LENGTH = 512  # unless the setting says otherwise, or the model has fewer positions
BATCH_TOKENS = 1 << 14  # padding included
DIGITS = 6  # of a score: the batch a text is in changes it beyond them
OPTIONS = ("label", "max_length", "activation", "revision")
ACTIVATIONS = ("softmax", "sigmoid")


class Head(NamedTuple):
    """The label that means toxic, and how logits become probabilities; "" leaves it to the model's
    configuration.
    """

    label: str
    activation: str = ""


KNOWN = {  # by the last part of the name, from their cards; heads that name their label themselves need no line
    "granite-guardian-hap-125m": Head("LABEL_1", "softmax"),
    "granite-guardian-hap-38m": Head("LABEL_1", "softmax"),
    "toxigen_roberta": Head("LABEL_1", "softmax"),
    "unbiased-toxic-roberta": Head("toxicity", "sigmoid"),
    "toxic-bert": Head("toxic", "sigmoid"),
}


class Classifier:
    """A sequence classifier of transformers on the best device present. The order of the texts
    never changes a score.
    """

    costly = True

    def __init__(self, name: str) -> None:
        place, _, fragment = name.partition("#")
        asked = _options(name, fragment)
        transformers = _transformers()
        import torch

        folder = _folder(place, asked.get("revision"))
        self._torch = torch
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._model: Any = _model(transformers, folder)
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        head = _head(place, asked, self._model.config)
        self._column, self._activation = (
            _labels(self._model.config).index(head.label),
            head.activation,
        )
        self._max_length = _max_length(place, asked, self._tokenizer, self._model.config)
        short = Path(place).name
        self.id = f"classifier-{short}-{_content(folder)}#label={head.label}&{head.activation}&max_length={self._max_length}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        wanted = sorted({text for text in texts if text.strip()})
        if not wanted:
            return [None] * len(texts)
        whole = [
            text.encode("utf-8", "replace").decode() for text in wanted
        ]  # a lone surrogate is no text to a tokenizer
        rows = self._tokenizer(
            whole, truncation=True, max_length=self._max_length, return_attention_mask=False
        )["input_ids"]
        order = sorted(
            range(len(rows)), key=lambda i: (-len(rows[i]), i)
        )  # the longest first: memory fails at once or never
        scores: dict[str, float | None] = {}
        for batch in _batches(order, rows):
            found = zip(batch, self._score([rows[i] for i in batch]), strict=True)
            scores |= {wanted[i]: round(p, DIGITS) if math.isfinite(p) else None for i, p in found}
        return [scores.get(text) for text in texts]

    def _score(self, rows: list[list[int]]) -> list[float]:
        padded = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(
            self._model.device
        )
        with self._torch.inference_mode():
            logits_BC = self._model(**padded).logits.double()
        p_BC = logits_BC.sigmoid() if self._activation == "sigmoid" else logits_BC.softmax(-1)
        return p_BC[:, self._column].tolist()


def _options(name: str, fragment: str) -> dict[str, str]:
    pairs = [item.partition("=") for item in filter(None, fragment.split("&"))]
    asked = {key: unquote(value) for key, _, value in pairs}
    length = asked.get("max_length", "1")
    if not set(asked) <= set(OPTIONS) or not all(asked.values()) or len(asked) < len(pairs):
        raise ConfigurationError(
            f"classifier:{name}: after # stand {', '.join(OPTIONS)} as KEY=VALUE, each at most once, joined by &"
        )
    if (
        not length.isdecimal()
        or int(length) < 1
        or asked.get("activation", "softmax") not in ACTIVATIONS
    ):
        raise ConfigurationError(
            f"classifier:{name}: max_length is a count of tokens, activation one of {', '.join(ACTIVATIONS)}; correct them after #"
        )
    return asked


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ArtefactMissing(
            f"a scorer classifier:… needs {error.name}, which is not installed; install hormesis[classifiers] or choose the "
            "scorer profanity or lexicon:URI"
        ) from error
    return transformers


def _folder(place: str, revision: str | None) -> Path:
    """A folder here that holds the classifier: the one named, or what the hub has under the name,
    fetched once.
    """
    folder = Path(place)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    place, revision=revision, allow_patterns=list(FILES), ignore_patterns=["*/*"]
                )
            )
        except (OSError, ValueError) as error:
            raise ArtefactMissing(
                f"classifier:{place}: no folder of that name here, and the hub did not give it: {str(error).splitlines()[0]}; "
                "check the name, or fetch it where there is a network and name the folder"
            ) from error
    if not list(folder.glob("*.safetensors")):
        raise ArtefactMissing(
            f"classifier:{place}: {folder} has no *.safetensors, and other weights are not read, for they may run code; take a "
            "revision that has them (#revision=refs/pr/N), or save the model anew with save_pretrained"
        )
    return folder


def _model(transformers: Any, folder: Path) -> Any:
    try:
        model, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype="float32",
            output_loading_info=True,
        )
    except Exception as error:  # safetensors' own type, OSError, ValueError, KeyError: whatever a broken folder provokes
        raise ArtefactCorrupt(
            f"{folder} cannot be loaded as a sequence classifier: {str(error).splitlines()[0]}; get its files again"
        ) from error
    if loaded["missing_keys"]:
        raise ArtefactCorrupt(
            f"{folder}: its weights lack {', '.join(sorted(loaded['missing_keys'])[:5])}, which would be made up at random; a "
            "classifier brings its own head, so name one that was trained to classify"
        )
    return model.eval()


def _labels(config: Any) -> list[str]:
    return [config.id2label[i] for i in range(config.num_labels)]


def _head(place: str, asked: dict[str, str], config: Any) -> Head:
    labels, known = _labels(config), KNOWN.get(Path(place).name, Head(""))
    meant = [label for label in labels if label.casefold() in TOXIC_LABELS]
    label = asked.get("label") or known.label or (meant[0] if len(meant) == 1 else "")
    by_config = {
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }.get(config.problem_type or "")
    by_size = {1: "sigmoid", 2: "softmax"}.get(len(labels))
    activation = asked.get("activation") or known.activation or by_config or by_size or ""
    if label not in labels:
        what = (
            f"the label {label!r} is not among them"
            if label
            else "which one means toxic is not known"
        )
        raise ConfigurationError(
            f"classifier:{place}: its labels are {', '.join(labels)}; {what}; name it with #label=NAME"
        )
    if not activation:
        raise ConfigurationError(
            f"classifier:{place}: nothing says whether its {len(labels)} labels exclude each other; add &activation=softmax if "
            "they do, sigmoid if each is answered alone"
        )
    return Head(label, activation)


def _max_length(place: str, asked: dict[str, str], tokenizer: Any, config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or MAX_LENGTH
    if config.model_type in OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    limit = min(positions, tokenizer.model_max_length)
    length = int(asked.get("max_length", min(limit, MAX_LENGTH)))
    if length > limit:
        raise ConfigurationError(
            f"classifier:{place}: max_length {length} exceeds the {limit} tokens that it reads; lower it"
        )
    return length


def _batches(order: list[int], rows: list[list[int]]) -> Iterator[list[int]]:
    """Row numbers by falling length, so many that the padded batch has at most BATCH_TOKENS."""
    at = 0
    while at < len(order):
        size = max(1, BATCH_TOKENS // max(1, len(rows[order[at]])))
        yield order[at : at + size]
        at += size


def _content(folder: Path) -> str:
    """The digest of the weights, the configuration and the tokenizer."""
    found: dict[str, str] = {}
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            hasher = sha256()
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
        found[path.name] = hasher.hexdigest()
    return digest(found)
