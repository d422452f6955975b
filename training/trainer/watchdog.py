"""hang detection: a rank that exceeds its time limit dumps all stacks and exits

A rank that waits for another one that will never come waits forever, since DeepSpeed's process
groups do not know the timeouts of Ray or torch, and no launcher sees a reason to act. The loop
announces each phase (a step, a checkpoint, …) with `begin`. A phase may take TOLERANCE times its
longest recent duration, and at least `watchdog_seconds`; the first two of a kind, which compile and
fill caches, may take FIRST_TOLERANCE times `watchdog_seconds`. After that the stacks of all threads
go to the log and to runs/<run>/hung/, and the process exits with status 70 (EX_SOFTWARE), so that
its launcher restarts the worker group.

The watchdog is a thread. It notices a wait inside a collective or a read, which release Python's
lock, but not one that holds that lock.
"""

import faulthandler
import os
import tempfile
import threading
import time
from collections import defaultdict, deque
from typing import Self

from data_prep.core import storage, telemetry

EXIT_STATUS = 70
TOLERANCE, FIRST_TOLERANCE = 10.0, 6.0
RECENT = 64  # durations per kind of phase
PUBLISH_SECONDS = 30.0  # the store may be what hangs


class Watchdog:
    """Hang detection of one rank, as a context manager; min_seconds 0 turns it off."""

    def __init__(self, run_uri: str, rank: int, min_seconds: float) -> None:
        self._run_uri = run_uri
        self._rank = rank
        self._min_seconds = min_seconds
        self._durations: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._kind = "start"
        self._since = time.monotonic()
        self._limit = float("inf")
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._min_seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def begin(self, kind: str) -> None:
        """Begin a phase of this kind; the previous phase has ended."""
        now = time.monotonic()
        self._durations[self._kind].append(now - self._since)
        self._limit = float("inf")  # until kind and start are both new: the thread reads any time
        self._kind = kind
        self._since = now
        self._limit = self.limit_seconds(kind)

    def limit_seconds(self, kind: str) -> float:
        """Time limit of a phase, from its recent durations; the first one does not count."""
        durations = list(self._durations[kind])[1:]
        if not durations:
            return FIRST_TOLERANCE * self._min_seconds
        return max(self._min_seconds, TOLERANCE * max(durations))

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._min_seconds / 4)):
            kind = self._kind
            seconds = time.monotonic() - self._since
            if seconds > self._limit:
                self._exit(
                    f"rank {self._rank}: {kind} has not ended after {seconds:.0f} s, the limit is "
                    f"{self._limit:.0f} s"
                )

    def _exit(self, reason: str) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = f"{reason}\n{file.read()}"
        telemetry.logger.error(
            "%s; this process exits with status %d, and a restart resumes from the last checkpoint",
            text,
            EXIT_STATUS,
        )
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-rank-{self._rank}.txt"
        uri = storage.join(self._run_uri, "hung", name)
        upload = threading.Thread(target=storage.write, args=(uri, text.encode()), daemon=True)
        upload.start()
        upload.join(PUBLISH_SECONDS)
        os._exit(EXIT_STATUS)
