"""fixtures that tests of several folders share, and the marker `slow`"""

import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import hypothesis
import pytest
from proxy import Proxy

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is not a fault
hypothesis.settings.load_profile("untimed")

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported
# Ray reads these when it is imported: no usage reports, only loopback, no token in the home folder.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled"
)

# A test that uses one of these fixtures is slow.
SLOW_FIXTURES = ("finished_sweep", "ray_cluster")
# Folders whose tests share an expensive fixture of the session, and so run in one process.
SHARED_FOLDERS = ("tests/integration", "tests/launch/report")
# What takes longest starts first, so that both processes end at about the same time.
LONGEST_FIRST = (
    "tests/integration",
    "tests/training/test_pretrain.py",
    "tests/faults/test_faults.py",
    "tests/benchmarks/test_gpu_check.py",
)


def process_group(file: str) -> str:
    """The name of the group of files that run in the same process: a file, or a shared folder."""
    return next((folder for folder in SHARED_FOLDERS if file.startswith(f"{folder}/")), file)


def pytest_make_parametrize_id(val: Any) -> str | None:
    """The id of a parameter of bytes is its size: content such as a gzip header's time would differ
    between the two processes, and reaches terminals.
    """
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not set(SLOW_FIXTURES).isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        order = {group: rank for rank, group in enumerate(LONGEST_FIRST)}

        def rank(item: pytest.Item) -> int:
            file = item.path.relative_to(config.rootpath).as_posix()
            return order.get(process_group(file), len(order))

        items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute groups of files over the two processes of `make test`.

    The marker xdist_group would do the same, but has no effect in pytest 9.2 with xdist 3.8.
    """
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_group(nodeid.split("::")[0])

    return GroupScheduling(config, log)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A loopback port that nobody listens on, a new one per call."""

    def port() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return port


@pytest.fixture
def refusing_store() -> Iterator[str]:
    """The endpoint of a store that responds to every request with 403."""

    class RefusingHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET  # names that http.server calls

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), RefusingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[Proxy]:
    """A proxy before a real S3 server on loopback; see the fixtures `s3_server` and `proxy`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with Proxy(f"http://{host}:{port}") as proxy:
        yield proxy
    server.stop()


@pytest.fixture(scope="session")
def s3_server(s3_proxy: Proxy) -> Iterator[str]:
    """The URI of a bucket on a real S3 server.

    From here to the end of the session, the AWS_ variables of the environment point to the server.
    All clients go through one proxy, so that a test can inject faults without a client of its own,
    which takes half a second to construct.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        request = urllib.request.Request(f"{s3_proxy.url}/hormesis", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield "s3://hormesis"


@pytest.fixture
def proxy(s3_server: str, s3_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy before the S3 server, without a fault and with its counts at zero."""
    s3_proxy.reset()
    yield s3_proxy
    s3_proxy.reset()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray cluster of two CPUs on loopback, started once per session."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
