"""what is done already: every run × stage, read from the records alone"""

from typing import Literal, NamedTuple

from rich.box import SIMPLE
from rich.table import Table

from data_prep.core import storage
from data_prep.token_stream import manifest
from eval import eval_report as eval_record
from eval.eval_report import Estimate, EvalReport
from launch.experiment import Experiment
from training import run_record as training_record
from training.config import RunConfig
from training.run_record import RunRecord

Stage = Literal["data", "train", "eval", "report"]
STAGES: tuple[Stage, ...] = ("data", "train", "eval", "report")


class RunState(NamedTuple):
    """One run: its record and report where they exist, and the last step it has a checkpoint of."""

    run: RunConfig
    record: RunRecord | None
    report: EvalReport | None
    checkpoint_step: int


def streams_built(root: str, experiment: Experiment) -> bool:
    run = experiment.runs()[0]
    return all(
        storage.exists(storage.join(root, stream, manifest.NAME))
        for stream in (run.clean, run.toxic)
    )


def read(root: str, experiment: Experiment) -> list[RunState]:
    """The state of every run of the experiment, in its order."""
    return [_read(root, run, experiment) for run in experiment.runs()]


def _read(root: str, run: RunConfig, experiment: Experiment) -> RunState:
    uri = training_record.run_uri(root, run.run_id)
    record = training_record.find(root, run.run_id)
    if record is None:
        return RunState(run, None, None, _last_checkpoint(uri))
    return RunState(run, record, eval_record.find(uri, experiment.eval), record.n_steps)


def _last_checkpoint(run_uri: str) -> int:
    commits = storage.glob(storage.join(run_uri, "checkpoints", "step-*", "commit.json"))
    return max((int(commit.split("step-")[-1].split("/")[0]) for commit in commits), default=0)


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
    strengths = experiment.eval.strengths
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
