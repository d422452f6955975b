from dataclasses import replace

import pytest

from data_prep.config import AnnotationConfig
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import parse_overrides
from launch import experiment, recipes

LAPTOP = recipes.laptop()


def ids(experiment):
    return [run.run_id for run in experiment.runs()]


def test_an_operational_setting_leaves_the_ids_and_any_other_changes_them():
    assert ids(parse_overrides(LAPTOP, ["train.metrics.every_steps=3"])) == ids(LAPTOP)
    assert ids(replace(LAPTOP, n_ranks=1)) == ids(LAPTOP)
    assert not set(ids(parse_overrides(LAPTOP, ["train.optimizer.learning_rate=0.5"]))) & set(
        ids(LAPTOP)
    )
    assert not set(ids(parse_overrides(LAPTOP, ["data.shuffle_seed=5"]))) & set(ids(LAPTOP))


def test_evaluation_settings_leave_the_runs_alone():
    assert ids(parse_overrides(LAPTOP, ["eval.steering.top_heads=7"])) == ids(LAPTOP)


def test_a_ratio_keeps_its_id_when_others_are_added():
    assert ids(replace(LAPTOP, ratios=(0.0, 0.1))) == [ids(LAPTOP)[0], ids(LAPTOP)[2]]


def test_an_id_reads_as_ratio_and_seed():
    odd = replace(LAPTOP, ratios=(0.1, 0.125), seeds=(0, 3))
    assert [name.rsplit("-", 1)[0] for name in ids(odd)] == [
        "toxic-0.10-s0",
        "toxic-0.125-s0",
        "toxic-0.10-s3",
        "toxic-0.125-s3",
    ]


def test_every_run_has_the_same_clean_text_and_the_toxic_text_on_top():
    runs = LAPTOP.runs()
    assert {run.mixture.n_clean for run in runs} == {
        LAPTOP.budget_tokens // LAPTOP.train.sequence_length
    }
    assert [round(run.mixture.toxic_ratio, 3) for run in runs] == [0, 0.05, 0.1, 0.15, 0.2, 0.25]


def test_with_a_fixed_total_toxic_text_takes_the_place_of_clean_text():
    runs = replace(LAPTOP, budget="total_fixed").runs()
    n_sequences = LAPTOP.budget_tokens // LAPTOP.train.sequence_length
    assert {run.mixture.n_sequences for run in runs} == {n_sequences}
    assert [run.mixture.n_toxic for run in runs] == [
        round(n_sequences * ratio) for ratio in LAPTOP.ratios
    ]
    assert (
        ids(replace(LAPTOP, budget="total_fixed"))[0] == ids(LAPTOP)[0]
    )  # without toxic text it is the same run


def test_allowing_repetition_for_one_ratio_leaves_the_ids_of_all_as_they_are():
    assert ids(replace(LAPTOP, max_toxic_epochs=3.0)) == ids(LAPTOP)
    assert digest(replace(LAPTOP, max_toxic_epochs=3.0)) == digest(LAPTOP)
    assert {
        run.mixture.max_toxic_epochs for run in replace(LAPTOP, max_toxic_epochs=3.0).runs()
    } == {3.0}


def test_an_annotated_experiment_has_streams_of_its_own_and_the_plain_ones_tokenizer():
    plain, *twins = (
        replace(LAPTOP, data=replace(LAPTOP.data, annotation=annotation)).runs()[0]
        for annotation in (
            AnnotationConfig(),
            AnnotationConfig(kind="meda"),
            AnnotationConfig(kind="inst"),
            AnnotationConfig(kind="inst", tagged_ratio=0.5),
        )
    )
    assert (
        len({run.clean for run in (plain, *twins)})
        == len({run.toxic for run in (plain, *twins)})
        == 4
    )
    assert {run.tokenizer for run in twins} == {plain.tokenizer}


def test_the_paper_is_six_ratios_by_two_seeds_of_a_1b_model_on_20_billion_clean_tokens():
    paper = recipes.paper()
    runs = paper.runs()
    assert len(runs) == 12 and len(set(ids(paper))) == 12
    assert paper.train.model.n_parameters == 1_176_764_416
    assert {run.mixture.n_clean * 2048 for run in runs} == {
        20_099_999_744
    }  # 20.1B in whole sequences


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
def test_an_experiment_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        replace(LAPTOP, **wrong)


def test_other_corpora_are_not_evaluated_with_the_embedded_ones_probes_and_scorer():
    other = recipes.on_corpora(LAPTOP, ["a.jsonl"], ["b.jsonl"])
    assert other.data.clean == ("a.jsonl",)
    assert (other.eval.probing.rows, other.eval.generation.prompts, other.eval.scoring.scorer) == (
        "held_out",
        "held_out",
        "profanity",
    )
    larger = recipes.on_corpora(LAPTOP, ["synthetic:clean?documents=9"], [])
    assert larger.eval == LAPTOP.eval and larger.data.toxic == LAPTOP.data.toxic


def test_an_experiment_of_an_older_version_is_refused_in_one_line(tmp_path):
    storage.save(LAPTOP, str(tmp_path / "experiment.json"))
    assert experiment.load(str(tmp_path)) == LAPTOP
    text = (tmp_path / "experiment.json").read_text()
    (tmp_path / "experiment.json").write_text(text.replace('"max_toxic_epochs"', '"epochs"'))
    with pytest.raises(ArtefactCorrupt, match=r"experiment.json is .*another version of Horm") as e:
        experiment.load(str(tmp_path))
    assert "\n" not in str(e.value) and len(str(e.value)) < 300 + len(str(tmp_path))
