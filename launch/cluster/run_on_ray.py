"""run on Ray: train a run on a group of workers, evaluate it in a task, restart failures

One run trains on one group of Ray Train workers, each of which calls `training.trainer.loop.train`
exactly as the `deepspeed` launcher would; one evaluation is one task. A worker group that failed is
restarted from the last checkpoint as long as retry_policy.py allows it.
"""

import os
from typing import Any
from urllib.parse import quote

from data_prep.core import ray_tasks, records, storage, telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.core.ray_tasks import RayTask
from eval.config import EvalConfig
from launch.cluster.retry_policy import MAX_FAILURES, RetryPolicy, cause_of_failure
from training.config import RunConfig, TrainConfig
from training.run_record import checkpoint_steps


def start_training(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> Any:
    """Start to train one run. Its record exists when the returned task has finished."""
    import ray

    # Ray Train's actors look up the cluster's address. Without this variable they would take the
    # machine's newest cluster, dead or alive.
    environment = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    task = ray.remote(num_cpus=0, max_retries=0)(_train_with_retries).options(
        name=f"train {run.run_id}", runtime_env={"env_vars": environment}
    )
    return task.remote(root, run, n_ranks, use_gpu)


def start_evaluation(root: str, run_id: str, config: EvalConfig, n_cpus: int, use_gpu: bool) -> Any:
    """Start to evaluate one finished run. Its report exists when the returned task has finished."""
    import ray

    task = ray.remote(num_cpus=n_cpus, num_gpus=int(use_gpu), max_retries=MAX_FAILURES)(_evaluate)
    return task.options(name=f"evaluate {run_id}").remote(root, run_id, config, n_cpus)


def check_evaluation(root: str, config: EvalConfig) -> None:
    """Check on a worker that all that an evaluation needs is there, before a model is trained."""
    task = RayTask("check evaluation", _check_evaluation, (root, config), 1)
    list(ray_tasks.run([task], "check evaluation", "task"))


def check_initial_weights(train: TrainConfig) -> None:
    """Check on a worker that train.init_from holds a model of the run's shape."""
    task = RayTask("check train.init_from", _check_initial_weights, (train,), 1)
    list(ray_tasks.run([task], "check train.init_from", "task"))


def _train_with_retries(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> None:
    """Start worker groups, one after the other, until one has trained the run or must not retry."""
    from ray.train import TrainingFailedError

    policy = RetryPolicy(_newest_checkpoint(root, run))
    while True:
        try:
            return _run_worker_group(root, run, n_ranks, use_gpu)
        except TrainingFailedError as error:
            cause = cause_of_failure(run, error)
            if not policy.should_retry(cause, _newest_checkpoint(root, run)):
                if cause is error:
                    raise
                raise cause from error
            summary = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            telemetry.configure()
            telemetry.logger.warning(
                "run %s: restarting workers from the last checkpoint after: %s", run.run_id, summary
            )


def _newest_checkpoint(root: str, run: RunConfig) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    return max(checkpoint_steps(root, run.run_id), default=0)


def _run_worker_group(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> None:
    """Train on one worker group, without retries."""
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as RayTrainConfig
    from ray.train.torch import TorchTrainer

    # the patch prints every line twice, and a progress bar drawn twice never closes
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"root": root, "run": records.to_json(run)},
        torch_config=_torch_config_with_preemption(),
        scaling_config=ScalingConfig(num_workers=n_ranks, use_gpu=use_gpu),
        run_config=RayTrainConfig(
            name=run.run_id,
            storage_path=ray_storage_path(root),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        refusal: Any = trainer.fit().return_value
    finally:
        # all that Ray Train keeps there
        storage.delete(storage.join(root, "ray", run.run_id, ".validate_storage_marker"))
    if refusal is not None:
        raise ConfigurationError(refusal)


def ray_storage_path(root: str) -> str:
    """The root's folder `ray` as Ray Train takes it: a path, or a URI with percent-encoding."""
    protocol, separator, path = storage.join(root, "ray").rpartition("://")
    return f"{protocol}://{quote(path)}" if separator and protocol != "file" else path


def _torch_config_with_preemption() -> Any:
    """Ray Train's torch configuration that also installs the preemption handler on each worker.

    Python handles signals on the main thread of a process. Ray executes functions sent to a worker
    there, and the training function on another thread.
    """
    from ray.train.torch import TorchConfig

    class PreemptionBackend(TorchConfig().backend_cls):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(_install_preemption_handler)

    class PreemptionConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return PreemptionBackend

    return PreemptionConfig()


def _install_preemption_handler() -> None:
    from training.trainer import preemption

    preemption.install()


def _train_rank(config: dict[str, str]) -> str | None:
    """Train one rank, on a worker's thread; returns the message of a ConfigurationError.

    Every rank meets a ConfigurationError alike, before any of them waits for another, so its
    message is returned and it is not retried. Any other error of one rank must end the others too.
    """
    from training.trainer import loop, preemption

    telemetry.configure()
    run = records.from_json(RunConfig, config["run"], "the settings sent to a worker")
    try:
        loop.train(config["root"], run)
    except ConfigurationError as error:
        return str(error)
    finally:
        preemption.end()
    return None


def _check_initial_weights(train: TrainConfig) -> None:
    from training.run import initial_weights

    telemetry.configure()
    initial_weights.check_folder(train.init_from, train.model)


def _check_evaluation(root: str, config: EvalConfig) -> None:
    from eval.pipeline import evaluation_inputs

    telemetry.configure()
    evaluation_inputs.check(root, config)


def _evaluate(root: str, run_id: str, config: EvalConfig, n_threads: int) -> None:
    import torch

    from eval.pipeline import evaluate_model

    telemetry.configure()
    default = torch.get_num_threads()
    torch.set_num_threads(n_threads or default)
    try:
        evaluate_model.evaluate(root, run_id, config)
    finally:
        torch.set_num_threads(default)
