"""Ray: placement, gangs, retries; alone talks to a cluster

One run trains as one gang of Ray Train workers, each of which calls `training.loop.train` exactly as the `deepspeed`
launcher would; one evaluation is one task. What is wrong with the settings or the data comes back as data and is raised
here once; anything else (a killed rank, a lost node) restarts the gang, which resumes from its last checkpoint.

With RAY_ADDRESS set (as within `ray job submit`) that cluster is used, otherwise one is started on loopback.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep import records, storage, telemetry
from data_prep.records import ConfigurationError, HormesisError
from eval.config import EvalConfig
from training.config import RunConfig

MAX_GANG_FAILURES = 3
OBJECT_STORE_BYTES = 256 << 20  # tasks exchange names and counts; the data are in the object root
LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps every port on 127.0.0.1
    "RAY_AUTH_MODE": "token",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # runs show in the dashboard
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody preempts this machine; clusters keep it
    "PYTHONWARNINGS": "ignore",  # of Ray's and torch's own deprecations, once a worker
}


@contextmanager
def session(n_cpus: int) -> Iterator[None]:
    """Attach to the cluster of RAY_ADDRESS, or run one here with at least `n_cpus` for as long as the block lasts."""
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if os.environ.get("RAY_ADDRESS"):
        context = ray.init(log_to_driver=True, logging_level=logging.WARNING)
    else:
        project = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        context = ray.init(
            address="local",
            num_cpus=max(n_cpus, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            dashboard_host="127.0.0.1",
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    telemetry.logger.info("Ray dashboard: http://%s (its token: ~/.ray/auth_token)", context.dashboard_url or "not running")
    try:
        yield
    finally:
        ray.shutdown()


def n_gangs(n_ranks: int, use_gpu: bool) -> int:
    """How many runs of `n_ranks` the cluster can train at a time; at least one, or a ConfigurationError."""
    import ray

    resource = "GPU" if use_gpu else "CPU"
    available = int(ray.cluster_resources().get(resource, 0))
    if available < n_ranks:
        raise ConfigurationError(
            f"one run takes {n_ranks} ranks with a {resource} each, the cluster has {available}; "
            f"add nodes, or use fewer ranks: --set n_ranks={max(available, 1)}"
        )
    return available // n_ranks


def train(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> Any:
    """Start one run on a gang of `n_ranks`; `finish` waits for it. Its record lies in the store."""
    import ray

    task = ray.remote(num_cpus=0, max_retries=0)(_train_gang).options(name=f"train {run.run_id}")
    return task.remote(root, run, n_ranks, use_gpu)


def evaluate(root: str, run_id: str, config: EvalConfig, n_cpus: int, use_gpu: bool) -> Any:
    """Start the evaluation of one finished run; `finish` waits for it. Its report lies in the store."""
    import ray

    task = ray.remote(num_cpus=n_cpus, num_gpus=int(use_gpu), max_retries=MAX_GANG_FAILURES)(_evaluate)
    return task.options(name=f"evaluate {run_id}").remote(root, run_id, config, n_cpus)


def wait_any(pending: list[Any]) -> Any:
    """One of the started pieces of work that has ended."""
    import ray

    return ray.wait(pending, num_returns=1)[0][0]


def finish(work: Any) -> None:
    """Wait for started work; raise what went wrong with it."""
    import ray

    fault: Any = ray.get(work)
    if fault is not None:
        raise _as_error(fault)


def _train_gang(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> tuple[str, str] | None:
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig, TrainingFailedError
    from ray.train import RunConfig as GangConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _rank,
        train_loop_config={"root": root, "run": records.to_json(run)},
        scaling_config=ScalingConfig(num_workers=n_ranks, use_gpu=use_gpu),
        run_config=GangConfig(
            name=run.run_id,
            storage_path=storage.join(root, "ray"),
            failure_config=FailureConfig(max_failures=MAX_GANG_FAILURES),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        return trainer.fit().return_value
    except TrainingFailedError as error:
        for cause in getattr(error, "worker_failures", {}).values():
            if isinstance(cause, HormesisError):
                return _as_fault(cause)
        raise


def _rank(config: dict[str, str]) -> tuple[str, str] | None:
    """One rank of a gang, on a worker's thread. A ConfigurationError is met by every rank alike, before any of them waits for
    another, so it is returned and not tried again; whatever else one rank meets must end the others too."""
    from training import loop

    telemetry.configure()
    try:
        loop.train(config["root"], records.from_json(RunConfig, config["run"], "the gang's run"))
    except ConfigurationError as error:
        return _as_fault(error)
    return None


def _evaluate(root: str, run_id: str, config: EvalConfig, n_threads: int) -> tuple[str, str] | None:
    from eval import evaluation

    telemetry.configure()
    try:
        evaluation.evaluate(root, run_id, replace(config, threads=n_threads))
    except HormesisError as error:
        return _as_fault(error)
    return None


def _as_fault(error: HormesisError) -> tuple[str, str]:
    return type(error).__name__, str(error)


def _as_error(fault: tuple[str, str]) -> HormesisError:
    name, text = fault
    return getattr(records, name, HormesisError)(text)
