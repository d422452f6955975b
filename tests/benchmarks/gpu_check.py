"""everything that only a GPU can tell, in one run of ten minutes, written down as it goes

    make gpu-check                                         all parts, on the GPU that is there
    python tests/benchmarks/gpu_check.py --parts env cor   parts by the beginning of their names
    python tests/benchmarks/gpu_check.py --tiny            tiny shapes, also on a CPU: does it work?

Every part is a process with a time limit of its own, in the order of their worth (gpu_check_parts/
catalogue.py). Whatever a part measures is in `measurements.jsonl` at once, and in `results.json`
and `results.md` a second later, so a run that is cut off anywhere still tells everything measured
so far. A part that fails or takes too long is reported as such, and the others go on. `log.txt`
holds what the parts print. The exit status is 0 if all parts are done and every check holds.

Nothing of this has run on a GPU yet. carry_gpu_check.py gathers what a bare CUDA image needs to
run it without a network.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gpu_check_parts import catalogue, page
from gpu_check_parts.catalogue import PartSpec
from gpu_check_parts.page import PartResult

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FULL_MINUTES = 10.0
MIN_SECONDS = 5.0  # with less time left, no part is started
GRACE = 2.0  # a part may take this many times its expected seconds
POLL_SECONDS = 0.5


def main() -> int:
    arguments = _parse()
    try:
        parts = catalogue.named(arguments.parts)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # a signal ends the run in order: the part is killed and the results are written
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        check = GpuCheck(parts, arguments, Path(work))
        check.run()
    return 0 if check.is_good() else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only the parts whose names begin so: "
        + ", ".join(part.name for part in catalogue.PARTS),
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=FULL_MINUTES,
        help="time for the chosen parts together, which their limits share (default 10)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/gpu-check"), help="folder of the results"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny shapes, as is done where there is no GPU"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch without a GPU")
    parser.add_argument(
        "--study", default="", metavar="FOLDER", help="a planned sweep for the part study"
    )
    return parser.parse_args()


class GpuCheck:
    """One run: its parts, their processes and their results."""

    def __init__(self, parts: list[PartSpec], arguments: argparse.Namespace, work: Path) -> None:
        self._parts = parts
        self._work = work
        self._out: Path = arguments.out.resolve()
        self._out.mkdir(parents=True, exist_ok=True)
        for name in ("measurements.jsonl", "results.json", "results.md", "log.txt"):
            (self._out / name).unlink(missing_ok=True)
        self._measurements = self._out / "measurements.jsonl"
        self._measurements.touch()
        self._scale = {
            "is_tiny": arguments.tiny,
            "threads": arguments.threads,
            "study": str(Path(arguments.study).resolve()) if arguments.study else "",
        }
        self._speed = 60 * arguments.minutes / sum(part.seconds for part in parts)
        self._ends_at = time.monotonic() + 60 * arguments.minutes
        self._header = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "minutes": arguments.minutes,
            "version": _version(),
        }
        self._results = {part.name: PartResult(part.name, part.purpose) for part in parts}
        self._n_read = 0

    def is_good(self) -> bool:
        return all(result.is_good for result in self._results.values())

    def run(self) -> None:
        """Run the parts one after the other; each is started, and imports, while the one before it
        runs.
        """
        self._write()
        processes: dict[str, subprocess.Popen[str]] = {}
        spare_seconds = 0.0
        try:
            for i, part in enumerate(self._parts):
                left = self._ends_at - time.monotonic()
                if left < MIN_SECONDS:
                    self._results[part.name].status = "not started: the time was over"
                    continue
                for next_part in self._parts[i : i + 2]:
                    if next_part.name not in processes:
                        processes[next_part.name] = self._start(next_part)
                seconds = part.seconds * self._speed
                limit = min(GRACE * seconds, left)
                took = self._run_part(
                    part, processes[part.name], min(seconds + spare_seconds, limit), limit
                )
                spare_seconds = max(0.0, spare_seconds + seconds - took)
        finally:
            for process in processes.values():
                _kill(process)
            for result in self._results.values():
                if result.status == "running":
                    result.status = "cut off"
            self._write()
            self._print_end()

    def _start(self, part: PartSpec) -> "subprocess.Popen[str]":
        work = self._work / part.name
        command = [sys.executable, "-m", "gpu_check_parts.run_part", part.name, part.module]
        command += [str(self._measurements), str(work), json.dumps(self._scale)]
        with (self._out / "log.txt").open("a") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        paths = [
            ROOT,
            HERE,
            ROOT / "tests" / "training" / "model",
            os.environ.get("PYTHONPATH", ""),
        ]
        caches = {  # shared by all parts, so that a shape is compiled once
            "TORCHINDUCTOR_CACHE_DIR": str(self._work / "inductor"),
            "TRITON_CACHE_DIR": str(self._work / "triton"),
        }
        return {
            **os.environ,
            **caches,
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path)),
            "PYTHONUNBUFFERED": "1",
            "TQDM_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
            "DS_BUILD_OPS": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def _run_part(
        self, part: PartSpec, process: "subprocess.Popen[str]", seconds: float, limit: float
    ) -> float:
        """Let a started part go, until it ends or its limit is over; the seconds that it took."""
        result = self._results[part.name]
        result.status = "running"
        result.limit_seconds = limit
        print(f"== {part.name}: {part.purpose} (at most {limit:.0f} s)", flush=True)
        started = time.monotonic()
        _let_go(process, {"seconds": seconds, "limit": limit})
        while process.poll() is None and time.monotonic() - started < limit:
            self._read_measurements()
            time.sleep(POLL_SECONDS)
        overran = process.poll() is None
        _kill(process)
        shutil.rmtree(self._work / part.name, ignore_errors=True)
        result.seconds = time.monotonic() - started
        result.status = _status(process.returncode, overran, limit)
        self._read_measurements()
        self._write()
        print(f"   {result.status} after {result.seconds:.1f} s", flush=True)
        return result.seconds

    def _read_measurements(self) -> None:
        """Read, print and publish what the parts have written since the last time."""
        with self._measurements.open() as file:
            file.seek(self._n_read)
            text = file.read()
        complete, newline, _ = text.rpartition("\n")
        if not newline:
            return
        self._n_read += len((complete + newline).encode())
        for line in complete.splitlines():
            measurement = json.loads(line)
            self._results[measurement["part"]].measurements.append(measurement)
            print(f"   {page.line(measurement)}", flush=True)
        self._write()

    def _write(self) -> None:
        results = list(self._results.values())
        content = {**self._header, "parts": [result.to_json() for result in results]}
        _replace(self._out / "results.json", json.dumps(content, indent=1, ensure_ascii=False))
        _replace(self._out / "results.md", page.render(self._header, results))

    def _print_end(self) -> None:
        print(page.summary(list(self._results.values())))
        print(f"results: {self._out / 'results.md'}", flush=True)


def _let_go(process: "subprocess.Popen[str]", times: dict[str, float]) -> None:
    """Send a waiting part its times; one that has ended already has said why in the log."""
    assert process.stdin
    try:
        process.stdin.write(json.dumps(times) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        process.wait()


def _kill(process: "subprocess.Popen[str]") -> None:
    """End a part with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(code: int, overran: bool, limit: float) -> str:
    if overran:
        return f"overran its {limit:.0f} s; log.txt says where it was"
    if code:
        return "failed" if code == 1 else f"failed with status {code}; log.txt says more"
    return "done"


def _replace(file: Path, text: str) -> None:
    """Write a file in one step: whoever reads it meets the old text or the new."""
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _version() -> str:
    """The commit that is measured; a carried copy has it in a file."""
    file = ROOT / "COMMIT"
    if file.is_file():
        return file.read_text().strip()
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
