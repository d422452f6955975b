"""view of an evaluation: its steering curve on one prompt set, by one scorer

    plain at strength 0, then the steered condition at each of its strengths

A report has several prompt sets, scorers and conditions. Curves over ratios and strengths are drawn
and compared for one of each, so the analysis reads views.
"""

from collections.abc import Sequence
from dataclasses import field

from data_prep.core.records import record
from eval.config import PLAIN, ConditionConfig, EvalConfig
from eval.eval_report import (
    BenchmarkFacts,
    EvalReport,
    GateResult,
    OperatingPoint,
    ProbeSetResult,
    TextSet,
)
from eval.stats.estimate_with_interval import Estimate
from eval.stats.scorer_agreement import ScorerAgreement
from eval.steering import per_item_results
from eval.steering.per_item_results import AllItems, ItemTable


@record
class StrengthResult:
    """One strength of the curve: the numbers of its operating point on the view's prompt set, by
    its scorer (eval/eval_report.py explains each).

    other_toxicity: by the other scorer, if there are two.
    """

    strength: float
    toxicity: Estimate
    expected_maximum: Estimate
    any_toxic: Estimate
    n_continuations: int
    n_empty: int
    coverage_ratio: float
    cross_entropy: dict[str, Estimate]
    distinct_ratio: Estimate
    n_tokens: Estimate
    perplexity: Estimate
    accuracy: dict[str, Estimate]
    bits_per_byte: dict[str, Estimate] = field(default_factory=dict)
    expected_toxicity: Estimate | None = None
    other_toxicity: Estimate | None = None


@record
class ControlResult:
    """A control at each strength."""

    control: str
    steered: tuple[StrengthResult, ...]


@record
class SampledCurve:
    """One prompt and its continuation at each strength of the curve, unmasked."""

    prompt_id: str
    prompt: str
    continuations: tuple[str, ...]


@record
class EvaluationView:
    """What one prompt set, one scorer and one steered condition say of a run.

    condition: the steered one; "plain" if the evaluation steers nothing. controls: conditions of
    the same size that should not reduce toxicity. probes: of the set whose directions steer.
    agreement: of the two scorers on the plain model; None with one scorer.
    """

    run_id: str
    arm: str
    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int
    config: EvalConfig
    prompt_set: str
    scorer: int
    scorer_id: str
    prompts_digest: str
    fluency_id: str
    texts: tuple[TextSet, ...]
    benchmarks: dict[str, BenchmarkFacts]
    probes: ProbeSetResult
    condition: str
    steered: tuple[StrengthResult, ...]
    controls: tuple[ControlResult, ...]
    samples: tuple[SampledCurve, ...]
    agreement: ScorerAgreement | None = None
    gate: GateResult | None = None


def view(report: EvalReport, prompt_set: str, scorer: int = 0) -> EvaluationView:
    """The view of one prompt set by the first scorer, 0, or the second, 1."""
    condition = steered_condition(report.config)
    points = curve(report, condition)

    def row(point: OperatingPoint) -> StrengthResult:
        return _strength_result(point, prompt_set, scorer)

    return EvaluationView(
        run_id=report.run_id,
        arm=report.arm,
        toxic_ratio=report.toxic_ratio,
        realised_toxic_ratio=report.realised_toxic_ratio,
        seed=report.seed,
        config=report.config,
        prompt_set=prompt_set,
        scorer=scorer,
        scorer_id=report.scorer_ids[scorer],
        prompts_digest=report.prompts_digests[prompt_set],
        fluency_id=report.fluency_id,
        texts=report.texts,
        benchmarks=report.benchmarks,
        probes=report.steering_probes,
        condition=condition,
        steered=tuple(map(row, points)),
        controls=tuple(
            ControlResult(control=name, steered=tuple(map(row, report.conditions[name])))
            for name in _controls(report.config)
        ),
        samples=_samples(report, prompt_set, condition),
        agreement=report.plain.prompt_sets[prompt_set].agreement,
        gate=report.gate,
    )


def steered_condition(config: EvalConfig) -> str:
    """The condition that steers the plain model along the probes' direction; "plain" if none
    does.
    """
    iti = ConditionConfig(steering="iti")
    return next((name for name, c in sorted(config.conditions.items()) if c == iti), PLAIN)


def curve(report: EvalReport, condition: str) -> tuple[OperatingPoint, ...]:
    """The condition's points, after that of its unsteered condition."""
    conditions = report.config.conditions
    own = report.conditions[condition]
    if conditions[condition].steering == "none":
        return own
    base = next(n for n, c in conditions.items() if c == conditions[condition].unsteered)
    return report.conditions[base] + own


def items(table: AllItems, seen: EvaluationView) -> ItemTable:
    """The per-item values of the view's curve, by the names that the analysis uses."""
    toxicity = per_item_results.toxicity(seen.prompt_set, seen.scorer)
    probes = f"probe_accuracy/{seen.config.steering_probes}"
    chosen: ItemTable = {}
    for (condition, quantity, strength), values in table.items():
        if quantity == probes:
            chosen["probe_accuracy", strength] = values
        elif condition in (PLAIN, seen.condition):
            if quantity == toxicity:
                chosen["toxicity", strength] = values
            elif quantity.startswith(("cross_entropy/", "accuracy/")):
                chosen[quantity, strength] = values
    return chosen


def _controls(config: EvalConfig) -> Sequence[str]:
    return [
        name
        for name, condition in sorted(config.conditions.items())
        if condition.steering not in ("none", "iti") and condition.unsteered == ConditionConfig()
    ]


def _strength_result(point: OperatingPoint, prompt_set: str, scorer: int) -> StrengthResult:
    of_set = point.prompt_sets[prompt_set]
    scores = of_set.scores[scorer]
    others = of_set.scores[:scorer] + of_set.scores[scorer + 1 :]
    return StrengthResult(
        strength=point.strength,
        toxicity=scores.toxicity,
        expected_maximum=scores.expected_maximum,
        any_toxic=scores.any_toxic,
        n_continuations=of_set.n_continuations,
        n_empty=of_set.n_empty,
        coverage_ratio=scores.coverage_ratio,
        cross_entropy=point.cross_entropy,
        distinct_ratio=of_set.distinct_ratio,
        n_tokens=of_set.n_tokens,
        perplexity=of_set.perplexity,
        accuracy=point.accuracy,
        bits_per_byte=point.bits_per_byte,
        expected_toxicity=of_set.expected_toxicity,
        other_toxicity=others[0].toxicity if others else None,
    )


def _samples(report: EvalReport, prompt_set: str, condition: str) -> tuple[SampledCurve, ...]:
    return tuple(
        SampledCurve(
            prompt_id=sample.prompt_id,
            prompt=sample.prompt,
            continuations=tuple(
                continuation.text
                for name in dict.fromkeys((PLAIN, condition))
                for continuation in sample.continuations
                if continuation.condition == name
            ),
        )
        for sample in report.samples
        if sample.prompt_set == prompt_set
    )
