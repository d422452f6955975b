"""What came of a disturbance: the four outcomes, their table, and the store behind a proxy that disturbs."""

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from proxy import Proxy

from data_prep.core import storage
from data_prep.core.errors import HormesisError

ROOT = Path(__file__).resolve().parent.parent.parent
AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
IDENTICAL, ERROR, RESUMED, CLOSE = (
    "identical",
    "clear error, then identical",
    "resumed, then identical",
    "resumed, then close",
)
BAD = "bad"


class Result(NamedTuple):
    name: str
    trial: int
    outcome: str
    detail: str = ""


def is_clear(text: str) -> bool:
    """One of our errors says where (a URI or path) and what to do after its last semicolon."""
    return ";" in text and "/" in text and "Traceback" not in text


def attempt(work: Callable[[], Any]) -> str | None:
    """How `work` ended: None well, else one of our errors' text or a traceback."""
    try:
        work()
    except HormesisError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


@contextmanager
def store_behind_proxy(*buckets: str) -> Iterator[Proxy]:
    """A real S3 server with these buckets behind a proxy, where this process's clients and its
    children's go.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with Proxy(f"http://{host}:{port}") as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        storage._filesystem.cache_clear()
        for bucket in buckets:
            filesystem, _ = storage._locate(bucket)
            filesystem.call_s3("create_bucket", Bucket=bucket.removeprefix("s3://"))  # type: ignore[attr-defined]
        yield proxy
    server.stop()


def table(results: list[Result]) -> str:
    outcomes = (IDENTICAL, RESUMED, CLOSE, ERROR, BAD)
    lines = [f"{'fault':<24}{'tried':>6}  " + "".join(f"{outcome:>30}" for outcome in outcomes)]
    for name in dict.fromkeys(result.name for result in results):
        counts = Counter(result.outcome for result in results if result.name == name)
        lines.append(
            f"{name:<24}{counts.total():>6}  "
            + "".join(f"{counts[outcome] or '':>30}" for outcome in outcomes)
        )
    return "\n".join(lines)
