"""every choice that an experiment made, beside what the paper says; where it is silent, ours are called ours"""

from collections.abc import Sequence
from typing import NamedTuple

from eval.eval_report import EvalReport
from eval.stats import intervals
from launch.experiment import Experiment
from launch.report.analysis.comparisons import N_PERMUTATIONS
from launch.report.text import display_names
from launch.report.text.findings import listed, percent
from training.optim import lr_schedule
from training.run_record import RunRecord

OURS = "not stated: our choice"
SPLITS = {"train": "to train on", "validation": "to choose heads", "test": "to report on"}


class Choice(NamedTuple):
    what: str
    here: str
    paper: str


def choices(experiment: Experiment, record: RunRecord, report: EvalReport) -> list[Choice]:
    """In the order of the pipeline; `record` and `report` are of any run."""
    return [
        *_data(experiment, record),
        *_probing(experiment, report),
        *_steering(experiment, report),
    ]


def _data(experiment: Experiment, record: RunRecord) -> list[Choice]:
    data, train, model = experiment.data, experiment.train, experiment.train.model
    fixed = (
        "the clean tokens are the same in every run"
        if experiment.budget == "clean_fixed"
        else "all runs read as many tokens"
    )
    n_clean = record.config.mixture.n_clean * train.sequence_length
    tokenizer = (
        "trained on the clean corpus"
        if data.tokenizer.source == "train"
        else data.tokenizer.source.rsplit("/", 1)[-1]
    )
    warm_up = f"{percent(train.schedule.warmup_ratio)} of the steps, at most {lr_schedule.MAX_WARMUP_STEPS:,}"
    found = [
        Choice(
            "share of toxic text",
            f"toxic tokens / all training tokens; {fixed}",
            "0 to 25 %, clean tokens fixed; of what: " + OURS,
        ),
        Choice(
            "clean text",
            f"{n_clean:,} tokens of {_corpora(data.clean)}",
            "20.1 billion tokens of C4",
        ),
        Choice("toxic text", _corpora(data.toxic), "4chan's /pol/"),
        Choice(
            "a document", "a row of its file; of 4chan a thread, unless a post is asked for", OURS
        ),
        Choice(
            "model",
            f"{model.n_layers} layers × {model.n_heads} heads, {model.d_model} wide, context {train.sequence_length:,}: "
            f"{record.n_parameters / 1e6:,.1f} million parameters",
            "OLMo-1B: 16 × 16, 2,048 wide, context 2,048",
        ),
        Choice("tokenizer", f"{tokenizer}, {data.tokenizer.vocab_size:,} ids", "standard OLMo"),
        Choice("warm-up", warm_up, OURS),
        Choice(
            "models",
            f"{len(experiment.seeds)} a share (seeds {listed([str(seed) for seed in experiment.seeds])})",
            "2 a share",
        ),
    ]
    if data.annotation.is_on:
        one = data.annotation
        toxic = f" (toxic: a score of at least {one.threshold})" if one.kind == "inst" else ""
        share = f"{100 * one.tagged_ratio:.3g} % of the training documents begin with their toxicity, as scored by {one.scorer}"
        found.append(
            Choice(
                "annotation",
                f"{share}, in the words “{one.text.strip()}”{toxic}",
                "MEDA and INST; templates: " + OURS,
            )
        )
    return found


def _probing(experiment: Experiment, report: EvalReport) -> list[Choice]:
    asked, n = experiment.eval, report.n_probe_rows
    where = (
        "the input of the output projection" if asked.probing.site == "heads" else "their output"
    )
    splits = [f"{n[split]:,} {use}" for split, use in SPLITS.items() if split in n]
    chance = (
        f"{asked.probing.n_permutations:,} permutations of the labels for the best head; "
        if asked.probing.n_permutations
        else ""
    )
    return [
        Choice(
            "probe",
            f"L2 logistic regression (λ {asked.probing.l2:g}) on {display_names.SITES[asked.probing.site]}, {where}, "
            f"{display_names.token(asked.probing.token)}",
            "linear, one a head, at the last token; penalty: " + OURS,
        ),
        Choice(
            "what is toxic", report.label_rule, "very likely ToxiGen's human score of at least 2.5"
        ),
        Choice("rows", f"{listed(splits)}, never the same", "ToxiGen's 8,960, split 4:1"),
        Choice(
            "tests",
            f"{chance}{N_PERMUTATIONS:,} sign flips for probes; {intervals.N_RESAMPLES:,} bootstrap resamples of prompts, "
            f"{percent(intervals.CONFIDENCE)} intervals, Holm's correction over the planned contrasts",
            "p = 0.0002 for probes; the test: " + OURS,
        ),
    ]


def _steering(experiment: Experiment, report: EvalReport) -> list[Choice]:
    asked = experiment.eval
    how = (
        f"nucleus sampling, p {asked.generation.top_p:g}"
        if asked.generation.decoding == "nucleus"
        else "greedy"
    )
    n_prompts = max((one.toxicity.n for one in report.steered), default=0)
    return [
        Choice(
            "direction",
            f"{display_names.DIRECTIONS[asked.probing.direction]}, of unit length",
            "difference of class means",
        ),
        Choice(
            "strengths",
            ", ".join(f"{strength:g}" for strength in asked.steering.strengths),
            "4, 8 and 12",
        ),
        Choice(
            "what is steered",
            f"the best {asked.steering.top_heads} {display_names.SITES[asked.probing.site]} on validation rows",
            "the best 30 heads",
        ),
        Choice(
            "where",
            f"{display_names.POSITIONS[asked.steering.positions]} while generating, all positions for the cost",
            OURS,
        ),
        Choice(
            "continuations",
            f"{how}, {asked.generation.max_new_tokens} new tokens, {asked.generation.samples_per_prompt} a prompt; only the continuation is scored",
            OURS,
        ),
        Choice(
            "prompts",
            f"{n_prompts:,}, {_corpora((asked.generation.prompts,))}",
            "3,000 of ToxiGen, 3,000 of RealToxicityPrompts",
        ),
        Choice(
            "scorer",
            f"{display_names.scorer(asked.scoring.scorer)} ({report.scorer_id})",
            "Perspective",
        ),
        Choice(
            "cost",
            "cross-entropy on held-out clean text",
            "cross-entropy on a subset of OpenWebText",
        ),
    ]


def _corpora(uris: Sequence[str]) -> str:
    return listed([display_names.source(uri) for uri in uris])
