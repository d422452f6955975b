"""Fuzz by coverage: `python tests/fuzz/fuzz.py [--runs N] [--seed S] [TARGET …]`; prints target,
inputs, outcome.

Needs atheris (extra `fuzz`). Each target runs in a process of its own; an input may take 10 seconds
and 2 GiB. One that breaks its target is written to tests/fuzz/corpus/TARGET/, where test_fuzz.py
finds it ever after. Not zero if one did.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import targets

CORPUS = Path(__file__).parent / "corpus"
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=1"]


def fuzz(name: str, runs: int, seed: int) -> None:
    """In this process, which libFuzzer ends."""
    import importlib

    import atheris

    with atheris.instrument_imports(  # pyright: ignore[reportAttributeAccessIssue]
        include=["data_prep"]
    ):
        for loaded in [
            module for module in sys.modules if module.split(".")[0] in ("data_prep", "targets")
        ]:
            del sys.modules[loaded]  # so that they come back instrumented
        instrumented = importlib.import_module("targets")
    kept = CORPUS / name
    with tempfile.TemporaryDirectory(prefix="fuzz-") as begin:
        for number, content in enumerate(instrumented.seeds(name)):
            (Path(begin) / f"seed-{number}").write_bytes(content)
        folders = [begin, *([str(kept)] if kept.is_dir() else [])]
        atheris.Setup(
            [
                sys.argv[0],
                f"-runs={runs}",
                f"-seed={seed}",
                *LIMITS,
                f"-artifact_prefix={begin}-",
                *folders,
            ],
            instrumented.TARGETS[name],
        )
        atheris.Fuzz()


def run(name: str, runs: int, seed: int) -> bool:
    """In a process of its own; prints its line of the table."""
    done = subprocess.run(
        [sys.executable, __file__, "--here", "--runs", str(runs), "--seed", str(seed), name],
        capture_output=True,
        text=True,
        errors="replace",
    )
    whole = done.returncode == 0
    for found in re.findall(r"Test unit written to (\S+)", done.stderr):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        Path(found).rename(CORPUS / name / Path(found).name.split("-", 2)[-1])

    def last(pattern: str) -> str:
        return ["-", *re.findall(pattern, done.stderr)][-1]

    n, features, peak = (
        last(r"number_of_executed_units:\s+(\d+)"),
        last(r"ft: (\d+)"),
        last(r"peak_rss_mb:\s+(\d+)"),
    )
    print(
        f"{name:<12}{n:>12}{features:>10}{peak:>8}  {'no crash' if whole else 'BROKEN'}", flush=True
    )
    if not whole:
        print(done.stderr[-3000:], file=sys.stderr, flush=True)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="fuzz.py", description="Fuzz readers and cleaners by coverage."
    )
    parser.add_argument(
        "targets",
        nargs="*",
        choices=[*targets.TARGETS, []],
        metavar="TARGET",
        help="all, unless some are named",
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        fuzz(asked.targets[0], asked.runs, asked.seed)
        return 0
    print(f"{'target':<12}{'inputs':>12}{'features':>10}{'MiB':>8}  outcome")
    broken = [
        name for name in asked.targets or targets.TARGETS if not run(name, asked.runs, asked.seed)
    ]
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
