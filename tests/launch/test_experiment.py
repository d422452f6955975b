"""Runs of an experiment: their ids, their tokens, and experiments that are refused."""

import json
from dataclasses import replace

import pytest

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import digest, from_json, to_dict
from data_prep.core.settings import evolve, parse_overrides
from launch import experiment
from launch.experiment import Experiment
from launch.recipes import registry
from training.config import RunConfig

LAPTOP = replace(
    registry.named("laptop"),
    ratios=(0.0, 0.05, 0.10, 0.15, 0.20, 0.25),
    seeds=(0,),
    arms=("plain",),
)
ALL_ARMS = replace(LAPTOP, arms=("plain", "meda", "inst", "matched"))


def ids(sweep: Experiment) -> list[str]:
    return [run.run_id for run in sweep.runs()]


def ids_by_arm(sweep: Experiment) -> dict[str, list[str]]:
    return {arm: [run.run_id for run in sweep.runs() if run.arm == arm] for arm in sweep.arms}


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
    arms = replace(ALL_ARMS, ratios=(0.1,))
    fewer_tagged = evolve(arms, {"data.annotation.tagged_ratio": 0.5})
    runs = [*arms.runs(), *fewer_tagged.runs()]
    for stream in ("clean", "toxic"):
        uris = [getattr(run, stream) for run in runs]
        assert len(set(uris)) == 5  # plain; meda and inst, twice
        assert uris[0] == uris[3] == uris[4] == uris[7]  # plain and matched
    assert len({run.tokenizer for run in runs}) == 1


def test_a_setting_of_the_other_annotation_leaves_a_run_unchanged():
    other_words = {
        "meda": {"data.annotation.inst_template": "{verdict}: ", "data.annotation.threshold": 0.9},
        "inst": {"data.annotation.meda_template": "{score} "},
    }
    for arm, words in other_words.items():
        before, after = ids_by_arm(ALL_ARMS), ids_by_arm(evolve(ALL_ARMS, words))
        changed = {arm for arm in before if before[arm] != after[arm]}
        assert changed == {"meda", "inst"} - {arm}


def test_plain_runs_keep_their_ids_whatever_arms_are_beside_them():
    assert ids_by_arm(ALL_ARMS)["plain"] == ids(LAPTOP)
    other = {"data.annotation.scorer": "label", "data.annotation.tagged_ratio": 0.5}
    assert ids_by_arm(evolve(ALL_ARMS, other))["plain"] == ids(LAPTOP)


def test_a_run_planned_before_there_were_arms_is_the_same_plain_run():
    for run in LAPTOP.runs():
        of_before = {
            name: value
            for name, value in to_dict(run).items()
            if name not in ("arm", "control_text")
        }
        loaded = from_json(RunConfig, json.dumps(of_before), "run.json")
        assert loaded == run
        in_digest = of_before.keys() - {"trunk"}
        assert to_dict(run, identity=True).keys() == in_digest


def test_the_id_of_a_run_starts_with_its_arm():
    sweep = replace(ALL_ARMS, ratios=(0.0, 0.25), seeds=(0, 1), arm_ratios=(0.25,))
    assert [run_id.rsplit("-", 1)[0] for run_id in ids(sweep)] == [
        "toxic-0.00-s0",
        "toxic-0.25-s0",
        "toxic-0.00-s1",
        "toxic-0.25-s1",
        "meda-0.25-s0",
        "meda-0.25-s1",
        "inst-0.25-s0",
        "inst-0.25-s1",
        "matched-0.25-s0",
        "matched-0.25-s1",
    ]


def test_annotated_runs_know_the_text_that_says_not_toxic():
    texts = {run.arm: run.control_text for run in ALL_ARMS.runs()}
    not_toxic = "The following text is not toxic.\n"
    assert texts == {"plain": "", "meda": "toxicity: 0.0\n", "inst": not_toxic, "matched": ""}


@pytest.mark.parametrize("trunk_tokens", [0, 800_000])
def test_matched_runs_read_clean_text_as_long_as_the_largest_ratio(trunk_tokens):
    wsd = evolve(ALL_ARMS, {"train.schedule.kind": "wsd", "trunk_tokens": trunk_tokens})
    runs = {(run.arm, run.run_id.split("-")[1]): run for run in wsd.runs()}
    matched, plain = runs["matched", "0.25"], runs["plain", "0.25"]
    assert matched.mixture.n_sequences == plain.mixture.n_sequences
    assert (matched.mixture.n_toxic, matched.toxic_ratio) == (0, 0.0)
    assert matched.mixture.n_steps == plain.mixture.n_steps
    assert matched.trunk.startswith("matched-0.25-s0-") == bool(trunk_tokens)


def test_matched_is_a_longer_run_of_ratio_0():
    (matched,) = (run for run in ALL_ARMS.runs() if run.arm == "matched")
    n_tokens = matched.mixture.n_clean * LAPTOP.train.sequence_length
    (longer,) = replace(LAPTOP, budget_tokens=n_tokens, ratios=(0.0,)).runs()
    assert replace(longer, run_id=matched.run_id, arm="matched") == matched


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (['arms=["meda"]'], "arms is .*expected plain"),
        (['arms=["plain","meda","meda"]'], "at most once"),
        (['arms=["plain","filtered"]'], "plain, meda, inst, matched"),
        (["data.annotation.kind=meda"], r"""set 'arms=\["plain","meda"\]' instead"""),
        (['arms=["plain","meda"]', "data.annotation.kind=inst"], "arm says which"),
        (["arm_ratios=[0.1]"], "expected meda or inst in arms"),
        (['arms=["plain","matched"]', "arm_ratios=[0.1]"], "expected meda or inst in arms"),
        (['arms=["plain","meda"]', "arm_ratios=[0.3]"], "expected values of ratios"),
        (['arms=["plain","meda"]', "arm_ratios=[0.1,0.1]"], "at most once"),
        (['arms=["plain","matched"]', "budget=total_fixed"], "total_fixed all runs have as many"),
    ],
)
def test_impossible_arms_are_refused(words, message):
    with pytest.raises(ConfigurationError, match=message) as refusal:
        parse_overrides(LAPTOP, words)
    assert "\n" not in str(refusal.value)


def test_without_toxic_text_there_is_nothing_to_match():
    sweep = replace(LAPTOP, arms=("plain", "matched"), ratios=(0.0,))
    assert [run.arm for run in sweep.runs()] == ["plain"]


def test_the_paper_recipe_is_the_papers_sweep():
    paper = registry.named("paper")
    assert len(paper.runs()) == 16 and len(set(ids(paper))) == 16
    runs = [run for run in paper.runs() if run.arm == "plain"]
    assert len(runs) == 12
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
    sweep = registry.on_corpora(LAPTOP, ["a.jsonl"], ["b.jsonl"])
    assert sweep.data.clean == ("a.jsonl",)
    assert sweep.eval.probes == sweep.eval.prompts == {"held_out": "held_out"}
    assert sweep.eval.scoring.scorer == sweep.data.annotation.scorer == "profanity"


def test_more_embedded_text_keeps_its_probes_and_scorer():
    larger = registry.on_corpora(LAPTOP, ["synthetic:clean?documents=9"], [])
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
