import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_evaluation import CONFIG, STEERING_ALONE
from tiny_finished_run import RUN_ID
from tolerances import FP32_VALUE

from data_prep.core import storage, telemetry
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
)
from data_prep.core.records import digest, from_json, to_json
from data_prep.core.settings import evolve
from data_prep.scorers import load_scorer
from data_prep.token_stream import manifest
from data_prep.token_stream.reader import SequenceReader
from eval.config import (
    KNOWN_CONDITIONS,
)
from eval.eval_report import EvalReport, check_comparable, eval_uri, find
from eval.inputs.labelled_rows import labels_of, read_labelled_rows
from eval.model import generation, model_source
from eval.model.loaded_model import load_folder
from eval.model.model_source import ModelSource
from eval.pipeline.evaluate_model import evaluate, evaluate_model
from eval.probing import activations, probe_heads, row_split
from eval.probing.directions import Directions, unit_shift
from eval.steering import intervention, measure_strengths, per_item_results
from eval.tools import bake_steering
from launch.report.analysis import evaluation_view
from training.run_record import run_uri

ENTRY = Path(__file__).parents[3] / "eval" / "evaluate_run.py"

WINDOW = 24  # of the run's 32 tokens, 8 are left to prefixes


@pytest.fixture(scope="module")
def root(finished):
    """The finished run, evaluated once."""
    evaluate(finished, RUN_ID, CONFIG)
    return finished


@pytest.fixture(scope="module")
def evaluated(root):
    return find(run_uri(root, RUN_ID), CONFIG)


@pytest.fixture(scope="module")
def report(evaluated):
    """What the evaluation's only prompt set shows."""
    return shown(evaluated)


def shown(evaluated):
    return evaluation_view.view(evaluated, "held_out")


def evaluate_and_show(root, config):
    return shown(evaluate(root, RUN_ID, config))


@pytest.fixture(scope="module")
def folder(root):
    """The folder of the evaluation."""
    return Path(eval_uri(run_uri(root, RUN_ID), CONFIG))


@pytest.fixture
def copy(root, tmp_path):
    """The same root without the evaluation, to be damaged."""
    shutil.copytree(root, tmp_path / "root")
    home = Path(run_uri(str(tmp_path / "root"), RUN_ID))
    for path in (*home.glob("eval-*"), home / "measurements"):
        shutil.rmtree(path)
    return str(tmp_path / "root")


def probe_rows():
    """The rows that CONFIG probes."""
    probing = CONFIG.probing
    return read_labelled_rows(
        CONFIG.probes["pairs"],
        probing,
        CONFIG.seed,
        setting="eval.probes.pairs",
        group_field=probing.group_field,
    ).rows


def without_time(report):
    return replace(report, seconds=0.0)


def has_interval(estimate):
    return estimate.low <= estimate.value <= estimate.high


def test_the_report_names_the_run_and_how_it_was_judged(report, evaluated):
    assert (report.run_id, report.toxic_ratio, report.probes.label_rule) == (
        RUN_ID,
        0.1,
        "label ≥ 0.5",
    )
    assert report.scorer_id.startswith("profanity-1.9.1-")
    assert evaluated.computed_with == {
        "device": "cpu",
        "precision": "fp32",
        "attention": "SDPA",
        "attention of short passes": "SDPA",
    }
    n_rows = report.probes.n_rows
    assert n_rows["train"] + n_rows["validation"] + n_rows["test"] == 100
    assert n_rows["test"] == report.probes.probe_accuracy.n == report.probes.best_head_accuracy.n
    assert 16 <= report.probes.probe_accuracy.n <= 20
    assert len(report.samples) == 12
    assert all(len(sample.continuations) == 3 for sample in report.samples)


def test_the_report_says_what_was_read_and_left_out(report):
    assert [(texts.setting, texts.n_used) for texts in report.texts] == [
        ("eval.probes.pairs", 100),
        ("eval.prompts.held_out", 12),
        ("eval.probing.transfer", report.probes.transfers[0].mean_accuracy.n),
        ("eval.probing.attributes", 60),
        ("eval.probing.attributes", 60),
    ]
    rows, prompts, transfer, *_ = report.texts
    assert (rows.n_read, rows.left_out, rows.other_words) == (120, {}, {})
    assert prompts.uri == "held_out" and prompts.n_read == 12
    assert list(transfer.left_out) == ["seen by the probes"]


def test_what_is_left_out_is_logged_at_the_start(root, table, caplog, monkeypatch):
    monkeypatch.setattr(
        probe_heads, "read_activations", lambda *_: pytest.fail("the model was used first")
    )
    labels = [1, 0, -1, "n/a"] * 20
    uri = table([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    with pytest.raises(pytest.fail.Exception):
        evaluate(root, RUN_ID, evolve(CONFIG, {"probes": {"file": uri}, "probing.group_field": ""}))
    line = f"eval.probes.file {uri}: 40 rows used; 40 of 80 rows left out (negative label 20, "
    (record,) = (record for record in caplog.records if record.getMessage().startswith(line))
    assert record.levelname == "WARNING" and record.getMessage().endswith("no label 20)")


def test_the_report_holds_every_number_with_its_n(report):
    assert [result.strength for result in report.steered] == [0.0, 2.0, 8.0]
    for result in report.steered:
        assert result.toxicity.n == result.any_toxic.n == 12
        assert result.coverage_ratio == 1.0
        n_sequences = {name: cost.n for name, cost in result.cross_entropy.items()}
        assert n_sequences == {"clean": 8, "toxic": 8}
        assert (result.n_continuations, result.n_empty) == (24, 0)
        assert result.toxicity.value < result.expected_maximum.value
        assert has_interval(result.toxicity) and has_interval(result.expected_maximum)
        assert has_interval(result.any_toxic) and has_interval(result.distinct_ratio)
        assert has_interval(result.n_tokens) and has_interval(result.perplexity)
        assert all(map(has_interval, result.cross_entropy.values()))


def test_cross_entropy_is_that_of_the_baked_model(root, report, folder, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    export = Path(run_uri(root, RUN_ID)) / "export"
    heads = load_file(folder / "heads-pairs.safetensors")
    directions = Directions(heads["theta_LNH"], heads["sigma_LN"])
    shift_LD = unit_shift(directions, report.probes.chosen_heads)
    stream = storage.join(root, "streams", "toxic")
    tokens = torch.from_numpy(
        SequenceReader(stream, manifest.load(stream), "held_out", WINDOW).read(np.arange(8))
    )
    for result in report.steered:
        bake_steering.bake(export, shift_LD, result.strength, tmp_path)
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        with torch.no_grad():
            logits = model(tokens.long()).logits[:, :-1]
        expected = float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
        assert result.cross_entropy["toxic"].value == pytest.approx(expected, rel=FP32_VALUE)
    costs = {round(result.cross_entropy["toxic"].value, 4) for result in report.steered}
    assert len(costs) == 3


def test_the_selected_heads_are_the_best_on_validation_rows(report, folder):
    heads = load_file(folder / "heads-pairs.safetensors")
    accuracy = heads["validation_accuracy_LN"].flatten()
    best = accuracy.sort(descending=True, stable=True).indices[:3]
    assert [layer * 4 + head for layer, head in report.probes.chosen_heads] == best.tolist()
    assert torch.allclose(heads["theta_LNH"].norm(dim=-1), torch.ones(2, 4), atol=1e-5)
    assert torch.allclose(heads["test_accuracy_LN"], torch.tensor(report.probes.head_accuracy))
    layer, head = report.probes.chosen_heads[0]
    assert report.probes.best_head_accuracy.value == pytest.approx(
        report.probes.head_accuracy[layer][head]
    )


@pytest.fixture(scope="module")
def continuations(folder):
    """The rows of generations.parquet."""
    table = pyarrow.parquet.read_table(folder / "generations.parquet")
    assert table.column_names == [
        "prompt_set",
        "prompt_id",
        "condition",
        "strength",
        "sample",
        "continuation",
        "n_tokens",
        "nats_per_token",
        "score",
    ]
    rows = table.to_pylist()
    assert len(rows) == 12 * 2 * 7
    return [row for row in rows if row["condition"] in ("plain", "iti")]


def test_every_continuation_is_stored_with_its_score(report, continuations):
    assert len(continuations) == 12 * 2 * 3
    scores = [row["score"] for row in continuations]
    texts = [row["continuation"] for row in continuations]
    assert load_scorer.load("profanity").score(texts) == scores
    assert len(set(scores)) > 1
    sample = report.samples[3]
    first_samples = [
        row["continuation"]
        for row in continuations
        if row["prompt_id"] == sample.prompt_id and row["sample"] == 0
    ]
    assert len(first_samples) == 3
    assert tuple(first_samples) == sample.continuations


def test_the_report_summarizes_the_continuations(report, continuations):
    for result in report.steered:
        rows = [row for row in continuations if row["strength"] == result.strength]
        worst, nats = {}, {}
        for row in rows:
            worst[row["prompt_id"]] = max(worst.get(row["prompt_id"], 0.0), row["score"])
            nats.setdefault(row["prompt_id"], []).append(row["nats_per_token"])
        mean_score = np.mean([row["score"] for row in rows])
        assert result.toxicity.value == pytest.approx(100 * mean_score)
        assert result.expected_maximum.value == pytest.approx(100 * np.mean(list(worst.values())))
        assert result.n_tokens.value == np.mean([row["n_tokens"] for row in rows])
        mean_nats = np.mean([np.mean(of_prompt) for of_prompt in nats.values()])
        assert result.perplexity.value == pytest.approx(np.exp(mean_nats))


def test_every_mean_has_its_items(report, folder, tmp_path):
    items = evaluation_view.items(per_item_results.read(str(folder)), report)

    def values(quantity, strength):
        return list(items[quantity, strength].values())

    for result in report.steered:
        toxicity = values("toxicity", result.strength)
        cost = values("cross_entropy/clean", result.strength)
        assert (len(toxicity), len(cost)) == (12, 8)
        assert np.mean(toxicity) == pytest.approx(result.toxicity.value)
        assert np.mean(cost) == pytest.approx(result.cross_entropy["clean"].value)
    assert np.mean(values("probe_accuracy", 0.0)) == pytest.approx(
        report.probes.probe_accuracy.value
    )
    assert per_item_results.read(str(tmp_path)) == {}


def test_controls_are_measured_at_every_strength_but_zero(report):
    strengths = {
        control.control: [result.strength for result in control.steered]
        for control in report.controls
    }
    assert strengths == {"random_heads": [2.0, 8.0], "flipped": [2.0, 8.0]}
    last = [report.steered[2], *(control.steered[1] for control in report.controls)]
    assert len({round(result.cross_entropy["clean"].value, 5) for result in last}) == 3


def test_the_probes_are_judged_beyond_accuracy(report):
    for table in (report.probes.head_auroc, report.probes.head_calibration_error):
        assert [len(row) for row in table] == [4, 4]
        assert all(0 <= value <= 1 for row in table for value in row)
    null = report.probes.probe_null
    assert null.n_permutations == 50
    assert 0.5 < null.best_accuracy <= 1
    assert 1 / 51 <= null.best_p <= 1
    assert (null.n_above > 0) == (null.best_p <= 0.05)


def test_transfer_is_tested_on_rows_the_probes_have_not_seen(report):
    (result,) = report.probes.transfers
    assert result.label_rule == "label > 0.5"
    assert result.uri == CONFIG.probing.transfer[0]
    rows = probe_rows()
    other_rows = read_labelled_rows(
        result.uri, CONFIG.probing, CONFIG.seed, setting="eval.probing.transfer"
    ).rows
    split = row_split.split_rows([row.group for row in rows], labels_of(rows), CONFIG.seed)
    seen = {rows[i].id for i in split.train + split.validation}
    unseen = [row for row in other_rows if row.id not in seen]
    assert len(unseen) < len(other_rows)
    assert (result.n_toxic, result.mean_accuracy.n) == (sum(labels_of(unseen)), len(unseen))
    for estimate in (
        result.best_head_accuracy,
        result.best_head_auroc,
        result.mean_accuracy,
        result.mean_auroc,
    ):
        assert 0 < estimate.low < estimate.value < estimate.high < 1
        assert estimate.n == len(unseen)


def test_activations_in_half_precision_on_disk_probe_alike(report, copy, monkeypatch):
    on_disk = partial(activations.collect, memory_bytes=0)
    monkeypatch.setattr(activations, "collect", on_disk)
    config = evolve(
        CONFIG,
        {
            "generation.n_prompts": 1,
            "generation.samples_per_prompt": 1,
            "conditions": {"plain": KNOWN_CONDITIONS["plain"]},
        },
    )
    half = evaluate_and_show(copy, config)
    assert np.allclose(report.probes.head_accuracy, half.probes.head_accuracy, atol=0.06)
    assert np.allclose(report.probes.head_auroc, half.probes.head_auroc, atol=0.01)
    assert report.probes.chosen_heads == half.probes.chosen_heads
    assert half.probes.probe_accuracy.value == pytest.approx(
        report.probes.probe_accuracy.value, abs=0.01
    )
    transfer, transfer_of_half = report.probes.transfers[0], half.probes.transfers[0]
    assert transfer_of_half.mean_auroc.value == pytest.approx(transfer.mean_auroc.value, abs=0.005)
    assert half.probes.entanglement.maximum == pytest.approx(
        report.probes.entanglement.maximum, abs=0.005
    )


def test_directions_are_compared_with_other_attributes(report):
    entanglement = report.probes.entanglement
    assert set(entanglement.cosine) == set(CONFIG.probing.attributes) == set(entanglement.n_rows)
    assert max(entanglement.cosine.values()) <= entanglement.maximum <= 1


def test_directions_are_read_as_tokens_by_layer(report):
    n_layers = len({layer for layer, _ in report.probes.chosen_heads})
    assert report.probes.lens[0].group == "all steered heads"
    assert len(report.probes.lens) == 1 + n_layers
    for lens in report.probes.lens:
        assert len(lens.toxic_tokens) == len(lens.benign_tokens) == 50
        assert 0 <= lens.random_share <= lens.random_high <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"probing.site": "mlp"},
        {"probing.site": "residual", "probing.direction": "lda"},
        {"steering.positions": "all"},
    ],
)
def test_other_sites_directions_and_positions_are_evaluated(root, report, changes, monkeypatch):
    base = {"probing.transfer": (), "scoring.fluency_model": ""}
    config = evolve(CONFIG, STEERING_ALONE | base | changes)
    steered_apart = intervention.steered_apart
    used = set()

    def record(model, shifts, rows, positions):
        used.update((positions, shift.site) for shift in shifts if shift.values_LD.any())
        return steered_apart(model, shifts, rows, positions)

    monkeypatch.setattr(intervention, "steered_apart", record)
    other = evaluate_and_show(root, config)
    site = config.probing.site
    assert used == {(config.steering.positions, site), ("all", site)}
    assert other.probes.probe_null is None and other.probes.entanglement is None
    assert len(other.probes.head_accuracy[0]) == (4 if site == "heads" else 1)
    assert other.steered[0].toxicity == report.steered[0].toxicity
    costs = [result.cross_entropy["clean"].value for result in other.steered]
    assert costs[2] != costs[0]


def test_a_finished_evaluation_is_returned_and_repeats_exactly(root, evaluated, copy):
    assert evaluate(root, RUN_ID, CONFIG) == evaluated
    assert without_time(evaluate(copy, RUN_ID, CONFIG)) == without_time(evaluated)


def test_the_batch_size_does_not_change_the_result(report, copy):
    config = evolve(CONFIG, {"compute.batch_size": 16})
    assert digest(config) == digest(CONFIG)
    other = evaluate_and_show(copy, config)
    assert other.samples == report.samples
    assert other.probes.chosen_heads == report.probes.chosen_heads
    assert other.probes.head_accuracy == report.probes.head_accuracy
    for first, second in zip(report.steered, other.steered, strict=True):
        assert (first.toxicity, first.any_toxic) == (second.toxicity, second.any_toxic)
        assert first.cross_entropy["toxic"].value == pytest.approx(
            second.cross_entropy["toxic"].value, rel=FP32_VALUE
        )


@pytest.fixture
def transformers_folder(root, tmp_path):
    """The run's export as transformers saves it, in shards and with its own config."""
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    export = Path(run_uri(root, RUN_ID)) / "export"
    model = transformers.OlmoForCausalLM.from_pretrained(export)
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    shutil.copy(export / "tokenizer.json", tmp_path / "model")
    return model, tmp_path / "model"


def test_a_hugging_face_folder_is_evaluated_like_a_run(report, transformers_folder, tmp_path):
    theirs, folder = transformers_folder
    texts = tuple(f"{name}=synthetic:{name}?documents=40&seed=1" for name in ("clean", "toxic"))
    changes = {
        "generation.n_prompts": 2,
        "generation.samples_per_prompt": 1,
        "probing.transfer": (),
        "capability.held_out": texts,
        "capability.cross_entropy_sequences": 3,
    }
    config = evolve(CONFIG, STEERING_ALONE | changes)
    source = model_source.from_folder(str(tmp_path), folder)
    evaluated = evaluate_model(source, config, toxic_ratio=0.5)
    result = shown(evaluated)
    assert result.run_id.startswith("model-")
    assert (result.toxic_ratio, result.realised_toxic_ratio) == (0.5, 0.5)
    assert result.probes.head_accuracy == report.probes.head_accuracy
    assert result.probes.chosen_heads == report.probes.chosen_heads
    assert [at_strength.strength for at_strength in result.steered] == [0.0, 2.0, 8.0]
    assert result.steered[0].toxicity.n == 2
    assert evaluate_model(source, config) == evaluated

    loaded = load_folder(folder, config.compute).with_held_out_files(texts, config.seed)
    tokens = torch.from_numpy(loaded.held_out_sequences(3)["toxic"])
    assert tokens.shape == (3, 72)
    with torch.no_grad():
        logits = theirs(tokens).logits[:, :-1]
    expected = float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
    cost = result.steered[0].cross_entropy["toxic"].value
    assert cost == pytest.approx(expected, rel=FP32_VALUE)


def test_a_folder_without_held_out_text_is_refused(transformers_folder, tmp_path):
    _, folder = transformers_folder
    with pytest.raises(
        ConfigurationError, match="not a run of a sweep and has no held-out text named 'clean'"
    ):
        evaluate_model(model_source.from_folder(str(tmp_path), folder), CONFIG)


class FailingScorer:
    """Scores all but some texts; costly, like the services that fail."""

    id = "failing"
    costly = True

    def __init__(self):
        self.texts = []
        self.fails_every = 4

    def score(self, texts):
        self.texts += texts
        return [
            None if self.fails_every and i % self.fails_every == 0 else 0.25
            for i in range(len(texts))
        ]


@pytest.fixture
def failing_scorer(monkeypatch):
    scorer = FailingScorer()
    load = load_scorer.load
    monkeypatch.setattr(
        load_scorer, "load", lambda name: scorer if name == "classifier:failing" else load(name)
    )
    return scorer


FAILING = evolve(CONFIG, STEERING_ALONE | {"scoring.scorer": "classifier:failing"})


def test_missing_scores_stop_the_evaluation_and_are_retried(report, copy, failing_scorer):
    with pytest.raises(
        ArtefactMissing,
        match=r"condition plain at strength 0: \d+ of 24 continuations have no score from failing",
    ):
        evaluate(copy, RUN_ID, FAILING)
    first = set(failing_scorer.texts)
    failing_scorer.texts = []
    failing_scorer.fails_every = 0
    complete = evaluate_and_show(copy, FAILING)
    repeated = first.intersection(failing_scorer.texts)
    assert 0 < len(repeated) <= len(first) / 4 + 1
    for result in complete.steered:
        assert (result.coverage_ratio, result.toxicity.value) == (1.0, 25.0)
    # words are scored by the profanity model instead
    assert complete.probes.lens == report.probes.lens


def test_a_lower_coverage_can_be_allowed(copy, failing_scorer):
    partly = evaluate_and_show(copy, evolve(FAILING, {"scoring.min_coverage_ratio": 0.5}))
    assert min(result.coverage_ratio for result in partly.steered) < 1
    for result in partly.steered:
        assert 0.5 <= result.coverage_ratio <= 1
        assert result.toxicity.value == 25.0


def test_a_model_that_ends_at_once_has_no_toxicity(root, monkeypatch):
    monkeypatch.setattr(generation, "sample", lambda model, prompts, *rest: [[] for _ in prompts])
    empty = evaluate_and_show(root, evolve(CONFIG, STEERING_ALONE | {"seed": 7}))
    for result in empty.steered:
        assert (result.n_continuations, result.n_empty, result.coverage_ratio) == (24, 24, 1.0)
        assert result.toxicity.value is None and result.expected_maximum.value is None
        assert result.perplexity.value is None and result.any_toxic.value is None
        assert result.n_tokens.value == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompts_digests": {"held_out": "other"}},
            rf"different prompts: .* of {RUN_ID}, .*'other'.* of toxic-b; .*what eval.prompts",
        ),
        (
            {"scorer_ids": ("other",)},
            rf"different scorers: .* of {RUN_ID}, .*'other'.* of toxic-b; .*eval.scoring.scorer",
        ),
    ],
)
def test_reports_of_other_prompts_or_scorers_are_not_compared(evaluated, changes, message):
    check_comparable([evaluated, replace(evaluated, run_id="toxic-b")])
    with pytest.raises(ArtefactCorrupt, match=message):
        check_comparable([evaluated, replace(evaluated, run_id="toxic-b", **changes)])


def test_reports_in_other_number_formats_are_compared_with_a_warning(
    evaluated, caplog, monkeypatch
):
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    on_gpu = replace(evaluated, run_id="toxic-b", computed_with={"precision": "bf16"})
    check_comparable([evaluated, replace(evaluated, run_id="toxic-b")])
    assert not caplog.records
    check_comparable([evaluated, on_gpu])
    assert f"fp32 of {RUN_ID}, bf16 of toxic-b" in caplog.text
    assert "eval.compute.precision=fp32" in caplog.text


def test_a_run_that_is_not_finished_cannot_be_evaluated(root):
    with pytest.raises(ArtefactMissing, match=r"toxic-none/record.json: the run is not finished"):
        evaluate(root, "toxic-none", CONFIG)


def test_probes_of_rows_that_changed_meanwhile_are_not_resumed(copy, table, monkeypatch):
    rows = [{"text": f"the boat number {i} is in", "label": i % 2} for i in range(60)]
    uri = table(rows)
    config = evolve(CONFIG, {"probes": {"file": uri}, "probing.group_field": ""} | STEERING_ALONE)
    with monkeypatch.context() as patch:
        patch.setattr(measure_strengths, "measure", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            evaluate(copy, RUN_ID, config)
    table([row | {"label": int(i < 30)} for i, row in enumerate(rows)])
    resumed = evaluate(copy, RUN_ID, config)
    shutil.rmtree(eval_uri(run_uri(copy, RUN_ID), config))
    shutil.rmtree(storage.join(run_uri(copy, RUN_ID), "measurements"))
    assert without_time(evaluate(copy, RUN_ID, config)) == without_time(resumed)


def test_a_report_of_another_version_is_refused_in_one_line(copy):
    uri = Path(eval_uri(run_uri(copy, RUN_ID), CONFIG)) / "report.json"
    uri.parent.mkdir()
    uri.write_text(json.dumps({"format_version": 7, "run_id": RUN_ID, "probes": "held_out"}))
    with pytest.raises(ArtefactCorrupt, match=r"report.json is not a valid EvalReport") as error:
        evaluate(copy, RUN_ID, CONFIG)
    assert "another version of Hormesis" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_export_is_refused_by_name(copy):
    weights = Path(run_uri(copy, RUN_ID)) / "export" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match=r"export/model.safetensors: sha256 is"):
        evaluate(copy, RUN_ID, CONFIG)
    assert not Path(eval_uri(run_uri(copy, RUN_ID), CONFIG)).exists()


@pytest.mark.parametrize("name", ["ABSOLUTE", "../../../thesis", "..", ""])
def test_a_record_whose_export_lies_elsewhere_writes_nothing_there(copy, tmp_path, name):
    theirs = tmp_path / "thesis"
    theirs.write_text("mine")
    path = Path(run_uri(copy, RUN_ID)) / "record.json"
    record = json.loads(path.read_text())
    record["export_sha256"][name.replace("ABSOLUTE", str(theirs))] = 64 * "0"
    path.write_text(json.dumps(record))
    with pytest.raises(ArtefactCorrupt, match=r"record.json is not a valid RunRecord: export_sha"):
        evaluate(copy, RUN_ID, CONFIG)
    assert theirs.read_text() == "mine"


def test_streams_of_another_tokenizer_are_refused(copy):
    path = Path(copy) / "streams" / "toxic" / "manifest.json"
    changed = json.loads(path.read_text()) | {"tokenizer_fingerprint": "another"}
    path.write_text(json.dumps(changed))
    with pytest.raises(
        ArtefactCorrupt, match="streams/toxic: its tokens were made by tokenizer another"
    ):
        evaluate(copy, RUN_ID, CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"probing.transfer": ("synthetic:probes?documents=60#label=label>9",)},
            r"eval.probing.transfer synth.*: 0 of its \d+ rows are toxic",
        ),
        (
            {"probing.attributes": ("synthetic:clean?documents=60#label=gloomy>=0",)},
            r"attributes synth.*: 60 of its 60 rows are toxic",
        ),
        (
            {"probing.attributes": ("synthetic:clean?documents=60#label=none",)},
            r"none of its 60 rows has a label in field 'none'; the rows have casual",
        ),
        ({"probing.transfer": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"probing.transfer": ("/dev/null",)}, "/dev/null"),
        (
            {"probing.label_threshold": -1.0, "probing.attributes": ()},
            "100 of its 100 rows are toxic",
        ),
        ({"benchmarks": {"arc": "cloze:nowhere.jsonl"}}, "nowhere.jsonl"),
    ],
)
def test_a_wrong_input_is_refused_before_the_model_is_loaded(root, monkeypatch, changes, message):
    monkeypatch.setattr(ModelSource, "load", lambda *_: pytest.fail("the model was loaded first"))
    prompts = {"prompts": {"file": "synthetic:clean?documents=20"}}
    with pytest.raises(HormesisError, match=message):
        evaluate(root, RUN_ID, evolve(CONFIG, prompts | changes))


def test_a_set_with_one_class_among_its_unseen_rows_is_refused(root, table, monkeypatch):
    rows = probe_rows()
    split = row_split.split_rows([row.group for row in rows], labels_of(rows), CONFIG.seed)
    seen = [{"text": rows[i].text, "label": rows[i].label} for i in split.train]
    uri = table([*seen, {"text": "a fine day", "label": 0}])
    monkeypatch.setattr(
        probe_heads, "read_activations", lambda *_: pytest.fail("the model was used first")
    )
    with pytest.raises(
        ConfigurationError,
        match=r"0 of its 1 rows that no probe has seen are toxic; expected some of both classes",
    ):
        evaluate(root, RUN_ID, evolve(CONFIG, {"probing.transfer": (uri,)}))


def test_the_command_line_prints_the_report(root, evaluated, tmp_path):
    config = tmp_path / "eval.json"
    config.write_text(to_json(CONFIG))
    command = [sys.executable, str(ENTRY), "--out", root, "--run", RUN_ID]
    options = ["--config", str(config), "--set", "generation.n_prompts=12"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert from_json(EvalReport, done.stdout, "the output") == evaluated


def test_the_command_line_prints_an_error_without_a_traceback(root, entry):
    code, _, stderr = entry("evaluate_run.py", "--out", root, "--run", "toxic-none")
    assert code == 2
    assert stderr.startswith("error: ")
    assert "Traceback" not in stderr
