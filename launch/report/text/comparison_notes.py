"""sentences on what is compared: cost levels, prompts left out, empty continuations"""

from collections.abc import Sequence

from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.comparisons import Comparisons, ContinuedOnly
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.ratio_curves import Contrast
from launch.report.text.number_format import listed, percent, with_interval

SIGNIFICANCE = 0.05


def cost_levels(compared: Comparisons | None) -> str:
    """Which ratios are compared at a cost of their own, and which not at all."""
    if compared is None:
        return ""
    own = [result for result in compared.matched if result.difference and not result.is_common]
    never = [result for result in compared.matched if result.difference is None]
    first = percent(compared.first)
    sentences = []
    if own:
        levels = [f"{percent(result.ratio)} at {result.cross_entropy:.2f}" for result in own]
        sentences.append(
            f"Not all shares reach one cost: {listed(levels)} nats per token "
            f"{'is' if len(own) == 1 else 'are'} compared with {first} alone, at a cost of "
            f"{'its' if len(own) == 1 else 'their'} own."
        )
    if never and len(never) < len(compared.matched):
        shares = listed([percent(result.ratio) for result in never])
        sentences.append(f"No cost is common to {first} and {shares}: not compared.")
    return " ".join(sentences)


def not_compared(n_ratios: int, compared: Comparisons | None) -> str:
    """A warning where several ratios share too little to be compared pair by pair."""
    if compared is not None or n_ratios < 2:
        return ""
    return (
        "Nothing is compared on the same prompts: fewer than two prompts have a score, or fewer "
        "than two held-out sequences a cross-entropy, for all models at all strengths."
    )


def empty_readings(compared: Comparisons | None) -> str:
    """Prompts in no comparison, and whether leaving empty continuations out would change one."""
    if compared is None:
        return ""
    sentences = []
    if compared.n_left_out:
        n_all = compared.n_left_out + compared.n_prompts
        sentences.append(
            f"{compared.n_left_out:,} of {n_all:,} prompts have no score for some model and "
            "strength and are in no comparison."
        )
    if continued := compared.continued:
        sentences.append(_other_reading(compared, continued))
    return " ".join(sentences)


def _other_reading(compared: Comparisons, continued: ContinuedOnly) -> str:
    start = "Some continuations are empty; they count as a score of 0."
    if not continued.n_prompts:
        return (
            f"{start} No two prompts are continued by all models at all strengths, so the "
            "comparisons cannot be made without them."
        )
    where = (
        f"without them, on the {continued.n_prompts:,} of {compared.n_prompts:,} prompts that all "
        "models continue,"
    )
    changed = _changed(compared, continued)
    if not changed:
        return f"{start} Compared {where} every difference keeps its sign and its significance."
    return f"{start} Warning: compared {where} these differ: {'; '.join(changed)}."


def _changed(compared: Comparisons, continued: ContinuedOnly) -> list[str]:
    """Comparisons with another sign or significance in the other reading."""
    changed = []
    others = {_name(contrast): contrast for contrast in continued.planned}
    for contrast in compared.planned:
        other = others[_name(contrast)]
        if _verdict_of_contrast(contrast) != _verdict_of_contrast(other):
            changed.append(f"{_name(contrast)} {_both(contrast.difference, other.difference)}")
    for result, other in zip(compared.matched, continued.matched, strict=True):
        if _verdict_of_match(result) != _verdict_of_match(other):
            name = f"at equal cost {percent(result.ratio)} minus {percent(compared.first)}"
            changed.append(f"{name} {_both(result.difference, other.difference)}")
    return changed


def _name(contrast: Contrast) -> str:
    shares = f"{percent(contrast.second)} minus {percent(contrast.first)}"
    return f"at strength {contrast.strength:g} {shares}"


def _both(every: Estimate | None, continued: Estimate | None) -> str:
    return f"{with_interval(every, sign=True)} and {with_interval(continued, sign=True)}"


def _verdict_of_contrast(contrast: Contrast) -> tuple[bool, bool]:
    return _is_positive(contrast.difference), contrast.p_holm <= SIGNIFICANCE


def _verdict_of_match(result: MatchedToxicity) -> tuple[bool, bool]:
    difference = result.difference
    return _is_positive(difference), excludes_zero(difference)


def _is_positive(difference: Estimate | None) -> bool:
    return difference is not None and (difference.value or 0.0) > 0


def excludes_zero(difference: Estimate | None) -> bool:
    """Whether the interval of a difference lies on one side of 0."""
    if difference is None or difference.low is None or difference.high is None:
        return False
    return difference.low > 0 or difference.high < 0


def models_with(matched: Sequence[MatchedToxicity]) -> str:
    """'the models with 5 % and 10 % toxic text are'."""
    ratios = listed([percent(result.ratio) for result in matched])
    is_one = len(matched) == 1 and len(matched[0].by_model) == 1
    return f"the model{'' if is_one else 's'} with {ratios} toxic text {'is' if is_one else 'are'}"
