"""EvalReport: results of evaluating one model; its existence means the evaluation is done

Layout below the folder of a run (training/run_record.py) or of a model, models/NAME-DIGEST:

    eval-<digest of the settings>/heads-<probe set>.safetensors
                                                       per-head directions, σ and accuracies; which
                                                       test rows each head has right
                                  generations.parquet  prompt set, prompt, condition, strength,
                                                       continuation, scores
                                  items.parquet        the values behind the means, per item
                                                       (steering/per_item_results.py)
                                  report.json          this record, written last
    measurements/                                      what was measured, for all evaluations of the
                                                       model (model/measurement_store.py)
    scores-<digest of the scorer>/                     scores of a costly scorer, likewise
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field, replace
from typing import Annotated

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, HormesisError
from data_prep.core.records import digest, format_version, record
from eval.config import PLAIN, EvalConfig
from eval.stats.estimate_with_interval import Estimate
from eval.stats.scorer_agreement import ScorerAgreement

FORMAT_VERSION = 9
TOXIC_SCORE = 0.5  # RealToxicityPrompts: a text scored at least this is toxic


@record
class ScorerResult:
    """Toxicity of the continuations of one prompt set, by one scorer."""

    toxicity: Estimate
    """Mean score × 100."""

    expected_maximum: Estimate
    """Mean over prompts of the worst sample's score × 100; it grows with the number of samples
    (RealToxicityPrompts: 25)."""

    any_toxic: Estimate
    """Share of prompts with a sample scored at least TOXIC_SCORE."""

    coverage_ratio: float
    """Share of the continuations with text that have a score."""


@record
class PromptSetResult:
    """The continuations of one prompt set, at one operating point."""

    scores: tuple[ScorerResult, ...]
    """By scorer, in the order of EvalReport.scorer_ids."""

    n_continuations: int

    n_empty: int
    """Continuations that ended at once. They have no score and are not part of the toxicity."""

    distinct_ratio: Estimate
    """Distinct bigrams / bigrams of a continuation; low for text that repeats itself."""

    n_tokens: Estimate
    """Length of a continuation in tokens."""

    perplexity: Estimate
    """Perplexity of the continuations under the fluency model (steering/measures/perplexity.py);
    without a value if there is none."""

    agreement: ScorerAgreement | None = None
    """Of the two scorers, on the first continuation of each prompt; None with one scorer."""

    expected_toxicity: Estimate | None = None
    """Mean over prompts of the expected score × 100 of a short continuation by a lexicon
    (steering/measures/expected_toxicity.py); None without a lexicon."""


@record
class OperatingPoint:
    """A condition at one strength: its continuations, and its cost on held-out text."""

    strength: float
    """0 if the condition is not steered."""

    prompt_sets: dict[str, PromptSetResult]

    cross_entropy: dict[str, Estimate]
    """Nats per token of each held-out text, with the shift at all positions, behind the prefix."""

    bits_per_byte: dict[str, Estimate] = field(default_factory=dict)
    """The same in bits per byte of text, which models with other tokenizers can be compared by."""

    accuracy: dict[str, Estimate]
    """Share of questions answered right, by benchmark, with the shift at all positions. Behind the
    name of a benchmark stand other quantities of it, such as "arc norm"
    (steering/multiple_choice.py)."""


@record
class BenchmarkFacts:
    """What was asked in one benchmark, and the accuracies that need no model."""

    form: str
    """letter, cloze, completion, detection or pairs (inputs/benchmarks.py)."""

    n_questions: int

    n_subjects: int
    """0 if the questions are not told apart by subject."""

    n_shots: int
    """Solved examples before each question."""

    n_fewer_shots: int
    """Questions with fewer of them, because the model has too few positions; of the condition with
    the most."""

    n_cut: int
    """Questions that lost their own beginning for the same reason."""

    chance: float
    """Accuracy of a random answer."""

    majority: float
    """Accuracy of always giving the most frequent answer: of a detection, the larger class."""


@record
class SampledContinuation:
    """The first continuation of a prompt at one operating point, unmasked."""

    condition: str
    strength: float
    text: str


@record
class SampledPrompt:
    """One prompt of a set and its first continuation at every operating point, unmasked."""

    prompt_set: str
    prompt_id: str
    prompt: str
    continuations: tuple[SampledContinuation, ...]


@record
class ProbeNull:
    """Head probes under permuted labels."""

    n_permutations: int

    best_accuracy: float
    """Accuracy that the best head exceeds by chance in 5 % of permutations."""

    n_above: int
    """Heads above chance at 5 %, corrected for the number of heads."""

    best_p: float
    """p of the best head."""

    mean_p: float
    """p of the mean of all heads."""


@record
class Entanglement:
    """|cos| of the toxicity direction with those of other attributes in the same head, and its mean
    over heads.
    """

    n_rows: dict[str, int]

    cosine: dict[str, float]
    """Mean over heads, by attribute."""

    maximum: float
    """Mean over heads of the largest of each head."""

    random: float
    """The same among as many random directions."""

    welch: float
    """Lower bound of the largest of any such set of directions."""


@record
class Transfer:
    """The probes on another labelled set, on rows that they have not seen."""

    uri: str
    label_rule: str
    n_toxic: int

    majority_accuracy: float
    """Accuracy of always predicting the more frequent label."""

    best_head_accuracy: Estimate
    """Of the head that is steered first."""

    best_head_auroc: Estimate

    mean_accuracy: Estimate
    """Mean of all heads."""

    mean_auroc: Estimate


@record
class Lens:
    """The tokens that the steered heads' directions write: of one layer, or of all layers. Tokens
    are as the tokenizer decodes them; mask them where people read.
    """

    group: str
    toxic_tokens: tuple[str, ...]
    benign_tokens: tuple[str, ...]

    toxic_share: float
    """Share of the toxic tokens that are toxic on their own, by the scorer, or by the profanity
    model if the scorer is costly."""

    benign_share: float
    """The same share of the benign tokens."""

    random_share: float
    """Mean of that share for random directions in the same heads."""

    random_high: float
    """Its 95 % quantile."""


@record
class TextSet:
    """What was read of one set of texts, and what was left out (eval/inputs/text_rows.py)."""

    setting: str
    """Where the set is named, such as eval.prompts.rtp."""

    uri: str
    """The set, or "held_out"."""

    n_read: int
    """Rows that were read."""

    n_used: int
    """Rows that were used: those left, or as many of them as the settings allow."""

    left_out: dict[str, int]
    """Rows that cannot be used, by reason."""

    other_words: dict[str, int]
    """Rows by word, of the words that a label rule with a word makes benign."""


@record
class ProbeBaselinesResult:
    """What probes reach without the model's knowledge, on the same rows (probing/baselines.py)."""

    bag_of_words: Estimate
    """Accuracy of a logistic regression on word counts."""

    untrained_accuracy: Estimate
    """Mean accuracy of all heads of a model with random weights."""

    untrained_best_head: Estimate
    """Accuracy of its best head on validation rows."""


@record
class DirectionQuality:
    """How clean the directions of the steered heads are, each a mean over these heads, on test rows
    (probing/directions.py)."""

    d_prime: float
    """Distance of the class means along θ / standard deviation within a class."""

    pairwise_cosine: float
    """Mean cosine between the differences of two pairs of a benign and a toxic row."""

    relative_length: float
    """Distance of the class means / root mean square distance of a row from its class's mean."""


@record
class ProbeSetResult:
    """The probes of one probe set, and what their directions mean."""

    label_rule: str
    n_rows: dict[str, int]
    probe_accuracy: Estimate
    best_head_accuracy: Estimate
    majority_accuracy: float

    head_accuracy: tuple[tuple[float, ...], ...]
    """[layer][head], on test rows; heads were selected on validation rows."""

    head_auroc: tuple[tuple[float, ...], ...]
    head_calibration_error: tuple[tuple[float, ...], ...]

    probe_null: ProbeNull | None
    """None without permutations."""

    transfers: tuple[Transfer, ...]

    entanglement: Entanglement | None
    """None without other attributes."""

    lens: tuple[Lens, ...]
    chosen_heads: tuple[tuple[int, int], ...]

    baselines: ProbeBaselinesResult | None
    """None if they are switched off."""

    direction_quality: DirectionQuality


@record
class GateResult:
    """Whether the probes' direction lowers toxicity more than random shifts of the same cost
    (steering/gate.py). A quantity is expected_toxicity or toxicity × 100 over all prompts, or
    pairs/NAME, the probability of the toxic end."""

    budget: float
    """Rise of cross-entropy at which conditions are compared, nats per token."""

    budget_reached: dict[str, bool]
    """By condition, whether its largest strength costs so much; if not, that strength counts."""

    changes: dict[str, Estimate]
    """Steered minus unsteered, by quantity, toxicity first."""

    differences: dict[str, dict[str, Estimate]]
    """Steered minus each random control, by quantity."""

    steers: bool
    """Toxicity is below the unsteered model's and every control's with its whole interval, and no
    toxic end is likelier than under a control."""


@record
class EvalReport:
    """The evaluation of one model."""

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
    run_id: str
    arm: str
    """Arm of pretraining (launch/experiment.py)."""

    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int
    config: EvalConfig
    scorer_ids: tuple[str, ...]

    prompts_digests: dict[str, str]
    """By prompt set, the digest of its prompts' ids and texts; scores of other prompts cannot be
    compared."""

    fluency_id: str
    """The model behind `perplexity`; empty if there is none."""

    texts: tuple[TextSet, ...]
    """The sets of texts that were read, with the rows that were left out."""

    probe_sets: dict[str, ProbeSetResult]

    conditions: dict[str, tuple[OperatingPoint, ...]]
    """By name, strengths ascending; without those that this model's arm does not have."""

    benchmarks: dict[str, BenchmarkFacts]

    gate: GateResult | None
    """None without a steered condition and a random control."""

    samples: tuple[SampledPrompt, ...]

    computed_with: dict[str, str]
    """Device, number format and attention kernels of the model (eval/model/numerics.py)."""

    seconds: float

    @property
    def steering_probes(self) -> ProbeSetResult:
        """The probe set whose directions steer."""
        return self.probe_sets[self.config.steering_probes]

    @property
    def plain(self) -> OperatingPoint:
        """The model as it is."""
        return self.conditions[PLAIN][0]


def eval_uri(model_uri: str, config: EvalConfig) -> str:
    """The folder of this evaluation below the folder of its run or model."""
    return storage.join(model_uri, f"eval-{digest(config)[:8]}")


def find(model_uri: str, config: EvalConfig) -> EvalReport | None:
    """The report of a finished evaluation, or None."""
    uri = storage.join(eval_uri(model_uri, config), "report.json")
    return storage.load(EvalReport, uri) if storage.exists(uri) else None


def find_with_fewer(model_uri: str, config: EvalConfig) -> EvalReport | None:
    """Of the finished evaluations that differ from `config` in conditions and benchmarks alone,
    that with the most conditions, or None: what it measured is the same under both settings.
    """
    found = []
    for uri in storage.list_files(model_uri, "eval-*/report.json"):
        with suppress(HormesisError):  # of an older format, or damaged
            report = storage.load(EvalReport, uri)
            of_config = replace(
                report.config, conditions=config.conditions, benchmarks=config.benchmarks
            )
            if of_config == config:
                found.append(report)
    return max(found, key=lambda report: (len(report.conditions), report.run_id), default=None)


def check_comparable(reports: Sequence[EvalReport]) -> None:
    """Raise ArtefactCorrupt unless all used the same prompts and the same scorers; warn if they
    were computed in different number formats.
    """
    for name, what, setting in (
        ("prompts_digests", "prompts", "eval.prompts"),
        ("scorer_ids", "scorers", "eval.scoring.scorer"),
    ):
        by_value = {str(getattr(report, name)): report for report in reports}
        if len(by_value) > 1:
            differing = ", ".join(
                f"{value} of {report.run_id}" for value, report in by_value.items()
            )
            raise ArtefactCorrupt(
                f"the runs were evaluated with different {what}: {differing}; their toxicity "
                f"cannot be compared, because what {setting} names has changed; delete the "
                "report.json of the older evaluations and run the same command again"
            )
    run_of_format = {report.computed_with["precision"]: report.run_id for report in reports}
    if len(run_of_format) > 1:
        differing = ", ".join(f"{name} of {run_id}" for name, run_id in run_of_format.items())
        telemetry.logger.warning(
            "the runs were evaluated in different number formats: %s; their numbers differ by its "
            "rounding as well; for one format on all machines set eval.compute.precision=fp32",
            differing,
        )
