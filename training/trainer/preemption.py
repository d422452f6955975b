"""preemption: on SIGTERM at any rank, all ranks checkpoint and stop after the same step

A scheduler that preempts a machine sends SIGTERM, and SIGKILL some seconds later. The signal
reaches the ranks at different moments, or only one of them, so they have to agree on the step. Each
step starts an asynchronous all-reduce, on a process group of its own, of whether a rank received
the signal. The sum is read when the next step begins, long after it has arrived: no rank waits for
it, nor for its device, and training stops one or two steps after the signal.

A process handles signals on its main thread, so `install` has to be called there: by
training/pretrain.py, and by launch/cluster.py on each worker of Ray Train, whose training function
runs on another thread.
"""

import signal
import threading
from typing import Any

import torch
from torch import Tensor

from training.engine.process_group import World

requested = threading.Event()


def install() -> None:
    """Let SIGTERM request a stop instead of ending this process; call it on the main thread."""
    signal.signal(signal.SIGTERM, _request)


def _request(*_: Any) -> None:
    requested.set()  # no log line here: the signal may interrupt one that is being written


class StopVote:
    """Whether to stop, decided alike on all ranks; every rank calls `is_stopping` once per step."""

    def __init__(self, world: World) -> None:
        self._group = None
        if world.size > 1:  # gloo on CUDA as well, since the host reads the result
            self._group = torch.distributed.new_group(backend="gloo")
        self._pending: tuple[Any, Tensor] | None = None

    def is_stopping(self) -> bool:
        """Whether any rank had received the signal when the previous step began.

        A single rank answers for the present moment.
        """
        if self._group is None:
            return requested.is_set()
        is_stopping = self._wait_for_previous()
        vote = torch.tensor([requested.is_set()], dtype=torch.int32)
        work = torch.distributed.all_reduce(vote, group=self._group, async_op=True)
        self._pending = (work, vote)
        return is_stopping

    def _wait_for_previous(self) -> bool:
        if self._pending is None:
            return False
        work, vote = self._pending
        work.wait()
        return bool(vote)
