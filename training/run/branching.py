"""one trunk, several token budgets: a shorter run whose first steps a longer one has taken already

    trunk     ╱⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺╲        a wsd run of the largest budget, with checkpoints kept on the way
    branch         c⎺⎺⎺╲                  the run of a smaller one: from c, the trunk's newest checkpoint before the decay begins

A branch is a run like any other. Its mixture is the trunk's first samples, its warm-up the trunk's;
with a rate that knows nothing of the end until the decay (lr_schedule.py), its first steps are the
trunk's. So it has the same losses bit for bit on the same ranks, whether it starts from the trunk
or from nothing, and `trunk` is no part of its identity. (A mixture of the smaller budget for itself
would have the same counts within a row, but other positions of the toxic rows.)
"""

from dataclasses import replace

from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import evolve
from training.config import RunConfig
from training.optim.lr_schedule import decay_start, warmup_steps
from training.run_record import checkpoint_steps, load_config


def branch(trunk: RunConfig, **first: int) -> RunConfig:
    """The run of the trunk's first samples (`first`: of Mixture.first_of), with its warm-up; still
    without an id.
    """
    warmup = warmup_steps(trunk.train.schedule, trunk.mixture.n_steps)
    mixture = trunk.mixture.first_of(**first)
    train = evolve(trunk.train, {"schedule.warmup_ratio": min(1.0, warmup / mixture.n_steps)})
    made = replace(trunk, run_id="", trunk=trunk.run_id, mixture=mixture, train=train)
    n_shared_steps(trunk, made)
    return made


def n_shared_steps(trunk: RunConfig, run: RunConfig) -> int:
    """How many first steps the two have in common, or ConfigurationError."""
    ends = [
        (
            decay_start(config.train.schedule, config.mixture.n_steps),
            warmup_steps(config.train.schedule, config.mixture.n_steps),
        )
        for config in (trunk, run)
    ]
    (trunk_end, trunk_warmup), (end, warmup) = ends
    alike = digest(_without_end(trunk)) == digest(_without_end(run)) and trunk_warmup == warmup
    if (
        run.train.schedule.kind != "wsd"
        or not alike
        or trunk.mixture.n_sequences < run.mixture.n_sequences
    ):
        raise ConfigurationError(
            f"a run of {run.mixture.n_steps} steps cannot branch off {trunk.run_id} with {trunk.mixture.n_steps}: a trunk is "
            "longer, alike in all settings but its length, of train.schedule.kind wsd, and warmed up before the branch decays"
        )
    return min(trunk_end, end)


def trunk_of(root: str, run: RunConfig) -> tuple[RunConfig, int]:
    """The trunk and how many of its steps are shared, or ConfigurationError or ArtefactMissing if
    nothing can be gained from it.
    """
    trunk = load_config(root, run.trunk)
    n_shared = n_shared_steps(trunk, run)
    steps = checkpoint_steps(root, trunk.run_id)
    if not any(step <= n_shared for step in steps):
        raise ArtefactMissing(
            f"run {run.run_id} branches off {trunk.run_id}, which has no checkpoint of its first {n_shared} steps (but {steps}); "
            "train it with train.checkpoint.keep_every_steps, or train this one from the start with --set trunk="
        )
    return trunk, n_shared


def _without_end(run: RunConfig) -> RunConfig:
    """What decides the steps before the decay, apart from the warm-up."""
    mixture, train = run.mixture, run.train
    n_toxic, n = mixture.line or (mixture.n_toxic, mixture.n_sequences)
    whole = replace(mixture, n_clean=n - n_toxic, n_toxic=n_toxic, line=())
    train = evolve(
        train,
        {
            "schedule.warmup_ratio": 0.0,
            "schedule.decay_ratio": 0.0,
            "schedule.min_learning_rate_ratio": 0.0,
        },
    )
    return replace(run, run_id="", mixture=whole, train=train)
