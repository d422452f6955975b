"""Ray sessions and tasks: a bounded number in flight, errors with their own type

A task does one thing, commits one output and returns a small result. An error that would recur
(HormesisError) is not retried and reaches the caller with its own type and text. Ray replaces a
worker that dies, up to three times per task.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core import ray_capacity, telemetry
from data_prep.core.errors import ClusterError, HormesisError

TASKS_PER_CPU = 2  # in flight: one running, one ready to start
OBJECT_STORE_BYTES = 256 << 20  # tasks exchange names and counts; the data is in the object root
ENVIRONMENT = {  # read by Ray when it is imported; values that the caller set are kept
    "RAY_USAGE_STATS_ENABLED": "0",
    # All ports of a local cluster listen on 127.0.0.1 only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Training runs appear in the dashboard.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # It needs an actor per run, and a lost node restarts the worker group anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # In a local cluster, an idle worker keeps its imports: that saves seconds per evaluation.
    "RAY_num_workers_soft_limit": "8",
    # Otherwise each worker repeats the deprecation warnings of Ray and torch.
    "PYTHONWARNINGS": "ignore",
}


@contextmanager
def session(n_cpus: int) -> Iterator[None]:
    """A connection to Ray: this process's own, or the cluster of RAY_ADDRESS (set inside `ray job
    submit`), or a new local cluster on loopback.

    What was started here ends with the block.

    n_cpus: the least that a local cluster offers, whatever the machine has.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        context = ray.init(logging_level=logging.WARNING)
    else:
        project = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        context = ray.init(
            address="local",
            num_cpus=max(n_cpus, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            dashboard_host="127.0.0.1",
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    if context.dashboard_url:
        telemetry.logger.info(
            "Ray dashboard: http://%s (its token: ~/.ray/auth_token)", context.dashboard_url
        )
    try:
        yield
    finally:
        ray.shutdown()


class RayTask(NamedTuple):
    """A function to run on a worker, the name that people see, and its weight in the bar."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    weight: int


def share(value: Any) -> Any:
    """An argument of many tasks, stored once; a task's function receives the value itself."""
    import ray

    return ray.put(value)


def run(tasks: list[RayTask], title: str, unit: str) -> Iterator[Any]:
    """The results of `tasks` in the order they finish; if one fails, the others are cancelled."""
    import ray

    assert ray.is_initialized(), "the caller opens a session"
    limit = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    if reason := _why_no_task_fits():
        raise ClusterError(f"{reason}; start a node with CPUs, then run the same command again")
    bar = telemetry.progress(sum(task.weight for task in tasks), title, unit)
    waiting = tasks[::-1]
    in_flight: dict[Any, RayTask] = {}
    try:
        while in_flight or waiting:
            while waiting and len(in_flight) < limit:
                task = waiting.pop()
                remote = ray.remote(num_cpus=1)(task.function).options(name=task.name)
                in_flight[remote.remote(*task.arguments)] = task
            finished = ray_capacity.wait_for_one(list(in_flight), _why_no_task_fits)
            task = in_flight.pop(finished)
            yield result(finished, task.name)
            bar.update(task.weight)
    finally:
        bar.close()
        for reference in in_flight:
            ray.cancel(reference)


def _why_no_task_fits() -> str:
    if ray_capacity.largest(ray_capacity.node_groups(), "CPU") >= 1:
        return ""
    return "the cluster has no node with a CPU for tasks, and cannot start one"


def result(reference: Any, name: str = "unnamed") -> Any:
    """The result of a task, when it has ended.

    A HormesisError raised in the task is raised here as itself; a lost task raises ClusterError.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, HormesisError):
            raise error.cause from None
        raise
    except RayError as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ClusterError(
            f"Ray task {name!r} failed: {type(error).__name__} ({reason}); check whether a worker "
            "ran out of memory (Ray's dashboard, /tmp/ray/session_latest/logs), then run the same "
            "command again: it continues from what is done"
        ) from error
