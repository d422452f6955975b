"""seconds that a checkpoint costs: the stall of training, the upload beside it, and restoring

On a GPU a save queues its copies on the device and returns, so the time of the call is not the
stall: that is what a save and the step after it take longer than a step, until the device is done.
On a CPU the call copies, and is the stall.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
import train_contenders
from train_peers import synchronize

from data_prep.core.settings import evolve
from training.checkpoint.manager import CheckpointManager
from training.checkpoint.verify_and_prune import RunIdentity
from training.config import TrainConfig
from training.engine import deepspeed_engine, deepspeed_state, process_group


class CheckpointCosts(NamedTuple):
    """Seconds, and the bytes of a checkpoint; several values where it was repeated.

    step: without a checkpoint. saving: the call of `save`. saved_step: that call and the step after
    it. step_beside_upload: the second step after a save. locking: of the pages that the first save
    copies to, which a training does in the background long before.
    """

    state_bytes: int
    step: list[float]
    locking: float
    first_saving: float
    first_saved_step: float
    saving: list[float]
    saved_step: list[float]
    step_beside_upload: list[float]
    published: list[float]
    restore: float
    is_cuda: bool

    @property
    def first_stall(self) -> float:
        return self._stall(self.first_saving, self.first_saved_step)

    @property
    def stall(self) -> float:
        """The median of all saves but the first."""
        return self._stall(median(self.saving), median(self.saved_step))

    def _stall(self, saving: float, saved_step: float) -> float:
        return max(0.0, saved_step - median(self.step)) if self.is_cuda else saving


def measure(
    train: TrainConfig,
    store: str,
    n_steps: int,
    n_saves: int,
    on_seconds: Callable[[str, float], object] = lambda name, seconds: None,
) -> CheckpointCosts:
    """Train on random tokens, a micro-batch per step, and save n_saves + 1 checkpoints to `store`.

    The model and its tokens are on the device of this process. on_seconds: called with each name
    and its seconds as soon as they are known.
    """
    world = process_group.join()
    train = evolve(train, {"checkpoint.every_steps": 1})
    engine = _new_engine(train, world.device)

    def new_manager() -> CheckpointManager:
        identity = RunIdentity("bench", "bench")
        return CheckpointManager(f"{store}/checkpoints", identity, world, "bench", train.checkpoint)

    checkpoints = new_manager()
    shape = (train.global_batch, train.sequence_length)
    tokens_BT = torch.randint(train.model.vocab_size, shape, device=world.device)
    weight_B = torch.full((len(tokens_BT),), 1e-3, device=world.device)

    def step() -> None:
        objective, _ = engine(tokens_BT, weight_B)
        deepspeed_engine.backward_and_step(engine, objective, last=True)

    step()  # the first steps also allocate and compile
    step()
    plain = [_seconds(step) for _ in range(n_steps)]
    locking = _seconds(lambda: _prepare(checkpoints, engine))
    saving, saved_step, beside_upload, published = [], [], [], []
    for number in range(1, 2 + n_saves):
        synchronize()
        start = time.perf_counter()
        checkpoints.save(engine, number, 0.0, {})
        saving.append(time.perf_counter() - start)
        step()
        synchronize()
        saved_step.append(time.perf_counter() - start)
        beside_upload.append(_seconds(step))
        checkpoints.finish()
        published.append(time.perf_counter() - start)
        on_seconds("step", median(plain))
        on_seconds("save and step", saved_step[-1])
        on_seconds("published", published[-1])
    state_bytes = sum(4 * piece.count for piece, _ in deepspeed_state.local_slices(engine))
    deepspeed_engine.release(engine)
    other_engine = _new_engine(train, world.device)
    restore = _seconds(lambda: new_manager().restore(other_engine))
    return CheckpointCosts(
        state_bytes, plain, locking, saving[0], saved_step[0], saving[1:], saved_step[1:],
        beside_upload, published, restore, world.device.type == "cuda",
    )  # fmt: skip


def _new_engine(train: TrainConfig, device: torch.device) -> Any:
    model = train_contenders.build_model(train, device)
    return deepspeed_engine.initialise(model, deepspeed_engine.deepspeed_settings(train, 1))


def _prepare(checkpoints: CheckpointManager, engine: Any) -> None:
    """Prepare the first save as the training loop does, and wait until that is done."""
    if preparing := checkpoints.prepare(engine):
        preparing.result()


def _seconds(work: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start
