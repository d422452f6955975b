"""Ray tasks: a session, and work named for people, bounded in number, with errors as themselves

A task does one thing and commits one output; its result is small. An error that would come again
(HormesisError) is not retried and reaches the caller with its own type and text; a worker that dies
is replaced by Ray, three times a task.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core import telemetry
from data_prep.core.errors import ClusterError, HormesisError

TASKS_PER_CPU = 2  # in flight: one at work, one ready to start
OBJECT_STORE_BYTES = 256 << 20  # tasks exchange names and counts; the data are in the object root
ENVIRONMENT = {  # read by Ray when it is imported; the caller's own settings win
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps every port of a cluster of our own on 127.0.0.1
    "RAY_AUTH_MODE": "token",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # trainings show in the dashboard
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor a run; a lost node restarts the gang anyway
    "RAY_num_workers_soft_limit": "8",  # in a cluster of our own: a worker that waits keeps its imports, seconds an evaluation
    "PYTHONWARNINGS": "ignore",  # else each worker repeats Ray's and torch's own deprecations
}


@contextmanager
def session(n_cpus: int) -> Iterator[None]:
    """Use this process's Ray, or join the cluster of RAY_ADDRESS (set within `ray job submit`), or
    run one on loopback.

    What was begun here ends with the block.

    n_cpus: what a cluster of our own offers at least, whatever the machine has.
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


class Job(NamedTuple):
    """One Ray task: the name people see, what to do, and how much of the bar it is."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    weight: int


def share(value: Any) -> Any:
    """An argument of many jobs, stored once; a job's function gets the value itself."""
    import ray

    return ray.put(value)


def run(jobs: list[Job], title: str, unit: str) -> Iterator[Any]:
    """The results of `jobs` as they end; those still at work are cancelled when one fails."""
    import ray

    assert ray.is_initialized(), "the caller opens a session"
    limit = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    bar, flying, waiting = (
        telemetry.progress(sum(job.weight for job in jobs), title, unit),
        dict[Any, Job](),
        jobs[::-1],
    )
    try:
        while flying or waiting:
            while waiting and len(flying) < limit:
                job = waiting.pop()
                flying[
                    ray.remote(num_cpus=1)(job.function)
                    .options(name=job.name)
                    .remote(*job.arguments)
                ] = job
            (done, *_), _ = ray.wait(list(flying), num_returns=1)
            job = flying.pop(done)
            yield outcome(done, job.name)
            bar.update(job.weight)
    finally:
        bar.close()
        for task in flying:
            ray.cancel(task)


def outcome(task: Any, name: str = "a task") -> Any:
    """What a task returned, once it ends; a HormesisError raised in it is raised here as itself, a
    lost task as ClusterError.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, HormesisError):
            raise error.cause from None
        raise
    except RayError as error:
        brief = (str(error).strip() or "no reason given").splitlines()[0]
        raise ClusterError(
            f"Ray gave up {name!r}: {type(error).__name__} ({brief}); see whether a worker ran out of memory (Ray's dashboard, "
            "/tmp/ray/session_latest/logs), then run the same command again: it goes on from what is done"
        ) from error
