"""loopback proxy before a real S3 server that injects faults on a seeded schedule

    client ──▶ Proxy ──▶ S3 server    `with Proxy(upstream) as proxy:`, AWS_ENDPOINT_URL = proxy.url
                 ▲
                 └ proxy.inject(Fault("reset", rate=0.2, seed=1)); proxy.inject(None) stops it

The proxy passes the client's Host header on, so signatures stay valid, and counts all requests.
Whether a request is disturbed depends on the seed, on the request (method, name, range) and on how
often it was sent before, never on the order of arrival: the same work meets the same faults in any
order of the workers.
"""

import hashlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urlsplit

FAULTS = {
    "slow_down": "status 503 SlowDown; the request is not carried out",
    "reset": "connection reset before the response, request not carried out; uploads stop half way",
    "lost_answer": "the request is carried out, but the connection is reset before the response",
    "reset_in_body": "connection reset after half of the body",
    "truncated": "connection closed after half of the body; Content-Length is that of the whole",
    "short": "half of the body, with the Content-Length of that half",
    "slow": "the body arrives in small pieces with pauses",
    "stalled": "the body stops half way and the connection stays open",
    "latency": "the response is late",
    "stale_list": "a listing without objects written in the last seconds",
    "duplicate": "a PUT arrives a second time, later",
    "garbled": "one byte of the body is wrong",
}
OF_BODIES = ("reset_in_body", "truncated", "short", "slow", "stalled", "garbled")
STALE_SECONDS = 5.0
STALL_SECONDS = 600.0  # longer than any client waits
UPSTREAM_SECONDS = 120.0
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
NOT_FORWARDED = ("connection", "transfer-encoding", "content-length", "expect")
NOT_RETURNED = ("connection", "transfer-encoding", "content-length", "keep-alive")
LIST_ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


class Fault(NamedTuple):
    """A fault in a share `rate` of the requests that it applies to, in at most `limit` of them."""

    kind: str
    rate: float = 0.2
    seed: int = 0
    seconds: float = 0.05  # of latency; `slow` pauses for a fifth of it between pieces
    limit: int | None = None

    def applies_to(self, kind: str) -> bool:
        """Whether requests of this kind (GET, HEAD, LIST, PUT, POST, DELETE) can be disturbed."""
        if self.kind == "duplicate":
            return kind == "PUT"
        if self.kind == "stale_list":
            return kind == "LIST"
        return self.kind not in OF_BODIES or kind in ("GET", "LIST")


class Proxy:
    """The proxy as a context: `counts` holds requests per kind, `injected` faults per kind."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.counts: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self._fault: Fault | None = None
        self._n_sent: Counter[str] = Counter()
        self._written_at: dict[str, float] = {}
        self._delayed: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _ProxyServer(("127.0.0.1", 0), _ProxyHandler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="proxy", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()  # ends stalled connections
        self._server.shutdown()
        self._server.server_close()

    def inject(self, fault: Fault | None) -> None:
        """Inject this fault from now on, or none; waits for duplicates that are under way."""
        assert fault is None or fault.kind in FAULTS, fault
        with self._lock:
            self._fault = None
            delayed, self._delayed = self._delayed, []
        for thread in delayed:
            thread.join()
        with self._lock:
            self._fault = fault
            self._n_sent.clear()
            self.injected.clear()

    def reset(self) -> None:
        """Inject nothing, and forget all requests so far."""
        self.inject(None)
        with self._lock:
            self.counts.clear()
            self._written_at.clear()

    def fault_of(self, kind: str, request: str) -> Fault | None:
        """Count a request of this kind, and return its fault, if any."""
        with self._lock:
            self.counts[kind] += 1
            fault = self._fault
            if fault is None or not fault.applies_to(kind):
                return None
            self._n_sent[request] += 1
            key = f"{fault.seed} {fault.kind} {request} {self._n_sent[request]}"
            hashed = hashlib.blake2b(key.encode(), digest_size=8).digest()
            is_chosen = int.from_bytes(hashed, "big") / 2**64 < fault.rate
            if not is_chosen:
                return None
            if fault.limit is not None and self.injected[fault.kind] >= fault.limit:
                return None
            self.injected[fault.kind] += 1
            return fault

    def note_written(self, path: str) -> None:
        with self._lock:
            self._written_at[unquote(path)] = time.monotonic()

    def without_latest(self, bucket: str, listing: bytes) -> bytes:
        """The listing without objects written in the last STALE_SECONDS."""
        oldest = time.monotonic() - STALE_SECONDS

        def kept(entry: re.Match[bytes]) -> bytes:
            key = KEY.search(entry[0])
            path = f"{bucket}/{key[1].decode()}" if key else ""
            return b"" if self._written_at.get(path, 0) > oldest else entry[0]

        return LIST_ENTRY.sub(kept, listing)

    def wait(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def run_later(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        with self._lock:
            self._delayed.append(thread)
        thread.start()


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def shutdown_request(self, request: Any) -> None:
        # Without shutdown(), so that closing a socket that does not linger resets the connection.
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""


class _Response(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def proxy(self) -> Proxy:
        return cast(_ProxyServer, self.server).proxy

    def _handle(self) -> None:
        url = urlsplit(self.path)
        names_no_object = not url.path.strip("/").partition("/")[2]
        is_list = self.command == "GET" and (names_no_object or "list-type=" in url.query)
        kind = "LIST" if is_list else self.command
        request = f"{self.command} {self.path} {self.headers.get('Range', '')}"
        fault = self.proxy.fault_of(kind, request)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "reset":
            self.rfile.read(length // 2)
            return self._reset()
        body = self._request_body(length)
        if fault and fault.kind == "slow_down":
            return self._send(_Response(503, [("Content-Type", "application/xml")], SLOW_DOWN))
        if fault and fault.kind == "latency":
            self.proxy.wait(fault.seconds)
        headers = list(self.headers.items())
        response = _forward(self.proxy.upstream, self.command, self.path, headers, body)
        if self.command == "PUT" and response.status < 300:
            self.proxy.note_written(url.path)
        if fault is None or fault.kind == "latency":
            return self._send(response)
        getattr(self, f"_{fault.kind}")(response, fault, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # names that http.server calls

    def _lost_answer(self, response: _Response, fault: Fault, body: bytes) -> None:
        self._reset()

    def _reset_in_body(self, response: _Response, fault: Fault, body: bytes) -> None:
        self._send(response, response.body[: len(response.body) // 2])
        self._reset()

    def _truncated(self, response: _Response, fault: Fault, body: bytes) -> None:
        self._send(response, response.body[: len(response.body) // 2])
        self.close_connection = True

    def _short(self, response: _Response, fault: Fault, body: bytes) -> None:
        self._send(response._replace(body=response.body[: len(response.body) // 2]))

    def _slow(self, response: _Response, fault: Fault, body: bytes) -> None:
        self._send(response, b"")
        step = max(1, len(response.body) // 8)
        for start in range(0, len(response.body), step):
            self.wfile.write(response.body[start : start + step])
            self.proxy.wait(fault.seconds / 5)

    def _stalled(self, response: _Response, fault: Fault, body: bytes) -> None:
        self._send(response, response.body[: len(response.body) // 2])
        self.proxy.wait(STALL_SECONDS)
        self._reset()

    def _stale_list(self, response: _Response, fault: Fault, body: bytes) -> None:
        bucket = "/" + urlsplit(self.path).path.strip("/").partition("/")[0]
        self._send(response._replace(body=self.proxy.without_latest(bucket, response.body)))

    def _duplicate(self, response: _Response, fault: Fault, body: bytes) -> None:
        request = (self.command, self.path, list(self.headers.items()))

        def send_again() -> None:
            self.proxy.wait(10 * fault.seconds)
            _forward(self.proxy.upstream, *request, body)

        self.proxy.run_later(send_again)
        self._send(response)

    def _garbled(self, response: _Response, fault: Fault, body: bytes) -> None:
        content = bytearray(response.body)
        if content:
            content[len(content) // 2] ^= 1
        self._send(response._replace(body=bytes(content)))

    def _request_body(self, length: int) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(length)
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, response: _Response, part: bytes | None = None) -> None:
        """Send the response with its own Content-Length; of its body only `part`, if given."""
        self.send_response_only(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in response.headers):
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body if part is None else part)
            self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""


def _forward(
    upstream: str, method: str, path: str, headers: list[tuple[str, str]], body: bytes
) -> _Response:
    connection = http.client.HTTPConnection(upstream, timeout=UPSTREAM_SECONDS)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in NOT_FORWARDED:
                connection.putheader(name, value)
        if body or method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Connection", "close")
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        returned = [
            (name, value)
            for name, value in response.getheaders()
            if name.lower() not in NOT_RETURNED
        ]
        if method == "HEAD":  # states the length of a body that is not sent
            returned += [("Content-Length", response.getheader("Content-Length") or "0")]
        return _Response(response.status, returned, content)
    finally:
        connection.close()
