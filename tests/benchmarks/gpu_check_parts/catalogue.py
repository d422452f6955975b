"""the parts of gpu_check.py in the order of their worth, and the time that each is expected to take

The most valuable come first, because a lease of a GPU may end at any time. The sum is ten minutes;
the seconds are estimates, since nothing of this has run on a GPU yet.
"""

from typing import NamedTuple


class PartSpec(NamedTuple):
    """One part: its `module` has a function `run(recorder)`.

    seconds: what it is expected to take on an H200 out of ten minutes. A part may take twice as
    long before it is ended; items that are only nice to have are left out after `seconds`.
    """

    name: str
    module: str
    seconds: float
    purpose: str


PARTS = (
    PartSpec(
        "environment",
        "gpu_check_parts.environment",
        30,
        "the machine: versions, memory and GEMM speed, compiled kernels",
    ),
    PartSpec(
        "correctness-model",
        "gpu_check_parts.model_numbers",
        40,
        "loss, gradients, attention, documents",
    ),
    PartSpec(
        "correctness-engine", "gpu_check_parts.engine_numbers", 40, "ZeRO 0-3, offloading and Muon"
    ),
    PartSpec(
        "correctness-steering", "gpu_check_parts.steering_numbers", 20, "generation and steering"
    ),
    PartSpec(
        "resume",
        "gpu_check_parts.determinism",
        50,
        "what is bit-identical: two runs, resume, kernels",
    ),
    PartSpec(
        "speed", "gpu_check_parts.speed", 80, "OLMo-1B: tokens per second, MFU, profile by category"
    ),
    PartSpec("loop", "gpu_check_parts.loop_overhead", 50, "what the training loop adds to a step"),
    PartSpec(
        "variants", "gpu_check_parts.variants", 60, "micro-batches, ZeRO stages, attention kernels"
    ),
    PartSpec(
        "peers",
        "gpu_check_parts.peers",
        55,
        "transformers under DeepSpeed, DDP and FSDP2, in this run",
    ),
    PartSpec("fp8", "gpu_check_parts.fp8", 35, "FP8 matrix products, and their loss against bf16"),
    PartSpec(
        "checkpoint",
        "gpu_check_parts.checkpoint_stall",
        50,
        "how long a checkpoint of the 1B stalls a step",
    ),
    PartSpec(
        "evaluation",
        "gpu_check_parts.evaluation",
        45,
        "evaluation of a 1B: probes, steering, cross-entropy",
    ),
    PartSpec(
        "study", "gpu_check_parts.study", 45, "a real small sweep: train and evaluate some ratios"
    ),
)


def named(words: list[str]) -> list[PartSpec]:
    """The parts whose names begin with one of these words, in the catalogue's order; all for none.

    Raises ValueError for a word that begins no name.
    """
    for word in words:
        if not any(part.name.startswith(word) for part in PARTS):
            names = ", ".join(part.name for part in PARTS)
            raise ValueError(f"there is no part {word!r}; the parts are {names}")
    return [part for part in PARTS if not words or part.name.startswith(tuple(words))]
