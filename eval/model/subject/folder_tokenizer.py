"""tokenizer of a model's folder: its end-of-document token, and what stands before a text"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.core.errors import ConfigurationError
from data_prep.token_stream import tokenizer_json
from data_prep.token_stream.tokenizer import Tokenizer
from eval.model.subject.model_folder import read_json
from eval.model.subject.subject_model import ModelShape


def load_of_run(folder: Path, where: str) -> Tokenizer:
    """The tokenizer of a run's export. Where the engines differ the reference engine encodes, as in
    the build that made the run's streams.
    """
    eos = json.loads((folder / "tokenizer_config.json").read_bytes())["eos_token"]
    return _tokenizer(folder, eos, where)


def load(folder: Path) -> tuple[Tokenizer, tuple[int, ...]]:
    """The tokenizer in a folder, and the ids that it puts before each text, such as a
    beginning-of-text token: those of tokenizer.json, whatever tokenizer_config.json says, as in
    transformers.
    """
    where = str(folder / "tokenizer.json")
    ids = tokenizer_json.ids_by_token(tokenizer_json.parse(tokenizer_json.read(where), where))
    tokenizer = _tokenizer(folder, _eos_token(folder, ids), where)
    return tokenizer, tokenizer.ids_before_a_text()


def check_fits(tokenizer: Tokenizer, shape: ModelShape, folder: Path) -> None:
    """Raise ConfigurationError if the tokenizer has ids that the model has no embedding for."""
    if tokenizer.n_ids > shape.vocab_size:
        raise ConfigurationError(
            f"{folder}: the tokenizer has {tokenizer.n_ids:,} ids, the model's vocabulary "
            f"{shape.vocab_size:,}; use the tokenizer and the weights of the same model"
        )


def _tokenizer(folder: Path, eos: str, where: str) -> Tokenizer:
    text = tokenizer_json.read(str(folder / "tokenizer.json"))
    return Tokenizer(text, eos, where, on_difference="fall_back")


def _eos_token(folder: Path, ids: dict[str, int]) -> str:
    """The end-of-document token, as the tokenizer's settings spell it, else as the model's number
    it.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _text(read_json(folder / name).get("eos_token"))
        if token is not None:
            return token
    token_by_id = {i: token for token, i in ids.items()}
    for eos_id in _eos_ids(folder):
        if eos_id in token_by_id:
            return token_by_id[eos_id]
    raise ConfigurationError(
        f"{folder}: neither tokenizer_config.json nor config.json says which token ends a "
        "document; add eos_token to tokenizer_config.json"
    )


def _eos_ids(folder: Path) -> Iterator[Any]:
    for name in ("config.json", "generation_config.json"):
        value = read_json(folder / name).get("eos_token_id")
        yield from value if isinstance(value, list) else [value]


def _text(token: Any) -> str | None:
    """A token's text, which is written alone or in an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
