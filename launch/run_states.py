"""what is done already: every run × stage, read from the records alone"""

from typing import Literal, NamedTuple

from data_prep.core import storage
from data_prep.token_stream import manifest
from eval import eval_report as eval_record
from eval.eval_report import EvalReport
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
        return RunState(
            run, None, None, max(training_record.checkpoint_steps(root, run.run_id), default=0)
        )
    return RunState(run, record, eval_record.find(uri, experiment.eval), record.n_steps)
