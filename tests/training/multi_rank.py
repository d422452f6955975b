"""Start the ranks of a test as forks of a server process that has imported everything once.

Importing torch, DeepSpeed and megatron-core takes a process 7 CPU-seconds, and the tests start a
dozen. The server is a fresh Python of multiprocessing's that has only imported: no thread, process
group or device exists in it that a fork would copy.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

IMPORTS = ["training.trainer.loop", "training.engine.tensor_parallel", "deepspeed"]


class FinishedRank(NamedTuple):
    """Exit status and output of a rank."""

    status: int | None
    out: str
    err: str


def run_ranks(
    program: Callable[..., Any], *arguments: tuple[str, ...], seconds: float = 300
) -> list[FinishedRank]:
    """Call `program`, a function of a module, in one process per tuple of arguments, all at once.

    A process that takes longer than `seconds` is killed.
    """
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTS)
    with tempfile.TemporaryDirectory() as folder:
        files = [
            (Path(folder, f"out-{n}"), Path(folder, f"err-{n}")) for n in range(len(arguments))
        ]
        ranks = [
            server.Process(target=_run_with_output, args=(program, *each))
            for each in zip(files, arguments, strict=True)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(seconds)
            rank.kill()
        return [
            FinishedRank(rank.exitcode, *(file.read_text() for file in each))
            for rank, each in zip(ranks, files, strict=True)
        ]


def _run_with_output(
    program: Callable[..., Any], files: tuple[Path, Path], arguments: tuple[str, ...]
) -> None:
    for descriptor, file in zip((1, 2), files, strict=True):
        with file.open("w") as log:
            os.dup2(log.fileno(), descriptor)
    program(*arguments)
    sys.stdout.flush()
