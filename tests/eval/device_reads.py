"""count what would make the host wait for a GPU: reads of device values, shown on a CPU

A read (`.item()`, `.tolist()`, `float(x)`, `if x:`, `.cpu()`, an index by a boolean mask) waits
until the GPU has computed everything before it. On a CPU nothing waits, so the calls are counted:
methods where Python calls them, and operators whose shape is a value where torch dispatches them.
(Within inference_mode torch does not dispatch `aten::_local_scalar_dense`, to which `.item()`
leads.) `.numpy()` is not counted: a tensor on a GPU refuses it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING_OPERATORS = (
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)
READING_METHODS = {
    getattr(torch.Tensor, name)
    for name in ["item", "tolist", "cpu", "__bool__", "__float__", "__int__", "__index__"]
}


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = args[1] if func is torch.ops.aten.index.Tensor else ()
        is_masked = any(mask is not None and mask.dtype is torch.bool for mask in masks)
        if func in READING_OPERATORS or is_masked:
            self.counts[str(func)] += 1
        return func(*args, **kwargs or {})


class _Methods(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in READING_METHODS:
            self.counts[func.__name__] += 1
        return func(*args, **kwargs or {})


@contextmanager
def counted_reads() -> Iterator[Counter[str]]:
    """Count the reads within, by the operator or method that reads."""
    counts: Counter[str] = Counter()
    with _Operators(counts), _Methods(counts):
        yield counts
