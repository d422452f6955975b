"""all replicas of the toy experiment in one loop against one model at a time in plain torch

Both train the same models on the same batches on one thread; times are CPU seconds per optimizer
step of one model. The plain loop feeds the 64 drawn rows; the vectorised one weights the loss of
the 12 different sequences by how often each was drawn.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TQDM_DISABLE="1")

import torch
import toy_plain_loop

from eval.toy.config import ToyConfig, ToyTrainingConfig
from eval.toy.replicas import train_replicas

N_STEPS = 60  # of each round
N_ROUNDS = 5
RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # as many as by default; so few steps draw no rarer one
RATIO_AIM = 10.0


def main() -> int:
    torch.set_num_threads(1)
    whole = ToyConfig()
    config = replace(
        whole, training=ToyTrainingConfig(n_steps=N_STEPS, warmup_steps=10), ratios=RATIOS
    )
    everyone = train_replicas.replicas(config)
    drawn = train_replicas.draw_all(config)

    def vectorised() -> None:
        train_replicas.train(config, drawn, f"memory://bench-toy/{time.perf_counter_ns()}")

    def plain() -> None:
        toy_plain_loop.train_plainly(config, everyone[0], N_STEPS)

    for run in (vectorised, plain):
        run()  # imports, allocations
    rounds = [(_cpu_seconds(vectorised), _cpu_seconds(plain)) for _ in range(N_ROUNDS)]
    ours_ms = median(1e3 * ours / len(everyone) / N_STEPS for ours, _ in rounds)
    plain_ms = median(1e3 * peer / N_STEPS for _, peer in rounds)
    ratio = median(peer * len(everyone) / ours for ours, peer in rounds)
    n_model_steps = len(train_replicas.replicas(whole)) * whole.training.n_steps
    print(f"{len(everyone)} replicas, {N_STEPS} steps, median of {N_ROUNDS} rounds, one thread")
    for name, ms in (("one vectorised loop", ours_ms), ("plain loop", plain_ms)):
        print(
            f"  {name:<22}{ms:8.3f} CPU ms per model and step; "
            f"the default grid {ms * n_model_steps / 1e3:8,.0f} CPU s"
        )
    print(f"  ratio {ratio:.1f} (aim: at least {RATIO_AIM:.0f})")
    return 0 if ratio >= RATIO_AIM else 1


def _cpu_seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
