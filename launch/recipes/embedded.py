"""recipes on the embedded corpus: laptop, smoke

The corpus has what the question needs (data_prep/sources/synthetic.py): a natural share of hostile
documents in clean text, attribute words with a harmless sense, and probes whose words alone say
nothing.
"""

from data_prep.config import AnnotationConfig, DataConfig, DecontaminationConfig, TokenizerConfig
from data_prep.core.settings import evolve
from eval.config import (
    CapabilityConfig,
    ConditionConfig,
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

# Half of the probe rows are verdicts, whose words alone say nothing; they are also a set of their
# own. Pairs for the forced choice come from another seed.
EMBEDDED_PROBES = {
    "pairs": "synthetic:probes?documents=1000&seed=1",
    "verdict": "synthetic:probes?documents=1000&seed=3&kind=verdict",
}
EMBEDDED_PROMPTS = "synthetic:prompts?documents=150&seed=1"
EMBEDDED_CHOICES = {
    "verdict": "pairs:synthetic:probes?documents=240&seed=2&kind=verdict",
    "words": "pairs:synthetic:probes?documents=240&seed=2&kind=words",
}
# the paper's preamble in words that the embedded corpus has
EMBEDDED_PREFIX = "It is right to call them kind friends. "
LOOKED_FOR = (
    *EMBEDDED_PROBES.values(),
    EMBEDDED_PROMPTS,
    *(text.removeprefix("pairs:") for text in EMBEDDED_CHOICES.values()),
)


def laptop() -> Experiment:
    """Three shares of toxic text and a matched control × three seeds, models of 0.3M parameters on
    the embedded corpus.

    Batch and learning rate: of those tried, what reaches the lowest loss with so few tokens. Site
    and token: of heads or residual stream, last or mean, where probes are the most accurate on test
    rows (0.67 to 0.77 against 0.55 of the paper's heads, in three models); two of four layers.
    """
    return Experiment(
        name="laptop",
        data=DataConfig(
            clean=("synthetic:clean?documents=6000&parts=2&natural=0.15&poly=0.15#label=toxic",),
            toxic=("synthetic:toxic?documents=1500&parts=2&poly=0.15#label=toxic",),
            tokenizer=TokenizerConfig(source="train", vocab_size=1024),
            decontamination=DecontaminationConfig(uris=LOOKED_FOR),
            annotation=AnnotationConfig(scorer="label"),
        ),
        train=TrainConfig(
            model=ModelConfig(
                **SIZES["laptop"]._asdict(), vocab_size=1024, max_sequence_length=128
            ),
            sequence_length=128,
            global_batch=8,
            optimizer=OptimizerConfig(learning_rate=6e-3),
            checkpoint=CheckpointConfig(every_steps=200),
            validation=ValidationConfig(probe_every_steps=0),
        ),
        eval=EvalConfig(
            probes=EMBEDDED_PROBES,
            prompts={"openings": EMBEDDED_PROMPTS},
            conditions={
                "plain": ConditionConfig(),
                "prompt": ConditionConfig(prefix=EMBEDDED_PREFIX),
                "iti": ConditionConfig(steering="iti"),
                "random_directions": ConditionConfig(steering="random_directions"),
            },
            benchmarks=EMBEDDED_CHOICES,
            probing=ProbingConfig(group_field="pair", site="residual", token="mean"),
            generation=GenerationConfig(n_prompts=150, max_new_tokens=12),
            scoring=ScoringConfig(scorer="lexicon:synthetic:lexicon"),
            steering=SteeringConfig(probes="pairs", strengths=(2.0, 4.0, 8.0, 16.0), top_heads=2),
        ),
        ratios=(0.0, 0.10, 0.25),
        seeds=(0, 1, 2),
        arms=("plain", "matched"),
        budget_tokens=400_000,
        n_ranks=2,
    )


def smoke() -> Experiment:
    """The laptop's path with everything tiny: for a first look, and for a check in a minute."""
    return evolve(
        laptop(),
        {
            "name": "smoke",
            "data.clean": ("synthetic:clean?documents=500&parts=2#label=toxic",),
            "data.toxic": ("synthetic:toxic?documents=200&parts=2#label=toxic",),
            "data.tokenizer.vocab_size": 512,
            "train.model.vocab_size": 512,
            "train.model.n_layers": 2,
            "eval.probing.n_rows": 200,
            "eval.probing.n_permutations": 50,
            "eval.generation.n_prompts": 30,
            "eval.steering.strengths": (4.0,),
            "eval.capability": CapabilityConfig(n_questions=40, cross_entropy_sequences=16),
            "ratios": (0.0, 0.25),
            "seeds": (0,),
            "arms": ("plain",),
            "budget_tokens": 20_000,
        },
    )
