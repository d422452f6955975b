"""Bad steps in one process; that two ranks decide alike is in test_pretrain.py."""

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
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.core.errors import ConfigurationError
from training.config import RunConfig
from training.engine import deepspeed_state, process_group
from training.engine.process_group import World
from training.optim import step_guard
from training.optim.step_guard import StepGuard
from training.trainer import loop

Plan = Callable[..., RunConfig]
Poison = Callable[..., list[tuple[int, dict[str, Tensor]]]]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """poison(steps, factor) multiplies the gradient of these steps; it returns a list that fills
    with (step, the state before).
    """

    def at(steps: Collection[int], factor: float) -> list[tuple[int, dict[str, Tensor]]]:
        states: list[tuple[int, dict[str, Tensor]]] = []
        plain = loop.train_step

        def poisoned(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
            state = {
                f"{piece.key}/{piece.name}": value.clone()
                for piece, value in deepspeed_state.local_slices(engine)
            }
            state |= {"steps": torch.tensor(deepspeed_state.optimizer_steps(engine))}
            whole = (
                (name, value)
                for name, value in engine.module.named_parameters()
                if not hasattr(value, "ds_id")
            )
            state |= {
                name: value.detach().clone() for name, value in whole
            }  # the copy that is trained in bf16
            states.append((batch.step, state))
            if batch.step in steps:
                backward = engine.backward
                monkeypatch.setattr(
                    engine, "backward", lambda loss, **how: backward(loss * factor, **how)
                )
            taken = plain(job, engine, guard, batch)
            if batch.step in steps:
                engine.backward = backward
            return taken

        monkeypatch.setattr(loop, "train_step", poisoned)
        return states

    return at


def lines(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (root / "runs" / run.run_id / "metrics.jsonl").read_text().splitlines()
    ]


def result(root: Path, run: RunConfig) -> tuple[bytes, list[Any]]:
    seen = [
        (line["step"], line["loss"], line.get("grad_norm"), line.get("skipped_steps"))
        for line in lines(root, run)
    ]
    return (root / "runs" / run.run_id / "export" / "model.safetensors").read_bytes(), seen


def unfinish(root: Path, run: RunConfig) -> None:
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
    run, states = (
        plan(
            "run",
            {
                "parallel.zero_stage": stage,
                "compute.precision": precision,
                "micro_batch": micro_batch,
            },
        ),
        poison({3}, factor),
    )
    made = loop.train(str(tmp_path), run)
    (_, before), (_, after), (_, later) = states[3:6]
    assert before["steps"] == after["steps"] == later["steps"] - 1 == 3
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not any(torch.equal(after[name], later[name]) for name in after)
    assert (made.skipped_steps, made.n_rollbacks) == (((3, 4),), 0)
    seen = [
        (line["step"], line["skipped_steps"])
        for line in lines(tmp_path, run)
        if "grad_norm" in line
    ]
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path, run))


@pytest.mark.slow
def test_a_step_that_is_not_logged_has_no_host_sync(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                asked.append(str(func))
            return func(*args, **(kwargs or {}))

    plain = loop.train_step

    def watched(*args: Any) -> Any:
        with Watch():
            return plain(*args)

    monkeypatch.setattr(loop, "train_step", watched)
    loop.train(str(tmp_path), plan("bf16", {"compute.precision": "bf16"}))
    assert asked == []
    loop.train(str(tmp_path), plan("accumulated", {"compute.precision": "bf16", "micro_batch": 1}))
    assert asked  # DeepSpeed's BF16_Optimizer looks at the norm


def test_a_gradient_spike_is_skipped_unless_spike_sigma_is_0(
    plan: Plan, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
):
    settings = {"global_batch": 1, "optimizer.learning_rate": 1e-4, "metrics.every_steps": 12}

    def skipped_steps(run_id: str, **changes: float) -> tuple[tuple[int, int], ...]:
        run = plan(run_id, settings | changes, n_clean=20, n_toxic=4)
        return loop.train(str(tmp_path), run).skipped_steps

    poison({4, 15}, 50.0)
    assert skipped_steps("off", **{"guard.spike_sigma": 0.0}) == ()
    monkeypatch.setattr(step_guard, "WARMUP_STEPS", 3)
    assert skipped_steps("on") == ((4, 5), (15, 16))
    monkeypatch.setattr(step_guard, "WARMUP_STEPS", 20)
    assert skipped_steps("early") == ()


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
    made = loop.train(str(tmp_path), run)
    taken = [step for step, _ in states]
    again = (
        taken.index(7, taken.index(6))
        if log_every_steps == 1
        else len(taken) - 1 - taken[::-1].index(7)
    )
    assert taken[again:] == [7, 8, 9]
    at_checkpoint, after_going_back = states[3][1], states[again][1]
    assert all(torch.equal(at_checkpoint[name], after_going_back[name]) for name in at_checkpoint)
    assert (made.skipped_steps, made.n_rollbacks) == (((3, 7),), 1)
    assert [
        (line["step"], line["skipped_steps"])
        for line in lines(tmp_path, run)
        if "grad_norm" in line
    ][-1] == (10, 4)


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
        match=r"around step 18 of 40 are not finite, .*diverged; lower train\.optimizer\.learning_rate",
    ):
        loop.train(str(tmp_path), run)
    assert [step for step, _ in states] == list(
        range(18)
    )  # 10–11, 12–13, 14–15 and 16–17 were bad; 3 times is the most


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
    made = loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    assert {step for first, end in made.skipped_steps for step in range(first, end)} >= {14, 15, 20}
    unfinish(tmp_path, run)
    again = loop.train(str(tmp_path), run)
    assert states[24][0] == 18 and again.skipped_steps == made.skipped_steps
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
    made = loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    unfinish(tmp_path, run)
    (tmp_path / "runs" / "run" / "checkpoints" / "step-00000008" / "commit.json").unlink()
    assert loop.train(str(tmp_path), run).skipped_steps == made.skipped_steps == ((4, 7),)
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
    n_steps = len(values) + 1  # the last step is not looked at
    at = {step % n_steps: value for step, value in bad}
    guard = lone_guard(n_steps)
    accepted = []
    for step, plain in enumerate(values):
        value = at.get(step, plain)
        ok = decide(guard, step, value, norm=1.0)
        if math.isfinite(value) and (len(accepted) < step_guard.WARMUP_STEPS or value <= 3.0):
            assert ok or value > 1e5 or max(accepted) < 3.0
        assert ok <= math.isfinite(value)
        accepted += [value] if ok else []
    held = sorted(guard.window_2N[0].tolist())
    expected = accepted[-step_guard.WINDOW_STEPS :]
    assert held == sorted(expected + [0.0] * (step_guard.WINDOW_STEPS - len(expected)))
    assert guard.counts_3[0] == len(accepted)


@pytest.mark.parametrize("quantity", ["loss", "norm"])
def test_only_what_exceeds_six_sigma_is_bad(quantity: str):
    guard = lone_guard(100)
    window = [1.0, 3.0] * 16  # mean 2, σ 1.016
    for step, value in enumerate(window):
        assert decide(guard, step, value, norm=value)
    for step, value, expected in ((32, 8.2, False), (33, 7.9, True), (34, 0.0, True)):
        other = 2.0
        assert (
            decide(
                guard,
                step,
                value if quantity == "loss" else other,
                norm=value if quantity == "norm" else other,
            )
            is expected
        )


def test_the_first_bad_steps_in_a_row_set_the_end_of_the_rollback():
    guard = lone_guard(100)
    for step in range(13):
        decide(guard, step, 2.0 if step in (1, 7) else math.nan, norm=1.0)  # five bad ones, twice
    assert guard.counts_3.tolist() == [2, 5, 7]


def test_rounding_is_no_spike():
    guard = lone_guard(100)
    assert all(decide(guard, step, 2.0, norm=1.0) for step in range(50))
    assert decide(guard, 50, 2.0001, norm=1.0) and not decide(guard, 51, 2.1, norm=1.0)


def lone_guard(n_steps: int) -> StepGuard:
    """A guard that is told loss and norm."""
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


def decide(guard: StepGuard, step: int, loss: float, *, norm: float) -> bool:
    engine = guard._engine
    engine.optimizer._global_grad_norm = torch.tensor(norm)
    guard.begin_step(step, 1, torch.tensor([loss, 0.0], dtype=torch.float64))
    (parameter,) = engine.basic_optimizer.param_groups[0]["params"]
    parameter.grad, before = torch.ones(1), parameter.detach().clone()
    engine.basic_optimizer.step()
    ok = bool(guard.end_step())
    assert ok == (not torch.equal(before, parameter))
    return ok
