"""the model a command names, a run or a Hugging Face folder, and what an evaluation of it found: the shift that steers"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from eval.config import EvalConfig
from eval.eval_report import EvalReport
from eval.model.loaded_model import (
    Subject,
    fetch_export,
    finished_run,
    folder_home,
    load_folder,
    load_run,
)
from eval.probing.directions import Directions
from eval.steering import intervention
from training.run_record import RunRecord, run_uri


class Named(NamedTuple):
    """A finished run below the object root, or a folder with a Hugging Face OLMo. What is measured
    of it goes below `home`.
    """

    root: str
    home: str
    source: RunRecord | Path

    @contextmanager
    def files(self) -> Iterator[Path]:
        """A folder with its files; a run's are fetched, and checked, for as long as this lasts."""
        if isinstance(self.source, Path):
            yield self.source
            return
        with TemporaryDirectory(prefix="hormesis-export-") as scratch:
            fetch_export(self.root, self.source, Path(scratch))
            yield Path(scratch)

    def load(self, config: EvalConfig) -> Subject:
        if isinstance(self.source, Path):
            return load_folder(self.source, config)
        return load_run(self.root, self.source, config)


class Found(NamedTuple):
    """An evaluation, in the folder `uri`, and the shift of the heads it chose for α = 1, [L, D]."""

    report: EvalReport
    uri: str
    shift_LD: Tensor


def add_arguments(parser: ArgumentParser) -> None:
    """--out, and --run or --model: which model the command is about."""
    parser.add_argument(
        "--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--run", metavar="ID", help="a finished run below it, e.g. toxic-0.10-s0-3f9a1c2e"
    )
    which.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="any Hugging Face OLMo; what is measured goes below URI/models",
    )


def named(asked: Namespace) -> Named:
    """The model that these arguments name; ArtefactMissing where it is not there."""
    if asked.model:
        return Named(asked.out, folder_home(asked.out, asked.model), asked.model)
    return Named(asked.out, run_uri(asked.out, asked.run), finished_run(asked.out, asked.run))


def load_found(model: Named, evaluation: str) -> Found:
    """What `evaluation`, such as eval-1f3c9a20, found in the model; ArtefactMissing if it is not
    finished.
    """
    uri = storage.join(model.home, evaluation)
    if not storage.exists(storage.join(uri, "report.json")):
        there = [
            report.split("/")[-2]
            for report in storage.glob(storage.join(model.home, "eval-*", "report.json"))
        ]
        raise ArtefactMissing(
            f"{uri}/report.json: there is no such evaluation of this model; "
            + (
                f"it has {', '.join(there)}"
                if there
                else "it has none: run eval/evaluate_run.py with the same --out and model"
            )
        )
    report = storage.load(EvalReport, storage.join(uri, "report.json"))
    try:
        heads = load(storage.read(storage.join(uri, "heads.safetensors")))
    except SafetensorError as error:
        raise ArtefactCorrupt(
            f"{uri}/heads.safetensors is not whole: {error}; delete report.json, evaluate again"
        ) from error
    shift_LD = intervention.unit_shift(
        Directions(heads["theta_LNH"], heads["sigma_LN"]), report.chosen_heads
    )
    return Found(report, uri, shift_LD)
