"""finished measurements of an evaluation that is under way, so that it can resume

Each measurement is a file of arrays beside the report to come. Its name says what was measured, and
on which weights; its content begins with a checksum. A file that is damaged, or of another model,
is measured again. The files are deleted once the report is written.
"""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256

import numpy as np

from data_prep.core import storage, telemetry

FORMAT_VERSION = 1
FOLDER = "parts"
CHECKSUM_BYTES = 32

Arrays = Mapping[str, np.ndarray]


class MeasurementStore:
    """The finished measurements of one evaluation, in its folder. `weights_id` names the model."""

    def __init__(self, folder: str, weights_id: str) -> None:
        self._folder = storage.join(folder, FOLDER)
        self._weights_id = weights_id

    def get_or_measure(
        self,
        name: str,
        measure: Callable[[], Arrays],
        on_resume: Callable[[], object] = lambda: None,
    ) -> Arrays:
        """The arrays of `measure`, which are stored under `name`. If an interrupted evaluation
        stored them, they are read instead, and `on_resume` is called.
        """
        identity = sha256(json.dumps([FORMAT_VERSION, self._weights_id]).encode()).hexdigest()
        uri = storage.join(self._folder, f"{name}-{identity[:8]}")
        stored = _read(uri)
        if stored is not None:
            on_resume()
            return stored
        from safetensors.numpy import save

        arrays = {key: np.ascontiguousarray(array) for key, array in measure().items()}
        content = save(arrays)
        storage.write(uri, sha256(content).digest() + content)
        return arrays

    def delete(self) -> None:
        """Delete all of them; the report holds what they hold."""
        storage.delete_below(self._folder, storage.list_files(self._folder))


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
