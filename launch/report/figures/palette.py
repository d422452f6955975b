"""colours of the figures: ramps over ratios and strengths that are read by lightness alone

A ramp goes away from the page: darker in the light theme, lighter in the dark one. So its order
survives grey print and any kind of colour vision. Each ratio has the contrast of a graphical object
(WCAG AA, 3), each strength that of text (4.5), because line labels have the colour of their line.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

INK, SOFT, FAINT, GRID, PAPER = "#1b2026", "#5a646e", "#c4cad1", "#e2e5e9", "#ffffff"


class Colour(NamedTuple):
    light: str
    dark: str


NEUTRAL = {
    "ink": Colour(INK, "#e9ecef"),
    "soft": Colour(SOFT, "#a3adb7"),
    "faint": Colour(FAINT, "#49515a"),
    "grid": Colour(GRID, "#2c3238"),
    "paper": Colour(PAPER, "#14171a"),
}


def ratio_colours(n: int) -> list[Colour]:
    """A perceptual ramp over `n` ratios, ascending."""
    return _ramp("viridis", n, light=(0.59, 0.0), dark=(0.35, 1.0))


def strength_colours(strengths: Sequence[float]) -> list[Colour]:
    """Grey for unsteered, nearest to the page, then another perceptual ramp."""
    steered = iter(
        _ramp("plasma", sum(map(bool, strengths)), light=(0.40, 0.02), dark=(0.66, 0.98))
    )
    return [
        Colour("#6b757f", "#7f8993") if strength == 0 else next(steered) for strength in strengths
    ]


def colour_by_ratio(ratios: Iterable[float]) -> dict[float, str]:
    """Each ratio's colour in the light theme, ascending."""
    steps = sorted(set(ratios))
    return {
        ratio: colour.light for ratio, colour in zip(steps, ratio_colours(len(steps)), strict=True)
    }


def _ramp(
    name: str, n: int, *, light: tuple[float, float], dark: tuple[float, float]
) -> list[Colour]:
    """`n` colours of a matplotlib map, between two of its places in each theme."""
    colour_map = matplotlib.colormaps[name]
    shares = np.linspace(0, 1, n) if n > 1 else [1.0]
    return [
        Colour(*(to_hex(colour_map(a + (b - a) * float(share))) for a, b in (light, dark)))
        for share in shares
    ]
