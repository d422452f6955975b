"""the model that a command names: a finished run, or a folder with a Hugging Face model"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from data_prep.core import storage
from eval.config import EvalComputeConfig
from eval.model import model_files
from eval.model.loaded_model import LoadedModel, load_folder, load_run
from training import run_record
from training.run_record import RunRecord, run_uri


class ModelSource(NamedTuple):
    """Where a model comes from: a finished run below the object root, or a local folder.

    name: the run's id, or NAME-DIGEST of a folder. home: URI below which its results are written.
    """

    name: str
    root: str
    home: str
    run_or_folder: RunRecord | Path

    @contextmanager
    def local_files(self) -> Iterator[Path]:
        """A local folder with its files. Those of a run are fetched and verified, and deleted
        afterwards.
        """
        if isinstance(self.run_or_folder, Path):
            yield self.run_or_folder
            return
        with TemporaryDirectory(prefix="hormesis-export-") as scratch:
            model_files.fetch_export(self.root, self.run_or_folder, Path(scratch))
            yield Path(scratch)

    @property
    def arm(self) -> str:
        """Arm of pretraining of a run; a folder's model is plain."""
        run = self.run_or_folder
        return "plain" if isinstance(run, Path) else run.config.arm

    @property
    def control_text(self) -> str:
        """ "Not toxic" in the words of a MEDA or INST run; empty for other models."""
        run = self.run_or_folder
        return "" if isinstance(run, Path) else run.config.control_text

    def load(self, compute: EvalComputeConfig) -> LoadedModel:
        if isinstance(self.run_or_folder, Path):
            return load_folder(self.run_or_folder, compute)
        return load_run(self.root, self.run_or_folder, compute)


def from_run(root: str, run_id: str) -> ModelSource:
    """A run below the object root; ArtefactMissing if it is not finished."""
    run = run_record.finished(root, run_id)
    return ModelSource(run_id, root, run_uri(root, run_id), run)


def from_folder(root: str, folder: Path) -> ModelSource:
    """A folder with a causal language model of Hugging Face (model_folder.read), whose results go
    to `root`/models/NAME-DIGEST.
    """
    name = model_files.folder_name(folder)
    return ModelSource(name, root, storage.join(root, "models", name), folder)


def add_arguments(parser: ArgumentParser) -> None:
    """Add --out, and --run or --model, which name the model that the command is about."""
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
        help="a folder with a Hugging Face causal LM of a supported family (eval/README.md); its "
        "results are written below URI/models",
    )


def from_arguments(arguments: Namespace) -> ModelSource:
    """The model that these arguments name; ArtefactMissing if it is not there."""
    root = storage.object_root(arguments.out)
    if arguments.model:
        return from_folder(root, arguments.model)
    return from_run(root, arguments.run)
