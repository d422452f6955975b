"""estimate of a sweep's evaluations (`--plan`): tokens and time of each kind of work

Computed from the settings alone. A pass of n tokens, m of which get logits, takes

    max(FLOPs / delivered FLOP/s, bytes / delivered bytes/s) + layers × LAYER_SECONDS
    FLOPs = 2 · (N − V·D) · n + 2 · V·D · m + 2 · L·D·T · n      attention over T/2 positions

and decoding is a pass per step over the rows that decode together: its bytes are the weights once,
and for each row its keys and values and SAMPLING_BYTES per id of the vocabulary.

Files are not read: a set is taken to be as large as the settings allow, and of TEXT_TOKENS per
text. A continuation is taken to have all of its tokens.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from eval.config import HELD_OUT, ConditionConfig, EvalConfig
from launch.experiment import Experiment
from training.config import ModelConfig
from training.engine.devices import Accelerator

TEXT_TOKENS = 40  # of a probe row or prompt from a file
HELD_OUT_TOKENS = {"probe": 24, "prompt": 10}  # the middle of their ranges (eval/inputs/prompts.py)
QUESTION_TOKENS = 100  # of a question with all of its choices, without examples before it
PREFIX_CHARACTERS_PER_TOKEN = 4
CONTROL_TEXT_TOKENS = 10
SAMPLING_BYTES = 48  # as eval/model/batch_size.py
MOST_ROWS = {"cpu": 128, "gpu": 1024}  # as eval/model/batch_size.py
LAYER_SECONDS = 3e-4  # of a layer's operators, however small their tensors
BANDWIDTH_SHARE = 0.7  # of the vendor's memory bandwidth that kernels reach
CPU_FLOPS = 80e9  # per second in fp32, of two cores beside nothing else
CPU_BYTES = 10e9
CLASSIFIER_PARAMETERS = 125e6  # of a scorer from the hub
LEXICAL_SECONDS = 3e-5  # per text that a word list scores
# FLOPs of a probe per row and squared head dimension (about ten Newton steps), and of a probe with
# permuted labels per row and head dimension (one factorisation for all)
PROBE_FLOPS, PERMUTED_PROBE_FLOPS = 20, 6


class Processor(NamedTuple):
    """What evaluates: delivered FLOP/s and bytes/s, bytes of a weight, rows per pass."""

    name: str
    flops: float
    n_bytes: float
    weight_bytes: int
    most_rows: int


class EvaluationPart(NamedTuple):
    """One kind of work in one evaluation. seconds: None where nothing is known about them."""

    name: str
    n_tokens: int
    seconds: float | None


def processor(experiment: Experiment, device: Accelerator, mfu: float) -> Processor:
    """One device for a sweep on GPUs, else two CPU cores."""
    setting = experiment.eval.compute.batch_size
    kind = "gpu" if experiment.use_gpu else "cpu"
    most_rows = MOST_ROWS[kind] if setting == "auto" else setting
    if experiment.use_gpu:
        bandwidth = BANDWIDTH_SHARE * device.bytes_per_second
        return Processor(device.name, mfu * device.peak_flops_per_second, bandwidth, 2, most_rows)
    return Processor("2 CPU cores", CPU_FLOPS, CPU_BYTES, 4, most_rows)


def evaluation_parts(
    model: ModelConfig,
    sequence_length: int,
    config: EvalConfig,
    on: Processor,
    *,
    has_control_text: bool = False,
) -> list[EvaluationPart]:
    """The work of one evaluation. has_control_text: of a run whose arm has one."""
    conditions = [
        condition
        for condition in config.conditions.values()
        if has_control_text or not condition.control_text
    ]
    work = _Work(model, config, on)
    return [
        work.probes(),
        work.prompts(conditions),
        work.decoding(conditions),
        *work.expected_toxicity(conditions),
        *work.fluency(conditions),
        work.cross_entropy(conditions, sequence_length),
        *work.benchmarks(conditions),
        *work.scoring(conditions),
    ]


class _Work:
    """Counts the work of one evaluation."""

    def __init__(self, model: ModelConfig, config: EvalConfig, on: Processor) -> None:
        self._model = model
        self._config = config
        self._on = on
        self._prompt_tokens = [_text_tokens(uri, "prompt") for uri in config.prompts.values()]

    def probes(self) -> EvaluationPart:
        """All heads are read at one token of each row, and probed, with permutations."""
        config, model = self._config.probing, self._model
        probes = [*self._config.probes.values()] * (1 + config.baselines)  # an untrained model too
        uris = [*probes, *config.transfer, *config.attributes]
        n_tokens = sum(config.n_rows * _text_tokens(uri, "probe") for uri in uris)
        n_passes = math.ceil(len(uris) * config.n_rows / self._on.most_rows)
        n_features = model.n_layers * model.d_model  # of all heads
        per_row = PROBE_FLOPS * model.d_head + PERMUTED_PROBE_FLOPS * config.n_permutations
        flops = len(probes) * config.n_rows * n_features * per_row
        seconds = self._passes(n_tokens, 0, n_passes) + flops / self._on.flops
        return EvaluationPart("probes", n_tokens, seconds)

    def prompts(self, conditions: Sequence[ConditionConfig]) -> EvaluationPart:
        """A prompt behind one text is read once for all that shifts its last position at most."""
        n_prompts = self._config.generation.n_prompts
        are_apart = self._config.steering.positions == "all"
        readings: dict[tuple[bool, str], int] = {}  # by the text before the prompt
        for condition in conditions:
            before = (condition.control_text, condition.prefix)
            extra = self._n_points(condition) if are_apart else 0
            readings[before] = readings.get(before, 0) + extra
        n_tokens = n_rows = 0
        for (control_text, prefix), n_apart in readings.items():
            n_readings = n_apart or 1
            n_before = _prefix_tokens(prefix, control_text)
            n_rows += n_readings * n_prompts * len(self._prompt_tokens)
            n_tokens += n_readings * n_prompts * sum(n_before + n for n in self._prompt_tokens)
        n_passes = math.ceil(n_rows / self._on.most_rows)
        return EvaluationPart("prompts", n_tokens, self._passes(n_tokens, 0, n_passes))

    def decoding(self, conditions: Sequence[ConditionConfig]) -> EvaluationPart:
        """One token of every row under way per step."""
        generation, model = self._config.generation, self._model
        n_rows = self._n_continuations(conditions)
        n_tokens = n_rows * generation.max_new_tokens
        together = min(n_rows, self._on.most_rows)
        n_steps = math.ceil(n_tokens / together)
        n_read = max(self._prompt_tokens) + generation.max_new_tokens / 2
        keys_and_values = 2 * model.n_layers * model.d_model * self._on.weight_bytes * n_read
        per_row = keys_and_values + (
            SAMPLING_BYTES * model.vocab_size if generation.decoding == "nucleus" else 0
        )
        seconds = self._passes(n_tokens, n_tokens, n_steps, row_bytes=n_tokens * per_row)
        return EvaluationPart("decoding", n_tokens, seconds)

    def expected_toxicity(self, conditions: Sequence[ConditionConfig]) -> list[EvaluationPart]:
        """Paths are decoded like continuations, where there is a lexicon."""
        scoring, paths = self._config.scoring, self._config.expected_toxicity
        named = (paths.lexicon, scoring.scorer, scoring.second_scorer)
        if not paths.n_paths or not any(form.startswith("lexicon:") for form in named):
            return []
        per_point = len(self._prompt_tokens) * self._config.generation.n_prompts * paths.n_paths
        n_rows = self._n_all_points(conditions) * per_point
        n_tokens = n_rows * paths.n_tokens
        n_steps = math.ceil(n_tokens / min(n_rows, self._on.most_rows))
        seconds = self._passes(n_tokens, n_tokens, n_steps)
        return [EvaluationPart("expected toxicity", n_tokens, seconds)]

    def fluency(self, conditions: Sequence[ConditionConfig]) -> list[EvaluationPart]:
        """A judge, taken to be as large as the model, reads every continuation."""
        if not self._config.scoring.fluency_model:
            return []
        n_rows = self._n_continuations(conditions)
        n_new = n_rows * self._config.generation.max_new_tokens
        n_tokens = n_new + self._config.generation.n_prompts * sum(self._prompt_tokens)
        n_passes = math.ceil(n_rows / self._on.most_rows)
        return [EvaluationPart("fluency", n_tokens, self._passes(n_tokens, n_new, n_passes))]

    def cross_entropy(self, conditions: Sequence[ConditionConfig], length: int) -> EvaluationPart:
        """Held-out sequences of both streams and of the files, at every strength."""
        capability = self._config.capability
        n_texts = 2 + len(capability.held_out)
        n_sequences = n_texts * capability.cross_entropy_sequences * self._n_all_points(conditions)
        n_tokens = n_sequences * length
        n_passes = math.ceil(n_sequences / self._on.most_rows)
        seconds = self._passes(n_tokens, n_tokens, n_passes, length=length)
        return EvaluationPart("cross-entropy", n_tokens, seconds)

    def benchmarks(self, conditions: Sequence[ConditionConfig]) -> list[EvaluationPart]:
        """Questions, each with its choices, at every strength."""
        capability = self._config.capability
        n_questions = len(self._config.benchmarks) * capability.n_questions
        if not n_questions:
            return []
        n_tokens = n_questions * QUESTION_TOKENS * self._n_all_points(conditions)
        n_passes = math.ceil(n_tokens / QUESTION_TOKENS / self._on.most_rows)
        return [
            EvaluationPart("benchmarks", n_tokens, self._passes(n_tokens, n_tokens // 4, n_passes))
        ]

    def scoring(self, conditions: Sequence[ConditionConfig]) -> list[EvaluationPart]:
        """Every scorer scores every continuation."""
        n_rows = self._n_continuations(conditions)
        n_tokens = n_rows * self._config.generation.max_new_tokens
        scoring = self._config.scoring
        parts = []
        for form in filter(None, (scoring.scorer, scoring.second_scorer)):
            kind = form.partition(":")[0]
            seconds: float | None = n_rows * LEXICAL_SECONDS
            if kind in ("classifier", "trained"):
                seconds = 2 * CLASSIFIER_PARAMETERS * n_tokens / self._on.flops
            elif kind == "openai":
                seconds = None
            parts.append(EvaluationPart(f"scores of {kind}", n_tokens, seconds))
        return parts

    def _passes(
        self,
        n_tokens: int,
        n_logits: int,
        n_passes: int,
        *,
        length: int = 0,
        row_bytes: float = 0.0,
    ) -> float:
        """Seconds of passes of so many tokens in all, logits of some of them."""
        model, on = self._model, self._on
        output = model.vocab_size * model.d_model
        flops = 2 * (model.n_parameters - output) * n_tokens + 2 * output * n_logits
        flops += 2 * model.n_layers * model.d_model * length * n_tokens
        n_bytes = on.weight_bytes * model.n_parameters * n_passes + row_bytes
        overhead = n_passes * model.n_layers * LAYER_SECONDS
        return max(flops / on.flops, n_bytes / on.n_bytes) + overhead

    def _n_points(self, condition: ConditionConfig) -> int:
        """Strengths at which a condition is measured."""
        return 1 if condition.steering == "none" else len(self._config.steering.strengths)

    def _n_all_points(self, conditions: Sequence[ConditionConfig]) -> int:
        return sum(map(self._n_points, conditions))

    def _n_continuations(self, conditions: Sequence[ConditionConfig]) -> int:
        generation = self._config.generation
        per_point = len(self._prompt_tokens) * generation.n_prompts * generation.samples_per_prompt
        return self._n_all_points(conditions) * per_point


def _text_tokens(uri: str, kind: str) -> int:
    return HELD_OUT_TOKENS[kind] if uri == HELD_OUT else TEXT_TOKENS


def _prefix_tokens(prefix: str, control_text: bool) -> int:
    of_control = CONTROL_TEXT_TOKENS if control_text else 0
    return of_control + math.ceil(len(prefix) / PREFIX_CHARACTERS_PER_TOKEN)
