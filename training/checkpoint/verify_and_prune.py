"""checkpoints in the store: their commits, verified reading, and pruning

    checkpoints/step-00000200/
        5f3c9a12-0-00000-000.safetensors     slices of one rank (state_layout.py), in bounded files
        5f3c9a12-0-00000.json                its rank manifest: which slices, where, and checksums
        5f3c9a12-0-extra.safetensors         other state of the training loop: small tensors
        commit.json                          written last: without it there is no checkpoint

An attempt (5f3c9a12-0) is one save of one start of the program, so that files of a killed attempt
never count. DeepSpeed's own format was the alternative: a pickle per rank, loaded on another world
size only after an offline conversion, and not from S3.
"""

import hashlib
import json
from collections import defaultdict
from typing import Any, NamedTuple

from safetensors.torch import load as load_tensors
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import FileName, Sha256, from_json, record
from training.engine.state_layout import RankManifest
from training.run_record import STEP_FOLDERS

FORMAT_VERSION = 3
COMMIT_FILE = "commit.json"


@record
class Commit:
    """What a checkpoint holds; it exists only once the checkpoint is complete.

    step: optimizer steps done, which is the number of the next batch. optimizer_steps: those that
    AdamW counted (skipped ones are not). run_digest, data_digest: of the run's settings and of both
    manifests. train_seconds: spent in steps so far. rank_manifests: sha256 of each rank's manifest,
    in order of rank. extra: sha256 of the file of extra tensors.
    """

    format_version: int
    run_digest: str
    data_digest: str
    attempt: FileName
    step: int
    optimizer_steps: int
    train_seconds: float
    n_bytes: int
    rank_manifests: tuple[Sha256, ...]
    extra: Sha256


class RunIdentity(NamedTuple):
    """What a checkpoint must have in common with a run to be resumed by it."""

    run_digest: str
    data_digest: str


class RestoredCheckpoint(NamedTuple):
    """The commit that an engine was restored from, and its extra tensors, on the CPU."""

    commit: Commit
    extra: dict[str, Tensor]


class CheckpointContent(NamedTuple):
    """A verified commit with everything but the ranks' files."""

    restored: RestoredCheckpoint
    manifests: list[RankManifest]


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def list_commits(folder: str) -> list[str]:
    """URIs of all commits below `folder`, in order of step."""
    return storage.list_files(folder, f"{STEP_FOLDERS}/{COMMIT_FILE}")


def list_files(folder: str) -> dict[str, list[str]]:
    """URIs of all files below `folder`, committed or not, by the name of the checkpoint."""
    files: dict[str, list[str]] = defaultdict(list)
    for uri in storage.list_files(folder, f"{STEP_FOLDERS}/*"):
        files[uri.split("/")[-2]].append(uri)
    return files


def read_commit(uri: str, identity: RunIdentity) -> CheckpointContent:
    """Read a commit, its extra tensors and rank manifests, and verify their checksums.

    Raises ArtefactCorrupt or ArtefactMissing if they are damaged, ConfigurationError if the
    checkpoint is another run's.
    """
    text = storage.read(uri)
    for name, expected in (("format_version", FORMAT_VERSION), *identity._asdict().items()):
        found = _field(text, name)
        if found != expected:
            raise ConfigurationError(
                f"{uri}: its {name} is {found}, this run's is {expected}: it is a checkpoint of "
                "other settings, other data or another version of the program; plan the run under "
                "another id, or delete this checkpoints folder to train from the start"
            )
    commit = from_json(Commit, text, uri)
    prefix = storage.join(uri.rpartition("/")[0], commit.attempt)
    extra = _read_verified(f"{prefix}-extra.safetensors", commit.extra)
    manifests = []
    for rank, checksum in enumerate(commit.rank_manifests):
        manifest_uri = f"{prefix}-{rank:05d}.json"
        content = _read_verified(manifest_uri, checksum)
        manifests.append(from_json(RankManifest, content, manifest_uri))
    return CheckpointContent(RestoredCheckpoint(commit, load_tensors(extra)), manifests)


def prune(folder: str, step: int, keep_last: int, keep_every_steps: int) -> None:
    """Delete all checkpoints but the `keep_last` newest up to `step` and the permanent ones.

    Permanent are those at multiples of keep_every_steps (0: none). Checkpoints after `step` did not
    verify, or the run would not be at `step`; they are deleted as well.
    """
    files = list_files(folder)
    up_to_step = sorted(name for name in files if name <= step_name(step))
    kept = set(up_to_step[max(0, len(up_to_step) - keep_last) :])
    if keep_every_steps:
        kept |= {name for name in up_to_step if step_of(name) % keep_every_steps == 0}
    for name in files.keys() - kept:
        # the commit first: a partly deleted checkpoint must not look complete
        commit_first = sorted(files[name], key=lambda uri: not uri.endswith(COMMIT_FILE))
        storage.delete_below(folder, commit_first)


def _read_verified(uri: str, expected_sha256: str) -> bytes:
    content = storage.read(uri)
    if sha256(content) != expected_sha256:
        raise ArtefactCorrupt(
            f"{uri}: its checksum differs from the one in {COMMIT_FILE}; delete this checkpoint"
        )
    return content


def _field(text: bytes, name: str) -> Any:
    """One field of a JSON object, before it is known which version of the program wrote it."""
    try:
        return json.loads(text).get(name)
    except (ValueError, AttributeError) as error:
        raise ArtefactCorrupt(
            f"{COMMIT_FILE} is not a JSON object ({error}); delete this checkpoint"
        ) from error
