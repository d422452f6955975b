"""The command that writes a mixture refuses what it cannot use, and names its own flags."""

import re
from pathlib import Path

import pytest

from data_prep import materialize
from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.token_stream.mixture import Mixture, check_supply

FLAGS = {
    "--clean": "streams/clean-1",
    "--toxic": "streams/toxic-1",
    "--ratio": "0.1",
    "--tokens": "20000",
    "--sequence-length": "128",
    "--batch": "4",
    "--to": "mixed",
}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line of a command that must end with 2."""
    try:
        status: object = materialize.main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--sequence-length", "0", "expected a whole number >= 1"),
        ("--sequence-length", "-8", "expected a whole number >= 1"),
        ("--sequence-length", "1.5", "expected a whole number >= 1"),
        ("--tokens", "-5", "expected a whole number >= 1"),
        ("--tokens", "1e5", "expected a whole number >= 1"),
        ("--batch", "0", "expected a whole number >= 1"),
        ("--seed", "x", "expected a whole number"),
        ("--ratio", "1", "expected a number in [0, 1)"),
        ("--ratio", "nan", "expected a number in [0, 1)"),
        ("--ratio", "10%", "expected a number in [0, 1)"),
        ("--max-toxic-epochs", "0.5", "expected a number >= 1"),
        ("--max-toxic-epochs", "inf", "expected a number >= 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(
    flag: str, value: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = FLAGS | {flag: value}
    arguments = [word for pair in flags.items() for word in pair]
    line = refusal(capsys, "--out", str(tmp_path), *arguments)
    assert f"argument {flag}: " in line and repr(value) in line and words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--tokens": "127"}, "--tokens 127 .* --sequence-length 128; raise --tokens to 128"),
        (
            {"--tokens": "128", "--ratio": "0.9", "--budget": "total_fixed"},
            "no clean sequence.*raise --tokens or lower --ratio",
        ),
        ({"--tokens": str(10**30)}, "below 2\\^63"),
    ],
)
def test_a_budget_that_gives_no_mixture_names_flags(
    changed: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [word for pair in (FLAGS | changed).items() for word in pair]
    line = refusal(capsys, "--out", str(tmp_path), *arguments)
    assert re.search(words, line) and "budget_tokens" not in line and "train." not in line


@pytest.mark.parametrize("flag", [*FLAGS, "--seed", "--budget", "--max-toxic-epochs"])
def test_a_planned_run_takes_no_flags_of_a_mixture(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    value = FLAGS.get(flag) or {"--budget": "clean_fixed"}.get(flag, "2")
    line = refusal(capsys, "--out", str(tmp_path), "--run", "r", flag, value)
    if flag == "--to":
        assert "no run with this id is planned" in line
    else:
        assert f"{flag} cannot be used with --run" in line and f"leave {flag} out" in line


def test_an_unknown_run_lists_those_that_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = refusal(capsys, "--out", str(tmp_path), "--run", "nope")
    assert "runs/nope/run.json: no run with this id is planned (nor is any other)" in line
    for run_id in ("toxic-0.10-s0", "toxic-0.20-s0"):
        storage.write(str(tmp_path / f"runs/{run_id}/run.json"), b"{}")
    line = refusal(capsys, "--out", str(tmp_path), "--run", "nope")
    assert "(others are: toxic-0.10-s0, toxic-0.20-s0)" in line and "launch/sweep.py" in line


def test_an_empty_run_id_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "--run is ''" in refusal(capsys, "--out", str(tmp_path), "--run", "")


def test_a_stream_that_is_too_short_is_told_in_flags():
    mixture = Mixture(n_clean=1, n_toxic=3, batch_size=1, seed=0)
    with pytest.raises(ConfigurationError, match=r"materialize\.py: --max-toxic-epochs 1\.5"):
        check_supply(mixture, 1, 2, 8)
    with pytest.raises(ConfigurationError, match=r"budget_tokens \(materialize\.py: --tokens\)"):
        check_supply(mixture, 0, 3, 8)
    with pytest.raises(ConfigurationError, match=r"lower budget_tokens .*--tokens"):
        Mixture(n_clean=1 << 62, n_toxic=1 << 62, batch_size=1, seed=0)
