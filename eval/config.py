"""what is asked: probe data, prompts, scorer, strengths"""

from typing import Literal

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import operational, record

Site = Literal["heads", "mlp", "residual"]  # eval/model/hook_points.py
Positions = Literal["last", "all"]
Control = Literal["random_heads", "random_directions", "flipped"]  # eval/steering/intervention.py
Direction = Literal["class_means", "probe", "lda"]  # eval/probing/directions.py


@record
class EvalConfig:
    """How a finished run is probed, steered and scored.

    probes, prompts: document URIs with `#text=field&label=field`, or "held_out": short pieces of
        the held-out documents of both streams, labelled by the stream they come from.
    label_threshold: a probe row whose label is a number is toxic from here on; `#label=toxigen` or
        another rule behind `label=` says it for one set (eval/inputs/label_rules.py).
    group_field: probe rows that share its value stay on one side of the split; "" takes each row
        for itself. Matched pairs need it: a probe that trained on one half has been taught the
        wrong answer to the other.
    scorer: a toxicity scorer (data_prep/scorers/registry.py): "profanity" (offline lexical proxy),
        "lexicon:URI" (a table of words with weights), "classifier:NAME" (of the hub, or a folder),
        "perspective" or "openai".
    strengths: α of the shift α·σ·θ; 0 is no steering and is always evaluated.
    site: what is probed and steered: attention heads as the paper does, or MLP outputs or the
    residual stream for comparison.
    token: at which token of a row the probes read: "last", "mean" of all, or its number, from 0, or
    below 0 from the end.
    activation_bytes: activations that take more in fp32 are kept as fp16 on disk, with 11
    significant bits.
    direction: how θ is estimated. positions: which ones are shifted while generating; cross-entropy
    always shifts all.
    controls: steering that should not work, measured beside the real one at every strength; each
    costs as much as it.
    probe_transfer: document URIs like `probes`, of other labelled sets, on which the same probes
    are tested.
    attributes: document URIs like `probes`, of other attributes, whose directions the toxicity
    direction is compared with.
    benchmarks: files of multiple-choice questions, "letter:URI#text=question" or "cloze:…"
    (eval/steering/multiple_choice.py), answered at
        every strength; n_questions: of each, at most.
    held_out: more held-out text, "NAME=URI", e.g. "openwebtext=owt.jsonl.gz": the cost of steering
        is measured on it, too. For a model that is no run it is all there is, and "clean" and
        "toxic" stand for the streams.
    n_permutations: of the probe labels, for the chance level of the best head; 0 leaves it out.
    min_coverage_ratio: at each strength, how many of the continuations that are not empty must have
    a score.
    fluency_model: the model that judges how likely continuations are: "unsteered", "run:RUN_ID" or
    the folder of a Hugging Face
        OLMo (eval/steering/perplexity.py); "" leaves it out.
    n_probes, n_prompts: at most. top_heads: how many heads, by validation accuracy, are steered.
    precision: the numbers the model computes in; fp32 everywhere, bf16 pays on a GPU.
    cross_entropy_sequences: held-out sequences of each stream on which the cost of steering is
    measured, at most.
    threads: of torch on a CPU; 0 leaves it as it is.
    """

    probes: str = "held_out"
    prompts: str = "held_out"
    scorer: str = "profanity"
    label_threshold: float = 0.5
    group_field: str = ""
    n_probes: int = 1000
    n_prompts: int = 200
    strengths: tuple[float, ...] = (0.0, 4.0, 8.0, 12.0)
    top_heads: int = 30
    site: Site = "heads"
    token: str = "last"
    activation_bytes: int = 4 << 30
    direction: Direction = "class_means"
    positions: Positions = "last"
    controls: tuple[Control, ...] = ()
    probe_transfer: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    n_questions: int = 500
    held_out: tuple[str, ...] = ()
    n_permutations: int = 1000
    max_new_tokens: int = 20
    decoding: Literal["greedy", "nucleus"] = "nucleus"
    top_p: float = 0.9
    samples_per_prompt: int = 1
    min_coverage_ratio: float = 0.99
    fluency_model: str = "unsteered"
    probe_l2: float = 1.0
    cross_entropy_sequences: int = 64
    confidence: float = 0.95
    n_resamples: int = 2000
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = operational(default=128)
    threads: int = operational(default=0)

    def __post_init__(self) -> None:
        if 0.0 not in self.strengths:
            raise ConfigurationError(
                f"eval.strengths {list(self.strengths)} lacks 0, the unsteered baseline; add it"
            )
        if len(set(self.strengths)) != len(self.strengths):
            raise ConfigurationError(
                f"eval.strengths {list(self.strengths)} repeats one; give each once"
            )
        for name in (
            "top_heads",
            "max_new_tokens",
            "samples_per_prompt",
            "n_resamples",
            "batch_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"eval.{name} is {getattr(self, name)}; expected at least 1"
                )
        if self.n_permutations < 0 or len(set(self.controls)) != len(self.controls):
            raise ConfigurationError(
                f"eval: n_permutations {self.n_permutations}, controls {list(self.controls)}; expected at least 0, and each once"
            )
        if not 0 < self.top_p <= 1 or not 0 < self.confidence < 1:
            raise ConfigurationError(
                f"eval: top_p {self.top_p}, confidence {self.confidence}; expected shares, e.g. 0.9 and 0.95"
            )
        if not 0 <= self.min_coverage_ratio <= 1:
            raise ConfigurationError(
                f"eval.min_coverage_ratio is {self.min_coverage_ratio}; expected a share, e.g. 0.99"
            )
        if self.probe_l2 <= 0:
            raise ConfigurationError(
                f"eval.probe_l2 is {self.probe_l2}; without a penalty a separable head has no best probe"
            )
        names, _, uris = (
            zip(*(text.partition("=") for text in self.held_out), strict=True)
            if self.held_out
            else ((), (), ())
        )
        if len(set(names)) != len(names) or not all(map(str.isidentifier, names)) or not all(uris):
            raise ConfigurationError(
                f"eval.held_out is {list(self.held_out)}; expected NAME=URI, each name once, of letters and digits"
            )
        if self.token not in ("last", "mean") and not self.token.removeprefix("-").isdecimal():
            raise ConfigurationError(
                f"eval.token is {self.token!r}; expected last, mean, or the number of a token"
            )
        if self.n_probes < 20 or self.n_prompts < 1 or self.n_questions < 1:
            raise ConfigurationError(
                f"eval: n_probes {self.n_probes}, n_prompts {self.n_prompts}, n_questions {self.n_questions}; "
                "expected at least 20, 1 and 1"
            )
