"""error types, by what went wrong and who can fix it

    HormesisError
    ├── ConfigurationError    the request is wrong: fix the command line, the recipe or the input
    ├── ArtefactMissing       something that an earlier stage should have written is not there
    ├── ArtefactCorrupt       an artefact does not match its record
    ├── StorageError          the object store did not respond, or refused
    ├── ClusterError          Ray lost workers repeatedly, or the cluster stopped
    └── Interrupted           stopped on request, and can be resumed

Every message says what is wrong, what was found, what was expected and what to do next. Commands
print it without a traceback and exit with status 2.
"""


class HormesisError(Exception):
    """Base of every error that a user can fix; commands print its text without a traceback."""


class ConfigurationError(HormesisError, ValueError):
    """The request is wrong: fix the command line, the recipe or the input."""


class ArtefactMissing(HormesisError):
    """Something that an earlier stage should have written is not there."""


class ArtefactCorrupt(HormesisError):
    """An artefact does not match its record."""


class StorageError(HormesisError):
    """The object store did not respond, or refused."""


class ClusterError(HormesisError):
    """Ray lost workers repeatedly, or the cluster stopped."""


class Interrupted(HormesisError):
    """Stopped on request; the same command resumes."""
