"""OLMo-1B with other micro-batches, ZeRO stages, attention kernels, and with recomputation

The most telling come first; those that do not fit into the part's time are skipped.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import train_contenders
from torch.nn.attention import SDPBackend, sdpa_kernel

from data_prep.core.settings import evolve
from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder
from training.config import TrainConfig
from training.model import determinism

SECONDS = 20.0  # of one variant: compiling, and some steps
N_STEPS = 3
OF_TORCH = ("backend", "deterministic")  # not settings of ours, but of this process
VARIANTS: dict[str, dict[str, Any]] = {  # × the micro-batch of `speed`
    "micro-batch × 2": {"micro_batch": 2.0},
    "SDPA by flash": {"backend": "FLASH_ATTENTION"},
    "micro-batch / 2": {"micro_batch": 0.5},
    "ZeRO stage 2": {"parallel.zero_stage": 2},
    "ZeRO stage 3": {"parallel.zero_stage": 3},
    "deterministic": {"deterministic": True},
    "selective recomputation": {"compute.activation_checkpointing": "selective"},
    "Muon": {"optimizer.kind": "muon"},
    "not compiled": {"compute.compile": "off"},
}


def run(recorder: Recorder) -> None:
    bench = one_billion.prepare(recorder, n_steps=N_STEPS)
    for name, changes in VARIANTS.items():
        if not recorder.has_time(SECONDS, name):
            continue
        with recorder.item(name), _torch_settings(changes):
            train = variant_of(bench.train, changes)
            shape = train_contenders.shape_of(train, bench.shape.n_steps)
            variant = bench._replace(train=train, shape=shape)
            one_billion.measure(recorder, variant, name, partial(train_contenders.ours, train))
        one_billion.release()


def variant_of(train: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The settings with a variant's changes, but for what is set in this process."""
    settings = {name: value for name, value in changes.items() if name not in OF_TORCH}
    if "micro_batch" in settings:
        settings["micro_batch"] = int(train.passes(1).micro_batch * settings["micro_batch"])
    return evolve(train, settings)


@contextmanager
def _torch_settings(changes: dict[str, Any]) -> Iterator[None]:
    """Let SDPA use one kernel only, or ask for deterministic kernels, as `loop.train` would."""
    with ExitStack() as stack:
        if name := changes.get("backend"):
            stack.enter_context(sdpa_kernel(getattr(SDPBackend, name)))
        if changes.get("deterministic"):
            kind = "cuda" if torch.cuda.is_available() else "cpu"
            determinism.configure(kind, deterministic=True)
            stack.callback(determinism.configure, kind, deterministic=False)
        yield
