"""what a store can raise, as our error types with a remedy

Errors are sorted by what failed. Whatever the S3 client raises is the store's, its settings' or the
network's: botocore raises built-in types, too, such as ValueError for an endpoint without http://.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.core.errors import (
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
    StorageError,
    environment_error,
    summary,
)

S3_REMEDIES = (  # the first whose words an error has
    (
        r"certificate|ssl|x509|ca.bundle",
        "check AWS_CA_BUNDLE, and http:// or https:// in AWS_ENDPOINT_URL",
    ),
    (r"expired|security token", "renew AWS_SESSION_TOKEN or log in again"),
    (
        r"profile|config file|shared credentials",
        "check AWS_PROFILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE",
    ),
    (r"region|redirect|location", "check AWS_DEFAULT_REGION"),
    (r"bucket name", "check the name of the bucket"),
    (r"clock|too large a difference|skewed", "set the clock of this machine"),
)
S3_DEFAULT_REMEDY = "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@contextmanager
def store_errors(verb: str, uri: str) -> Iterator[None]:
    """Turn what a store can raise into our error types, with a remedy."""
    is_s3 = uri.startswith("s3://")
    try:
        yield
    except HormesisError:
        raise
    except FileNotFoundError as error:
        raise ArtefactMissing(
            f"cannot {verb} {uri}: there is no such file, folder or bucket; check the name"
        ) from error
    except PermissionError as error:
        remedy = s3_remedy(error) if is_s3 else "allow it, or choose another folder"
        raise StorageError(
            f"cannot {verb} {uri}: permission denied ({summary(error)}); {remedy}"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot {verb} {uri}: {_what_and_remedy(error, is_s3)}") from error
    except ValueError as error:  # also a name that the operating system does not take
        kind = StorageError if is_s3 else ConfigurationError
        remedy = s3_remedy(error) if is_s3 else "check the name"
        raise kind(f"cannot {verb} {uri}: {summary(error)}; {remedy}") from error
    except Exception as error:
        if not is_s3:
            raise
        raise StorageError(f"cannot {verb} {uri}: {summary(error)}; {s3_remedy(error)}") from error


def _what_and_remedy(error: OSError, is_s3: bool) -> str:
    if is_s3:
        return f"{summary(error)}; {s3_remedy(error)}"
    known = environment_error(error)
    return str(known) if known else f"{summary(error)}; check the disk"


def s3_remedy(error: Exception) -> str:
    """What to check after this error of the S3 client."""
    text = str(error).lower()
    return next(
        (remedy for words, remedy in S3_REMEDIES if re.search(words, text)), S3_DEFAULT_REMEDY
    )
