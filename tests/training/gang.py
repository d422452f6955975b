"""One rank of a gang as Ray Train makes it: process group up already, train function in a thread, in another folder.

    python gang.py ROOT RANK WORLD_SIZE PORT RUN_ID[@STEP]…

trains the runs one after the other, one with @STEP until it dies before that step, and prints a line for each: the steps it
took, and the error if there was one.
"""

import os
import sys
import tempfile
import threading
from typing import Any


def main() -> None:
    root, rank, world_size, port, *tries = sys.argv[1:]
    os.environ |= {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.chdir(tempfile.gettempdir())

    import torch

    torch.distributed.init_process_group("gloo")
    thread = threading.Thread(target=train, args=(root, tries))
    thread.start()
    thread.join()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train(root: str, tries: list[str]) -> None:
    from data_prep.records import HormesisError
    from training import loop
    from training.record import load_config

    step, taken, end = loop.take_step, [], None

    def watched(job: Any, engine: Any, batch: Any) -> Any:
        if batch.step == end:
            raise InterruptedError("died")
        taken.append(batch.step)
        return step(job, engine, batch)

    loop.take_step = watched
    for one in tries:
        run_id, _, at = one.partition("@")
        end, error = int(at) if at else None, ""
        taken.clear()
        try:
            loop.train(root, load_config(root, run_id))
        except (HormesisError, InterruptedError) as problem:
            error = str(problem)
        print(f"{one}: {taken} {error}", flush=True)


if __name__ == "__main__":
    main()
