"""Ray: placement, gangs, retries; alone talks to a cluster

One run trains as one gang of Ray Train workers, each of which calls `training.loop.train` exactly as the `deepspeed`
launcher would; one evaluation is one task. What is wrong with the settings or the data is raised once and not tried again;
anything else (a killed rank, a lost node, a SIGTERM) restarts the gang, which resumes from its last checkpoint.
"""

import os
from dataclasses import replace
from typing import Any

from data_prep import records, storage, tasks, telemetry
from data_prep.records import ConfigurationError, HormesisError
from eval.config import EvalConfig
from training.config import RunConfig

MAX_FAILURES = 3


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
    """Start one run on a gang of `n_ranks`. Its record lies in the store when the returned task ends."""
    import ray

    # Ray Train's own actors ask for the cluster's address, and without this find the machine's newest, dead or alive
    own = {"env_vars": {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}}
    task = ray.remote(num_cpus=0, max_retries=0)(_train).options(name=f"train {run.run_id}", runtime_env=own)
    return task.remote(root, run, n_ranks, use_gpu)


def evaluate(root: str, run_id: str, config: EvalConfig, n_cpus: int, use_gpu: bool) -> Any:
    """Start the evaluation of one finished run. Its report lies in the store when the returned task ends."""
    import ray

    task = ray.remote(num_cpus=n_cpus, num_gpus=int(use_gpu), max_retries=MAX_FAILURES)(_evaluate)
    return task.options(name=f"evaluate {run_id}").remote(root, run_id, replace(config, threads=n_cpus))


def first_ended(started: list[Any]) -> Any:
    """Wait for one of the started tasks to end, raise what went wrong in it, return it."""
    import ray

    (ended, *_), _ = ray.wait(started, num_returns=1)
    tasks.outcome(ended)
    return ended


def _train(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> None:
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig, TrainingFailedError
    from ray.train import RunConfig as GangConfig
    from ray.train.torch import TorchTrainer

    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # it prints every line twice, and a bar drawn twice never closes
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"root": root, "run": records.to_json(run)},
        torch_config=_stoppable(),
        scaling_config=ScalingConfig(num_workers=n_ranks, use_gpu=use_gpu),
        run_config=GangConfig(
            name=run.run_id,
            storage_path=storage.join(root, "ray"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        refusal: Any = trainer.fit().return_value
    except TrainingFailedError as error:
        ours = [cause for cause in getattr(error, "worker_failures", {}).values() if isinstance(cause, HormesisError)]
        if not ours:
            raise
        raise ours[0] from error
    finally:
        storage.delete(storage.join(root, "ray", run.run_id, ".validate_storage_marker"))  # all that Ray Train keeps there
    if refusal is not None:
        raise ConfigurationError(refusal)


def _stoppable() -> Any:
    """Ray Train's torch set-up, which also makes SIGTERM ask a worker's training to stop: signals are handled on a process's
    main thread, where Ray runs what it executes on a worker, and not on the thread that trains."""
    from ray.train.torch import TorchConfig

    class Backend(TorchConfig().backend_cls):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(_install)

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return Backend

    return Config()


def _install() -> None:
    from training import stopping

    stopping.install()


def _rank(config: dict[str, str]) -> str | None:
    """One rank of a gang, on a worker's thread. A ConfigurationError is met by every rank alike, before any of them waits for
    another, so its text is returned and not tried again; whatever else one rank meets must end the others too."""
    from training import loop

    telemetry.configure()
    try:
        loop.train(config["root"], records.from_json(RunConfig, config["run"], "the gang's run"))
    except ConfigurationError as error:
        return str(error)
    return None


def _evaluate(root: str, run_id: str, config: EvalConfig) -> None:
    from eval import evaluation

    telemetry.configure()
    evaluation.evaluate(root, run_id, config)
