"""one optimizer step: forward, backward and step over the micro-batches of this rank's rows

The gradient is that of the mean loss over the valid rows of the global batch, however it is shared out. DeepSpeed takes the
mean over A micro-batches and W ranks; with B = W·A·m rows of T − 1 predictions, of which V rows are not padding,

    objective of a micro-batch = Σ over its valid rows of the row's summed loss / (m · (T − 1)) · B / V

The summed losses stay on the device, apart for each source; nothing here waits for it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.batches import Batch
from training.job import Job


def take_step(job: Job, engine: Any, batch: Batch) -> Tensor:
    """One optimizer step; the summed loss of this rank's clean and of its toxic rows, [2] on the device."""
    train, device = job.run.train, job.place.device
    n_predictions, loss_S = train.sequence_length - 1, torch.zeros(2, dtype=torch.float64, device=device)
    sources_BS = np.stack([~batch.toxic, batch.toxic], axis=1)  # a padding row's loss is zero
    scale = train.global_batch / batch.n_valid / (job.micro_batch * n_predictions)
    for start in range(0, len(batch.tokens), job.micro_batch):
        rows = slice(start, start + job.micro_batch)
        tokens_BT = torch.from_numpy(batch.tokens[rows]).to(device, non_blocking=True)
        valid_B = torch.from_numpy(batch.valid[rows]).to(device, non_blocking=True)
        source_BS = torch.from_numpy(sources_BS[rows]).to(device, non_blocking=True)
        objective, loss_B = engine(tokens_BT, valid_B * scale)
        engine.backward(objective)
        engine.step()
        loss_S += ((loss_B * valid_B)[:, None] * source_BS).sum(0)
    return loss_S
