"""preemption: on SIGTERM at any rank, all ranks checkpoint and stop after the same step

A scheduler that preempts a machine sends SIGTERM, and SIGKILL some seconds later. The signal
reaches the ranks at different moments, or only one of them, so they have to agree on the step. Each
step starts an asynchronous all-reduce, on a process group of its own, of whether a rank received
the signal. The sum is read when the next step begins, long after it has arrived: no rank waits for
it, nor for its device, and training stops one or two steps after the signal.

Every wait ends: STOP_SECONDS after the signal, or START_SECONDS if no step was taken yet, or at a
second signal, the process exits with status 75 and resumes from its newest checkpoint. Python runs
a handler only when the main thread returns from C, which a collective that waits for a lost rank
does not, so a thread reads the signals from a pipe.

A process handles signals on its main thread, so `install` has to be called there: by
training/pretrain.py, and by launch/cluster/run_on_ray.py on each worker of Ray Train, whose
training function runs on another thread.
"""

import os
import select
import signal
import threading
import time
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from data_prep.core import telemetry
from training.engine.process_group import World

EXIT_STATUS = 75  # as of training/pretrain.py
STOP_SECONDS = 600.0  # for the last checkpoint; schedulers rarely allow as much
START_SECONDS = 30.0  # before the first step there is nothing to save
# Launchers repeat a signal that their process group has received already.
REPEATED_SECONDS = 10.0

requested = threading.Event()
stepping = threading.Event()
"""Set once steps are taken, so that there is something to save."""
_ended = threading.Event()


def install() -> None:
    """Let SIGTERM request a stop instead of ending this process; call it on the main thread."""
    signal.signal(signal.SIGTERM, _request)
    _ended.clear()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    if previous >= 0:  # an event loop of this thread reads the signals
        signal.set_wakeup_fd(previous)
        return
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_watch, args=(read_end,), name="preemption", daemon=True).start()


def end() -> None:
    """Training has ended: a stop need not end this process any more."""
    _ended.set()


def _forget() -> None:
    """In a forked child: SIGTERM ends it, and is not the parent's."""
    with suppress(ValueError):  # not the main thread
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(read_end: int) -> None:
    """Wait for SIGTERM, and exit if the process does not end by itself."""
    first = float("inf")
    while True:
        readable, _, _ = select.select([read_end], [], [], None if first == float("inf") else 0.5)
        is_signal = bool(readable) and signal.SIGTERM in os.read(read_end, 64)
        now = time.monotonic()
        if _ended.is_set():
            return
        if is_signal and first == float("inf"):
            first = now
            requested.set()
            telemetry.logger.warning(
                "SIGTERM: training stops with a checkpoint; this process ends within %.0f s, "
                "or at a second SIGTERM after %.0f s",
                _limit_seconds(),
                REPEATED_SECONDS,
            )
        elif is_signal and now - first > REPEATED_SECONDS:
            _exit("a second SIGTERM")
        elif now - first > _limit_seconds():
            _exit(f"{now - first:.0f} s after SIGTERM")


def _limit_seconds() -> float:
    return STOP_SECONDS if stepping.is_set() else START_SECONDS


def _exit(reason: str) -> None:
    telemetry.logger.error(
        "%s: exiting with status %d; the same command resumes from the newest checkpoint",
        reason,
        EXIT_STATUS,
    )
    os._exit(EXIT_STATUS)


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
