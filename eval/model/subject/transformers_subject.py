"""any causal language model of transformers as the subject of an evaluation

transformers' own modules compute everything; hooks read and steer them at the places that
architectures.py names. This is the only module of eval/ that imports transformers.
"""

import copy
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, summary
from eval.config import Site
from eval.model.subject.architectures import Architecture
from eval.model.subject.model_folder import ModelFolder
from eval.model.subject.subject_model import HookPoint, ModelShape

N_SHOWN = 3  # names of tensors in an error


class TransformersSubject:
    """A model of transformers behind the interface of SubjectModel."""

    def __init__(self, model: Any, architecture: Architecture) -> None:
        self._model = model
        self._architecture = architecture
        self._body: Any = getattr(model, architecture.body)
        self._blocks: Any = getattr(self._body, architecture.blocks)
        self.shape = self._measured_shape()

    @property
    def device(self) -> torch.device:
        return self._head.device

    @property
    def dtype(self) -> torch.dtype:
        return self._head.dtype

    @property
    def attention_kernel(self) -> str:
        return "SDPA"

    def to(self, device: torch.device) -> "TransformersSubject":
        """The model, moved to a device."""
        self._model.to(device)
        return self

    def untrained(self, seed: int) -> "TransformersSubject":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = type(self._model)(copy.deepcopy(self._model.config))
        model.to(self.device, self.dtype).eval().requires_grad_(False)
        return TransformersSubject(model, self._architecture)

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        cache: "TransformersCache | None" = None,
        padding_B: Tensor | None = None,
    ) -> Tensor:
        arguments: dict[str, Any] = {"use_cache": False}
        if cache:
            arguments = {"use_cache": True, "past_key_values": cache.past}
        if padding_B is not None:
            start = cache.length if cache else 0
            slot_S = torch.arange(start + tokens_BT.shape[1], device=tokens_BT.device)
            offset_BS = slot_S - padding_B[:, None]
            arguments["attention_mask"] = offset_BS >= 0
            arguments["position_ids"] = offset_BS[:, start:].clamp(min=0)
        return self._body(input_ids=tokens_BT, **arguments).last_hidden_state

    def unembed(self, x_BTD: Tensor, /) -> Tensor:
        return self._model.lm_head(x_BTD)

    def empty_cache(self, n_rows: int, n_positions: int) -> "TransformersCache":
        from transformers import DynamicCache

        past: Any = DynamicCache(config=self._model.config)
        size = (n_rows, self.shape.n_kv_heads, 0, self.shape.d_head)
        for layer in past.layers:
            empty = torch.empty(size, dtype=self.dtype, device=self.device)
            layer.lazy_initialization(empty, empty)
            layer.keys, layer.values = empty, empty
        return TransformersCache(past)

    def hook_point(self, site: Site, layer: int) -> HookPoint:
        block = self._blocks[layer]
        if site == "heads":
            return HookPoint(self._output_projection(layer), is_input=True)
        if site == "mlp":
            return HookPoint(attrgetter(self._architecture.mlp)(block), is_input=False)
        return HookPoint(block, is_input=False)

    def output_weight(self, layer: int) -> Tensor:
        weight = self._output_projection(layer).weight.detach().float()
        return weight.T if self._architecture.is_transposed else weight

    def to_residual(self, layer: int, output_BD: Tensor) -> Tensor:
        if not self._architecture.norm_after_attention:
            return output_BD
        norm = attrgetter(self._architecture.norm_after_attention)(self._blocks[layer])
        return output_BD * norm.weight.detach().float()

    def lens(self, residual_BD: Tensor, n_ids: int) -> Tensor:
        if self._architecture.centres:
            residual_BD = residual_BD - residual_BD.mean(-1, keepdim=True)
        gain = getattr(getattr(self._body, self._architecture.final_norm), "weight", None)
        if gain is not None:
            residual_BD = residual_BD * gain.detach().float()
        return residual_BD @ self._head.detach()[:n_ids].float().T

    @property
    def _head(self) -> Tensor:
        """The output matrix, [V, D]."""
        return self._model.lm_head.weight

    def _output_projection(self, layer: int) -> Any:
        return attrgetter(self._architecture.output_projection)(self._blocks[layer])

    def _measured_shape(self) -> ModelShape:
        config = self._model.config
        n_heads = config.num_attention_heads
        d_model = config.hidden_size
        # in GPT-2's config n_inner may be None: then it is 4 · d_model
        d_mlp = getattr(config, "intermediate_size", getattr(config, "n_inner", None))
        return ModelShape(
            n_layers=len(self._blocks),
            n_heads=n_heads,
            n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
            d_head=self.output_weight(0).shape[1] // n_heads,
            d_model=d_model,
            d_mlp=d_mlp or 4 * d_model,
            vocab_size=len(self._head),
            max_sequence_length=config.max_position_embeddings,
        )


class TransformersCache:
    """A cache of transformers, from which rows can be selected (DecodingCache). It grows as it is
    needed; layers with a sliding window keep no more than the window.
    """

    def __init__(self, past: Any) -> None:
        self.past = past

    @property
    def length(self) -> int:
        return self.past.get_seq_length()

    def select(
        self, rows_K: Tensor, n_positions: int, *, is_kept: bool = False
    ) -> "TransformersCache":
        chosen = self.past
        if is_kept:
            chosen = copy.copy(self.past)
            chosen.layers = [copy.copy(layer) for layer in self.past.layers]
        chosen.batch_select_indices(rows_K)  # gives the layers new tensors
        return TransformersCache(chosen)

    def put(self, rows_K: Tensor, source: "TransformersCache", source_rows_K: Tensor) -> None:
        for mine, theirs in zip(self.past.layers, source.past.layers, strict=True):
            n_read = theirs.keys.shape[2]
            start = mine.keys.shape[2] - n_read
            mine.keys[rows_K, :, start:] = theirs.keys[source_rows_K]
            mine.values[rows_K, :, start:] = theirs.values[source_rows_K]

    def move_end(self, length: int) -> None:
        for layer in self.past.layers:
            n_kept = length
            if layer.is_sliding:
                n_kept = min(length, layer.sliding_window - 1)
                layer.cumulative_length = length
            layer.keys, layer.values = (_last(x, n_kept) for x in (layer.keys, layer.values))

    def narrow(self, n_rows: int) -> None:
        for layer in self.past.layers:
            layer.keys, layer.values = layer.keys[:n_rows], layer.values[:n_rows]


def _last(x_BNSH: Tensor, n: int) -> Tensor:
    """The last n positions; zeros stand before them where there are fewer."""
    n_missing = n - x_BNSH.shape[2]
    return F.pad(x_BNSH, (0, 0, n_missing, 0)) if n_missing > 0 else x_BNSH[:, :, -n_missing:]


def load_with_transformers(folder: ModelFolder, dtype: torch.dtype) -> TransformersSubject:
    """The model of a folder in evaluation mode, on the CPU. ArtefactCorrupt if its weights are not
    those of its config.
    """
    transformers = _import_transformers(folder)
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a broken folder raises OSError, ValueError, KeyError, safetensors'
        raise ArtefactCorrupt(
            f"{folder.path} cannot be loaded as {folder.class_name}: {summary(error)}; use the "
            "config and the weights of the same model, and get damaged files again"
        ) from error
    faults = {
        "are missing": loading["missing_keys"],
        "have other shapes than the config says": map(str, loading["mismatched_keys"]),
        "are not in the model that the config describes": (
            name
            for name in loading["unexpected_keys"]
            if name.startswith(f"{folder.architecture.body}.")
        ),
    }
    for fault, keys in faults.items():
        names = sorted(keys)
        if names:
            raise ArtefactCorrupt(
                f"{folder.path}: {len(names)} tensors {fault}, {', '.join(names[:N_SHOWN])} among "
                "them; use the config and the weights of the same model"
            )
    return TransformersSubject(model.eval().requires_grad_(False), folder.architecture)


def full_settings(folder: ModelFolder) -> dict[str, Any]:
    """The content of config.json with every default spelled out."""
    transformers = _import_transformers(folder)
    config = transformers.AutoConfig.from_pretrained(
        folder.path, local_files_only=True, trust_remote_code=False
    )
    return config.to_dict()


def _import_transformers(folder: ModelFolder) -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{folder.path} is {folder.class_name}, which transformers computes, and "
            f"{error.name} is not installed; install hormesis[models]"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers
