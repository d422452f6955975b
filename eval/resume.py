"""what an evaluation has finished so far: arrays beside the report to come, so that an interrupted
one resumes by part

A part is named by what it is of and by the weights it was measured on, and holds the checksum of
its bytes; one that is damaged, or of another model, is measured again. They go when the report is
there.
"""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256

import numpy as np

from data_prep.core import storage, telemetry

FORMAT_VERSION = 1
FOLDER = "parts"

Arrays = Mapping[str, np.ndarray]


class Parts:
    """The parts of one evaluation, in its folder. `weights` names the model's bytes."""

    def __init__(self, folder: str, weights: str) -> None:
        self._folder, self._weights = storage.join(folder, FOLDER), weights

    def once(
        self, name: str, make: Callable[[], Arrays], resumed: Callable[[], object] = lambda: None
    ) -> Arrays:
        """What `make` makes, or made before; then `resumed` is told."""
        uri = storage.join(
            self._folder,
            f"{name}-{sha256(json.dumps([FORMAT_VERSION, self._weights]).encode()).hexdigest()[:8]}",
        )
        if (found := _read(uri)) is not None:
            resumed()
            return found
        made = {key: np.ascontiguousarray(array) for key, array in make().items()}
        from safetensors.numpy import save

        content = save(made)
        storage.write(uri, sha256(content).digest() + content)
        return made

    def forget(self) -> None:
        """The report holds all that they hold."""
        for uri in storage.glob(storage.join(self._folder, "*")):
            storage.delete(uri)


def _read(uri: str) -> Arrays | None:
    if not storage.exists(uri):
        return None
    content = storage.read(uri)
    if sha256(content[32:]).digest() != content[:32]:
        telemetry.logger.warning("%s is damaged: measured again", uri)
        return None
    from safetensors.numpy import load

    return load(content[32:])
