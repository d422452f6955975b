"""All figures: numbers beside them, all heads kept, paths zoomed."""

from dataclasses import replace

from fake_sweep import items_of, run, value_of, with_probes
from matplotlib.figure import Figure

from launch.report.analysis import comparisons
from launch.report.analysis.per_ratio_series import cross_entropy_at
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures import head_distributions, probe_heads, toxicity_by_cost
from launch.report.figures.svg_rendering import FigureNumbers


def test_numbers_become_a_csv_file_with_empty_cells_where_missing():
    numbers = FigureNumbers(("a", "b"), [(1, None), ("x, y", 2.5)], "")
    assert numbers.csv() == 'a,b\n1,\n"x, y",2.5\n'


def test_heads_are_pooled_over_seeds_and_not_averaged_over_places():
    accuracies = ((0.9, 0.5),), ((0.5, 0.9),)
    reports = [
        with_probes(run(0.1, seed)[1], head_accuracy=heads) for seed, heads in enumerate(accuracies)
    ]
    # both models have a head of 0.9
    assert head_distributions.sorted_accuracies(reports, 0.1).tolist() == [[0.5, 0.9]] * 2
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
    strongest = cross_entropy_at(12.0)(reports[0])
    assert figure.axes[0].get_xlim()[1] < value_of(strongest)
    # what leaves the axes is named
    (note,) = figure.axes[0].texts
    assert f"α 12 at {value_of(strongest):.2f} →" in note.get_text()
