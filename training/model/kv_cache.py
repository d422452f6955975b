"""KV cache: keys and values of the positions so far, per layer, for decoding"""

import torch
from torch import Tensor

from training.config import ModelConfig


class KVCache:
    """Keys and values of the positions so far, for decoding.

    Per layer a buffer [B, S_max, N, H], filled up to `length`. What no token has filled is finite:
    attention multiplies it by 0.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (batch_size, max_length, config.n_heads, config.d_head)
        layers = range(config.n_layers)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.max_length = max_length
        self.length = 0

    def append(self, layer: int, k_BTNH: Tensor, v_BTNH: Tensor) -> tuple[Tensor, Tensor]:
        """Write T positions after `length`; return all so far, [B, length + T, N, H].

        The model increases `length`, once per forward pass.
        """
        end = self.length + k_BTNH.shape[1]
        self.keys[layer][:, self.length : end] = k_BTNH
        self.values[layer][:, self.length : end] = v_BTNH
        return self.keys[layer][:, :end], self.values[layer][:, :end]
