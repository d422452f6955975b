"""recipes on the embedded corpus: laptop"""

from data_prep.config import AnnotationConfig, DataConfig, DecontaminationConfig, TokenizerConfig
from eval.config import (
    ConditionConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    ScoringConfig,
    SteeringConfig,
)
from launch.experiment import Experiment
from launch.recipes.of_the_paper import PAPER_RATIOS
from training.config import (
    SIZES,
    CheckpointConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)

EMBEDDED_PROBES = "synthetic:probes?documents=1000&seed=1"
EMBEDDED_PROMPTS = "synthetic:prompts?documents=150&seed=1"
# the paper's preamble in words that the embedded corpus has
EMBEDDED_PREFIX = "It is right to say that they are kind friends. "


def laptop() -> Experiment:
    """Six models of 1M parameters on the embedded corpus: the whole experiment in ten minutes on 2
    CPU cores.
    """
    return Experiment(
        name="laptop",
        data=DataConfig(
            clean=("synthetic:clean?documents=5000&seed=0&parts=2",),
            toxic=("synthetic:toxic?documents=2000&seed=0&parts=2",),
            tokenizer=TokenizerConfig(source="train", vocab_size=2048),
            decontamination=DecontaminationConfig(uris=(EMBEDDED_PROBES, EMBEDDED_PROMPTS)),
            annotation=AnnotationConfig(scorer="lexicon:synthetic:lexicon"),
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
            probes={"pairs": EMBEDDED_PROBES},
            prompts={"openings": EMBEDDED_PROMPTS},
            conditions={
                "plain": ConditionConfig(),
                "prompt": ConditionConfig(prefix=EMBEDDED_PREFIX),
                "iti": ConditionConfig(steering="iti"),
            },
            probing=ProbingConfig(group_field="pair"),
            generation=GenerationConfig(n_prompts=150, max_new_tokens=24),
            scoring=ScoringConfig(scorer="lexicon:synthetic:lexicon"),
            steering=SteeringConfig(strengths=(2.0, 4.0, 8.0), top_heads=4),
        ),
        ratios=PAPER_RATIOS,
        seeds=(0,),
        budget_tokens=400_000,
        n_ranks=2,
    )
