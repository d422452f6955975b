"""the S3 client: s3fs with one retry policy, and no body shorter than the store promised

botocore, s3fs and we could all retry, and their attempts would multiply. Retries of botocore and
s3fs are off, so each request (also a part of an upload, or a page of a listing) is retried and
counted here only. One exception: aiohttp sends a request again, once and at once, when a
connection breaks before the response.

    retried    500, 502, 503, 504, 429, SlowDown · connection refused, reset or timed out · a body
               that is truncated or fails its checksum
    not        403, 404, no such bucket, no credentials, a malformed request

Waits are drawn from [0, 0.2 · 2ⁿ] s, at most 5 s ("full jitter", so that a hundred workers do not
return together). A store that has responded to this process before gets 60 s from the first
failure; one that never did gets 4 s, because then the endpoint is likely wrong.
"""

import asyncio
import ipaddress
import logging
import os
import random
import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

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
from data_prep.core.errors import ConfigurationError, mask_secrets, summary
from data_prep.core.store import store_errors

RETRY_SECONDS = 60.0
FIRST_CONTACT_SECONDS = 4.0
MAX_ATTEMPTS = 40
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 20.0  # an open connection that is silent for longer is dead
ATTEMPT_SECONDS = 600.0  # of one request: 64 MiB at 110 kB/s; a body may also trickle for ever
FAILURES_PER_WARNING = 5  # the others are logged at level DEBUG
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CERTIFICATE_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
CLIENT_OPTIONS = {
    "use_listings_cache": False,
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 4,
        "read_timeout": READ_TIMEOUT_SECONDS,
    },
}
BUSY_STATUSES = {429, 500, 502, 503, 504}
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
    ResponseParserError,  # half a response, or a page of a gateway instead of one
    TransportError,
    ConnectionError,
    TimeoutError,
)

T = TypeVar("T")


class TruncatedBody(OSError):
    """A body is shorter than the header of the response promised."""


class RetryingS3(S3FileSystem):
    """s3fs's client with our retry policy; storage.py has one per process."""

    retries = 1  # the number of attempts that s3fs makes

    def __init__(self, **options: Any) -> None:
        super().__init__(**CLIENT_OPTIONS, **options)
        self._has_responded = False

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        """Make the client; its endpoint comes from the environment or the AWS configuration.

        Raises ConfigurationError if one of the settings is wrong.
        """
        check_environment()
        try:
            client = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        except Exception as error:
            raise ConfigurationError(
                f"cannot set up the S3 client: {summary(error)}; {store_errors.s3_remedy(error)}"
            ) from error
        assert self._s3 is not None
        warn_of_plain_http(str(self._s3.meta.endpoint_url))
        return client

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        n_attempts = 0

        async def attempt() -> Any:
            nonlocal n_attempts
            n_attempts += 1
            try:
                return await super(RetryingS3, self)._call_s3(method, *args, **kwargs)
            except FileNotFoundError:
                if method == "complete_multipart_upload" and n_attempts > 1:
                    return {}  # an earlier attempt completed it, and its response was lost
                raise

        name = f"{kwargs.get('Bucket', '')}/{kwargs.get('Key', '')}"
        return await self._retry(attempt, f"{method} {name}")

    async def _cat_file(
        self,
        path: str,
        version_id: Any = None,
        start: Any = None,
        end: Any = None,
        chunksize: Any = None,
        max_concurrency: Any = None,
    ) -> bytes:
        """The bytes in [start, end), clipped to the size of the object.

        One GET, always of a range, because its response says how long the body must be.
        """
        bucket, key, _ = self.split_path(path)
        first = start or 0
        byte_range = f"bytes={first}-{'' if end is None else end - 1}"

        async def fetch() -> bytes:
            response = await super(RetryingS3, self)._call_s3(
                "get_object", Bucket=bucket, Key=key, Range=byte_range
            )
            async with response["Body"] as body:
                content = await body.read()
            content_range = response.get("ContentRange") or ""
            match = re.fullmatch(r"bytes \d+-\d+/(\d+)", content_range)
            if match is None:  # the store ignored the range and sent the whole object
                _check_length(content, response["ContentLength"])
                return content[first:end]
            n_bytes = int(match[1])
            _check_length(content, min(end or n_bytes, n_bytes) - first)
            return content

        try:
            content = await self._retry(fetch, f"get_object {path} {byte_range}")
        except OSError as error:
            if _error_code(error) in ("InvalidRange", "416"):
                return b""  # the range starts at or after the end of the object
            raise
        telemetry.emit("hormesis_storage_read_bytes", len(content))
        return content

    async def _retry(self, attempt: Callable[[], Awaitable[T]], request: str) -> T:
        """The result of `attempt`, retried until it succeeds, fails for good or time is up."""
        start = time.monotonic()
        first_failure = 0.0
        n_failed = 0
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    result = await attempt()
                self._has_responded = True
                return result
            except Exception as error:
                self._has_responded = self._has_responded or _error_code(error) != ""
                n_failed += 1
                now = time.monotonic()
                first_failure = first_failure or now
                deadline = (
                    first_failure + RETRY_SECONDS
                    if self._has_responded
                    else start + FIRST_CONTACT_SECONDS
                )
                reason = transient_reason(error)
                wait = wait_seconds(n_failed)
                if not reason or n_failed == MAX_ATTEMPTS or now + wait > deadline:
                    raise
                is_warning = n_failed % FAILURES_PER_WARNING == 0
                telemetry.logger.log(
                    logging.WARNING if is_warning else logging.DEBUG,
                    "%s: %s (%s); retrying for another %d s",
                    request,
                    reason,
                    error,
                    deadline - now,
                )
                telemetry.emit("hormesis_storage_retries", 1, reason=reason)
                await asyncio.sleep(wait)


def check_environment() -> None:
    """Raise ConfigurationError for variables that botocore takes and then fails on, unclearly."""
    for name in ENDPOINT_VARIABLES:
        endpoint = os.environ.get(name, "")
        if endpoint and (fault := _endpoint_fault(endpoint)):
            raise ConfigurationError(
                f"{name} is {endpoint!r}, {fault}; expected http://HOST:PORT or https://HOST:PORT: "
                "correct the variable"
            )
    for name in CERTIFICATE_VARIABLES:
        file = os.environ.get(name, "")
        if file and not Path(file).exists():
            raise ConfigurationError(
                f"{name} is {file!r}, which does not exist; expected a file of certificates in PEM "
                "format: correct the variable, or unset it"
            )


def _endpoint_fault(endpoint: str) -> str:
    """What is wrong with an endpoint, or an empty text."""
    try:
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https"):
            return "without http:// or https://"
        if not address.hostname:
            return "without a host"
        if re.search(r"[\s\x00-\x1f]", endpoint):
            return "with a blank in it"
        return "with port 0" if address.port == 0 else ""
    except ValueError as error:
        return f"which is not a URL ({error})"


@lru_cache
def warn_of_plain_http(endpoint: str) -> None:
    """Say once, in the process that a user started, that requests are readable on their way."""
    address = urlsplit(endpoint)
    if address.scheme != "http" or _is_loopback(address.hostname or ""):
        return
    if telemetry.in_ray_worker() or os.environ.get("RANK", "0") != "0":
        return  # the driver, or rank 0, says it
    telemetry.logger.warning(
        "the object store is at %s: without https, others on the network can read and change what "
        "is sent, text and signed requests alike; use an https:// AWS_ENDPOINT_URL unless the "
        "network is private",
        mask_secrets(endpoint),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def wait_seconds(n_failed: int) -> float:
    """Seconds to wait after the n-th failure in a row."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(n_failed - 1, 30))
    return random.uniform(0, longest)


def transient_reason(error: BaseException) -> str:
    """Why a retry may succeed: busy, connection or body; "" if none would."""
    if isinstance(error, TruncatedBody | IncompleteReadError | FlexibleChecksumError):
        return "body"
    if isinstance(error, CONNECTION_ERRORS):
        return "connection"
    status = _error_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return "busy" if status in BUSY_STATUSES or _error_code(error) in BUSY_CODES else ""


def _check_length(content: bytes, expected: int) -> None:
    if len(content) != expected:
        raise TruncatedBody(f"the body has {len(content):,} bytes, expected {expected:,}")


def _error_response(error: BaseException) -> dict[str, Any]:
    """The response of the store, if there was one; s3fs keeps botocore's error as a cause."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, ClientError):
            return dict(candidate.response)
    return {}


def _error_code(error: BaseException) -> str:
    return str(_error_response(error).get("Error", {}).get("Code", ""))
