"""our OLMo as the subject of an evaluation"""

from pathlib import Path

import torch
from torch import Tensor

from eval.config import Site
from eval.model.subject.subject_model import HookPoint, ModelShape
from training.config import ModelConfig
from training.model.attention import kernel_name
from training.model.hf_export import load_export
from training.model.kv_cache import KVCache
from training.model.olmo import OLMo


class OLMoSubject(OLMo):
    """An OLMo that an evaluation can read and steer (SubjectModel)."""

    @property
    def shape(self) -> ModelShape:
        return shape_of(self.config)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def attention_kernel(self) -> str:
        return kernel_name(self.device, self.dtype)

    def untrained(self, seed: int) -> "OLMoSubject":
        model = OLMoSubject(self.config)
        model.initialise(seed)
        return model.to(self.device, self.dtype).eval().requires_grad_(False)

    def empty_cache(self, n_rows: int, n_positions: int) -> "OLMoCache":
        return OLMoCache(self.config, n_rows, n_positions, dtype=self.dtype, device=self.device)

    def hook_point(self, site: Site, layer: int) -> HookPoint:
        block = self.blocks[layer]
        if site == "heads":
            return HookPoint(block.attention.out, is_input=True)
        return HookPoint(block.mlp if site == "mlp" else block, is_input=False)

    def output_weight(self, layer: int) -> Tensor:
        return self.blocks[layer].attention.out.weight.detach().float()

    def to_residual(self, layer: int, output_BD: Tensor) -> Tensor:
        return output_BD

    def lens(self, residual_BD: Tensor, n_ids: int) -> Tensor:
        unembedding_VD = self.embedding.weight.detach()[:n_ids].float()
        return (residual_BD - residual_BD.mean(-1, keepdim=True)) @ unembedding_VD.T


class OLMoCache(KVCache):
    """Keys and values of a batch, from which rows can be selected (DecodingCache)."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(config, batch_size, max_length, dtype=dtype, device=device)
        self._config = config

    def select(self, rows_K: Tensor, n_positions: int, *, is_kept: bool = False) -> "OLMoCache":
        keys = self.keys[0]
        chosen = OLMoCache(
            self._config, len(rows_K), n_positions, dtype=keys.dtype, device=keys.device
        )
        # layer by layer, so that no more than one layer of this cache exists twice
        for source, target in ((self.keys, chosen.keys), (self.values, chosen.values)):
            for layer in range(len(source)):
                target[layer][:, : self.length] = source[layer][rows_K, : self.length]
                if not is_kept:
                    source[layer] = source[layer][:0]
        chosen.length = self.length
        return chosen

    def put(self, rows_K: Tensor, source: "OLMoCache", source_rows_K: Tensor) -> None:
        n, end = source.length, self.length
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for layer in range(len(mine)):
                of_rows = theirs[layer][source_rows_K, :n]
                mine[layer][:, end - n : end].index_copy_(0, rows_K, of_rows)

    def move_end(self, length: int) -> None:
        n_kept = min(length, self.length)
        kept, target = slice(self.length - n_kept, self.length), slice(length - n_kept, length)
        for tensors in (self.keys, self.values):
            for of_layer in tensors:
                of_layer[:, target] = of_layer[:, kept].clone()
        self.length = length

    def narrow(self, n_rows: int) -> None:
        for tensors in (self.keys, self.values):
            tensors[:] = [of_layer[:n_rows] for of_layer in tensors]


def shape_of(config: ModelConfig) -> ModelShape:
    """The sizes of our OLMo."""
    return ModelShape(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_heads,
        d_head=config.d_head,
        d_model=config.d_model,
        d_mlp=config.d_mlp,
        vocab_size=config.vocab_size,
        max_sequence_length=config.max_sequence_length,
    )


def load_olmo(folder: Path, dtype: torch.dtype) -> OLMoSubject:
    """An OLMo that our model computes exactly (hf_export.read_model_config), on the CPU."""
    model, _ = load_export(folder, dtype, OLMoSubject)
    return model
