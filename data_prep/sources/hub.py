"""stream data sets of the Hugging Face hub, or a folder laid out like one, by shard

    hub:allenai/c4@1588ec454efa1a09f29cd18ddd04fe05fc8653a2?config=en&shards=115

`config` and `split` (default train) are the data set's own; split=all takes every split of the
config, one after the other; shards=N takes the first N shards of each. The revision, behind @ or as
revision=, is a commit: a branch moves, and the bytes of a shard are never at hand to notice. A
shard is therefore identified by its full name, with revision and number. The revision of a local
folder is the sha256 of its files, which takes reading all of them once. (A folder is for trying
things out: naming its files directly is faster and checks more.)

Some data sets are gated: the hub gives them only to a token whose owner has filled in the form on
their page. The library `datasets` streams the rows and retries failed requests. It is an optional
dependency, the extra `hub`.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from data_prep.core import storage
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
    StorageError,
)
from data_prep.core.store import ranged_reads
from data_prep.core.store.locations import check_utf8
from data_prep.sources.readers import compression, foreign_content
from data_prep.sources.readers.plain_values import plain_row

SCHEME = "hub:"
VERSION = "hub 1"
PARAMETERS = ("config", "split", "revision", "shards", "shard")
NUMBERS = ("shards", "shard")
COMMIT = re.compile("[0-9a-f]{40}")
SHARD_BYTES = 320 << 20  # nominal, a shard of C4: sizes are not known before the shards are read
ACCESS_SECONDS = 30  # that the hub may take to say who may read a data set
TOKEN = "HF_TOKEN in the environment of this command and of every node"


def is_hub(uri: str) -> bool:
    return uri.startswith(SCHEME)


def expand(uri: str) -> list[str]:
    """The full names of the shards of `uri`, in order."""
    check_utf8(uri)
    name, parameters = _parse(uri)
    if Path(name).is_dir():
        name = str(Path(name).absolute())
        if "revision" not in parameters:
            parameters["revision"] = _folder_revision(uri, name, parameters)
    else:
        _check_commit(uri, parameters)
    shards = list[str]()
    for split in _splits(uri, name, parameters):
        shards += _shards(uri, name, {**parameters, "split": split})
    return shards


def _splits(uri: str, name: str, parameters: dict[str, str]) -> list[str]:
    if parameters["split"] != "all":
        return [parameters["split"]]
    with _errors(uri, ConfigurationError, "check config="):
        return _split_names(name, parameters.get("config"), parameters["revision"])


def _shards(uri: str, name: str, parameters: dict[str, str]) -> list[str]:
    """The full names of the shards of one split that the parameters ask for."""
    n_shards = _stream(uri, name, parameters).num_shards
    n_requested = parameters.pop("shards", None)
    numbers = range(n_shards if n_requested is None else int(n_requested))
    if "shard" in parameters:
        number = int(parameters["shard"])
        numbers = range(number, number + 1)
    if not 0 < numbers.stop <= n_shards:
        raise ConfigurationError(
            f"{uri}: the data set has {n_shards} shards; expected shards= in 1 to {n_shards}, "
            f"or shard= in 0 to {n_shards - 1}"
        )
    return [_full_name(name, {**parameters, "shard": str(number)}) for number in numbers]


def check_access(uri: str) -> None:
    """Raise a HormesisError unless the data set can be read from here: one request to the hub, or,
    in its offline mode, whether the data set is in the local cache.
    """
    from huggingface_hub import constants

    name, parameters = _parse(uri)
    if Path(name).is_dir():
        return
    _check_commit(uri, parameters)
    if constants.is_offline_mode():
        expand(uri)
    else:
        _ask_for_access(uri, name)


def _ask_for_access(uri: str, name: str) -> None:
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = f"{constants.ENDPOINT}/api/datasets/{name}/auth-check"
    try:
        response = get_session().get(url, headers=build_hf_headers(), timeout=ACCESS_SECONDS)
        hf_raise_for_status(response)
    except errors.GatedRepoError as error:
        status = error.response.status_code
        reason = "no token was sent" if status == 401 else "the token has no access"
        raise ConfigurationError(
            f"{uri}: the data set is gated, and {reason} (HTTP {status}); {_gate(name)}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"{uri}: the hub has no data set {name!r} that is public or open to the token sent; "
            f"expected OWNER/NAME as on its page; check the name, and {TOKEN}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 404:  # a mirror that cannot be asked: reading will show it
            return
        cause = f"the token is refused: check {TOKEN}" if status == 401 else "try again later"
        raise StorageError(f"{uri}: the hub answers with HTTP {status}; {cause}") from error
    except Exception as error:  # of the HTTP client: no connection, no answer in time, no TLS
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise StorageError(f"{uri}: {reason}; {_unreachable()}") from error


def _gate(name: str) -> str:
    """How to get into a gated data set."""
    from huggingface_hub import constants

    return (
        f"fill in the form on {constants.ENDPOINT}/datasets/{name}, then set {TOKEN}; or name a "
        "local copy of its files"
    )


def _unreachable() -> str:
    """What to do if the hub cannot be reached."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set: unset it, or name a local copy of its files"
    return f"check the network, and HF_ENDPOINT ({constants.ENDPOINT}); or name a local copy"


def _check_commit(uri: str, parameters: dict[str, str]) -> None:
    if not COMMIT.fullmatch(parameters.get("revision", "")):
        raise ConfigurationError(
            f"{uri} is no local folder, and names no commit of a data set of the hub; expected "
            "hub:OWNER/NAME@ and the 40 hex digits of a commit, which the data set's page lists "
            "under 'Files and versions'"
        )


def n_bytes(uri: str) -> int:
    """A nominal size, for plans and progress bars."""
    return SHARD_BYTES


def rows(uri: str) -> Iterator[dict[str, Any]]:
    """The rows of one shard, from its full name."""
    name, parameters = _parse(uri)
    stream = _stream(uri, name, parameters)
    with _errors(uri, ArtefactCorrupt, "download it again, or name another revision"):
        for row in stream.shard(num_shards=stream.num_shards, index=int(parameters["shard"])):
            yield plain_row(row)


def _parse(uri: str) -> tuple[str, dict[str, str]]:
    """The name of the data set (or the folder) and its parameters."""
    name, _, query = uri.removeprefix(SCHEME).partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if "@" in name and not Path(name).is_dir():
        name, _, revision = name.partition("@")
        pairs.append(("revision", revision))
    parameters: dict[str, str] = {}
    for key, value in pairs:
        if key in parameters:
            raise ConfigurationError(f"{uri}: {key} is given twice; give it once")
        parameters[key] = value
        is_number = key not in NUMBERS or value.isdecimal()
        if key not in PARAMETERS or not value or not is_number:
            raise ConfigurationError(
                f"{uri}: cannot use {key}={value}; a data set takes {', '.join(PARAMETERS)}; "
                f"{' and '.join(NUMBERS)} are whole numbers"
            )
    if not name:
        raise ConfigurationError(
            f"{uri} names no data set; expected hub:OWNER/NAME@COMMIT?config=…&split=…"
        )
    return name, {"split": "train", **parameters}


def _full_name(name: str, parameters: dict[str, str]) -> str:
    ordered = {key: parameters[key] for key in PARAMETERS if key in parameters}
    return f"{SCHEME}{name}?{urlencode(ordered)}"


def _stream(uri: str, name: str, parameters: dict[str, str]) -> Any:
    with _errors(uri, ConfigurationError, "check config= and split="):
        return _open_dataset(
            name, parameters.get("config"), parameters["split"], parameters["revision"]
        )


# Opening lists every file of the data set, and a set is opened by expand and by rows, each time
# that inputs are compared. ToxiGen's prompts are 31 splits.
@lru_cache(maxsize=64)
def _open_dataset(name: str, config: str | None, split: str, revision: str) -> Any:
    options = {} if Path(name).is_dir() else {"revision": revision}
    return _library().load_dataset(name, config, split=split, streaming=True, **options)


@lru_cache(maxsize=64)
def _split_names(name: str, config: str | None, revision: str) -> list[str]:
    options = {} if Path(name).is_dir() else {"revision": revision}
    return _library().get_dataset_split_names(name, config, **options)


def _folder_revision(uri: str, name: str, parameters: dict[str, str]) -> str:
    with _errors(uri, ConfigurationError, "check config="):
        builder = _library().load_dataset_builder(name, parameters.get("config"))
        files = builder.config.data_files or {}
    sha256 = hashlib.sha256()
    splits = files if parameters["split"] == "all" else [parameters["split"]]
    for path in (path for split in splits for path in files.get(split, [])):
        check_utf8(path)
        n_bytes = storage.size(path)
        if n_bytes <= foreign_content.MAX_POINTER_BYTES:
            foreign_content.refuse_pointer(storage.read(path), path)
        sha256.update(f"{Path(path).name} {n_bytes} ".encode())
        with ranged_reads.open_stream(path) as stream:
            while chunk := stream.read(1 << 20):
                sha256.update(chunk)
    return sha256.hexdigest()


def _library() -> Any:
    try:
        import datasets  # imported here: 1.4 s and pandas
    except ImportError as error:
        raise ConfigurationError(
            f"a hub: corpus needs the package datasets, which cannot be imported ({error}); "
            "install the extra: pip install 'hormesis[hub]'"
        ) from error
    return datasets


@contextmanager
def _errors(uri: str, value_error_type: type[HormesisError], remedy: str) -> Iterator[None]:
    """Turn what `datasets` can raise into our error types.

    value_error_type, remedy: for a ValueError, whose meaning depends on the call.
    """
    import pyarrow

    try:
        yield
    except HormesisError:
        raise
    except FileNotFoundError as error:  # also for a data set that does not exist or has no files
        reason = _first_line(error)
        remedy = _gate(_parse(uri)[0]) if "gated" in reason else f"check the name, and {TOKEN}"
        raise ArtefactMissing(f"{uri}: {reason}; {remedy}") from error
    except (pyarrow.ArrowException, *compression.DAMAGE) as error:
        raise ArtefactCorrupt(
            f"{uri} cannot be read: {_first_line(error)}; "
            "download it again, or name another revision"
        ) from error
    except OSError as error:
        raise StorageError(f"{uri}: {_first_line(error)}; {_unreachable()}") from error
    except (LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ArtefactCorrupt(
            f"{uri} cannot be read: {type(error).__name__}: {_first_line(error)}; download its "
            "files, and name them instead of hub:"
        ) from error
    except ValueError as error:
        raise value_error_type(f"{uri}: {_first_line(error)}; {remedy}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
