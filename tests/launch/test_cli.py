"""The command line of the sweep; tests/integration runs the commands."""

import re
from operator import attrgetter
from pathlib import Path

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import describe
from launch import cli
from launch.experiment import Experiment
from launch.recipes import registry


def experiment_from(*flags: str) -> Experiment:
    return cli.requested_experiment(cli.parser().parse_args(flags))


@pytest.fixture
def working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_local_corpora_are_made_absolute_and_nothing_else(working_folder):
    sweep = experiment_from("--clean", "a.jsonl", "s3://bucket/b.jsonl", "--toxic", "c.csv#text=t")
    assert sweep.data.clean == (f"{working_folder}/a.jsonl", "s3://bucket/b.jsonl")
    assert sweep.data.toxic == (f"{working_folder}/c.csv#text=t",)
    assert sweep.eval.probes == {"held_out": "held_out"}
    assert experiment_from().data.clean[0].startswith("synthetic:")
    assert experiment_from().eval.scoring.scorer == "lexicon:synthetic:lexicon"


def test_local_evaluation_texts_are_made_absolute(working_folder):
    sweep = experiment_from("--set", 'eval.capability.held_out=["owt=d.jsonl"]')
    assert sweep.eval.capability.held_out == (f"owt={working_folder}/d.jsonl",)
    text = ('eval.capability.held_out=["owt=d.jsonl"]', "eval.capability.cost_text=owt")
    for settings in (text, text[::-1]):
        assert experiment_from("--set", *settings).eval.capability.cost_text == "owt"
    transfer = '["t.csv#text=t&label=toxigen", "s3://b/u.csv#label=x>1"]'
    sweep = experiment_from("--set", f"eval.probing.transfer={transfer}")
    assert sweep.eval.probing.transfer == (
        f"{working_folder}/t.csv#text=t&label=toxigen",
        "s3://b/u.csv#label=x>1",
    )
    sweep = experiment_from("--set", 'data.decontamination.uris=["t.csv#text=t", "s3://b/u.csv"]')
    assert sweep.data.decontamination.uris == (f"{working_folder}/t.csv#text=t", "s3://b/u.csv")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lexicon:w.csv", "lexicon:{folder}/w.csv"),
        ("classifier:rude#label=x", "classifier:{folder}/rude#label=x"),  # a folder
        ("classifier:a/b", "classifier:a/b"),  # a name on the hub
        ("trained:t", "trained:{folder}/t"),
        ("trained:t#encoder=e", "trained:{folder}/t#encoder={folder}/e"),
        ("trained:s3://b/t#encoder=/e", "trained:s3://b/t#encoder=/e"),
    ],
)
def test_a_local_scorer_is_made_absolute(working_folder, name, expected):
    (working_folder / "rude").mkdir()
    sweep = experiment_from("--set", f"eval.scoring.scorer={name}")
    assert sweep.eval.scoring.scorer == expected.format(folder=working_folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lexicon:w.csv", "lexicon:{folder}/w.csv"), ("corpus:toxicity", "corpus:toxicity")],
)
def test_a_local_scorer_of_annotations_is_made_absolute(working_folder, name, expected):
    sweep = experiment_from("--set", f"data.annotation.scorer={name}")
    assert sweep.data.annotation.scorer == expected.format(folder=working_folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("olmo", "{folder}/olmo"),
        ("unsteered", "unsteered"),
        ("run:toxic-0.00-s0-1", "run:toxic-0.00-s0-1"),
    ],
)
def test_a_local_fluency_model_is_made_absolute(working_folder, name, expected):
    sweep = experiment_from("--set", f"eval.scoring.fluency_model={name}")
    assert sweep.eval.scoring.fluency_model == expected.format(folder=working_folder)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("data.tokenizer.source", "t.json", "{folder}/t.json"),
        ("data.tokenizer.source", "train", "train"),
        ("data.tokenizer.source", "s3://b/t.json", "s3://b/t.json"),
        ("train.init_from", "olmo", "{folder}/olmo"),
        ("train.init_from", "s3://b/olmo", "s3://b/olmo"),
        ("eval.probes.pairs", "r.csv#label=x", "{folder}/r.csv#label=x"),
        ("eval.prompts.x", "p.jsonl", "{folder}/p.jsonl"),
        ("eval.benchmarks.x", "cloze:a.jsonl", "cloze:{folder}/a.jsonl"),
        (
            "eval.benchmarks.x",
            "letter:s3://b/a.jsonl#shots=5&shots_from=dev.jsonl",
            "letter:s3://b/a.jsonl#shots=5&shots_from={folder}/dev.jsonl",
        ),
    ],
)
def test_a_location_means_the_same_in_every_process(working_folder, path, text, expected):
    sweep = experiment_from("--set", f"{path}={text}")
    group, _, name = path.rpartition(".")
    value = attrgetter(group)(sweep)
    value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected.format(folder=working_folder)


def test_every_text_setting_is_known_as_a_location_or_not():
    no_locations = {
        "name",
        "data.tokenizer.eos",
        "data.tokenizer.fingerprint",
        "data.cleaning.languages",
        "data.cleaning.min_scores",
        "data.cleaning.max_scores",
        "data.annotation.meda_template",
        "data.annotation.inst_template",
        "eval.conditions",
        "eval.steering.probes",
        "eval.capability.cost_text",
        "eval.probing.group_field",
        "eval.probing.token",
        "train.metrics.sinks",
    }
    settings = describe(registry.named("laptop"))
    texts = {setting.path for setting in settings if "text" in setting.type}
    assert texts == no_locations | cli.LOCATIONS.keys()


def test_repeated_flags_and_lists_add_up():
    flags = "--clean /a /b --clean /c --ratios 0 0.5 --seeds 3 --set budget_tokens=9000"
    sweep = experiment_from(*flags.split())
    assert sweep.data.clean == ("/a", "/b", "/c")
    assert (sweep.ratios, sweep.seeds, sweep.budget_tokens) == ((0.0, 0.5), (3,), 9000)


@pytest.mark.parametrize(
    "word",
    [
        "eval.scoring.scorer=lexicon:",
        "eval.scoring.scorer=lexicon:#text=word",
        "eval.scoring.scorer=classifier:",
        "eval.scoring.scorer=classifier",
        "eval.scoring.scorer=profanty",
        "eval.scoring.scorer=",
        "eval.scoring.scorer=label",
        "eval.scoring.fluency_model=run:",
        "eval.scoring.fluency_model=run:../x",
        "eval.scoring.fluency_model=run:..",
        "data.annotation.scorer=lexicon:",
        "data.annotation.scorer=corpus:",
        "data.annotation.scorer=nope",
    ],
)
def test_a_name_of_no_known_form_is_refused_in_the_settings(working_folder, word):
    path, _, value = word.partition("=")
    with pytest.raises(ConfigurationError, match=rf"^{re.escape(path)} .*; expected ") as caught:
        experiment_from("--set", word)
    assert repr(value) in str(caught.value)
