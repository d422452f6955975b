"""Gated, missing and unreachable data sets are told apart, each in a process with its environment.

The library reads HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE once, when it is imported.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
from fake_hub import COMMIT, GOOD_TOKEN, NAME, OTHER_TOKEN

from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader, hub

pytest.importorskip("datasets")
pytestmark = pytest.mark.slow
URI = f"hub:{NAME}@{COMMIT}?config=annotated"
PROGRAM = """
import sys
from data_prep.core.errors import HormesisError
from data_prep.sources import corpus_reader, hub
uri = sys.argv[1]
try:
    hub.check_access(uri)
    sources = corpus_reader.expand([uri])
    print([row.text for source in sources for row in corpus_reader.read(source)])
except HormesisError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with fake_hub.running() as url:
        yield url


def answer(uri: str, tmp_path: Path, **environment: str) -> str:
    """What a command with this environment prints; never a token."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, uri],
        env=plain | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "hf_" not in done.stdout + done.stderr
    return done.stdout.strip()


def test_a_gated_set_is_said_to_be_gated_with_its_form(endpoint, tmp_path):
    expected = (
        f"ConfigurationError {URI}: the data set is gated, and {{}}; fill in the form on "
        f"{endpoint}/datasets/{NAME}, then set HF_TOKEN in the environment of this command and of "
        "every node; or name a local copy of its files"
    )
    without = answer(URI, tmp_path, HF_ENDPOINT=endpoint)
    assert without == expected.format("no token was sent (HTTP 401)")
    other = answer(URI, tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN=OTHER_TOKEN)
    assert other == expected.format("the token has no access (HTTP 403)")


def test_a_token_with_access_reads_the_pinned_revision(endpoint, tmp_path):
    rows = answer(URI, tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN=GOOD_TOKEN)
    assert rows == "['the first row', 'the second row']"
    every = answer(f"{URI}&split=all", tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN=GOOD_TOKEN)
    assert sorted(every) == sorted("['the first row', 'the second row', 'a row to test on']")


def test_a_token_that_is_refused_and_a_set_that_is_not_there_are_told(endpoint, tmp_path):
    refused = answer(URI, tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN="hf_brokentoken")
    assert refused.startswith(f"StorageError {URI}: the hub answers with HTTP 401; the token is")
    absent = f"hub:someone/absent@{COMMIT}"
    missing = answer(absent, tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN=GOOD_TOKEN)
    assert missing.startswith(f"ConfigurationError {absent}: the hub has no data set 'someone/abse")


def test_without_a_network_local_files_are_the_remedy(endpoint, tmp_path):
    unreachable = answer(URI, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.startswith(f"StorageError {URI}: ConnectError: ")
    assert unreachable.endswith("and HF_ENDPOINT (http://127.0.0.1:9); or name a local copy")
    offline = answer(URI, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert offline.startswith(f"StorageError {URI}: Couldn't reach '{NAME}' on the Hub")
    assert offline.endswith("HF_HUB_OFFLINE is set: unset it, or name a local copy of its files")


def test_a_folder_needs_no_access_and_a_branch_is_refused(tmp_path):
    hub.check_access(f"hub:{tmp_path}")
    for uri in (f"hub:{NAME}", f"hub:{NAME}@main"):
        with pytest.raises(ConfigurationError, match="40 hex digits"):
            hub.check_access(uri)


def test_a_revision_behind_an_at_sign_is_the_revision(tmp_path):
    (tmp_path / "rows@home.jsonl").write_text('{"text": "row"}\n')
    with pytest.raises(ConfigurationError, match="revision is given twice"):
        corpus_reader.expand([f"hub:{NAME}@{COMMIT}?revision={COMMIT}"])
    folder = tmp_path / "a@b"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"text": "row"}\n')
    (source,) = corpus_reader.expand([f"hub:{folder}"])
    assert [row.text for row in corpus_reader.read(source)] == ["row"]
