"""score texts with OpenAI's moderation service, over the network

    openai#model=MODEL&per_second=N

The score is the highest of the service's harassment and hate scores. `per_second` limits how many
requests start per second: set it to the quota of the key. The key comes from OPENAI_API_KEY, and
another address from OPENAI_BASE_URL. The key is sent in a header and is in no message.

A transient failure (429, 5xx, no answer, no JSON) is retried a few times with growing waits; a text
without a score after that has none. When many texts in a row get no score, the service counts as
down and the remaining texts are not sent.

Only the provider knows which weights answer, so the id names the model and cannot pin it. Prefer a
local classifier.
"""

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.parse import urlsplit

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.sources.uri_options import split_options

DEFAULT_MODEL = "omni-moderation-2024-09-26"
DEFAULT_ADDRESS = "https://api.openai.com/v1"
DEFAULT_PER_SECOND = 5.0
CATEGORIES = ("harassment", "hate")  # with their subcategories, such as hate/threatening
TIMEOUT_SECONDS = 20.0
MAX_ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
PARALLEL_REQUESTS = 8
GIVE_UP_AFTER = 20  # texts in a row without a score


class OpenAIModeration:
    """The service with its key. `failures` counts why texts of the last `score` have none."""

    costly = True

    def __init__(self, name: str) -> None:
        self._model, per_second = _options(name)
        self._url = _address()
        self._key = _api_key()
        self._opener = urllib.request.build_opener(_NoRedirect())
        self._rate_limit = RateLimit(per_second)
        self.failures: Counter[str] = Counter()
        self.id = f"openai-{self._model}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        distinct = list(dict.fromkeys(text for text in texts if text.strip()))
        n_failed_in_a_row = 0

        def score_unless_down(text: str) -> float | str:
            nonlocal n_failed_in_a_row
            if n_failed_in_a_row >= GIVE_UP_AFTER:
                return "not sent, because the service seems to be down"
            result = self._score_or_reason(text)
            n_failed_in_a_row = n_failed_in_a_row + 1 if isinstance(result, str) else 0
            return result

        with ThreadPoolExecutor(PARALLEL_REQUESTS, "scores") as pool:
            results = dict(zip(distinct, pool.map(score_unless_down, distinct), strict=True))
        self.failures = Counter(reason for reason in results.values() if isinstance(reason, str))
        if self.failures:
            telemetry.logger.warning(
                "%s: %d of %d texts got no score (%s)",
                self.id,
                self.failures.total(),
                len(distinct),
                ", ".join(f"{reason}: {n}" for reason, n in self.failures.most_common()),
            )
        scores = {text: value for text, value in results.items() if isinstance(value, float)}
        return [scores.get(text) for text in texts]

    def _score_or_reason(self, text: str) -> float | str:
        """The score of one text, or the reason why it has none after the last attempt."""
        reason = ""
        retry_after = ""
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                time.sleep(wait_seconds(attempt, retry_after))
            self._rate_limit.wait()
            retry_after = ""
            try:
                return self._request(text)
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"status {error.code}"
                retry_after = error.headers.get("Retry-After") or ""
                if error.code in (401, 403):
                    raise ConfigurationError(
                        f"OpenAI's moderation service refused the key in OPENAI_API_KEY ({reason});"
                        " check the key and its quota"
                    ) from None
                if error.code != 429 and error.code < 500:
                    break
            except (OSError, HTTPException) as error:  # no connection, a reset, a timeout
                reason = type(getattr(error, "reason", error)).__name__
            except (ValueError, LookupError, TypeError, AttributeError):
                reason = "an answer without a score"
        return reason

    def _request(self, text: str) -> float:
        content = {"input": text.encode("utf-8", "replace").decode(), "model": self._model}
        request = urllib.request.Request(
            self._url,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            scores = json.loads(answer.read())["results"][0]["category_scores"]
        score = max(
            float(value)
            for category, value in scores.items()
            if category.partition("/")[0] in CATEGORIES
        )
        if not 0 <= score <= 1:  # false for NaN, too
            raise ValueError(f"the score {score} is outside [0, 1]")
        return score


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: following it would send the texts to another host."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class RateLimit:
    """Lets at most `per_second` callers pass per second, evenly spaced; a pause earns no burst."""

    def __init__(self, per_second: float) -> None:
        self._interval_seconds = 1 / per_second
        self._next_start = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until this caller may start."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval_seconds
        time.sleep(start - now)


def wait_seconds(attempt: int, retry_after: str) -> float:
    """The wait before a retry: doubling, at least what the service asks for, within the limit.

    Drawn at random by each caller, so that parallel callers do not return together.
    """
    doubled = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    wait = doubled * random.uniform(0.5, 1.0)
    if retry_after.isdecimal():
        wait = max(wait, min(LONGEST_WAIT_SECONDS, float(retry_after)))
    return wait


def _options(name: str) -> tuple[str, float]:
    """The model, and how many requests may start per second."""
    _, options = split_options(name, {"model": "NAME", "per_second": "N"})
    try:
        per_second = float(options.get("per_second", DEFAULT_PER_SECOND))
    except ValueError:
        per_second = 0.0
    if not 0 < per_second < 1e6:
        raise ConfigurationError(
            f"{name}: per_second is {options['per_second']}; expected a number above 0, "
            "the quota of the key"
        )
    return options.get("model", DEFAULT_MODEL), per_second


def _api_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise ConfigurationError(
            "the scorer openai needs a key, and the environment variable OPENAI_API_KEY is empty; "
            "set it, or choose a local scorer such as classifier:NAME"
        )
    return key


def _address() -> str:
    address = os.environ.get("OPENAI_BASE_URL") or DEFAULT_ADDRESS
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
        raise ConfigurationError(
            f"OPENAI_BASE_URL is {address!r}; expected https://…, "
            "because the key is sent with every request"
        )
    return address.rstrip("/") + "/moderations"
