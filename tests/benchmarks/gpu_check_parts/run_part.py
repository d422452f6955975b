"""run one part of gpu_check.py: python -m gpu_check_parts.run_part NAME MODULE FILE WORK SCALE

The process imports what the part needs, then waits for a line on stdin, {"seconds": …, "limit": …};
so gpu_check.py can start it while the part before it still runs. At the end of stdin, gpu_check.py
is gone, and so is this process with all that it started.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

FAILED = 1
TRACE_SECONDS = 3.0  # before the end of its time, a part says where it is


def main() -> int:
    name, module, file, work, scale = sys.argv[1:]
    imported = _import(module)
    words = sys.stdin.readline()
    if not words:
        return FAILED
    times = json.loads(words)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    faulthandler.dump_traceback_later(max(1.0, times["limit"] - TRACE_SECONDS))

    import torch

    from gpu_check_parts.recorder import PartScale, Recorder

    settings = PartScale(**json.loads(scale))
    if not torch.cuda.is_available():
        settings = settings._replace(is_tiny=True)
    Path(work).mkdir(parents=True, exist_ok=True)
    recorder = Recorder(name, Path(file), settings, times["seconds"], Path(work))
    if recorder.device.type == "cpu":
        torch.set_num_threads(settings.threads)
    try:
        if isinstance(imported, Exception):
            raise imported
        imported.run(recorder)
    except Exception as error:
        recorder.error("the whole part", error)
        return FAILED
    return 0


def _import(module: str) -> Any:
    """The module of the part, or the error of its import."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        return error


def _end_with_parent() -> None:
    sys.stdin.read()
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # no teardown of CUDA, NCCL or threads, which could hang
