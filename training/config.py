"""training settings: model, optimizer, schedule, parallelism, guards, and the planned run"""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Interval

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import FileName, FileNameOrEmpty, RelativePath, operational, record
from data_prep.core.settings import (
    Count,
    CountOrZero,
    NonNegative,
    Positive,
    Share,
    settings,
)
from data_prep.token_stream.mixture import Mixture


class ModelSize(NamedTuple):
    """The shape of a model, without its vocabulary."""

    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int


# OLMo's published shapes (allenai/OLMo: configs/tiny, configs/official). OLMo-7B has a separate
# output matrix; ours ties it to the embedding.
SIZES = {
    "laptop": ModelSize(64, 4, 4, 256),
    "mini": ModelSize(128, 4, 4, 512),
    "olmo-20m": ModelSize(256, 8, 8, 1024),
    "olmo-60m": ModelSize(512, 8, 8, 2048),
    "olmo-150m": ModelSize(768, 12, 12, 3072),
    "olmo-300m": ModelSize(1024, 16, 16, 4096),
    "olmo-700m": ModelSize(1536, 16, 16, 6144),
    "olmo-1b": ModelSize(2048, 16, 16, 8192),
    "olmo-7b": ModelSize(4096, 32, 32, 11008),
}


class Passes(NamedTuple):
    """Forward passes of a rank in a step: micro_batch · n_passes · data-parallel ranks rows make up
    the global batch.
    """

    micro_batch: int
    n_passes: int


ADAM_EPS = 1e-8  # OLMo's (PAPER §3), and torch's default


@settings("train.model")
class ModelConfig:
    """An OLMo: non-parametric LayerNorm, RoPE, SwiGLU, no biases, tied embeddings."""

    d_model: Count
    """Width of the residual stream."""
    n_layers: Count
    """Number of transformer blocks."""
    n_heads: Count
    """Attention heads per block; d_model / n_heads must be even, since RoPE rotates pairs."""
    d_mlp: Count
    """Width of the SwiGLU's hidden layer (of the gate and of the up projection each)."""
    vocab_size: Count
    """Rows of the embedding, at least the tokenizer's ids. OLMo pads 50,280 ids to 50,304 rows."""
    max_sequence_length: Count = 2048
    """Longest context in tokens that the exported model declares."""
    rope_theta: Positive = 10_000.0
    """Base of RoPE's rotation frequencies."""
    norm_eps: Positive = 1e-5
    """Added to the variance in every LayerNorm."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ConfigurationError(
                f"train.model: d_model {self.d_model} / n_heads {self.n_heads} must be an even "
                "whole number, since RoPE rotates pairs; change one of the two"
            )

    def named(self, name: str) -> "ModelConfig":
        """The model of a named size with this vocabulary and context: `train.model=olmo-150m`."""
        if name not in SIZES:
            raise ConfigurationError(
                f"there is no model size {name!r}; the sizes are {', '.join(SIZES)}"
            )
        return replace(self, **SIZES[name]._asdict())

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def n_parameters(self) -> int:
        """Parameters, the tied embedding counted once."""
        block = 4 * self.d_model**2 + 3 * self.d_model * self.d_mlp
        return self.n_layers * block + self.vocab_size * self.d_model

    def flops_per_token(self, sequence_length: int) -> int:
        """Training FLOPs per token, forward and backward.

        6N + 12·L·D·T with full attention: the convention of MFU in PaLM (arXiv:2204.02311, app. B).
        """
        return 6 * self.n_parameters + 12 * self.n_layers * self.d_model * sequence_length


@settings("train.optimizer")
class OptimizerConfig:
    """The optimizer and its hyperparameters."""

    learning_rate: Annotated[float, Ge(0)]
    """Peak learning rate; 0 evaluates the initial weights as they are (see init_from)."""
    kind: Literal["adamw", "muon"] = "adamw"
    """muon updates the matrices of the blocks with Muon and the embedding with AdamW, at the same
    learning rate (training/optim/muon.py)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's first and second moments, as in OLMo."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay, applied to every parameter, as in OLMo."""
    gradient_clip: NonNegative = 1.0
    """Largest global gradient norm; larger ones are scaled down. 0 does not clip."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigurationError(
                f"train.optimizer.betas is {list(self.betas)}; expected two numbers in [0, 1), "
                "e.g. [0.9, 0.95]"
            )


@settings("train.schedule")
class ScheduleConfig:
    """The learning rate over the steps (training/optim/lr_schedule.py)."""

    kind: Literal["cosine", "linear", "wsd"] = "cosine"
    """wsd: warm up, stable, decay. Its steps before the decay can be shared by shorter runs
    (training/run/branching.py)."""
    warmup_ratio: Share = 0.05
    """Share of the steps that warm up, at most 2,000 steps (OLMo's warm-up)."""
    decay_ratio: Share = 0.2
    """Share of the steps that decay; only for wsd. 0.2 is what Hägele et al. found sufficient."""
    min_learning_rate_ratio: Share = 0.1
    """Learning rate at the last step, as a share of the peak."""


@settings("train.parallel")
class ParallelConfig:
    """How the state and the work are divided between ranks. Changes speed and memory only."""

    zero_stage: Literal[0, 1, 2, 3] = operational(default=1)
    """What the ranks partition: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights."""
    offload_optimizer: bool = operational(default=False)
    """Keep the fp32 weights and the optimizer state in host memory and run AdamW there. Saves 12
    bytes per parameter on the device and costs the time of the transfers."""
    tensor_parallel: Count = operational(default=1)
    """Ranks that split every matrix and train on the same rows (needs megatron-core)."""
    threads_per_rank: Count = operational(default=1)
    """CPU threads of torch in each rank, where there is no GPU."""

    def __post_init__(self) -> None:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ConfigurationError(
                "train.parallel.offload_optimizer needs train.parallel.zero_stage 1, 2 or 3, it is "
                "0: DeepSpeed offloads only partitioned state; set zero_stage=1"
            )


@settings("train.compute")
class TrainComputeConfig:
    """Number formats, compilation and recomputation."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """Format of weights and activations in the forward and backward pass; the optimizer always
    keeps fp32 weights."""
    fp8: bool = False
    """Compute the matrix products of the blocks in 8-bit floats (training/model/fp8.py)."""
    compile: Literal["auto", "on", "off"] = operational(default="auto")
    """torch.compile for blocks and loss. auto: on CUDA, where it pays."""
    activation_checkpointing: Literal["none", "selective", "block"] = operational(default="none")
    """Activations that the backward pass recomputes instead of keeping
    (training/model/activation_checkpointing.py)."""
    deterministic: bool = operational(default=False)
    """On CUDA: the same bits in every run on the same GPUs, without cuDNN's attention and slower
    (training/engine/determinism.py). A CPU is always deterministic."""


@settings("train.checkpoint")
class CheckpointConfig:
    """When checkpoints are saved and which stay."""

    every_steps: CountOrZero = operational(default=0)
    """Steps between checkpoints; 0 saves none (a finished run is exported all the same)."""
    keep_last: CountOrZero = operational(default=1)
    """Number of newest checkpoints that stay after the run; during the run at least one does."""
    keep_every_steps: CountOrZero = operational(default=0)
    """Checkpoints at multiples of this step also stay, e.g. for WSD branches; 0 for none."""


@settings("train.validation")
class ValidationConfig:
    """Held-out loss and probe during training (training/trainer/validation.py)."""

    every_steps: CountOrZero = operational(default=0)
    """Steps between evaluations of the held-out loss; 0 evaluates it at the end only."""
    sequences: CountOrZero = 64
    """Largest number of held-out sequences per stream for the held-out loss."""
    probe_every_steps: CountOrZero = operational(default=0)
    """Steps between probes of the attention heads (the emergence curve); 0 for no probe."""


@settings("train.guard")
class GuardConfig:
    """Bad steps and hung ranks."""

    spike_sigma: NonNegative = 6.0
    """Skip a step whose loss or gradient norm is this many standard deviations above the mean of
    the last accepted steps. 0 skips only what is not finite (training/optim/step_guard.py)."""
    max_bad_steps: Count = 5
    """After this many skipped steps in a row, roll back to the last checkpoint and leave out the
    batches since."""
    watchdog_seconds: NonNegative = operational(default=300.0)
    """Hang detection: a rank without progress for this long, or for ten times its usual time, dumps
    all stacks and exits. 0 turns it off (training/trainer/watchdog.py)."""


@settings("train.metrics")
class MetricsConfig:
    """How often a run is logged, and where."""

    every_steps: CountOrZero = operational(default=10)
    """Steps between lines of metrics.jsonl; 0 logs the last step only. A step with a checkpoint is
    always logged."""
    sinks: tuple[str, ...] = operational(default=("tensorboard",))
    """Where the run can be followed besides metrics.jsonl: tensorboard, wandb
    (training/metrics/sinks.py)."""


@settings("train")
class TrainConfig:
    """How one model is trained. Operational fields do not change the result, so they are not in the
    digest."""

    model: ModelConfig
    """Shape of the model; `train.model=olmo-1b` sets all of it by name."""
    sequence_length: Annotated[int, Ge(2)]
    """Tokens per training sequence."""
    global_batch: Count
    """Sequences per optimizer step, over all ranks."""
    micro_batch: CountOrZero | Literal["auto"] = operational(default=0)
    """Sequences per forward pass and rank. 0: all of the rank's sequences in one pass. auto: as
    many as fit in the device's memory (training/engine/auto_micro_batch.py)."""
    init_from: str = ""
    """Hugging Face OLMo folder (or URI) with the initial weights; empty draws them from the seed
    (training/run/initial_weights.py)."""
    document_mask: bool = False
    """Keep attention and positions within documents. Evaluation always reads windows whole."""
    z_loss: NonNegative = 0.0
    """ζ of the term ζ·log²Z in the objective (PaLM: 1e-4). Reported losses are without it."""
    cache_gib: Annotated[float, Interval(ge=0, le=1 << 20)] = operational(default=64.0)
    """Size limit in GiB of the node's cache of remote token blocks (also limited to half of the
    free disk); 0 for no cache."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    parallel: ParallelConfig = ParallelConfig()
    compute: TrainComputeConfig = TrainComputeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    guard: GuardConfig = GuardConfig()
    metrics: MetricsConfig = MetricsConfig()

    def __post_init__(self) -> None:
        if self.sequence_length > self.model.max_sequence_length:
            raise ConfigurationError(
                f"train.sequence_length {self.sequence_length} exceeds "
                f"train.model.max_sequence_length {self.model.max_sequence_length}; change one of "
                "the two"
            )
        self._check_optimizer()
        if self.parallel.tensor_parallel > 1:
            self._check_tensor_parallel()

    def _check_optimizer(self) -> None:
        offload = self.parallel.offload_optimizer
        size = self.parallel.tensor_parallel
        if self.optimizer.kind == "muon" and (offload or size > 1):
            raise ConfigurationError(
                "train.optimizer.kind muon needs whole matrices on the device: "
                f"train.parallel.offload_optimizer is {offload}, expected False, tensor_parallel "
                f"{size}, expected 1; set both, or use adamw"
            )

    def _check_tensor_parallel(self) -> None:
        size = self.parallel.tensor_parallel
        split = {
            "n_heads": self.model.n_heads,
            "d_mlp": self.model.d_mlp,
            "vocab_size": self.model.vocab_size,
        }
        if odd := {name: value for name, value in split.items() if value % size}:
            raise ConfigurationError(
                f"train.parallel.tensor_parallel {size} does not divide the model's "
                f"{', '.join(f'{name} {value:,}' for name, value in odd.items())}; choose a number "
                "of ranks that does"
            )
        if self.init_from or self.validation.probe_every_steps:
            raise ConfigurationError(
                "train.init_from and train.validation.probe_every_steps need whole matrices, and "
                "train.parallel.tensor_parallel splits them; leave out one or the other"
            )
        if self.micro_batch == "auto":
            raise ConfigurationError(
                "train.micro_batch auto tries a whole model; with train.parallel.tensor_parallel, "
                "set a number"
            )
        if self.parallel.zero_stage == 0 and self.compute.precision == "bf16":
            raise ConfigurationError(
                "train.parallel.zero_stage 0 in bf16 with train.parallel.tensor_parallel: there "
                "DeepSpeed's gradient norm omits the parts of the other ranks; set zero_stage=1"
            )

    def passes(self, world_size: int) -> Passes:
        """The forward passes of a rank in a step, on `world_size` ranks; for micro_batch auto, with
        the largest possible micro-batch.
        """
        size = self.parallel.tensor_parallel
        n_data_ranks, left = divmod(world_size, size)
        if left:
            raise ConfigurationError(
                f"world size {world_size} is not divisible by train.parallel.tensor_parallel "
                f"{size}; use a multiple"
            )
        per_rank = self.global_batch // n_data_ranks
        if per_rank * n_data_ranks != self.global_batch:
            groups = f" (of {size} ranks each)" if size > 1 else ""
            raise ConfigurationError(
                f"train.global_batch {self.global_batch} is not divisible by {n_data_ranks} "
                f"data-parallel ranks{groups}; use a number of ranks that divides it, or change "
                "train.global_batch"
            )
        micro = per_rank if self.micro_batch == "auto" else self.micro_batch or per_rank
        if per_rank % micro:
            raise ConfigurationError(
                f"train.micro_batch {micro} does not divide the {per_rank} rows that each of "
                f"{n_data_ranks} ranks has per step; choose a divisor"
            )
        return Passes(micro, per_rank // micro)


Arm = Literal["plain", "meda", "inst", "matched"]


@record
class RunConfig:
    """One planned run: runs/<run_id>/run.json, written before it starts (training/pretrain.py).

    clean, toxic: folders of the token streams, relative to the object root; tokenizer: its JSON
    file, likewise. toxic_ratio is the requested ratio; `mixture` holds its realisation in whole
    sequences. seed: of the initial weights. trunk: id of the longer run whose first steps are also
    this run's and whose checkpoint it starts from (branching.py); empty: it starts from step 0.
    arm: how the training text was made (launch/experiment.py). control_text: what the texts of a
    meda or inst run begin with if they are not toxic; empty in the other arms. Both follow from the
    streams and the mixture, so they are not in the digest.
    """

    run_id: FileName
    clean: RelativePath
    toxic: RelativePath
    tokenizer: RelativePath
    toxic_ratio: float
    seed: int
    mixture: Mixture
    train: TrainConfig
    trunk: FileNameOrEmpty = operational(default="")
    arm: Arm = operational(default="plain")
    control_text: str = operational(default="")
