"""SubjectModel: what an evaluation needs of the model that it probes, steers and scores

Two classes implement it: our OLMo (olmo_subject.py), the fast path for the runs of a sweep, and any
causal language model of transformers whose family is in architectures.py (transformers_subject.py).
Everything else in eval/ uses this interface alone.

Shapes: B batch, K rows of it, T positions, D model, N heads, H head dim, V vocab.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from eval.config import Site


class ModelShape(NamedTuple):
    """Sizes of a model. n_kv_heads: heads that have keys and values of their own; fewer than
    n_heads with grouped queries. n_heads · d_head may differ from d_model.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    vocab_size: int
    max_sequence_length: int


class HookPoint(NamedTuple):
    """A place that is read and steered: a module's input, or else its output."""

    module: nn.Module
    is_input: bool


Cache = TypeVar("Cache", bound="DecodingCache")


class DecodingCache(Protocol):
    """Keys and values of the positions that a batch of rows has read."""

    @property
    def length(self) -> int:
        """Number of positions, padding included."""
        ...

    def select(self: Cache, rows_K: Tensor, n_positions: int, *, is_kept: bool = False) -> Cache:
        """A cache of these rows in this order, with room for n_positions; a row may be named more
        than once. This cache loses its content unless it is kept.
        """
        ...

    def put(self, rows_K: Tensor, source: Any, source_rows_K: Tensor) -> None:
        """Give rows of this cache what rows of another one hold, or of this one. It ends where this
        cache ends, and may be shorter; what is before it has no meaning.
        """
        ...

    def move_end(self, length: int) -> None:
        """Move what all rows hold, so that it ends at `length`: earlier, at the loss of the first
        positions, or later, behind positions without meaning.
        """
        ...

    def narrow(self, n_rows: int) -> None:
        """Keep the first rows alone."""
        ...


class SubjectModel(Protocol):
    """A causal language model in evaluation mode."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        ...

    @property
    def attention_kernel(self) -> str:
        """What computes attention without a mask, for the report."""
        ...

    def untrained(self, seed: int) -> "SubjectModel":
        """A model of the same architecture with random weights, as before training."""
        ...

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        cache: Any = None,
        padding_B: Tensor | None = None,
    ) -> Tensor:
        """Hidden states behind the final norm, [B, T, D].

        cache: of `empty_cache`; holds the positions before these, and stores these. padding_B:
        number of padding tokens at the left of each row; positions count from the first real token.
        With a cache, pass the same numbers in every call.
        """
        ...

    def unembed(self, x_BTD: Tensor, /) -> Tensor:
        """Logits of hidden states behind the final norm, [B, T, V]."""
        ...

    def empty_cache(self, n_rows: int, n_positions: int) -> DecodingCache:
        """A cache for `n_rows` rows with room for `n_positions`."""
        ...

    def hook_point(self, site: Site, layer: int) -> HookPoint:
        """Where a layer's heads, MLP output or residual stream (model/hook_points.py) are."""
        ...

    def output_weight(self, layer: int) -> Tensor:
        """W_O, [D, N·H] in fp32: attention's output is W_O·heads, plus its bias if there is one."""
        ...

    def to_residual(self, layer: int, output_BD: Tensor) -> Tensor:
        """What a change of attention's output adds to the residual stream, up to a positive factor:
        the linear part of a norm between them, if the family has one.
        """
        ...

    def lens(self, residual_BD: Tensor, n_ids: int) -> Tensor:
        """What a change of the residual stream does to the logits of the first n_ids ids by itself,
        up to a positive factor, in fp32: the linear part of the final norm, and the output matrix.
        """
        ...
