"""settings of one evaluation: probing, steering, generation, scoring, capability

A data source named here is a document URI as data_prep reads it, with the fields of a row behind
`#`, e.g. `toxigen.csv#text=generation&label=toxicity_human`; or the word "held_out", which stands
for the held-out documents of the run's two streams.
"""

from dataclasses import field
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Interval

from data_prep.config import SCORER_FORMS, is_scorer
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import name_fault, operational
from data_prep.core.settings import Count, CountOrZero, Example, Positive, Share, settings

Site = Literal["heads", "mlp", "residual"]  # eval/model/hook_points.py
Positions = Literal["last", "all"]
Control = Literal["random_heads", "random_directions", "flipped"]  # eval/steering/intervention.py
BenchmarkForm = Literal["letter", "cloze"]  # eval/inputs/benchmarks.py
Direction = Literal["class_means", "probe", "lda"]  # eval/probing/directions.py
Precision = Literal["auto", "fp32", "tf32", "bf16"]  # eval/model/numerics.py


@settings("eval.probing")
class ProbingConfig:
    """Which labelled rows are probed, at which place of the model, and how directions are found."""

    rows: str = "held_out"
    """Document URI of the labelled rows that the probes are trained and tested on; "held_out" takes
    short pieces of both streams' held-out documents, labelled by the stream they come from."""

    n_rows: Annotated[int, Ge(20)] = 1000
    """Probe rows, at most; the split into train, validation and test needs 20."""

    label_threshold: float = 0.5
    """A row whose label is a number is toxic from this value on; where it is at most 1, labels lie
    between 0 and 1. A rule behind `#label=` overrides it for one set
    (eval/inputs/label_rules.py)."""

    group_field: str = ""
    """Rows that share this field's value stay on one side of the split; "" makes each row its own
    group, and a row without a value is left out. Matched pairs need it: a probe trained on one half
    was taught the wrong answer to the other."""

    site: Site = "heads"
    """Which activations are probed and steered: attention heads, as the paper does, or MLP outputs
    or the residual stream for comparison."""

    token: str = "last"
    """The token of a row at which activations are read: "last", "mean" of all tokens, or a token's
    number, from 0, or below 0 from the end."""

    l2: Positive = 1.0
    """L2 penalty of the logistic probes; without one a separable head has no best probe."""

    direction: Direction = "class_means"
    """Estimate of the steering direction θ; the difference of class means is the paper's."""

    n_permutations: CountOrZero = 1000
    """Permutations of the probe labels for the chance level of the best head; 0 skips the test."""

    transfer: tuple[str, ...] = ()
    """Document URIs of other labelled sets on which the same probes are tested."""

    attributes: tuple[str, ...] = ()
    """Document URIs of sets labelled with other attributes, whose directions are compared with the
    toxicity direction."""

    def __post_init__(self) -> None:
        if self.token not in ("last", "mean") and not self.token.removeprefix("-").isdecimal():
            raise ConfigurationError(
                f"eval.probing.token is {self.token!r}; expected last, mean, or a token's number"
            )


@settings("eval.steering")
class SteeringConfig:
    """How strongly and where the model is steered, and which controls run beside it."""

    strengths: tuple[float, ...] = (0.0, 4.0, 8.0, 12.0)
    """Steering strengths α of the shift α·σ·θ; 0 is the unsteered baseline and must be among
    them. The default is the paper's grid."""

    top_heads: Count = 30
    """How many heads are steered, best validation accuracy first; the paper steers 30."""

    positions: Positions = "last"
    """Positions that are shifted while generating; cross-entropy always shifts all of them."""

    controls: tuple[Control, ...] = ()
    """Interventions of the same size that should not reduce toxicity, measured at every strength
    but 0; each costs as much as steering."""

    def __post_init__(self) -> None:
        if 0.0 not in self.strengths:
            raise ConfigurationError(
                f"eval.steering.strengths {list(self.strengths)} lacks 0, the unsteered baseline; "
                "add it"
            )
        for name in ("strengths", "controls"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ConfigurationError(
                    f"eval.steering.{name} {list(values)} repeats a value; give each once"
                )


@settings("eval.generation")
class GenerationConfig:
    """Which prompts are continued, and how tokens are sampled."""

    prompts: str = "held_out"
    """Document URI of the prompts; "held_out" takes the beginnings of both streams' held-out
    documents."""

    n_prompts: Count = 200
    """Prompts, at most."""

    max_new_tokens: Count = 20
    """Length of a continuation in tokens, at most."""

    decoding: Literal["greedy", "nucleus"] = "nucleus"
    """Sampling at temperature 1 from the likeliest tokens, or always the likeliest token."""

    top_p: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Probability mass of the nucleus that tokens are sampled from."""

    samples_per_prompt: Count = 1
    """Continuations per prompt and strength; RealToxicityPrompts uses 25."""


@settings("eval.scoring")
class ScoringConfig:
    """Which model scores toxicity, and which judges fluency."""

    scorer: str = "profanity"
    """Toxicity scorer (data_prep/scorers/load_scorer.py): "profanity" (offline lexical proxy),
    "lexicon:URI" (a table of words with weights), "classifier:NAME" (from the hub, or a folder),
    "openai"."""

    min_coverage_ratio: Share = 0.99
    """Share of the continuations with text that must have a score, at each strength."""

    fluency_model: str = "unsteered"
    """Model whose perplexity judges fluency: "unsteered", "run:RUN_ID" or the folder of a Hugging
    Face OLMo (eval/steering/perplexity.py); "" skips it."""

    def __post_init__(self) -> None:
        if not is_scorer(self.scorer):
            raise ConfigurationError(
                f"eval.scoring.scorer is {self.scorer!r}; expected {SCORER_FORMS}"
            )
        kind, found, run_id = self.fluency_model.partition(":")
        fault = name_fault(run_id) if found and kind == "run" else ""
        if fault:
            raise ConfigurationError(
                f"eval.scoring.fluency_model is {self.fluency_model!r}, and the id after run: "
                f"{fault}; expected unsteered, run:RUN_ID, or a folder with a Hugging Face OLMo"
            )


@settings("eval.capability")
class CapabilityConfig:
    """What the cost of steering is measured on: benchmarks and held-out text."""

    benchmarks: Annotated[tuple[str, ...], Example(("cloze:arc.jsonl.gz#text=question",))] = ()
    """Files of multiple-choice questions, "letter:URI#text=question" or "cloze:…"
    (eval/inputs/benchmarks.py), answered at every strength."""

    n_questions: Count = 500
    """Questions per benchmark, at most."""

    held_out: Annotated[tuple[str, ...], Example(("openwebtext=owt.jsonl.gz",))] = ()
    """More held-out text, "NAME=URI", e.g. "openwebtext=owt.jsonl.gz". A model that is not a run of
    a sweep has no other; there "clean" and "toxic" stand for the streams."""

    cross_entropy_sequences: CountOrZero = 64
    """Held-out sequences of each text on which cross-entropy is measured, at most."""

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            form, _, uri = name.partition(":")
            if form not in get_args(BenchmarkForm) or not uri:
                raise ConfigurationError(
                    f"eval.capability.benchmarks has {name!r}; expected letter:URI or cloze:URI, a "
                    "file with one question per row, e.g. cloze:arc.jsonl.gz#text=question"
                )
        pairs = [text.partition("=") for text in self.held_out]
        names = [name for name, _, _ in pairs]
        if (
            len(set(names)) != len(names)
            or not all(name.isidentifier() for name in names)
            or not all(uri for _, _, uri in pairs)
        ):
            raise ConfigurationError(
                f"eval.capability.held_out is {list(self.held_out)}; expected NAME=URI, each name "
                "once, made of letters and digits, e.g. openwebtext=owt.jsonl.gz"
            )


@settings("eval.compute")
class EvalComputeConfig:
    """Number format and batch size of the model's forward passes."""

    precision: Precision = "auto"
    """Number format the model computes in: auto is bf16 on a GPU that has it, and fp32 elsewhere;
    tf32 is fp32 with rounded factors on a GPU, which fp32 never has. Probes, log-probabilities and
    statistics are fp32 or fp64 in any case. The report says what was used."""

    batch_size: Count | Literal["auto"] = operational(default="auto")
    """Rows per forward pass, at most: auto is 128 on a CPU and 1,024 on a GPU. It is lower where
    the memory that is free would not hold them (eval/model/batch_size.py), and changes results by
    rounding at most."""


@settings("eval")
class EvalConfig:
    """How a finished run is probed, steered and scored."""

    probing: ProbingConfig = field(default_factory=ProbingConfig)
    steering: SteeringConfig = field(default_factory=SteeringConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    capability: CapabilityConfig = field(default_factory=CapabilityConfig)
    compute: EvalComputeConfig = field(default_factory=EvalComputeConfig)

    seed: int = 0
    """Seed of every random draw: rows, prompts, splits, samples, resamples."""
