"""determinism: which numbers are the same bits in every run, and at what cost

    device   train.compute.deterministic   the same run again, or resumed, on as many ranks
    CPU      false or true                 has the same bits; it costs nothing
    CUDA     false                         agrees to rounding: the fastest kernels run, and some add
                                           in an order that varies
    CUDA     true                          has the same bits on the same GPUs and libraries, or ends
                                           with torch's error that names the operation

On CUDA it costs cuDNN's attention, which has no deterministic backward pass (SDPA takes its flash
kernel, with the deterministic backward pass; so does flash-attn), and the compiler's trials of
configurations that change the order of a sum. With `warn_only` torch would keep cuDNN's attention
and flash's usual backward pass, but still pay elsewhere; so it is not used on CUDA.
"""

import os

import torch


def configure(device_type: str, *, deterministic: bool) -> None:
    """Set this process up for runs on "cpu" or "cuda"; before CUDA's libraries are first used."""
    if device_type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)
        # imported here, since it imports the compiler
        from torch._inductor import config as inductor_config

        inductor_config.deterministic = deterministic
    # Filling costs a pass over every new tensor, and no uninitialized memory is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def describe(device_type: str, *, deterministic: bool) -> str:
    """For the run record: "yes", or what varies."""
    if device_type == "cpu" or deterministic:
        return "yes"
    return "no: sums on the GPU vary in the last bits"
