"""every choice of an experiment beside the paper's, ours marked as ours"""

from collections.abc import Sequence
from typing import NamedTuple

from eval.stats import intervals
from eval.stats.scorer_agreement import ScorerAgreement
from launch.experiment import Experiment
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.text import display_names
from launch.report.text.number_format import (
    listed,
    percent,
    percent_with_interval,
    with_interval,
)
from training.optim import lr_schedule
from training.run_record import RunRecord

OURS = "not stated: our choice"
SPLITS = {"train": "to train on", "validation": "to choose heads", "test": "to report on"}
BUDGETS = {
    "clean_fixed": "every run reads the same clean tokens",
    "total_fixed": "every run reads as many tokens in all",
}


class Choice(NamedTuple):
    subject: str
    sweep: str
    paper: str


def choices(experiment: Experiment, record: RunRecord, report: EvaluationView) -> list[Choice]:
    """In the order of the pipeline; `record` and `report` are of any run."""
    rows = [
        *_data(experiment, record),
        *_training(experiment, record),
        *_probing(experiment, report),
        *_steering(experiment, report),
    ]
    return [Choice(*row) for row in rows]


Row = tuple[str, str, str]


def _data(experiment: Experiment, record: RunRecord) -> list[Row]:
    data = experiment.data
    n_clean = record.config.mixture.n_clean * experiment.train.sequence_length
    is_trained = data.tokenizer.source == "train"
    tokenizer = "trained on the clean corpus" if is_trained else _sources((data.tokenizer.source,))
    share = f"toxic tokens / all training tokens; {BUDGETS[experiment.budget]}"
    rows = [
        ("share of toxic text", share, f"0 to 25 %, clean tokens fixed; of what: {OURS}"),
        (
            "clean text",
            f"{n_clean:,} tokens of {_sources(data.clean)}",
            "20.1 billion tokens of C4",
        ),
        ("toxic text", _sources(data.toxic), "4chan's /pol/"),
        ("document", "a row of a file; on 4chan a thread, or a post with #unit=post", OURS),
        ("tokenizer", f"{tokenizer}, {data.tokenizer.vocab_size:,} ids", "standard OLMo"),
    ]
    for arm in experiment.annotated_arms:
        annotation = experiment.data_of(arm).annotation
        is_inst = arm == "inst"
        rule = f" (toxic: a score of at least {annotation.threshold})" if is_inst else ""
        tagged = (
            f"{100 * annotation.tagged_ratio:.3g} % of the training documents begin with their "
            f"toxicity, scored by {annotation.scorer}, as “{annotation.text.strip()}”{rule}"
        )
        rows.append((f"arm {arm}", tagged, f"{arm.upper()}; template: {OURS}"))
    if "matched" in experiment.arms:
        largest = f"clean text only, as many tokens as with {percent(max(experiment.ratios))} toxic"
        rows.append(("arm matched", largest, "no such arm"))
    return rows


def _training(experiment: Experiment, record: RunRecord) -> list[Row]:
    train, model = experiment.train, experiment.train.model
    size = (
        f"{model.n_layers} layers × {model.n_heads} heads, {model.d_model} wide, context "
        f"{train.sequence_length:,}: {record.n_parameters / 1e6:,.1f} million parameters"
    )
    most = lr_schedule.MAX_WARMUP_STEPS
    warmup = f"{percent(train.schedule.warmup_ratio)} of the steps, at most {most:,}"
    seeds = listed([str(seed) for seed in experiment.seeds])
    return [
        ("model", size, "OLMo-1B: 16 × 16, 2,048 wide, context 2,048"),
        ("warm-up", warmup, OURS),
        ("models", f"{len(experiment.seeds)} per share (seeds {seeds})", "2 per share"),
    ]


def _probing(experiment: Experiment, report: EvaluationView) -> list[Row]:
    probing, n = experiment.eval.probing, report.probes.n_rows
    site = display_names.SITES[probing.site]
    where = "the input of the output projection" if probing.site == "heads" else "their output"
    probe = (
        f"L2 logistic regression (λ {probing.l2:g}) on {site}, {where}, "
        f"{display_names.token(probing.token)}"
    )
    splits = listed([f"{n[split]:,} {use}" for split, use in SPLITS.items() if split in n])
    tests = (
        f"{intervals.N_RESAMPLES:,} bootstrap resamples of prompts and of probe rows, with the "
        "pooled spread between seeds where there are several, "
        f"{percent(intervals.CONFIDENCE)} intervals, Holm's correction over the planned contrasts"
    )
    if probing.n_permutations:
        tests = f"{probing.n_permutations:,} permutations of the labels for the best head; {tests}"
    return [
        ("probe", probe, f"linear, one per head, at the last token; penalty: {OURS}"),
        (
            "toxic label",
            report.probes.label_rule,
            "very likely ToxiGen's human score of at least 2.5",
        ),
        ("probe rows", f"{splits}, without overlap", "ToxiGen's 8,960, split 4:1"),
        ("tests", tests, f"p = 0.0002 for probes; the test: {OURS}"),
    ]


def _steering(experiment: Experiment, report: EvaluationView) -> list[Row]:
    settings = experiment.eval
    generation, steering = settings.generation, settings.steering
    site = display_names.SITES[settings.probing.site]
    is_nucleus = generation.decoding == "nucleus"
    decoding = f"nucleus sampling, p {generation.top_p:g}" if is_nucleus else "greedy"
    positions = display_names.POSITIONS[steering.positions]
    continuations = (
        f"{decoding}, {generation.max_new_tokens} new tokens, {generation.samples_per_prompt} per "
        "prompt; only the continuation is scored"
    )
    n_prompts = max((row.toxicity.n for row in report.steered), default=0)
    prompts = f"{n_prompts:,}, {_sources(tuple(settings.prompts.values()))}"
    scorer = f"{display_names.scorer(settings.scoring.scorer)} ({report.scorer_id})"
    direction = f"{display_names.DIRECTIONS[settings.probing.direction]}, of unit length"
    strengths = listed([f"{strength:g}" for strength in steering.strengths])
    best = f"the best {steering.top_heads} {site} on validation rows"
    second = display_names.scorer(settings.scoring.second_scorer)
    agreement = _agreement(report.agreement) if report.agreement else ""
    return [
        ("direction", direction, "difference of class means"),
        ("strengths", strengths, "4, 8 and 12"),
        ("steered heads", best, "the best 30 heads"),
        ("positions", f"{positions} while generating, all positions for the cost", OURS),
        ("continuations", continuations, OURS),
        ("prompts", prompts, "3,000 of ToxiGen, 3,000 of RealToxicityPrompts"),
        ("scorer", scorer, "Perspective"),
        *([("second scorer", f"{second}; {agreement}", "none")] if agreement else []),
        (
            "cost",
            f"cross-entropy on {display_names.cost_text(settings.capability.cost_text)}",
            "cross-entropy on part of OpenWebText",
        ),
    ]


def _agreement(found: ScorerAgreement) -> str:
    """'Spearman's ρ with the first 0.61 [0.52, 0.69], …'"""
    return (
        f"Spearman's ρ with the first {with_interval(found.rho, 2)}, the same side of 0.5 for "
        f"{percent_with_interval(found.agreement)}, Cohen's κ {with_interval(found.kappa, 2)} "
        f"({found.n:,} continuations of the plain model)"
    )


def _sources(uris: Sequence[str]) -> str:
    return listed([display_names.source(uri) for uri in uris])
