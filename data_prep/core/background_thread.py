"""run a function in a daemon thread, with a Future; log a block that takes long"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from data_prep.core import telemetry

T = TypeVar("T")


@contextmanager
def log_if_longer(seconds: float, message: str, *arguments: object) -> Iterator[None]:
    """Log the message, at level WARNING, if the block takes longer than this."""
    timer = threading.Timer(seconds, telemetry.logger.warning, (message, *arguments))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def in_background(work: Callable[[], T], name: str) -> Future[T]:
    """The result or the error of `work`, computed in a thread called `name`.

    The thread is a daemon: unlike a pool's, it does not keep a process that is ending alive.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
