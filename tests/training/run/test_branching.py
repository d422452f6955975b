"""A run that branches off a longer one's checkpoint equals the same run from step 0."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import RunResult, run_result

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import evolve
from launch.recipes import registry
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


def save(root: Path, run: RunConfig) -> RunConfig:
    storage.save(run, storage.join(run_uri(str(root), run.run_id), "run.json"))
    return run


def last_results(root: Path, run: RunConfig) -> RunResult:
    """The run's weights, and its metrics of the last steps, which a branch takes itself."""
    result = run_result(root, run.run_id)
    weights: Any = {name: value.tolist() for name, value in result.weights.items()}
    return RunResult(weights, {}, result.lines[-4:])


def test_a_branch_equals_the_same_run_from_step_0_bit_for_bit(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    # 11 steps, of which the decay begins at step 7
    trunk = plan("trunk", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9, **WSD})
    loop.train(str(tmp_path), trunk)
    # 7 steps, of which the decay begins at step 4
    branch = save(tmp_path, replace(Trunk(trunk).branch(n_clean=12), run_id="branch"))
    steps_done.clear()
    record = loop.train(str(tmp_path), branch)
    assert steps_done == [4, 5, 6]
    whole = save(tmp_path, replace(branch, run_id="whole", trunk=""))
    whole_record = loop.train(str(tmp_path), whole)
    assert steps_done[3:] == list(range(7))
    assert last_results(tmp_path, branch) == last_results(tmp_path, whole)
    for field in ("n_tokens", "n_steps", "held_out"):
        assert getattr(record, field) == getattr(whole_record, field)


def test_a_branch_without_a_trunk_checkpoint_is_refused_with_a_remedy(plan: Plan, tmp_path: Path):
    trunk = plan("trunk", WSD)
    branch = save(tmp_path, replace(Trunk(trunk).branch(n_clean=12), run_id="branch"))
    with pytest.raises(
        ArtefactMissing,
        match=r"has no checkpoint of its first 4 steps .*keep_every_steps.*--set trunk=",
    ):
        loop.train(str(tmp_path), branch)


@pytest.mark.parametrize(
    "change",
    [{"optimizer.learning_rate": 0.5}, {"schedule.kind": "cosine"}, {"schedule.warmup_ratio": 0.0}],
)
def test_a_run_with_other_settings_is_not_a_branch(plan: Plan, change: dict[str, Any]):
    trunk = Trunk(plan("trunk", WSD))
    branch = trunk.branch(n_clean=12)
    with pytest.raises(ConfigurationError, match="cannot branch off trunk"):
        trunk.n_shared_steps(replace(branch, train=evolve(branch.train, change)))
    with pytest.raises(ConfigurationError, match="cannot branch off trunk"):
        trunk.n_shared_steps(replace(branch, seed=1))


@pytest.mark.parametrize("budget", ["clean_fixed", "total_fixed"])
def test_branches_share_rates_and_rows_of_the_trunks_first_steps(budget: Any):
    trunks = evolve(
        registry.named("laptop"),
        {
            "budget": budget,
            "train.schedule.kind": "wsd",
            "ratios": (0.1, 0.25),
            "seeds": (0,),
            "arms": ("plain",),
        },
    )
    branches = replace(trunks, budget_tokens=200_000, trunk_tokens=400_000)
    for trunk, branch in zip(trunks.runs(), branches.runs(), strict=True):
        assert branch.trunk == trunk.run_id != branch.run_id
        assert digest(replace(branch, trunk="")) == digest(branch)
        mixture, n_steps = branch.mixture, branch.mixture.n_steps
        n_budget = mixture.n_clean if budget == "clean_fixed" else mixture.n_sequences
        assert n_budget == 200_000 // 128
        assert abs(mixture.toxic_ratio - branch.toxic_ratio) < 2 / mixture.n_sequences
        n_shared = Trunk(trunk).n_shared_steps(branch)
        assert n_shared == n_steps - 1 - round(0.2 * n_steps)
        for step in range(n_shared):
            rates = {
                learning_rate(1.0, run.train.schedule, step, run.mixture.n_steps)
                for run in (trunk, branch)
            }
            assert len(rates) == 1
            trunk_rows, branch_rows = trunk.mixture.rows(step), mixture.rows(step)
            assert (trunk_rows.sequence == branch_rows.sequence).all()
