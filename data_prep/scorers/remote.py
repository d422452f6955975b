"""toxicity scorers behind an interface on the network: Perspective and OpenAI's moderation

    perspective                    TOXICITY in English; the service closes at the end of 2026. Key: PERSPECTIVE_API_KEY
    openai#model=MODEL             the highest of its harassment and hate scores. Key: OPENAI_API_KEY

`#per_second=N` is how many requests may begin in a second: set it to the key's quota. The keys, and
PERSPECTIVE_BASE_URL or OPENAI_BASE_URL for another address, come from the environment; a key
travels in a header and stands in no message.

What may pass (429, 5xx, no answer, no JSON) is asked again a few times, later each time; a text
that still has no score is missing. When many in a row have none the service is taken for down and
the rest is not asked. Nobody but the provider knows which weights answer, so an id can name the
model, not pin it: prefer a local classifier.
"""

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError

TIMEOUT_SECONDS = 20.0
ATTEMPTS = 5
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
AT_ONCE = 8
GIVE_UP_AFTER = 20  # texts in a row without a score


class Service(NamedTuple):
    """key, address: environment variables. body: of the request for a text. read: the score in an
    answer.
    """

    name: str
    key: str
    address: str
    default_address: str
    path: str
    header: Callable[[str], tuple[str, str]]
    body: Callable[[str, str], dict[str, Any]]
    read: Callable[[dict[str, Any]], float]
    model: str
    per_second: float
    closes: str = ""


def _openai_score(answer: dict[str, Any]) -> float:
    scores = answer["results"][0]["category_scores"]
    return max(
        float(value)
        for name, value in scores.items()
        if name.partition("/")[0] in ("harassment", "hate")
    )


SERVICES = {
    "perspective": Service(
        name="Perspective",
        key="PERSPECTIVE_API_KEY",
        address="PERSPECTIVE_BASE_URL",
        default_address="https://commentanalyzer.googleapis.com",
        path="/v1alpha1/comments:analyze",
        header=lambda key: ("X-Goog-Api-Key", key),
        body=lambda text, attribute: {
            "comment": {"text": text},
            "languages": ["en"],
            "requestedAttributes": {attribute: {}},
            "doNotStore": True,
        },
        read=lambda answer: float(
            next(iter(answer["attributeScores"].values()))["summaryScore"]["value"]
        ),
        model="TOXICITY",
        per_second=1.0,
        closes="; Perspective gives no new keys and closes at the end of 2026, so a local classifier:NAME will outlive it",
    ),
    "openai": Service(
        name="OpenAI's moderation",
        key="OPENAI_API_KEY",
        address="OPENAI_BASE_URL",
        default_address="https://api.openai.com/v1",
        path="/moderations",
        header=lambda key: ("Authorization", f"Bearer {key}"),
        body=lambda text, model: {"input": text, "model": model},
        read=_openai_score,
        model="omni-moderation-2024-09-26",
        per_second=5.0,
    ),
}


class Remote:
    """One service with its key. `failures` counts why texts of the last `score` are missing."""

    costly = True

    def __init__(self, kind: str, fragment: str) -> None:
        self._service = SERVICES[kind]
        self._model, per_second = _options(kind, fragment)
        self._url, self._header = _address(self._service), self._service.header(_key(self._service))
        self._opener, self._pace = urllib.request.build_opener(_NoRedirect()), _Pace(per_second)
        self.failures: Counter[str] = Counter()
        self.id = f"{kind}-{self._model}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        wanted = list(dict.fromkeys(text for text in texts if text.strip()))
        missed = _Missed()

        def one(text: str) -> float | str:
            if missed.in_a_row >= GIVE_UP_AFTER:
                return "not asked, for the service seems down"
            found = self._ask(text)
            missed.in_a_row = missed.in_a_row + 1 if isinstance(found, str) else 0
            return found

        with ThreadPoolExecutor(AT_ONCE, "scores") as pool:
            found = dict(zip(wanted, pool.map(one, wanted), strict=True))
        self.failures = Counter(of for of in found.values() if isinstance(of, str))
        if self.failures:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in self.failures.most_common())
            telemetry.logger.warning(
                "%s: %d of %d texts got no score (%s)",
                self.id,
                self.failures.total(),
                len(wanted),
                reasons,
            )
        return [score if isinstance(score := found.get(text), float) else None for text in texts]

    def _ask(self, text: str) -> float | str:
        """A score, or why there is none to be had."""
        reason = asked_to_wait = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(_wait(attempt, asked_to_wait))
            self._pace.wait()
            asked_to_wait = ""
            try:
                return _share(self._service.read(self._post(text)))
            except urllib.error.HTTPError as error:
                error.close()
                reason, asked_to_wait = (
                    f"status {error.code}",
                    error.headers.get("Retry-After") or "",
                )
                if error.code in (401, 403):
                    raise ConfigurationError(
                        f"{self._service.name} refused the key in {self._service.key} ({reason}); check the key and its quota"
                        f"{self._service.closes}"
                    ) from None
                if error.code != 429 and error.code < 500:
                    break
            except (
                OSError,
                HTTPException,
            ) as error:  # no connection, a reset, a timeout: URLError among them
                reason = type(getattr(error, "reason", error)).__name__
            except (ValueError, KeyError, IndexError, TypeError, StopIteration):
                reason = "an answer without a score"
        return reason

    def _post(self, text: str) -> dict[str, Any]:
        body = json.dumps(
            self._service.body(text.encode("utf-8", "replace").decode(), self._model)
        ).encode()
        request = urllib.request.Request(
            self._url, body, {"Content-Type": "application/json"}, method="POST"
        )
        request.add_unredirected_header(*self._header)
        with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.loads(answer.read())


class _Missed:
    in_a_row = 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: following it would tell another host the texts."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Pace:
    """Lets through at most `per_second` callers in a second, evenly."""

    def __init__(self, per_second: float) -> None:
        self._seconds, self._next, self._lock = 1 / per_second, 0.0, threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._seconds
        time.sleep(mine - now)


def _options(kind: str, fragment: str) -> tuple[str, float]:
    service = SERVICES[kind]
    asked = {
        key: value
        for key, _, value in (item.partition("=") for item in filter(None, fragment.split("&")))
    }
    try:
        per_second = float(asked.pop("per_second", service.per_second))
    except ValueError:
        per_second = 0.0
    model = asked.pop("model", service.model)
    if asked or not model or not 0 < per_second < 1e6:
        raise ConfigurationError(
            f"scorer {kind}#{fragment}: expected per_second=N above 0 and model=NAME, at most, joined by &"
        )
    return model, per_second


def _key(service: Service) -> str:
    key = os.environ.get(service.key, "").strip()
    if not key:
        raise ConfigurationError(
            f"{service.name} needs a key in the environment variable {service.key}{service.closes}"
        )
    return key


def _address(service: Service) -> str:
    address = os.environ.get(service.address) or service.default_address
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
        raise ConfigurationError(
            f"{service.address} is {address!r}; expected https://…, for a key goes with every request"
        )
    return address.rstrip("/") + service.path


def _share(score: float) -> float:
    if not 0 <= score <= 1:  # NaN as well
        raise ValueError(score)
    return score


def _wait(attempt: int, asked_to_wait: str) -> float:
    """Seconds before the next attempt: doubling, drawn anew by each caller so that they do not
    return together; at least what the service asks for.
    """
    doubled = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * random.uniform(
        0.5, 1.0
    )
    return (
        max(doubled, min(LONGEST_WAIT_SECONDS, float(asked_to_wait)))
        if asked_to_wait.isdecimal()
        else doubled
    )
