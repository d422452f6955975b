"""named experiments as functions: laptop, one_gpu, paper, ladder

A recipe returns a frozen Experiment; a variant is `replace(…)` of one. What the paper leaves open
and we chose is listed in the report; it is spelled out here, once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import (
    CapabilityConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    ScoringConfig,
    SteeringConfig,
)
from launch.experiment import Experiment
from training.config import (
    SIZES,
    CheckpointConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)

PAPER_RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
OLMO_TOKENIZER = TokenizerConfig(
    source="tokenizer/allenai_gpt-neox-olmo-dolma-v1_5.json",
    vocab_size=50_280,
    fingerprint="c617c8fc4ad73eba",
)
OLMO_VOCABULARY = 50_304


def laptop() -> Experiment:
    """Six 1M-parameter models on the embedded corpus: the whole experiment on 2 cores in ten
    minutes.
    """
    return Experiment(
        name="laptop",
        data=DataConfig(
            clean=("synthetic:clean?documents=5000&seed=0&parts=2",),
            toxic=("synthetic:toxic?documents=2000&seed=0&parts=2",),
            tokenizer=TokenizerConfig(source="train", vocab_size=2048),
        ),
        train=TrainConfig(
            model=ModelConfig(
                **SIZES["laptop"]._asdict(), vocab_size=2048, max_sequence_length=128
            ),
            sequence_length=128,
            global_batch=32,
            optimizer=OptimizerConfig(learning_rate=3e-3),
            checkpoint=CheckpointConfig(every_steps=40),
            validation=ValidationConfig(probe_every_steps=20),
        ),
        eval=EvalConfig(
            probing=ProbingConfig(
                rows="synthetic:probes?documents=1000&seed=1", group_field="pair"
            ),
            generation=GenerationConfig(
                prompts="synthetic:prompts?documents=150&seed=1", n_prompts=150, max_new_tokens=24
            ),
            scoring=ScoringConfig(scorer="lexicon:synthetic:lexicon"),
            steering=SteeringConfig(strengths=(0.0, 2.0, 4.0, 8.0), top_heads=4),
        ),
        ratios=PAPER_RATIOS,
        seeds=(0,),
        budget_tokens=400_000,
        n_ranks=2,
    )


def one_gpu() -> Experiment:
    """OLMo-60M on one card: 1.2B clean tokens, six ratios, in about a day."""
    return Experiment(
        name="one_gpu",
        data=_corpora_of_the_paper(),
        train=_olmo("olmo-60m", micro_batch=64),
        eval=_protocol(top_heads=8),
        ratios=PAPER_RATIOS,
        seeds=(0,),
        budget_tokens=1_200_000_000,
        n_ranks=1,
        use_gpu=True,
    )


def paper() -> Experiment:
    """OLMo-1B, 20.1B clean tokens, six ratios × two seeds (PAPER §3)."""
    return Experiment(
        name="paper",
        data=_corpora_of_the_paper(),
        train=_olmo("olmo-1b", micro_batch=16),
        eval=_protocol(top_heads=30),
        ratios=PAPER_RATIOS,
        seeds=(0, 1),
        budget_tokens=20_100_000_000,
        n_ranks=16,
        use_gpu=True,
    )


def ladder(rung: str) -> Experiment:
    """A rung ("20m"): six ratios × two seeds of one size, 20 clean tokens a parameter, at a
    constant rate until a last decay. Batch and rate follow the size as in OLMo's own ladder
    (allenai/OLMo: scripts/ladder.py).
    """
    train = _olmo(f"olmo-{rung}", micro_batch=1 if rung == "7b" else 4)
    n = train.model.n_parameters
    train = evolve(
        train,
        {
            "schedule.kind": "wsd",
            "optimizer.learning_rate": 0.0047 * (n / 108e6) ** (-1 / 3),
            "global_batch": 32 * round(5 * (n / 108e6) ** (2 / 3)),
        },
    )
    return Experiment(
        name=f"ladder-{rung}",
        data=_corpora_of_the_paper(),
        train=train,
        eval=_protocol(top_heads=max(2, train.model.n_layers * train.model.n_heads // 8)),
        ratios=PAPER_RATIOS,
        seeds=(0, 1),
        budget_tokens=20 * n,
        n_ranks=8,
        use_gpu=True,
    )


RECIPES: dict[str, Callable[[], Experiment]] = {
    "laptop": laptop,
    "one_gpu": one_gpu,
    "paper": paper,
} | {
    f"ladder-{rung}": partial(ladder, rung)
    for rung in (name.removeprefix("olmo-") for name in SIZES if name != "laptop")
}


def named(name: str) -> Experiment:
    if name not in RECIPES:
        raise ConfigurationError(
            f"there is no recipe {name!r}; the recipes are {', '.join(RECIPES)}"
        )
    return RECIPES[name]()


def on_corpora(experiment: Experiment, clean: Sequence[str], toxic: Sequence[str]) -> Experiment:
    """The experiment on other corpora. The embedded corpus's probes and scorer know nothing of
    other text, so there the evaluation turns to the corpora's own held-out documents, of which more
    are held out, and to the offline scorer.
    """
    data = replace(
        experiment.data,
        clean=tuple(clean) or experiment.data.clean,
        toxic=tuple(toxic) or experiment.data.toxic,
    )
    settings = experiment.eval
    if "synthetic:" in settings.scoring.scorer and not all(
        uri.startswith("synthetic:") for uri in data.clean + data.toxic
    ):
        data = replace(data, held_out_ratio=0.1)
        settings = evolve(
            settings,
            {
                "probing.rows": "held_out",
                "generation.prompts": "held_out",
                "scoring.scorer": "profanity",
                "probing.group_field": "",
                "probing.n_rows": 400,
                "generation.n_prompts": 200,
            },
        )
    return replace(experiment, data=data, eval=settings)


def _corpora_of_the_paper() -> DataConfig:
    return DataConfig(
        clean=("c4/en/c4-train.*.json.gz",),
        toxic=("4chan/pol_*.ndjson.zst#text=posts",),
        tokenizer=OLMO_TOKENIZER,
        held_out_ratio=0.001,
    )


def _olmo(size: str, *, micro_batch: int) -> TrainConfig:
    """OLMo's published settings (PAPER §3); warm-up is scaled to the run, since 2,000 steps would
    be 42 % of the paper's.
    """
    return TrainConfig(
        model=ModelConfig(**SIZES[size]._asdict(), vocab_size=OLMO_VOCABULARY),
        sequence_length=2048,
        global_batch=2048,
        micro_batch=micro_batch,
        optimizer=OptimizerConfig(learning_rate=4e-4),
        validation=ValidationConfig(sequences=512, every_steps=250),
        checkpoint=CheckpointConfig(every_steps=250, keep_last=2),
    )


def _protocol(*, top_heads: int) -> EvalConfig:
    """PAPER §4–5 as far as the offline scorer carries it: strengths 0, 4, 8, 12, last position, the
    continuation alone scored.
    """
    return EvalConfig(
        probing=ProbingConfig(rows="held_out", n_rows=8960),
        generation=GenerationConfig(prompts="held_out", n_prompts=3000),
        scoring=ScoringConfig(scorer="profanity"),
        steering=SteeringConfig(strengths=(0.0, 4.0, 8.0, 12.0), top_heads=top_heads),
        capability=CapabilityConfig(cross_entropy_sequences=256),
    )
