"""embed texts with any bidirectional encoder: the mean of its last hidden states

The mean over the tokens of a text, special tokens included and padding left out, as sentence
encoders are trained (Reimers and Gurevych 2019, §3, MEAN). It is not normalised.

A decoder is refused: the mean of states that see only what precedes them weighs a text's beginning.
That is tested on the model itself, not read from its name.

Shapes: R texts, B texts of a batch, T tokens, D width of the encoder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.scorers import transformer_folder

# The files of a folder that decide an embedding; the others may change or be left behind.
FILE_PATTERNS: tuple[str, ...] = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.safetensors",
    "*.safetensors.index.json",
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
DEFAULT_MAX_LENGTH = 256  # tokens, or fewer if the encoder reads fewer
POOLER = "pooler."  # its weights may be missing: the mean needs none of them
REMEDY = "name a folder with a text encoder of transformers, as save_pretrained writes it"


class TextEncoder:
    """An encoder in a local folder, on the GPU if there is one.

    digest: of its files, whatever the folder's name. model_type: of transformers. width: D.
    max_length: tokens of a text that are read. Raises ArtefactMissing, ArtefactCorrupt or
    ConfigurationError for a folder without a text encoder.
    """

    def __init__(self, folder: Path, requested_length: int | None = None) -> None:
        _check_files(folder)
        transformers = transformer_folder.import_transformers("trained")
        import torch

        self._torch = torch
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # as for the model, each library raises its own
            raise ArtefactCorrupt(
                f"{folder}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}; {REMEDY}"
            ) from error
        self._model, missing = transformer_folder.load_model(
            transformers.AutoModel, folder, "a text encoder"
        )
        missing = [name for name in missing if not name.startswith(POOLER)]
        if missing:
            raise ArtefactCorrupt(
                f"{folder}: its weights lack {', '.join(missing[:5])}, which would be initialized "
                f"at random; {REMEDY}"
            )
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        config = self._model.config
        self.max_length = transformer_folder.max_length(
            str(folder), requested_length, self._tokenizer, config, DEFAULT_MAX_LENGTH
        )
        _check_bidirectional(self._model, folder)
        self.digest = transformer_folder.content_digest(folder, FILE_PATTERNS)
        self.model_type = str(config.model_type)
        self.width = int(config.hidden_size)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The embedding of each text, in float32: [R, D]. Texts of similar length share a batch,
        which changes an embedding by rounding at most.
        """
        embeddings_RD = np.empty((len(texts), self.width), dtype=np.float32)
        if not texts:
            return embeddings_RD
        encodable = [text.encode("utf-8", "replace").decode() for text in texts]
        rows = self._tokenizer(
            encodable, truncation=True, max_length=self.max_length, return_attention_mask=False
        )["input_ids"]
        for batch in transformer_folder.batches(rows):
            embeddings_RD[batch] = self._embed([rows[i] for i in batch])
        return embeddings_RD

    def _embed(self, rows: list[list[int]]) -> np.ndarray:
        padded = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(
            self._model.device
        )
        with self._torch.inference_mode():
            states_BTD = self._model(**padded).last_hidden_state
            mask_BT1 = padded["attention_mask"][..., None].to(states_BTD)
            mean_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        return mean_BD.cpu().numpy()


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ArtefactMissing(f"{folder} is no local folder; {REMEDY}")
    if not (folder / "config.json").is_file():
        raise ArtefactMissing(f"{folder} has no config.json; {REMEDY}")
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise ArtefactMissing(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}); {REMEDY}")
    transformer_folder.check_safetensors(folder, "the encoder", REMEDY)


def _check_bidirectional(model: Any, folder: Path) -> None:
    """Raise ConfigurationError for a decoder: its first state does not depend on the next token."""
    import torch

    if getattr(model.config, "is_encoder_decoder", False):
        raise ConfigurationError(
            f"{folder} holds a {model.config.model_type} with an encoder and a decoder; expected a "
            f"text encoder alone; {REMEDY}"
        )
    last = int(model.config.vocab_size) - 1
    ids_BT = torch.tensor([[last - 2, last - 1], [last - 2, last]], device=model.device)
    try:
        with torch.inference_mode():
            first, second = model(input_ids=ids_BT).last_hidden_state[:, 0]
    except Exception as error:  # a model of images or sound
        raise ConfigurationError(
            f"{folder} holds a {model.config.model_type}, which cannot embed text: "
            f"{str(error).splitlines()[0]}; {REMEDY}"
        ) from error
    if torch.equal(first, second):
        raise ConfigurationError(
            f"{folder} holds a decoder ({model.config.model_type}): its states see only what "
            f"precedes them; expected a bidirectional encoder, such as BERT or MiniLM; {REMEDY}"
        )
