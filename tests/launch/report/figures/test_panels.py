"""Small multiples, labels of lines, and the notes below figures, at two to ten ratios."""

import itertools
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from fake_sweep import RATIOS, items_of, run, run_record, value_of, write_metrics
from matplotlib.figure import Figure

from launch.report.analysis import comparisons
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures import (
    head_distributions,
    paper_figures,
    probe_heads,
    side_effects,
    toxicity_by_cost,
    toxicity_by_ratio,
    training_curves,
)
from launch.report.figures.palette import FAINT, colour_by_ratio
from launch.report.figures.panels import n_columns
from launch.report.figures.svg_rendering import (
    STYLE,
    LineLabel,
    fix_layout,
    label_lines,
    spread,
)
from launch.report.text.number_format import percent

TEN = tuple(i / 25 for i in range(10))


@pytest.fixture(autouse=True)
def style():
    """As figures are drawn: titles on the left, letters of their size."""
    with matplotlib.rc_context(STYLE):
        yield


def reports_of(ratios):
    return [run(ratio)[1] for ratio in ratios]


@pytest.mark.parametrize("ratios", [RATIOS[:2], RATIOS, TEN])
def test_a_path_has_a_panel_of_its_own_before_all_others_in_grey(ratios):
    figure = Figure(layout="constrained")
    toxicity_by_cost.toxicity_by_cost(figure, True, SweepCurves(reports_of(ratios), None))
    panels = [axes for axes in figure.get_axes() if axes.axison]
    assert [axes.get_title("left") for axes in panels] == [percent(ratio) for ratio in ratios]
    for axes, colour in zip(panels, colour_by_ratio(ratios).values(), strict=True):
        lines = [line for line in axes.get_lines() if len(np.asarray(line.get_xydata())) > 1]
        in_front = [line for line in lines if line.get_color() == colour]
        behind = [line for line in lines if line.get_color() == FAINT]
        assert len(in_front) == 1 and len(behind) == len(ratios) - 1
        assert in_front[0].zorder > max(line.zorder for line in behind)
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in panels}
    assert len(limits) == 1, "panels are compared by eye"


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 2), (6, 6), (7, 4), (8, 4), (10, 5)])
def test_rows_of_panels_are_about_equally_long(n, expected):
    assert n_columns(n, 6) == expected


@pytest.mark.parametrize("n", [2, 6, 10])
def test_labels_of_lines_do_not_overlap_and_stay_beside_the_axes(n):
    figure = Figure(figsize=(3.7, 2.4), layout="constrained")
    axes = figure.add_subplot()
    heights = [20 + 0.1 * i for i in range(n)]  # nearly one point
    for height in heights:
        axes.plot([0, 1], [10, height])
    label_lines(axes, [LineLabel(h, f"strength {h:g}", "#000000") for h in heights[::-1]])
    fix_layout(figure)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes), "clipped at the right edge"
    centres = [(box.y0 + box.y1) / 2 for box in boxes]
    assert centres == sorted(centres, reverse=True), "in the order of their lines"
    area = axes.get_window_extent()
    assert area.y0 - 1 <= min(centres) and max(centres) <= area.y1 + 1


def test_labels_move_no_more_than_they_must():
    assert spread([], 1, 0, 9) == []
    assert spread([1, 5, 9], 2, 0, 10) == [1, 5, 9]
    assert spread([4.5, 5.5], 2, 0, 10) == pytest.approx([4, 6])
    assert spread([9.5, 9.9], 2, 0, 10) == pytest.approx([8, 10])
    assert spread([0, 0, 0], 2, 0, 3) == [0, 2, 4]  # too many: from the lower end


@pytest.mark.parametrize("n", [6, 10])
def test_strengths_are_labelled_apart_in_the_main_figure(n):
    strengths = [0.0, *(1.0 + i / 10 for i in range(n - 1))]
    reports = [run(ratio, strengths=strengths)[1] for ratio in RATIOS]
    figure = Figure(figsize=(3.7, 3.7), layout="constrained")
    toxicity_by_ratio.toxicity_by_ratio(figure, False, SweepCurves(reports, None))
    fix_layout(figure)
    (axes,) = figure.get_axes()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == n
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Every plan of a figure of a sweep, by name."""
    reports = reports_of(RATIOS)
    compared = comparisons.compare(reports, [items_of(ratio, 0) for ratio in RATIOS])
    curves = SweepCurves(reports, compared)
    root = tmp_path_factory.mktemp("sweep")
    records = [run_record(ratio, 0) for ratio in RATIOS]
    for record in records:
        write_metrics(root, record)
    every = [
        *toxicity_by_ratio.figures(curves),
        *toxicity_by_cost.figures(curves),
        *paper_figures.figures([reports, reports]),
        *side_effects.figures(reports, compared),
        *probe_heads.figures(reports),
        *head_distributions.figures(reports, compared),
        *training_curves.figures(
            [training_curves.read_training_curve(str(root), record) for record in records]
        ),
    ]
    return {plan.name: plan for plan in every}


def test_every_figure_names_its_n_and_its_unit(plans):
    assert len(plans) == 11
    for name, plan in plans.items():
        assert plan.basis.startswith("n ") and any(c.isdigit() for c in plan.basis), name
        assert "unit: " in plan.basis, name
        assert "1 model per share" in plan.basis, name


def test_figures_of_toxicity_name_the_scorer_and_those_of_cost_its_text(plans):
    for name in ("toxicity-by-ratio", "toxicity-by-cost", "toxicity-by-prompt-set", "guards"):
        assert "profanity-made-up" in plans[name].basis, name
    for name in ("toxicity-by-ratio", "toxicity-by-cost"):
        assert "Cost: cross-entropy on clean held-out text, nats per token" in plans[name].basis
    for name in ("probe-accuracy", "head-maps", "head-spread", "head-distribution"):
        assert "majority class 0.520" in plans[name].basis


def test_every_prompt_set_and_scorer_has_a_panel():
    rtp = reports_of(RATIOS)
    toxigen = [replace(r, prompt_set="toxigen", scorer=1, scorer_id="second") for r in rtp]
    figure = Figure(layout="constrained")
    paper_figures.toxicity_by_prompt_set(figure, True, [rtp, toxigen])
    titles = [axes.get_title("left") for axes in figure.get_axes()]
    assert titles == ["prompts: held_out; scorer 1", "prompts: toxigen; scorer 2"]
    *_, plan = paper_figures.figures([rtp, toxigen])
    assert "scorers: 1 profanity-made-up, 2 second" in plan.basis
    assert "200 of held_out, 200 of toxigen" in plan.basis
    values = {(row[0], row[2], row[4]) for row in plan.numbers.rows}
    assert ("toxigen", 8.0, value_of(toxigen[0].steered[2].toxicity)) in values


def test_a_benchmark_shows_what_needs_no_model():
    reports = reports_of(RATIOS)
    facts = reports[0].benchmarks["arc"]
    detection = replace(facts, form="detection", majority=0.6)
    for benchmarks, level, label in (
        ({"arc": facts}, 0.25, "chance"),
        ({"arc": detection}, 0.5, "chance"),  # both classes count alike in "arc norm"
        ({}, None, None),
    ):
        plan = paper_figures.figures([[replace(r, benchmarks=benchmarks) for r in reports]])[0]
        figure = Figure(layout="constrained")
        plan.draw(figure, True)
        (axes,) = figure.get_axes()
        levels = [
            line
            for line in axes.get_lines()
            if set(np.asarray(line.get_ydata()).tolist()) == {level}
        ]
        assert len(levels) == (level is not None)
        assert [text.get_text() for text in axes.texts] == ([label] if label else [])
        assert {row[-1] for row in plan.numbers.rows} == {level}


@pytest.mark.parametrize("is_compared", [False, True])
@pytest.mark.parametrize("ratios", [RATIOS, TEN, (0.0, 0.01, 0.02, 0.03, 0.5)])
def test_names_of_ratios_do_not_touch_on_a_narrow_page(ratios, is_compared):
    reports = reports_of(ratios)
    items = [items_of(ratio, 0) for ratio in ratios]
    compared = comparisons.compare(reports, items) if is_compared else None
    figure = Figure(figsize=(3.7, 5.6), layout="constrained")
    toxicity_by_ratio.toxicity_by_ratio(figure, False, SweepCurves(reports, compared))
    fix_layout(figure)
    assert len(figure.get_axes()) == 1 + is_compared
    axes = figure.get_axes()[-1]
    labels = axes.get_xticklabels()
    shown = [i for i, text in enumerate(labels) if text.get_text()]
    boxes = [labels[i].get_window_extent() for i in shown]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert labels[0].get_text() == percent(ratios[0]) and len(labels) == len(ratios)
    assert len(shown) >= 2 and len({b - a for a, b in itertools.pairwise(shown)}) == 1
