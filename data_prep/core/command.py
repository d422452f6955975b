"""end a command as its users expect: an exit status, and one line instead of a traceback

     0  done
     2  refused or failed, with one line that says why and what to do
    75  training was stopped by SIGTERM, after a checkpoint (training/pretrain.py)
   130  stopped by Ctrl-C
   141  the reader of the output has left: `sweep.py --settings | head -1`
   143  stopped by SIGTERM

A second Ctrl-C ends the process at once: interrupting a teardown of Ray's has crashed it.

A traceback is left for faults of ours. Characters that the terminal's encoding lacks are replaced:
a result that took days must not be lost to a locale.
"""

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, ParamSpec

from data_prep.core import telemetry
from data_prep.core.errors import HormesisError, environment_error

REFUSED = 2
INTERRUPTED = 130
OUTPUT_CLOSED = 141
TERMINATED = 143
END_SECONDS = 20.0  # after a signal: threads that still wait for a store do not delay the end

P = ParamSpec("P")


_sigterm = threading.Event()


class Terminated(SystemExit):
    """SIGTERM ends this command."""


def entry_command(main: Callable[P, int]) -> Callable[P, int]:
    """Make `main` return its exit status after any error that a user can fix."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        _prepare_streams()
        try:
            with _interrupted_once():
                try:
                    return main(*args, **kwargs)
                finally:
                    sys.stdout.flush()  # here, where a closed pipe or a full disk can be reported
        except BaseException as error:
            if _sigterm.is_set() or isinstance(error, Terminated):
                telemetry.close_bars()
                # whatever was raised: Ray's wait, for one, turns Terminated into SystemExit(1)
                return _stopped("stopped by SIGTERM", TERMINATED)
            status = _status_of(error)
            if status is None:
                raise
            return status

    return run


def _status_of(error: BaseException) -> int | None:
    """The exit status after an error, which is printed; None for a fault of ours."""
    telemetry.close_bars()
    if isinstance(error, HormesisError):
        return _refuse(str(error))
    if isinstance(error, KeyboardInterrupt):
        return _stopped("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return OUTPUT_CLOSED
    if isinstance(error, Exception) and (known := environment_error(error)):
        _discard_output()
        return _refuse(str(known))
    return None


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Within the block, the first Ctrl-C raises KeyboardInterrupt and the second ends the process
    at once, with its status and its line. What a local Ray started ends with the process.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # Ctrl-C is ignored in a background job
        return
    is_interrupted = False

    def interrupt(*_: Any) -> NoReturn:
        nonlocal is_interrupted
        if is_interrupted:
            if _is_first_rank():
                os.write(2, f"{_stopped_line('interrupted')}\n".encode())  # print may hold a lock
            os._exit(INTERRUPTED)
        is_interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if not is_interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def terminate(*_: Any) -> NoReturn:
    """A handler of SIGTERM that ends the command, and what it started, within END_SECONDS."""
    _sigterm.set()
    _end_within(END_SECONDS, TERMINATED)
    raise Terminated(TERMINATED)


def _refuse(message: str) -> int:
    print(f"error: {_one_line(message)}", file=sys.stderr)
    return REFUSED


def _one_line(text: str) -> str:
    """The text without line ends, and with control characters of file names escaped."""
    line = " ".join(part.strip() for part in text.splitlines())
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: ascii(match[0])[1:-1], line)


def _stopped(reason: str, status: int) -> int:
    if _is_first_rank():
        print(_stopped_line(reason), file=sys.stderr)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: os._exit(status))
    _end_within(END_SECONDS, status)
    return status


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _stopped_line(reason: str) -> str:
    return f"{reason}; the same command continues from what is done"


def _end_within(seconds: float, status: int) -> None:
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


def _prepare_streams() -> None:
    """Make the standard streams usable, whatever the locale is and whichever of them is closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # the file opened next would take its number
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # a descriptor
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _discard_output() -> None:
    """Let Python's own flush at exit succeed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
