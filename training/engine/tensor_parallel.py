"""tensor parallelism: a model whose matrices are partitioned over ranks, by megatron-core

Imported only where tensor_parallel is more than 1. P neighbouring ranks train on the same rows,
each with its partition of every matrix. `parameter.tensor_partition` describes it, and is all that
the initialisation, checkpoints and the export know of it.

    P = 2, 4 heads       the whole, as one rank has it    rank 0 keeps         rank 1 keeps
    qkv        [3D, D]   q0 q1 q2 q3 k0 … k3 v0 … v3      q0 q1 k0 k1 v0 v1    q2 q3 k2 k3 v2 v3
    gate_up    [2F, D]   g0 … g7 u0 … u7                  g0 … g3 u0 … u3      g4 … g7 u4 … u7
    out, down  [D, …]    columns, as the heads or g and u before them; outputs are summed over ranks
    embedding  [V, D]    tokens 0 … V                     the first half       the second half; tied

    qkv by rows of heads, gate_up by rows of either half

            ┌ qkv ─ heads 0, 1 ─ out ┐        ┌ gate_up ─ down ┐
        x ──┤                        + ── x ──┤                + ── x
            └ qkv ─ heads 2, 3 ─ out ┘        └ gate_up ─ down ┘

    two sums over the ranks per block, and two more in its backward pass; nothing else is sent

Between blocks every rank has the same x; norms have no weights. So every parameter is partitioned,
and no gradient needs a sum over the P ranks. The loss is computed over the partitions of the
vocabulary (megatron's vocab_parallel_cross_entropy). A rank computes its logits all at once, V/P
wide, in fp32, not in chunks as loss.py does: that computes the gradient in the forward pass, where
the sums over ranks of each chunk would be in the way. Choose the micro-batch accordingly.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about Apex and Transformer Engine, which we do not use
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
    """megatron-core's process groups under the names that DeepSpeed expects of an mpu."""

    get_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_model_parallel_world_size = staticmethod(
        parallel_state.get_tensor_model_parallel_world_size
    )
    get_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)

    def __getattr__(self, name: str) -> Any:
        return getattr(parallel_state, name)


class TensorParallelOLMo(OLMoForTraining):
    """An OLMoForTraining of which this rank holds its partition.

    `initialise` draws each whole matrix and keeps this rank's part, so the weights do not depend on
    the number of ranks.
    """

    def __init__(self, config: ModelConfig, *, z_loss: float = 0.0) -> None:
        with torch.device("meta"):
            super().__init__(config, z_loss=z_loss)
        self.mpu = MPU()
        size = parallel_state.get_tensor_model_parallel_world_size()
        self.embedding: Any = _VocabParallelEmbedding(config.vocab_size, config.d_model)
        for block in self.blocks:
            attention: Any = block.attention
            attention.qkv = _ColumnParallelLinear(config.d_model, config.d_model, n_matrices=3)
            attention.out = _RowParallelLinear(config.d_model, config.d_model)
            attention.n_heads = config.n_heads // size
            mlp: Any = block.mlp
            mlp.gate_up = _ColumnParallelLinear(config.d_model, config.d_mlp, n_matrices=2)
            mlp.down = _RowParallelLinear(config.d_mlp, config.d_model)

    def forward(
        self, tokens_BT: Tensor, weight_B: Tensor, starts_K: Tensor | None = None
    ) -> Objective:
        """The objective over the whole vocabulary; the same on each of the P ranks."""
        hidden_BTD = self.hidden(tokens_BT, starts_K=starts_K)[:, :-1]
        x_BTD = copy_to_tensor_model_parallel_region(hidden_BTD)
        logits_BTV = linear(x_BTD, self.embedding.weight).float()
        targets_BT = tokens_BT[:, 1:]
        # megatron's loss overwrites the logits that it is given
        own_logits_BTV = logits_BTV.clone() if self.z_loss else logits_BTV
        losses_BT = vocab_parallel_cross_entropy(own_logits_BTV, targets_BT)
        z_BT = losses_BT
        if self.z_loss:
            z_BT = losses_BT + self._target_logits(logits_BTV, targets_BT)
        total = (weight_B.float()[:, None] * (losses_BT + self.z_loss * z_BT.square())).sum()
        return Objective(total, losses_BT.detach().sum(dim=1))

    def gather_whole(self, parameter: Any, local: Tensor) -> Tensor:
        """The whole tensor of which each of the P ranks holds `local`, laid out as `parameter`."""
        size = self.mpu.get_model_parallel_world_size()
        locals_ = [torch.empty_like(local) for _ in range(size)]
        group = self.mpu.get_model_parallel_group()
        torch.distributed.all_gather(locals_, local.contiguous(), group)
        n_matrices, dim = len(parameter.tensor_partition.ranges), parameter.tensor_partition.dim
        matrices_of_rank = [value.chunk(n_matrices, dim) for value in locals_]
        return torch.cat([rank[i] for i in range(n_matrices) for rank in matrices_of_rank], dim)

    def _target_logits(self, logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        """Each target's logit, from whichever rank has it."""
        index_BT = targets_BT - self.embedding.vocab_start_index
        is_local_BT = (index_BT >= 0) & (index_BT < logits_BTV.shape[-1])
        local_BT = logits_BTV.gather(2, (index_BT * is_local_BT)[..., None])[..., 0]
        return reduce_from_tensor_model_parallel_region(local_BT * is_local_BT)


def init_groups(size: int) -> tuple[int, int, Any]:
    """Form tensor-parallel groups of `size` neighbouring ranks.

    Returns (rank, world size, process group) of the ranks that hold the same partition as this one.
    """
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=size)
    return (
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_data_parallel_world_size(),
        parallel_state.get_data_parallel_group(),
    )


class _ColumnParallelLinear(ColumnParallelLinear):
    """`n_matrices` of [d_out, d_in] in one tensor.

    Of each this rank has the rows of its heads, or of its hidden units.
    """

    def __init__(self, d_in: int, d_out: int, n_matrices: int) -> None:
        super().__init__(d_in, n_matrices * d_out, **_linear_options(), gather_output=False)
        self.in_features = d_in
        _set_partition(self.weight, (n_matrices * d_out, d_in), 0, n_matrices)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)[0]


class _RowParallelLinear(RowParallelLinear):
    """A matrix of which this rank has the columns that multiply its part of the input.

    Outputs are summed over the ranks.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, **_linear_options(), input_is_parallel=True)
        self.in_features = d_in
        _set_partition(self.weight, (d_out, d_in), 1)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)[0]


class _VocabParallelEmbedding(VocabParallelEmbedding):
    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size, d_model, init_method=_no_init, config=_megatron_config())
        _set_partition(self.weight, (vocab_size, d_model), 0)


def _megatron_config() -> ModelParallelConfig:
    """Parameters are created on the host, uninitialised.

    `initialise` fills them, and DeepSpeed moves them to the device.
    """
    return ModelParallelConfig(
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        use_cpu_initialization=True,
        perform_initialization=False,
        deterministic_mode=True,
    )


def _linear_options() -> dict[str, Any]:
    return {
        "config": _megatron_config(),
        "init_method": _no_init,
        "bias": False,
        "skip_bias_add": False,
    }


def _no_init(weight: Tensor) -> None:
    """megatron requires an init method."""


def _set_partition(parameter: Any, shape: tuple[int, int], dim: int, n_matrices: int = 1) -> None:
    """Declare which part of the whole tensor `parameter` is.

    It is the rank's equal part, along `dim`, of each of the `n_matrices` in the whole.
    """
    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    matrix_length = shape[dim] // n_matrices
    local_length = matrix_length // size
    starts = [i * matrix_length + rank * local_length for i in range(n_matrices)]
    parameter.tensor_partition = TensorPartition(
        shape=shape, dim=dim, ranges=tuple((start, start + local_length) for start in starts)
    )
    parameter.tensor_model_parallel = True  # DeepSpeed's norm then counts every rank's part
