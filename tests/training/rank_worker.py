"""One rank of a gang as Ray Train makes it: process group up already, train function in a thread,
in another folder.

    python rank_worker.py ROOT RANK WORLD_SIZE PORT RUN_ID[@STEP | !STEP!RANK… |
    ~STEP~RANK][%TENSOR_PARALLEL]…

trains the runs one after the other, one with @STEP until it dies before that step, one with
!STEP!RANK… with a gradient that is not a number in that step on these ranks, one with ~STEP~RANK
until this rank falls asleep in that step, and what is compiled with %TENSOR_PARALLEL by torch's
graphs alone, without C++, which would take a minute;
and prints a line for each: the steps it took, and the error if there was one.
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


def main(root: str, rank: str, world_size: str, port: str, *tries: str) -> None:
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
    thread = threading.Thread(target=train, args=(root, tries))
    thread.start()
    thread.join()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train(root: str, tries: tuple[str, ...]) -> None:
    import torch

    from data_prep.core.errors import HormesisError
    from training.run_record import load_config
    from training.trainer import loop

    compiled: Any = torch.compile
    step, taken, end, poisoned, asleep = loop.train_step, [], None, None, None

    def watched(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step == end:
            raise InterruptedError("died")
        taken.append(batch.step)
        backward = engine.backward
        if batch.step == poisoned:
            engine.backward = lambda loss, **how: backward(loss * float("nan"), **how)
        if batch.step == asleep:
            time.sleep(3600)
        try:
            return step(job, engine, guard, batch)
        finally:
            engine.backward = backward

    loop.train_step = watched
    for one in tries:
        way, _, tensor_parallel = one.partition("%")
        calm, *sleep = way.split("~")
        asleep = int(sleep[0]) if os.environ["RANK"] in sleep[1:] else None
        name, *fault = calm.split("!")
        poisoned = int(fault[0]) if os.environ["RANK"] in fault[1:] else None
        run_id, _, at = name.partition("@")
        end, error = int(at) if at else None, ""
        taken.clear()
        torch.compile = partial(compiled, backend="aot_eager") if tensor_parallel else compiled
        try:
            run = load_config(root, run_id)
            loop.train(
                root,
                replace(
                    run,
                    train=evolve(
                        run.train, {"parallel.tensor_parallel": int(tensor_parallel or 1)}
                    ),
                ),
            )
        except (HormesisError, InterruptedError) as problem:
            error = str(problem)
        print(f"{one}: {taken} {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
