"""write one checkpoint in the background: a rank's files, then the commit on rank 0

One thread hashes and uploads this rank's files and writes its manifest. On rank 0 another waits
until the manifests of all ranks of this attempt are there, checks that together they hold the whole
state, and commits.
"""

import threading
from collections import defaultdict
from concurrent.futures import Future
from time import perf_counter
from typing import NamedTuple

from data_prep.core import storage, telemetry
from data_prep.core.background_thread import in_background
from data_prep.core.errors import HormesisError, StorageError
from data_prep.core.records import from_json
from training.checkpoint import verify_and_prune as commits
from training.checkpoint.restore import saved_slices
from training.checkpoint.staging import StagedFile, Staging, describe_file
from training.checkpoint.verify_and_prune import COMMIT_FILE, FORMAT_VERSION, Commit, RunIdentity
from training.config import CheckpointConfig
from training.engine import process_group
from training.engine.process_group import World
from training.engine.state_layout import RankManifest

POLL_SECONDS = (0.02, 1.0)  # between looks for other ranks' manifests: at first, and at most
LOG_SECONDS = 60.0  # between lines about a wait
# The slowest rank's upload; a store that needs longer needs larger checkpoint intervals.
UPLOAD_SECONDS = 1800.0
# Once every rank has written its manifest: NFS shows a new file after 60 s at most, S3 at once.
VISIBLE_SECONDS = 90.0
METRICS_SECONDS = 600.0  # for the metrics log that a commit waits for


class Snapshot(NamedTuple):
    """The training state at one step, copied to host memory.

    started: when the save began, by perf_counter. files: this rank's, in the staging buffer. extra:
    the encoded extra tensors, on rank 0. parameter_sizes: elements of each whole parameter.
    """

    attempt: str
    started: float
    step: int
    optimizer_steps: int
    train_seconds: float
    files: list[StagedFile]
    extra: bytes
    parameter_sizes: dict[str, int]


class _Uploads(NamedTuple):
    """What rank 0 knows of the uploads of all ranks: one failed; all have succeeded."""

    failed: threading.Event
    succeeded: threading.Event


class _State(NamedTuple):
    """State of background work, as numbers to sum over ranks: 1 if busy, 1 if failed."""

    busy: float
    failed: float


class CheckpointWriter:
    """Writes the checkpoints of one run to `folder` (a URI), one at a time."""

    def __init__(
        self,
        folder: str,
        identity: RunIdentity,
        world: World,
        run_id: str,
        config: CheckpointConfig,
    ) -> None:
        self._folder, self._identity, self._world = folder, identity, world
        self._run_id, self._config = run_id, config
        self._upload: Future[None] | None = None
        self._commit: Future[None] | None = None  # on rank 0
        self._uploads = _Uploads(threading.Event(), threading.Event())
        self.n_failed = 0
        """Writes that failed in a row."""

    def start(
        self, snapshot: Snapshot, staging: Staging, *, commit_after: Future[None] | None
    ) -> None:
        """Start writing; the commit waits until `commit_after`, if given, has succeeded."""
        self._uploads = uploads = _Uploads(threading.Event(), threading.Event())
        self._upload = in_background(lambda: self._upload_files(snapshot, staging), "checkpoint")
        if self._world.rank == 0:
            self._commit = in_background(
                lambda: self._write_commit(snapshot, uploads, commit_after), "commit"
            )

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the last write has ended on every rank, waiting up to the timeout; a collective.

        Updates n_failed.
        """
        if self._upload is None:
            return True
        state = _state(self._upload, timeout_seconds)
        state = _State(*process_group.sum_over_ranks(self._world, *state))
        if state.failed:
            self._uploads.failed.set()  # the commit need not wait for that rank's manifest
        elif not state.busy:
            self._uploads.succeeded.set()
            state = process_group.broadcast_from_rank0(
                lambda: _state(self._commit, timeout_seconds)
            )
        if state.busy:
            return False
        self._upload = self._commit = None
        self.n_failed = self.n_failed + 1 if state.failed else 0
        if self._world.rank == 0:
            telemetry.emit("hormesis_checkpoints_failed", state.failed, run=self._run_id)
        return True

    def _upload_files(self, snapshot: Snapshot, staging: Staging) -> None:
        folder = storage.join(self._folder, commits.step_name(snapshot.step))
        rank, files = self._world.rank, []
        staging.wait()
        stall_seconds = perf_counter() - snapshot.started
        telemetry.emit("hormesis_checkpoint_stall_seconds", stall_seconds, run=self._run_id)
        try:
            for file in snapshot.files:
                content = staging.content(file)
                files.append(describe_file(file, content))
                storage.write(storage.join(folder, file.name), content)
            manifest = RankManifest(rank=rank, files=tuple(files))
            storage.save(manifest, storage.join(folder, f"{snapshot.attempt}-{rank:05d}.json"))
        except HormesisError as error:
            self._warn(snapshot.step, error)
            raise

    def _write_commit(
        self, snapshot: Snapshot, uploads: _Uploads, after: Future[None] | None
    ) -> None:
        start = perf_counter()
        folder = storage.join(self._folder, commits.step_name(snapshot.step))
        try:
            uris = self._wait_for_manifests(folder, snapshot, uploads)
            texts = [storage.read(uri) for uri in uris]
            manifests = [
                from_json(RankManifest, text, uri) for text, uri in zip(texts, uris, strict=True)
            ]
            _assert_complete(manifests, snapshot.parameter_sizes)
            n_bytes = sum(file.n_bytes for manifest in manifests for file in manifest.files)
            extra_uri = storage.join(folder, f"{snapshot.attempt}-extra.safetensors")
            storage.write(extra_uri, snapshot.extra)
            if after:
                _wait_for_metrics(after)
            commit = Commit(
                format_version=FORMAT_VERSION,
                run_digest=self._identity.run_digest,
                data_digest=self._identity.data_digest,
                attempt=snapshot.attempt,
                step=snapshot.step,
                optimizer_steps=snapshot.optimizer_steps,
                train_seconds=snapshot.train_seconds,
                n_bytes=n_bytes,
                rank_manifests=tuple(map(commits.sha256, texts)),
                extra=commits.sha256(snapshot.extra),
            )
            storage.save(commit, storage.join(folder, COMMIT_FILE))
            self._delete_other_attempts(snapshot)
            # one is needed to resume
            keep_last = max(1, self._config.keep_last)
            commits.prune(self._folder, snapshot.step, keep_last, self._config.keep_every_steps)
        except HormesisError as error:
            self._warn(snapshot.step, error)
            raise
        telemetry.emit("hormesis_checkpoint_seconds", perf_counter() - start, run=self._run_id)
        telemetry.emit("hormesis_checkpoint_bytes", n_bytes, run=self._run_id)

    def _wait_for_manifests(self, folder: str, snapshot: Snapshot, uploads: _Uploads) -> list[str]:
        """URIs of the manifests of all ranks, in order of rank.

        Raises StorageError when a rank's upload failed, or a manifest does not appear in time.
        """
        pause, longest_pause = POLL_SECONDS
        start = logged = perf_counter()
        deadline = start + UPLOAD_SECONDS
        while True:
            uris = storage.list_files(folder, f"{snapshot.attempt}-*.json")
            if len(uris) == self._world.size:
                return uris
            if uploads.failed.wait(pause):
                raise StorageError(
                    f"{folder}: a rank could not write its files; its own warning says why"
                )
            now = perf_counter()
            if uploads.succeeded.is_set():
                deadline = min(deadline, now + VISIBLE_SECONDS)
            found = f"{len(uris)} of {self._world.size} rank manifests"
            if now > deadline:
                raise StorageError(
                    f"{folder}: {found} are visible after {now - start:.0f} s; expected all: every "
                    "rank must see the same store, so a local --out must be a folder that all "
                    "nodes share"
                )
            if now - logged > LOG_SECONDS:
                logged = now
                telemetry.logger.info("%s: waiting, %s are there", folder, found)
            pause = min(2 * pause, longest_pause)

    def _delete_other_attempts(self, snapshot: Snapshot) -> None:
        """Delete what a killed attempt left in this checkpoint's folder."""
        own = (COMMIT_FILE, f"{snapshot.attempt}-")
        files = commits.list_files(self._folder)[commits.step_name(snapshot.step)]
        others = [uri for uri in files if not uri.rpartition("/")[2].startswith(own)]
        storage.delete_below(self._folder, others)

    def _warn(self, step: int, error: HormesisError) -> None:
        telemetry.logger.warning(
            "%s: checkpoint %s is not published, training continues: %s",
            self._run_id,
            commits.step_name(step),
            error,
        )


def _wait_for_metrics(published: Future[None]) -> None:
    try:
        published.result(METRICS_SECONDS)
    except TimeoutError:  # not passed on: it would look like a write that is under way
        raise StorageError(
            f"the metrics log was not published within {METRICS_SECONDS:.0f} s; check the store"
        ) from None


def _state(future: Future[None] | None, timeout_seconds: float) -> _State:
    """State of a thread's work after the timeout; raises errors other than a HormesisError."""
    try:
        assert future is not None
        future.result(timeout_seconds)
    except TimeoutError:
        return _State(busy=1.0, failed=0.0)
    except HormesisError:
        return _State(busy=0.0, failed=1.0)
    return _State(busy=0.0, failed=0.0)


def _assert_complete(manifests: list[RankManifest], parameter_sizes: dict[str, int]) -> None:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for part in saved_slices(manifests):
        counts[part.name, part.key] += part.count
    saved_parameters = {name for name, key in counts if key == "parameter"}
    assert saved_parameters == set(parameter_sizes), (set(parameter_sizes), counts)
    wrong = {tensor: n for tensor, n in counts.items() if n != parameter_sizes[tensor[0]]}
    assert not wrong, f"elements saved more than once, or not at all: {wrong}"
