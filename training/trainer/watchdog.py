"""a process in which no step ends any more writes down where it stands, and ends

DeepSpeed's process groups know no timeout of Ray's or torch's, so a rank that waits for one that
will not come waits for ever, and no launcher sees a reason to act. What the loop does next (a step,
a checkpoint, …) it announces with `expect`; each kind has the time of its longest of late, times
TOLERANCE, but never less than `watchdog_seconds`. The first two of a kind, with compilation and
caches to fill, have FIRST_TOLERANCE times those. When the time is over, the stacks of all threads
go to the log and to runs/<run>/hung/, and the process ends with status 70 (EX_SOFTWARE), for
whatever launched it to start the gang again.

It is a thread, so it sees a wait inside a collective or a read, which release Python's lock, but
not one that holds that lock.
"""

import faulthandler
import os
import tempfile
import threading
import time
from collections import defaultdict, deque
from typing import Self

from data_prep.core import storage, telemetry
from training.run.run_context import Job

STATUS = 70
TOLERANCE, FIRST_TOLERANCE = 10.0, 6.0
REMEMBERED = 64
PUBLISH_SECONDS = 30.0  # the store may be what hangs


class Watchdog:
    """Of one run on one rank; a context. With watchdog_seconds 0 it does nothing."""

    def __init__(self, job: Job) -> None:
        self._run_uri, self._rank, self._least = (
            job.uri,
            job.world.rank,
            job.run.train.guard.watchdog_seconds,
        )
        self._took: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._kind, self._since, self._limit = "start", time.monotonic(), float("inf")
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._least:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def expect(self, kind: str) -> None:
        """What was expected before has ended; `kind` begins."""
        now = time.monotonic()
        self._took[self._kind].append(now - self._since)
        self._limit = float("inf")  # until both below are new: the thread looks at any time
        self._kind, self._since = kind, now
        self._limit = self.limit_seconds(kind)

    def limit_seconds(self, kind: str) -> float:
        """How long `kind` may take, from how long it took so far; its first time does not count."""
        known = list(self._took[kind])[1:]
        return max(self._least, TOLERANCE * max(known)) if known else FIRST_TOLERANCE * self._least

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._least / 4)):
            kind, seconds = self._kind, time.monotonic() - self._since
            if seconds > self._limit:
                self._end(
                    f"rank {self._rank}: {kind} has not ended in {seconds:.0f} s, {self._limit:.0f} s were allowed"
                )

    def _end(self, verdict: str) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = f"{verdict}\n{file.read()}"
        telemetry.logger.error(
            "%s; this process ends with status %d, and resumes where it is started again",
            text,
            STATUS,
        )
        uri = storage.join(
            self._run_uri, "hung", f"{time.strftime('%Y%m%dT%H%M%S')}-rank-{self._rank}.txt"
        )
        copy = threading.Thread(target=storage.write, args=(uri, text.encode()), daemon=True)
        copy.start()
        copy.join(PUBLISH_SECONDS)
        os._exit(STATUS)
