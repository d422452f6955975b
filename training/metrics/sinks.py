"""where a run can be followed besides metrics.jsonl: TensorBoard and Weights & Biases

A sink gets every line of the metrics log as named numbers and writes files to a local scratch
folder. From there they are copied to runs/<run_id>/<sink>/: those of a live sink whenever the
metrics log is published, so that a dashboard over the store is up to date; those of other sinks at
the end. The sinks of a resumed run are given the earlier lines first, so that each step appears
once, without a gap. Nothing is sent anywhere, except by Weights & Biases if WANDB_MODE says so
(`wandb sync` sends what it wrote offline).
"""

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from data_prep.core.errors import ConfigurationError

PROJECT = "hormesis"  # one project for all runs, so that they can be compared
EXTRAS = {"tensorboard": "", "wandb": "wandb"}  # sink, named as its package → extra to install


class Sink(Protocol):
    live: bool
    """Its files are useful before the run ends."""

    def write(self, step: int, seconds: float, scalars: dict[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def check_available(names: Sequence[str]) -> None:
    """Raise ConfigurationError unless all of these sinks exist and are installed."""
    for name in names:
        if name not in EXTRAS:
            raise ConfigurationError(
                f"train.metrics.sinks: there is no sink {name!r}; expected {', '.join(EXTRAS)}"
            )
        if not find_spec(name):
            raise ConfigurationError(
                f"train.metrics.sinks has {name!r}, but the package {name} is not installed; "
                f"pip install 'hormesis[{EXTRAS[name]}]', or remove it from train.metrics.sinks"
            )


def open_sink(name: str, run_id: str, folder: Path) -> Sink:
    """A sink that writes its files to `folder`."""
    sinks = {"tensorboard": TensorBoardSink, "wandb": WeightsAndBiasesSink}
    return sinks[name](run_id, folder)


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a metrics line by name: `train/loss`, `train/source_loss/toxic`, …"""
    if "held_out" in line:
        return {f"held_out/{line['held_out']}": line["loss"]}
    group = "probe" if "probe" in line else "train"
    named = {}
    for name, value in line.items():
        parts = value if isinstance(value, dict) else {"": value}
        for part, number in parts.items():
            if name != "step" and isinstance(number, int | float) and math.isfinite(number):
                named["/".join(filter(None, (group, name, part)))] = float(number)
    return named


class TensorBoardSink:
    """TensorBoard's event file; its wall time is seconds of training."""

    live = True

    def __init__(self, run_id: str, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder)

    def write(self, step: int, seconds: float, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=seconds)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiasesSink:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise."""

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
