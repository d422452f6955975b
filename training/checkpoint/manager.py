"""save without stalling, publish to object storage, resume on any world size

    checkpoints/step-00000200/5f3c9a12-0-00000-000.safetensors     one rank's pieces (state_layout.py), in files of bounded size
                              5f3c9a12-0-00000.json                its share: which pieces, where, and the files' checksums
                              5f3c9a12-0-extra.safetensors         what else the loop must remember: small tensors
                              commit.json                          written last: no commit, no checkpoint

A save copies what this rank holds to host memory (staging.py) and returns. A thread hashes and
uploads it, and writes the share; on rank 0 another waits until all shares of this attempt are
there, checks that they make up the whole state, and commits. An attempt is one save of one start of
the program, so what a killed one left never counts. DeepSpeed's own format was the alternative: a
pickle a rank, loaded on another world size only after an offline conversion, and not from S3.

If the save before is still being published, a new one waits WAIT_SECONDS and is then
left out: a second buffer would cost as much memory as the first, and a store that is too slow for
the interval would fill that as well. A save that failed is a warning and a metric; MAX_FAILED in a
row end the run, for it could not go on anywhere.

Resuming takes the newest commit whose blocks verify, on all ranks alike, each reading only what it
needs (restore.py).
"""

import hashlib
import json
import secrets
import threading
from collections import defaultdict
from concurrent.futures import Future
from time import perf_counter
from typing import Any, NamedTuple

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from data_prep.core import storage, telemetry
from data_prep.core.background import in_background
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
    StorageError,
)
from data_prep.core.records import from_json, record
from training.checkpoint import restore as restoring
from training.checkpoint.staging import StagedFile, Staging, describe_file
from training.config import CheckpointConfig
from training.engine import deepspeed_state, process_group
from training.engine.state_layout import RankManifest

FORMAT_VERSION = 2
COMMIT = "commit.json"
MAX_FAILED = 5
WAIT_SECONDS = 30.0  # a skipped save costs steps if the run dies, waiting costs time for certain
POLL_SECONDS = (0.02, 1.0)  # between looks for the other ranks' shares: at first, and at most


@record
class Commit:
    """What a checkpoint holds; its existence means the checkpoint is whole.

    step: optimizer steps done, so the next batch's number. optimizer_steps: those AdamW counted
    (non-finite ones are skipped).
    run_digest, data_digest: of the run's settings and of both manifests; train_seconds: spent in
    steps so far. shares: sha256 of each rank's share, in order; extra: of the file of extra
    tensors.
    """

    format_version: int
    run_digest: str
    data_digest: str
    attempt: str
    step: int
    optimizer_steps: int
    train_seconds: float
    n_bytes: int
    shares: tuple[str, ...]
    extra: str


class RunIdentity(NamedTuple):
    """What must be equal for a checkpoint to be this run's."""

    run_digest: str
    data_digest: str


class RestoredCheckpoint(NamedTuple):
    """What an engine was set to: the commit, and the extra tensors that were saved with it, on the
    CPU.
    """

    commit: Commit
    extra: dict[str, Tensor]


class CheckpointManager:
    """The checkpoints of one run, in `folder` (a URI). All ranks make one, and call `save`,
    `finish` and `restore` alike.
    """

    def __init__(
        self,
        folder: str,
        identity: RunIdentity,
        world: process_group.World,
        label: str,
        config: CheckpointConfig,
    ) -> None:
        self._folder, self._identity, self._world, self._label, self._config = (
            folder,
            identity,
            world,
            label,
            config,
        )
        self._start, self._n_saves, self._n_failed = (
            process_group.broadcast_from_rank0(lambda: secrets.token_hex(4)),
            0,
            0,
        )
        self._staging = Staging()
        self._uploaded: Future[None] | None = None
        self._committed: Future[None] | None = None  # on rank 0
        self._given_up = threading.Event()

    def save(
        self,
        engine: Any,
        step: int,
        train_seconds: float,
        extra: dict[str, Tensor],
        *,
        after: Future[None] | None = None,
        in_any_case: bool = False,
    ) -> None:
        """Copy the whole state, and `extra` tensors that all ranks have alike, and publish them in
        the background; committed `after` that, if given, has ended well. Left out if the save
        before takes too long, unless it is wanted in any case.

        Raises StorageError on every rank when MAX_FAILED saves in a row could not be published.
        """
        start = perf_counter()
        if not self._ended(None if in_any_case else WAIT_SECONDS):
            if self._world.rank == 0:
                telemetry.emit("hormesis_checkpoints_skipped", 1, run=self._label)
                telemetry.logger.warning(
                    "%s: the checkpoint of step %d is left out: after %.0f s more the one before is still being published; a "
                    "faster store, or checkpoints at longer intervals, would keep up",
                    self._label,
                    step,
                    WAIT_SECONDS,
                )
            return
        if self._n_failed >= MAX_FAILED:
            raise StorageError(
                f"{self._folder}: {self._n_failed} checkpoints in a row could not be published (the warnings above say why); free "
                "or repair the store and run the same command again: it goes on from the newest checkpoint"
            )
        attempt = f"{self._start}-{self._n_saves}"
        self._n_saves += 1
        images = self._staging.copy(
            deepspeed_state.local_slices(engine), f"{attempt}-{self._world.rank:05d}"
        )
        facts = {"attempt": attempt, "step": step, "train_seconds": train_seconds}
        facts["optimizer_steps"] = deepspeed_state.optimizer_steps(engine)
        self._given_up = threading.Event()
        self._uploaded = in_background(
            lambda: self._upload(_name(step), attempt, images), "checkpoint"
        )
        if self._world.rank == 0:
            sizes, given_up, kept = (
                deepspeed_state.parameter_sizes(engine),
                self._given_up,
                save_tensors(extra),
            )
            self._committed = in_background(
                lambda: self._commit(facts, sizes, kept, given_up, after), "commit"
            )
        telemetry.emit("hormesis_checkpoint_stall_seconds", perf_counter() - start, run=self._label)

    def finish(self) -> bool:
        """Wait until what was saved is published; whether it was."""
        self._ended(None)
        return self._n_failed == 0

    def restore(self, engine: Any, *, at_most: int | None = None) -> RestoredCheckpoint | None:
        """Set the engine's state from the newest checkpoint that verifies, of a step `at_most`
        where given; None if there is none.

        An engine that has trained already may be set back.
        """
        self.finish()
        uris = process_group.broadcast_from_rank0(
            lambda: storage.glob(storage.join(self._folder, "step-*", COMMIT))
        )
        uris = [uri for uri in uris if at_most is None or uri.split("/")[-2] <= _name(at_most)]
        for uri in reversed(uris):
            found = process_group.broadcast_from_rank0(lambda uri=uri: self._load(uri))
            problem = (
                process_group.first_error(
                    lambda found=found: self._fill(engine, found[0].commit, found[1])
                )
                if found
                else None
            )
            if found and problem is None:
                deepspeed_state.update_model_weights(engine)
                return found[0]
            if problem and not isinstance(problem, ArtefactCorrupt | ArtefactMissing):
                raise problem
            if problem and self._world.rank == 0:
                _pass_over(problem)
        if uris:
            raise ArtefactCorrupt(
                f"{self._folder}: none of its {len(uris)} checkpoints verifies (the lines above name file and block); delete "
                "this folder to train from the start, or restore it from a copy"
            )
        return None

    def prune(self, step: int, keep: int) -> None:
        """Leave the `keep` newest up to `step` and those kept for good; later ones did not verify,
        or this run would not be at `step`. For rank 0.
        """
        folders = self._folders()
        past = sorted(name for name in folders if name <= _name(step))
        kept = set(past[max(0, len(past) - keep) :])
        if self._config.keep_every_steps:
            kept |= {
                name
                for name in past
                if int(name.removeprefix("step-")) % self._config.keep_every_steps == 0
            }
        for name in folders.keys() - kept:
            for uri in sorted(folders[name], key=lambda uri: not uri.endswith(COMMIT)):
                storage.delete(uri)  # the commit first: half a checkpoint must not look whole

    def _ended(self, seconds: float | None) -> bool:
        """Whether the save before has ended on every rank, after at most `seconds`; counts failures
        in a row. A collective.
        """
        if self._uploaded is None:
            return True
        busy, failed = process_group.sum_over_ranks(self._world, *_state(self._uploaded, seconds))
        if failed:
            self._given_up.set()  # a share will not come
        if busy:
            return False
        if not failed:
            busy, failed = process_group.broadcast_from_rank0(
                lambda: _state(self._committed, seconds)
            )
        if busy:
            return False
        self._uploaded = self._committed = None
        self._n_failed = self._n_failed + 1 if failed else 0
        if self._world.rank == 0:
            telemetry.emit("hormesis_checkpoints_failed", failed, run=self._label)
        return True

    def _upload(self, name: str, attempt: str, images: list[StagedFile]) -> None:
        folder, files, rank = storage.join(self._folder, name), [], self._world.rank
        try:
            for image in images:
                content = self._staging.content(image)
                files.append(describe_file(image, content))
                storage.write(storage.join(folder, image.name), content)
            storage.save(
                RankManifest(rank=rank, files=tuple(files)),
                storage.join(folder, f"{attempt}-{rank:05d}.json"),
            )
        except HormesisError as error:
            self._warn(name, error)
            raise

    def _commit(
        self,
        facts: dict[str, Any],
        sizes: dict[str, int],
        extra: bytes,
        given_up: threading.Event,
        after: Future[None] | None,
    ) -> None:
        start, name = perf_counter(), _name(facts["step"])
        folder, pause = storage.join(self._folder, name), POLL_SECONDS[0]
        try:
            while (
                len(uris := storage.glob(storage.join(folder, f"{facts['attempt']}-*.json")))
                < self._world.size
            ):
                if given_up.wait(pause):
                    raise StorageError(
                        f"{folder}: a rank could not write its share; its own line says why"
                    )
                pause = min(2 * pause, POLL_SECONDS[1])
            texts = [storage.read(uri) for uri in uris]
            shares = [
                from_json(RankManifest, text, uri) for text, uri in zip(texts, uris, strict=True)
            ]
            _expect_whole(shares, sizes)
            n_bytes = sum(file.n_bytes for share in shares for file in share.files)
            storage.write(storage.join(folder, f"{facts['attempt']}-extra.safetensors"), extra)
            facts |= {
                "n_bytes": n_bytes,
                "shares": tuple(map(_sha256, texts)),
                "extra": _sha256(extra),
            }
            if after:
                after.result()
            made = Commit(format_version=FORMAT_VERSION, **self._identity._asdict(), **facts)
            storage.save(made, storage.join(folder, COMMIT))
            for uri in self._folders()[name]:
                if not uri.rpartition("/")[2].startswith((COMMIT, f"{facts['attempt']}-")):
                    storage.delete(uri)  # of an attempt that was killed
            self.prune(facts["step"], max(1, self._config.keep_last))  # one is needed to resume
        except HormesisError as error:
            self._warn(name, error)
            raise
        telemetry.emit("hormesis_checkpoint_seconds", perf_counter() - start, run=self._label)
        telemetry.emit("hormesis_checkpoint_bytes", n_bytes, run=self._label)

    def _warn(self, name: str, error: HormesisError) -> None:
        telemetry.logger.warning(
            "%s: checkpoint %s is not published, training goes on: %s", self._label, name, error
        )

    def _folders(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for uri in storage.glob(storage.join(self._folder, "step-*", "*")):
            found[uri.split("/")[-2]].append(uri)
        return found

    def _load(self, uri: str) -> tuple[RestoredCheckpoint, list[RankManifest]] | None:
        """A commit, its extra tensors and shares; None, with a warning, if they are damaged.
        ConfigurationError if it is another run's.
        """
        try:
            text = storage.read(uri)
            for name, mine in (
                ("format_version", FORMAT_VERSION),
                *self._identity._asdict().items(),
            ):
                theirs = _field(text, name)
                if theirs != mine:
                    raise ConfigurationError(
                        f"{uri}: its {name} is {theirs}, this run's is {mine}: a checkpoint of other settings, data or program; "
                        "plan the run under another id, or delete this checkpoints folder to train from the start"
                    )
            commit = from_json(Commit, text, uri)
            beside = storage.join(uri.rpartition("/")[0], commit.attempt)
            extra = _expected(f"{beside}-extra.safetensors", commit.extra)
            uris = [f"{beside}-{rank:05d}.json" for rank in range(len(commit.shares))]
            shares = [
                from_json(RankManifest, _expected(*each), each[0])
                for each in zip(uris, commit.shares, strict=True)
            ]
            return RestoredCheckpoint(commit, load_tensors(extra)), shares
        except (ArtefactCorrupt, ArtefactMissing) as error:
            _pass_over(error)
            return None

    def _fill(self, engine: Any, commit: Commit, shares: list[RankManifest]) -> None:
        held = deepspeed_state.local_fragments(engine)
        deepspeed_state.init_optimizer_state(
            engine, held, restoring.saved_keys(shares), commit.optimizer_steps
        )
        wanted = [
            (fragment, deepspeed_state.fragment_tensors(engine, fragment)) for fragment in held
        ]
        restoring.read_tensors(storage.join(self._folder, _name(commit.step)), shares, wanted)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _expected(uri: str, sha256: str) -> bytes:
    """What is at `uri`, verified."""
    content = storage.read(uri)
    if _sha256(content) != sha256:
        raise ArtefactCorrupt(f"{uri}: is not what its commit names; delete the commit")
    return content


def _state(future: Future[None] | None, seconds: float | None) -> tuple[float, float]:
    """(still busy after `seconds`, failed) of a thread's work, as 0 or 1; what is no error of ours
    is raised.
    """
    try:
        assert future is not None
        future.result(seconds)
    except TimeoutError:
        return 1.0, 0.0
    except HormesisError:
        return 0.0, 1.0
    return 0.0, 0.0


def _field(text: bytes, name: str) -> Any:
    """One field of a JSON object, before it is known which program wrote it."""
    try:
        return json.loads(text).get(name)
    except (ValueError, AttributeError) as error:
        raise ArtefactCorrupt(f"a commit is no JSON object ({error}); delete it") from error


def _pass_over(problem: HormesisError) -> None:
    telemetry.logger.warning("checkpoint passed over, the one before is tried: %s", problem)


def _expect_whole(shares: list[RankManifest], sizes: dict[str, int]) -> None:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for piece in (piece for share in shares for file in share.files for piece in file.pieces):
        counts[piece.name, piece.key] += piece.count
    assert {name for name, key in counts if key == "parameter"} == set(sizes), (set(sizes), counts)
    wrong = {part: n for part, n in counts.items() if n != sizes[part[0]]}
    assert not wrong, f"elements saved more than once, or not at all: {wrong}"
