"""model files: fetch and verify a run's export, name a folder by its bytes"""

from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.store import ranged_reads
from eval.model.subject import model_folder
from training.run_record import RunRecord, run_uri


def fetch_export(root: str, run: RunRecord, folder: Path) -> str:
    """Download the run's export to a local folder, every file checked against the run's record.
    Returns the export's URI.
    """
    uri = storage.join(run_uri(root, run.config.run_id), "export")
    for name, expected in run.export_sha256.items():
        _fetch(storage.join(uri, name), folder / name, expected)
    return uri


def folder_name(folder: Path) -> str:
    """NAME-DIGEST of a folder with a model that can be evaluated (model_folder.read); another
    digest is another model.
    """
    model_folder.read(folder)
    return f"{folder.resolve().name}-{folder_digest(folder)[:8]}"


def folder_digest(folder: Path) -> str:
    """16 hex digits that name a model by its config, weights and tokenizer."""
    whole = sha256()
    for path in sorted(
        [*folder.glob("[!.]*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    ):
        if path.is_file():
            with path.open("rb") as file:
                whole.update(f"{path.name} {_sha256(file)}\n".encode())
    return whole.hexdigest()[:16]


def _fetch(uri: str, local: Path, expected: str) -> None:
    ranged_reads.download(uri, local)
    with local.open("rb") as file:
        got = _sha256(file)
    if got != expected:
        raise ArtefactCorrupt(
            f"{uri}: sha256 is {got[:16]}…, the run's record says {expected[:16]}…; delete the "
            "run's record.json and run the same command again, which exports the model again"
        )


def _sha256(file: BinaryIO) -> str:
    whole = sha256()
    while chunk := file.read(storage.BLOCK_BYTES):
        whole.update(chunk)
    return whole.hexdigest()
