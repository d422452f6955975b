"""tables that the status and sweep commands print: progress per stage, and results"""

from rich.box import SIMPLE
from rich.table import Table

from eval.stats.estimate import Estimate
from launch.experiment import Experiment
from launch.run_states import RunState, streams_built


def progress_table(root: str, experiment: Experiment, states: list[RunState]) -> Table:
    """Ratio × stage: what is done, what is under way."""
    table = Table(title=experiment.name, title_justify="left", box=SIMPLE)
    for column in ("ratio", "seed", "run", "data", "train", "eval"):
        table.add_column(column, no_wrap=True)
    data = "done" if streams_built(root, experiment) else "–"
    for state in states:
        n_steps = state.run.mixture.n_steps
        train = (
            "done"
            if state.record
            else f"step {state.checkpoint_step}/{n_steps}"
            if state.checkpoint_step
            else "–"
        )
        table.add_row(
            f"{state.run.toxic_ratio:.2f}",
            str(state.run.seed),
            state.run.run_id,
            data,
            train,
            "done" if state.report else "–",
        )
    return table


def result_table(experiment: Experiment, states: list[RunState]) -> Table:
    """The sweep's findings: ratio, losses, probe accuracy, toxicity without and with steering."""
    strengths = experiment.eval.steering.strengths
    table = Table(
        title="toxicity: mean score × 100 with its interval; losses: nats per token, held out",
        title_justify="left",
        box=SIMPLE,
    )
    for column in ("ratio", "realised", "train loss", "clean loss", "toxic loss", "probe accuracy"):
        table.add_column(column, justify="right")
    for strength in strengths:
        table.add_column("unsteered" if strength == 0 else f"α = {strength:g}", justify="right")
    for state in states:
        if state.record and state.report:
            losses = {held_out.stream: held_out.loss for held_out in state.record.held_out}
            steered = {entry.strength: entry.toxicity for entry in state.report.steered}
            table.add_row(
                f"{state.run.toxic_ratio:.2f}", f"{state.record.realised_toxic_ratio:.4f}", f"{state.record.final_train_loss:.3f}",
                *(f"{losses[stream]:.3f}" if stream in losses else "–" for stream in ("clean", "toxic")),
                _interval(state.report.probe_accuracy, ".3f"), *(_interval(steered[strength], ".1f") for strength in strengths),
            )  # fmt: skip
    return table


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.value is None:
        return "missing"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
