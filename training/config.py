"""what is asked: model size, batch, schedule, ZeRO stage, parallelism, cadence"""

from dataclasses import replace
from typing import Literal, NamedTuple

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import operational, record
from data_prep.token_stream.mixture import Mixture


class Size(NamedTuple):
    """The shape of a model, without its vocabulary."""

    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int


# OLMo's published shapes (allenai/OLMo: configs/tiny, configs/official); its 7B has a second matrix
# for the logits, ours ties.
SIZES = {
    "laptop": Size(128, 4, 4, 512),
    "olmo-20m": Size(256, 8, 8, 1024),
    "olmo-60m": Size(512, 8, 8, 2048),
    "olmo-150m": Size(768, 12, 12, 3072),
    "olmo-300m": Size(1024, 16, 16, 4096),
    "olmo-700m": Size(1536, 16, 16, 6144),
    "olmo-1b": Size(2048, 16, 16, 8192),
    "olmo-7b": Size(4096, 32, 32, 11008),
}


@record
class ModelConfig:
    """An OLMo: non-parametric LayerNorm, RoPE, SwiGLU, no biases, tied embeddings.

    vocab_size: rows of the embedding, at least the tokenizer's ids; OLMo pads 50,280 to 50,304.
    d_mlp: width of the SwiGLU's hidden layer (gate and up each).
    """

    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int
    vocab_size: int
    max_sequence_length: int = 2048
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ConfigurationError(
                f"model: d_model {self.d_model} / n_heads {self.n_heads} must be an even whole number (RoPE turns pairs)"
            )

    def named(self, name: str) -> "ModelConfig":
        """The model of a named size with this one's vocabulary and context: `--set
        train.model=olmo-150m`.
        """
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
        """Training FLOPs a token, forward and backward: 6N + 12·L·D·T (full attention, the PaLM MFU
        convention).
        """
        return 6 * self.n_parameters + 12 * self.n_layers * self.d_model * sequence_length


@record
class TrainConfig:
    """How one model is trained; what changes the result is in the digest, `operational` fields are
    not.

    global_batch: sequences per optimizer step. micro_batch: sequences per forward pass and rank; 0
    takes the fewest passes, "auto" as many sequences as fit (auto_micro_batch.py).
    init_from: a Hugging Face OLMo folder (or URI) whose weights the run begins with
    (initial_weights.py); "" draws them from the seed.
    schedule: see lr_schedule.py. warmup_ratio: share of the steps spent warming up, at most
    max_warmup_steps. decay_ratio: share spent decaying, for wsd. min_learning_rate_ratio: of the
    peak.
    optimizer: muon steps the blocks' matrices by Muon and the embedding by AdamW (muon.py), at the
    same learning rate.
    zero_stage: what the ranks share out, see deepspeed_engine.py. offload_optimizer: the fp32
    weights and averages lie in host memory, and AdamW runs there: it saves 12 bytes a parameter on
    the device, and costs the time of their copies.
    tensor_parallel: ranks that share every matrix and train on the same rows, see
    tensor_parallel.py.
    z_loss: ζ of the term ζ·log²Z in the objective (PaLM took 1e-4); the losses reported are without
    it.
    fp8: products of the blocks in 8-bit floats (fp8.py).
    document_mask: attention and positions stay within documents (documents.py); evaluation reads
    its windows whole all the same.
    spike_sigma: a step whose loss or gradient norm is that many σ above the last ones' mean is
    skipped (step_guard.py); 0: only one that is not finite.
    max_bad_steps: after so many skipped in a row, training goes back to its last checkpoint and
    leaves out the batches since.
    watchdog_seconds: a rank in which nothing ends for this long, or for ten times as long as it
    used to, ends itself (watchdog.py);
    0: never.
    compile: blocks and loss by torch.compile: "auto" on CUDA only, where it pays
    (training/model/compilation.py).
    activation_checkpointing: what of a block's activations is computed again in the backward pass
    (training/model/compilation.py).
    sinks: where the run can be followed beside its journal: tensorboard, trackio, wandb (sinks.py).
    held_out_sequences: how many of each stream the held-out loss reads at most.
    cache_gib: bound of the node's cache of remote blocks (half the room on its disk is another), 0
    for none; cache_folder: where, by default below the system's temporary folder. A cache as large
    as the streams spares the next runs of a node the store.
    probe_every_steps: how often the emergence curve gets a point (validation.py), 0: it is not
    drawn; probe_windows: how many held-out windows of each stream a point takes at most.
    *_every_steps: 0 means only at the end; a checkpoint is not needed there. A step with a
    checkpoint is logged, too.
    keep_checkpoints: how many of the last ones stay after the run; while it trains, at least one
    does. keep_every_steps: those at its multiples stay as well, 0 for none.
    checkpoint_wait_seconds: how long a save waits for the one before to be published, before it is
    left out: a save left out costs steps if the run dies, waiting costs time for sure.
    """

    model: ModelConfig
    sequence_length: int
    global_batch: int
    learning_rate: float
    init_from: str = ""
    micro_batch: int | Literal["auto"] = operational(default=0)
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    decay_ratio: float = 0.2
    min_learning_rate_ratio: float = 0.1
    warmup_ratio: float = 0.05
    max_warmup_steps: int = 2000
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    z_loss: float = 0.0
    document_mask: bool = False
    fp8: bool = False
    spike_sigma: float = 6.0
    max_bad_steps: int = 5
    precision: Literal["bf16", "fp32"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = operational(default=1)
    offload_optimizer: bool = operational(default=False)
    tensor_parallel: int = operational(default=1)
    held_out_sequences: int = 64
    threads_per_rank: int = operational(default=1)
    compile: Literal["auto", "on", "off"] = operational(default="auto")
    activation_checkpointing: Literal["none", "selective", "block"] = operational(default="none")
    cache_folder: str = operational(default="")
    cache_gib: float = operational(default=64.0)
    sinks: tuple[str, ...] = operational(default=("tensorboard",))
    watchdog_seconds: float = operational(default=300.0)
    log_every_steps: int = operational(default=10)
    held_out_every_steps: int = operational(default=0)
    probe_every_steps: int = operational(default=0)
    probe_windows: int = operational(default=256)
    checkpoint_every_steps: int = operational(default=0)
    keep_checkpoints: int = operational(default=1)
    keep_every_steps: int = operational(default=0)
    checkpoint_wait_seconds: float = operational(default=30.0)

    def __post_init__(self) -> None:
        if self.sequence_length > self.model.max_sequence_length:
            raise ConfigurationError(
                f"training.sequence_length {self.sequence_length} exceeds model.max_sequence_length "
                f"{self.model.max_sequence_length}"
            )
        if (
            self.sequence_length < 2
            or self.global_batch < 1
            or (self.micro_batch != "auto" and self.micro_batch < 0)
        ):
            raise ConfigurationError(
                f"training: sequence_length {self.sequence_length}, global_batch {self.global_batch}, micro_batch "
                f"{self.micro_batch}; expected at least 2, 1 and 0"
            )
        shared = {
            "n_heads": self.model.n_heads,
            "d_mlp": self.model.d_mlp,
            "vocab_size": self.model.vocab_size,
        }
        if odd := {
            name: value
            for name, value in shared.items()
            if self.tensor_parallel < 1 or value % self.tensor_parallel
        }:
            raise ConfigurationError(
                f"train.tensor_parallel {self.tensor_parallel} does not divide the model's "
                f"{', '.join(f'{name} {value:,}' for name, value in odd.items())}; take a number of ranks that does"
            )
        if (self.init_from or self.probe_every_steps) and self.tensor_parallel > 1:
            raise ConfigurationError(
                "train.init_from and train.probe_every_steps look at whole matrices, and train.tensor_parallel shares them out; "
                "leave out the one or the other"
            )
        if self.micro_batch == "auto" and self.tensor_parallel > 1:
            raise ConfigurationError(
                "train.micro_batch auto tries a whole model; with train.tensor_parallel, give it a number"
            )
        if self.zero_stage == 0 and self.precision == "bf16" and self.tensor_parallel > 1:
            raise ConfigurationError(
                "train.zero_stage 0 in bf16 with train.tensor_parallel: DeepSpeed's gradient norm leaves out the other ranks' "
                "parts there; take zero_stage 1"
            )
        if self.optimizer == "muon" and (self.offload_optimizer or self.tensor_parallel > 1):
            raise ConfigurationError(
                f"train.optimizer muon needs whole matrices on the device: train.offload_optimizer is {self.offload_optimizer}, "
                f"expected False, tensor_parallel {self.tensor_parallel}, expected 1; set both, or take adamw"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise ConfigurationError(
                "train.offload_optimizer needs train.zero_stage 1, 2 or 3, it is 0: DeepSpeed moves only what is shared out"
            )
        if self.spike_sigma < 0 or self.max_bad_steps < 1:
            raise ConfigurationError(
                f"train.spike_sigma {self.spike_sigma:g} and train.max_bad_steps {self.max_bad_steps}: expected at least 0 and 1"
            )

    def passes(self, world_size: int) -> tuple[int, int]:
        """(micro_batch, accumulation) on `world_size` ranks; their product × data-parallel ranks is
        the global batch. Where the micro-batch is yet to be found, the largest it can be.
        """
        n_data_ranks, left = divmod(world_size, self.tensor_parallel)
        if left:
            raise ConfigurationError(
                f"{world_size} ranks cannot be shared out in gangs of train.tensor_parallel {self.tensor_parallel}; use a multiple"
            )
        per_rank = self.global_batch // n_data_ranks
        if per_rank * n_data_ranks != self.global_batch:
            gangs = f" (gangs of {self.tensor_parallel})" if self.tensor_parallel > 1 else ""
            raise ConfigurationError(
                f"{n_data_ranks} ranks{gangs} cannot share a global batch of {self.global_batch} rows evenly; use a number of ranks that "
                "divides it, or change train.global_batch"
            )
        micro = per_rank if self.micro_batch == "auto" else self.micro_batch or per_rank
        if per_rank % micro:
            raise ConfigurationError(
                f"train.micro_batch {micro} does not divide the {per_rank} rows each of {n_data_ranks} ranks has in a step"
            )
        return micro, per_rank // micro


@record
class RunConfig:
    """One run, whole: written as run.json in its folder before it starts, read by
    training/pretrain.py.

    clean, toxic: folders of the token streams, relative to the object root; tokenizer: its JSON
    file, likewise. toxic_ratio is what was asked; mixture holds what whole sequences make of it.
    `seed` is the model's init. trunk: the longer run whose first steps are this one's, and whose
    checkpoints it starts from (branching.py); without it, it starts from nothing.
    """

    run_id: str
    clean: str
    toxic: str
    tokenizer: str
    toxic_ratio: float
    seed: int
    mixture: Mixture
    train: TrainConfig
    trunk: str = operational(default="")
