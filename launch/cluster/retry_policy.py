"""retry policy: why a group of training workers failed, and whether it is restarted

A restarted group resumes from the last checkpoint. It is restarted unless it would fail again:

    failure of a rank                          restarted?
    wrong settings                             no: every rank meets it, and returns its message
    out of memory                              only after a new checkpoint: it came late
    artefact missing or corrupt                once: a store may lag, or a cache be damaged
    SIGTERM, a lost node, a killed rank, …     MAX_FAILURES times in a row without a new checkpoint
"""

from typing import Any

from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
    Interrupted,
)
from training.config import RunConfig, TrainConfig

MAX_FAILURES = 3
# of CUDA, of Ray, and of torch on a CPU
OUT_OF_MEMORY = ("out of memory", "outofmemory", "can't allocate memory")


class RetryPolicy:
    """Whether a failed worker group is restarted; see the table at the top of the file."""

    def __init__(self, checkpoint_step: int) -> None:
        self._checkpoint_step = checkpoint_step
        self._n_failures = 0
        self._last_type: type[Exception] | None = None

    def should_retry(self, cause: Exception, checkpoint_step: int) -> bool:
        """After a failure with this cause; checkpoint_step: of the newest checkpoint, 0 if none."""
        has_progressed = checkpoint_step != self._checkpoint_step
        if has_progressed:
            self._checkpoint_step = checkpoint_step
            self._n_failures = 0
            self._last_type = None
        is_repeated = type(cause) is self._last_type
        self._last_type = type(cause)
        self._n_failures += 1
        if isinstance(cause, ConfigurationError):
            return has_progressed
        if isinstance(cause, ArtefactCorrupt | ArtefactMissing):
            return not is_repeated
        return self._n_failures <= MAX_FAILURES


def cause_of_failure(run: RunConfig, error: Any) -> Exception:
    """Why a worker group failed: too little memory with its remedy, an error of ours that a rank
    raised, or Ray's own error.
    """
    failures = list(getattr(error, "worker_failures", {}).values())
    texts = [f"{type(failure).__name__} {failure}".lower() for failure in [*failures, error]]
    if any(words in text for text in texts for words in OUT_OF_MEMORY):
        return ConfigurationError(_out_of_memory_message(run.run_id, run.train))
    ours = [failure for failure in failures if isinstance(failure, HormesisError)]
    # other ranks are interrupted when one fails, so an interruption is the cause only on its own
    ours.sort(key=lambda failure: isinstance(failure, Interrupted))
    return ours[0] if ours else error


def _out_of_memory_message(run_id: str, train: TrainConfig) -> str:
    return (
        f"run {run_id}: a rank ran out of memory; it had train.micro_batch={train.micro_batch}, "
        f"train.compute.activation_checkpointing={train.compute.activation_checkpointing}, "
        f"train.parallel.zero_stage={train.parallel.zero_stage}, "
        f"train.parallel.offload_optimizer={str(train.parallel.offload_optimizer).lower()}. Set "
        "train.micro_batch=auto, train.compute.activation_checkpointing=block, a higher "
        "train.parallel.zero_stage, train.parallel.offload_optimizer=true, or more ranks; the run "
        "resumes from its last checkpoint"
    )
