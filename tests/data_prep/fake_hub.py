"""A server on loopback that answers as the Hugging Face hub does: one gated data set, one commit.

Statuses and headers are those that huggingface_hub's `hf_raise_for_status` reads.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "someone/gated-set"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD_TOKEN = "hf_thetokenwithaccess00000000000000000"
OTHER_TOKEN = "hf_atokenofsomebodyelse000000000000000"
CARD = """---
configs:
- config_name: annotated
  data_files:
  - split: train
    path: annotated/train.jsonl
  - split: test
    path: annotated/test.jsonl
---
"""
FILES = {
    "README.md": CARD.encode(),
    "annotated/test.jsonl": b'{"text": "a row to test on"}\n',
    "annotated/train.jsonl": b'{"text": "the first row"}\n{"text": "the second row"}\n',
}


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: pytest shows what a test prints."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if f"datasets/{NAME}/" not in f"{path}/":
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif token == "hf_brokentoken":
            message = "Invalid credentials in Authorization header"
            self._send(401, b"", {"X-Error-Message": message})
        elif token != GOOD_TOKEN:
            self._send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
        elif "/resolve/" in path:
            self._send_file(path.partition(f"{COMMIT}/")[2])
        elif "/tree/" in path:
            folder = path.partition(f"{COMMIT}/")[2]
            self._send_json(
                [
                    {"type": "file", "oid": "0" * 40, "size": len(content), "path": name}
                    for name, content in FILES.items()
                    if name.startswith(folder)
                ]
            )
        else:
            self._send_json({"id": NAME, "sha": COMMIT, "gated": "auto", "siblings": []})

    def _send_file(self, name: str) -> None:
        content = FILES.get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if wanted := (self.headers.get("Range") or "").removeprefix("bytes="):
            first, _, last = wanted.partition("-")
            start, stop = int(first), min(int(last or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self._send(206, content[start:stop], headers)
        else:
            self._send(200, content, headers)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = _answer


@contextmanager
def running() -> Iterator[str]:
    """The URL of the server, for HF_ENDPOINT, while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
