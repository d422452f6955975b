"""summary of the report on one page: the answer, the main figure and the main table

summary.html fills one sheet of A4 when a browser prints it, which is how a PDF of it is made;
summary.md has the same content as Markdown.
"""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.core import storage
from eval.stats import intervals
from launch.experiment import Experiment
from launch.report import html_rendering
from launch.report.analysis import per_ratio_series
from launch.report.figures import axes
from launch.report.figures.svg_rendering import Drawing
from launch.report.results_files import FinishedRun
from launch.report.tables import MainTable
from launch.report.text import display_names
from launch.report.text.findings import Findings
from launch.report.text.number_format import number_of_parameters, percent

FIGURE = "toxicity-by-ratio"
CAVEATS = (
    "A score is the scorer's: another scorer, or people, may rank the texts differently.",
    "A model too small to learn toxic language can come out least toxic for that reason alone.",
)


class Summary(NamedTuple):
    title: str
    setup: str
    findings: Findings
    table: MainTable
    caveats: Sequence[str]


def write(folder: str, summary: Summary, runs: Sequence[FinishedRun], drawing: Drawing) -> None:
    """Write summary.md and summary.html into the report's `folder`."""
    colours = axes.palette([run.report for run in runs])
    html = html_rendering.template("summary.html.j2").render(
        summary=summary, drawings={FIGURE: drawing}, figure_name=FIGURE, colours=colours
    )
    storage.write(storage.join(folder, "summary.html"), html.encode())
    text = markdown(summary, drawing.numbers.alt)
    storage.write(storage.join(folder, "summary.md"), text.encode())


def summarize(
    experiment: Experiment, runs: Sequence[FinishedRun], findings: Findings, table: MainTable
) -> Summary:
    """The content of the summary, for both formats."""
    record, report = runs[0]
    n_prompts = max((row.toxicity.n for row in report.steered), default=0)
    setup = (
        f"{len(runs)} language model{'' if len(runs) == 1 else 's'} of "
        f"{number_of_parameters(record.n_parameters)}, {record.n_tokens:,} training tokens "
        f"or more; {n_prompts:,} prompts per model; toxicity × 100 by "
        f"{display_names.scorer(report.config.scoring.scorer)}; cost is cross-entropy on "
        f"{display_names.cost_text(per_ratio_series.cost_text([report]))}; "
        f"{percent(intervals.CONFIDENCE)} intervals."
    )
    title = f"How much toxic text should stay in a pretraining corpus? ({experiment.name})"
    return Summary(title, setup, findings, table, CAVEATS)


def markdown(summary: Summary, alt: str) -> str:
    """The summary as Markdown; alt: text alternative of the figure."""
    columns, rows = summary.table
    table = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    lines = [
        f"# {summary.title}",
        "",
        f"**{summary.findings.answer}** {summary.findings.caveat}",
        "",
        summary.setup,
        "",
        *(f"- {sentence}" for sentence in summary.findings.details),
        "",
        f"![{alt}](figures/{FIGURE}.png)",
        "",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        *(f"- {caveat}" for caveat in summary.caveats),
        "",
        "All figures and tables: [index.html](index.html); numbers: [results.json](results.json).",
        "",
    ]
    return "\n".join(lines)
