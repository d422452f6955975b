"""Colours: order by lightness alone, contrast on the page, for every kind of colour vision."""

import re

import numpy as np
import pytest

from launch.report.figures.palette import NEUTRAL, ratio_colours, strength_colours

TEXT_CONTRAST, MARK_CONTRAST = 4.5, 3.0  # WCAG AA
TEXT_COLOURS = ("ink", "soft", "link")


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["index.html", "data.html"])
def test_text_and_lines_have_wcag_contrast_in_both_themes(report_page, name):
    blocks = re.findall(r":root \{(.*?)\}", (report_page.parent / name).read_text(), re.DOTALL)
    themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    assert len(themes) == 2 and set(themes[0]) == set(themes[1])
    assert set(themes[0]) > {*TEXT_COLOURS, "paper", "raised"}
    for theme in themes:
        labels = [colour for colour in theme if colour.startswith("strength")]
        for text in (*TEXT_COLOURS, *labels):
            assert contrast(theme[text], theme["paper"]) >= TEXT_CONTRAST, (text, theme[text])
        for text in TEXT_COLOURS:
            assert contrast(theme[text], theme["raised"]) >= TEXT_CONTRAST, text
        for mark in theme:
            if mark.startswith(("ratio", "clean", "toxic")):
                assert contrast(theme[mark], theme["paper"]) >= MARK_CONTRAST, (mark, theme[mark])


# Machado, Oliveira, Fernandes 2009, severity 1: linear RGB as people without one cone type see it
COLOUR_VISION = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
LEAST_STEP = 3.0  # of CIE lightness, 0 to 100, between neighbours of ten; 1 can just be seen


def lightness(colour: str, vision: str = "full") -> float:
    """CIE 1976 L* of a colour as seen with this colour vision; grey print shows it alone."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    y = np.array([0.2126, 0.7152, 0.0722]) @ np.clip(COLOUR_VISION[vision] @ linear, 0, 1)
    return 116 * float(np.cbrt(y)) - 16 if y > 216 / 24389 else y * 24389 / 27


@pytest.mark.parametrize("vision", COLOUR_VISION)
@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_ratios_are_told_apart_by_lightness_alone(n, vision):
    colours = ratio_colours(n)
    assert len(set(colours)) == len(colours) == n
    for theme, away_from_page in (("light", -1), ("dark", 1)):
        steps = np.diff([lightness(getattr(colour, theme), vision) for colour in colours])
        assert (away_from_page * steps).min() >= LEAST_STEP, (theme, steps)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_strengths_are_told_apart_by_lightness_alone(n):
    colours = strength_colours([0.0, *range(1, n)])
    for theme, away_from_page in (("light", -1), ("dark", 1)):
        steps = np.diff([lightness(getattr(colour, theme)) for colour in colours])
        assert (away_from_page * steps).min() >= LEAST_STEP, (theme, steps)


@pytest.mark.parametrize("n", [1, 2, 6, 10])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_mark_stands_out_from_the_page_and_its_context(n, theme):
    page, context = (getattr(NEUTRAL[name], theme) for name in ("paper", "faint"))
    for colour in ratio_colours(n):
        assert contrast(getattr(colour, theme), page) >= MARK_CONTRAST
        # grey lines behind are paler than any line in front
        assert contrast(context, page) < contrast(getattr(colour, theme), page) / 1.25
    for colour in strength_colours(range(n)):
        assert contrast(getattr(colour, theme), page) >= TEXT_CONTRAST
