"""What all figures share: colours that everyone can tell from the page, numbers beside pictures, honest bands."""

import re
from dataclasses import replace

import numpy as np
import pytest
from fake_sweep import items_of, run
from matplotlib.figure import Figure

from launch.report.analysis import comparisons
from launch.report.figures import probe_heads, toxicity_curves
from launch.report.figures.svg_rendering import Numbers, ratio_colours, strength_colours

ARE = {"light": "#ffffff", "dark": "#14171a"}


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_have_the_contrast_of_wcag_aa_in_both_themes(whole):
    for name in ("index.html", "data.html"):
        blocks = re.findall(r":root \{(.*?)\}", (whole.parent / name).read_text(), re.DOTALL)
        themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
        assert len(themes) == 2 and set(themes[0]) == set(themes[1]) > {
            "ink",
            "soft",
            "link",
            "paper",
            "raised",
        }
        for theme in themes:
            for text in (
                "ink",
                "soft",
                "link",
                *(colour for colour in theme if colour.startswith("strength")),
            ):
                assert contrast(theme[text], theme["paper"]) >= 4.5, (text, theme[text])
            for text in ("ink", "soft", "link"):
                assert contrast(theme[text], theme["raised"]) >= 4.5, text
            for mark in (
                colour for colour in theme if colour.startswith(("ratio", "clean", "toxic"))
            ):
                assert contrast(theme[mark], theme["paper"]) >= 3, (mark, theme[mark])


@pytest.mark.parametrize("n", [1, 2, 6, 12])
def test_a_ramp_is_read_by_lightness_alone(n):
    for colours in (ratio_colours(n)[1:], strength_colours([0.0, *range(1, n)])[1:]):
        for theme, sign in (("light", -1), ("dark", 1)):
            ramp = [luminance(getattr(colour, theme)) for colour in colours]
            assert all(sign * step > 0 for step in np.diff(ramp))
    assert len({colour.light for colour in ratio_colours(n)}) == len(ratio_colours(n)) == n


def test_numbers_become_a_csv_file_with_empty_cells_for_what_is_missing():
    assert Numbers(("a", "b"), [(1, None), ("x, y", 2.5)], "").csv() == 'a,b\n1,\n"x, y",2.5\n'


def test_a_figure_of_heads_pools_the_seeds_and_does_not_average_over_places():
    one, other = (
        replace(run(0.1, seed)[1], head_accuracy=heads)
        for seed, heads in enumerate((((0.9, 0.5),), ((0.5, 0.9),)))
    )
    assert (
        probe_heads.in_order([one, other], 0.1).tolist() == [[0.5, 0.9]] * 2
    )  # both models have a head of 0.9
    assert probe_heads.mean_accuracy([one, other], 0.1) == [[0.7, 0.7]]


def test_the_paths_are_seen_larger_where_the_cost_compared_is_near_the_least():
    both = [run(ratio)[1] for ratio in (0.0, 0.1)]
    compared = comparisons.compare(both, [items_of(0.0, 0), items_of(0.1, 0)])
    level = compared.matched[0].cross_entropy
    cheap = replace(
        compared, matched=(replace(compared.matched[0], cross_entropy=2.9 + (level - 2.9) / 9),)
    )
    outside = replace(compared, matched=(replace(compared.matched[0], cross_entropy=2.5),))
    assert [toxicity_curves.Curves(both, of).zoomed for of in (compared, cheap, outside, None)] == [
        False,
        True,
        False,
        False,
    ]
    drawn = Figure(layout="constrained")
    toxicity_curves.toxicity_by_cost(drawn, True, toxicity_curves.Curves(both, cheap))
    whole, part = (np.diff(axes.get_xlim())[0] for axes in drawn.axes)
    assert 0 < part < whole / 2
