"""what a device can do: peak FLOP/s and memory of known cards, so that MFU and plans name the right ones"""

from typing import NamedTuple

GIB = 1 << 30


class Device(NamedTuple):
    """peak_flops_per_second: dense bf16, from the vendor's table; memory_bytes: what a program can use."""

    name: str
    peak_flops_per_second: float
    memory_bytes: int


DEVICES = (
    Device("NVIDIA A100", 312e12, 80 * GIB),
    Device("NVIDIA H100", 989e12, 80 * GIB),
    Device("NVIDIA H200", 989e12, 139 * GIB),
    Device("NVIDIA GH200", 989e12, 95 * GIB),
    Device("NVIDIA B200", 2250e12, 178 * GIB),
    Device("NVIDIA L40S", 362e12, 45 * GIB),
)


def known(name: str) -> Device | None:
    """The table's device whose name is the longest part of `name`, e.g. of torch.cuda.get_device_name()."""
    matches = [device for device in DEVICES if device.name.split()[-1].lower() in name.lower()]
    return max(matches, key=lambda device: len(device.name), default=None)
