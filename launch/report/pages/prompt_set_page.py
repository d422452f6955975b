"""page of one prompt set, prompts-NAME.html: its answer, main table and toxicity figures

The index page shows the first prompt set in full. What does not depend on the prompts (probes,
training, data) is there alone.
"""

from collections.abc import Sequence
from typing import Any

from data_prep.cards.data_card import DataCard
from data_prep.core import storage
from data_prep.core.records import to_dict
from eval.eval_report import eval_uri
from eval.stats import intervals
from launch.experiment import Experiment
from launch.report import html_rendering, tables
from launch.report.analysis import comparisons, sweep_items
from launch.report.analysis.per_ratio_series import cost_text
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures import axes, toxicity_by_cost, toxicity_by_ratio
from launch.report.figures.svg_rendering import render
from launch.report.results_files import FinishedRun
from launch.report.text import display_names
from launch.report.text.findings import findings
from training.run_record import run_uri


def write(
    root: str, experiment: Experiment, runs: Sequence[FinishedRun], cards: dict[str, DataCard]
) -> dict[str, Any]:
    """Write the page and its figures for these views of one prompt set, and return its numbers for
    results.json. The plain arm is compared; all arms are in the table of conditions.
    """
    plain = [run for run in runs if run.record.config.arm == "plain"]
    plain.sort(key=lambda run: (run.report.toxic_ratio, run.report.seed))
    items = [
        sweep_items.read(eval_uri(run_uri(root, run.report.run_id), run.report.config), run.report)
        for run in plain
    ]
    finished = [
        FinishedRun(run.record, sweep_items.with_early_ends(run.report, table))
        for run, table in zip(plain, items, strict=True)
    ]
    reports = [run.report for run in finished]
    compared = comparisons.compare(reports, items)
    curves = SweepCurves(reports, compared)
    plans = [*toxicity_by_ratio.figures(curves), *toxicity_by_cost.figures(curves)]
    name = reports[0].prompt_set
    drawings = [
        render(plan._replace(name=f"{plan.name}-{name}"), axes.palette(reports)) for plan in plans
    ]
    folder = storage.join(root, "report")
    html_rendering.save_figures(folder, drawings)
    found = findings(reports, compared)
    html = html_rendering.template("prompt_set.html.j2").render(
        experiment=experiment,
        prompt_set=name,
        findings=found,
        confidence=intervals.CONFIDENCE,
        scorer=display_names.scorer(experiment.eval.scoring.scorer),
        n_prompts=max(row.toxicity.n for row in reports[0].steered),
        cost_text=cost_text(reports),
        colours=axes.palette(reports),
        drawings={drawing.name: drawing for drawing in drawings},
        main_table=tables.main_table(reports, compared, tables.doses(finished, cards)),
    )
    storage.write(storage.join(folder, f"prompts-{name}.html"), html.encode())
    return {
        "findings": found.sentences,
        "comparisons": to_dict(compared) if compared else None,
        "runs": [
            {"run_id": report.run_id, "steered": to_dict(report.steered)} for report in reports
        ],
    }
