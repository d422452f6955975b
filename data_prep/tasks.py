"""Ray tasks: named for people, bounded in number, errors as themselves

A task does one thing and commits one output; its result is small. An error that would come again (HormesisError) is not
retried and reaches the caller with its own type and text; a worker that dies is replaced by Ray, three times a task.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from data_prep import telemetry
from data_prep.records import HormesisError

TASKS_PER_CPU = 2  # in flight: one at work, one ready to start


class Job(NamedTuple):
    """One Ray task: the name people see, what to do, and how much of the bar it is."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    weight: int


def run(jobs: list[Job], title: str, unit: str) -> Iterator[Any]:
    """The results of `jobs` as they end; those still at work are cancelled when one fails."""
    import ray

    assert ray.is_initialized(), "the caller starts or joins a cluster: ray.init()"
    limit = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    bar, flying, waiting = telemetry.progress(sum(job.weight for job in jobs), title, unit), dict[Any, Job](), jobs[::-1]
    try:
        while flying or waiting:
            while waiting and len(flying) < limit:
                job = waiting.pop()
                flying[ray.remote(num_cpus=1)(job.function).options(name=job.name).remote(*job.arguments)] = job
            (done, *_), _ = ray.wait(list(flying), num_returns=1)
            job = flying.pop(done)
            yield _outcome(done)
            bar.update(job.weight)
    finally:
        bar.close()
        for task in flying:
            ray.cancel(task)


def _outcome(task: Any) -> Any:
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, HormesisError):
            raise error.cause from None
        raise
