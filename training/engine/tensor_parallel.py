"""megatron-core's parallel layers and groups, or plain ones when tp = 1: a model whose matrices are
shared out over ranks

Imported only where tensor_parallel is more than 1. P neighbouring ranks train on the same rows,
each with its part of every matrix; a parameter's `cut` says which part, and is all that the init,
checkpoints and the export know of it.

    P = 2, 4 heads       the whole, as one rank has it    rank 0 keeps         rank 1 keeps
    qkv        [3D, D]   q0 q1 q2 q3 k0 … k3 v0 … v3      q0 q1 k0 k1 v0 v1    q2 q3 k2 k3 v2 v3     rows, by heads
    gate_up    [2F, D]   g0 … g7 u0 … u7                  g0 … g3 u0 … u3      g4 … g7 u4 … u7       rows, by halves
    out, down  [D, …]    columns, as the heads or g and u before them           …                    columns: outputs are summed
    embedding  [V, D]    tokens 0 … V                     the first half       the second half       rows; tied

            ┌ qkv ─ heads 0, 1 ─ out ┐        ┌ gate_up ─ down ┐
        x ──┤                        + ── x ──┤                + ── x         two sums over the ranks in a block, and two more in
            └ qkv ─ heads 2, 3 ─ out ┘        └ gate_up ─ down ┘              its backward pass; between them, nothing is sent

Between blocks every rank has the same x; norms have no weights. So every parameter has a cut, and
no gradient needs a sum over the P ranks. The loss is taken over the parts of the vocabulary
(megatron's vocab_parallel_cross_entropy); a rank's logits are made as a whole, V/P wide, in fp32,
and not in chunks as loss.py does: the sums over ranks of each chunk would be in the way of the
gradient that loss.py makes beside its forward pass. A micro-batch is to be chosen with them in
mind.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it misses Apex and Transformer Engine, which we do without
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
        vocab_parallel_cross_entropy,
    )

from training.config import ModelConfig
from training.engine.state_layout import TensorPartition
from training.model.loss import Objective, OLMoForTraining
from training.model.olmo import linear


class MPU:
    """megatron-core's groups by the names that DeepSpeed knows them by."""

    get_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_model_parallel_world_size = staticmethod(
        parallel_state.get_tensor_model_parallel_world_size
    )
    get_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)

    def __getattr__(self, name: str) -> Any:
        return getattr(parallel_state, name)


class TensorParallelOLMo(OLMoForTraining):
    """A TrainedOLMo of which this rank holds its part; `initialise` draws each whole matrix and
    keeps the part.
    """

    def __init__(self, config: ModelConfig, *, z_loss: float = 0.0) -> None:
        with torch.device("meta"):
            super().__init__(config, z_loss=z_loss)
        self.mpu, size = MPU(), parallel_state.get_tensor_model_parallel_world_size()
        self.embedding: Any = _Embedding(config.vocab_size, config.d_model)
        for block in self.blocks:
            attention: Any = block.attention
            attention.qkv = _Columns(config.d_model, config.d_model, n_matrices=3)
            attention.out = _Rows(config.d_model, config.d_model)
            attention.n_heads = config.n_heads // size
            mlp: Any = block.mlp
            mlp.gate_up = _Columns(config.d_model, config.d_mlp, n_matrices=2)
            mlp.down = _Rows(config.d_mlp, config.d_model)

    def forward(
        self, tokens_BT: Tensor, weight_B: Tensor, starts_K: Tensor | None = None
    ) -> Objective:
        """As TrainedOLMo's, over the parts of the vocabulary; the same on each of the P ranks."""
        x_BTD = copy_to_tensor_model_parallel_region(
            self.hidden(tokens_BT, starts_K=starts_K)[:, :-1]
        )
        logits_BTV, targets_BT = linear(x_BTD, self.embedding.weight).float(), tokens_BT[:, 1:]
        losses_BT = vocab_parallel_cross_entropy(
            logits_BTV.clone() if self.z_loss else logits_BTV, targets_BT
        )  # works in place
        z_BT = losses_BT + self._logits_of(logits_BTV, targets_BT) if self.z_loss else losses_BT
        total = (weight_B.float()[:, None] * (losses_BT + self.z_loss * z_BT.square())).sum()
        return Objective(total, losses_BT.detach().sum(dim=1))

    def whole(self, parameter: Any, part: Tensor) -> Tensor:
        """The whole tensor of which each of the P ranks holds `part`, laid out as `parameter` is."""
        parts = [torch.empty_like(part) for _ in range(self.mpu.get_model_parallel_world_size())]
        torch.distributed.all_gather(parts, part.contiguous(), self.mpu.get_model_parallel_group())
        n_ranges, dim = len(parameter.cut.ranges), parameter.cut.dim
        return torch.cat(
            [value.chunk(n_ranges, dim)[i] for i in range(n_ranges) for value in parts], dim
        )

    def _logits_of(self, logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        """Each target's logit, from whichever rank has it."""
        here_BT = targets_BT - self.embedding.vocab_start_index
        mine_BT = (here_BT >= 0) & (here_BT < logits_BTV.shape[-1])
        found_BT = logits_BTV.gather(2, (here_BT * mine_BT)[..., None])[..., 0] * mine_BT
        return reduce_from_tensor_model_parallel_region(found_BT)


def init_groups(size: int) -> tuple[int, int, Any]:
    """Share the ranks out in gangs of `size` neighbours; (rank, world size, group) of those that
    hold the same part as this one.
    """
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=size)
    ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    return *ranks, parallel_state.get_data_parallel_group()


class _Columns(ColumnParallelLinear):
    """`n_matrices` of [d_out, d_in] in one, of each of which this rank has the rows of its heads,
    or of its hidden units.
    """

    def __init__(self, d_in: int, d_out: int, n_matrices: int) -> None:
        super().__init__(d_in, n_matrices * d_out, **_plain(), gather_output=False)
        self.in_features = d_in
        _cut(self.weight, (n_matrices * d_out, d_in), 0, n_matrices)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)[0]


class _Rows(RowParallelLinear):
    """A matrix of which this rank has the columns that multiply its part of the input; the products
    are summed.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, **_plain(), input_is_parallel=True)
        self.in_features = d_in
        _cut(self.weight, (d_out, d_in), 1)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)[0]


class _Embedding(VocabParallelEmbedding):
    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size, d_model, init_method=_leave, config=_megatron())
        _cut(self.weight, (vocab_size, d_model), 0)


def _megatron() -> ModelParallelConfig:
    """Parameters are made on the host and left as they are: `initialise` fills them, and DeepSpeed
    moves them.
    """
    return ModelParallelConfig(
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        use_cpu_initialization=True,
        perform_initialization=False,
        deterministic_mode=True,
    )


def _plain() -> dict[str, Any]:
    return {"config": _megatron(), "init_method": _leave, "bias": False, "skip_bias_add": False}


def _leave(weight: Tensor) -> None:
    """megatron asks for an init."""


def _cut(parameter: Any, shape: tuple[int, int], dim: int, n_matrices: int = 1) -> None:
    """Say which part of the whole `parameter` is: of each of the matrices in it, along `dim`, this
    rank's share.
    """
    rank, size = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    matrix = shape[dim] // n_matrices
    share = matrix // size
    parameter.cut = TensorPartition(
        shape=shape,
        dim=dim,
        ranges=tuple(
            (i * matrix + rank * share, i * matrix + (rank + 1) * share) for i in range(n_matrices)
        ),
    )
    parameter.tensor_model_parallel = True  # so that DeepSpeed's norm counts every rank's part
