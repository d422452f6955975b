"""where a run can be followed beside its journal: TensorBoard and Weights & Biases, fed with
the journal's lines

A sink keeps its files in a scratch folder, from where they go to runs/<run>/<sink>/: those of a
live one whenever the journal is published, so that a board over the store is live; others' at the
end. Sinks of a resumed run are given the lines before, so a board has each step once, without a
gap. Nothing is sent anywhere; only Weights & Biases sends, if WANDB_MODE says so (`wandb sync`
sends what it wrote).
"""

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from data_prep.core.errors import ConfigurationError

PROJECT = "hormesis"  # of all runs, to be compared
EXTRAS = {
    "tensorboard": "",
    "wandb": "wandb",
}  # sink, called like its package → the extra that brings it


class Sink(Protocol):
    live: bool  # its files are worth having before the end

    def write(self, step: int, seconds: float, scalars: dict[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def check_available(names: Sequence[str]) -> None:
    """Raise ConfigurationError unless all of these sinks can be had here."""
    for name in names:
        if name not in EXTRAS:
            raise ConfigurationError(
                f"train.metrics.sinks: there is no sink {name!r}; there are {', '.join(EXTRAS)}"
            )
        if not find_spec(name):
            raise ConfigurationError(
                f"train.metrics.sinks asks for {name!r}, and the package {name} is not installed; "
                f"pip install 'hormesis[{EXTRAS[name]}]', or leave it out of train.metrics.sinks"
            )


def open_sink(name: str, run_id: str, folder: Path) -> Sink:
    return {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}[name](run_id, folder)


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """A line of the journal as named numbers: `train/loss`, `train/source_loss/toxic`,
    `held_out/clean`, …
    """
    if "held_out" in line:
        return {f"held_out/{line['held_out']}": line["loss"]}
    group = "probe" if "probe" in line else "train"
    found = {}
    for name, value in line.items():
        nested = value if isinstance(value, dict) else {"": value}
        for part, number in nested.items():
            if name != "step" and isinstance(number, int | float) and math.isfinite(number):
                found["/".join(filter(None, (group, name, part)))] = float(number)
    return found


class TensorBoard:
    """Its clock is seconds of training."""

    live = True

    def __init__(self, run_id: str, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer, self._folder = SummaryWriter(folder), folder

    def write(self, step: int, seconds: float, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=seconds)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    live = False

    def __init__(self, run_id: str, folder: Path) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False
        )
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=PROJECT, id=run_id, name=run_id, dir=str(folder), mode=mode, settings=settings
        )

    def write(self, step: int, seconds: float, scalars: dict[str, float]) -> None:
        self._run.log({"train_seconds": seconds} | scalars, step=step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()
