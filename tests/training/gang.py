"""One rank of a gang as Ray Train makes it: process group up already, train function in a thread, in another folder.

python gang.py ROOT RANK WORLD_SIZE PORT RUN_ID…      trains the runs one after the other; prints "RUN_ID: error" for refusals
"""

import os
import sys
import tempfile
import threading


def main() -> None:
    root, rank, world_size, port, *run_ids = sys.argv[1:]
    os.environ |= {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.chdir(tempfile.gettempdir())

    import torch

    torch.distributed.init_process_group("gloo")
    thread = threading.Thread(target=train, args=(root, run_ids))
    thread.start()
    thread.join()
    torch.distributed.destroy_process_group()


def train(root: str, run_ids: list[str]) -> None:
    from data_prep.records import HormesisError
    from training import loop
    from training.record import load_config

    for run_id in run_ids:
        try:
            loop.train(root, load_config(root, run_id))
        except HormesisError as error:
            print(f"{run_id}: {error}", flush=True)


if __name__ == "__main__":
    main()
