"""rows of the report's tables: per ratio, strength, equal cost, controls, head probes"""

from collections.abc import Sequence
from typing import NamedTuple

from eval.eval_report import EvalReport
from eval.stats.estimate import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    cross_entropy_at,
    measured_strengths,
    steered_at,
    toxicity_at,
)
from launch.report.analysis.ratio_curves import Contrast, InteriorMinimum
from launch.report.figures import axes
from launch.report.text.number_format import (
    NOT_MEASURED,
    listed,
    percent,
    signed,
    with_interval,
)


class MainTable(NamedTuple):
    """One row per ratio, as text; the first column is the ratio."""

    columns: list[str]
    rows: list[list[str]]


def main_table(reports: Sequence[EvalReport], compared: Comparisons | None) -> MainTable:
    """Toxicity without and with the strongest steering, its cost, and toxicity at equal cost."""
    strongest = measured_strengths(reports)[-1]
    first = axes.ratios(reports)[0]
    at_equal_cost = (
        {result.ratio: result.difference for result in compared.matched} if compared else {}
    )
    columns = [
        "toxic text",
        "unsteered",
        axes.strength_name(strongest),
        "change",
        "its cost, nats per token",
        f"at equal cost, minus {percent(first)}",
        "probe accuracy, mean of heads",
    ]
    series = [
        by_ratio(reports, read)
        for read in (
            toxicity_at(0.0),
            toxicity_at(strongest),
            cross_entropy_at(0.0),
            cross_entropy_at(strongest),
            lambda report: report.probe_accuracy,
        )
    ]
    rows = []
    for unsteered, steered, cheap, dear, probe in zip(*series, strict=True):
        difference = with_interval(at_equal_cost.get(unsteered.ratio), sign=True)
        row = [
            percent(unsteered.ratio),
            with_interval(unsteered),
            with_interval(steered),
            _relative_change(unsteered, steered),
            _rise(cheap, dear),
            "–" if unsteered.ratio == first else difference,
            with_interval(probe, 3),
        ]
        rows.append(row)
    return MainTable(columns, rows)


def _relative_change(unsteered: RatioPoint, steered: RatioPoint) -> str:
    """'−75 %', where the unsteered value is above 0 for sure."""
    if unsteered.value is None or steered.value is None:
        return NOT_MEASURED
    if not unsteered.value or unsteered.low is None or unsteered.low <= 0:
        return "–"
    return f"{signed(100 * (steered.value / unsteered.value - 1), 0)}\u00a0%"


def _rise(cheap: RatioPoint, dear: RatioPoint) -> str:
    if cheap.value is None or dear.value is None:
        return NOT_MEASURED
    return signed(dear.value - cheap.value, 2)


class StrengthRow(NamedTuple):
    """One strength: the ratio of lowest toxicity, the planned contrasts and the smile."""

    strength: float
    lowest: RatioPoint | None
    planned: list[Contrast]
    minimum: InteriorMinimum | None


def strength_rows(reports: Sequence[EvalReport], compared: Comparisons | None) -> list[StrengthRow]:
    """A row per strength, ascending."""
    rows = []
    for strength in measured_strengths(reports):
        points = by_ratio(reports, toxicity_at(strength))
        known = [point for point in points if point.value is not None]
        lowest = min(known, key=lambda point: point.value or 0.0, default=None)
        contrasts = compared.planned if compared else ()
        planned = [contrast for contrast in contrasts if contrast.strength == strength]
        curves = compared.minima if compared else ()
        minima = [minimum for minimum in curves if minimum.strength == strength]
        rows.append(StrengthRow(strength, lowest, planned, minima[0] if minima else None))
    return rows


def equal_cost_rows(compared: Comparisons | None) -> list[tuple[float, list[MatchedToxicity]]]:
    """Each ratio with its comparisons at equal cost, cheapest first: does the answer depend on the
    cost that was chosen?
    """
    if compared is None:
        return []
    every = sorted(
        [*compared.matched, *compared.matched_elsewhere], key=lambda result: result.share
    )
    return [
        (ratio, [result for result in every if result.ratio == ratio])
        for ratio in sorted({result.ratio for result in every})
    ]


def hypervolumes(compared: Comparisons | None) -> str:
    """'0 % 42.3 [42.0, 42.7]; …': per ratio, the area between its path and the worst corner."""
    areas = compared.hypervolume if compared else {}
    return "; ".join(
        f"{percent(float(ratio))} {with_interval(area)}" for ratio, area in areas.items()
    )


class ControlRow(NamedTuple):
    """changes: per strength but 0, toxicity minus unsteered of each run that has the control."""

    control: str
    changes: list[list[float]]


def control_rows(reports: Sequence[EvalReport]) -> list[ControlRow]:
    """A row per control, and steering itself last; none without controls."""
    names = sorted({result.control for report in reports for result in report.controls})
    steered = [strength for strength in measured_strengths(reports) if strength]
    rows = []
    for name in [*names, "steering"] if names else []:
        cells = [[_change(report, name, strength) for report in reports] for strength in steered]
        rows.append(ControlRow(name, [[x for x in cell if x is not None] for cell in cells]))
    return rows


def _change(report: EvalReport, control: str, strength: float) -> float | None:
    """Toxicity at a strength minus unsteered, under a control or under steering itself."""
    by_control = {result.control: result.steered for result in report.controls}
    rows = (by_control | {"steering": report.steered}).get(control, ())
    steered = next((row for row in rows if row.strength == strength), None)
    unsteered = steered_at(report, 0.0)
    if steered is None or unsteered is None:
        return None
    if steered.toxicity.value is None or unsteered.toxicity.value is None:
        return None
    return steered.toxicity.value - unsteered.toxicity.value


class HeadProbeRow(NamedTuple):
    """One comparison of all head probes, last ratio against first.

    p: after Holm's correction; "–" where the value is not tested.
    """

    quantity: str
    value: str
    detail: str
    p: str


def head_probe_rows(compared: Comparisons | None) -> list[HeadProbeRow]:
    """The mean of all heads and the right tail of their distribution."""
    if compared is None:
        return []
    rows = []
    p = {name: f"{value:.2g}" for name, value in compared.probes_holm.items()}
    if compared.probes:
        mean = _in_points(compared.probes.difference)
        rows.append(HeadProbeRow("mean accuracy of all heads", *mean, p["mean"]))
    if tail := compared.tail:
        first, last = (percent(round(share, 3)) for share in tail.above)
        threshold = percent(round(tail.threshold, 3))
        distance = percent(round(tail.distance, 3))
        exceeded = _in_points(tail.difference)
        above = f"heads right in more than {threshold} of rows"
        rows += [
            HeadProbeRow("accuracy that one head in ten exceeds", *exceeded, "–"),
            HeadProbeRow(above, last, f"against {first}", p["above"]),
            HeadProbeRow("largest gap between distributions", distance, "of heads", p["distance"]),
        ]
    return rows


def _in_points(difference: Estimate) -> tuple[str, str]:
    """A difference of accuracies and its interval, in percentage points."""
    ends = (difference.value, difference.low, difference.high)
    value, low, high = (None if end is None else 100 * end for end in ends)
    points = Estimate(value=value, low=low, high=high, n=difference.n, unit="points")
    shown, _, interval = with_interval(points, 2, sign=True).partition(" ")
    return f"{shown} points", interval


def heads_above_by_seed(compared: Comparisons | None) -> str:
    """How several models of the last ratio differ in their share of heads above."""
    if compared is None or compared.tail is None or len(compared.tail.by_model) < 2:
        return ""
    points = listed([signed(100 * share, 1) for share in compared.tail.by_model])
    last, first = percent(compared.tail.last), percent(compared.tail.first)
    return f"In heads above, the models at {last} differ from {first} by {points} points."
