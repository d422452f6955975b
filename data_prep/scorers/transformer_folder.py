"""folder of a transformers model: safetensors check, content digest, batches by length

Only safetensors weights and the model code of transformers are used: pickled weights and code in
the folder could run anything. Needs the extra `classifiers`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest

# Model types whose position ids start after the padding id, so that they have fewer positions.
OFFSET_POSITION_TYPES = {"roberta", "xlm-roberta", "camembert", "longformer"}
DEFAULT_MAX_LENGTH = 512  # tokens, or fewer if the model has fewer positions
BATCH_TOKENS = 1 << 14  # padding included


def import_transformers(scorer: str) -> Any:
    """The package transformers; ArtefactMissing, with the extra to install, without it."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ArtefactMissing(
            f"a scorer {scorer}:… needs the package {error.name}, which is not installed; "
            "install hormesis[classifiers], or choose the scorer profanity or lexicon:URI"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # one per load of a file that takes no time
    return transformers


def check_safetensors(folder: Path, name: str, remedy: str) -> None:
    """Raise ArtefactMissing for a folder without safetensors weights."""
    if not list(folder.glob("[!.]*.safetensors")):
        raise ArtefactMissing(
            f"{name}: {folder} has no *.safetensors, and other weights are not read because they "
            f"may run code; {remedy}"
        )


def load_model(auto_class: Any, folder: Path, kind: str) -> tuple[Any, list[str]]:
    """The model in float32 for inference, and the names of weights that its file lacks.

    auto_class: of transformers. Raises ArtefactCorrupt for a folder that is no model of this kind.
    """
    try:
        model, loading_info = auto_class.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype="float32",
            output_loading_info=True,
        )
    except Exception as error:  # a broken folder raises OSError, ValueError, KeyError, safetensors'
        raise ArtefactCorrupt(
            f"{folder} cannot be loaded as {kind}: {str(error).splitlines()[0]}; "
            "download its files again"
        ) from error
    return model.eval(), sorted(loading_info["missing_keys"])


def max_length(
    name: str,
    requested: int | None,
    tokenizer: Any,
    config: Any,
    default: int = DEFAULT_MAX_LENGTH,
) -> int:
    """Tokens of a text that are read: those requested, or as many as the model can read, at most
    `default`. Raises ConfigurationError if more are requested than it can read.
    """
    positions = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    if config.model_type in OFFSET_POSITION_TYPES:
        positions -= config.pad_token_id + 1
    limit = min(positions, tokenizer.model_max_length)
    length = requested or min(limit, default)
    if length > limit:
        raise ConfigurationError(
            f"{name}: max_length {length} exceeds the {limit} tokens that the model can read; "
            f"lower it to {limit}"
        )
    return length


def content_digest(folder: Path, patterns: Sequence[str]) -> str:
    """The digest of the files with these names: weights, configuration and tokenizer."""
    checksums: dict[str, str] = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(checksums)


def batches(rows: list[list[int]]) -> Iterator[list[int]]:
    """Row numbers in batches of at most BATCH_TOKENS with padding, or of one longer row.

    The longest rows come first, so that a batch that does not fit in memory fails at once.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        size = max(1, BATCH_TOKENS // max(1, longest))
        yield order[start : start + size]
        start += size
