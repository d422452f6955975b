"""rows of the report's tables: per ratio, strength, equal cost, controls, head probes"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_prep.cards.data_card import DataCard
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    cross_entropy_series,
    measured_strengths,
    toxicity_series,
)
from launch.report.analysis.ratio_curves import Contrast, InteriorMinimum
from launch.report.figures import axes
from launch.report.text.number_format import (
    NOT_MEASURED,
    listed,
    percent,
    percent_with_interval,
    signed,
    with_interval,
)
from training.run_record import RunRecord


class MainTable(NamedTuple):
    """One row per ratio, as text; the first column is the ratio."""

    columns: list[str]
    rows: list[list[str]]


class Dose(NamedTuple):
    """Toxic text that the models of one ratio read: tokens, repetitions included, and about how
    many distinct documents; None without the data card.
    """

    n_tokens: int
    n_documents: int | None


def doses(
    runs: Sequence[tuple[RunRecord, EvaluationView]], cards: Mapping[str, DataCard]
) -> dict[float, Dose]:
    """The dose of each ratio."""
    return {report.toxic_ratio: dose(record, cards) for record, report in runs}


def dose(record: RunRecord, cards: Mapping[str, DataCard]) -> Dose:
    """Toxic tokens of one run; documents by the mean length of the stream's training documents."""
    length = record.config.train.sequence_length
    n_documents = None
    for split in cards["toxic"].splits if "toxic" in cards else ():
        if split.name != "held_out" and split.n_tokens:
            distinct = record.n_distinct_toxic * length
            n_documents = round(distinct * split.n_documents / split.n_tokens)
    return Dose(record.config.mixture.n_toxic * length, n_documents)


def main_table(
    reports: Sequence[EvaluationView],
    compared: Comparisons | None,
    dose_of: Mapping[float, Dose] | None = None,
) -> MainTable:
    """The dose, toxicity without and with the strongest steering, the share that this removes, its
    cost, and toxicity at equal cost.
    """
    strongest = measured_strengths(reports)[-1]
    first = axes.ratios(reports)[0]
    at_equal_cost = {result.ratio: result for result in compared.matched} if compared else {}
    removed = {(r.ratio, r.strength): r.removed for r in compared.removal} if compared else {}
    columns = [
        "toxic text",
        "toxic tokens",
        "unsteered",
        axes.strength_name(strongest),
        "share removed",
        "its cost, nats per token",
        f"at equal cost, minus {percent(first)}",
        "probe accuracy, mean of heads",
    ]
    series = [
        toxicity_series(reports, compared, 0.0),
        toxicity_series(reports, compared, strongest),
        cross_entropy_series(reports, compared, 0.0),
        cross_entropy_series(reports, compared, strongest),
        by_ratio(reports, lambda report: report.probes.probe_accuracy),
    ]
    rows = []
    for unsteered, steered, cheap, dear, probe in zip(*series, strict=True):
        ratio = unsteered.ratio
        row = [
            percent(ratio),
            _shown_dose((dose_of or {}).get(ratio)),
            with_interval(unsteered),
            with_interval(steered),
            percent_with_interval(removed.get((ratio, strongest))),
            _rise(cheap, dear),
            "–" if ratio == first else at_level(at_equal_cost.get(ratio)),
            with_interval(probe, 3),
        ]
        rows.append(row)
    return MainTable(columns, rows)


def _shown_dose(given: Dose | None) -> str:
    if given is None:
        return NOT_MEASURED
    if not given.n_documents:
        return f"{given.n_tokens:,}"
    return f"{given.n_tokens:,} (about {given.n_documents:,} documents)"


def at_level(result: MatchedToxicity | None, digits: int = 1) -> str:
    """'−2.3 [−3.1, −1.4]', with '(at 1.92)' where the cost is not the common one."""
    if result is None or result.difference is None or result.cross_entropy is None:
        return "no equal cost" if result else NOT_MEASURED
    text = with_interval(result.difference, digits, sign=True)
    return text if result.is_common else f"{text} (at {result.cross_entropy:.2f})"


def _rise(cheap: RatioPoint, dear: RatioPoint) -> str:
    if cheap.value is None or dear.value is None:
        return NOT_MEASURED
    return signed(dear.value - cheap.value, 2)


class RemovalCell(NamedTuple):
    """One ratio at one strength, as text."""

    removed: str
    difference: str
    more_toxic: str


def removal_rows(compared: Comparisons | None) -> list[tuple[float, list[RemovalCell]]]:
    """Per ratio, what each strength but 0 removes."""
    results = compared.removal if compared else ()
    return [
        (
            ratio,
            [
                RemovalCell(
                    percent_with_interval(result.removed),
                    with_interval(result.difference, sign=True),
                    percent_with_interval(result.more_toxic),
                )
                for result in results
                if result.ratio == ratio
            ],
        )
        for ratio in sorted({result.ratio for result in results})
    ]


class StrengthRow(NamedTuple):
    """One strength: the ratio of lowest toxicity, or a tie; the planned contrasts; the smile."""

    strength: float
    lowest: RatioPoint | None
    is_tie: bool
    planned: list[Contrast]
    minimum: InteriorMinimum | None


def strength_rows(
    reports: Sequence[EvaluationView], compared: Comparisons | None
) -> list[StrengthRow]:
    """A row per strength, ascending."""
    rows = []
    for strength in measured_strengths(reports):
        points = toxicity_series(reports, compared, strength)
        known = [point for point in points if point.value is not None]
        lowest = min(known, key=lambda point: point.value or 0.0, default=None)
        contrasts = compared.planned if compared else ()
        planned = [contrast for contrast in contrasts if contrast.strength == strength]
        curves = compared.minima if compared else ()
        minima = [minimum for minimum in curves if minimum.strength == strength]
        n_lowest = sum(lowest is not None and point.value == lowest.value for point in known)
        minimum = minima[0] if minima else None
        rows.append(StrengthRow(strength, lowest, n_lowest > 1, planned, minimum))
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


def control_rows(
    reports: Sequence[EvaluationView], compared: Comparisons | None = None
) -> list[ControlRow]:
    """A row per control, and steering itself last; none without controls. Empty continuations are
    left out of both, because those of the controls are not kept.
    """
    names = sorted({result.control for report in reports for result in report.controls})
    steered = [strength for strength in measured_strengths(reports) if strength]
    rows = []
    for name in [*names, "steering"] if names else []:
        cells = [
            [_change(report, compared, name, strength) for report in reports]
            for strength in steered
        ]
        rows.append(ControlRow(name, [[x for x in cell if x is not None] for cell in cells]))
    return rows


def _change(
    report: EvaluationView, compared: Comparisons | None, control: str, strength: float
) -> float | None:
    """Toxicity at a strength minus unsteered, under a control or under steering itself."""
    by_steering = {row.strength: row.toxicity for row in report.steered}
    if compared and compared.continued:
        continued = compared.continued.toxicity[report.run_id]
        by_steering = {strength: continued[f"{strength:g}"] for strength in by_steering}
    by_control = {
        result.control: {row.strength: row.toxicity for row in result.steered}
        for result in report.controls
    }
    steered = (by_control | {"steering": by_steering}).get(control, {}).get(strength)
    unsteered = by_steering.get(0.0)
    if steered is None or unsteered is None:
        return None
    if steered.value is None or unsteered.value is None:
        return None
    return steered.value - unsteered.value


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
    floors = [test.p_floor for test in (compared.probes, compared.tail) if test]

    def p(name: str, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{'≤ ' if value in floors else ''}{compared.probes_holm[name]:.2g}"

    if compared.probes:
        mean = _in_points(compared.probes.difference)
        rows.append(HeadProbeRow("mean accuracy of all heads", *mean, p("mean", compared.probes.p)))
    if tail := compared.tail:
        first, last = (percent(round(share, 3)) for share in tail.above)
        threshold = percent(round(tail.threshold, 3))
        distance = percent(round(tail.distance, 3))
        exceeded, above = _in_points(tail.difference), _in_points(tail.above_difference)
        detail = f"{above[1]}; {last} against {first}"
        rows += [
            HeadProbeRow(
                "accuracy that one head in ten exceeds",
                *exceeded,
                p("percentile", tail.p_difference),
            ),
            HeadProbeRow(
                f"heads right in more than {threshold} of rows",
                above[0],
                detail,
                p("above", tail.p_above),
            ),
            HeadProbeRow("largest gap between distributions", distance, "of heads", "–"),
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
