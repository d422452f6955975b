"""`make gpu-check` on a CPU with tiny shapes: every part works, and its faults stay its own."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import carry_gpu_check
import gpu_check
import pytest
from gpu_check_parts import catalogue, page, plan_study, study
from gpu_check_parts.catalogue import PartSpec

ROOT = Path(gpu_check.__file__).resolve().parents[2]
NOT_CARRIED = [
    "ray", "s3fs", "aiobotocore", "botocore", "megatron", "pyarrow", "scipy", "sklearn", "joblib",
    "pandas", "tensorboard", "matplotlib", "wandb", "datasets", "moto", "aiohttp", "ninja", "PIL",
    "profanity_check", "rensa",
]  # fmt: skip
BLOCKER = """\
import os
from importlib.machinery import PathFinder

BLOCKED = set(os.environ["BLOCKED"].split())
find_spec = PathFinder.find_spec


def find_others(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in BLOCKED else find_spec(name, path, target)


PathFinder.find_spec = classmethod(find_others)
"""
PROGRAM = [sys.executable, str(Path(gpu_check.__file__))]


def read(folder: Path) -> dict[str, Any]:
    """The parts of results.json by name."""
    content = json.loads((folder / "results.json").read_bytes())
    return {part["name"]: part for part in content["parts"]}


class TinyRun(NamedTuple):
    """All parts' results by name, the pages and the log, and the exit statuses."""

    parts: dict[str, Any]
    pages: str
    log: str
    statuses: list[int]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All parts, run where nothing is installed but what a carried copy has.

    The study, which is planned beforehand, also evaluates, for which it needs pyarrow and scipy.
    """
    folder = tmp_path_factory.mktemp("gpu-check")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    plan_study.plan(folder / "study", is_tiny=True)
    names = [part.name for part in catalogue.PARTS]
    runs = {
        "most": (names[:-1], NOT_CARRIED),
        "study": (["study"], [name for name in NOT_CARRIED if name not in study.EVALUATION_NEEDS]),
    }
    statuses = []
    for name, (parts, blocked) in runs.items():
        command = [*PROGRAM, "--tiny", "--minutes", "20", "--out", str(folder / name)]
        command += ["--study", str(folder / "study"), "--parts", *parts]
        variables = {"PYTHONPATH": str(folder), "BLOCKED": " ".join(blocked)}
        environment = os.environ | variables | {"TMPDIR": str(folder)}
        done = subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
        statuses.append(done.returncode)
    pages, log = (
        "".join((folder / name / file).read_text() for name in runs)
        for file in ("results.md", "log.txt")
    )
    return TinyRun(read(folder / "most") | read(folder / "study"), pages, log, statuses)


@pytest.mark.slow
def test_every_part_succeeds_on_a_cpu_with_tiny_shapes(whole_run: TinyRun):
    assert list(whole_run.parts) == [part.name for part in catalogue.PARTS]
    for name, part in whole_run.parts.items():
        errors = [m for m in part["measurements"] if m["kind"] == "error"]
        assert (part["status"], errors) == ("done", []), (name, errors, whole_run.log[-4000:])
        assert part["n_faults"] == 0, page.render({}, [page.PartResult(**_fields(part))])
        assert part["measurements"], name
    names = [m["name"] for m in whole_run.parts["study"]["measurements"]]
    assert "ratio 0.25: toxic continuations at α = 4" in names
    assert whole_run.statuses == [0, 0]


@pytest.mark.slow
def test_the_page_shows_every_part_and_says_how_mfu_is_counted(whole_run: TinyRun):
    for part in catalogue.PARTS:
        assert f"| {part.name} | done |" in whole_run.pages
        assert f"## {part.name}: {part.purpose}" in whole_run.pages
    assert "6N + 12·L·D·T" in whole_run.pages


def _fields(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "n_faults"}


@pytest.mark.slow
def test_a_terminated_run_says_that_it_was_cut_off(tmp_path: Path):
    command = [*PROGRAM, "--tiny", "--parts", "correctness-engine", "study", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    results = tmp_path / "results.json"
    while not (results.exists() and read(tmp_path)["correctness-engine"]["measurements"]):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    statuses = {name: part["status"] for name, part in read(tmp_path).items()}
    assert statuses == {"correctness-engine": "cut off", "study": "not started"}
    assert f"results: {tmp_path / 'results.md'}" in printed
    assert _ends_soon(str(tmp_path))


@pytest.mark.slow
def test_a_killed_run_leaves_everything_measured_so_far(tmp_path: Path):
    names = ["environment", "correctness-engine", "correctness-steering"]
    command = [*PROGRAM, "--tiny", "--parts", *names, "--out", str(tmp_path)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # what a killed run leaves behind
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    results = tmp_path / "results.json"
    while not (results.exists() and read(tmp_path)[names[1]]["measurements"]):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    parts = read(tmp_path)
    assert [parts[name]["status"] for name in names] == ["done", "running", "not started"]
    assert parts["environment"]["measurements"][0]["name"] == "shapes"
    assert parts[names[1]]["measurements"][0]["name"] == "fp32, stage 0: loss"
    assert "versions" in (tmp_path / "results.md").read_text()
    assert _ends_soon(str(tmp_path))


def _ends_soon(words: str) -> bool:
    """Whether no process with these words in its command line is left after some seconds."""
    for _ in range(100):
        listed = subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
        if words not in listed:
            return True
        time.sleep(0.1)
    return False


PARTS_THAT_FAIL = {
    "failing": (
        "def run(recorder):\n    recorder.number('n', 1, 's')\n    raise ValueError('no luck')"
    ),
    "exiting": "import os\ndef run(recorder):\n    os._exit(7)",
    "unimportable": "import no_such_module",
    "hanging": (
        "import time\ndef run(recorder):\n    recorder.number('n', 2, 's')\n    time.sleep(600)"
    ),
    "wrong": "def run(recorder):\n    recorder.at_most('error', float('nan'), 1.0)",
    "good": "def run(recorder):\n    recorder.number('n', 3, 's')",
}


def test_a_part_that_fails_or_hangs_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in PARTS_THAT_FAIL.items():
        (tmp_path / f"part_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    parts = [
        PartSpec(name, f"part_{name}", 3 if name == "hanging" else 30, "")
        for name in PARTS_THAT_FAIL
    ]
    out = tmp_path / "out"
    arguments = Namespace(out=out, tiny=True, threads=1, study="", minutes=2.5)
    check = gpu_check.GpuCheck(parts, arguments, tmp_path / "work")
    check.run()
    found = read(out)
    assert {name: part["status"].partition(" ")[0] for name, part in found.items()} == {
        "failing": "failed", "exiting": "failed", "unimportable": "failed",
        "hanging": "overran", "wrong": "done", "good": "done",
    }  # fmt: skip
    values = {name: [m.get("value") for m in found[name]["measurements"]] for name in found}
    assert values["failing"] == [1.0, None]
    assert "ValueError: no luck at part_failing.py:3" in found["failing"]["measurements"][1]["note"]
    assert "status 7" in found["exiting"]["status"]
    assert "no_such_module" in found["unimportable"]["measurements"][0]["note"]
    assert values["hanging"] == [2.0]
    assert "part_hanging.py" in (out / "log.txt").read_text()  # where it was
    assert found["wrong"]["n_faults"] == 1
    assert values["good"] == [3.0]
    assert not check.is_good()


def test_parts_that_do_not_fit_into_the_time_are_not_started(tmp_path: Path):
    arguments = Namespace(out=tmp_path, tiny=True, threads=1, study="", minutes=0.01)
    check = gpu_check.GpuCheck(list(catalogue.PARTS), arguments, tmp_path / "work")
    check.run()
    assert {part["status"] for part in read(tmp_path).values()} == {
        "not started: the time was over"
    }


def test_an_unknown_part_is_refused_with_the_names_of_all(tmp_path: Path):
    command = [*PROGRAM, "--parts", "sped", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no part 'sped'; the parts are environment, correctness-model" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_carried_is_pinned_and_neither_large_nor_ray():
    versions = carry_gpu_check.pinned_versions()
    carried = {carry_gpu_check.SDIST_ONLY, *carry_gpu_check.WHEELS}
    assert carried <= versions.keys()
    assert carried.isdisjoint(NOT_CARRIED)


def test_the_carried_source_is_complete_and_names_its_commit(tmp_path: Path):
    carry_gpu_check.copy_source(tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")}
    assert {"training/pretrain.py", "eval/evaluate_run.py", "launch/experiment.py"} <= files
    assert "tests/benchmarks/gpu_check_parts/study.py" in files
    assert "tests/training/model/sm90_compiler.py" in files
    assert (tmp_path / "COMMIT").read_text().strip()
    help_text = subprocess.run(
        [sys.executable, str(tmp_path / "tests/benchmarks/gpu_check.py"), "--help"],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    ).stdout  # fmt: skip
    assert "correctness-model" in help_text


def test_a_folder_that_is_not_empty_is_not_carried_into(tmp_path: Path):
    (tmp_path / "file").touch()
    command = [sys.executable, carry_gpu_check.__file__, "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not empty; name a new folder" in done.stderr


def test_fewer_parts_share_the_whole_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "part_good.py").write_text("def run(recorder): recorder.number('n', 3, 's')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    arguments = Namespace(out=tmp_path / "out", tiny=True, threads=1, study="", minutes=10.0)
    parts = [PartSpec("good", "part_good", 5, "")]
    check = gpu_check.GpuCheck(parts, arguments, tmp_path / "work")
    check.run()
    assert read(tmp_path / "out")["good"]["limit_seconds"] == pytest.approx(600, abs=5)
    assert check.is_good()


def test_the_parts_take_ten_minutes_together():
    assert sum(part.seconds for part in catalogue.PARTS) <= 60 * gpu_check.FULL_MINUTES
