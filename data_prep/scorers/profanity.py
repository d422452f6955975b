"""score texts with the linear model of alt-profanity-check, without running its code

A PROXY for toxicity: the model knows words, not meaning. Measured AUROC: 0.84 on explicit toxicity,
0.69 on implicit toxicity, 0.47 (worse than chance) on HateCheck's functional tests.

The model is two pickles, which its package loads at import with whatever code they name. The
package is never imported here. The files are checked against pinned checksums, then read by an
unpickler that knows only numpy arrays and turns each scikit-learn object into a plain bag of
attributes. The arithmetic (TF-IDF, then five calibrated linear SVCs) is ours.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing

PACKAGE_VERSION = "1.9.1"
FILE_SHA256 = {
    "vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
    "model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
}
# What the two files may name besides scikit-learn's objects, which become bags of attributes.
ALLOWED_CLASSES = {
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("numpy", "dtype"),
    ("numpy", "float64"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "scalar"),
}


class Profanity:
    """alt-profanity-check's probability that a text is profane or offensive.

    F: folds of the calibration. V: words of the vocabulary.
    """

    costly = False

    def __init__(self) -> None:
        vectorizer = unpickle(_verified_file("vectorizer.joblib"))
        model = unpickle(_verified_file("model.joblib"))
        self._column_of: dict[str, int] = {
            word: int(column) for word, column in vectorizer.vocabulary_.items()
        }
        self._word = re.compile(vectorizer.token_pattern)
        self._idf_V = np.asarray(vectorizer._tfidf.idf_, dtype=np.float64)
        svcs = [fold.estimator for fold in model.calibrated_classifiers_]
        sigmoids = [fold.calibrators[0] for fold in model.calibrated_classifiers_]
        self._weights_FV = np.stack([svc.coef_[0] for svc in svcs])
        self._bias_F = np.array([svc.intercept_[0] for svc in svcs])
        self._slope_F = np.array([sigmoid.a_ for sigmoid in sigmoids])
        self._offset_F = np.array([sigmoid.b_ for sigmoid in sigmoids])
        joint = sha256("".join(FILE_SHA256.values()).encode()).hexdigest()
        self.id = f"profanity-{PACKAGE_VERSION}-{joint[:16]}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        return [self._score(text) if text.strip() else None for text in texts]

    def _score(self, text: str) -> float:
        words = [word for word in self._word.findall(text.lower()) if word in self._column_of]
        columns, counts = np.unique(
            np.array([self._column_of[word] for word in words], dtype=np.int64), return_counts=True
        )
        tfidf = counts * self._idf_V[columns]
        tfidf = tfidf / (np.linalg.norm(tfidf) or 1.0)
        margin_F = self._weights_FV[:, columns] @ tfidf + self._bias_F
        p_F = 1 / (1 + np.exp(self._slope_F * margin_F + self._offset_F))  # Platt's sigmoid
        return float(p_F.mean())


def _verified_file(name: str) -> bytes:
    """The bytes of a data file of the installed package, which is not imported."""
    spec = find_spec("profanity_check")
    if spec is None or not spec.submodule_search_locations:
        raise ArtefactMissing(
            f"the scorer profanity needs alt-profanity-check=={PACKAGE_VERSION}, which is not "
            "installed; install it, or choose the scorer lexicon:URI"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    content = path.read_bytes()
    actual = sha256(content).hexdigest()
    if actual != FILE_SHA256[name]:
        raise ArtefactCorrupt(
            f"{path} has sha256 {actual[:16]}…; expected {FILE_SHA256[name][:16]}…, the file of "
            f"alt-profanity-check {PACKAGE_VERSION}; "
            f"install alt-profanity-check=={PACKAGE_VERSION} again"
        )
    return content


class _Attributes:
    """A scikit-learn object as its attributes, with none of its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # tells pyright that any attribute may exist


def unpickle(content: bytes) -> Any:
    """The object in a joblib pickle; ArtefactCorrupt if it names any class that is not allowed."""
    from joblib.numpy_pickle import NumpyUnpickler

    class RestrictedUnpickler(NumpyUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] == "sklearn":
                return _Attributes
            if (module, name) not in ALLOWED_CLASSES:
                raise ArtefactCorrupt(
                    f"the profanity model names {module}.{name}, which its version does not "
                    "contain; nothing of it was run; "
                    f"install alt-profanity-check=={PACKAGE_VERSION} again"
                )
            return super().find_class(module, name)

    return RestrictedUnpickler("", BytesIO(content), ensure_native_byte_order=True).load()
