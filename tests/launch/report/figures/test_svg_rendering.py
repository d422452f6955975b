"""All figures: contrast in both themes, numbers beside them, all heads kept."""

import re
from dataclasses import replace

import numpy as np
import pytest
from fake_sweep import items_of, run
from matplotlib.figure import Figure

from launch.report.analysis import comparisons
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures import probe_heads, toxicity_by_cost
from launch.report.figures.svg_rendering import FigureNumbers, ratio_colours, strength_colours

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


@pytest.mark.parametrize("n", [1, 2, 6, 12])
def test_a_ramp_is_read_by_lightness_alone(n):
    for colours in (ratio_colours(n)[1:], strength_colours([0.0, *range(1, n)])[1:]):
        for theme, sign in (("light", -1), ("dark", 1)):
            ramp = [luminance(getattr(colour, theme)) for colour in colours]
            assert all(sign * step > 0 for step in np.diff(ramp))
    assert len({colour.light for colour in ratio_colours(n)}) == len(ratio_colours(n)) == n


def test_numbers_become_a_csv_file_with_empty_cells_where_missing():
    numbers = FigureNumbers(("a", "b"), [(1, None), ("x, y", 2.5)], "")
    assert numbers.csv() == 'a,b\n1,\n"x, y",2.5\n'


def test_heads_are_pooled_over_seeds_and_not_averaged_over_places():
    accuracies = ((0.9, 0.5),), ((0.5, 0.9),)
    reports = [
        replace(run(0.1, seed)[1], head_accuracy=heads) for seed, heads in enumerate(accuracies)
    ]
    # both models have a head of 0.9
    assert probe_heads.sorted_accuracies(reports, 0.1).tolist() == [[0.5, 0.9]] * 2
    assert probe_heads.mean_accuracy(reports, 0.1) == [[0.7, 0.7]]


def test_paths_are_zoomed_where_the_compared_cost_is_near_the_least():
    reports = [run(ratio)[1] for ratio in (0.0, 0.1)]
    compared = comparisons.compare(reports, [items_of(0.0, 0), items_of(0.1, 0)])
    assert compared is not None
    (matched,) = compared.matched
    cost = matched.cross_entropy or 0.0

    def at_cost(level: float) -> SweepCurves:
        moved = replace(compared, matched=(replace(matched, cross_entropy=level),))
        return SweepCurves(reports, moved)

    near = at_cost(2.9 + (cost - 2.9) / 9)
    assert near.is_zoomed
    assert not any(
        curves.is_zoomed for curves in (at_cost(cost), at_cost(2.5), SweepCurves(reports, None))
    )
    figure = Figure(layout="constrained")
    toxicity_by_cost.toxicity_by_cost(figure, True, near)
    whole, part = (np.diff(axes.get_xlim())[0] for axes in figure.axes)
    assert 0 < part < whole / 2
