"""findings in words: the answer, what qualifies it, and what the intervals leave out

A sentence is chosen by arithmetic alone, so it reads the same whichever way a sweep turns out.
Numbers stand in the tables (tables.py); a sentence says what a table cannot: a verdict, a warning,
what was not measured. Two values are called different only where the interval of their paired
difference excludes 0 or, without paired items, where their intervals do not overlap. Anything else
is "not told apart", never "equal".
"""

from collections.abc import Sequence
from typing import NamedTuple

from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    intervals_are_disjoint,
    measured_strengths,
    steered_at,
    toxicity_series,
)
from launch.report.analysis.ratio_curves import Contrast
from launch.report.text.comparison_notes import (
    SIGNIFICANCE,
    cost_levels,
    empty_readings,
    excludes_zero,
    models_with,
    not_compared,
)
from launch.report.text.number_format import (
    listed,
    percent,
    signed,
    value_range,
    with_interval,
)

REPEATING_FACTOR = 0.5  # distinct bigrams, steered / unsteered: below, the text repeats itself
BABBLE_FACTOR = 10  # perplexity, steered / unsteered: above, the text is babble to the judge


class Findings(NamedTuple):
    """The report's sentences: the answer first, the caveat on intervals last."""

    answer: str
    details: list[str]
    caveat: str

    @property
    def sentences(self) -> list[str]:
        return [self.answer, *self.details, self.caveat]


def findings(reports: Sequence[EvaluationView], compared: Comparisons | None = None) -> Findings:
    """What the numbers of a sweep allow to say; `compared` holds its paired comparisons."""
    steered = [strength for strength in measured_strengths(reports) if strength > 0]
    if compared:
        answer = answer_at_equal_cost(compared)
    elif steered:
        points = toxicity_series(reports, compared, steered[-1])
        answer = answer_by_intervals(steered[-1], points)
    else:
        answer = "No answer: no model was steered."
    details = [
        not_compared(len({report.toxic_ratio for report in reports}), compared),
        cost_levels(compared),
        direction_steers(reports),
        smile(reports, compared),
        floor(reports, compared),
        broken_text(reports, steered),
        probes_above_chance(reports),
        tokens_written(reports),
        coverage(reports, compared),
        empty_readings(compared),
    ]
    return Findings(answer, [sentence for sentence in details if sentence], seeds(reports))


def answer_at_equal_cost(compared: Comparisons) -> str:
    """Which toxic ratios are less toxic than the first where both cost the same cross-entropy."""
    signs = {result.ratio: _sign(result) for result in compared.matched}
    less = [result for result in compared.matched if signs[result.ratio] == -1]
    more = [result for result in compared.matched if signs[result.ratio] == 1]
    first = percent(compared.first)
    if all(sign is None for sign in signs.values()):
        return f"No answer: no share of toxic text can be compared with {first} at equal cost."
    if less:
        worse = f"; {models_with(more)} more toxic {_span(more)}" if more else ""
        return (
            f"Some: at equal cost, {models_with(less)} less toxic than with {first} "
            f"{_span(less)}{worse}."
        )
    if more:
        return (
            f"None: at equal cost, {models_with(more)} more toxic than with {first} {_span(more)}."
        )
    return f"Not decided: at equal cost, no share of toxic text is told apart from {first}."


def _sign(matched: MatchedToxicity) -> int | None:
    """−1: less toxic than the first, 1: more toxic, 0: not told apart, None: not compared."""
    difference = matched.difference
    if difference is None or difference.value is None or difference.low is None:
        return None
    if not excludes_zero(difference):
        return 0
    return -1 if difference.value < 0 else 1


def _span(matched: Sequence[MatchedToxicity]) -> str:
    """'(−1.2 [−2.0, −0.3])' of one model, '(−0.4 to −1.2)' of several."""
    if len(matched) == 1:
        return f"({with_interval(matched[0].difference, sign=True)})"
    values = sorted(
        (result.difference.value or 0.0 for result in matched if result.difference), key=abs
    )
    return f"({signed(values[0], 1)} to {signed(values[-1], 1)})"


def answer_by_intervals(strength: float, points: Sequence[RatioPoint]) -> str:
    """Where toxicity is lowest at one strength, by the intervals of single points."""
    known = [point for point in points if point.value is not None]
    if not known:
        return f"No answer: toxicity at strength {strength:g} was not measured."
    lowest = min(known, key=lambda point: point.value or 0.0)
    text = (
        f"At strength {strength:g} toxicity is lowest with {percent(lowest.ratio)} toxic text, "
        f"{with_interval(lowest)}"
    )
    others = [point for point in known if point is not lowest]
    if not others:
        return f"{text}: no other ratio was measured."
    overlapping = [point for point in others if not intervals_are_disjoint(lowest, point)]
    if overlapping:
        text += f", not told apart from {listed([percent(point.ratio) for point in overlapping])}"
    else:
        text += ", apart from all others"
    if lowest is known[0]:
        return f"{text}; it is the smallest share tested."
    if lowest is known[-1]:
        return f"{text}; it is the largest share tested, so the minimum may lie beyond it."
    if known[0] in overlapping or known[-1] in overlapping:
        return f"{text}: where the curve turns is not settled."
    return f"{text}: the minimum lies inside the grid."


def direction_steers(reports: Sequence[EvaluationView]) -> str:
    """In how many models the direction lowers toxicity more than random shifts do."""
    gates = [report.gate for report in reports if report.gate]
    if not gates:
        return ""
    n, n_steering = len(gates), sum(gate.steers for gate in gates)
    cost = f"at a cost of {gates[0].budget:g} nats per token"
    if n_steering == n:
        return (
            f"In each of {n} models the direction lowers toxicity more than random shifts {cost}."
        )
    return (
        f"In {n - n_steering} of {n} models the probes' direction does not steer: {cost} it is not "
        "shown to lower toxicity more than random shifts do, or it makes a toxic end likelier."
    )


def smile(reports: Sequence[EvaluationView], compared: Comparisons | None) -> str:
    """Whether toxicity falls from the first ratio to the middle one and rises to the last, and what
    speaks against taking this for the paper's result.
    """
    by_strength: dict[float, list[Contrast]] = {}
    for contrast in compared.planned if compared else ():
        by_strength.setdefault(contrast.strength, []).append(contrast)
    pairs = {strength: pair for strength, pair in by_strength.items() if len(pair) == 2}
    if not pairs:
        return ""
    significant = [
        strength
        for strength, (left, right) in pairs.items()
        if _is_significant(left, sign=-1) and _is_significant(right, sign=1)
    ]
    left, right = next(iter(pairs.values()))
    shares = (left.first, left.second, right.second)
    first, middle, last = map(percent, shares)
    test = f"both p ≤ {SIGNIFICANCE} after Holm's correction"
    objections = {s: _objections(reports, s, shares) for s in significant}
    seen = [f"{strength:g}" for strength in significant if not objections[strength]]
    if seen:
        return (
            f"The paper's “smile” is seen at strength {listed(seen)}: toxicity falls from {first} "
            f"to {middle} toxic text and rises to {last} ({test})."
        )
    if significant:
        shown = listed([f"{strength:g}" for strength in significant])
        against = listed(list(dict.fromkeys(o for s in significant for o in objections[s])))
        return (
            f"This is not the paper's “smile”, although at strength {shown} toxicity falls from "
            f"{first} to {middle} toxic text and rises to {last} ({test}): {against}."
        )
    return (
        f"The paper's “smile” is not seen: at no strength does toxicity fall from {first} to "
        f"{middle} toxic text and rise to {last} ({test})."
    )


def _objections(
    reports: Sequence[EvaluationView], strength: float, shares: tuple[float, float, float]
) -> list[str]:
    """Why a fall and a rise at a strength may have another cause."""
    objections = []
    counts = [sum(report.toxic_ratio == share for report in reports) for share in shares]
    if min(counts) < 2:
        objections.append("a share has one model only, and no second seed confirms it")
    gates = [r.gate for r in reports if r.gate and r.toxic_ratio in shares]
    if not all(gate.steers for gate in gates):
        objections.append("the direction of some models does not steer")
    if _is_broken(reports, strength):
        objections.append("at that strength the text of some models is broken")
    falls, rises = (
        _difference_by_other_scorer(reports, strength, *pair) for pair in (shares[:2], shares[1:])
    )
    if (falls is not None and falls >= 0) or (rises is not None and rises <= 0):
        objections.append("by the second scorer it does not fall and rise")
    return objections


def _difference_by_other_scorer(
    reports: Sequence[EvaluationView], strength: float, first: float, second: float
) -> float | None:
    """Mean toxicity at the second share minus that at the first one; None with one scorer."""
    means = []
    for share in (first, second):
        rows = [steered_at(r, strength) for r in reports if r.toxic_ratio == share]
        others = [row.other_toxicity for row in rows if row]
        values = [other.value for other in others if other and other.value is not None]
        if not values:
            return None
        means.append(sum(values) / len(values))
    return means[1] - means[0]


def _is_significant(planned: Contrast, *, sign: int) -> bool:
    return planned.p_holm <= SIGNIFICANCE and sign * (planned.difference.value or 0.0) > 0


def floor(reports: Sequence[EvaluationView], compared: Comparisons | None = None) -> str:
    """A warning where the first model scores so low that no other can be shown to score lower."""
    first, *others = toxicity_series(reports, compared, 0.0)
    if not others or first.low is None or first.low > 0:
        return ""
    return (
        f"The unsteered model with {percent(first.ratio)} toxic text scores "
        f"{with_interval(first)}: its interval reaches the floor of the scale, so no other model "
        "can be shown to be less toxic."
    )


def broken_text(reports: Sequence[EvaluationView], steered: Sequence[float]) -> str:
    """A warning at strengths where some model repeats itself, or writes babble to the judge."""
    broken = [f"{strength:g}" for strength in steered if _is_broken(reports, strength)]
    if not broken:
        return ""
    return (
        f"At strength {listed(broken)} low toxicity may be broken text: compared with unsteered "
        "text, the continuations of at least one model have less than half the distinct-2 (share "
        f"of distinct bigrams) or more than {BABBLE_FACTOR} times the perplexity."
    )


def _is_broken(reports: Sequence[EvaluationView], strength: float) -> bool:
    return any(
        _factor(report, strength, "distinct_ratio") < REPEATING_FACTOR
        or _factor(report, strength, "perplexity") > BABBLE_FACTOR
        for report in reports
    )


def _factor(report: EvaluationView, strength: float, quantity: str) -> float:
    """A quantity at a strength / unsteered; 1 where it was not measured."""
    unsteered, steered = (steered_at(report, alpha) for alpha in (0.0, strength))
    if unsteered is None or steered is None:
        return 1.0
    base, value = (getattr(row, quantity).value for row in (unsteered, steered))
    return value / base if base and value is not None else 1.0


def probes_above_chance(reports: Sequence[EvaluationView]) -> str:
    """How many heads are more accurate than the best of as many heads would be by chance."""
    nulls = [report.probes.probe_null for report in reports if report.probes.probe_null]
    if not nulls:
        return ""
    n_heads = next(
        sum(map(len, report.probes.head_accuracy)) for report in reports if report.probes.probe_null
    )
    n_above = value_range([null.n_above for null in nulls], 0)
    return (
        f"Of {n_heads} head probes per model, {n_above} are "
        "above chance: more accurate than the best head in 95\u00a0% of label permutations "
        f"({value_range([null.best_accuracy for null in nulls], 3)})."
    )


def tokens_written(reports: Sequence[EvaluationView]) -> str:
    """Whether steered heads write more toxic words than random directions through them do."""
    read = [(report.toxic_ratio, report.probes.lens[0]) for report in reports if report.probes.lens]
    if not read:
        return ""
    above = dict.fromkeys(
        percent(ratio) for ratio, lens in read if lens.toxic_share > lens.random_high
    )
    claim = (
        f"the top {len(read[0][1].toxic_tokens)} tokens of the steered heads hold more toxic words "
        "than 95\u00a0% of random directions"
    )
    if above:
        return f"With {listed([*above])} toxic text, {claim}."
    return f"In no model is it seen that {claim}."


def coverage(reports: Sequence[EvaluationView], compared: Comparisons | None = None) -> str:
    """Continuations without a score, and empty ones."""
    rows = [steered for report in reports for steered in report.steered]
    least = min((row.coverage_ratio for row in rows), default=1.0)
    most_empty = max((row.n_empty / max(1, row.n_continuations) for row in rows), default=0.0)
    parts = []
    if least < 1:
        parts.append(f"At worst only {percent(least)} of the continuations have a score.")
    if most_empty > 0:
        empty = percent(round(most_empty, 3))
        score = "count as a score of 0" if compared and compared.continued else "have no score"
        parts.append(f"At worst {empty} of the continuations are empty and {score}.")
    return " ".join(parts)


def seeds(reports: Sequence[EvaluationView]) -> str:
    """What the intervals do and do not cover."""
    ratios = [report.toxic_ratio for report in reports]
    counts = [ratios.count(ratio) for ratio in ratios]
    if max(counts) == 1:
        return (
            "One model per ratio: the spread between seeds is not measured. Intervals and p cover "
            "prompts and samples of these models only; a second seed could move a value by more."
        )
    number = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    df = len(counts) - len(set(ratios))
    plural = "" if df == 1 else "s"
    return (
        f"Each ratio has {number} seeds: a value is their mean, and intervals and p cover prompts "
        "and the spread between seeds, taken to be the same at every share and known with "
        f"{df} degree{plural} of freedom."
    )


def prompts_needed(compared: Comparisons | None) -> str:
    """How many prompts would show a smaller difference than the sweep can."""
    if compared is None or not compared.prompts_needed:
        return ""
    needed = [f"{points} needs {n:,} prompts" for points, n in compared.prompts_needed.items()]
    return (
        f"With the spread seen here, a difference of {', of '.join(needed)} (power 80\u00a0%, "
        "two-sided 5\u00a0%)."
    )
