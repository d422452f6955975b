"""error types, by what went wrong and who can fix it

    HormesisError
    ├── ConfigurationError    the request is wrong: fix the command line, the recipe or the input
    ├── ArtefactMissing       something that an earlier stage should have written is not there
    ├── ArtefactCorrupt       an artefact does not match its record
    ├── StorageError          the object store or the disk did not respond, or refused
    ├── ClusterError          Ray lost workers repeatedly, or the cluster stopped
    └── Interrupted           stopped on request, and can be resumed

Every message says what is wrong, what was found, what was expected and what to do next. Commands
print it without a traceback and exit with status 2. Messages quote URLs, and terminals and logs are
kept and shared, so credentials in a URL are masked in every message.
"""

import errno
import re
from typing import Any

# user:password@ or token@ before the host; a secret may hold slashes, a port is no password.
_CREDENTIALS = re.compile(r"""://(?:[^/\s@:'"]*:(?!\d+/)[^\s@'"]*|[^/\s@'"]+)@""")
_SIGNATURES = re.compile(
    r"(X-Amz-(?:Credential|Signature|Security-Token)=)[^&\s'\"]+", re.IGNORECASE
)


def mask_secrets(text: str) -> str:
    """`text` with *** in place of credentials that a URL in it has."""
    return _SIGNATURES.sub(r"\1***", _CREDENTIALS.sub("://***@", text))


class HormesisError(Exception):
    """Base of every error that a user can fix; commands print its text without a traceback."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(
            *(mask_secrets(value) if isinstance(value, str) else value for value in arguments)
        )


class ConfigurationError(HormesisError, ValueError):
    """The request is wrong: fix the command line, the recipe or the input."""


class ArtefactMissing(HormesisError):
    """Something that an earlier stage should have written is not there."""


class ArtefactCorrupt(HormesisError):
    """An artefact does not match its record."""


class StorageError(HormesisError):
    """The object store or the disk did not respond, or refused."""


class ClusterError(HormesisError):
    """Ray lost workers repeatedly, or the cluster stopped."""


class Interrupted(HormesisError):
    """Stopped on request; the same command resumes."""


SHOWN_CHARS = 300  # of another library's error


def summary(error: BaseException) -> str:
    """The text of another library's error in one short line."""
    return " ".join((str(error) or type(error).__name__).split())[:SHOWN_CHARS].rstrip(".;:")


_REMEDIES = {
    errno.ENOSPC: "free space on that disk, or set TMPDIR if it is the temporary folder",
    errno.EDQUOT: "free space within the quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "allow it, or choose another folder",
    errno.EPERM: "allow it, or choose another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk",
    errno.ENOMEM: "free memory",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
}


# Libraries in Rust and C++ raise types of their own, with the number in the text.
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)


def environment_error(error: BaseException) -> StorageError | None:
    """What is wrong with the disk or the machine, in one line; None if that is no cause of it."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _ERROR_NUMBER.search(str(error))):
        number = int(match[1] or match[2])
    filename = error.filename if isinstance(error, OSError) else None
    if number not in _REMEDIES and filename is None:
        return None
    text = error.strerror if isinstance(error, OSError) else None
    place = f"{filename}: " if filename is not None else ""
    remedy = _REMEDIES.get(number or 0, "check that name")
    return StorageError(
        f"{place}{text or summary(error)}; {remedy}, then run the same command again"
    )
