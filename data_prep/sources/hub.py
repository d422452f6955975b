"""data sets of the Hugging Face hub, or a folder laid out like one, streamed shard by shard by the
library `datasets`

    hub:allenai/c4?config=en&revision=1588ec454efa1a09f29cd18ddd04fe05fc8653a2&shards=115

config and split (default train) are the data set's own; shards=N takes the first N. The revision is
a commit, written out: a branch moves, and the bytes of a shard are never at hand to tell. A shard
is therefore known by its full name, revision and number included; of a local folder, the revision
is the sha256 of its files, which costs a reading of all of them. (A folder is for trying things
out: to name its files directly is faster, and checks more.)

What goes wrong on the way is retried by `datasets`; it is an optional dependency, the extra `hub`.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from data_prep.core import ranged_reads, storage
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
    StorageError,
)
from data_prep.sources import formats

SCHEME = "hub:"
VERSION = "hub 1"
PARAMETERS = ("config", "split", "revision", "shards", "shard")
COMMIT = re.compile("[0-9a-f]{40}")
SHARD_BYTES = (
    320 << 20
)  # taken for the size of each, a shard of C4: sizes are not known before the shards are read


def is_hub(uri: str) -> bool:
    return uri.startswith(SCHEME)


def expand(uri: str) -> list[str]:
    """The full names of the shards of `uri`, in order."""
    name, asked = _parse(uri)
    if Path(name).is_dir():
        name = str(Path(name).absolute())
        asked.setdefault(
            "revision", _folder_revision(uri, name, asked.get("config"), asked["split"])
        )
    elif not COMMIT.fullmatch(asked.get("revision", "")):
        raise ConfigurationError(
            f"{uri}: no folder of that name, and for a data set of the hub no commit; expected revision= and the 40 hex digits "
            "of a commit, which its page lists below 'Files and versions'"
        )
    n_shards, n_wanted = _stream(uri, name, asked).num_shards, asked.pop("shards", None)
    chosen = range(n_shards if n_wanted is None else int(n_wanted))
    if "shard" in asked:
        chosen = range(int(asked["shard"]), int(asked["shard"]) + 1)
    if not 0 < chosen.stop <= n_shards:
        raise ConfigurationError(
            f"{uri}: the data set has {n_shards} shards; expected shards= in 1 to {n_shards}, shard= below"
        )
    return [_full_name(name, {**asked, "shard": str(shard)}) for shard in chosen]


def n_bytes(uri: str) -> int:
    """A nominal size, for plans and progress bars."""
    return SHARD_BYTES


def rows(uri: str) -> Iterator[dict[str, Any]]:
    """The rows of one shard, from its full name."""
    name, asked = _parse(uri)
    stream = _stream(uri, name, asked)
    with _errors(uri, ArtefactCorrupt, "fetch it again, or name another revision"):
        yield from stream.shard(num_shards=stream.num_shards, index=int(asked["shard"]))


def _parse(uri: str) -> tuple[str, dict[str, str]]:
    name, _, query = uri.removeprefix(SCHEME).partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    for key, value in asked.items():
        if (
            key not in PARAMETERS
            or not value
            or (key in ("shards", "shard") and not value.isdecimal())
        ):
            raise ConfigurationError(
                f"{uri}: cannot use {key}={value}; a data set takes {', '.join(PARAMETERS)}; shards is a number"
            )
    if not name:
        raise ConfigurationError(
            f"{uri} names no data set; expected hub:OWNER/NAME?config=…&split=…&revision=…"
        )
    return name, {"split": "train", **asked}


def _full_name(name: str, asked: dict[str, str]) -> str:
    return f"{SCHEME}{name}?{urlencode({key: asked[key] for key in PARAMETERS if key in asked})}"


def _stream(uri: str, name: str, asked: dict[str, str]) -> Any:
    with _errors(uri, ConfigurationError, "check config= and split="):
        return _opened(name, asked.get("config"), asked["split"], asked["revision"])


@lru_cache(
    maxsize=8
)  # a task reads one shard, an expansion asks for all: opening lists every file of the data set
def _opened(name: str, config: str | None, split: str, revision: str) -> Any:
    options = {} if Path(name).is_dir() else {"revision": revision}
    return _library().load_dataset(name, config, split=split, streaming=True, **options)


def _folder_revision(uri: str, name: str, config: str | None, split: str) -> str:
    with _errors(uri, ConfigurationError, "check config="):
        files = _library().load_dataset_builder(name, config).config.data_files or {}
    sha256 = hashlib.sha256()
    for path in files.get(split, []):
        sha256.update(f"{Path(path).name} {storage.size(path)} ".encode())
        with ranged_reads.open_stream(path) as stream:
            while chunk := stream.read(1 << 20):
                sha256.update(chunk)
    return sha256.hexdigest()


def _library() -> Any:
    try:
        import datasets  # here: 1.4 s and pandas
    except ImportError as error:
        raise ConfigurationError(
            f"hub: needs the package datasets ({error}); install the extra: pip install 'hormesis[hub]'"
        ) from error
    return datasets


@contextmanager
def _errors(uri: str, kind: type[HormesisError], remedy: str) -> Iterator[None]:
    """Turn what `datasets` can raise into our error types; `kind` is what a wrong value means here."""
    import pyarrow

    try:
        yield
    except HormesisError:
        raise
    except FileNotFoundError as error:  # also a data set that is not there, or has no files
        raise ArtefactMissing(
            f"{uri}: {_brief(error)}; check the name, and HF_TOKEN if access is granted to some only"
        ) from error
    except (pyarrow.ArrowException, *formats.DAMAGE) as error:
        raise ArtefactCorrupt(
            f"{uri} cannot be read: {_brief(error)}; fetch it again, or name another revision"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{uri}: {_brief(error)}; check the network, HF_ENDPOINT and HF_TOKEN"
        ) from error
    except ValueError as error:
        raise kind(f"{uri}: {_brief(error)}; {remedy}") from error


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
