"""One rank of several as Ray Train starts it: the process group exists, training runs in a thread.

    python rank_worker.py ROOT RANK WORLD_SIZE PORT ATTEMPT…

An attempt is a run id, with what happens to it:

    run@STEP             the process dies before this step
    run!STEP!RANK…       the gradient of this step is NaN on these ranks
    run~STEP~RANK        this rank falls asleep in this step
    run%TENSOR_PARALLEL  with so many tensor-parallel ranks; compiled by torch's graphs alone,
                         without C++, which would take a minute
    run=fp32             Muon multiplies in fp32 instead of bf16

The attempts are trained one after the other. Each prints a line: the steps it took, and its error.
"""

import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

from data_prep.core.settings import evolve


def main(root: str, rank: str, world_size: str, port: str, *attempts: str) -> None:
    os.environ |= {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.chdir(tempfile.gettempdir())

    import torch

    torch.distributed.init_process_group("gloo")
    thread = threading.Thread(target=train, args=(root, attempts))
    thread.start()
    thread.join()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def wait_for_checkpoints() -> None:
    """Wait until the checkpoints so far are committed, as they would be in steps of normal length.

    Otherwise a busy machine may commit the last one after the next attempt has looked for it.
    """
    for background in threading.enumerate():
        if background.name in ("checkpoint", "commit"):
            background.join()


def train(root: str, attempts: tuple[str, ...]) -> None:
    import torch

    from data_prep.core.errors import HormesisError
    from training.optim import muon
    from training.run_record import load_config
    from training.trainer import loop

    compile_blocks: Any = torch.compile
    train_step = loop.train_step
    steps_done = []
    death_step = None
    nan_step = None
    sleep_step = None

    def train_step_with_faults(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step == death_step:
            wait_for_checkpoints()
            raise InterruptedError("died")
        steps_done.append(batch.step)
        backward = engine.backward
        if batch.step == nan_step:
            engine.backward = lambda loss, **how: backward(loss * float("nan"), **how)
        if batch.step == sleep_step:
            time.sleep(3600)
        try:
            return train_step(context, engine, guard, batch)
        finally:
            engine.backward = backward

    loop.train_step = train_step_with_faults
    for attempt in attempts:
        rest, _, dtype = attempt.partition("=")
        muon.MATMUL_DTYPE = torch.float32 if dtype == "fp32" else torch.bfloat16
        rest, _, tensor_parallel = rest.partition("%")
        rest, *sleep = rest.split("~")
        rest, *nan = rest.split("!")
        run_id, _, death = rest.partition("@")
        sleep_step = int(sleep[0]) if os.environ["RANK"] in sleep[1:] else None
        nan_step = int(nan[0]) if os.environ["RANK"] in nan[1:] else None
        death_step = int(death) if death else None
        backend = {"backend": "aot_eager"} if tensor_parallel else {}
        torch.compile = partial(compile_blocks, **backend)
        steps_done.clear()
        error = ""
        try:
            run = load_config(root, run_id)
            changes = {"parallel.tensor_parallel": int(tensor_parallel or 1)}
            loop.train(root, replace(run, train=evolve(run.train, changes)))
        except (HormesisError, InterruptedError) as problem:
            error = str(problem)
        print(f"{attempt}: {steps_done} {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
