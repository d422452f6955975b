"""training under DeepSpeed on the device, against the same steps in plain PyTorch on the CPU

ZeRO stages 0 to 3, offloaded optimizer state and Muon, each by the real loop on one rank. The loss
of each step is compared, and the update: the difference of the final weights over the distance
that training moved them. AdamW makes small gradients as large as large ones, so rounding shows more
in the update than in the loss.
"""

from typing import Any

from data_prep.core.settings import evolve
from gpu_check_parts.recorder import Recorder
from gpu_check_parts.trained_runs import (
    TrainedRun,
    initial_weights,
    train_plainly,
    train_run,
    train_settings,
)

N_STEPS = 6
FP32_LOSS_LIMIT = 1e-4
FP32_UPDATE_LIMIT = 1e-2
BF16_LOSS_LIMIT = 5e-3  # against fp32
BF16_UPDATE_LIMIT = 0.1  # against stage 1 in bf16
MUON_UPDATE_LIMIT = 0.1  # it multiplies in bf16 in any case
FP32_CASES: dict[str, dict[str, Any]] = {
    "stage 0": {"parallel.zero_stage": 0},
    "stage 1": {"parallel.zero_stage": 1},
    "stage 2": {"parallel.zero_stage": 2},
    "stage 3": {"parallel.zero_stage": 3},
    "stage 1, offloaded": {"parallel.zero_stage": 1, "parallel.offload_optimizer": True},
}
BF16_CASES: dict[str, dict[str, Any]] = {
    "stage 1": {"parallel.zero_stage": 1},
    "stage 1, one pass per step": {"parallel.zero_stage": 1, "micro_batch": 0},
    "stage 2": {"parallel.zero_stage": 2},
    "stage 3": {"parallel.zero_stage": 3},
    "stage 1, offloaded": {"parallel.zero_stage": 1, "parallel.offload_optimizer": True},
    "stage 3, offloaded": {"parallel.zero_stage": 3, "parallel.offload_optimizer": True},
}


def run(recorder: Recorder) -> None:
    train = train_settings(is_tiny=recorder.is_tiny)
    initial = initial_weights(train)
    reference: TrainedRun | None = None
    for name, changes in FP32_CASES.items():
        with recorder.item(f"fp32, {name}"):
            found = train_run(recorder.work, evolve(train, changes), N_STEPS)
            reference = reference or train_plainly(train, found.batches)
            recorder.at_most(
                f"fp32, {name}: loss", found.loss_error(reference), FP32_LOSS_LIMIT, "plain PyTorch"
            )
            error = found.update_error(reference, initial)
            recorder.at_most(f"fp32, {name}: update", error, FP32_UPDATE_LIMIT, "plain PyTorch")
    with recorder.item("Muon"):
        muon = evolve(train, {"optimizer.kind": "muon"})
        found = train_run(recorder.work, muon, N_STEPS)
        plain = train_plainly(muon, found.batches)
        recorder.at_most("fp32, Muon: loss", found.loss_error(plain), BF16_LOSS_LIMIT)
        error = found.update_error(plain, initial)
        recorder.at_most("fp32, Muon: update", error, MUON_UPDATE_LIMIT, "plain PyTorch")
    first: TrainedRun | None = None
    for name, changes in BF16_CASES.items():
        if not recorder.has_time(4, f"bf16, {name}"):
            continue
        with recorder.item(f"bf16, {name}"):
            settings = evolve(train, {"compute.precision": "bf16", **changes})
            found = train_run(recorder.work, settings, N_STEPS)
            if reference:
                error = found.loss_error(reference)
                recorder.at_most(f"bf16, {name}: loss", error, BF16_LOSS_LIMIT, "fp32")
            if first:
                error = found.update_error(first, initial)
                recorder.at_most(f"bf16, {name}: update", error, BF16_UPDATE_LIMIT, "stage 1")
            first = first or found
