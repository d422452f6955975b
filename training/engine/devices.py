"""what a device can do: peak FLOP/s and memory of known cards, so that MFU and plans name the right ones"""

import re
from typing import NamedTuple

GIB = 1 << 30


class Device(NamedTuple):
    """peak_flops_per_second: dense bf16 summed in fp32, from the vendor's table; memory_bytes: what
    a program can use.
    """

    name: str
    peak_flops_per_second: float
    memory_bytes: int


DEVICES = (
    Device("NVIDIA A100", 312e12, 80 * GIB),
    Device("NVIDIA A100 PCIE 40GB", 312e12, 40 * GIB),
    Device("NVIDIA A100 SXM4 40GB", 312e12, 40 * GIB),
    Device("NVIDIA H100", 989e12, 80 * GIB),
    Device("NVIDIA H100 PCIe", 756e12, 80 * GIB),
    Device("NVIDIA H100 NVL", 835e12, 94 * GIB),
    Device("NVIDIA H200", 989e12, 139 * GIB),
    Device("NVIDIA GH200", 989e12, 95 * GIB),
    Device("NVIDIA B200", 2250e12, 178 * GIB),
    Device("NVIDIA L4", 121e12, 22 * GIB),
    Device("NVIDIA L40S", 362e12, 45 * GIB),
    Device("NVIDIA GeForce RTX 3090", 71e12, 24 * GIB),
    Device("NVIDIA GeForce RTX 4090", 165e12, 24 * GIB),
    Device("NVIDIA GeForce RTX 5090", 209e12, 32 * GIB),
)


def known(name: str) -> Device | None:
    """The table's device with the most words in common, whose every word is in `name`: torch's
    ("NVIDIA A100-SXM4-80GB"), or without the vendor ("h100 pcie").
    """
    asked = _words(name) | {"nvidia", "geforce"}
    matches = [device for device in DEVICES if _words(device.name) <= asked]
    return max(matches, key=lambda device: len(_words(device.name)), default=None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
