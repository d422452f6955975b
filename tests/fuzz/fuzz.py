"""Coverage-guided fuzzing of readers and cleaners.

    python tests/fuzz/fuzz.py [--runs N] [--seed S] [TARGET …]

Prints one line per target: inputs, features covered, memory, outcome. Needs atheris (extra `fuzz`).
Each target runs in its own process; an input may take 10 seconds and 2 GiB. An input that breaks
its target is saved in tests/fuzz/corpus/TARGET/, where test_fuzz.py runs it from then on, and the
exit status is 1.
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


def fuzz_here(name: str, runs: int, seed: int) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import importlib

    import atheris

    with atheris.instrument_imports(include=["data_prep"]):  # type: ignore[attr-defined]
        for module in list(sys.modules):
            if module.split(".")[0] in ("data_prep", "targets"):
                del sys.modules[module]  # so that it is imported again, instrumented
        instrumented = importlib.import_module("targets")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, content in enumerate(instrumented.seeds(name)):
            (Path(folder) / f"seed-{number}").write_bytes(content)
        saved = CORPUS / name
        inputs = [folder, *([str(saved)] if saved.is_dir() else [])]
        options = [f"-runs={runs}", f"-seed={seed}", *LIMITS, f"-artifact_prefix={folder}-"]
        atheris.Setup([sys.argv[0], *options, *inputs], instrumented.TARGETS[name])
        atheris.Fuzz()


def fuzz_in_process(name: str, runs: int, seed: int) -> bool:
    """Fuzz one target in a process of its own, and print its line; whether nothing broke."""
    words = ["--here", "--runs", str(runs), "--seed", str(seed), name]
    process = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, errors="replace"
    )
    log = process.stderr
    for path in re.findall(r"Test unit written to (\S+)", log):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        Path(path).rename(CORPUS / name / Path(path).name.split("-", 2)[-1])
    n_inputs = _last_match(r"number_of_executed_units:\s+(\d+)", log)
    n_features = _last_match(r"ft: (\d+)", log)
    peak_mib = _last_match(r"peak_rss_mb:\s+(\d+)", log)
    succeeded = process.returncode == 0
    outcome = "no crash" if succeeded else "BROKEN"
    print(f"{name:<14}{n_inputs:>12}{n_features:>10}{peak_mib:>8}  {outcome}", flush=True)
    if not succeeded:
        print(log[-3000:], file=sys.stderr, flush=True)
    return succeeded


def _last_match(pattern: str, text: str) -> str:
    return ["-", *re.findall(pattern, text)][-1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="fuzz.py", description="Coverage-guided fuzzing of readers and cleaners."
    )
    parser.add_argument(
        "targets",
        nargs="*",
        choices=[*targets.TARGETS, []],
        metavar="TARGET",
        help="the targets to fuzz (all)",
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs per target (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        fuzz_here(options.targets[0], options.runs, options.seed)
        return 0
    print(f"{'target':<14}{'inputs':>12}{'features':>10}{'MiB':>8}  outcome")
    names = options.targets or list(targets.TARGETS)
    results = [fuzz_in_process(name, options.runs, options.seed) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
