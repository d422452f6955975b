"""the error types: what went wrong, and who can fix it

    HormesisError
    ├── ConfigurationError    the request is wrong: fix the command line, the recipe or the input
    ├── ArtefactMissing       an earlier stage should have written this, and it is not there
    ├── ArtefactCorrupt       an artefact does not match its record
    ├── StorageError          the object store did not answer, or refused
    ├── ClusterError          Ray lost workers repeatedly, or lost itself
    └── Interrupted           stopped on request at a point it can resume from

Every message says what is wrong, what was found, what was expected and what to do next. Commands
print it without a traceback and exit with status 2.
"""


class HormesisError(Exception):
    """Base of every error that a user can meet; commands print its text without a traceback."""


class ConfigurationError(HormesisError, ValueError):
    """The request is wrong: fix the command line, the recipe or the input."""


class ArtefactMissing(HormesisError):
    """An earlier stage should have written this, and it is not there."""


class ArtefactCorrupt(HormesisError):
    """An artefact does not match its record."""


class StorageError(HormesisError):
    """The object store did not answer, or refused."""


class ClusterError(HormesisError):
    """Ray lost workers repeatedly, or lost itself."""


class Interrupted(HormesisError):
    """Stopped on request at a point it can resume from; run the same command again."""
