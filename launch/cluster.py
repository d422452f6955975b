"""Ray: placement, gangs, retries; alone talks to a cluster

One run trains as one gang of Ray Train workers, each of which calls `training.loop.train` exactly
as the `deepspeed` launcher would; one evaluation is one task. Of a gang that fails another is
started, which resumes from its last checkpoint, but not for what would come again:

    what one rank met                          the gang is started again
    what is wrong with the settings            no; every rank meets it, and returns its text
    too little memory                          if it has saved a checkpoint, so it came late; the error says what to set
    something missing or corrupt               once: a store may lag, or a cache be damaged
    SIGTERM, a lost node, a killed rank, …     MAX_FAILURES times in a row without a new checkpoint
"""

import os
from collections.abc import Callable
from typing import Any

from data_prep.core import ray_capacity, ray_tasks, records, storage, telemetry
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
    Interrupted,
)
from eval.config import EvalConfig
from training.config import RunConfig
from training.run_record import checkpoint_steps

MAX_FAILURES = 3
OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
)  # CUDA's and Ray's words, and those of torch on a CPU


def train(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> Any:
    """Start one run on a gang of `n_ranks`. Its record lies in the store when the returned task
    ends.
    """
    import ray

    # Ray Train's own actors ask for the cluster's address, and without this find the machine's
    # newest, dead or alive
    own = {"env_vars": {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}}
    task = ray.remote(num_cpus=0, max_retries=0)(_train).options(
        name=f"train {run.run_id}", runtime_env=own
    )
    return task.remote(root, run, n_ranks, use_gpu)


def evaluate(root: str, run_id: str, config: EvalConfig, n_cpus: int, use_gpu: bool) -> Any:
    """Start the evaluation of one finished run. Its report lies in the store when the returned task
    ends.
    """
    import ray

    task = ray.remote(num_cpus=n_cpus, num_gpus=int(use_gpu), max_retries=MAX_FAILURES)(_evaluate)
    return task.options(name=f"evaluate {run_id}").remote(root, run_id, config, n_cpus)


def first_ended(started: list[Any], why_impossible: Callable[[], str]) -> Any:
    """Wait for one of the started tasks to end, raise what went wrong in it, return it.

    why_impossible: see ray_capacity.wait_for_one.
    """
    ended = ray_capacity.wait_for_one(started, why_impossible)
    ray_tasks.result(ended)
    return ended


def _train(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> None:
    """Gangs, one after the other, until one has trained the run or failed for good."""
    from ray.train import TrainingFailedError

    patience = Patience(_newest_checkpoint(root, run))
    while True:
        try:
            return _gang(root, run, n_ranks, use_gpu)
        except TrainingFailedError as error:
            reason = _reason(run, error)
            if not patience.lasts(reason, _newest_checkpoint(root, run)):
                if reason is error:
                    raise
                raise reason from error
            brief = (str(reason).strip() or type(reason).__name__).splitlines()[0]
            telemetry.configure()
            telemetry.logger.warning(
                "run %s: its gang is started again, where it was saved last: %s", run.run_id, brief
            )


class Patience:
    """Whether a gang that failed is started again; see the table at the head."""

    def __init__(self, checkpoint: int) -> None:
        self._checkpoint, self._n_failures = checkpoint, 0
        self._before: type[Exception] | None = None

    def lasts(self, reason: Exception, checkpoint: int) -> bool:
        """After a failure for this reason, when the newest checkpoint is that of this step (0: there is
        none).
        """
        if fresh := checkpoint != self._checkpoint:
            self._checkpoint, self._n_failures, self._before = checkpoint, 0, None
        again, self._before, self._n_failures = (
            type(reason) is self._before,
            type(reason),
            self._n_failures + 1,
        )
        if isinstance(reason, ConfigurationError):
            return fresh
        if isinstance(reason, ArtefactCorrupt | ArtefactMissing):
            return not again
        return self._n_failures <= MAX_FAILURES


def _reason(run: RunConfig, error: Any) -> Exception:
    """What a gang failed for: an error of ours that a rank met, too little memory in words that
    help, or Ray's own account.
    """
    causes = list(getattr(error, "worker_failures", {}).values())
    ours = sorted(
        (cause for cause in causes if isinstance(cause, HormesisError)),
        key=lambda one: isinstance(one, Interrupted),
    )
    if any(
        words in f"{type(cause).__name__} {cause}".lower()
        for cause in [*causes, error]
        for words in OUT_OF_MEMORY
    ):
        train = run.train
        return ConfigurationError(
            f"run {run.run_id}: a rank ran out of memory; it had train.micro_batch={train.micro_batch}, "
            f"activation_checkpointing={train.compute.activation_checkpointing}, zero_stage={train.parallel.zero_stage}, offload_optimizer="
            f"{str(train.parallel.offload_optimizer).lower()}. Take train.micro_batch=auto, train.compute.activation_checkpointing=block, a higher "
            "train.parallel.zero_stage, train.parallel.offload_optimizer=true, or more ranks; it goes on from its checkpoint"
        )
    return ours[0] if ours else error


def _newest_checkpoint(root: str, run: RunConfig) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    return max(checkpoint_steps(root, run.run_id), default=0)


def _gang(root: str, run: RunConfig, n_ranks: int, use_gpu: bool) -> None:
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as GangConfig
    from ray.train.torch import TorchTrainer

    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = (
        "0"  # it prints every line twice, and a bar drawn twice never closes
    )
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"root": root, "run": records.to_json(run)},
        torch_config=_stoppable(),
        scaling_config=ScalingConfig(num_workers=n_ranks, use_gpu=use_gpu),
        run_config=GangConfig(
            name=run.run_id,
            storage_path=storage.join(root, "ray"),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        refusal: Any = trainer.fit().return_value
    finally:
        storage.delete(
            storage.join(root, "ray", run.run_id, ".validate_storage_marker")
        )  # all that Ray Train keeps there
    if refusal is not None:
        raise ConfigurationError(refusal)


def _stoppable() -> Any:
    """Ray Train's torch set-up, which also makes SIGTERM ask a worker's training to stop: signals
    are handled on a process's main thread, where Ray runs what it executes on a worker, and not on
    the thread that trains.
    """
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
    from training.trainer import preemption

    preemption.install()


def _rank(config: dict[str, str]) -> str | None:
    """One rank of a gang, on a worker's thread. A ConfigurationError is met by every rank alike,
    before any of them waits for another, so its text is returned and not tried again; whatever else
    one rank meets must end the others too.
    """
    from training.trainer import loop, preemption

    telemetry.configure()
    try:
        loop.train(config["root"], records.from_json(RunConfig, config["run"], "the gang's run"))
    except ConfigurationError as error:
        return str(error)
    finally:
        preemption.end()
    return None


def _evaluate(root: str, run_id: str, config: EvalConfig, n_threads: int) -> None:
    import torch

    from eval import pipeline

    telemetry.configure()
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        pipeline.evaluate(root, run_id, config)
    finally:
        torch.set_num_threads(before)
