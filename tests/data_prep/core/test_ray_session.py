import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sweeps import ROOT, environment

from data_prep.core import ray_session
from data_prep.core.errors import ClusterError

CONNECT = "from data_prep.core import ray_session\nwith ray_session.session(1): print('connected')"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Ray's folder, with these variables and in front of /tmp's real content."""

    def folder(**variables: str) -> str | None:
        for name in ("RAY_TMPDIR", "TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return ray_session._folder()

    return folder


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


def test_a_good_folder_is_left_to_ray(folders: Callable, short_folder: Path) -> None:
    assert folders(TMPDIR=str(short_folder)) is None
    assert folders(RAY_TMPDIR=str(short_folder)) is None


def test_a_folder_that_ray_cannot_use_is_replaced(
    folders: Callable, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"/tmp/ray-{os.getuid()}"
    too_long = short_folder / ("x" * 90)
    too_long.mkdir()
    (short_folder / "file").touch()
    assert folders(TMPDIR=str(too_long)) == own
    assert folders(TMPDIR="/no/such/folder") == own
    assert folders(TMPDIR="/proc") == own
    assert folders(TMPDIR=str(short_folder / "file")) == own
    (short_folder / "ray").touch()  # a file in the place of Ray's folder
    assert folders(TMPDIR=str(short_folder)) == own
    assert not Path("/no").exists()


def test_a_folder_that_was_asked_for_is_refused_with_the_reason(
    folders: Callable, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="RAY_TMPDIR is '/no/such', does not exist"):
        folders(RAY_TMPDIR="/no/such")
    (short_folder / ("x" * 40)).mkdir()
    with pytest.raises(ClusterError, match="too long for the paths of sockets, by"):
        folders(RAY_TMPDIR=str(short_folder / ("x" * 40)))
    monkeypatch.setattr(ray_session, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(ClusterError, match=r"has only \d+ MiB free"):
        folders(RAY_TMPDIR=str(short_folder))
    with pytest.raises(ClusterError, match="set RAY_TMPDIR"):
        folders(TMPDIR=str(short_folder))


def test_without_a_home_the_token_lies_in_a_private_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with ray_session._token():
        file = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert len(file.read_text(encoding="utf-8")) == 64
        assert file.parent.stat().st_mode & 0o077 == 0
    assert not file.exists() and "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("bogus", "Invalid address format"),
        ("http://127.0.0.1:8265", "the address of a dashboard"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("no.such.host.invalid:6379", "RAY_ADDRESS"),
        ("127.0.0.1:", "RAY_ADDRESS"),
        ("silent", "is not Ray"),
    ],
)
def test_an_address_without_a_cluster_is_refused_soon(address: str, words: str) -> None:
    with ExitStack() as at_end:
        if address == "silent":
            listener = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        program = CONNECT.replace("with", "ray_session.CONNECT_SECONDS = 1.0\nwith")
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment(RAY_ADDRESS=address),
            capture_output=True,
            text=True,
            timeout=60,
        )
    message = done.stderr.strip().splitlines()[-1]
    assert "ClusterError: cannot connect to Ray: " in message
    assert words in message and f"RAY_ADDRESS is '{address}'" in message


@pytest.mark.slow
def test_a_session_starts_with_a_long_tmpdir_and_no_home(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        cwd=ROOT,
        env=environment(TMPDIR=str(folder), HOME="/proc/nohome"),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stdout) == (0, "connected\n"), done.stderr[-2000:]
    assert (
        done.stderr.count("\n") == 1 and f"Ray's files are in /tmp/ray-{os.getuid()}" in done.stderr
    )
    assert list(folder.iterdir()) == []
