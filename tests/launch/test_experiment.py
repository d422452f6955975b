"""Runs of an experiment: their ids, their tokens, and experiments that are refused."""

from dataclasses import replace

import pytest

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import evolve, parse_overrides
from launch import experiment, recipes
from launch.experiment import Experiment

LAPTOP = recipes.laptop()


def ids(sweep: Experiment) -> list[str]:
    return [run.run_id for run in sweep.runs()]


def test_operational_settings_leave_the_ids_unchanged():
    assert ids(parse_overrides(LAPTOP, ["train.metrics.every_steps=3"])) == ids(LAPTOP)
    assert ids(replace(LAPTOP, n_ranks=1)) == ids(LAPTOP)


@pytest.mark.parametrize("word", ["train.optimizer.learning_rate=0.5", "data.shuffle_seed=5"])
def test_any_other_setting_of_data_or_training_changes_the_ids(word):
    assert not set(ids(parse_overrides(LAPTOP, [word]))) & set(ids(LAPTOP))


def test_evaluation_settings_leave_the_ids_unchanged():
    assert ids(parse_overrides(LAPTOP, ["eval.steering.top_heads=7"])) == ids(LAPTOP)


def test_a_ratio_keeps_its_id_when_others_are_added():
    assert ids(replace(LAPTOP, ratios=(0.0, 0.1))) == [ids(LAPTOP)[0], ids(LAPTOP)[2]]


def test_an_id_starts_with_ratio_and_seed():
    sweep = replace(LAPTOP, ratios=(0.1, 0.125), seeds=(0, 3))
    assert [run_id.rsplit("-", 1)[0] for run_id in ids(sweep)] == [
        "toxic-0.10-s0",
        "toxic-0.125-s0",
        "toxic-0.10-s3",
        "toxic-0.125-s3",
    ]


def test_every_run_has_the_same_clean_text_and_toxic_text_on_top():
    mixtures = [run.mixture for run in LAPTOP.runs()]
    n_sequences = LAPTOP.budget_tokens // LAPTOP.train.sequence_length
    assert {mixture.n_clean for mixture in mixtures} == {n_sequences}
    realised = [round(mixture.toxic_ratio, 3) for mixture in mixtures]
    assert realised == [0, 0.05, 0.1, 0.15, 0.2, 0.25]


def test_with_a_fixed_total_toxic_text_replaces_clean_text():
    fixed = replace(LAPTOP, budget="total_fixed")
    mixtures = [run.mixture for run in fixed.runs()]
    n_sequences = LAPTOP.budget_tokens // LAPTOP.train.sequence_length
    assert {mixture.n_sequences for mixture in mixtures} == {n_sequences}
    expected = [round(n_sequences * ratio) for ratio in LAPTOP.ratios]
    assert [mixture.n_toxic for mixture in mixtures] == expected
    assert ids(fixed)[0] == ids(LAPTOP)[0]  # without toxic text it is the same run


def test_allowing_repetition_leaves_all_ids_unchanged():
    allowing = replace(LAPTOP, max_toxic_epochs=3.0)
    assert ids(allowing) == ids(LAPTOP) and digest(allowing) == digest(LAPTOP)
    assert {run.mixture.max_toxic_epochs for run in allowing.runs()} == {3.0}


def test_annotated_streams_are_their_own_and_share_the_tokenizer():
    words = [
        {},
        {"data.annotation.kind": "meda"},
        {"data.annotation.kind": "inst"},
        {"data.annotation.kind": "inst", "data.annotation.tagged_ratio": 0.5},
    ]
    plain, *annotated = (evolve(LAPTOP, word).runs()[0] for word in words)
    runs = (plain, *annotated)
    assert len({run.clean for run in runs}) == len({run.toxic for run in runs}) == 4
    assert {run.tokenizer for run in annotated} == {plain.tokenizer}


def test_the_paper_recipe_is_the_papers_sweep():
    paper = recipes.paper()
    runs = paper.runs()
    assert len(runs) == 12 and len(set(ids(paper))) == 12
    assert paper.train.model.n_parameters == 1_176_764_416
    whole_sequences_of_20_1_billion = 20_099_999_744
    clean_tokens = {run.mixture.n_clean * 2048 for run in runs}
    assert clean_tokens == {whole_sequences_of_20_1_billion}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratios": ()},
        {"seeds": (1, 1)},
        {"ratios": (1.0,)},
        {"n_ranks": 5},
        {"budget_tokens": 10},
        {"max_toxic_epochs": 0.5},
    ],
)
def test_an_impossible_experiment_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        replace(LAPTOP, **wrong)


def test_other_corpora_are_evaluated_on_their_own_held_out_text():
    sweep = recipes.on_corpora(LAPTOP, ["a.jsonl"], ["b.jsonl"])
    assert sweep.data.clean == ("a.jsonl",)
    assert sweep.eval.probing.rows == sweep.eval.generation.prompts == "held_out"
    assert sweep.eval.scoring.scorer == "profanity"


def test_more_embedded_text_keeps_its_probes_and_scorer():
    larger = recipes.on_corpora(LAPTOP, ["synthetic:clean?documents=9"], [])
    assert larger.eval == LAPTOP.eval and larger.data.toxic == LAPTOP.data.toxic


def test_an_experiment_of_an_older_version_is_refused_in_one_line(tmp_path):
    file = tmp_path / "experiment.json"
    storage.save(LAPTOP, str(file))
    assert experiment.load(str(tmp_path)) == LAPTOP
    file.write_text(file.read_text().replace('"max_toxic_epochs"', '"epochs"'))
    with pytest.raises(ArtefactCorrupt, match=r"experiment.json .*another version") as refusal:
        experiment.load(str(tmp_path))
    message = str(refusal.value)
    assert "\n" not in message and len(message) < 300 + len(str(tmp_path))
