"""Whether a failed worker group is restarted, by the cause and the progress of its run."""

import pytest

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, Interrupted, StorageError
from launch.cluster.retry_policy import MAX_FAILURES, RetryPolicy

CORRUPT = ArtefactCorrupt("block 0")
MEMORY = ConfigurationError("memory")
PREEMPTED = Interrupted("stop")
STORE = StorageError("403")


def n_starts(failures: list[tuple[Exception, int]]) -> int:
    """How many worker groups are started if they fail like this, one after the other.

    failures: the cause, and the step of the newest checkpoint.
    """
    policy = RetryPolicy(0)
    for n, (cause, checkpoint_step) in enumerate(failures, 1):
        if not policy.should_retry(cause, checkpoint_step):
            return n
    return len(failures) + 1


@pytest.mark.parametrize(
    ("failures", "n"),
    [
        ([(MEMORY, 0)], 1),
        ([(MEMORY, 2), (MEMORY, 2), (MEMORY, 2)], 2),
        ([(CORRUPT, 0)] * 9, 2),
        ([(CORRUPT, 0), (STORE, 0), (CORRUPT, 0)] * 3, MAX_FAILURES + 1),
        ([(CORRUPT, 0), (CORRUPT, 2), (CORRUPT, 2)], 3),
        ([(STORE, 0)] * 9, MAX_FAILURES + 1),
        ([(STORE, 1 + n // MAX_FAILURES) for n in range(30)], 31),
        ([(PREEMPTED, 1 + n) for n in range(30)], 31),
    ],
    ids=[
        "out of memory",
        "out of memory after a checkpoint",
        "corrupt",
        "corrupt and store down",
        "corrupt after a checkpoint",
        "store down",
        "store down with progress",
        "preempted",
    ],
)
def test_a_worker_group_restarts_only_after_what_may_not_recur(
    failures: list[tuple[Exception, int]], n: int
):
    assert n_starts(failures) == n
