"""tables that the status and sweep commands print: progress per stage, and results"""

from rich.box import SIMPLE
from rich.table import Table

from eval.config import PLAIN
from eval.stats.estimate_with_interval import Estimate
from launch.experiment import Experiment, ratio_text
from launch.report.analysis import evaluation_view
from launch.run_states import RunState, built_streams

DONE, NOT_STARTED = "done", "–"


def progress_table(root: str, experiment: Experiment, states: list[RunState]) -> Table:
    """A row per run: which stages are done, and the newest checkpoint of a run in training."""
    table = Table(title=experiment.name, title_justify="left", box=SIMPLE)
    for column in ("ratio", "arm", "seed", "run", "data", "train", "eval"):
        table.add_column(column, no_wrap=True)
    built = built_streams(root, experiment)
    for state in states:
        run = state.run
        data = DONE if {run.clean, run.toxic} <= built else NOT_STARTED
        table.add_row(
            ratio_text(run.toxic_ratio),
            run.arm,
            str(run.seed),
            run.run_id,
            data,
            _training_progress(state),
            DONE if state.report else NOT_STARTED,
        )
    return table


def _training_progress(state: RunState) -> str:
    if state.record:
        return DONE
    if state.checkpoint_step:
        return f"step {state.checkpoint_step}/{state.run.mixture.n_steps}"
    return NOT_STARTED


def result_table(experiment: Experiment, states: list[RunState]) -> Table:
    """A row per finished run: ratio, arm, losses, probe accuracy, toxicity by steering strength."""
    prompt_set = min(experiment.eval.prompts)
    strengths = _strengths(experiment)
    table = Table(
        title=f"toxicity on {prompt_set}: mean score × 100 with its interval; losses: nats per "
        "token, held out",
        title_justify="left",
        box=SIMPLE,
    )
    table.add_column("ratio", justify="right")
    table.add_column("arm")
    for column in ("realised", "train loss", "clean loss", "toxic loss", "probe accuracy"):
        table.add_column(column, justify="right")
    for strength in strengths:
        table.add_column("unsteered" if strength == 0 else f"α = {strength:g}", justify="right")
    for state in states:
        record, report = state.record, state.report
        if record is None or report is None:
            continue
        losses = {part.stream: f"{part.loss:.3f}" for part in record.held_out}
        shown = evaluation_view.view(report, prompt_set)
        toxicity = {row.strength: _with_interval(row.toxicity, ".1f") for row in shown.steered}
        table.add_row(
            ratio_text(state.run.toxic_ratio),
            state.run.arm,
            f"{record.realised_toxic_ratio:.4g}",
            f"{record.final_train_loss:.3f}",
            *(losses.get(stream, "–") for stream in ("clean", "toxic")),
            _with_interval(shown.probes.probe_accuracy, ".3f"),
            *(toxicity[strength] for strength in strengths),
        )
    return table


def _strengths(experiment: Experiment) -> tuple[float, ...]:
    """The strengths of the steered curve, from 0."""
    is_steered = evaluation_view.steered_condition(experiment.eval) != PLAIN
    return (0.0, *(experiment.eval.steering.strengths if is_steered else ()))


def _with_interval(estimate: Estimate, form: str) -> str:
    if estimate.value is None:
        return "missing"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
