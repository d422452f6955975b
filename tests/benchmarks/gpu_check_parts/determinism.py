"""what is bit-identical on the device: two runs, a resumed run, and single kernels

Two trainings from the same seed, and one that crashes after its checkpoint and resumes, are
compared by the checksum of their weights: as they are by default, and with
train.compute.deterministic. Then single operations run several times on the same inputs; those that
differ say why.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import random_run
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from data_prep.core import storage
from data_prep.core.settings import evolve
from gpu_check_parts.recorder import Recorder
from gpu_check_parts.trained_runs import TrainedRun, continue_run, train_settings
from training.checkpoint import verify_and_prune
from training.config import ModelConfig, RunConfig, TrainConfig
from training.model import determinism, loss
from training.run_record import run_uri

N_REPEATS = 5
COMMIT_SECONDS = 60.0
MODES: dict[str, dict[str, Any]] = {
    "by default": {},
    "deterministic": {"compute.deterministic": True},
}


class _Crash(Exception):
    """Ends a training as a lost process would: no last checkpoint, no record."""


def run(recorder: Recorder) -> None:
    # read when CUDA's libraries are first used, which is before the second mode
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    train, n_steps = _settings(recorder)
    first: TrainedRun | None = None
    for mode, changes in MODES.items():
        if recorder.device.type == "cpu" and not changes:
            continue  # there the two are one
        if not recorder.has_time(25, f"training {mode}"):
            continue
        with recorder.item(f"training {mode}"):
            trained = _check_training(recorder, mode, evolve(train, changes), n_steps)
            if first:
                recorder.text(
                    f"training {mode}, against by default",
                    f"losses differ by at most {trained.loss_error(first):.1e} (relative)",
                )
            first = first or trained
    for name, work in _operations(recorder).items():
        with recorder.item(name):
            n_different = _count_different(work)
            said = "the same bits" if n_different == 1 else f"{n_different} different results"
            recorder.text(name, f"{said} in {N_REPEATS} runs")


def _settings(recorder: Recorder) -> tuple[TrainConfig, int]:
    """bf16, compiled where that is the default, with heads of the 1B's width."""
    train = train_settings(is_tiny=recorder.is_tiny)
    train = evolve(train, {"compute.precision": "bf16", "compute.compile": "auto"})
    if recorder.is_tiny:
        return evolve(train, {"checkpoint.every_steps": 2}), 4
    model = ModelConfig(d_model=512, n_layers=4, n_heads=4, d_mlp=2048, vocab_size=8192)
    changes = {"model": model, "sequence_length": 512, "checkpoint.every_steps": 6}
    return evolve(train, changes), 12


def _check_training(recorder: Recorder, mode: str, train: TrainConfig, n_steps: int) -> TrainedRun:
    """Train twice, and once with a crash; a deterministic training must have the same bits."""
    with tempfile.TemporaryDirectory(dir=recorder.work) as folder:
        plans = [
            random_run.plan_run(f"{folder}/{i}", train, n_steps * train.global_batch)
            for i in range(3)
        ]
        one = continue_run(f"{folder}/0", plans[0])
        for name, train_other in (
            ("again", lambda: continue_run(f"{folder}/1", plans[1])),
            ("resumed", lambda: _crash_and_resume(f"{folder}/2", plans[2])),
        ):
            _compare(recorder, f"training {mode}, {name}", one, train_other())
    return one


def _compare(recorder: Recorder, name: str, one: TrainedRun, other: TrainedRun) -> None:
    """Record whether two trainings have the same bits; only a deterministic one has to."""
    is_same = _sha256(one) == _sha256(other)
    error = other.update_error(one, dict.fromkeys(one.weights, torch.zeros(())))
    note = "the same bits" if is_same else f"weights differ by {error:.1e} (relative)"
    if "deterministic" in name:
        recorder.check(name, is_same, note)
    else:
        recorder.text(name, note)


def _crash_and_resume(root: str, run: RunConfig) -> TrainedRun:
    """Crash one step after the first checkpoint is committed, then continue to the end."""
    crash_at = run.train.checkpoint.every_steps + 1
    folder = storage.join(run_uri(root, run.run_id), "checkpoints")

    def crash(step: int) -> None:
        if step < crash_at:
            return
        deadline = time.monotonic() + COMMIT_SECONDS
        while not verify_and_prune.list_commits(folder):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no checkpoint was committed in {COMMIT_SECONDS:.0f} s")
            time.sleep(0.05)
        raise _Crash

    try:
        continue_run(root, run, crash)
    except _Crash:
        resumed = continue_run(root, run)
    else:
        raise AssertionError("the training was not interrupted")
    n_left = run.mixture.n_steps - run.train.checkpoint.every_steps
    assert len(resumed.losses) == n_left, (len(resumed.losses), n_left)
    return resumed


def _sha256(trained: TrainedRun) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(trained.weights.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _count_different(work: Callable[[], tuple[Tensor, ...]]) -> int:
    """Number of different results of the same work."""
    found = set()
    for _ in range(N_REPEATS):
        digest = hashlib.sha256()
        for value in work():
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        found.add(digest.hexdigest())
    return len(found)


def _operations(recorder: Recorder) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Operations of a training step, each with its backward pass, as they are by default."""
    device = recorder.device
    determinism.configure(device.type, deterministic=False)
    n, T, V, D = (64, 32, 128, 32) if recorder.is_tiny else (8192, 1024, 50_304, 1024)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator).to(device, torch.bfloat16)
        return values.requires_grad_()

    x_ND, weight_VD = random(n, D), random(V, D)
    ids_N = torch.randint(V, (n,), generator=generator).to(device)
    rows_N = torch.randint(8, (n,), generator=generator).to(device)  # each row many times
    tokens_BT = ids_N.view(-1, T)
    weight_B = torch.full((len(tokens_BT),), 1 / n, device=device)

    def matmul() -> tuple[Tensor, ...]:
        product = x_ND @ weight_VD.T
        return torch.autograd.grad(product.square().mean(), (x_ND, weight_VD))

    def embedding() -> tuple[Tensor, ...]:
        out = torch.nn.functional.embedding(rows_N, weight_VD)
        return torch.autograd.grad(out.float().square().sum(), weight_VD)

    def objective() -> tuple[Tensor, ...]:
        x_BTD = x_ND.view(len(tokens_BT), T, D)
        total = loss.objective(x_BTD, weight_VD, tokens_BT, weight_B).total
        return (total, *torch.autograd.grad(total, (x_ND, weight_VD)))

    q, k, v = (random(2, 4, T, 64) for _ in range(3))
    gradient = random(2, 4, T, 64).detach()

    def attention(backend: SDPBackend) -> tuple[Tensor, ...]:
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return torch.autograd.grad(out, (q, k, v), gradient)

    operations: dict[str, Callable[[], tuple[Tensor, ...]]] = {
        "matrix product": matmul,
        "embedding": embedding,
        "loss": objective,
    }
    names = ["FLASH_ATTENTION"]
    if device.type == "cuda":
        names += ["CUDNN_ATTENTION", "EFFICIENT_ATTENTION"]
    for name in names:
        backend = getattr(SDPBackend, name)
        operations[f"attention {name}"] = lambda backend=backend: attention(backend)
    return operations
