"""save training state without stalling, and resume it on any number of ranks

A save copies what this rank holds to host memory (staging.py) and returns, on a GPU before the copy
has ended; the next optimizer step waits for it. Background threads publish the copy
(write_and_commit.py). If the previous save is still being published, a new one waits WAIT_SECONDS
and is then skipped: a second buffer would double the memory, and a store that is too slow for the
interval would fill that as well. A save that failed is a warning and a metric; MAX_FAILED in a row
end the run, for it could not be resumed anywhere.

Resuming takes the newest checkpoint whose blocks verify (verify_and_prune.py), the same on all
ranks; each rank reads only what it needs (restore.py).
"""

import secrets
from concurrent.futures import Future
from time import perf_counter
from typing import Any

from safetensors.torch import save as save_tensors
from torch import Tensor

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, HormesisError, StorageError
from training.checkpoint import verify_and_prune as commits
from training.checkpoint.restore import read_tensors, saved_keys
from training.checkpoint.staging import Staging
from training.checkpoint.verify_and_prune import CheckpointContent, RestoredCheckpoint, RunIdentity
from training.checkpoint.write_and_commit import CheckpointWriter, Snapshot
from training.config import CheckpointConfig
from training.engine import deepspeed_engine, deepspeed_state, process_group

MAX_FAILED = 5
# A skipped save loses steps only if the run dies; waiting always costs time.
WAIT_SECONDS = 30.0
# At the end of a run, a save that takes longer will hardly succeed.
END_SECONDS = 1800.0
LOG_SECONDS = 60.0


class CheckpointManager:
    """The checkpoints of one run, in `folder` (a URI).

    Every rank has one; `save`, `finish` and `restore` are collectives.
    """

    def __init__(
        self,
        folder: str,
        identity: RunIdentity,
        world: process_group.World,
        run_id: str,
        config: CheckpointConfig,
    ) -> None:
        self._folder, self._identity, self._world = folder, identity, world
        self._run_id, self._config = run_id, config
        self._start_id = process_group.broadcast_from_rank0(lambda: secrets.token_hex(4))
        self._n_saves = 0
        self._staging = Staging()
        self._engine: Any = None  # whose optimizer waits for copies
        self._writer = CheckpointWriter(folder, identity, world, run_id, config)

    def prepare(self, engine: Any) -> Future[Tensor] | None:
        """Prepare memory for the first save in the background; once the optimizer has its state.

        The future ends when it is prepared; None: there is nothing to prepare.
        """
        if not self._config.every_steps:
            return None
        return self._staging.prepare(deepspeed_state.local_slices(engine))

    def save(
        self,
        engine: Any,
        step: int,
        train_seconds: float,
        extra: dict[str, Tensor],
        *,
        commit_after: Future[None] | None = None,
        must_save: bool = False,
    ) -> None:
        """Copy the whole state, and `extra` tensors that all ranks have alike, and publish them in
        the background.

        commit_after: commit only once this has succeeded. must_save: wait up to END_SECONDS for the
        previous save, instead of WAIT_SECONDS.

        Raises StorageError on every rank when MAX_FAILED saves in a row could not be published.
        """
        start = perf_counter()
        is_free = self._wait_to_end() if must_save else self._writer.wait(WAIT_SECONDS)
        if not is_free:
            self._warn_skipped(step, END_SECONDS if must_save else WAIT_SECONDS)
            return
        if self._writer.n_failed >= MAX_FAILED:
            raise StorageError(
                f"{self._folder}: {self._writer.n_failed} checkpoints in a row could not be "
                "published (see the warnings above); free or repair the store and run the same "
                "command again: it resumes from the newest checkpoint"
            )
        attempt = f"{self._start_id}-{self._n_saves}"
        self._n_saves += 1
        slices = deepspeed_state.local_slices(engine)
        files = self._staging.copy(slices, f"{attempt}-{self._world.rank:05d}")
        if engine is not self._engine:
            self._engine = engine
            hold = self._staging.wait_on_device
            deepspeed_engine.register_pre_step_hook(engine, lambda _: hold())
        snapshot = Snapshot(
            attempt=attempt,
            started=start,
            step=step,
            optimizer_steps=deepspeed_state.optimizer_steps(engine),
            train_seconds=train_seconds,
            files=files,
            extra=save_tensors(extra) if self._world.rank == 0 else b"",
            parameter_sizes=deepspeed_state.parameter_sizes(engine),
        )
        self._writer.start(snapshot, self._staging, commit_after=commit_after)

    def finish(self) -> bool:
        """Wait until the last save has ended, up to END_SECONDS; whether it was published."""
        return self._wait_to_end() and self._writer.n_failed == 0

    def _wait_to_end(self) -> bool:
        """Whether the last save ended within END_SECONDS; a collective that logs long waits."""
        start = perf_counter()
        while not self._writer.wait(LOG_SECONDS):
            seconds = process_group.broadcast_from_rank0(lambda: perf_counter() - start)
            if self._world.rank == 0:
                telemetry.logger.warning(
                    "%s: the last checkpoint is still being published after %.0f s, at most %.0f s",
                    self._run_id,
                    seconds,
                    END_SECONDS,
                )
            if seconds >= END_SECONDS:
                return False
        return True

    def restore(self, engine: Any, *, max_step: int | None = None) -> RestoredCheckpoint | None:
        """Restore the engine from the newest checkpoint that verifies, None if there is none.

        max_step: ignore checkpoints of later steps. The engine may have trained already.
        """
        self.finish()
        uris = process_group.broadcast_from_rank0(lambda: commits.list_commits(self._folder))
        if max_step is not None:
            uris = [uri for uri in uris if commits.step_of(uri.split("/")[-2]) <= max_step]
        for uri in reversed(uris):
            if restored := self._restore_from(engine, uri):
                return restored
        if uris:
            raise ArtefactCorrupt(
                f"{self._folder}: none of its {len(uris)} checkpoints verifies (the lines above "
                "name file and block); delete this folder to train from the start, or restore it "
                "from a backup"
            )
        return None

    def prune(self, step: int, keep_last: int) -> None:
        """Delete all checkpoints but the `keep_last` newest up to `step` and the permanent ones.

        Only rank 0 may call it.
        """
        commits.prune(self._folder, step, keep_last, self._config.keep_every_steps)

    def _restore_from(self, engine: Any, uri: str) -> RestoredCheckpoint | None:
        """Restore from one checkpoint; None, with a warning, if it is damaged. A collective."""
        content = process_group.broadcast_from_rank0(lambda: self._read_commit(uri))
        if content is None:
            return None
        error = process_group.first_error(lambda: self._read_state(engine, content))
        if error is None:
            deepspeed_state.update_model_weights(engine)
            return content.restored
        if not isinstance(error, ArtefactCorrupt | ArtefactMissing):
            raise error
        if self._world.rank == 0:
            _warn_damaged(error)
        return None

    def _read_commit(self, uri: str) -> CheckpointContent | None:
        try:
            return commits.read_commit(uri, self._identity)
        except (ArtefactCorrupt, ArtefactMissing) as error:
            _warn_damaged(error)
            return None

    def _read_state(self, engine: Any, content: CheckpointContent) -> None:
        commit, manifests = content.restored.commit, content.manifests
        fragments = deepspeed_state.local_fragments(engine)
        deepspeed_state.init_optimizer_state(
            engine, fragments, saved_keys(manifests), commit.optimizer_steps
        )
        wanted = [
            (fragment, deepspeed_state.fragment_tensors(engine, fragment)) for fragment in fragments
        ]
        folder = storage.join(self._folder, commits.step_name(commit.step))
        read_tensors(folder, manifests, wanted)

    def _warn_skipped(self, step: int, waited_seconds: float) -> None:
        if self._world.rank != 0:
            return
        telemetry.emit("hormesis_checkpoints_skipped", 1, run=self._run_id)
        telemetry.logger.warning(
            "%s: skipping the checkpoint of step %d: the previous one was still being published "
            "after %.0f s more; use a faster store or longer checkpoint intervals",
            self._run_id,
            step,
            waited_seconds,
        )


def _warn_damaged(error: HormesisError) -> None:
    telemetry.logger.warning(
        "skipping damaged checkpoint, falling back to the previous one: %s", error
    )
