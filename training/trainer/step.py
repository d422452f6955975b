"""one optimizer step: forward, backward and step over the micro-batches of this rank's rows

The gradient is that of the mean loss over the V valid rows of the global batch, T − 1 predictions
each, however it is shared out. Gradients of micro-batches are added up, those of W ranks averaged
by DeepSpeed, so

    objective of a micro-batch = Σ over its valid rows of the row's summed loss · W / (V · (T − 1))

The summed losses, apart for each source, and the guard's verdict on the step stay on the device;
nothing here waits for it.
"""

from typing import Any

import torch
from torch import Tensor

from training.engine import deepspeed_engine
from training.optim.step_guard import Guard
from training.run.batches import Batch
from training.run.run_context import Job


def take_step(job: Job, engine: Any, guard: Guard, batch: Batch) -> tuple[Tensor, Tensor]:
    """One optimizer step: (summed loss of the clean and of the toxic rows of all ranks, [2]; 1 if
    it counts, else 0).
    """
    device, loss_S = job.world.device, torch.zeros(2, dtype=torch.float64, device=job.world.device)
    guard.expect(batch, loss_S)
    tokens_BT, valid_B, toxic_B = (
        part.to(device, non_blocking=True) for part in (batch.tokens, batch.valid, batch.toxic)
    )
    sources_BS = torch.stack([~toxic_B & valid_B, toxic_B], dim=1)
    scale = job.world.n_data_ranks / (batch.n_valid * (job.run.train.sequence_length - 1))
    for start in range(0, len(tokens_BT), job.micro_batch):
        rows = slice(start, start + job.micro_batch)
        objective, loss_B = engine(
            tokens_BT[rows], valid_B[rows] * scale, job.starts(batch.tokens[rows])
        )
        loss_S += (loss_B[:, None] * sources_BS[rows]).sum(0)
        deepspeed_engine.backward_and_step(engine, objective, last=rows.stop == len(tokens_BT))
    return loss_S, guard.settle()
