"""The command line of the sweep, as far as it needs no cluster; tests/integration runs the whole."""

import runpy
from pathlib import Path

import pytest

SWEEP = runpy.run_path(str(Path(__file__).parents[2] / "launch" / "sweep.py"), run_name="sweep")


def asked(*flags: str):
    return SWEEP["asked"](SWEEP["parser"]().parse_args(flags))


def test_local_paths_are_made_absolute_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    experiment = asked(
        "--clean",
        "a.jsonl",
        "s3://bucket/b.jsonl",
        "--toxic",
        "c.csv#text=t",
        "--set",
        "eval.scorer=lexicon:w.csv",
    )
    assert experiment.data.clean == (f"{tmp_path}/a.jsonl", "s3://bucket/b.jsonl")
    assert experiment.data.toxic == (f"{tmp_path}/c.csv#text=t",)
    assert (experiment.eval.probes, experiment.eval.scorer) == (
        "held_out",
        f"lexicon:{tmp_path}/w.csv",
    )
    costs = asked("--set", 'eval.held_out=["owt=d.jsonl"]')
    assert (
        costs.eval.held_out == (f"owt={tmp_path}/d.jsonl",)
        and costs.data.decontaminate[-1] == f"{tmp_path}/d.jsonl"
    )
    sets = asked(
        "--set", 'eval.probe_transfer=["t.csv#text=t&label=toxigen", "s3://b/u.csv#label=x>1"]'
    )
    assert sets.eval.probe_transfer == (
        f"{tmp_path}/t.csv#text=t&label=toxigen",
        "s3://b/u.csv#label=x>1",
    )
    assert sets.data.decontaminate[-2:] == (f"{tmp_path}/t.csv#text=t", "s3://b/u.csv")
    annotated = asked("--set", 'data.annotation={"kind": "meda", "scorer": "lexicon:w.csv"}')
    assert annotated.data.annotation.scorer == f"lexicon:{tmp_path}/w.csv"
    assert (
        asked(
            "--set", 'data.annotation={"kind": "meda", "scorer": "corpus:toxicity"}'
        ).data.annotation.scorer
        == "corpus:toxicity"
    )
    (tmp_path / "rude").mkdir()
    for name, place in {
        "rude#label=x": f"{tmp_path}/rude#label=x",
        "a/b": "a/b",
    }.items():  # a folder, and a name on the hub
        assert asked("--set", f"eval.scorer=classifier:{name}").eval.scorer == f"classifier:{place}"
    for judge, place in {
        "olmo": f"{tmp_path}/olmo",
        "unsteered": "unsteered",
        "run:toxic-0.00-s0-1": "run:toxic-0.00-s0-1",
    }.items():
        assert asked("--set", f"eval.fluency_model={judge}").eval.fluency_model == place
    assert (
        asked().data.clean[0].startswith("synthetic:")
        and asked().eval.scorer == "lexicon:synthetic:lexicon"
    )


def test_repeated_and_listed_flags_add_up():
    experiment = asked(
        "--clean",
        "/a",
        "/b",
        "--clean",
        "/c",
        "--ratios",
        "0",
        "0.5",
        "--seeds",
        "3",
        "--set",
        "budget_tokens=9000",
    )
    assert experiment.data.clean == ("/a", "/b", "/c")
    assert (experiment.ratios, experiment.seeds, experiment.budget_tokens) == (
        (0.0, 0.5),
        (3,),
        9000,
    )


def test_streams_share_no_run_of_words_with_what_the_sweep_is_evaluated_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    experiment = asked()
    assert experiment.data.decontaminate == (experiment.eval.probes, experiment.eval.prompts)
    assert (
        asked("--clean", "/a", "--toxic", "/b").data.decontaminate == ()
    )  # evaluated on held-out documents
    named = asked(
        "--clean",
        "/a",
        "--toxic",
        "/b",
        "--set",
        "eval.prompts=p.jsonl",
        'data.decontaminate=["/mmlu.jsonl", "/p"]',
    )
    assert named.data.decontaminate == ("/mmlu.jsonl", "/p", f"{tmp_path}/p.jsonl")
    other = asked(
        "--clean", "/a", "--toxic", "/b", "--set", 'eval.attributes=["tone.jsonl#label=tone"]'
    )
    assert other.eval.attributes == (f"{tmp_path}/tone.jsonl#label=tone",)
    assert other.data.decontaminate == (
        f"{tmp_path}/tone.jsonl",
    )  # what makes a row positive is no field to read
