"""toxicity scorers: offline lexical ones here, classifiers and services by name; missing is never
zero

A scorer gives each text a number in [0, 1], or None where it cannot say; None is never counted as
harmless. Its `id` names its version and a digest of its data, and travels with every number it
made.

    profanity       the linear model inside alt-profanity-check 1.9.1, a PROXY: it knows words, not meaning. Measured AUROC
                    0.84 on explicit, 0.69 on implicit toxicity and 0.47 (worse than chance) on HateCheck's functional tests.
    lexicon:URI     rows {text: word or phrase, weight: 0..1}, read like any corpus; score = 1 − Π(1 − weight) of what occurs
    classifier:NAME a sequence classifier of the hub or of a folder (classifier.py)
    perspective, openai   services on the network (remote.py)

The profanity model ships as two pickles that its package loads at import, with whatever code they
name. It is never imported: the files are checked against pinned checksums, then read with an
unpickler that knows numpy's arrays and turns every scikit-learn object into a bag of attributes,
and the arithmetic (TF-IDF, five calibrated linear SVCs) is ours.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.scorers import remote
from data_prep.sources import corpus_reader

PROFANITY_VERSION = "1.9.1"
PROFANITY_SHA256 = {
    "vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
    "model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
}
PICKLED_CLASSES = {  # what the two files may name besides scikit-learn's objects, which become bags of attributes
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("numpy", "dtype"),
    ("numpy", "float64"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "scalar"),
}
LEXICON_TOKEN = re.compile(r"\w+|[^\w\s]")


class Scorer(Protocol):
    """id: name, version and digest. score: per text a number in [0, 1], or None where it is
    missing; empty text is. costly: so slow that its scores are worth keeping.
    """

    @property
    def id(self) -> str: ...

    @property
    def costly(self) -> bool: ...

    def score(self, texts: Sequence[str]) -> list[float | None]: ...


def load(name: str) -> Scorer:
    """The scorer a setting names: "profanity", "lexicon:URI", "classifier:NAME", "perspective" or
    "openai".
    """
    kind, _, uri = name.partition(":")
    if name == "profanity":
        return Profanity()
    if kind == "lexicon" and uri:
        return Lexicon(_read_lexicon(uri))
    if kind == "classifier" and uri:
        from data_prep.scorers.classifier import Classifier

        return Classifier(uri)
    service, _, fragment = name.partition("#")
    if service in remote.SERVICES:
        return remote.Remote(service, fragment)
    raise ConfigurationError(
        f"there is no scorer {name!r}; known are: profanity, lexicon:URI (a table of words with weights), classifier:NAME (of the "
        f"hub, or a folder), {', '.join(remote.SERVICES)}"
    )


def _read_lexicon(uri: str) -> dict[str, float]:
    """Entry → weight; a plain list of words, one a line, has no weights, and there each counts 1."""
    weights: dict[str, float] = {}
    for source in corpus_reader.expand([uri]):
        for document in corpus_reader.read(source):
            weight = document.fields.get("weight", 1.0)
            try:
                weights |= dict.fromkeys(
                    filter(None, map(str.strip, document.text.splitlines())), float(weight)
                )
            except (TypeError, ValueError):
                raise ConfigurationError(
                    f"{source.uri} row {document.row}: the weight of {document.text!r} is {weight!r}; expected a number in [0, 1]"
                ) from None
    return weights


class Lexicon:
    """Words and phrases with weights; case does not matter, boundaries do, and the longest entry
    wins where two overlap.
    """

    costly = False

    def __init__(self, weights: dict[str, float]) -> None:
        bad = {entry: weight for entry, weight in weights.items() if not 0 <= weight <= 1}
        if bad or not weights:
            raise ConfigurationError(
                f"a lexicon of {len(weights)} entries, {len(bad)} of them with a weight outside [0, 1] (the first "
                f"{next(iter(bad.values()), None)}); give at least one entry, and weights as shares"
            )
        self._weights = {
            _tokens(entry): weight for entry, weight in weights.items() if _tokens(entry)
        }
        self._lengths = sorted({len(entry) for entry in self._weights}, reverse=True)
        self.id = f"lexicon-{digest(sorted(weights.items()))}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        return [self._score(_tokens(text)) if text.strip() else None for text in texts]

    def _score(self, tokens: tuple[str, ...]) -> float:
        harmless, at = 1.0, 0
        while at < len(tokens):
            found = next((n for n in self._lengths if tokens[at : at + n] in self._weights), 0)
            if found:
                harmless *= 1 - self._weights[tokens[at : at + found]]
            at += found or 1
        return 1 - harmless


class Profanity:
    """alt-profanity-check's probability that a text is profane or offensive, computed here from its
    published weights.
    """

    costly = False

    def __init__(self) -> None:
        vectorizer, model = (_unpickle(_profanity_file(name)) for name in PROFANITY_SHA256)
        self._column: dict[str, int] = {
            word: int(column) for word, column in vectorizer.vocabulary_.items()
        }
        self._word = re.compile(vectorizer.token_pattern)
        self._idf = np.asarray(vectorizer._tfidf.idf_, dtype=np.float64)
        folds = [(fold.estimator, fold.calibrators[0]) for fold in model.calibrated_classifiers_]
        self._weights_FV = np.stack([svc.coef_[0] for svc, _ in folds])
        self._bias_F = np.array([svc.intercept_[0] for svc, _ in folds])
        self._slope_F, self._offset_F = (
            np.array([getattr(sigmoid, name) for _, sigmoid in folds]) for name in ("a_", "b_")
        )
        joint = sha256("".join(PROFANITY_SHA256.values()).encode()).hexdigest()
        self.id = f"profanity-{PROFANITY_VERSION}-{joint[:16]}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        return [self._score(text) if text.strip() else None for text in texts]

    def _score(self, text: str) -> float:
        known = [
            self._column[word] for word in self._word.findall(text.lower()) if word in self._column
        ]
        columns, counts = np.unique(np.array(known, dtype=np.int64), return_counts=True)
        tfidf = counts * self._idf[columns]
        tfidf = tfidf / (np.linalg.norm(tfidf) or 1.0)
        margin_F = self._weights_FV[:, columns] @ tfidf + self._bias_F
        return float(
            (1 / (1 + np.exp(self._slope_F * margin_F + self._offset_F))).mean()
        )  # Platt's sigmoid, per fold


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(LEXICON_TOKEN.findall(text.casefold()))


def _profanity_file(name: str) -> bytes:
    """The bytes of one data file of the installed package, verified; the package itself is not
    imported.
    """
    spec = find_spec("profanity_check")
    if spec is None or not spec.submodule_search_locations:
        raise ArtefactMissing(
            f"the scorer 'profanity' needs alt-profanity-check=={PROFANITY_VERSION}, which is not installed; install it or "
            "choose the scorer lexicon:URI"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    content = path.read_bytes()
    got = sha256(content).hexdigest()
    if got != PROFANITY_SHA256[name]:
        raise ArtefactCorrupt(
            f"{path}: sha256 is {got[:16]}…, that of alt-profanity-check {PROFANITY_VERSION} is {PROFANITY_SHA256[name][:16]}…; "
            f"install alt-profanity-check=={PROFANITY_VERSION}"
        )
    return content


class _Attributes:
    """What a scikit-learn object becomes: its attributes, and none of its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # pyright reads this as: may have any attribute


def _unpickle(content: bytes) -> Any:
    from joblib.numpy_pickle import NumpyUnpickler

    class Restricted(NumpyUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] == "sklearn":
                return _Attributes
            if (module, name) not in PICKLED_CLASSES:
                raise ArtefactCorrupt(
                    f"a scorer's pickle names {module}.{name}, which none of its version does; nothing was run"
                )
            return super().find_class(module, name)

    return Restricted("", BytesIO(content), ensure_native_byte_order=True).load()
