"""Ranks that begin with everything imported: a server imports it once, and forks a process for each
of them.

To import torch, DeepSpeed and megatron takes a process 7 CPU-seconds, and the tests start a dozen.
The server is a fresh Python of multiprocessing's, which has only imported: no thread, no process
group and no device is there to be forked.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

IMPORTS = ["training.trainer.loop", "training.engine.tensor_parallel", "deepspeed"]


class Ended(NamedTuple):
    status: int | None
    out: str
    err: str


def at_once(
    program: Callable[..., Any], *arguments: tuple[str, ...], seconds: float = 300
) -> list[Ended]:
    """What came of `program`, a function of a module, with each of these arguments, all at the same
    time.
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
            server.Process(target=_run, args=(program, *each))
            for each in zip(files, arguments, strict=True)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(seconds)
            rank.kill()
        return [
            Ended(rank.exitcode, *(file.read_text() for file in each))
            for rank, each in zip(ranks, files, strict=True)
        ]


def _run(program: Callable[..., Any], files: tuple[Path, Path], arguments: tuple[str, ...]) -> None:
    for descriptor, file in zip((1, 2), files, strict=True):
        with file.open("w") as log:
            os.dup2(log.fileno(), descriptor)
    program(*arguments)
    sys.stdout.flush()
