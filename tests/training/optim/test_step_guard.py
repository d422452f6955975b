"""Bad steps on one rank; that two ranks reach the same verdict is tested in test_pretrain.py."""

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from training.config import RunConfig
from training.engine import deepspeed_state, process_group
from training.engine.process_group import World
from training.optim import step_guard
from training.optim.step_guard import StepGuard
from training.trainer import loop

Plan = Callable[..., RunConfig]
State = dict[str, Tensor]
Poison = Callable[..., list[tuple[int, State]]]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """poison(steps, factor) multiplies the gradient of these steps by `factor`.

    It returns a list that every step fills with its number and the state before it.
    """

    def poison_steps(steps: Collection[int], factor: float) -> list[tuple[int, State]]:
        states: list[tuple[int, State]] = []
        train_step = loop.train_step

        def poisoned_step(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
            states.append((batch.step, state_of(engine)))
            backward = engine.backward
            if batch.step in steps:
                engine.backward = lambda loss, **how: backward(loss * factor, **how)
            try:
                return train_step(context, engine, guard, batch)
            finally:
                engine.backward = backward

        monkeypatch.setattr(loop, "train_step", poisoned_step)
        return states

    return poison_steps


def state_of(engine: Any) -> State:
    """Copies of the fp32 weights, the optimizer state, its step count and the trained weights."""
    state = {
        f"{part.key}/{part.name}": value.clone()
        for part, value in deepspeed_state.local_slices(engine)
    }
    state["steps"] = torch.tensor(deepspeed_state.optimizer_steps(engine))
    for name, value in engine.module.named_parameters():
        if not hasattr(value, "ds_id"):  # ZeRO-3 has partitioned it
            state[name] = value.detach().clone()
    return state


def step_lines(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are of a training step."""
    text = (root / "runs" / run.run_id / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "grad_norm" in line]


def skipped_so_far(root: Path, run: RunConfig) -> list[tuple[int, int]]:
    return [(line["step"], line["skipped_steps"]) for line in step_lines(root, run)]


def result(root: Path, run: RunConfig) -> tuple[bytes, list[Any]]:
    lines = [
        (line["step"], line["loss"], line["grad_norm"], line["skipped_steps"])
        for line in step_lines(root, run)
    ]
    return (root / "runs" / run.run_id / "export" / "model.safetensors").read_bytes(), lines


def delete_record(root: Path, run: RunConfig) -> None:
    (root / "runs" / run.run_id / "record.json").unlink()


@pytest.mark.parametrize(
    ("stage", "precision", "micro_batch", "factor"),
    [
        (0, "bf16", 1, math.nan),
        (1, "bf16", 0, math.nan),
        (1, "bf16", 0, math.inf),
        (1, "bf16", 1, math.nan),
        (1, "fp32", 0, math.nan),
        (2, "bf16", 0, math.inf),
        (2, "bf16", 1, math.nan),
        (3, "bf16", 0, math.nan),
        (3, "fp32", 1, math.inf),
    ],
)
def test_a_step_with_a_nan_changes_no_weight_no_moment_and_no_count(
    plan: Plan,
    tmp_path: Path,
    poison: Poison,
    stage: Any,
    precision: Any,
    micro_batch: int,
    factor: float,
):
    run = plan(
        "run",
        {
            "parallel.zero_stage": stage,
            "compute.precision": precision,
            "micro_batch": micro_batch,
        },
    )
    states = poison({3}, factor)
    record = loop.train(str(tmp_path), run)
    (_, before), (_, after), (_, later) = states[3:6]
    assert before["steps"] == after["steps"] == later["steps"] - 1 == 3
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not any(torch.equal(after[name], later[name]) for name in after)
    assert (record.skipped_steps, record.n_rollbacks) == (((3, 4),), 0)
    expected = [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]
    assert skipped_so_far(tmp_path, run) == expected
    assert all(math.isfinite(line["loss"]) for line in step_lines(tmp_path, run))


@pytest.mark.parametrize("log_every_steps", [1, 5])
def test_bad_steps_in_a_row_roll_back_and_leave_out_the_batches_since(
    plan: Plan, tmp_path: Path, poison: Poison, log_every_steps: int
):
    run = plan(
        "run",
        {
            "global_batch": 2,
            "guard.max_bad_steps": 2,
            "checkpoint.every_steps": 3,
            "metrics.every_steps": log_every_steps,
        },
        n_clean=17,
        n_toxic=3,
    )
    states = poison({5, 6}, math.nan)  # a save is due after step 5, while steps are bad
    record = loop.train(str(tmp_path), run)
    steps = [step for step, _ in states]
    rolled_back = len(steps) - 1 - steps[::-1].index(7)  # the first step after the rollback
    assert steps[rolled_back:] == [7, 8, 9]
    at_checkpoint, after_rollback = states[3][1], states[rolled_back][1]
    assert all(torch.equal(at_checkpoint[name], after_rollback[name]) for name in at_checkpoint)
    assert (record.skipped_steps, record.n_rollbacks) == (((3, 7),), 1)
    assert skipped_so_far(tmp_path, run)[-1] == (10, 4)


def test_without_a_checkpoint_training_rolls_back_to_the_start(
    plan: Plan, tmp_path: Path, poison: Poison
):
    run = plan("run", {"global_batch": 2, "guard.max_bad_steps": 2}, n_clean=17, n_toxic=3)
    states = poison({3, 4}, math.nan)
    assert loop.train(str(tmp_path), run).skipped_steps == ((0, 5),)
    assert [step for step, _ in states] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_run_that_stays_bad_is_refused_after_three_rollbacks(
    plan: Plan, tmp_path: Path, poison: Poison
):
    run = plan(
        "run",
        {"global_batch": 1, "guard.max_bad_steps": 2, "checkpoint.every_steps": 3},
        n_clean=24,
        n_toxic=16,
    )
    states = poison(range(10, 40), math.nan)
    with pytest.raises(
        ConfigurationError,
        match=r"around step 18 of 40 are not .*diverged; lower train\.optimizer\.learning_rate",
    ):
        loop.train(str(tmp_path), run)
    # 10–11, 12–13, 14–15 and 16–17 were bad, and there are at most 3 rollbacks.
    assert [step for step, _ in states] == list(range(18))


def test_bad_last_steps_are_skipped_or_refused(plan: Plan, tmp_path: Path, poison: Poison):
    poison({4, 5}, math.nan)
    assert loop.train(str(tmp_path), plan("few")).skipped_steps == ((4, 6),)
    with pytest.raises(ConfigurationError, match="diverged"):
        loop.train(str(tmp_path), plan("many", {"guard.max_bad_steps": 2}))


def test_a_resumed_run_has_the_window_and_the_same_verdicts(
    plan: Plan, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(step_guard, "WARMUP_STEPS", 8)
    run = plan(
        "run",
        {
            "global_batch": 1,
            "optimizer.learning_rate": 1e-4,
            "checkpoint.every_steps": 6,
            "checkpoint.keep_last": 9,
            "guard.spike_sigma": 3.0,
        },
        n_clean=20,
        n_toxic=4,
    )
    states = poison({2, 14, 15, 20}, 50.0)
    record = loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    skipped = {step for first, end in record.skipped_steps for step in range(first, end)}
    assert skipped >= {14, 15, 20}
    delete_record(tmp_path, run)
    resumed = loop.train(str(tmp_path), run)
    assert states[24][0] == 18 and resumed.skipped_steps == record.skipped_steps
    assert result(tmp_path, run) == straight


def test_a_run_killed_after_a_rollback_rolls_back_again(plan: Plan, tmp_path: Path, poison: Poison):
    run = plan(
        "run",
        {
            "global_batch": 2,
            "guard.max_bad_steps": 2,
            "checkpoint.every_steps": 4,
            "checkpoint.keep_last": 9,
        },
        n_clean=17,
        n_toxic=3,
    )
    states = poison({5, 6}, math.nan)
    record = loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    delete_record(tmp_path, run)
    (tmp_path / "runs" / "run" / "checkpoints" / "step-00000008" / "commit.json").unlink()
    assert loop.train(str(tmp_path), run).skipped_steps == record.skipped_steps == ((4, 7),)
    assert [step for step, _ in states[10:]] == [4, 5, 6, 7, 8, 9]
    assert result(tmp_path, run) == straight


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(1.0, 3.0), min_size=step_guard.WARMUP_STEPS, max_size=300),
    st.lists(
        st.tuples(st.integers(0, 299), st.sampled_from([math.nan, math.inf, 1e6])), max_size=5
    ),
)
def test_the_window_holds_the_last_accepted_values_and_nothing_else(
    values: list[float], bad: list[tuple[int, float]]
):
    n_steps = len(values) + 1  # the last step may be a short batch, which the window leaves out
    bad_at = {step % n_steps: value for step, value in bad}
    guard = guard_without_model(n_steps)
    accepted = []
    for step, good in enumerate(values):
        value = bad_at.get(step, good)
        is_accepted = take_step(guard, step, value, norm=1.0)
        if math.isfinite(value) and (len(accepted) < step_guard.WARMUP_STEPS or value <= 3.0):
            assert is_accepted or value > 1e5 or max(accepted) < 3.0
        assert is_accepted <= math.isfinite(value)
        accepted += [value] if is_accepted else []
    expected = accepted[-step_guard.WINDOW_STEPS :]
    zeros = [0.0] * (step_guard.WINDOW_STEPS - len(expected))
    assert sorted(guard.window_2N[0].tolist()) == sorted(expected + zeros)
    assert guard.counts_3[0] == len(accepted)


@pytest.mark.parametrize("quantity", ["loss", "norm"])
def test_only_what_exceeds_six_sigma_is_bad(quantity: str):
    guard = guard_without_model(100)
    window = [1.0, 3.0] * 16  # mean 2, σ 1.016
    for step, value in enumerate(window):
        assert take_step(guard, step, value, norm=value)
    for step, value, expected in ((32, 8.2, False), (33, 7.9, True), (34, 0.0, True)):
        loss, norm = (value, 2.0) if quantity == "loss" else (2.0, value)
        assert take_step(guard, step, loss, norm=norm) is expected


def test_the_first_bad_steps_in_a_row_set_the_end_of_the_rollback():
    guard = guard_without_model(100)
    for step in range(13):
        # bad: steps 2 to 6, and 8 to 12
        take_step(guard, step, 2.0 if step in (1, 7) else math.nan, norm=1.0)
    assert guard.counts_3.tolist() == [2, 5, 7]


def test_rounding_is_no_spike():
    guard = guard_without_model(100)
    assert all(take_step(guard, step, 2.0, norm=1.0) for step in range(50))
    assert take_step(guard, 50, 2.0001, norm=1.0) and not take_step(guard, 51, 2.1, norm=1.0)


def test_an_offloaded_optimizer_gets_verdict_and_clipping_on_its_device(
    monkeypatch: pytest.MonkeyPatch,
):
    """By blocking copies: AdamW's own do not block, and its kernel on the CPU would not wait."""
    guard = guard_without_model(100)
    guard._engine.optimizer._global_grad_norm = torch.tensor(4.0)
    guard.begin_step(0, 1, torch.zeros(2, dtype=torch.float64))
    elsewhere = torch.ones(1, device="meta")
    # ZeRO-3 steps one group at a time, and empties the others meanwhile
    optimizer: Any = SimpleNamespace(param_groups=[{"params": []}, {"params": [elsewhere]}])
    to, copies = Tensor.to, []

    def recorded(value: Tensor, *arguments: Any, **options: Any) -> Tensor:
        moved = to(value, *arguments, **options)
        if moved.device != value.device:
            copies.append(options)
        return moved

    monkeypatch.setattr(Tensor, "to", recorded)
    guard._before_optimizer(optimizer)
    assert optimizer.found_inf.device == optimizer.grad_scale.device == elsewhere.device
    assert copies == [{}, {}]  # a copy waits unless it is told not to


def guard_without_model(n_steps: int) -> StepGuard:
    """A guard whose losses and norms `take_step` gives."""
    process_group.join()
    train = SimpleNamespace(
        guard=SimpleNamespace(spike_sigma=6.0, max_bad_steps=5),
        optimizer=SimpleNamespace(gradient_clip=1.0),
        sequence_length=2,
    )
    run: Any = SimpleNamespace(train=train, mixture=SimpleNamespace(n_steps=n_steps))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], fused=True)
    engine = SimpleNamespace(
        basic_optimizer=optimizer, optimizer=SimpleNamespace(_global_grad_norm=None), device="cpu"
    )
    return StepGuard(engine, run, World(0, 1, torch.device("cpu"), 0, 1))


def take_step(guard: StepGuard, step: int, loss: float, *, norm: float) -> bool:
    engine = guard._engine
    engine.optimizer._global_grad_norm = torch.tensor(norm)
    guard.begin_step(step, 1, torch.tensor([loss, 0.0], dtype=torch.float64))
    (parameter,) = engine.basic_optimizer.param_groups[0]["params"]
    before = parameter.detach().clone()
    parameter.grad = torch.ones(1)
    engine.basic_optimizer.step()
    is_accepted = bool(guard.end_step())
    assert is_accepted == (not torch.equal(before, parameter))
    return is_accepted
