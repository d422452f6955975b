"""Data sets of the hub that cannot be read are told with their setting, before anything starts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
from fake_hub import COMMIT, GOOD_TOKEN, NAME, OTHER_TOKEN

pytest.importorskip("datasets")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
URI = f"hub:{NAME}@{COMMIT}?config=annotated"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with fake_hub.running() as url:
        yield url


def last_line(out: Path, *flags: str, **environment: str) -> str:
    """What the refused command says last; it has started nothing and shows no token."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    plain |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(out), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "launch/sweep.py", "--out", str(out / "out"), *flags],
        cwd=ROOT,
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert not list((out / "out").glob("*"))
    assert "hf_" not in done.stdout + done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("path", "text", "local"),
    [
        ("data.clean", f"{URI}#text=body", "FILE#text=body"),
        ("data.decontamination.uris", URI, "FILE"),
        ("eval.probing.transfer", f"{URI}#label=x>=2.5", "FILE#label=x>=2.5"),
        ("eval.capability.held_out", f"openwebtext={URI}", "openwebtext=FILE"),
    ],
)
def test_a_gated_set_is_told_with_its_setting_form_and_remedy(
    path, text, local, endpoint, tmp_path
):
    line = last_line(tmp_path, "--set", f'{path}=["{text}"]', HF_ENDPOINT=endpoint)
    assert f"{path}[]: hub:{NAME}@{COMMIT}?config=annotated: the data set is gated" in line
    assert f"fill in the form on {endpoint}/datasets/{NAME}, then set HF_TOKEN" in line
    assert line.endswith(f"""or name a local copy of its files: --set '{path}=["{local}", …]'""")


def test_a_gated_benchmark_is_told_by_its_name(endpoint, tmp_path):
    word = f"eval.benchmarks.arc=cloze:{URI}#text=question"
    line = last_line(tmp_path, "--set", word, HF_ENDPOINT=endpoint)
    assert f"eval.benchmarks.arc: hub:{NAME}@{COMMIT}?config=annotated: the data set is" in line
    assert line.endswith("--set 'eval.benchmarks.arc=cloze:FILE#text=question'")


def test_an_evaluation_that_is_not_asked_for_needs_no_access(endpoint, tmp_path):
    words = [f'eval.probing.transfer=["{URI}#label=x"]', 'data.clean=["absent.jsonl"]']
    line = last_line(tmp_path, "--only", "train", "--set", *words, HF_ENDPOINT=endpoint)
    assert "absent.jsonl matches no file" in line


@pytest.mark.parametrize("token", ["", OTHER_TOKEN])
def test_a_token_without_access_or_a_network_is_told_apart(token, endpoint, tmp_path):
    more = {"HF_TOKEN": token} if token else {"HF_HUB_OFFLINE": "1"}
    flags = ("--set", f'data.decontamination.uris=["{URI}"]')
    line = last_line(tmp_path, *flags, HF_ENDPOINT=endpoint, **more)
    reason = "the token has no access (HTTP 403)" if token else "HF_HUB_OFFLINE is set: unset it"
    assert reason in line and "--set 'data.decontamination.uris=" in line


def test_with_access_the_sweep_goes_on_to_its_other_checks(endpoint, tmp_path):
    words = [f'data.decontamination.uris=["{URI}"]', 'data.clean=["absent.jsonl"]']
    line = last_line(tmp_path, "--set", *words, HF_ENDPOINT=endpoint, HF_TOKEN=GOOD_TOKEN)
    assert "absent.jsonl matches no file" in line
