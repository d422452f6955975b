"""What a training step asks of the device: no waiting for it, and sums in the promised format.

The CPU's accelerator of DeepSpeed is asked for the same synchronisations as CUDA's.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed import comm
from deepspeed.accelerator import get_accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from training.config import RunConfig
from training.trainer import loop

Plan = Callable[..., RunConfig]
STEP = 4  # DeepSpeed's timer begins with its third step; the last step's batch is short


class HostReads(TorchDispatchMode):
    """Counts the operations that return a device's value to the host, and so wait for it."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
        )
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched_step(monkeypatch: pytest.MonkeyPatch, plan: Plan, tmp_path: Path) -> Any:
    """watched_step(changes): what one step of a run with these settings asked for, counted."""

    def watch(changes: dict[str, Any]) -> Counter[str]:
        counts: Counter[str] = Counter()
        train_step, reads = loop.train_step, HostReads()

        def watched(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
            if batch.step != STEP:
                return train_step(context, engine, guard, batch)
            with pytest.MonkeyPatch.context() as patch, reads:
                patch.setattr(
                    type(get_accelerator()),
                    "synchronize",
                    lambda *_: counts.update(["synchronisations"]),
                )
                all_reduce = comm.all_reduce

                def recorded(tensor: Any, *arguments: Any, **options: Any) -> Any:
                    if tensor.numel() > 1000:  # gradients, not losses or norms
                        counts.update([f"sent in {tensor.dtype}"])
                    return all_reduce(tensor, *arguments, **options)

                patch.setattr(comm, "all_reduce", recorded)
                result = train_step(context, engine, guard, batch)
            counts["host reads"] = reads.n
            optimizer = engine.optimizer
            for sums in getattr(optimizer, "fp32_groups_gradients_flat", ()):
                counts.update([f"summed in {sums.dtype}"])
            bf16_gradients = (weight.grad for weight in engine.module.parameters())
            counts["bf16 gradients kept"] = sum(
                gradient is not None and gradient.dtype is torch.bfloat16
                for gradient in bf16_gradients
            )
            return result

        monkeypatch.setattr(loop, "train_step", watched)
        loop.train(str(tmp_path), plan("run", changes))
        return counts

    return watch


@pytest.mark.parametrize(
    ("precision", "stage", "micro_batch", "n_host_reads"),
    [
        ("bf16", 1, 0, 0),
        ("bf16", 2, 0, 0),
        ("bf16", 1, 1, 1),  # BF16_Optimizer reads its norm
        ("bf16", 2, 1, 0),
    ],
)
def test_a_step_never_waits_for_the_device_but_where_documented(
    watched_step: Any, precision: Any, stage: Any, micro_batch: int, n_host_reads: int
):
    """See step_guard.py."""
    changes = {
        "compute.precision": precision,
        "parallel.zero_stage": stage,
        "micro_batch": micro_batch,
    }
    counts = watched_step(changes)
    assert (counts["synchronisations"], counts["host reads"]) == (0, n_host_reads)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_fp32_sums_of_micro_batches_are_sent_as_fp32(watched_step: Any, kind: str):
    counts = watched_step({"compute.precision": "bf16", "micro_batch": 1, "optimizer.kind": kind})
    assert counts["summed in torch.float32"] >= 1
    assert counts["sent in torch.float32"] >= 1
    assert counts["sent in torch.bfloat16"] == 0
    assert counts["bf16 gradients kept"] == 0


@pytest.mark.parametrize(("stage", "micro_batch"), [(1, 0), (2, 1)])
def test_other_bf16_gradients_are_sent_as_bf16(watched_step: Any, stage: Any, micro_batch: int):
    changes = {"parallel.zero_stage": stage, "micro_batch": micro_batch}
    counts = watched_step({"compute.precision": "bf16"} | changes)
    assert counts["sent in torch.bfloat16"] >= 1
    assert counts["sent in torch.float32"] == 0


@pytest.mark.numeric
def test_on_one_rank_every_stage_sums_bf16_gradients_to_the_same_bits(plan: Plan, tmp_path: Path):
    """Nothing but the fp32 sums reaches the optimizer, when and however they are computed."""
    losses = set()
    for stage in (1, 2, 3):
        changes = {"compute.precision": "bf16", "parallel.zero_stage": stage, "micro_batch": 1}
        losses.add(loop.train(str(tmp_path), plan(f"stage-{stage}", changes)).final_train_loss)
    assert len(losses) == 1
