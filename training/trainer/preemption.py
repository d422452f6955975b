"""asked to stop: SIGTERM on any rank → all ranks stop after the same step, with a checkpoint

A scheduler that takes a machine back sends SIGTERM, and SIGKILL some seconds later. The signal
reaches ranks at different moments, or one of them alone, so they have to agree on the step. Each
step begins to add up, in the background and on a group of its own, who has been asked; the sum is
read when the next step begins, and is there since long: no rank waits for it, nor for its device,
and training stops one or two steps after the signal.

Signals are handled on a process's main thread. `install` belongs there: training/pretrain.py calls
it, and for Ray Train, whose train function runs on another thread, launch/cluster.py has it called
on each worker.
"""

import signal
import threading
from typing import Any

import torch
from torch import Tensor

from training.engine.process_group import World

requested = threading.Event()


def install() -> None:
    """From now on SIGTERM asks training to stop, and no longer ends this process; for the main
    thread.
    """
    signal.signal(signal.SIGTERM, _ask)


def _ask(*_: Any) -> None:
    requested.set()  # and no line of log: the signal may have come while one was being written


class Agreement:
    """Whether to stop, decided alike on all ranks; each makes one, and asks it once a step."""

    def __init__(self, world: World) -> None:
        alone = world.size == 1
        self._group = (
            None if alone else torch.distributed.new_group(backend="gloo")
        )  # on CUDA, too: the host asks
        self._under_way: tuple[Any, Tensor] | None = None

    def reached(self) -> bool:
        """Whether some rank had been asked when the step before began; alone, by now."""
        if self._group is None:
            return requested.is_set()
        reached = self._read()
        asked = torch.tensor([requested.is_set()], dtype=torch.int32)
        self._under_way = (
            torch.distributed.all_reduce(asked, group=self._group, async_op=True),
            asked,
        )
        return reached

    def _read(self) -> bool:
        if self._under_way is None:
            return False
        work, asked = self._under_way
        work.wait()
        return bool(asked)
