"""what a Hugging Face folder holds: config and architecture, or why it is refused

Looked at before anything is loaded. Only safetensors are read, and only model code of transformers
is run: pickled weights and code in a folder may do anything.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from eval.model.subject import architectures
from eval.model.subject.architectures import ARCHITECTURES, TABLE, Architecture

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")


class ModelFolder(NamedTuple):
    """A folder whose files are all there. settings: the content of config.json."""

    path: Path
    settings: dict[str, Any]
    class_name: str
    architecture: Architecture


def read(folder: Path) -> ModelFolder:
    """Look at a folder; ArtefactMissing, ArtefactCorrupt or ConfigurationError, in one line, if it
    is not a causal language model that can be evaluated.
    """
    path = folder / "config.json"
    if not path.is_file():
        _refuse_without_config(folder)
    settings = read_json(path)
    class_name = _class_name(settings, path)
    _refuse_quantised(settings, path)
    _check_weights(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ArtefactMissing(
            f"{folder}/tokenizer.json: no such file; write one with "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return ModelFolder(folder, settings, class_name, ARCHITECTURES[class_name])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} if there is no such file."""
    try:
        parsed = json.loads(path.read_bytes()) if path.is_file() else {}
        if not isinstance(parsed, dict):
            raise ValueError("it is no JSON object")
        return parsed
    except (ValueError, RecursionError) as error:
        raise ArtefactCorrupt(f"{path} is not JSON: {error}; get the file again") from error


def _refuse_without_config(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ConfigurationError(
            f"{folder} holds an adapter, not a model; merge it into its base model (peft: "
            "merge_and_unload, then save_pretrained) and name that folder"
        )
    hint = "" if folder.exists() else "; of a model on the hub, download it: hf download NAME"
    raise ArtefactMissing(
        f"{folder}/config.json: no such file; name a folder that holds a causal language model of "
        f"Hugging Face{hint}"
    )


def _class_name(settings: dict[str, Any], path: Path) -> str:
    names = settings.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return name
    expected = f"expected one of {architectures.supported()} ({TABLE})"
    if settings.get("is_encoder_decoder"):
        raise ConfigurationError(
            f"{path}: {names} is an encoder-decoder, not a causal language model; {expected}"
        )
    if any("MaskedLM" in name for name in names):
        raise ConfigurationError(
            f"{path}: {names} is a masked language model, not a causal one; {expected}"
        )
    if settings.get("auto_map"):
        raise ConfigurationError(
            f"{path}: {names} needs code from its folder (auto_map), which is never run; {expected}"
        )
    raise ConfigurationError(f"{path}: the architecture is {names or None}; {expected}")


def _refuse_quantised(settings: dict[str, Any], path: Path) -> None:
    quantised = settings.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ConfigurationError(
            f"{path}: the weights are quantised ({method}); only fp32, fp16 and bf16 weights are "
            "supported: name the model that it was made from, or dequantise it"
        )


def _check_weights(folder: Path) -> None:
    if list(folder.glob("[!.]*.safetensors")):
        return
    pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
    if pickled:
        raise ConfigurationError(
            f"{folder}: the weights are {', '.join(pickled[:3])} and no safetensors; pickled "
            "weights may run code and are not read. If you trust them, write safetensors with "
            "transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER)"
        )
    raise ArtefactMissing(
        f"{folder}/model.safetensors: no such file; the weights must be safetensors, in one file "
        "or with an index"
    )
