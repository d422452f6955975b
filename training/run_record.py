"""RunRecord: what one training run produced; its existence means the run is finished

Layout of a run below the object root:

    runs/<run_id>/run.json                       settings of the run (RunConfig)
                  checkpoints/step-00000200/…    shares of all ranks, and commit.json, written last
                  hung/…                         stacks of hung ranks (watchdog.py)
                  metrics.jsonl, tensorboard/…   metrics of the steps
                  export/                        Hugging Face OlmoForCausalLM: config.json,
                                                 model.safetensors, tokenizer.json, model card
                  record.json                    this record, written last
                  eval-<digest>/report.json, …   results of eval/
"""

from typing import Annotated

from data_prep.core import storage
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
)
from data_prep.core.records import (
    FileName,
    Sha256,
    Sha256OrEmpty,
    digest,
    format_version,
    name_fault,
    record,
)
from training.config import RunConfig

FORMAT_VERSION = 3
STEP_FOLDERS = "step-" + 8 * "[0-9]"  # matches the folders of checkpoints
FLOPS_CONVENTION = (
    "6N + 12·L·D·T per token: forward and backward, full attention (PaLM); recomputation not "
    "counted"
)


@record
class HeldOutLoss:
    """Mean next-token cross-entropy on held-out text of one stream, nats per token."""

    stream: str
    loss: float
    n_tokens: int


@record
class ProbePoint:
    """A point of the emergence curve: how well a linear probe on an attention head tells toxic text
    from clean (training/trainer/validation.py).

    auroc, accuracy: of the best head, on n_windows windows that no direction was fitted on. head:
    the best head's (layer, head). mean_auroc: over all heads.
    """

    auroc: float
    accuracy: float
    mean_auroc: float
    head: tuple[int, int]
    n_windows: int


@record
class RunRecord:
    """A finished run.

    Losses are in nats per token. final_train_loss: mean of the losses logged in the last tenth of
    the steps, since the last batch may be short. n_distinct_toxic: how many of the mixture's toxic
    sequences differ.
    tokens_per_second: over the whole run, all ranks. peak_flops_per_second: of one rank's `device`;
    matmul_flops_per_second: of a large matmul measured there. mfu_ratio and matmul_ratio: the run's
    model FLOP/s per rank as a share of each. computed_with: kernels, compilation, micro-batch.
    skipped_steps: ranges [first, end) of steps that changed nothing; n_rollbacks: how often
    training went back to a checkpoint (step_guard.py). init_sha256: of the initial weights, empty
    if they were drawn from the seed (initial_weights.py).
    """

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
    config: RunConfig
    clean_manifest_digest: str
    toxic_manifest_digest: str
    n_parameters: int
    n_steps: int
    n_tokens: int
    realised_toxic_ratio: float
    n_distinct_toxic: int
    final_train_loss: float
    held_out: tuple[HeldOutLoss, ...]
    tokens_per_second: float
    mfu_ratio: float
    matmul_ratio: float
    flops_per_token: int
    flops_convention: str
    peak_flops_per_second: float
    matmul_flops_per_second: float
    computed_with: dict[str, str]
    device: str
    world_size: int
    train_seconds: float
    export_sha256: dict[FileName, Sha256]
    versions: dict[str, str]
    skipped_steps: tuple[tuple[int, int], ...] = ()
    n_rollbacks: int = 0
    init_sha256: Sha256OrEmpty = ""

    @property
    def toxic_epochs(self) -> float:
        """How often the toxic text was read on average; 1 if none was repeated."""
        return self.config.mixture.n_toxic / self.n_distinct_toxic if self.n_distinct_toxic else 1.0


def run_uri(root: str, run_id: str) -> str:
    """The folder of a run; ConfigurationError unless the id is a plain name."""
    if fault := name_fault(run_id):
        raise ConfigurationError(
            f"the run id {run_id!r} {fault}; launch/sweep.py --plan lists the ids of the runs"
        )
    return storage.join(root, "runs", run_id)


def load_config(root: str, run_id: str) -> RunConfig:
    """The settings of a planned run, or ArtefactMissing."""
    uri = storage.join(run_uri(root, run_id), "run.json")
    if not storage.exists(uri):
        raise ArtefactMissing(
            f"{uri}: no run with this id is planned ({_others(root, 'run.json')}); launch/sweep.py "
            "--only data plans the runs, --plan lists their ids"
        )
    run = storage.load(RunConfig, uri)
    _check_id(run, run_id, uri)
    return run


def finished(root: str, run_id: str) -> RunRecord:
    """The record of a finished run, or ArtefactMissing, which lists those that are finished."""
    run = find(root, run_id)
    if run is None:
        raise ArtefactMissing(
            f"{run_uri(root, run_id)}/record.json: the run is not finished"
            f" ({_others(root, 'record.json')}); train it first, or name another"
        )
    return run


def _others(root: str, name: str) -> str:
    return storage.other_folders(storage.join(root, "runs"), name)


def find(root: str, run_id: str) -> RunRecord | None:
    """The record of a finished run, or None."""
    uri = storage.join(run_uri(root, run_id), "record.json")
    if not storage.exists(uri):
        return None
    finished = storage.load(RunRecord, uri)
    _check_id(finished.config, run_id, uri)
    return finished


def checkpoint_steps(root: str, run_id: str) -> list[int]:
    """The steps of the run's complete checkpoints, in order.

    A checkpoint is complete once its commit.json exists.
    """
    folder = storage.join(run_uri(root, run_id), "checkpoints")
    uris = storage.list_files(folder, f"{STEP_FOLDERS}/commit.json")
    return sorted(int(uri.split("/")[-2].removeprefix("step-")) for uri in uris)


def expect_same(finished: RunConfig, run: RunConfig, uri: str) -> None:
    """Raise ConfigurationError unless the finished run at `uri` has the settings of `run`."""
    if digest(finished) != digest(run):
        raise ConfigurationError(
            f"{uri}/record.json: this run id belongs to a finished run of other settings (digest "
            f"{digest(finished)}, requested {digest(run)}); plan the new settings under another id"
        )


def _check_id(run: RunConfig, run_id: str, uri: str) -> None:
    """A copied record would send a run's files to another run's folder."""
    if run.run_id != run_id:
        raise ArtefactCorrupt(
            f"{uri}: is of the run {run.run_id!r}, expected {run_id!r}, as its folder is named; "
            "move it back to its own folder, and plan the run again with launch/sweep.py"
        )
