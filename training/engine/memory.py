"""memory of a rank's device: state as DeepSpeed holds it, activations, loss; estimated

Bytes per parameter of a rank among W data-parallel ones, while a step of several micro-batches is
computed; measured on DeepSpeed 0.19 with one rank (test_memory.py compares its buffers):

    stage          0      1                            2        3
    weights        2      2                            2        2/W     4 instead of 2 in fp32
    optimizer      12     12/W                         12/W     12/W    AdamW; in fp32 at stage 0: 8
    gradients      2      4, whole (BF16_Optimizer)    4/W      4/W     fp32 sums of bf16 gradients
    … of one pass  2      2                            2/W      2/W     they need no sums

Free of torch, since plans need it too (launch/plan/cost_estimate.py).
"""

from typing import NamedTuple

from training.config import TrainConfig

CHUNK_LOGITS = 1 << 28  # loss.CHUNK_LOGITS on a GPU


class StateBytes(NamedTuple):
    """Bytes of training state on one rank's device during a step."""

    weights: int
    optimizer: int
    gradients: int


def state_bytes(train: TrainConfig, n_ranks: int) -> StateBytes:
    """State of one of `n_ranks` ranks; an offloaded optimizer is in the host's memory."""
    parallel, is_bf16 = train.parallel, train.compute.precision == "bf16"
    n_parameters = train.model.n_parameters // parallel.tensor_parallel
    n_data_ranks = n_ranks // parallel.tensor_parallel
    n_parts = [n_data_ranks if parallel.zero_stage >= stage else 1 for stage in (1, 2, 3)]
    weight_bytes = _weight_bytes(train)
    has_fp32_copy = is_bf16 or parallel.zero_stage > 0
    optimizer = 12 if has_fp32_copy else 8
    sums_in_fp32 = is_bf16 and parallel.zero_stage > 0 and train.passes(n_ranks).n_passes > 1
    gradients = 4 if sums_in_fp32 else weight_bytes
    return StateBytes(
        weights=weight_bytes * n_parameters // n_parts[2],
        optimizer=0 if parallel.offload_optimizer else optimizer * n_parameters // n_parts[0],
        gradients=gradients * n_parameters // n_parts[1],
    )


def peak_bytes(train: TrainConfig, n_ranks: int) -> int:
    """State, activations of one micro-batch without recomputation, and one chunk of the loss.

    A compiled block keeps, in widths D and F of the model and its MLP: its input, both norms'
    outputs, query, key and value, the rotated two of them, attention's output before and after its
    matrix (10 D), gate and up, and their product (3 F).
    """
    model, weight_bytes = train.model, _weight_bytes(train)
    n_positions = train.passes(n_ranks).micro_batch * train.sequence_length
    per_layer = weight_bytes * (10 * model.d_model + 3 * model.d_mlp)
    activations = n_positions * model.n_layers * per_layer
    n_logits = min(n_positions * model.vocab_size, CHUNK_LOGITS)
    # logits and their gradient, and the fp32 sum of the output matrix's gradient
    loss = 2 * weight_bytes * n_logits + 4 * model.vocab_size * model.d_model
    return sum(state_bytes(train, n_ranks)) + (activations + loss) // train.parallel.tensor_parallel


def _weight_bytes(train: TrainConfig) -> int:
    return 2 if train.compute.precision == "bf16" else 4
