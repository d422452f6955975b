"""WSD branching: start a shorter run from the checkpoint of a longer one, its trunk

    trunk     ╱⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺⎺╲     a wsd run with the largest budget; it keeps checkpoints
    branch         c⎺⎺⎺╲               c: the trunk's newest checkpoint before the branch decays

A branch is a run like any other. Its mixture is the first samples of the trunk's mixture, and its
warm-up is the trunk's. Before the decay the learning rate does not depend on the number of steps
(lr_schedule.py), so the branch's steps up to there are also the trunk's. On the same ranks its
losses are therefore the same bit for bit, whether it starts from the trunk's checkpoint or from
step 0, and `trunk` is not part of its identity. (A mixture planned for the smaller budget alone
would have the same counts within a row, but its toxic rows would be in other places.)
"""

from dataclasses import replace
from typing import NamedTuple

from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import evolve
from training.config import RunConfig
from training.optim.lr_schedule import decay_start, warmup_steps
from training.run_record import checkpoint_steps, load_config


class Trunk(NamedTuple):
    """The longer run that other runs branch off."""

    run: RunConfig

    @classmethod
    def load(cls, root: str, branch: RunConfig) -> "Trunk":
        """The planned trunk of `branch`, or ArtefactMissing."""
        return cls(load_config(root, branch.trunk))

    def branch(self, *, n_clean: int | None = None, n_sequences: int | None = None) -> RunConfig:
        """The run of this one's first samples, still without a run id.

        Give the number of clean sequences or of all sequences.
        """
        mixture = self.run.mixture.first_of(n_clean=n_clean, n_sequences=n_sequences)
        warmup = warmup_steps(self.run.train.schedule, self.run.mixture.n_steps)
        warmup_ratio = min(1.0, warmup / mixture.n_steps)  # as many steps of warm-up as the trunk
        train = evolve(self.run.train, {"schedule.warmup_ratio": warmup_ratio})
        branch = replace(self.run, run_id="", trunk=self.run.run_id, mixture=mixture, train=train)
        self.n_shared_steps(branch)
        return branch

    def n_shared_steps(self, branch: RunConfig) -> int:
        """How many first steps `branch` shares with this run, or ConfigurationError."""
        decay_starts, warmups = zip(
            *(
                (
                    decay_start(run.train.schedule, run.mixture.n_steps),
                    warmup_steps(run.train.schedule, run.mixture.n_steps),
                )
                for run in (self.run, branch)
            ),
            strict=True,
        )
        is_longer = self.run.mixture.n_sequences >= branch.mixture.n_sequences
        has_same_settings = digest(_before_decay(self.run)) == digest(_before_decay(branch))
        has_same_warmup = warmups[0] == warmups[1]
        is_wsd = branch.train.schedule.kind == "wsd"
        if not (is_wsd and has_same_settings and has_same_warmup and is_longer):
            raise ConfigurationError(
                f"a run of {branch.mixture.n_steps} steps cannot branch off {self.run.run_id} with "
                f"{self.run.mixture.n_steps}: a trunk is longer, has the same settings except for "
                "its length, has train.schedule.kind wsd, and has warmed up before the branch "
                "decays"
            )
        return min(decay_starts)

    def check_checkpoint(self, root: str, branch: RunConfig) -> None:
        """Raise ArtefactMissing unless this run has a checkpoint that `branch` can start from."""
        n_shared = self.n_shared_steps(branch)
        steps = checkpoint_steps(root, self.run.run_id)
        if not any(step <= n_shared for step in steps):
            raise ArtefactMissing(
                f"run {branch.run_id} branches off {self.run.run_id}, which has no checkpoint of "
                f"its first {n_shared} steps (but {steps}); train that run with "
                "train.checkpoint.keep_every_steps, or train this one from the start with "
                "--set trunk="
            )


def _before_decay(run: RunConfig) -> RunConfig:
    """The settings that decide the steps before the decay, without the warm-up."""
    mixture = run.mixture
    n_toxic, n = mixture.line or (mixture.n_toxic, mixture.n_sequences)
    whole = replace(mixture, n_clean=n - n_toxic, n_toxic=n_toxic, line=())
    train = evolve(
        run.train,
        {
            "schedule.warmup_ratio": 0.0,
            "schedule.decay_ratio": 0.0,
            "schedule.min_learning_rate_ratio": 0.0,
        },
    )
    return replace(run, run_id="", mixture=whole, train=train)
