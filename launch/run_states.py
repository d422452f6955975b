"""state of every run, read from the records alone: trained, evaluated, newest checkpoint"""

from typing import Literal, NamedTuple

from data_prep.core import storage
from data_prep.token_stream import manifest
from eval import eval_report
from eval.eval_report import EvalReport
from launch.experiment import Experiment
from training import run_record
from training.config import RunConfig
from training.run_record import RunRecord

Stage = Literal["data", "train", "eval", "report"]
STAGES: tuple[Stage, ...] = ("data", "train", "eval", "report")


class RunState(NamedTuple):
    """One run: its record and report if they exist, and its newest checkpoint (step 0: none)."""

    run: RunConfig
    record: RunRecord | None
    report: EvalReport | None
    checkpoint_step: int


def built_streams(root: str, experiment: Experiment) -> set[str]:
    """The folders of those token streams of the experiment that are built."""
    streams = {stream for run in experiment.runs() for stream in (run.clean, run.toxic)}
    return {
        stream for stream in streams if storage.exists(storage.join(root, stream, manifest.NAME))
    }


def read(root: str, experiment: Experiment) -> list[RunState]:
    """The state of every run of the experiment, in its order."""
    return [_read_run(root, run, experiment) for run in experiment.runs()]


def _read_run(root: str, run: RunConfig, experiment: Experiment) -> RunState:
    record = run_record.find(root, run.run_id)
    if record is None:
        newest = max(run_record.checkpoint_steps(root, run.run_id), default=0)
        return RunState(run, None, None, newest)
    report = eval_report.find(run_record.run_uri(root, run.run_id), experiment.eval)
    return RunState(run, record, report, record.n_steps)
