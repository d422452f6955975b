"""Ray tasks: a bounded number in flight, errors with their own type

A task does one thing, commits one output and returns a small result. An error that would recur
(HormesisError) is not retried and reaches the caller with its own type and text. Ray replaces a
worker that dies, up to three times per task.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from data_prep.core import ray_capacity, telemetry
from data_prep.core.errors import ClusterError, HormesisError, environment_error, summary

TASKS_PER_CPU = 2  # in flight: one running, one ready to start


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
        known = environment_error(error.cause)
        if known:
            raise known from error
        raise
    except RayError as error:
        reason = summary(error)
        raise ClusterError(
            f"Ray task {name!r} failed: {type(error).__name__} ({reason}); check whether a worker "
            "ran out of memory (Ray's dashboard and logs), then run the same "
            "command again: it continues from what is done"
        ) from error
