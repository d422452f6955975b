"""An H200 that exists in name only: what torch and triton ask of a device to compile for it

For a process that does nothing else (sm90_compiler.py), since it replaces functions of torch.cuda.
"""

from types import SimpleNamespace
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
from torch._dynamo import device_interface
from torch._inductor import config as inductor_config
from torch._inductor import utils as inductor_utils
from torch._inductor.runtime import triton_helpers
from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]

CAPABILITY = (9, 0)
SHARED_MEMORY = 232_448
PROPERTIES = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    total_memory=139 << 30,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65_536,
    warp_size=32,
    shared_memory_per_block=49_152,
    shared_memory_per_block_optin=SHARED_MEMORY,
    shared_memory_per_multiprocessor=233_472,
    L2_cache_size=60 << 20,
    gcnArchName="",
    is_integrated=0,
)


class NamedDevice(device_interface.CudaInterface):
    """What torch's compiler asks of a CUDA device, answered without one."""

    class Worker(device_interface.CudaInterface.Worker):
        @staticmethod
        def get_device_properties(device: Any = None) -> Any:
            return PROPERTIES

        @staticmethod
        def current_device() -> int:
            return 0

    get_device_properties = staticmethod(lambda device=None: PROPERTIES)
    is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    get_compute_capability = staticmethod(lambda device=None: 90)
    get_raw_stream = staticmethod(lambda index: 0)
    synchronize = staticmethod(lambda *_: None)
    set_device = staticmethod(lambda *_: None)
    exchange_device = maybe_exchange_device = staticmethod(lambda *_: 0)
    is_triton_capable = staticmethod(lambda device=None: True)
    raise_if_triton_unavailable = staticmethod(lambda device=None: None)


class NamedDriver:
    """What triton asks of a driver."""

    utils = SimpleNamespace(
        get_device_properties=lambda index: {
            "max_shared_mem": SHARED_MEMORY,
            "multiprocessor_count": 132,
            "warpSize": 32,
            "max_num_regs": 65_536,
        }
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, *_: Any) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda


def name_device() -> None:
    """Let torch believe that there is an H200, as far as compiling for it goes."""
    stream = SimpleNamespace(cuda_stream=0, stream_id=0, device_index=0, device_type=1)
    answers = {
        "_is_compiled": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": CAPABILITY,
        "get_device_properties": PROPERTIES,
        "get_device_name": PROPERTIES.name,
        "_lazy_init": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "set_device": None,
        "memory_allocated": 0,
        "synchronize": None,
        "is_initialized": False,
        "current_stream": stream,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, _answer=answer, **__: _answer)
    device_interface.init_device_reg()
    for device in ("cuda", "cuda:0"):
        device_interface.register_interface_for_device(device, NamedDevice)
    triton.runtime.driver.set_active(NamedDriver())
    triton_helpers.set_driver_to_gpu = lambda: None
    inductor_config.compile_threads = 1
    inductor_utils.get_gpu_shared_memory = lambda: SHARED_MEMORY
