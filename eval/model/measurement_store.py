"""measurements of a model, kept so that no evaluation of it repeats them

Each measurement is a file of arrays below the folder of its run or model. Its name says what was
measured, and ends in the digest of all that it depends on: weights, texts, settings. So an
interrupted evaluation resumes, and one with another condition or set of texts measures only what is
new. The content begins with a checksum; a damaged file is measured again.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from hashlib import sha256
from typing import Any

import numpy as np

from data_prep.core import storage, telemetry
from data_prep.core.records import digest

FORMAT_VERSION = 2
FOLDER = "measurements"
CHECKSUM_BYTES = 32

Arrays = Mapping[str, np.ndarray]


class MeasurementStore:
    """The finished measurements of one model, below its folder `home`. `weights_id` names the
    weights.
    """

    def __init__(self, home: str, weights_id: str) -> None:
        self._folder = storage.join(home, FOLDER)
        self._weights_id = weights_id

    def get_or_measure(
        self,
        name: str,
        depends_on: Sequence[Any],
        measure: Callable[[], Arrays],
        on_resume: Callable[[], object] = lambda: None,
    ) -> Arrays:
        """The arrays of `measure`, which are stored under `name` and the digest of `depends_on`. If
        they are stored already, they are read instead, and `on_resume` is called.
        """
        uri = self._uri(name, depends_on)
        stored = _read(uri)
        if stored is not None:
            on_resume()
            return stored
        from safetensors.numpy import save

        arrays = {key: np.ascontiguousarray(array) for key, array in measure().items()}
        content = save(arrays)
        storage.write(uri, sha256(content).digest() + content)
        return arrays

    def of_other_weights(self, weights_id: str) -> "MeasurementStore":
        """The store of a model with other weights, in the same folder."""
        store = copy(self)
        store._weights_id = weights_id
        return store

    def holds(self, name: str, depends_on: Sequence[Any]) -> bool:
        """Whether a measurement is stored; it may be damaged."""
        return storage.exists(self._uri(name, depends_on))

    def _uri(self, name: str, depends_on: Sequence[Any]) -> str:
        identity = digest(FORMAT_VERSION, self._weights_id, *depends_on)
        return storage.join(self._folder, f"{name}-{identity}")


def _read(uri: str) -> Arrays | None:
    if not storage.exists(uri):
        return None
    stored = storage.read(uri)
    content = stored[CHECKSUM_BYTES:]
    if sha256(content).digest() != stored[:CHECKSUM_BYTES]:
        telemetry.logger.warning("%s is damaged: measuring it again", uri)
        return None
    from safetensors.numpy import load

    return load(content)
