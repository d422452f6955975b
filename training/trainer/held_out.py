"""the loss on held-out text of each stream, shared out over the ranks"""

from typing import Any

import numpy as np
import torch

from data_prep.core import telemetry
from training.engine import process_group
from training.run.run_context import Job
from training.run_record import HeldOutLoss


@torch.no_grad()
def held_out_losses(job: Job, engine: Any) -> tuple[HeldOutLoss, ...]:
    """The mean loss on the first held-out sequences of each stream, shared out over the ranks;
    every rank returns it.
    """
    train, world, losses = job.run.train, job.world, []
    engine.eval()
    for stream in job.inputs.uris:
        reader = job.reader(stream, "held_out")
        n, loss_sum = (
            min(train.validation.sequences, reader.n_sequences),
            torch.zeros((), dtype=torch.float64, device=world.device),
        )
        if n == 0:
            telemetry.logger.warning(
                "no held-out loss on the %s stream: it holds out less than one sequence", stream
            )
            continue
        for start in range(
            0, n, job.micro_batch * world.n_data_ranks
        ):  # as many passes on every rank: ZeRO-3 gathers in them
            indices = start + world.data_rank * job.micro_batch + np.arange(job.micro_batch)
            hosted_BT = torch.from_numpy(reader.read(np.minimum(indices, n - 1)))
            valid_B = torch.from_numpy(indices < n).to(world.device)
            loss_sum += (
                engine(hosted_BT.to(world.device), valid_B, job.starts(hosted_BT)).loss_B * valid_B
            ).sum()
        n_predictions = n * (train.sequence_length - 1)
        process_group.all_reduce_sum(loss_sum, world.data_group)
        losses.append(
            HeldOutLoss(stream=stream, loss=loss_sum.item() / n_predictions, n_tokens=n_predictions)
        )
    engine.train()
    return tuple(losses)
