"""A loopback proxy before a real S3 server that fails on a seeded schedule and counts what passes.

    client ──▶ Proxy ──▶ S3 server        `with Proxy(upstream) as proxy:`, AWS_ENDPOINT_URL = proxy.url
                 ▲
                 └ proxy.inject(Fault("reset", rate=0.2, seed=1)); proxy.inject(None) ends it

The client's Host header passes through, so signatures stay valid. Whether a request is hit depends
on the seed, on what is asked (method, name, range) and on how often it was asked already, never on
the order of arrival: the same work meets the same faults whatever the workers do first.
"""

import hashlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

FAULTS = {
    "slow_down": "503 SlowDown, nothing done",
    "reset": "connection reset before the answer, nothing done; an upload is cut half way",
    "lost_answer": "done, but the connection is reset before the answer",
    "reset_in_body": "connection reset after half of the body",
    "truncated": "connection closed after half of the body, Content-Length of the whole",
    "short": "half of the body, with the Content-Length of that half",
    "slow": "the body comes in small pieces with pauses",
    "stalled": "the body stops half way and the connection stays open",
    "latency": "the answer comes late",
    "stale_list": "a listing without what was written in the last seconds",
    "duplicate": "a PUT arrives a second time, later",
    "garbled": "one byte of the body is another",
}
OF_BODIES = ("reset_in_body", "truncated", "short", "slow", "stalled", "garbled")
STALE_SECONDS = 5.0
SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")
ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


class Fault(NamedTuple):
    """What goes wrong with a share `rate` of the requests it applies to; at most `limit` of them,
    if given.
    """

    kind: str
    rate: float = 0.2
    seed: int = 0
    seconds: float = 0.05  # of latency; `slow` pauses for a fifth of it between pieces
    limit: int | None = None


class Proxy:
    """The proxy as a context. `counts` holds requests by kind (GET, HEAD, LIST, PUT, POST, DELETE),
    `injected` the faults.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.counts: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self._fault: Fault | None = None
        self._asked: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self._later: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="proxy", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()  # lets go of stalled connections
        self._server.shutdown()
        self._server.server_close()

    def inject(self, fault: Fault | None) -> None:
        """From now on fail like this, or not at all; waits for duplicates under way."""
        assert fault is None or fault.kind in FAULTS, fault
        with self._lock:
            self._fault, later, self._later = None, self._later, []
        for thread in later:
            thread.join()
        with self._lock:
            self._fault = fault
            self._asked.clear()
            self.injected.clear()

    def fault_of(self, kind: str, asked: str) -> Fault | None:
        """Count a request of this kind, and say how it is to fail."""
        with self._lock:
            self.counts[kind] += 1
            fault = self._fault
            if (
                fault is None
                or (fault.kind == "duplicate" and kind != "PUT")
                or (fault.kind == "stale_list" and kind != "LIST")
            ):
                return None
            if fault.kind in OF_BODIES and kind not in ("GET", "LIST"):
                return None
            self._asked[asked] += 1
            name = f"{fault.seed} {fault.kind} {asked} {self._asked[asked]}"
            chance = (
                int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
                / 2**64
            )
            if chance >= fault.rate or (
                fault.limit is not None and self.injected[fault.kind] >= fault.limit
            ):
                return None
            self.injected[fault.kind] += 1
            return fault

    def note_written(self, path: str) -> None:
        with self._lock:
            self._written[unquote(path)] = time.monotonic()

    def without_latest(self, bucket: str, listing: bytes) -> bytes:
        """The listing as it was some seconds ago: what was first written since is not in it."""
        oldest = time.monotonic() - STALE_SECONDS

        def kept(entry: re.Match[bytes]) -> bytes:
            key = KEY.search(entry[0])
            path = f"{bucket}/{key[1].decode()}" if key else ""
            return b"" if self._written.get(path, 0) > oldest else entry[0]

        return ENTRY.sub(kept, listing)

    def wait(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def later(self, work: Any) -> None:
        thread = threading.Thread(target=work, daemon=True)
        with self._lock:
            self._later.append(thread)
        thread.start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def shutdown_request(self, request: Any) -> None:
        self.close_request(
            request
        )  # without shutdown(), so that a socket that does not linger is reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        proxy, url = self.server.proxy, urlsplit(self.path)
        is_list = self.command == "GET" and (
            not url.path.strip("/").partition("/")[2] or "list-type=" in url.query
        )
        kind = "LIST" if is_list else self.command
        fault = proxy.fault_of(kind, f"{self.command} {self.path} {self.headers.get('Range', '')}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "reset":
            self.rfile.read(length // 2)
            return self._reset()
        body = self._request_body(length)
        if fault and fault.kind == "slow_down":
            return self._send(_Answer(503, [("Content-Type", "application/xml")], SLOW_DOWN))
        if fault and fault.kind == "latency":
            proxy.wait(fault.seconds)
        answer = self._forward(body)
        if self.command == "PUT" and answer.status < 300:
            proxy.note_written(url.path)
        if fault is None or fault.kind == "latency":
            return self._send(answer)
        getattr(self, f"_{fault.kind}")(answer, fault, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # the names http.server calls

    def _lost_answer(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        self._reset()

    def _reset_in_body(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        self._send(answer, answer.body[: len(answer.body) // 2])
        self._reset()

    def _truncated(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        self._send(answer, answer.body[: len(answer.body) // 2])
        self.close_connection = True

    def _short(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        self._send(answer._replace(body=answer.body[: len(answer.body) // 2]))

    def _slow(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        self._send(answer, b"")
        step = max(1, len(answer.body) // 8)
        for at in range(0, len(answer.body), step):
            self.wfile.write(answer.body[at : at + step])
            self.server.proxy.wait(fault.seconds / 5)

    def _stalled(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        self._send(answer, answer.body[: len(answer.body) // 2])
        self.server.proxy.wait(600)
        self._reset()

    def _stale_list(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        bucket = "/" + urlsplit(self.path).path.strip("/").partition("/")[0]
        self._send(answer._replace(body=self.server.proxy.without_latest(bucket, answer.body)))

    def _duplicate(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        request = (self.command, self.path, list(self.headers.items()))

        def again() -> None:
            self.server.proxy.wait(10 * fault.seconds)
            _ask(self.server.proxy.upstream, *request, body)

        self.server.proxy.later(again)
        self._send(answer)

    def _garbled(self, answer: _Answer, fault: Fault, body: bytes) -> None:
        content = bytearray(answer.body)
        if content:
            content[len(content) // 2] ^= 1
        self._send(answer._replace(body=bytes(content)))

    def _request_body(self, length: int) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes) -> _Answer:
        return _ask(
            self.server.proxy.upstream, self.command, self.path, list(self.headers.items()), body
        )

    def _send(self, answer: _Answer, part: bytes | None = None) -> None:
        """The answer with its own Content-Length, of its body only `part` where given."""
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in answer.headers):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if part is None else part)
            self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _ask(
    upstream: str, method: str, path: str, headers: list[tuple[str, str]], body: bytes
) -> _Answer:
    connection = http.client.HTTPConnection(upstream, timeout=120)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                connection.putheader(name, value)
        if body or method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Connection", "close")
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        kept = [
            (name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP
        ]
        if method == "HEAD":  # says the length of a body that does not come
            kept += [("Content-Length", answer.getheader("Content-Length") or "0")]
        return _Answer(answer.status, kept, content)
    finally:
        connection.close()
