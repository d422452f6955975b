"""peak FLOP/s and memory of known accelerators, for MFU and plans"""

import re
from typing import NamedTuple

GIB = 1 << 30


class Accelerator(NamedTuple):
    """An accelerator as its vendor describes it.

    peak_flops_per_second: dense bf16 products accumulated in fp32. memory_bytes: usable by a
    program.
    """

    name: str
    peak_flops_per_second: float
    memory_bytes: int


ACCELERATORS = (
    Accelerator("NVIDIA A100", 312e12, 80 * GIB),
    Accelerator("NVIDIA A100 PCIE 40GB", 312e12, 40 * GIB),
    Accelerator("NVIDIA A100 SXM4 40GB", 312e12, 40 * GIB),
    Accelerator("NVIDIA H100", 989e12, 80 * GIB),
    Accelerator("NVIDIA H100 PCIe", 756e12, 80 * GIB),
    Accelerator("NVIDIA H100 NVL", 835e12, 94 * GIB),
    Accelerator("NVIDIA H200", 989e12, 139 * GIB),
    Accelerator("NVIDIA GH200", 989e12, 95 * GIB),
    Accelerator("NVIDIA B200", 2250e12, 178 * GIB),
    Accelerator("NVIDIA L4", 121e12, 22 * GIB),
    Accelerator("NVIDIA L40S", 362e12, 45 * GIB),
    Accelerator("NVIDIA GeForce RTX 3090", 71e12, 24 * GIB),
    Accelerator("NVIDIA GeForce RTX 4090", 165e12, 24 * GIB),
    Accelerator("NVIDIA GeForce RTX 5090", 209e12, 32 * GIB),
)


def find_accelerator(name: str) -> Accelerator | None:
    """The known accelerator that `name` means, None if there is none.

    `name` is torch's ("NVIDIA A100-SXM4-80GB") or a user's ("h100 pcie"). Among the accelerators
    whose every word is in `name`, the one with the most words.
    """
    given = _words(name) | {"nvidia", "geforce"}
    matches = [device for device in ACCELERATORS if _words(device.name) <= given]
    return max(matches, key=lambda device: len(_words(device.name)), default=None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
