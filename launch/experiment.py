"""data + training + eval settings × ratios × seeds → runs with stable ids"""

from dataclasses import replace

from data_prep.build import stream_paths
from data_prep.config import DataConfig
from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest, operational, record
from data_prep.token_stream.mixture import Budget, Mixture, sequences_for
from eval.config import EvalConfig
from training.config import RunConfig, TrainConfig
from training.run import branching

NAME = "experiment.json"


@record
class Experiment:
    """A sweep: one model for each ratio and seed, alike in everything else.

    budget_tokens, budget: the clean tokens of every run, the toxic ones on top of them, as in the
        paper (clean_fixed); or all tokens of every run, the toxic ones in place of clean ones
        (total_fixed).
    max_toxic_epochs: how often a run may read the toxic stream through; a ratio that would need
    more is refused.
    trunk_tokens: the budget_tokens of the same experiment, run before and longer, whose runs these
    branch off; 0: they do not. It
        changes which samples are toxic by less than a row, and the warm-up to the trunk's; each run
        starts from its checkpoints.
    n_ranks: data-parallel ranks of one run. use_gpu: one GPU for each of them.
    """

    name: str
    data: DataConfig
    train: TrainConfig
    eval: EvalConfig
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    budget_tokens: int
    budget: Budget = "clean_fixed"
    trunk_tokens: int = 0
    max_toxic_epochs: float = operational(
        default=1.0
    )  # a permission: it changes no run, only which ones are refused
    n_ranks: int = operational(default=1)
    use_gpu: bool = operational(default=False)

    def __post_init__(self) -> None:
        for name in ("ratios", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigurationError(f"{name} {list(values)}: give at least one, each once")
        if self.data.tokenizer.vocab_size > self.train.model.vocab_size:
            raise ConfigurationError(
                f"the tokenizer has {self.data.tokenizer.vocab_size} ids, the model's embedding only "
                f"{self.train.model.vocab_size} rows; raise train.model.vocab_size"
            )
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
            return _named(
                branching.branch(
                    trunk, **{"n_clean" if self.budget == "clean_fixed" else "n_sequences": n}
                )
            )
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
        return _named(run)


def load(root: str) -> Experiment:
    """The experiment last started under `root`."""
    return storage.load(Experiment, storage.join(root, NAME))


def _named(anonymous: RunConfig) -> RunConfig:
    return replace(
        anonymous,
        run_id=f"toxic-{_two_decimals(anonymous.toxic_ratio)}-s{anonymous.seed}-{digest(anonymous)[:8]}",
    )


def _two_decimals(ratio: float) -> str:
    return f"{ratio:.2f}" if round(ratio, 2) == ratio else str(ratio)
