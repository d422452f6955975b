"""what torch's compiler should make of the 1B for an H200, and what it makes of it here

The compiler runs as a process of its own (sm90_compiler.py), which needs triton and a build of
torch for CUDA, but no GPU. The same limits hold in a test and in gpu_check.py.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

COMPILER = Path(__file__).with_name("sm90_compiler.py")
ROOT = Path(__file__).parents[3]
MAX_REGISTERS = 128  # of a thread
CHUNKS = ("loss forward", "deterministic loss forward")


class Calls(NamedTuple):
    """What a graph of a block calls beside attention: Triton kernels at most, matrix products."""

    n_triton: int
    n_matmuls: int


BLOCKS = {
    "block forward": Calls(5, 4),
    "block backward": Calls(4, 8),
    "documents forward": Calls(5, 4),
    "documents backward": Calls(4, 8),
}


def missing() -> str:
    """What keeps this machine from compiling for sm_90; empty: nothing does."""
    if find_spec("triton") is None:
        return "triton is not installed"
    return "" if torch.version.cuda else "torch is built without CUDA"


def compile_model(cache: Path, timeout: float | None = None) -> dict[str, Any]:
    """The report of sm90_compiler.py; `cache`: an empty folder.

    Raises RuntimeError with its log, and subprocess.TimeoutExpired after `timeout`
    seconds.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
    }
    command = [sys.executable, str(COMPILER)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{COMPILER.name} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def triton_kernels(report: dict[str, Any], graph: str) -> list[str]:
    """The Triton kernels that a graph calls, in order."""
    return [call for call in report["graphs"][graph]["calls"] if call.startswith("triton_")]


def configurations(report: dict[str, Any], graph: str) -> list[dict[str, int]]:
    """What ptxas says of each configuration of each kernel of a graph."""
    return [each for kernel in report["graphs"][graph]["kernels"].values() for each in kernel]
