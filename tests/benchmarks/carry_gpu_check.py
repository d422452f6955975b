"""gather in one folder what a bare CUDA image needs to run gpu_check.py without a network

    make gpu-carry ARGS="--to FOLDER --python 3.12"       here, where there is a network
    sh FOLDER/run.sh --out RESULTS                        there, with the flags of gpu_check.py

The image has torch with CUDA, transformers, tokenizers and numpy, and what they require (IMAGE).
The folder holds the wheels beyond that, at the versions of constraints.txt, the source, and the
planned sweep of the part `study`; wheels.txt lists them with sizes. `run.sh` installs the wheels
into a temporary folder and starts gpu_check.py from there; the image stays as it is. DeepSpeed's
wheel is built without its compiled operations, none of which is used here.

Ray, s3fs, megatron-core and TensorBoard are not needed. pyarrow and scipy, 84 MiB, are left out as
well: only the evaluation in `study` reads them, and where the image lacks them it is not done.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gpu_check_parts import plan_study

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 64 << 20
MIB = 1 << 20
IMAGE = (
    "torch", "transformers", "tokenizers", "numpy", "safetensors", "triton", "filelock", "fsspec",
    "Jinja2", "MarkupSafe", "mpmath", "networkx", "sympy", "setuptools", "typing_extensions",
    "huggingface_hub", "hf-xet", "packaging", "PyYAML", "regex", "tqdm", "typer",
)  # fmt: skip
SDIST_ONLY = "deepspeed"
WHEELS = (
    "hjson", "msgpack", "einops", "psutil", "py-cpuinfo",  # DeepSpeed's
    "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions",
    "isal", "orjson", "zstandard", "fastokens", "xxhash",  # documents to tokens
    "rich", "markdown-it-py", "mdurl", "Pygments", "tqdm",
    "torchao",  # FP8
    "threadpoolctl",  # probes
)  # fmt: skip
SOURCES = ("data_prep", "training", "eval", "launch", "tests/benchmarks", "tests/training/model")
# pip matches the number exactly, so each one that a wheel may name has to be given
PLATFORMS = [f"manylinux_2_{minor}_{{machine}}" for minor in (12, 17, 24, 27, 28, 34)]
PLATFORMS += ["manylinux2014_{machine}", "manylinux2010_{machine}", "linux_{machine}"]
RUN = """\
#!/bin/sh
# Install the wheels beside this file into a temporary folder, and run gpu_check.py with them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \\
    --disable-pip-version-check --target "$site" "$here"/wheels/*.whl
PYTHONPATH="$site" "$python" "$here/source/tests/benchmarks/gpu_check.py" \\
    --study "$here/study" "$@"
"""


def main() -> int:
    arguments = _parse()
    folder: Path = arguments.to
    if folder.exists() and any(folder.iterdir()):
        print(f"error: {folder} is not empty; name a new folder", file=sys.stderr)
        return 2
    wheels = [name for name in (*WHEELS, *arguments.add) if name not in arguments.without]
    gather_wheels(folder / "wheels", wheels, arguments.python, arguments.machine)
    copy_source(folder / "source")
    plan_study.plan(folder / "study", is_tiny=False)
    shutil.rmtree(folder / "study" / "report")
    (folder / "run.sh").write_text(RUN)
    n_bytes = write_list(folder)
    return 0 if n_bytes <= MAX_BYTES else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--python", default="3.12", help="Python of the image (default 3.12)")
    parser.add_argument("--machine", default="x86_64", help="of the image (default x86_64)")
    many = {"nargs": "+", "default": [], "metavar": "PACKAGE"}
    parser.add_argument("--add", **many, help="more wheels, such as scipy")
    parser.add_argument("--without", **many, help="wheels that the image has already")
    return parser.parse_args()


def pinned_versions() -> dict[str, str]:
    """The version of each package in constraints.txt, by its name there."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(re.fullmatch(r"([\w.-]+)==(\S+)", line).groups() for line in lines if line)  # type: ignore[union-attr]


def gather_wheels(folder: Path, names: list[str], python: str, machine: str) -> None:
    """Download wheels for a Python and a machine, and build DeepSpeed's, which has none."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = pinned_versions()
    pinned = [f"{name}=={versions[name]}" for name in names]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    target = ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:"]
    for platform in PLATFORMS:
        target += ["--platform", platform.format(machine=machine)]
    subprocess.run([*pip, "download", "--no-deps", "--dest", folder, *target, *pinned], check=True)
    deepspeed = f"{SDIST_ONLY}=={versions[SDIST_ONLY]}"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", folder, deepspeed],
        env={**os.environ, "DS_BUILD_OPS": "0"},
        check=True,
    )
    compiled = [wheel.name for wheel in folder.glob("deepspeed-*") if "none-any" not in wheel.name]
    assert not compiled, f"{compiled} was built for this machine; DS_BUILD_OPS should be 0"


def copy_source(folder: Path) -> None:
    """Copy the tracked files that gpu_check.py and its parts import, and the commit's name."""
    listed = _git("ls-files", "-z", "--", *SOURCES)
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    (folder / "COMMIT").write_text(_git("describe", "--always", "--dirty"))


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_list(folder: Path) -> int:
    """Print and write wheels.txt: every wheel and folder with its size; the bytes in all."""
    sizes = {path.name: path.stat().st_size for path in sorted((folder / "wheels").iterdir())}
    for name in ("source", "study"):
        files = (path for path in (folder / name).rglob("*") if path.is_file())
        sizes[f"{name}/"] = sum(path.stat().st_size for path in files)
    n_bytes = sum(sizes.values())
    lines = [f"{size / MIB:7.2f} MiB  {name}" for name, size in sizes.items()]
    lines.append(f"{n_bytes / MIB:7.2f} MiB  in all, at most {MAX_BYTES / MIB:.0f}")
    text = "\n".join(lines) + "\n"
    (folder / "wheels.txt").write_text(text)
    print(text, end="", flush=True)
    return n_bytes


if __name__ == "__main__":
    sys.exit(main())
