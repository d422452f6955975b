"""A run that branches off a longer one's checkpoint is the run it would have been from the start."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import evolve
from launch import recipes
from training.config import RunConfig
from training.optim.lr_schedule import learning_rate
from training.run.branching import Trunk
from training.run_record import run_uri
from training.trainer import loop

Plan = Callable[..., RunConfig]
WSD: dict[str, Any] = {
    "schedule.kind": "wsd",
    "schedule.decay_ratio": 0.3,
    "schedule.warmup_ratio": 0.2,
    "global_batch": 2,
}
TIMED = (
    "tokens_per_second",
    "mfu_ratio",
    "matmul_ratio",
    "data_wait_seconds",
    "train_seconds",
    "memory_bytes",
)


def planned(root: Path, run: RunConfig) -> RunConfig:
    storage.save(run, storage.join(run_uri(str(root), run.run_id), "run.json"))
    return run


def result(root: Path, run: RunConfig) -> tuple[bytes, list[dict[str, Any]]]:
    """The trained weights and the last two lines that were seen, without what a clock said."""
    folder = root / "runs" / run.run_id
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-4:]
    plain = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
    return (folder / "export" / "model.safetensors").read_bytes(), plain


def test_a_branch_equals_the_same_run_from_step_0_bit_for_bit(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    trunk = plan(
        "trunk", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9, **WSD}
    )  # 11 steps, a decay from 7 on
    loop.train(str(tmp_path), trunk)
    short = planned(
        tmp_path, replace(Trunk(trunk).branch(n_clean=12), run_id="short")
    )  # 7 steps, a decay from 4 on
    steps_done.clear()
    made = loop.train(str(tmp_path), short)
    assert steps_done == [4, 5, 6]
    again = planned(tmp_path, replace(short, run_id="again", trunk=""))
    whole = loop.train(str(tmp_path), again)
    assert steps_done[3:] == list(range(7))
    assert result(tmp_path, short) == result(tmp_path, again)
    assert (made.n_tokens, made.n_steps, made.held_out) == (
        whole.n_tokens,
        whole.n_steps,
        whole.held_out,
    )


def test_a_branch_without_a_trunk_checkpoint_is_refused_with_a_remedy(plan: Plan, tmp_path: Path):
    trunk = plan("trunk", WSD)
    short = planned(tmp_path, replace(Trunk(trunk).branch(n_clean=12), run_id="short"))
    with pytest.raises(
        ArtefactMissing,
        match=r"has no checkpoint of its first 4 steps .*keep_every_steps.*--set trunk=",
    ):
        loop.train(str(tmp_path), short)


@pytest.mark.parametrize(
    "change",
    [{"optimizer.learning_rate": 0.5}, {"schedule.kind": "cosine"}, {"schedule.warmup_ratio": 0.0}],
)
def test_a_run_with_other_settings_is_not_a_branch(plan: Plan, change: dict[str, Any]):
    trunk = plan("trunk", WSD)
    short = Trunk(trunk).branch(n_clean=12)
    with pytest.raises(ConfigurationError, match="cannot branch off trunk"):
        Trunk(trunk).n_shared_steps(replace(short, train=evolve(short.train, change)))
    with pytest.raises(ConfigurationError, match="cannot branch off trunk"):
        Trunk(trunk).n_shared_steps(replace(short, seed=1))


@pytest.mark.parametrize("budget", ["clean_fixed", "total_fixed"])
def test_branches_share_rates_and_rows_of_the_trunks_first_steps(budget: Any):
    laptop = recipes.laptop()
    train = evolve(laptop.train, {"schedule.kind": "wsd"})
    trunk = replace(laptop, budget=budget, train=train, ratios=(0.1, 0.25))
    branches = replace(trunk, budget_tokens=200_000, trunk_tokens=400_000)
    for one, short in zip(trunk.runs(), branches.runs(), strict=True):
        assert short.trunk == one.run_id != short.run_id and digest(
            replace(short, trunk="")
        ) == digest(short)
        n_wanted = short.mixture.n_clean if budget == "clean_fixed" else short.mixture.n_sequences
        assert (
            n_wanted == 200_000 // 128
            and abs(short.mixture.toxic_ratio - short.toxic_ratio) < 2 / short.mixture.n_sequences
        )
        n_shared = Trunk(one).n_shared_steps(short)
        assert n_shared == short.mixture.n_steps - 1 - round(0.2 * short.mixture.n_steps)
        for step in range(n_shared):
            rates = {
                learning_rate(1.0, run.train.schedule, step, run.mixture.n_steps)
                for run in (one, short)
            }
            assert (
                len(rates) == 1
                and (one.mixture.rows(step).sequence == short.mixture.rows(step).sequence).all()
            )
