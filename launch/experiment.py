"""an experiment: settings × toxic ratios × seeds → runs with stable ids

The id of a run is readable and ends in the digest of every setting that changes its weights:

    toxic-0.10-s0-3f9a1c2e      ratio, seed, digest of the run's settings (not of the evaluation's)
"""

import math
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Interval

from data_prep.build import stream_paths
from data_prep.config import MAX_SHARDS, DataConfig, too_many_shards
from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest, operational
from data_prep.core.settings import Count, CountOrZero, NonEmptyText, settings
from data_prep.token_stream.mixture import Budget, Mixture, sequences_for
from eval.config import EvalConfig
from training.config import RunConfig, ScheduleConfig, TrainConfig
from training.run.branching import Trunk

FILE_NAME = "experiment.json"

ToxicRatio = Annotated[float, Interval(ge=0, lt=1)]


@settings("")
class Experiment:
    """A sweep: one model per toxic ratio and seed, alike in everything else."""

    name: NonEmptyText
    """Name of the recipe; it heads the report and is in no id."""
    data: DataConfig
    train: TrainConfig
    eval: EvalConfig
    ratios: tuple[ToxicRatio, ...]
    """Toxic tokens / all training tokens, one model each; the report compares with the first."""
    seeds: tuple[int, ...]
    """Seeds of model init and batch order, one model each per ratio. Two or more let the report
    state the spread between models."""
    budget_tokens: Count
    """Training tokens per run, counted as `budget` says."""
    budget: Budget = "clean_fixed"
    """clean_fixed, as in the paper: every run reads budget_tokens clean tokens and the toxic ones
    on top. total_fixed: budget_tokens in all, toxic tokens in place of clean ones."""
    trunk_tokens: CountOrZero = 0
    """Branch the runs off a longer, finished sweep with this budget_tokens: they start from its
    checkpoints and decay early. The warm-up is then the trunk's, and up to one toxic sequence per
    batch moves. 0: train from the start."""
    max_toxic_epochs: Annotated[float, Ge(1)] = operational(default=1.0)
    """Passes over the toxic stream that a run may make; a ratio that needs more is refused. It only
    permits, so it is in no id."""
    n_ranks: Count = operational(default=1)
    """Ranks per run."""
    use_gpu: bool = operational(default=False)
    """One GPU per rank; false trains on CPU cores."""

    def __post_init__(self) -> None:
        for name in ("ratios", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigurationError(
                    f"{name} is {list(values)}; expected at least one value, each once"
                )
        if self.data.tokenizer.vocab_size > self.train.model.vocab_size:
            raise ConfigurationError(
                f"the tokenizer has {self.data.tokenizer.vocab_size} ids, the model's embedding "
                f"{self.train.model.vocab_size} rows; expected a row per id: raise "
                "train.model.vocab_size"
            )
        if -(-self.budget_tokens // self.data.shard_tokens) > MAX_SHARDS:
            raise too_many_shards(self.budget_tokens, self.data.shard_tokens)
        _check_schedule(self.train.schedule)
        self.train.passes(self.n_ranks)
        self.runs()

    def runs(self) -> tuple[RunConfig, ...]:
        """Every run, by seed then ratio. Model init and clean order are shared by all ratios of a
        seed.
        """
        return tuple(self._run(ratio, seed) for seed in self.seeds for ratio in self.ratios)

    def _run(self, ratio: float, seed: int) -> RunConfig:
        if self.trunk_tokens:
            trunk = replace(self, budget_tokens=self.trunk_tokens, trunk_tokens=0)._run(ratio, seed)
            n = self.budget_tokens // self.train.sequence_length
            if self.budget == "clean_fixed":
                return _with_id(Trunk(trunk).branch(n_clean=n))
            return _with_id(Trunk(trunk).branch(n_sequences=n))
        n_clean, n_toxic = sequences_for(
            self.budget_tokens, ratio, self.train.sequence_length, self.budget
        )
        run = RunConfig(
            run_id="",
            clean=stream_paths.stream_uri(self.data, "clean"),
            toxic=stream_paths.stream_uri(self.data, "toxic"),
            tokenizer=stream_paths.tokenizer_uri(self.data),
            toxic_ratio=ratio,
            seed=seed,
            mixture=Mixture(
                n_clean=n_clean,
                n_toxic=n_toxic,
                batch_size=self.train.global_batch,
                seed=seed,
                max_toxic_epochs=self.max_toxic_epochs,
            ),
            train=self.train,
        )
        return _with_id(run)


def _check_schedule(schedule: ScheduleConfig) -> None:
    # not in ScheduleConfig: a short branch of a trunk keeps its steps of warm-up
    shares = schedule.warmup_ratio + schedule.decay_ratio
    if schedule.kind == "wsd" and shares > 1 and not math.isclose(shares, 1):
        raise ConfigurationError(
            f"train.schedule: warmup_ratio {schedule.warmup_ratio:g} and decay_ratio "
            f"{schedule.decay_ratio:g} add up to more than 1, so the decay would begin before the "
            "peak; expected at most 1 together: lower one of the two"
        )


def load(root: str) -> Experiment:
    """The experiment last started under `root`."""
    try:
        return storage.load(Experiment, storage.join(root, FILE_NAME))
    except ArtefactMissing as error:
        raise ArtefactMissing(
            f"{root} holds no sweep (there is no {FILE_NAME}); check --out, or start a sweep with "
            f"python launch/sweep.py … --out {root}"
        ) from error


def _with_id(run: RunConfig) -> RunConfig:
    """The run with its id: ratio, seed and the digest of its settings."""
    return replace(run, run_id=f"toxic-{ratio_text(run.toxic_ratio)}-s{run.seed}-{digest(run)[:8]}")


def ratio_text(ratio: float) -> str:
    """A toxic ratio with two digits, or with as many as tell it from every other."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else str(ratio)
