"""outcomes of fault trials, their table, and the S3 store behind a proxy"""

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from proxy import Proxy

from data_prep.core.errors import HormesisError
from data_prep.core.store import locations

ROOT = Path(__file__).resolve().parent.parent.parent
AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
IDENTICAL = "identical"
ERROR = "clear error, then identical"
RESUMED = "resumed, then identical"
CLOSE = "resumed, then close"
BAD = "bad"
OUTCOMES = (IDENTICAL, RESUMED, CLOSE, ERROR, BAD)


class TrialResult(NamedTuple):
    name: str
    trial: int
    outcome: str
    detail: str = ""


def is_clear(error: str) -> bool:
    """Whether an error names a place (a URI or path) and, after a semicolon, a remedy."""
    return ";" in error and "/" in error and "Traceback" not in error


def error_lines(stderr: str) -> list[str]:
    """The errors that an entry command printed, without their prefix."""
    prefix = "error: "
    return [line.removeprefix(prefix) for line in stderr.splitlines() if line.startswith(prefix)]


def attempt(work: Callable[[], Any]) -> str | None:
    """None if `work` succeeds, else the text of our error, or a traceback of any other."""
    try:
        work()
    except HormesisError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


@contextmanager
def store_behind_proxy(*buckets: str) -> Iterator[Proxy]:
    """A real S3 server with these buckets behind a proxy that this process and its children use."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs a line per request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with Proxy(f"http://{host}:{port}") as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        locations.filesystem_of.cache_clear()
        for bucket in buckets:
            filesystem, _ = locations.locate(bucket)
            filesystem.call_s3("create_bucket", Bucket=bucket.removeprefix("s3://"))  # type: ignore[attr-defined]
        yield proxy
    server.stop()


def table(results: list[TrialResult]) -> str:
    lines = [f"{'fault':<24}{'trials':>6}  " + "".join(f"{outcome:>30}" for outcome in OUTCOMES)]
    for name in dict.fromkeys(result.name for result in results):
        counts = Counter(result.outcome for result in results if result.name == name)
        cells = "".join(f"{counts[outcome] or '':>30}" for outcome in OUTCOMES)
        lines.append(f"{name:<24}{counts.total():>6}  {cells}")
    return "\n".join(lines)
