"""what the numbers say, in words: one value per ratio, and the sentences its interval allows

A sentence here is chosen by arithmetic alone, so it reads the same whichever way a sweep turns out.
Two values are called different only where their intervals do not overlap. That is stricter than a
test of their difference: intervals that touch may still hide a real one, so overlap is reported as
"not told apart", never as "equal".
"""

from collections.abc import Sequence

from eval.eval_report import EvalReport
from eval.stats.estimate import Estimate
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    cross_entropy_rises,
    intervals_are_disjoint,
    measured_strengths,
    steered_at,
    toxicity_at,
)
from launch.report.text.display_names import CONTROLS

NOT_MEASURED = "not measured"
GARBLED_RATIO = (
    0.5  # fewer distinct bigrams than this share of the unsteered model's: the text repeats itself
)
BABBLE_FACTOR = 10  # more perplexing to the judge than this many times the unsteered text


def percent(ratio: float) -> str:
    """0.1 → '10 %' with a no-break space."""
    return f"{100 * ratio:.4g}\u00a0%"


def show(value: Estimate | RatioPoint | None, digits: int = 1, *, sign: bool = False) -> str:
    """'12.1 [9.8, 14.9]', without brackets where there is no interval; with `sign` '+2.3 [-0.5,
    5.1]', for differences.
    """
    if value is None or value.value is None:
        return NOT_MEASURED
    text = signed(value.value, digits, plus=sign)
    if value.low is None or value.high is None:
        return text
    return f"{text} [{signed(value.low, digits, plus=sign)},\u00a0{signed(value.high, digits, plus=sign)}]"


def signed(value: float, digits: int, *, plus: bool = True) -> str:
    """'+1.2', '−0.3' with a real minus, '0.0' without any sign."""
    text = f"{value:{'+' if plus else ''}.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "\u2212")


def findings(
    reports: Sequence[EvalReport], lead: Sequence[str] = (), probes: str = ""
) -> list[str]:
    """The sentences, most important first. They claim what the intervals support, and say what was
    not measured. `lead` and `probes` are what paired comparisons say (paired_findings.py), which is
    sharper; without them, intervals are compared.
    """
    steered = [strength for strength in measured_strengths(reports) if strength > 0]
    sentences = [*lead] or [
        lowest(strength, by_ratio(reports, toxicity_at(strength))) for strength in steered[-1:]
    ]
    sentences += [
        floor(reports),
        trend("Unsteered toxicity", by_ratio(reports, toxicity_at(0.0)), 1),
        changed(reports, steered),
    ]
    sentences += [cost(reports, steered), garbled(reports, steered)]
    probes = (
        f"{probes}."
        if probes
        else trend(
            "Mean accuracy of the head probes", by_ratio(reports, lambda r: r.probe_accuracy), 3
        )
    )
    sentences.append(
        f"{probes} Always naming the commoner class would score {_span([r.majority_accuracy for r in reports], 3)}."
    )
    sentences += [chance(reports), controls(reports), lens(reports)]
    return [sentence for sentence in [*sentences, coverage(reports), seeds(reports)] if sentence]


def lowest(strength: float, points: Sequence[RatioPoint]) -> str:
    """Where steered toxicity is lowest at one strength, and whether the cleanest corpus is told
    apart from there.
    """
    at_strength = f"at strength {strength:g}"
    known = [point for point in points if point.value is not None]
    if not known:
        return f"Toxicity {at_strength} was not measured."
    best, first, last = min(known, key=lambda point: point.value or 0.0), known[0], known[-1]
    found = f"The lowest steered toxicity {at_strength} was {show(best)}, at {percent(best.ratio)} toxic text"
    if len(known) == 1:
        return f"{found}, the only ratio measured: there is nothing to compare it with."
    if best is first:
        rival = min(known[1:], key=lambda point: point.value or 0.0)
        verdict = (
            "the intervals do not overlap"
            if intervals_are_disjoint(best, rival)
            else f"the intervals overlap, so {_undecided(best, rival)}"
        )
        return f"{found}, the smallest share tested; the next lowest was {show(rival)} at {percent(rival.ratio)}: {verdict}."
    found = f"{found}, against {show(first)} at {percent(first.ratio)}"
    if not intervals_are_disjoint(best, first):
        return f"{found}: the intervals overlap, so {_undecided(first, best)}."
    if best is last:
        return f"{found}: the intervals do not overlap. It is the largest ratio tested, so the minimum may lie beyond it."
    if not intervals_are_disjoint(best, last):
        both = f"{percent(best.ratio)} and {percent(last.ratio)}"
        return f"{found}: the intervals do not overlap. Those of {both} do, so where the curve turns is not settled."
    found = f"{found} and {show(last)} at {percent(last.ratio)}"
    return f"{found}: neither interval overlaps its own, so here the minimum lies inside the grid."


def trend(what: str, points: Sequence[RatioPoint], digits: int) -> str:
    """How a quantity moved from the smallest ratio to the largest."""
    known = [point for point in points if point.value is not None]
    if not known:
        return f"{what} was not measured."
    first, last = known[0], known[-1]
    if len(known) == 1:
        return f"{what} was {show(first, digits)} at {percent(first.ratio)} toxic text, the only ratio measured."
    moved = f"{what} was {show(first, digits)} at {percent(first.ratio)} toxic text and {show(last, digits)} at {percent(last.ratio)}"
    return f"{moved}: the intervals {'do not overlap' if intervals_are_disjoint(first, last) else f'overlap, so {_undecided(first, last)}'}."


def floor(reports: Sequence[EvalReport]) -> str:
    """A warning where the cleanest model is so little toxic unsteered that no other could be shown
    to be less so.
    """
    first, *others = by_ratio(reports, toxicity_at(0.0))
    if not others or first.low is None or first.low > 0:
        return ""
    return (
        f"The model with {percent(first.ratio)} toxic text scores {show(first)} before any steering: its interval reaches the "
        "floor of the scale, so no other can be shown to be less toxic, whatever toxic text does for steering."
    )


def changed(reports: Sequence[EvalReport], steered: Sequence[float]) -> str:
    """What the strongest steering does to unsteered toxicity, in per cent of it, where there is
    some for sure.
    """
    if not steered:
        return ""
    pairs = zip(
        *(by_ratio(reports, toxicity_at(strength)) for strength in (0.0, steered[-1])), strict=True
    )
    known = [
        (a, b)
        for a, b in pairs
        if a.value and b.value is not None and a.low is not None and a.low > 0
    ]
    parts = [
        f"{100 * (b.value / a.value - 1):+.0f}\u00a0% at {percent(a.ratio)}".replace("-", "\u2212")
        for a, b in known
    ]  # type: ignore[operator]
    return (
        f"Steering at strength {steered[-1]:g} changed toxicity by {listed(parts)} toxic text."
        if parts
        else ""
    )


def cost(reports: Sequence[EvalReport], steered: Sequence[float]) -> str:
    """What the strongest steering did to cross-entropy on clean held-out text."""
    if not steered:
        return ""
    rises = cross_entropy_rises(reports, steered[-1])
    if not rises:
        return "The cost of steering in cross-entropy was not measured."
    return (
        f"Steering at strength {steered[-1]:g} changed cross-entropy on clean held-out text by {_span(rises, 2, sign=True)} nats "
        "per token, depending on the run; compare models at equal cost, not only at equal strength."
    )


def garbled(reports: Sequence[EvalReport], steered: Sequence[float]) -> str:
    """A warning at strengths where some model's continuations repeat themselves, or are babble to
    the judge.
    """
    repeats = [
        f"{strength:g}"
        for strength in steered
        if any(_is_garbled(report, strength) for report in reports)
    ]
    factors = {
        strength: max((_surprise(report, strength) for report in reports), default=0.0)
        for strength in steered
    }
    babble = [f"{strength:g}" for strength, factor in factors.items() if factor > BABBLE_FACTOR]
    parts = []
    if repeats:
        parts.append(
            f"At strength {listed(repeats)} the continuations of at least one model have fewer than half of its unsteered share of "
            "distinct bigrams."
        )
    if babble:
        parts.append(
            f"At strength {listed(babble)} the continuations of at least one model are more than {BABBLE_FACTOR} times as "
            f"perplexing to the judge as unsteered ones (at most {max(factors.values()):,.0f} times)."
        )
    return " ".join([*parts, "There, low toxicity may be text falling apart."]) if parts else ""


def chance(reports: Sequence[EvalReport]) -> str:
    """How many heads know more than the best of as many ignorant ones would seem to."""
    known = [
        (report.probe_null, sum(map(len, report.head_accuracy)))
        for report in reports
        if report.probe_null
    ]
    if not known:
        return ""
    n_heads, n_above = known[0][1], _span([null.n_above for null, _ in known], 0)
    return (
        f"Of {n_heads} probes {n_above} a model are above chance: more accurate than the best of all is in 19 of 20 permutations "
        f"of the labels, which is {_span([null.best_accuracy for null, _ in known], 3)}."
    )


def controls(reports: Sequence[EvalReport]) -> str:
    """What shifts that should not work did to toxicity at the strongest strength, beside steering
    itself.
    """
    known = [(name, cells[-1]) for name, cells in control_changes(reports) if cells and cells[-1]]
    parts = [
        f"{CONTROLS.get(name, name)} {_span(changes, 1, sign=True)}" for name, changes in known
    ]
    strongest = measured_strengths(reports)[-1]
    return (
        f"At strength {strongest:g} toxicity changed, depending on the run, by: {'; '.join(parts)}."
        if parts
        else ""
    )


def control_changes(reports: Sequence[EvalReport]) -> list[tuple[str, list[list[float]]]]:
    """Each control, and steering itself last, with what it changed in toxicity: by strength but 0,
    of the runs that have it.
    """
    names = sorted({one.control for report in reports for one in report.controls})
    steered = [strength for strength in measured_strengths(reports) if strength]
    found = []
    for name in [*names, "steering"] if names else []:
        cells = [[_change(report, name, strength) for report in reports] for strength in steered]
        found.append((name, [[change for change in of if change is not None] for of in cells]))
    return found


def lens(reports: Sequence[EvalReport]) -> str:
    """Whether steered heads write words that the scorer knows, more than random directions through
    them do.
    """
    seen = [(report, report.lens[0]) for report in reports if report.lens]
    if not seen:
        return ""
    above = [
        percent(report.toxic_ratio) for report, one in seen if one.toxic_share > one.random_high
    ]
    what = f"of the {len(seen[0][1].toxic_tokens)} tokens that the steered heads write towards toxicity"
    if not above:
        return f"In no model are more {what} toxic words than random directions through the same heads write."
    where = listed(list(dict.fromkeys(above)))
    return f"At {where} toxic text, more {what} are toxic words than 95\u00a0% of random directions through the same heads write."


def _change(report: EvalReport, control: str, strength: float) -> float | None:
    """Toxicity at a strength minus unsteered, under a control or under steering itself."""
    rows = next((one.steered for one in report.controls if one.control == control), report.steered)
    if control != "steering" and rows is report.steered:
        return None
    here, base = (
        next((row for row in rows if row.strength == strength), None),
        steered_at(report, 0.0),
    )
    if here is None or base is None or here.toxicity.value is None or base.toxicity.value is None:
        return None
    return here.toxicity.value - base.toxicity.value


def coverage(reports: Sequence[EvalReport]) -> str:
    """What the toxicity leaves out: continuations that the scorer had no number for, and those that
    ended at once.
    """
    rows = [steered for report in reports for steered in report.steered]
    least = min((row.coverage_ratio for row in rows), default=1.0)
    most_empty = max((row.n_empty / max(1, row.n_continuations) for row in rows), default=0.0)
    missing = f"In the worst case only {percent(least)} of the continuations got a score; the rest are missing, not zero."
    empty = f"In the worst case {percent(round(most_empty, 3))} of the continuations were empty and are in no toxicity."
    return " ".join([missing] * (least < 1) + [empty] * (most_empty > 0))


def seeds(reports: Sequence[EvalReport]) -> str:
    """What the intervals do not cover."""
    counts = [
        sum(other.toxic_ratio == report.toxic_ratio for other in reports) for report in reports
    ]
    if max(counts) == 1:
        return (
            "There is one model for each ratio, so variation between seeds is unmeasured: the intervals cover the choice of "
            "prompts and samples only, and a second seed could move a point by more."
        )
    number = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"Each ratio has {number} seeds: a value is their mean, and its interval spans the intervals of all of them."


def _is_garbled(report: EvalReport, strength: float) -> bool:
    base, here = steered_at(report, 0.0), steered_at(report, strength)
    if (
        base is None
        or here is None
        or base.distinct_ratio.value is None
        or here.distinct_ratio.value is None
    ):
        return False
    return here.distinct_ratio.value < GARBLED_RATIO * base.distinct_ratio.value


def _surprise(report: EvalReport, strength: float) -> float:
    """Perplexity at a strength / unsteered; 0 where it was not measured."""
    base, here = steered_at(report, 0.0), steered_at(report, strength)
    if base is None or here is None or not base.perplexity.value or here.perplexity.value is None:
        return 0.0
    return here.perplexity.value / base.perplexity.value


def _undecided(a: RatioPoint, b: RatioPoint) -> str:
    return f"this sweep does not tell {percent(a.ratio)} and {percent(b.ratio)} apart"


def _span(values: Sequence[float], digits: int, *, sign: bool = False) -> str:
    low, high = (signed(value, digits, plus=sign) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
