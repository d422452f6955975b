"""What tests of several folders share."""

import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is not a fault
hypothesis.settings.load_profile("untimed")

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported
os.environ.update(  # Ray reads these when it is imported: no reports, only loopback, and no token left in the home folder
    RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled"
)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A loopback port that nobody listens on, another one at each call."""

    def port() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return port


@pytest.fixture
def refusing_store() -> Iterator[str]:
    """The endpoint of a store that answers every request with 403."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET  # the names http.server calls

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 server on loopback, where the environment's AWS_ variables point meanwhile; the URI
    of an empty bucket on it.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        request = urllib.request.Request(f"http://{host}:{port}/hormesis", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield "s3://hormesis"
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray of two CPUs on loopback, started once for all tests that ask for it."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level="warning",
        log_to_driver=False,
    )
    yield
    ray.shutdown()
