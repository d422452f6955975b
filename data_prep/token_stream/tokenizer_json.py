"""read a tokenizers JSON file: check its form, name its tokens, take its fingerprint

Users name other files as well: SentencePiece's tokenizer.model, tokenizer_config.json, a folder, a
model on the hub. Each is refused with the one that is expected.
"""

import hashlib
import json
from typing import Any

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError, StorageError, summary

EXPECTED = "expected a tokenizer.json of the tokenizers library"
N_SHOWN = 5  # special tokens that an error lists


def read(uri: str) -> str:
    """The text of the tokenizers JSON at `uri`; ConfigurationError if it cannot be one."""
    try:
        return storage.read_text(uri)
    except ArtefactMissing as error:
        is_hub_name = not uri.endswith(".json") and "://" not in uri
        hint = "; of a model on the hub, download it: hf download NAME tokenizer.json"
        raise ConfigurationError(
            f"{uri}: there is no such file; {EXPECTED}, as a path or a URI"
            f"{hint if is_hub_name else ''}"
        ) from error
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}; {EXPECTED}, not SentencePiece's tokenizer.model, which "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) converts"
        ) from error
    except StorageError as error:
        if not isinstance(error.__cause__, IsADirectoryError):
            raise
        raise ConfigurationError(
            f"{uri} is a folder; {EXPECTED}: name the file, {uri.rstrip('/')}/tokenizer.json"
        ) from error


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object, whose vocabulary and added tokens have their form."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{where}: is not JSON ({summary(error)}); {EXPECTED}, whole: get the file again"
        ) from error
    model = parsed.get("model") if isinstance(parsed, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not vocabulary or not isinstance(vocabulary, dict | list):
        raise ConfigurationError(
            f"{where}: is JSON without the tokens of a model (model.vocab); {EXPECTED}, not "
            "tokenizer_config.json, config.json or vocab.json"
        )
    fault = _vocabulary_fault(vocabulary) or _added_tokens_fault(parsed.get("added_tokens", []))
    if fault:
        raise ConfigurationError(f"{where}: {fault}; {EXPECTED}: get the file again")
    return parsed


def ids_by_token(parsed: dict[str, Any]) -> dict[str, int]:
    """The id of each token, added tokens included."""
    vocabulary = parsed["model"]["vocab"]
    if isinstance(vocabulary, list):  # of a Unigram model: [token, score], in the order of ids
        vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in parsed.get("added_tokens", [])}
    return vocabulary | added


def special_tokens(parsed: dict[str, Any]) -> list[str]:
    """The control tokens, by id."""
    special = [token for token in parsed.get("added_tokens", []) if token.get("special")]
    return [token["content"] for token in sorted(special, key=lambda token: token["id"])]


def eos_id(parsed: dict[str, Any], eos: str, where: str) -> int:
    """The id of the token that ends a document; ConfigurationError if there is no such token."""
    ids = ids_by_token(parsed)
    if eos in ids:
        return ids[eos]
    candidates = [token for token in special_tokens(parsed) if not token.startswith("<0x")] or [
        "none"
    ]
    raise ConfigurationError(
        f"{where}: there is no token {eos!r} among {len(ids):,}; set data.tokenizer.eos to the one "
        f"that ends a document (its control tokens: {', '.join(candidates[:N_SHOWN])})"
    )


def fingerprint(parsed: dict[str, Any], eos: str) -> str:
    """16 hex digits of sha256 over the JSON in canonical form and the eos; the layout of the file
    does not count.
    """
    identity = {key: value for key, value in parsed.items() if key not in ("truncation", "padding")}
    text = json.dumps([identity, eos], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _vocabulary_fault(vocabulary: dict[str, Any] | list[Any]) -> str:
    if isinstance(vocabulary, list):
        bad = next((entry for entry in vocabulary if not _is_scored(entry)), None)
        return f"model.vocab has {bad!r} where a token with its score should be" if bad else ""
    bad = next(((token, i) for token, i in vocabulary.items() if not _is_id(i)), None)
    return f"model.vocab has {bad[1]!r} as the id of {bad[0]!r}" if bad else ""


def _added_tokens_fault(added: Any) -> str:
    if not isinstance(added, list):
        return f"added_tokens is {json.dumps(added)[:40]}, not a list"
    for token in added:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not _is_id(token.get("id")):
            return f"added_tokens has {json.dumps(token)[:80]}, without a content and an id"
    return ""


def _is_scored(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31
