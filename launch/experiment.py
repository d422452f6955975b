"""an experiment: settings × toxic ratios × seeds × arms → runs with stable ids

The id of a run is readable and ends in the digest of every setting that changes its weights:

    toxic-0.10-s0-3f9a1c2e      ratio, seed, digest of the run's settings (not of the evaluation's)

An arm is one way to make the training text. Each has the same seeds, tokenizer and held-out
documents as `plain`:

    plain                       the documents as they are
    meda-0.10-s0-…, inst-…      each begins with its toxicity (cleaning/annotate_toxicity.py)
    matched-0.25-s0-…           clean text only, as many tokens as the plain run of ratio 0.25, the
                                sweep's largest: is an effect of toxic text one of more text?
"""

import math
from dataclasses import replace
from typing import Annotated, get_args

from annotated_types import Ge, Interval

from data_prep.build import stream_paths
from data_prep.cleaning import annotate_toxicity
from data_prep.config import MAX_SHARDS, DataConfig, too_many_shards
from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest, operational
from data_prep.core.settings import Count, CountOrZero, Example, NonEmptyText, evolve, settings
from data_prep.token_stream.mixture import Budget, Mixture, sequences_for
from eval.config import EvalConfig
from training.config import Arm, RunConfig, ScheduleConfig, TrainConfig
from training.run.branching import Trunk

FILE_NAME = "experiment.json"

ANNOTATED_ARMS: tuple[Arm, ...] = ("meda", "inst")
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
    arms: tuple[Arm, ...] = ("plain",)
    """plain, and what is trained beside it: meda, inst (documents that begin with their toxicity,
    as data.annotation says), matched (only clean text, as many tokens as the largest ratio's
    run)."""
    arm_ratios: Annotated[tuple[ToxicRatio, ...], Example(())] = ()
    """Ratios, of `ratios`, at which meda and inst are trained; an empty list is all of them."""
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
        self._check_arms()
        self._check_conditions()
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

    def _check_arms(self) -> None:
        if "plain" not in self.arms or len(set(self.arms)) != len(self.arms):
            raise ConfigurationError(
                f"arms is {list(self.arms)}; expected plain, and each other arm at most once: "
                f"{', '.join(get_args(Arm))}"
            )
        if (kind := self.data.annotation.kind) != "none":
            raise ConfigurationError(
                f"data.annotation.kind is {kind!r}; expected none in a sweep, where an arm says "
                f'which documents are annotated: set \'arms=["plain","{kind}"]\' instead'
            )
        self._check_arm_ratios()
        if "matched" in self.arms and self.budget == "total_fixed":
            raise ConfigurationError(
                "arms has matched, but with budget total_fixed all runs have as many tokens; "
                "expected clean_fixed, or no matched arm"
            )

    def _check_conditions(self) -> None:
        needing = [name for name, c in self.eval.conditions.items() if c.control_text]
        if needing and not self.annotated_arms:
            raise ConfigurationError(
                f"eval.conditions: {', '.join(needing)} starts with the control text of an arm "
                f"with annotated documents, and arms is {list(self.arms)}; add one, "
                'e.g. \'arms=["plain","inst"]\', or leave the condition out'
            )

    def _check_arm_ratios(self) -> None:
        if self.arm_ratios and not self.annotated_arms:
            raise ConfigurationError(
                f"arm_ratios is {list(self.arm_ratios)}, but arms is {list(self.arms)}; expected "
                f"{' or '.join(ANNOTATED_ARMS)} in arms, or no arm_ratios"
            )
        is_doubled = len(set(self.arm_ratios)) != len(self.arm_ratios)
        if is_doubled or not set(self.arm_ratios) <= set(self.ratios):
            raise ConfigurationError(
                f"arm_ratios is {list(self.arm_ratios)}; expected values of ratios "
                f"{list(self.ratios)}, each at most once"
            )

    def runs(self) -> tuple[RunConfig, ...]:
        """Every run, by arm (plain first), seed, ratio. Model init and the order of clean documents
        are shared by all runs of a seed.
        """
        return tuple(
            self._run(arm, ratio, seed)
            for arm in sorted(self.arms, key=get_args(Arm).index)
            for seed in self.seeds
            for ratio in self._ratios_of(arm)
        )

    @property
    def annotated_arms(self) -> tuple[Arm, ...]:
        """The arms of this sweep that have token streams of their own."""
        return tuple(arm for arm in ANNOTATED_ARMS if arm in self.arms)

    def stream_settings(self) -> dict[Arm, DataConfig]:
        """The settings of all token streams of the sweep: a clean and a toxic one for each."""
        return {arm: self.data_of(arm) for arm in ("plain", *self.annotated_arms)}

    def data_of(self, arm: Arm) -> DataConfig:
        """The settings of an arm's token streams."""
        if arm not in ANNOTATED_ARMS:
            return self.data
        return evolve(self.data, {"annotation.kind": arm})

    def _ratios_of(self, arm: Arm) -> tuple[float, ...]:
        """The ratios in the ids of an arm's runs."""
        if arm == "matched":
            largest = max(self.ratios)
            return (largest,) if largest else ()  # nothing is there to match
        if arm in ANNOTATED_ARMS and self.arm_ratios:
            return self.arm_ratios
        return self.ratios

    def _run(self, arm: Arm, ratio: float, seed: int) -> RunConfig:
        if self.trunk_tokens:
            return _with_id(self._branch(arm, ratio, seed), ratio)
        n_clean, n_toxic = sequences_for(
            self.budget_tokens, ratio, self.train.sequence_length, self.budget
        )
        if arm == "matched":
            n_clean, n_toxic = n_clean + n_toxic, 0
        data = self.data_of(arm)
        run = RunConfig(
            run_id="",
            clean=stream_paths.stream_uri(data, "clean"),
            toxic=stream_paths.stream_uri(data, "toxic"),
            tokenizer=stream_paths.tokenizer_uri(data),
            toxic_ratio=0.0 if arm == "matched" else ratio,
            seed=seed,
            mixture=Mixture(
                n_clean=n_clean,
                n_toxic=n_toxic,
                batch_size=self.train.global_batch,
                seed=seed,
                max_toxic_epochs=self.max_toxic_epochs,
            ),
            train=self.train,
            arm=arm,
            control_text=annotate_toxicity.control_text(data.annotation),
        )
        return _with_id(run, ratio)

    def _branch(self, arm: Arm, ratio: float, seed: int) -> RunConfig:
        """The run that branches off its trunk, still without an id."""
        longer = replace(self, budget_tokens=self.trunk_tokens, trunk_tokens=0)
        trunk = Trunk(longer._run(arm, ratio, seed))
        n = self.budget_tokens // self.train.sequence_length
        if arm == "matched":
            return trunk.branch(n_sequences=self._run("plain", ratio, seed).mixture.n_sequences)
        if self.budget == "clean_fixed":
            return trunk.branch(n_clean=n)
        return trunk.branch(n_sequences=n)


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


def _with_id(run: RunConfig, ratio: float) -> RunConfig:
    """The run with its id: arm, ratio, seed and the digest of its settings."""
    name = "toxic" if run.arm == "plain" else run.arm
    return replace(run, run_id=f"{name}-{ratio_text(ratio)}-s{run.seed}-{digest(run)[:8]}")


def ratio_text(ratio: float) -> str:
    """A toxic ratio with two digits, or with as many as tell it from every other."""
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else str(ratio)
