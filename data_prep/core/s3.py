"""the S3 client: s3fs under one policy of retries, never a body shorter than promised

Three layers would retry, and multiply: botocore, s3fs and we. The two below are switched off, so
that each request (a part of an upload and a page of a listing, too) is tried again here and nowhere
else, and counted; only aiohttp asks once more, at once, where a connection breaks before its
answer.

    again      500, 502, 503, 504, 429, SlowDown · connection refused, reset or timed out · a body cut short or hurt
    at once    403, 404, no such bucket, no credentials, a malformed request

Waits are drawn from [0, 0.2 · 2ⁿ] s, at most 5 s ("full jitter", so that a hundred workers do not
come back together). A store that has answered this process before is given 60 s from the first
failure; one that never did is given up after 4 s, for then the endpoint is likely wrong.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import ClientError as TransportError
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError
from s3fs import S3FileSystem

from data_prep.core import telemetry

PATIENCE_SECONDS = 60.0
FIRST_CONTACT_SECONDS = 4.0
MAX_ATTEMPTS = 40
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 5.0
SILENCE_SECONDS = 20.0  # of an open connection: then it is dead
OPTIONS = {
    "use_listings_cache": False,
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 4,
        "read_timeout": SILENCE_SECONDS,
    },
}
BUSY_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
}

CONNECTION_ERRORS = (
    NoConnection,
    HTTPClientError,
    ResponseStreamingError,
    ResponseParserError,  # half an answer, or a gateway's page in place of one
    TransportError,
    ConnectionError,
    TimeoutError,
)

T = TypeVar("T")


class ShortBody(OSError):
    """Fewer bytes came than the answer's header promised."""


class Client(S3FileSystem):
    """s3fs's client as storage.py uses it; one a process."""

    retries = 1  # s3fs counts tries

    def __init__(self, **options: Any) -> None:
        super().__init__(**OPTIONS, **options)
        self._answered = False

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        attempts = 0

        async def call() -> Any:
            nonlocal attempts
            attempts += 1
            try:
                return await super(Client, self)._call_s3(method, *args, **kwargs)
            except FileNotFoundError:
                if method == "complete_multipart_upload" and attempts > 1:
                    return {}  # it was completed, and the answer was lost
                raise

        return await self._persist(
            call, f"{method} {kwargs.get('Bucket', '')}/{kwargs.get('Key', '')}"
        )

    async def _cat_file(
        self, path: str, version_id: Any = None, start: Any = None, end: Any = None, *_: Any
    ) -> bytes:  # type: ignore[override]
        """The bytes in [start, end), as far as there are any: one GET, always of a range, whose
        answer says how much is right.
        """
        bucket, key, _version = self.split_path(path)
        first = start or 0
        asked = f"bytes={first}-{'' if end is None else end - 1}"

        async def fetch() -> bytes:
            answer = await super(Client, self)._call_s3(
                "get_object", Bucket=bucket, Key=key, Range=asked
            )
            async with answer["Body"] as body:
                content = await body.read()
            there = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange") or "")
            n_bytes = int(there[1]) if there else answer["ContentLength"]
            expected = min(end or n_bytes, n_bytes) - first if there else n_bytes
            if len(content) != expected:
                raise ShortBody(f"{len(content):,} bytes came of {expected:,} asked for")
            return (
                content if there else content[first:end]
            )  # without the header it is the whole object

        try:
            content = await self._persist(fetch, f"get_object {path} {asked}")
        except OSError as error:
            if _code(error) in ("InvalidRange", "416"):
                return b""  # it begins at the end or past it
            raise
        telemetry.emit("hormesis_storage_read_bytes", len(content))
        return content

    async def _persist(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        """`attempt` until it succeeds, fails for good, or the store's time is up."""
        began, first_failure, n_failed = time.monotonic(), 0.0, 0
        while True:
            try:
                result = await attempt()
                self._answered = True
                return result
            except Exception as error:
                self._answered = self._answered or _code(error) != ""
                reason, now = transient(error), time.monotonic()
                first_failure = first_failure or now
                n_failed += 1
                until = (
                    first_failure + PATIENCE_SECONDS
                    if self._answered
                    else began + FIRST_CONTACT_SECONDS
                )
                wait = pause(n_failed)
                if not reason or n_failed == MAX_ATTEMPTS or now + wait > until:
                    raise
                level = 30 if n_failed % 5 == 0 else 10
                telemetry.logger.log(
                    level,
                    "%s: %s (%s); trying again, %d s before giving up",
                    what,
                    reason,
                    error,
                    until - now,
                )
                telemetry.emit("hormesis_storage_retries", 1, reason=reason)
                await asyncio.sleep(wait)


def pause(n_failed: int) -> float:
    """Seconds to wait after the n-th failure in a row."""
    return random.uniform(
        0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(n_failed - 1, 30))
    )


def transient(error: BaseException) -> str:
    """Why `error` may pass: busy, connection or body; nothing if it will not."""
    if isinstance(error, ShortBody | IncompleteReadError | FlexibleChecksumError):
        return "body"
    if isinstance(error, CONNECTION_ERRORS):
        return "connection"
    answer = _answer(error)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return "busy" if status in (429, 500, 502, 503, 504) or _code(error) in BUSY_CODES else ""


def _answer(error: BaseException) -> dict[str, Any]:
    """What the store answered, if `error` is an answer; s3fs hangs botocore's error below its own."""
    for each in (error, error.__cause__):
        if isinstance(each, ClientError):
            return dict(each.response)
    return {}


def _code(error: BaseException) -> str:
    return str(_answer(error).get("Error", {}).get("Code", ""))
