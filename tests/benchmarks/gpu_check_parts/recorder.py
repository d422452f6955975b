"""measurements of a part, written to a file line by line, as soon as each is known"""

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch


class PartScale(NamedTuple):
    """What a part is given.

    is_tiny: shapes that a CPU computes in a second, to see that the part works. threads: of torch,
    where there is no GPU. study: folder with a planned sweep; empty: the part plans one itself.
    """

    is_tiny: bool
    threads: int
    study: str


class Recorder:
    """Where a part writes what it measures, how much time it has, and its shapes.

    A line is a JSON object with `part`, `kind` and `name`. Kinds: number; check, which holds or is
    a fault; bar, a goal that is met or missed; text; error, of an item or the whole part; skipped.
    """

    def __init__(self, part: str, file: Path, scale: PartScale, seconds: float, work: Path) -> None:
        self.part = part
        self.scale = scale
        self.work = work
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._file = file
        self._ends_at = time.monotonic() + seconds

    @property
    def is_tiny(self) -> bool:
        return self.scale.is_tiny

    @property
    def results(self) -> Path:
        """The folder of the results, for a file beside the measurements."""
        return self._file.parent

    def number(self, name: str, value: float, unit: str, note: str = "") -> None:
        self._write("number", name, value=float(value), unit=unit, note=note)

    def at_most(self, name: str, value: float, limit: float, note: str = "") -> None:
        """A check that `value` does not exceed `limit`; NaN does."""
        holds = bool(value <= limit)
        said = f"at most {limit:.3g}" + (f"; {note}" if note else "")
        self._write("check", name, value=float(value), unit="", note=said, holds=holds)

    def check(self, name: str, holds: bool, note: str = "") -> None:
        self._write("check", name, value=None, unit="", note=note, holds=bool(holds))

    def goal(self, name: str, value: float, unit: str, *, bar: float, note: str = "") -> None:
        """A number with a bar that it should reach on an H200; on tiny shapes a plain number."""
        if self.is_tiny:
            self.number(name, value, unit, note)
            return
        is_share = unit == "share"  # of overheads, which should be small
        holds = value <= bar if is_share else value >= bar
        said = f"bar {'≤' if is_share else '≥'} {bar:,g}" + (f"; {note}" if note else "")
        self._write("bar", name, value=float(value), unit=unit, note=said, holds=bool(holds))

    def text(self, name: str, value: str) -> None:
        self._write("text", name, note=value)

    def skipped(self, name: str, reason: str) -> None:
        self._write("skipped", name, note=reason)

    def has_time(self, seconds: float, name: str) -> bool:
        """Whether an item that is only nice to have fits; if not, it is recorded as skipped."""
        if self.is_tiny or time.monotonic() + seconds < self._ends_at:
            return True
        self.skipped(name, f"needs about {seconds:.0f} s, the part's time is over")
        return False

    @contextmanager
    def item(self, name: str) -> Iterator[None]:
        """Record an exception within as this item's error; the part continues."""
        try:
            yield
        except Exception as error:
            self.error(name, error)

    def error(self, name: str, error: BaseException) -> None:
        traceback.print_exception(error)
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        message = str(error).strip()[:400]
        self._write("error", name, note=f"{type(error).__name__}: {message}{where}")

    def _write(self, kind: str, name: str, **fields: Any) -> None:
        value = fields.get("value")
        if value is not None and not math.isfinite(value):  # JSON has no NaN
            fields |= {"value": None, "note": f"{value}; {fields['note']}"}
        line = json.dumps({"part": self.part, "kind": kind, "name": name, **fields})
        with self._file.open("a") as file:
            file.write(line + "\n")
