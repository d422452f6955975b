"""A user's mistakes on the command line and in settings files: one line, with its remedy."""

import json
import sys
from pathlib import Path

import pytest

from data_prep import build_streams
from data_prep.core import ray_session, storage
from eval import evaluate_run
from launch import cli, status, sweep

ODD_NAMES = ["[/nope]", "[red]x", ":smile:", "\x1b[2Jx"]


def refusal(capsys: pytest.CaptureFixture[str], status_code: int) -> str:
    """The only line that the command printed when it refused."""
    output = capsys.readouterr()
    assert status_code == 2 and not output.out
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_printed_as_they_are_in_plan_and_status(name: str, capsys, tmp_path: Path):
    shown = name.replace("\x1b", "\\x1b")
    words = ["--set", f"name={name}", "--ratios", "0", "--seeds", "0"]
    assert sweep.main(["--plan", *words]) == 0
    assert f"{shown}: 1 runs" in capsys.readouterr().out
    requested = cli.requested_experiment(cli.parser().parse_args(words))
    storage.save(requested, str(tmp_path / "experiment.json"))
    assert status.main(["--out", str(tmp_path)]) == 0
    assert shown in capsys.readouterr().out


def test_a_template_in_the_plan_is_printed_as_it_is(capsys):
    words = ['arms=["plain","inst"]', "data.annotation.inst_template=[red]{verdict}"]
    assert sweep.main(["--plan", "--set", *words]) == 0
    assert "'[red]{verdict}'" in capsys.readouterr().out


@pytest.mark.parametrize("mfu", ["0", "nan", "2", "-1", "inf"])
def test_an_mfu_outside_0_to_1_is_refused(mfu: str, capsys):
    line = refusal(capsys, sweep.main(["--plan", f"--mfu={mfu}"]))
    assert f"--mfu {float(mfu):g}" in line and "above 0 and at most 1" in line


BAD_CONFIGS = {
    '{"probing": {}, "clean": []}': "correct the file",
    "[]": "correct the file",
    "": "correct the file",
    '{"colour": 1}': "correct the file",
    '{"seed": "x"}': "correct the file",
    '{"seed": 1, "seed": 2}': "'seed' twice",
    '{"clean": ["a"], "clean": ["b"]}': "'clean' twice",
    '{"tokenizer": {"source": "a", "source": "b"}}': "'source' twice",
    "[" * 100_000: "correct the file",
}


@pytest.mark.parametrize("command", ["build_streams", "evaluate_run"])
@pytest.mark.parametrize("text", BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
def test_a_wrong_settings_file_is_to_be_corrected(
    command: str, text: str, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tmp_path / "settings.json"
    config.write_text(text)
    flags = ["--config", str(config), "--out", str(tmp_path / "out")]
    if command == "build_streams":
        code = build_streams.main(flags)
    else:
        monkeypatch.setattr(sys, "argv", ["evaluate_run.py", *flags, "--run", "r"])
        code = evaluate_run.main()
    line = refusal(capsys, code)
    assert str(config) in line and BAD_CONFIGS[text] in line and "correct the file" in line
    assert "version" not in line and "delete" not in line


def test_a_relative_root_in_a_deleted_folder_is_one_line(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    for root in ("x", "file://x"):
        line = refusal(capsys, status.main(["--out", root]))
        assert "working directory" in line and "absolute path" in line
    assert "working directory" in refusal(capsys, sweep.main(["--plan", "--clean", "a.jsonl"]))


def test_status_of_a_folder_without_a_sweep_says_how_to_start_one(capsys, tmp_path: Path):
    line = refusal(capsys, status.main(["--out", str(tmp_path)]))
    assert f"{tmp_path} holds no sweep" in line and "launch/sweep.py" in line and "--out" in line


@pytest.mark.parametrize("uri", ["", " ", "#text=body"])
def test_an_empty_uri_is_called_empty(uri: str, capsys):
    words = [
        ["--clean", uri],
        ["--toxic", uri],
        ["--set", f"eval.probes.pairs={uri}"],
        ["--set", f"eval.prompts.x={uri}"],
        ["--set", f'eval.probing.transfer=["{uri}"]'],
        ["--set", f"data.tokenizer.source={uri}"],
    ]
    for flags in words:
        assert "empty" in refusal(capsys, sweep.main(["--plan", *flags])), flags


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://#text=body"])
def test_a_corpus_without_a_bucket_is_refused_in_the_plan(uri: str, capsys):
    for flags in (["--clean", uri], ["--set", f"eval.probes.pairs={uri}"]):
        assert "names no bucket" in refusal(capsys, sweep.main(["--plan", *flags])), flags


def test_an_empty_data_settings_file_names_the_missing_fields(capsys, tmp_path: Path):
    (tmp_path / "data.json").write_text("{}")
    flags = ["--config", str(tmp_path / "data.json"), "--out", str(tmp_path)]
    line = refusal(capsys, build_streams.main(flags))
    assert "clean: Field required" in line and line.endswith("correct the file\n")


def test_a_doubled_key_in_a_setting_is_refused(capsys):
    word = 'data.cleaning.min_scores={"a": 0.1, "a": 0.2}'
    assert "'a' twice" in refusal(capsys, sweep.main(["--plan", "--set", word]))


@pytest.mark.parametrize("uri", ["", "s3://"])
def test_a_settings_file_without_a_name_is_refused(uri: str, capsys, tmp_path: Path):
    line = refusal(capsys, build_streams.main(["--config", uri, "--out", str(tmp_path)]))
    assert ("names no bucket" if uri else "empty") in line


@pytest.mark.parametrize("names", [("clean",), ("clean", "toxic")])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cleaning": {"languages": ["xx"]}}, "'xx' is not a language code"),
        ({"clean": ["s3://"]}, "names no bucket"),
    ],
)
def test_wrong_corpora_and_languages_are_refused_before_ray_starts(
    changes: dict, message: str, names: tuple[str, ...], capsys, tmp_path: Path, monkeypatch
):
    if "cleaning" in changes:
        pytest.importorskip("py3langid")
    monkeypatch.setattr(ray_session, "session", lambda **_: pytest.fail("Ray was started"))
    settings = {"clean": ["synthetic:clean"], "toxic": ["synthetic:toxic"]} | changes
    settings["tokenizer"] = {"source": "train", "vocab_size": 300}
    (tmp_path / "data.json").write_text(json.dumps(settings))
    flags = ["--config", str(tmp_path / "data.json"), "--out", str(tmp_path / "out")]
    streams = [word for name in names for word in ("--stream", name)]
    assert message in refusal(capsys, build_streams.main([*flags, *streams]))


def test_a_sweep_refuses_unknown_languages_before_ray_starts(capsys, tmp_path: Path, monkeypatch):
    pytest.importorskip("py3langid")
    monkeypatch.setattr(ray_session, "session", lambda *_: pytest.fail("Ray was started"))
    words = ["--set", 'data.cleaning.languages=["xx"]', "--out", str(tmp_path)]
    assert sweep.main(words) == 2
    assert "'xx' is not a language code" in capsys.readouterr().err
