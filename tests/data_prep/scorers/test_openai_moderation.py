"""OpenAI's moderation service, played by an HTTP server on the loopback interface."""

import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.scorers import load_scorer, openai_moderation

KEY = "sesame-0123456789"


class Server(ThreadingHTTPServer):
    """Scores a text by its length.

    faults: per text (or "*") what to do with its first requests: a status, "hang", "drop", or
        an answer to send.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = {}
        self.requests = []
        self.n_requests = Counter()
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        """Print nothing when a client hangs up on "hang"."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["input"]
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            faults = self.server.faults.get(text, self.server.faults.get("*", []))
            number = self.server.n_requests[text]
            fault = faults[number] if number < len(faults) else None
            self.server.n_requests[text] += 1
        scores = {"hate": 0.01, "harassment/threatening": len(text) / 100, "violence": 0.99}
        if fault == "hang":
            time.sleep(1)
        elif fault == "drop":
            self.close_connection = True
        elif isinstance(fault, int):
            self._answer(fault, {"error": f"no, {self.headers.get('Authorization')}"})
        else:
            self._answer(200, fault or {"results": [{"category_scores": scores}]})

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):  # noqa: A002
        """Log nothing."""


@pytest.fixture(scope="module")
def running_server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running_server, monkeypatch):
    running_server.faults = {}
    running_server.requests = []
    running_server.n_requests = Counter()
    port = running_server.server_address[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(openai_moderation, "FIRST_WAIT_SECONDS", 0.001)
    return running_server


@pytest.fixture
def scorer(server):
    return load_scorer.load("openai#per_second=100000")


def test_each_distinct_text_is_sent_once(scorer, server):
    texts = ["a text", "", "longer text", "a text", " "]
    assert scorer.score(texts) == [0.06, None, 0.11, 0.06, None]
    path, headers, body = server.requests[0]
    assert (path, len(server.requests)) == ("/v1/moderations", 2)
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "omni-moderation-2024-09-26"
    assert (scorer.id, scorer.costly) == ("openai-omni-moderation-2024-09-26", True)


def test_the_score_is_the_highest_of_harassment_and_hate(scorer, server):
    def answer(**scores):
        return {"results": [{"category_scores": scores}]}

    server.faults = {
        "a": [answer(hate=0.1, harassment=0.2, violence=0.9)],
        "b": [answer(**{"hate": 0.1, "hate/threatening": 0.3, "hateful": 0.9})],
    }
    assert scorer.score(["a", "b"]) == [0.2, 0.3]


def test_the_model_is_an_option_and_part_of_the_id(server):
    scorer = load_scorer.load("openai#per_second=100000&model=some-model")
    assert scorer.score(["four"]) == [0.04]
    assert server.requests[0][2]["model"] == "some-model"
    assert scorer.id == "openai-some-model"


def test_transient_failures_are_retried_and_others_leave_no_score(scorer, server, monkeypatch):
    monkeypatch.setattr(openai_moderation, "TIMEOUT_SECONDS", 0.3)
    server.faults = {
        "busy": [429, 429, 503],
        "slow": ["hang"],
        "odd": [{"results": []}, "drop"],
        "list": [["no object"]],
        "nan": [{"results": [{"category_scores": {"hate": 7}}]}],
        "bad": [400],
        "moved": [302],
        "down": [500] * 9,
    }
    texts = [*server.faults, "fine"]
    expected = [0.04, 0.04, 0.03, 0.04, 0.03, None, None, None, 0.04]
    assert scorer.score(texts) == expected
    n_requests = [server.n_requests[text] for text in texts]
    assert n_requests == [4, 2, 3, 2, 2, 1, 1, openai_moderation.MAX_ATTEMPTS, 1]
    assert scorer.failures == {"status 400": 1, "status 302": 1, "status 500": 1}


def test_a_service_that_is_down_is_given_up(scorer, server, monkeypatch):
    monkeypatch.setattr(openai_moderation, "MAX_ATTEMPTS", 2)
    server.faults = {"*": [500] * 9}
    texts = [f"text {i}" for i in range(200)]
    assert scorer.score(texts) == [None] * 200
    limit = openai_moderation.GIVE_UP_AFTER + 2 * openai_moderation.PARALLEL_REQUESTS
    assert len(server.n_requests) < limit
    server.faults = {}
    assert None not in scorer.score(texts)


def test_a_refused_key_is_an_error_that_does_not_show_the_key(scorer, server, monkeypatch, caplog):
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    server.faults = {"*": [403]}
    with pytest.raises(
        ConfigurationError, match=r"refused the key in OPENAI_API_KEY \(status 403\); check the key"
    ) as refused:
        scorer.score(["some text"])
    server.faults = {"bad": [400]}
    with caplog.at_level(logging.DEBUG):
        scorer.score(["bad"])
    assert "1 of 1 texts got no score (status 400: 1)" in caplog.text
    path, _, body = server.requests[0]
    shown = [str(refused.value), repr(refused.value.__context__), scorer.id, repr(scorer)]
    assert not any(KEY in text for text in [caplog.text, path, json.dumps(body), *shown])


def test_requests_start_at_the_given_rate(monkeypatch):
    now = [100.0]
    waited = []
    monkeypatch.setattr(openai_moderation.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(openai_moderation.time, "sleep", waited.append)
    rate_limit = openai_moderation.RateLimit(4.0)
    for _ in range(3):
        rate_limit.wait()
    now[0] += 60.0
    rate_limit.wait()
    assert waited == [0.0, 0.25, 0.5, 0.0]  # a pause earns no burst


def test_without_a_key_or_over_plain_http_nothing_is_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.org")
    with pytest.raises(
        ConfigurationError, match=r"OPENAI_BASE_URL is 'http://example.org'; expected https://"
    ):
        load_scorer.load("openai")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY is empty; set it, or choose"):
        load_scorer.load("openai")


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("per_second=0", "per_second is 0; expected a number above 0"),
        ("per_second=fast", "per_second is fast; expected a number above 0"),
        ("per_second=nan", "per_second is nan; expected a number above 0"),
        ("speed=3", "cannot use 'speed=3' after #; expected #model=NAME, #per_second=N"),
        ("model=", "cannot use 'model=' after #"),
    ],
)
def test_options_are_checked(server, fragment, message):
    with pytest.raises(ConfigurationError, match=f"openai#{fragment}: {message}"):
        load_scorer.load(f"openai#{fragment}")


def test_waits_grow_differ_and_honour_retry_after():
    waits = {
        attempt: [openai_moderation.wait_seconds(attempt, "") for _ in range(50)]
        for attempt in (1, 2, 9)
    }
    longest = openai_moderation.LONGEST_WAIT_SECONDS
    assert all(0.5 <= wait <= 1 for wait in waits[1])
    assert all(1 <= wait <= 2 for wait in waits[2])
    assert max(waits[9]) <= longest and len(set(waits[1])) > 40
    assert openai_moderation.wait_seconds(1, "7") == 7.0
    assert openai_moderation.wait_seconds(1, "9999") == longest
