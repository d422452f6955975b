"""the model that a command names: a finished run or a folder with a Hugging Face OLMo"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from eval.config import EvalConfig
from eval.model.loaded_model import (
    Subject,
    fetch_export,
    finished_run,
    folder_home,
    load_folder,
    load_run,
)
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
