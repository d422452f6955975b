"""Perspective and OpenAI's moderation, played by a server on the loopback interface."""

import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.scorers import registry, remote

KEY = "sesame-0123456789"


class Server(ThreadingHTTPServer):
    """Scores a text by its length; `faults` says what to do first with a text that has some:
    statuses, "hang", "junk", "drop".
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.asked = {}, [], Counter()
        self.lock = threading.Lock()

    def handle_error(self, *_):
        pass  # a client that hangs up on "hang"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_perspective = self.path.startswith("/v1alpha1")
        text = body["comment"]["text"] if is_perspective else body["input"]
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            faults = self.server.faults.get(text, self.server.faults.get("*", []))
            fault = (
                faults[self.server.asked[text]] if self.server.asked[text] < len(faults) else None
            )
            self.server.asked[text] += 1
        if fault == "hang":
            time.sleep(1)
        elif fault == "drop":
            self.close_connection = True
        elif isinstance(fault, int):
            self._answer(fault, {"error": f"no, {self.headers.get('X-Goog-Api-Key')}"})
        elif fault == "junk":
            self._answer(200, {"attributeScores": {}})
        elif is_perspective:
            self._answer(
                200, {"attributeScores": {"TOXICITY": {"summaryScore": {"value": len(text) / 100}}}}
            )
        else:
            scores = {"hate": 0.1, "harassment/threatening": len(text) / 100, "violence": 0.99}
            self._answer(200, {"results": [{"category_scores": scores}]})

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

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running, monkeypatch):
    running.faults, running.requests, running.asked = {}, [], Counter()
    address = f"http://127.0.0.1:{running.server_address[1]}"
    for name, value in {
        "PERSPECTIVE_BASE_URL": address,
        "OPENAI_BASE_URL": f"{address}/v1/",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PERSPECTIVE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    return running


@pytest.fixture
def perspective(server):
    return registry.load("perspective#per_second=100000")


def test_perspective_scores_each_text_once(perspective, server):
    assert perspective.score(["a text", "", "longer text", "a text", " "]) == [
        0.06,
        None,
        0.11,
        0.06,
        None,
    ]
    path, headers, body = server.requests[0]
    assert (path, headers["X-Goog-Api-Key"], len(server.requests)) == (
        "/v1alpha1/comments:analyze",
        KEY,
        2,
    )
    assert body["requestedAttributes"] == {"TOXICITY": {}} and body["doNotStore"] is True
    assert (perspective.id, perspective.costly) == ("perspective-TOXICITY", True)


def test_openai_scores_the_highest_of_harassment_and_hate(server):
    scorer = registry.load("openai#per_second=100000&model=some-model")
    assert scorer.score(["four", "a much longer text"]) == [0.1, 0.18]
    path, headers, body = server.requests[0]
    assert (path, headers["Authorization"], body["model"]) == (
        "/v1/moderations",
        f"Bearer {KEY}",
        "some-model",
    )
    assert (
        scorer.id == "openai-some-model"
        and registry.load("openai").id == "openai-omni-moderation-2024-09-26"
    )


def test_what_may_pass_is_asked_again_and_what_will_not_is_missing(
    perspective, server, monkeypatch
):
    monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 0.3)
    server.faults = {
        "busy": [429, 429, 503],
        "slow": ["hang"],
        "odd": ["junk", "drop"],
        "bad": [400],
        "moved": [302],
        "down": [500] * 9,
    }
    texts = ["busy", "slow", "odd", "bad", "moved", "down", "fine"]
    assert perspective.score(texts) == [0.04, 0.04, 0.03, None, None, None, 0.04]
    assert [server.asked[text] for text in texts] == [4, 2, 3, 1, 1, remote.ATTEMPTS, 1]
    assert perspective.failures == {"status 400": 1, "status 302": 1, "status 500": 1}


def test_a_service_that_is_down_is_not_asked_for_ever(perspective, server, monkeypatch):
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    server.faults = {"*": [500] * 9}
    texts = [f"text {i}" for i in range(200)]
    assert perspective.score(texts) == [None] * 200
    assert len(server.asked) < remote.GIVE_UP_AFTER + 2 * remote.AT_ONCE
    server.faults = {}
    assert None not in perspective.score(texts)


def test_a_refused_key_ends_it_and_the_key_is_told_to_nobody(
    perspective, server, monkeypatch, caplog
):
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    server.faults = {"*": [403]}
    with pytest.raises(
        ConfigurationError,
        match=r"refused the key in PERSPECTIVE_API_KEY \(status 403\).*end of 2026",
    ) as raised:
        perspective.score(["some text"])
    server.faults = {"bad": [400]}
    with caplog.at_level(logging.DEBUG):
        perspective.score(["bad"])
    assert "1 of 1 texts got no score (status 400: 1)" in caplog.text
    told = [
        caplog.text,
        str(raised.value),
        repr(raised.value.__context__),
        perspective.id,
        repr(perspective),
        *server.requests[0][0],
    ]
    assert not any(KEY in text for text in told) and KEY not in json.dumps(server.requests[0][2])


def test_no_more_requests_begin_in_a_second_than_asked(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(remote.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: waited.append(seconds))
    pace, waited = remote._Pace(4.0), []
    for _ in range(3):
        pace.wait()
    clock[0] += 60.0
    pace.wait()
    assert waited == [0.0, 0.25, 0.5, 0.0]  # a pause earns no burst


def test_without_a_key_or_with_a_plain_address_nothing_is_sent(server, monkeypatch):
    monkeypatch.setenv("PERSPECTIVE_BASE_URL", "http://example.org")
    with pytest.raises(
        ConfigurationError, match=r"PERSPECTIVE_BASE_URL is 'http://example.org'; expected https://"
    ):
        registry.load("perspective")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(
        ConfigurationError, match="needs a key in the environment variable OPENAI_API_KEY"
    ):
        registry.load("openai")
    monkeypatch.delenv("PERSPECTIVE_BASE_URL")
    monkeypatch.delenv("PERSPECTIVE_API_KEY")
    with pytest.raises(
        ConfigurationError, match=r"PERSPECTIVE_API_KEY; Perspective .* closes at the end of 2026"
    ):
        registry.load("perspective")


@pytest.mark.parametrize(
    "fragment", ["per_second=0", "per_second=fast", "per_second=nan", "speed=3", "model="]
)
def test_options_are_checked(server, fragment):
    with pytest.raises(ConfigurationError, match="expected per_second=N above 0 and model=NAME"):
        registry.load(f"openai#{fragment}")


def test_waits_grow_differ_and_are_at_least_what_the_service_asks_for():
    waits = [[remote._wait(attempt, "") for _ in range(50)] for attempt in (1, 2, 9)]
    assert all(0.5 <= wait <= 1 for wait in waits[0]) and all(1 <= wait <= 2 for wait in waits[1])
    assert max(waits[2]) <= remote.LONGEST_WAIT_SECONDS and len(set(waits[0])) > 40
    assert remote._wait(1, "7") == 7.0 and remote._wait(1, "9999") == remote.LONGEST_WAIT_SECONDS
