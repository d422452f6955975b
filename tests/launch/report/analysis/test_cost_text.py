"""The text of the cost: every comparison and caption follows the setting."""

import re
from dataclasses import replace

import pytest
from fake_sweep import EVAL, RATIOS, STRENGTHS, experiment, items_of, run, value_of, write_report

from launch.report.analysis import comparisons, per_ratio_series, sweep_items
from launch.report.figures import axes


def on_text(name: str, ratio: float, seed: int = 0):
    record, report = run(ratio, seed)
    capability = replace(EVAL.capability, held_out=("web=w.txt",), cost_text=name)
    rows = [
        replace(row, cross_entropy=row.cross_entropy | {"web": row.cross_entropy["toxic"]})
        for row in report.steered
    ]
    config = replace(EVAL, capability=capability)
    return record, replace(report, config=config, steered=tuple(rows))


def on_three_texts(ratio: float, seed: int = 0):
    """Items whose cost on the web text is one nat above that on the clean text."""
    items = items_of(ratio, seed)
    for strength in STRENGTHS:
        clean = items["cross_entropy/clean", strength]
        items["cross_entropy/web", strength] = {name: x + 1 for name, x in clean.items()}
    return items


def test_series_and_rises_are_of_the_text_of_the_cost():
    for name in ("clean", "toxic", "web"):
        reports = [on_text(name, ratio)[1] for ratio in (0.0, 0.1)]
        for point, report in zip(
            per_ratio_series.cross_entropy_series(reports, None, 8.0), reports, strict=True
        ):
            assert point.value == value_of(report.steered[2].cross_entropy[name])
    rise = per_ratio_series.cross_entropy_rises([on_text("web", 0.0)[1]], 12.0)
    assert rise == pytest.approx([0.003 * 144])


def test_comparisons_at_equal_cost_are_on_the_text_of_the_cost():
    ratios = (0.0, 0.1)
    tables = [on_three_texts(ratio) for ratio in ratios]
    levels = {}
    for name in ("clean", "web"):
        compared = comparisons.compare([on_text(name, ratio)[1] for ratio in ratios], tables)
        assert compared is not None
        levels[name] = compared.matched[0].cross_entropy or 0.0
    assert levels["web"] == pytest.approx(levels["clean"] + 1)
    # a text that was not measured leaves nothing to compare
    assert sweep_items.shared([on_text("toxic", ratio)[1] for ratio in ratios], tables) is None


def test_the_text_of_the_cost_is_named_wherever_a_cost_is_shown(tmp_path):
    runs = [on_text("web", ratio) for ratio in RATIOS[:2]]
    sweep = replace(experiment(RATIOS[:2]), eval=runs[0][1].config)
    page = write_report(tmp_path, runs, sweep)
    summary = (page.parent / "summary.html").read_text()
    figure = (page.parent / "figures" / "toxicity-by-cost.svg").read_text()
    text = page.read_text()
    named = "cross-entropy on web"
    assert text.count(f"Cost is {named}") == 1 and f"Cost: {named}, nats per token" in text
    assert f'<td class="wraps">{named}</td>' in text
    assert f"cost is {named}" in summary and f"{named}, nats per token" in figure
    assert not re.search("cross-entropy on clean", text + summary + figure)


def test_held_out_text_of_a_stream_is_called_so():
    reports = [run(0.0)[1]]
    assert axes.cost_label(reports) == "cross-entropy on clean held-out text, nats per token"
