"""garbage collection between steps only, at the same step on all ranks"""

import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WARM_UP_STEPS = 2  # objects alive after them stay alive: optimizer state, compiled code
COLLECT_EVERY_STEPS = 1000


def gc_between_steps(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, one per step, and run Python's garbage collector between steps only.

    A collection walks the objects of all libraries, which takes 0.1 s and more. By default it runs
    whenever allocation triggers it, on each rank at another time, and all ranks wait for each. Here
    it runs once after the warm-up, then freezes what is alive, and runs again every
    COLLECT_EVERY_STEPS steps, at the same step on all ranks.
    """
    was_enabled = gc.isenabled()
    try:
        for n_steps, item in enumerate(items):
            if n_steps == WARM_UP_STEPS:
                gc.collect()
                gc.freeze()
                gc.disable()
            elif n_steps > WARM_UP_STEPS and n_steps % COLLECT_EVERY_STEPS == 0:
                gc.collect()
            yield item
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
