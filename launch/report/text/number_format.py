"""numbers as text: percent, signs, values with their interval, lists of words"""

from collections.abc import Sequence

from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.per_ratio_series import RatioPoint

NOT_MEASURED = "not measured"


def percent(ratio: float) -> str:
    """0.1 → '10 %' with a no-break space."""
    return f"{100 * ratio:.4g}\u00a0%"


def signed(value: float, digits: int, *, plus: bool = True) -> str:
    """'+1.2', '−0.3' with a real minus, '0.0' without any sign."""
    text = f"{value:{'+' if plus else ''}.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "\u2212")


def with_interval(
    value: Estimate | RatioPoint | None, digits: int = 1, *, sign: bool = False
) -> str:
    """'12.1 [9.8, 14.9]', without brackets where there is no interval.

    sign: for differences, '+2.3 [−0.5, +5.1]'.
    """
    if value is None or value.value is None:
        return NOT_MEASURED
    text = signed(value.value, digits, plus=sign)
    if value.low is None or value.high is None:
        return text
    low = signed(value.low, digits, plus=sign)
    high = signed(value.high, digits, plus=sign)
    return f"{text} [{low},\u00a0{high}]"


def percent_with_interval(value: Estimate | None) -> str:
    """'75 % [60, 84]' of a share, '–' for one without a value."""
    if value is None:
        return NOT_MEASURED
    if value.value is None:
        return "–"
    points = Estimate(
        value=100 * value.value,
        low=None if value.low is None else 100 * value.low,
        high=None if value.high is None else 100 * value.high,
        n=value.n,
        unit="%",
    )
    number, space, interval = with_interval(points, 0).partition(" ")
    return f"{number}\u00a0%{space}{interval}"


def value_range(values: Sequence[float], digits: int) -> str:
    """'0.1 to 0.3', or one number where all values look alike."""
    low = signed(min(values), digits, plus=False)
    high = signed(max(values), digits, plus=False)
    return low if low == high else f"{low} to {high}"


def listed(words: Sequence[str]) -> str:
    """'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def number_of_parameters(n: int) -> str:
    """'1.3 million parameters'; below 100,000 the number itself."""
    return f"{n / 1e6:,.1f} million parameters" if n >= 100_000 else f"{n:,} parameters"
