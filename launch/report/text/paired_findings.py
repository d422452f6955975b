"""what the paired comparisons say, in words and as a table: the same rule whichever way a sweep turns out"""

from collections.abc import Sequence
from typing import NamedTuple

from eval.eval_report import EvalReport
from eval.stats.estimate import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    measured_strengths,
    toxicity_at,
)
from launch.report.analysis.ratio_curves import Contrast, InteriorMinimum
from launch.report.text.findings import listed, percent, show, signed

LEVEL = 0.05


class Row(NamedTuple):
    """One strength of the sweep: its lowest point, the planned contrasts and the smile, where they
    were computed.
    """

    strength: float
    lowest: RatioPoint | None
    planned: list[Contrast]
    smile: InteriorMinimum | None


def rows(reports: Sequence[EvalReport], of: Comparisons | None) -> list[Row]:
    """A row for each strength, ascending."""
    found = []
    for strength in measured_strengths(reports):
        known = [
            point for point in by_ratio(reports, toxicity_at(strength)) if point.value is not None
        ]
        lowest = min(known, key=lambda point: point.value or 0.0, default=None)
        planned = [one for one in of.planned if one.strength == strength] if of else []
        smile = next((one for one in of.minima if one.strength == strength), None) if of else None
        found.append(Row(strength, lowest, planned, smile))
    return found


def lead(of: Comparisons | None) -> list[str]:
    """The first claims: at equal cost, then the smile beside what chance would make of it."""
    return [sentence for sentence in (at_equal_cost(of), smile(of)) if sentence] if of else []


def at_equal_cost(of: Comparisons) -> str:
    """Which ratios come out less toxic than the first where both cost the same cross-entropy."""
    known = [
        one
        for one in of.matched
        if one.difference and one.difference.low is not None and one.difference.high is not None
    ]
    if not known:
        return "At equal cross-entropy nothing can be compared: no model's curve meets that of the cleanest corpus surely enough."
    less = [one for one in known if one.difference.high < 0]  # type: ignore[union-attr,operator]
    more = [one for one in known if one.difference.low > 0]  # type: ignore[union-attr,operator]
    rest = [one for one in known if one not in less and one not in more]
    first = percent(of.first)
    if less:
        parts = [
            f"the models with {_differences(less)} toxic text came out less toxic than the one with {first}"
        ]
    else:
        parts = [f"no share of toxic text made the steered model less toxic than {first}"]
    parts += [f"{_differences(more)} came out more toxic"] if more else []
    parts += (
        [f"{_differences(rest)} {'is' if len(rest) == 1 else 'are'} not told apart from {first}"]
        if rest
        else []
    )
    lacking = [percent(one.ratio) for one in of.matched if one not in known]
    parts += [f"{listed(lacking)} could not be compared at equal cost"] if lacking else []
    return f"At equal cross-entropy on clean text, {'; '.join(parts)}."


def smile(of: Comparisons) -> str:
    """Whether toxicity falls from the first ratio to the middle one and rises from there to the
    last, at any strength.
    """
    steered = [one for one in of.minima if one.strength]
    if not steered:
        return ""
    last = steered[-1]
    pairs = {one.strength: [p for p in of.planned if p.strength == one.strength] for one in steered}
    shown = [
        f"{s:g}"
        for s, both in pairs.items()
        if len(both) == 2 and _falls(both[0]) and _falls(both[1], rises=True)
    ]
    a, b = pairs[last.strength][0], pairs[last.strength][-1]
    what = f"toxicity lower at {percent(a.second)} than at {percent(a.first)} and at {percent(b.second)}, both p ≤ {LEVEL} after Holm"
    where = f"at strength {listed(shown)}" if shown else "at no strength"
    return (
        f"The paper's “smile” ({what}) is seen {where}. At strength {last.strength:g} the lowest point lay inside the grid in "
        f"{percent(round(last.p_interior, 3))} of the bootstrap's curves; if the share had no effect it would in "
        f"{percent(round(last.by_chance, 3))}."
    )


def sentences(of: Comparisons) -> list[str]:
    """What the tables do not hold: what the comparisons cover, and how many prompts would be
    needed.
    """
    over = (
        "prompts, seeds and, at equal cost, held-out sequences"
        if of.seeds_df
        else "prompts, for these models only: with one seed a ratio the spread between models is unknown"
    )
    found = [f"Compared on the same {of.n_prompts:,} prompts; intervals and p cover {over}."]
    needed = [f"{points} takes {n:,} prompts" for points, n in of.prompts_needed.items()]
    if needed:
        how = "with the spread seen here, a power of 80\u00a0% and a two-sided 5\u00a0%"
        found.append(f"To show a difference of {', of '.join(needed)}: {how}.")
    return found


def probes(of: Comparisons) -> str:
    """The accuracy of all heads, last ratio against first, on the same rows: the mean and the right
    tail; without a full stop.
    """
    if of.probes is None:
        return ""
    mean = (
        f"The mean accuracy of all head probes at {percent(of.probes.last)} minus that at {percent(of.probes.first)} was "
        f"{show(scaled(of.probes.difference, 100), 2, sign=True)} points on the same test rows, p = {of.probes_holm['mean']:.2g}"
    )
    if of.tail is None:
        return mean
    first, last = (percent(round(share, 3)) for share in of.tail.above)
    return (
        f"{mean}; {last} of heads at {percent(of.tail.last)} and {first} at {percent(of.tail.first)} are right in more than "
        f"{percent(round(of.tail.threshold, 3))} of rows, as one in ten of both is, p = {of.probes_holm['above']:.2g}"
    )


def of_heads(of: Comparisons) -> list[tuple[str, str, str, str]]:
    """What is compared of the head probes, the value, what belongs to it, and p after Holm's
    correction where it is tested.
    """
    found = []
    if of.probes:
        found.append(
            (
                "mean accuracy of all heads",
                *_points(of.probes.difference),
                f"{of.probes_holm['mean']:.2g}",
            )
        )
    if one := of.tail:
        first, last, threshold, distance = (
            percent(round(x, 3)) for x in (*one.above, one.threshold, one.distance)
        )
        found.append(("accuracy that one head in ten exceeds", *_points(one.difference), "–"))
        found.append(
            (
                f"heads right in more than {threshold} of rows",
                last,
                f"against {first}",
                f"{of.probes_holm['above']:.2g}",
            )
        )
        found.append(
            (
                "largest distance of the distributions",
                distance,
                "of heads",
                f"{of.probes_holm['distance']:.2g}",
            )
        )
    return found


def _points(of: Estimate) -> tuple[str, str]:
    """A difference of accuracies and its interval, in percentage points."""
    value, _, interval = show(scaled(of, 100), 2, sign=True).partition(" ")
    return f"{value} points", interval


def by_seed(of: Comparisons) -> str:
    """How the models of the last ratio differ among themselves in their share of heads above, where
    there are several.
    """
    if of.tail is None or len(of.tail.by_model) < 2:
        return ""
    points = listed([signed(100 * share, 1) for share in of.tail.by_model])
    return f"In heads above, the models at {percent(of.tail.last)} differ from {percent(of.tail.first)} by {points} points."


def scaled(of: Estimate, factor: float) -> Estimate:
    value, low, high = (None if x is None else factor * x for x in (of.value, of.low, of.high))
    return Estimate(value=value, low=low, high=high, n=of.n, unit=of.unit)


def caveat(of: Comparisons | None) -> str:
    """On what the paired comparisons' intervals rest where there are several seeds."""
    if of is None or not of.seeds_df:
        return ""
    return (
        "A difference between shares, at equal cost too, counts the spread of models over seeds: taken to be the same at every "
        f"share, and known with {of.seeds_df} degree{'' if of.seeds_df == 1 else 's'} of freedom."
    )


def _differences(of: Sequence[MatchedToxicity]) -> str:
    """'10 % (−1.2 [−2.0, −0.3]) and 15 % (…)'; of more than two, '10 %, 15 % and 20 % (−1.2 to
    −0.4)'.
    """
    if len(of) < 3:
        return listed([f"{percent(one.ratio)} ({show(one.difference, sign=True)})" for one in of])
    values = sorted((one.difference.value or 0.0 for one in of if one.difference), key=abs)
    span = " to ".join(signed(value, 1) for value in (values[0], values[-1]))
    return f"{listed([percent(one.ratio) for one in of])} ({span})"


def _falls(one: Contrast, *, rises: bool = False) -> bool:
    value = one.difference.value or 0.0
    return one.p_holm <= LEVEL and (value > 0 if rises else value < 0)


def at_costs(of: Comparisons) -> list[tuple[float, list[MatchedToxicity]]]:
    """Each ratio with its comparisons at equal cost, cheapest first: whether the first claim hangs
    on the cost chosen.
    """
    every = sorted([*of.matched, *of.matched_elsewhere], key=lambda one: one.share)
    return [
        (ratio, [one for one in every if one.ratio == ratio])
        for ratio in sorted({one.ratio for one in every})
    ]
