"""the report on one page: main picture, main table, five sentences and what they leave out

summary.html fills one sheet of A4 when a browser prints it, which is how a PDF of it is made;
summary.md is the same as Markdown.
"""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.core import storage
from eval.stats import intervals
from launch.experiment import Experiment
from launch.report import html_rendering, results_files
from launch.report.analysis import per_ratio_series
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    cross_entropy_at,
    toxicity_at,
)
from launch.report.figures import axes
from launch.report.figures.svg_rendering import Drawing
from launch.report.results_files import Run
from launch.report.text import display_names, findings
from launch.report.text.number_format import NOT_MEASURED, percent, with_interval, signed

N_SENTENCES = 5
PICTURE = "toxicity-by-ratio"


class Summary(NamedTuple):
    title: str
    setting: str
    sentences: list[str]
    caveats: list[str]
    columns: list[str]
    rows: list[list[str]]


def write(
    folder: str,
    experiment: Experiment,
    runs: Sequence[Run],
    drawn: Sequence[Drawing],
    compared: Comparisons | None,
) -> None:
    """Write summary.md and summary.html into the report's `folder`."""
    one = summary(experiment, runs, compared)
    picture = next(drawing for drawing in drawn if drawing.name == PICTURE)
    palette = axes.colours([report for _, report in runs])
    page = html_rendering.template("summary.html.j2").render(
        summary=one, drawings={PICTURE: picture}, picture=PICTURE, colours=palette
    )
    storage.write(storage.join(folder, "summary.html"), page.encode())
    storage.write(storage.join(folder, "summary.md"), markdown(one, picture.numbers.alt).encode())


def summary(experiment: Experiment, runs: Sequence[Run], compared: Comparisons | None) -> Summary:
    record, report = runs[0]
    reports = [report for _, report in runs]
    n_prompts = max((one.toxicity.n for one in report.steered), default=0)
    *sentences, seeds = results_files.said(runs, compared)
    columns, rows = _table(runs, compared)
    return Summary(
        title=f"How much toxic text should stay in a pretraining corpus? ({experiment.name})",
        setting=(
            f"{len(runs)} language model{'' if len(runs) == 1 else 's'} of {record.n_parameters / 1e6:,.1f} million parameters, "
            f"{record.n_tokens:,} training tokens and more; {n_prompts:,} prompts a model; toxicity × 100 by "
            f"{display_names.scorer(report.config.scoring.scorer)}; {percent(intervals.CONFIDENCE)} intervals."
        ),
        sentences=sentences[:N_SENTENCES],
        caveats=[
            seeds,
            "A score is the scorer's: another one, or people, may rank the texts otherwise.",
            "A model too small to learn toxic language can come out least toxic for that reason alone.",
            *filter(None, [findings.coverage(reports)]),
        ],
        columns=columns,
        rows=rows,
    )


def markdown(one: Summary, alt: str) -> str:
    table = [one.columns, ["---", *["---:"] * (len(one.columns) - 1)], *one.rows]
    lines = [f"# {one.title}", "", one.setting, "", f"**{one.sentences[0]}** {one.caveats[0]}", ""]
    lines += [
        *(f"- {sentence}" for sentence in one.sentences[1:]),
        "",
        f"![{alt}](figures/{PICTURE}.png)",
        "",
    ]
    lines += [
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        *(f"- {caveat}" for caveat in one.caveats[1:]),
        "",
    ]
    return "\n".join(
        [
            *lines,
            "All figures and tables: [index.html](index.html); numbers: [results.json](results.json).",
            "",
        ]
    )


def _table(runs: Sequence[Run], compared: Comparisons | None) -> tuple[list[str], list[list[str]]]:
    """One row a ratio: toxicity without and with the strongest steering, its cost, and the
    difference at equal cost.
    """
    reports = [report for _, report in runs]
    strongest = per_ratio_series.measured_strengths(reports)[-1]
    matched = {one.ratio: one.difference for one in compared.matched} if compared else {}
    first = percent(axes.ratios(reports)[0])
    columns = [
        "toxic text",
        "unsteered",
        axes.name(strongest),
        "its cost, nats/token",
        f"at equal cost, minus {first}",
        "probes, mean",
    ]
    lines = [
        by_ratio(reports, read)
        for read in (
            toxicity_at(0.0),
            toxicity_at(strongest),
            cross_entropy_at(0.0),
            cross_entropy_at(strongest),
        )
    ]
    probes = by_ratio(reports, lambda report: report.probe_accuracy)
    rows = []
    for base, steered, cheap, dear, probe in zip(*lines, probes, strict=True):
        difference = (
            "–" if percent(base.ratio) == first else with_interval(matched.get(base.ratio), sign=True)
        )
        rows.append(
            [
                percent(base.ratio),
                with_interval(base),
                with_interval(steered),
                _rise(cheap, dear),
                difference,
                with_interval(probe, 3),
            ]
        )
    return columns, rows


def _rise(cheap: RatioPoint, dear: RatioPoint) -> str:
    return (
        NOT_MEASURED
        if cheap.value is None or dear.value is None
        else signed(dear.value - cheap.value, 2)
    )
