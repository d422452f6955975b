"""RunRecord: what one training run made; its existence means the run is done

Layout of a run below the object root:

    runs/<run_id>/run.json                          what was asked (RunConfig)
                  checkpoints/step-00000200/…       and commit.json, written last
                  hung/…                            stacks of ranks that a watchdog ended
                  metrics.jsonl, tensorboard/…      what was seen on the way
                  export/                           Hugging Face OlmoForCausalLM: config.json, model.safetensors, tokenizer.json
                  record.json                       this record, written last
                  eval-<digest>/report.json, …      what eval/ made of it
"""

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest, record
from training.config import RunConfig

FORMAT_VERSION = 2
FLOPS_CONVENTION = (
    "6N + 12·L·D·T a token: forward and backward, full attention (PaLM); recomputation not counted"
)


@record
class HeldOutLoss:
    """Mean next-token cross-entropy on held-out text of one stream, nats per token."""

    stream: str
    loss: float
    n_tokens: int


@record
class ProbePoint:
    """A point of the emergence curve: how well a linear probe on a head tells toxic text from clean
    (training/trainer/validation.py).

    auroc, accuracy: of the best head on n_windows windows that no direction was fitted on; head:
    its (layer, head); mean_auroc: over all heads.
    """

    auroc: float
    accuracy: float
    mean_auroc: float
    head: tuple[int, int]
    n_windows: int


@record
class RunRecord:
    """A finished run.

    Losses are nats per token; final_train_loss is the mean logged in the last tenth of the steps,
    since the last batch may be short. tokens_per_second is over the whole run, all ranks.
    peak_flops_per_second is that of one rank's `device`, and matmul_flops_per_second what a product
    of matrices was measured to get there; mfu_ratio and matmul_ratio divide by world_size of them.
    computed_with: kernels, compilation, micro-batch. n_distinct_toxic: how many of the mixture's
    toxic sequences differ.
    init_sha256: of the weights files it began with (initial_weights.py), "" if they were drawn.
    skipped_steps: [first, end) of steps that changed nothing (step_guard.py); n_rollbacks: how often
    training went back to a checkpoint.
    """

    format_version: int
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
    export_sha256: dict[str, str]
    versions: dict[str, str]
    skipped_steps: tuple[tuple[int, int], ...] = ()
    n_rollbacks: int = 0
    init_sha256: str = ""

    @property
    def toxic_epochs(self) -> float:
        """How often the toxic text that was read was read; 1 where none was repeated."""
        return self.config.mixture.n_toxic / self.n_distinct_toxic if self.n_distinct_toxic else 1.0


def run_uri(root: str, run_id: str) -> str:
    return storage.join(root, "runs", run_id)


def load_config(root: str, run_id: str) -> RunConfig:
    uri = storage.join(run_uri(root, run_id), "run.json")
    if not storage.exists(uri):
        raise ArtefactMissing(
            f"{uri}: no such run is planned; launch/sweep.py --only data writes it, --plan lists the ids"
        )
    return storage.load(RunConfig, uri)


def find(root: str, run_id: str) -> RunRecord | None:
    """The record of a finished run, or None."""
    uri = storage.join(run_uri(root, run_id), "record.json")
    return storage.load(RunRecord, uri) if storage.exists(uri) else None


def checkpoint_steps(root: str, run_id: str) -> list[int]:
    """The steps of the run's complete checkpoints, in order; a checkpoint is complete once its
    commit.json exists.
    """
    pattern = storage.join(run_uri(root, run_id), "checkpoints", "step-*", "commit.json")
    return sorted(int(uri.split("/")[-2].removeprefix("step-")) for uri in storage.glob(pattern))


def expect_same(done: RunConfig, run: RunConfig, uri: str) -> None:
    if digest(done) != digest(run):
        raise ConfigurationError(
            f"{uri}/record.json: this run id is taken by a finished run of other settings (digest {digest(done)}, asked for "
            f"{digest(run)}); plan these under another id"
        )
