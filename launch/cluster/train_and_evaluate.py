"""train and evaluate the runs of a sweep on Ray; a failed run does not stop the others"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from data_prep.core import ray_capacity, ray_tasks, telemetry
from data_prep.core.errors import HormesisError
from launch import run_states
from launch.cluster import cluster_fit, run_on_ray
from launch.experiment import Experiment
from training.config import RunConfig


class FailedStage(NamedTuple):
    """A run that was not trained, or not evaluated, and why."""

    stage: Literal["training", "evaluation"]
    run_id: str
    error: Exception

    def __str__(self) -> str:
        reason = str(self.error).strip() or type(self.error).__name__
        return f"{self.stage} of {self.run_id} failed: {reason}"


def train_and_evaluate(
    root: str, sweep: Experiment, *, evaluate: bool, after_one: Callable[[], None] | None = None
) -> list[FailedStage]:
    """Train every run without a record, as many at a time as the cluster holds, and evaluate each
    run as soon as it is trained. Returns what failed; the other runs are complete.

    after_one: called after each evaluation but the last. Raises ClusterError if the cluster cannot
    go on.
    """
    states = run_states.read(root, sweep)
    to_train = deque(state.run for state in states if not state.record)
    to_evaluate = [state.run for state in states if evaluate and state.record and not state.report]
    n_tasks = len(to_train) + sum(evaluate and not state.report for state in states)
    progress = telemetry.progress(n_tasks, "sweep", "task")
    n_slots = cluster_fit.n_concurrent_runs(sweep) if to_train else 0
    n_cpus = cluster_fit.evaluation_cpus(sweep) if evaluate and (to_train or to_evaluate) else 0
    failures: list[FailedStage] = []
    training: dict[Any, RunConfig] = {}
    evaluating: dict[Any, RunConfig] = {}
    while to_train or to_evaluate or training or evaluating:
        for run in to_evaluate:
            task = run_on_ray.start_evaluation(root, run.run_id, sweep.eval, n_cpus, sweep.use_gpu)
            evaluating[task] = run
        to_evaluate = []
        while to_train and len(training) < n_slots:
            run = to_train.popleft()
            training[run_on_ray.start_training(root, run, sweep.n_ranks, sweep.use_gpu)] = run
        why_stuck = partial(
            cluster_fit.why_stuck, sweep, bool(training), n_cpus if evaluating else 0
        )
        ended = ray_capacity.wait_for_one([*training, *evaluating], why_stuck)
        stage = "training" if ended in training else "evaluation"
        run = training.pop(ended) if stage == "training" else evaluating.pop(ended)
        failure = _failure(ended, stage, run)
        progress.update(1)
        if failure:
            failures.append(failure)
        else:
            telemetry.logger.info("%s of %s is done", stage, run.run_id)
        if stage == "training" and evaluate and not failure:
            to_evaluate = [run]
        is_last = not (to_train or training or evaluating)
        if stage == "evaluation" and after_one and not failure and not is_last:
            after_one()
    progress.close()
    return failures


def _failure(
    ended: Any, stage: Literal["training", "evaluation"], run: RunConfig
) -> FailedStage | None:
    """Why the task failed, logged; None if it did not."""
    try:
        ray_tasks.result(ended, f"{stage} of {run.run_id}")
    except Exception as error:
        failure = FailedStage(stage, run.run_id, error)
        # an error that is not ours is a fault of the program: its traceback is wanted
        is_ours = isinstance(error, HormesisError)
        telemetry.logger.error("%s", failure, exc_info=None if is_ours else error)
        return failure
    return None
