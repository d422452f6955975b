"""The command line of the sweep: flags to an experiment; tests/integration runs the commands."""

from pathlib import Path

import pytest

from launch import cli
from launch.experiment import Experiment


def experiment_from(*flags: str) -> Experiment:
    return cli.requested_experiment(cli.parser().parse_args(flags))


def test_local_paths_are_made_absolute_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    experiment = experiment_from(
        "--clean",
        "a.jsonl",
        "s3://bucket/b.jsonl",
        "--toxic",
        "c.csv#text=t",
        "--set",
        "eval.scoring.scorer=lexicon:w.csv",
    )
    assert experiment.data.clean == (f"{tmp_path}/a.jsonl", "s3://bucket/b.jsonl")
    assert experiment.data.toxic == (f"{tmp_path}/c.csv#text=t",)
    assert (experiment.eval.probing.rows, experiment.eval.scoring.scorer) == (
        "held_out",
        f"lexicon:{tmp_path}/w.csv",
    )
    costs = experiment_from("--set", 'eval.capability.held_out=["owt=d.jsonl"]')
    assert (
        costs.eval.capability.held_out == (f"owt={tmp_path}/d.jsonl",)
        and costs.data.decontamination.uris[-1] == f"{tmp_path}/d.jsonl"
    )
    sets = experiment_from(
        "--set", 'eval.probing.transfer=["t.csv#text=t&label=toxigen", "s3://b/u.csv#label=x>1"]'
    )
    assert sets.eval.probing.transfer == (
        f"{tmp_path}/t.csv#text=t&label=toxigen",
        "s3://b/u.csv#label=x>1",
    )
    assert sets.data.decontamination.uris[-2:] == (f"{tmp_path}/t.csv#text=t", "s3://b/u.csv")
    annotated = experiment_from(
        "--set", "data.annotation.kind=meda", "data.annotation.scorer=lexicon:w.csv"
    )
    assert annotated.data.annotation.scorer == f"lexicon:{tmp_path}/w.csv"
    assert (
        experiment_from(
            "--set", "data.annotation.kind=meda", "data.annotation.scorer=corpus:toxicity"
        ).data.annotation.scorer
        == "corpus:toxicity"
    )
    (tmp_path / "rude").mkdir()
    for name, place in {
        "rude#label=x": f"{tmp_path}/rude#label=x",
        "a/b": "a/b",
    }.items():  # a folder, and a name on the hub
        assert (
            experiment_from("--set", f"eval.scoring.scorer=classifier:{name}").eval.scoring.scorer
            == f"classifier:{place}"
        )
    for judge, place in {
        "olmo": f"{tmp_path}/olmo",
        "unsteered": "unsteered",
        "run:toxic-0.00-s0-1": "run:toxic-0.00-s0-1",
    }.items():
        assert (
            experiment_from(
                "--set", f"eval.scoring.fluency_model={judge}"
            ).eval.scoring.fluency_model
            == place
        )
    assert (
        experiment_from().data.clean[0].startswith("synthetic:")
        and experiment_from().eval.scoring.scorer == "lexicon:synthetic:lexicon"
    )


def test_repeated_and_listed_flags_add_up():
    experiment = experiment_from(
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
    experiment = experiment_from()
    assert experiment.data.decontamination.uris == (
        experiment.eval.probing.rows,
        experiment.eval.generation.prompts,
    )
    assert (
        experiment_from("--clean", "/a", "--toxic", "/b").data.decontamination.uris == ()
    )  # evaluated on held-out documents
    named = experiment_from(
        "--clean",
        "/a",
        "--toxic",
        "/b",
        "--set",
        "eval.generation.prompts=p.jsonl",
        'data.decontamination.uris=["/mmlu.jsonl", "/p"]',
    )
    assert named.data.decontamination.uris == ("/mmlu.jsonl", "/p", f"{tmp_path}/p.jsonl")
    other = experiment_from(
        "--clean",
        "/a",
        "--toxic",
        "/b",
        "--set",
        'eval.probing.attributes=["tone.jsonl#label=tone"]',
    )
    assert other.eval.probing.attributes == (f"{tmp_path}/tone.jsonl#label=tone",)
    assert other.data.decontamination.uris == (
        f"{tmp_path}/tone.jsonl",
    )  # what makes a row positive is no field to read
