"""what a store can raise, as our error types with a remedy"""

from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.core.errors import ArtefactMissing, StorageError


@contextmanager
def store_errors(verb: str, uri: str) -> Iterator[None]:
    """Turn what a store can raise into our error types, with a remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtefactMissing(
            f"cannot {verb} {uri}: there is no such file, folder or bucket; check the name"
        ) from error
    except PermissionError as error:
        raise StorageError(
            f"cannot {verb} {uri}: permission denied ({_first_line(error)}); "
            "for s3 check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot {verb} {uri}: {_first_line(error)}; "
            "check the disk, the bucket and AWS_ENDPOINT_URL"
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise
        raise StorageError(
            f"cannot {verb} {uri}: {_first_line(error)}; "
            "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:300]
