"""Ray sessions: attach to a cluster or start one, and end what was started, by name

What Ray would only notice late, in a traceback or never, is checked first: whether a cluster
responds at RAY_ADDRESS, and whether there is a folder for the files and sockets of a local one.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data_prep.core import command, telemetry
from data_prep.core.errors import ClusterError, summary

OBJECT_STORE_BYTES = 256 << 20  # tasks exchange names and counts; the data is in the object root
CONNECT_SECONDS = 10.0  # for each step of reaching a cluster that exists
# A socket's path has at most 107 bytes; Ray appends /session_DATE_TIME_PID/sockets/plasma_store.
MAX_FOLDER_BYTES = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
MIN_FREE_BYTES = 64 << 20  # of the folder: with less, Ray waits a minute for its own daemons
ENVIRONMENT = {  # read by Ray when it is imported; values that the caller set are kept
    "RAY_USAGE_STATS_ENABLED": "0",
    # All ports of a local cluster listen on 127.0.0.1 only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Training runs appear in the dashboard.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # It needs an actor per run, and a lost node restarts the worker group anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # In a local cluster, an idle worker keeps its imports: that saves seconds per evaluation.
    "RAY_num_workers_soft_limit": "8",
    # Otherwise each worker repeats the deprecation warnings of Ray and torch.
    "PYTHONWARNINGS": "ignore",
}


@contextmanager
def session(n_cpus: int) -> Iterator[None]:
    """A connection to Ray: this process's own, or the cluster of RAY_ADDRESS (set inside `ray job
    submit`), or a new local cluster on loopback.

    What was started here ends with the block, also at SIGTERM. Raises ClusterError, with a remedy,
    if there is no connection.

    n_cpus: the least that a local cluster offers, whatever the machine has.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    with ExitStack() as at_end:
        at_end.enter_context(_ended_by_sigterm())
        address = os.environ.get("RAY_ADDRESS", "")
        context = _join(address) if address and address != "local" else _start(n_cpus, at_end)
        at_end.callback(ray.shutdown)
        _handle_sigterm()  # Ray has installed a handler of its own
        if context.dashboard_url:
            token = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
            telemetry.logger.info(
                "Ray dashboard: http://%s (its token: %s)", context.dashboard_url, token
            )
        yield


def _join(address: str) -> Any:
    """Connect to a running cluster."""
    import ray

    remedy = (
        f"RAY_ADDRESS is {address!r}; expected HOST:PORT of a running cluster (port 6379): correct "
        "it, start the cluster, or unset it to start a local one"
    )
    try:
        _check_responds(address)
        return ray.init(logging_level=logging.WARNING)
    except Exception as error:  # Ray raises many types, built-in ones among them
        raise ClusterError(f"cannot connect to Ray: {summary(error)}; {remedy}") from error


def _check_responds(address: str) -> None:
    """Raise an error unless a gRPC server responds; Ray itself would try for minutes."""
    import grpc
    from ray._private import services

    if address.startswith(("http://", "https://")):
        raise ClusterError("this is the address of a dashboard, as `ray job submit` takes it")
    is_client = address.startswith("ray://")
    place = address.removeprefix("ray://") if is_client else None
    place = place or services.canonicalize_bootstrap_address(address)
    if place is None:  # `auto` without a cluster on this machine; Ray says so at once
        return
    host, _, port = place.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
        with grpc.insecure_channel(place) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
            except grpc.FutureTimeoutError:
                raise ClusterError(f"what listens at {place} is not Ray") from None


def _start(n_cpus: int, at_end: ExitStack) -> Any:
    """Start a local cluster."""
    import ray

    project = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    folder = _folder()
    at_end.enter_context(_token())
    temporary = {"TMPDIR": folder} if folder else {}  # its dashboard puts sockets there, too
    try:
        with _environment(temporary):
            return ray.init(
                address="local",
                num_cpus=max(n_cpus, os.cpu_count() or 1),
                object_store_memory=OBJECT_STORE_BYTES,
                dashboard_host="127.0.0.1",
                logging_level=logging.WARNING,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                _temp_dir=folder,
            )
    except BaseException as error:
        ray.shutdown()
        if not isinstance(error, Exception):
            raise
        raise ClusterError(
            f"cannot start Ray on this machine: {summary(error)}; read its logs in "
            f"{folder or '/tmp/ray'}/session_latest/logs, free memory or disk, or choose another "
            "folder for its files with RAY_TMPDIR"
        ) from error


def _folder() -> str | None:
    """Where Ray keeps logs and sockets; None is its own choice, <RAY_TMPDIR or TMPDIR>/ray."""
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        if fault := _fault_of(Path(chosen)):
            raise ClusterError(
                f"RAY_TMPDIR is {chosen!r}, {fault}; expected a writable folder with a short path "
                "for Ray's files: set it to another one"
            )
        return None
    base = Path(os.environ.get("TMPDIR") or "/tmp")
    fault = _fault_of(base)
    if not fault:
        return None
    own = Path("/tmp") / f"ray-{os.getuid()}"  # /tmp/ray may be another user's
    if own_fault := _fault_of(own.parent, own):
        raise ClusterError(
            f"no folder for Ray's files: {base} {fault}, and {own} {own_fault}; set RAY_TMPDIR to "
            "a writable folder with a short path"
        )
    telemetry.logger.warning("%s %s, so Ray's files are in %s", base, fault, own)
    return str(own)


def _fault_of(base: Path, folder: Path | None = None) -> str:
    """Why Ray cannot use the folder, `base`/ray by default; an empty text if it can.

    A folder that is given is ours alone.
    """
    is_own = folder is not None
    folder = folder or base / "ray"
    if not base.is_dir():
        return "does not exist"
    n_bytes = len(os.fsencode(folder.absolute()))
    if n_bytes > MAX_FOLDER_BYTES:
        return f"is too long for the paths of sockets, by {n_bytes - MAX_FOLDER_BYTES} bytes"
    try:
        folder.mkdir(mode=0o700 if is_own else 0o777, exist_ok=True)
        if is_own and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
            return "belongs to another user"
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    n_free = shutil.disk_usage(folder).free
    if n_free < MIN_FREE_BYTES:
        return f"has only {n_free >> 20} MiB free (needed: {MIN_FREE_BYTES >> 20})"
    return ""


@contextmanager
def _token() -> Iterator[None]:
    """A token in a private folder where there is no home folder for Ray's own."""
    is_given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if os.environ["RAY_AUTH_MODE"] != "token" or is_given or _has_home():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="hormesis-ray-") as folder:
        file = Path(folder) / "token"
        file.write_text(os.urandom(32).hex(), encoding="utf-8")
        with _environment({"RAY_AUTH_TOKEN_PATH": str(file)}):
            yield


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """These variables, for this process and those that it starts in the block."""
    previous = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _has_home() -> bool:
    """Whether Ray's token is in the home folder, or can be."""
    try:
        file = Path.home() / ".ray" / "auth_token"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=file.parent):
                pass
        return os.access(file if file.exists() else file.parent, os.R_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home folder
        return False


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends this process with its own exit status, after what it started here."""
    previous = signal.getsignal(signal.SIGTERM)
    _handle_sigterm()
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM:  # of Ray's handler, while it connects
            raise command.Terminated(command.TERMINATED) from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, previous)


def _handle_sigterm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, command.terminate)
