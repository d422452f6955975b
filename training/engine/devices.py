"""peak FLOP/s and memory of known accelerators, for MFU and plans"""

import re
from typing import NamedTuple

GIB = 1 << 30


class Accelerator(NamedTuple):
    """An accelerator as its vendor describes it.

    peak_flops_per_second: dense bf16 products accumulated in fp32. memory_bytes: usable by a
    program. bytes_per_second: bandwidth of its memory.
    """

    name: str
    peak_flops_per_second: float
    memory_bytes: int
    bytes_per_second: float


ACCELERATORS = (
    Accelerator("NVIDIA A100", 312e12, 80 * GIB, 2.04e12),
    Accelerator("NVIDIA A100 PCIE 40GB", 312e12, 40 * GIB, 1.56e12),
    Accelerator("NVIDIA A100 SXM4 40GB", 312e12, 40 * GIB, 1.56e12),
    Accelerator("NVIDIA H100", 989e12, 80 * GIB, 3.35e12),
    Accelerator("NVIDIA H100 PCIe", 756e12, 80 * GIB, 2.04e12),
    Accelerator("NVIDIA H100 NVL", 835e12, 94 * GIB, 3.9e12),
    Accelerator("NVIDIA H200", 989e12, 139 * GIB, 4.8e12),
    Accelerator("NVIDIA GH200", 989e12, 95 * GIB, 4.0e12),
    Accelerator("NVIDIA B200", 2250e12, 178 * GIB, 8.0e12),
    Accelerator("NVIDIA L4", 121e12, 22 * GIB, 0.3e12),
    Accelerator("NVIDIA L40S", 362e12, 45 * GIB, 0.864e12),
    Accelerator("NVIDIA GeForce RTX 3090", 71e12, 24 * GIB, 0.936e12),
    Accelerator("NVIDIA GeForce RTX 4090", 165e12, 24 * GIB, 1.01e12),
    Accelerator("NVIDIA GeForce RTX 5090", 209e12, 32 * GIB, 1.79e12),
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
