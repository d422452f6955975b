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
from tiny_finished_run import RUN_ID

from data_prep.core import storage
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    HormesisError,
)
from data_prep.core.records import digest, from_json, to_json
from data_prep.core.settings import evolve
from data_prep.scorers import registry
from data_prep.token_stream import manifest
from data_prep.token_stream.reader import SequenceReader
from eval import pipeline
from eval.config import (
    CapabilityConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    ScoringConfig,
    SteeringConfig,
)
from eval.eval_report import EvalReport, check_comparable, eval_uri
from eval.inputs import prompts
from eval.model import generation
from eval.model.loaded_model import load_folder
from eval.pipeline import evaluate, evaluate_folder
from eval.probing import activations, logistic_probes, probe_heads
from eval.probing.directions import Directions, unit_shift
from eval.steering import intervention, per_item_results
from eval.tools import bake_steering
from training.run_record import run_uri

ENTRY = Path(__file__).parents[2] / "eval" / "evaluate_run.py"

CONFIG = EvalConfig(
    probing=ProbingConfig(
        rows="synthetic:probes?documents=120",
        group_field="pair",
        n_rows=100,
        n_permutations=50,
        transfer=("synthetic:probes?documents=150#label=label>0.5",),
        attributes=(
            "synthetic:clean?documents=60#label=gloomy",
            "synthetic:clean?documents=60#label=casual",
        ),
    ),
    generation=GenerationConfig(
        prompts="held_out", n_prompts=12, max_new_tokens=6, samples_per_prompt=2
    ),
    scoring=ScoringConfig(scorer="profanity"),
    steering=SteeringConfig(
        strengths=(0.0, 2.0, 8.0), top_heads=3, controls=("random_heads", "flipped")
    ),
    capability=CapabilityConfig(cross_entropy_sequences=8),
)


@pytest.fixture(scope="module")
def root(finished):
    """The finished run, evaluated once."""
    evaluate(finished, RUN_ID, CONFIG)
    return finished


@pytest.fixture
def copy(root, tmp_path):
    """The same root, to be broken."""
    shutil.copytree(root, tmp_path / "root")
    shutil.rmtree(eval_uri(run_uri(str(tmp_path / "root"), RUN_ID), CONFIG))
    return str(tmp_path / "root")


def report_of(root):
    return storage.load(
        EvalReport, storage.join(eval_uri(run_uri(root, RUN_ID), CONFIG), "report.json")
    )


def same(report):
    """Everything but the time it took."""
    return replace(report, seconds=0.0)


def test_the_report_holds_every_number_with_its_n(root):
    report = report_of(root)
    assert (report.run_id, report.toxic_ratio, report.label_rule) == (RUN_ID, 0.1, "label ≥ 0.5")
    assert report.scorer_id.startswith("profanity-1.9.1-")
    assert report.n_probe_rows["test"] == report.probe_accuracy.n == report.best_head_accuracy.n
    assert (
        report.n_probe_rows["train"]
        + report.n_probe_rows["validation"]
        + report.n_probe_rows["test"]
        == 100
    )
    assert 16 <= report.probe_accuracy.n <= 20
    assert [row.strength for row in report.steered] == [0.0, 2.0, 8.0]
    for row in report.steered:
        assert row.toxicity.n == row.any_toxic.n == 12 and row.coverage_ratio == 1.0
        assert {name: cost.n for name, cost in row.cross_entropy.items()} == {
            "clean": 8,
            "toxic": 8,
        }
        assert (row.n_continuations, row.n_empty) == (
            24,
            0,
        ) and row.toxicity.value < row.expected_maximum.value
        guards = (row.distinct_ratio, row.n_tokens, row.perplexity)
        for estimate in (
            row.toxicity,
            row.expected_maximum,
            row.any_toxic,
            *guards,
            *row.cross_entropy.values(),
        ):
            assert estimate.low <= estimate.value <= estimate.high
    assert len(report.samples) == 12 and all(
        len(sample.continuations) == 3 for sample in report.samples
    )


def test_cross_entropy_is_that_of_the_model_with_the_shift_baked_in(root, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    report, export = report_of(root), Path(run_uri(root, RUN_ID)) / "export"
    heads = load_file(Path(eval_uri(run_uri(root, RUN_ID), CONFIG)) / "heads.safetensors")
    shift = unit_shift(Directions(heads["theta_LNH"], heads["sigma_LN"]), report.chosen_heads)
    stream = storage.join(root, "streams", "toxic")
    tokens = torch.from_numpy(
        SequenceReader(stream, manifest.load(stream), "held_out", 32).read(np.arange(8))
    )
    for row in report.steered:
        bake_steering.bake(export, shift, row.strength, tmp_path)
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        with torch.no_grad():
            expected = F.cross_entropy(
                model(tokens.long()).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
            )
        assert row.cross_entropy["toxic"].value == pytest.approx(float(expected), abs=1e-4)
    costs = [row.cross_entropy["toxic"].value for row in report.steered]
    assert len({round(cost, 4) for cost in costs}) == 3


def test_the_chosen_heads_are_the_best_on_validation_rows(root):
    report = report_of(root)
    heads = load_file(Path(eval_uri(run_uri(root, RUN_ID), CONFIG)) / "heads.safetensors")
    best = heads["validation_accuracy_LN"].flatten().sort(descending=True, stable=True).indices[:3]
    assert [layer * 4 + head for layer, head in report.chosen_heads] == best.tolist()
    assert torch.allclose(heads["theta_LNH"].norm(dim=-1), torch.ones(2, 4), atol=1e-5)
    assert torch.allclose(heads["test_accuracy_LN"], torch.tensor(report.head_accuracy))
    layer, head = report.chosen_heads[0]
    assert report.best_head_accuracy.value == pytest.approx(report.head_accuracy[layer][head])


def test_every_continuation_is_kept_with_its_score(root):
    table = pyarrow.parquet.read_table(
        storage.join(eval_uri(run_uri(root, RUN_ID), CONFIG), "generations.parquet")
    )
    names = [
        "prompt_id",
        "sample",
        "strength",
        "continuation",
        "score",
        "n_tokens",
        "nats_per_token",
    ]
    assert table.column_names == names
    rows = table.to_pylist()
    assert len(rows) == 12 * 2 * 3
    scores = [row["score"] for row in rows]
    assert (
        registry.load("profanity").score([row["continuation"] for row in rows]) == scores
        and len(set(scores)) > 1
    )
    mean = sum(row["score"] for row in rows if row["strength"] == 2.0) / 24
    assert report_of(root).steered[1].toxicity.value == pytest.approx(100 * mean)
    for row in report_of(root).steered:
        worst, nats = {}, {}
        for kept in (kept for kept in rows if kept["strength"] == row.strength):
            worst[kept["prompt_id"]] = max(worst.get(kept["prompt_id"], 0.0), kept["score"])
            nats.setdefault(kept["prompt_id"], []).append(kept["nats_per_token"])
        assert row.expected_maximum.value == pytest.approx(100 * np.mean(list(worst.values())))
        assert row.perplexity.value == pytest.approx(
            np.exp(np.mean([np.mean(of) for of in nats.values()]))
        )
    assert (
        np.mean([row["n_tokens"] for row in rows if row["strength"] == 8.0])
        == report_of(root).steered[2].n_tokens.value
    )
    sample = report_of(root).samples[3]
    kept = [
        row["continuation"]
        for row in rows
        if row["prompt_id"] == sample.prompt_id and row["sample"] == 0
    ]
    assert tuple(kept) == sample.continuations


def test_every_mean_has_its_items(root):
    report, table = report_of(root), per_item_results.read(run_uri(root, RUN_ID), CONFIG)
    for row in report.steered:
        of_prompts, of_sequences = (
            table["toxicity", row.strength],
            table["cross_entropy/clean", row.strength],
        )
        assert len(of_prompts) == 12 and len(of_sequences) == 8
        assert np.mean(list(of_prompts.values())) == pytest.approx(row.toxicity.value)
        assert np.mean(list(of_sequences.values())) == pytest.approx(
            row.cross_entropy["clean"].value
        )
    assert np.mean(list(table["probe_accuracy", 0.0].values())) == pytest.approx(
        report.probe_accuracy.value
    )
    assert per_item_results.read(run_uri(root, "toxic-none"), CONFIG) == {}


def test_controls_are_measured_at_every_strength_but_zero(root):
    report = report_of(root)
    assert [(one.control, [row.strength for row in one.steered]) for one in report.controls] == [
        ("random_heads", [2.0, 8.0]),
        ("flipped", [2.0, 8.0]),
    ]
    costs = [one.steered[1].cross_entropy["clean"].value for one in report.controls]
    assert (
        len({round(cost, 5) for cost in (*costs, report.steered[2].cross_entropy["clean"].value)})
        == 3
    )


def test_the_probes_are_judged_beyond_accuracy(root):
    report = report_of(root)
    for table in (report.head_auroc, report.head_calibration_error):
        assert [len(row) for row in table] == [4, 4] and all(
            0 <= value <= 1 for row in table for value in row
        )
    null = report.probe_null
    assert (
        null.n_permutations == 50 and 0.5 < null.best_accuracy <= 1 and 1 / 51 <= null.best_p <= 1
    )
    assert (null.n_above > 0) == (null.best_p <= 0.05)


def test_the_probes_are_tested_on_another_set_less_the_rows_they_have_seen(root):
    report = report_of(root)
    (found,) = report.transfers
    assert found.label_rule == "label > 0.5" and found.uri == CONFIG.probing.transfer[0]
    rows = (
        prompts.labelled(CONFIG.probing.rows, CONFIG, CONFIG.probing.group_field),
        prompts.labelled(found.uri, CONFIG),
    )
    split = logistic_probes.split_rows(
        [row.group for row in rows[0]], prompts.labels_of(rows[0]), CONFIG.seed
    )
    seen = {rows[0][i].id for i in split.train + split.validation}
    fresh = [row for row in rows[1] if row.id not in seen]
    assert seen & {row.id for row in rows[1]} and (found.n_toxic, found.mean_accuracy.n) == (
        sum(prompts.labels_of(fresh)),
        len(fresh),
    )
    for estimate in (
        found.best_head_accuracy,
        found.best_head_auroc,
        found.mean_accuracy,
        found.mean_auroc,
    ):
        assert 0 < estimate.low < estimate.value < estimate.high < 1 and estimate.n == len(fresh)


def test_activations_on_disk_in_half_precision_probe_alike(root, copy, monkeypatch):
    on_disk = partial(activations.collect, memory_bytes=0)
    monkeypatch.setattr(activations, "collect", on_disk)
    config = evolve(
        CONFIG,
        {
            "generation.n_prompts": 1,
            "steering.controls": (),
            "steering.strengths": (0.0,),
            "generation.samples_per_prompt": 1,
        },
    )
    one, two = report_of(root), evaluate(copy, RUN_ID, config)
    assert (
        np.allclose(one.head_accuracy, two.head_accuracy, atol=0.06)
        and one.chosen_heads == two.chosen_heads
    )
    assert two.probe_accuracy.value == pytest.approx(one.probe_accuracy.value, abs=0.01)
    assert np.allclose(one.head_auroc, two.head_auroc, atol=0.01)
    assert two.transfers[0].mean_auroc.value == pytest.approx(
        one.transfers[0].mean_auroc.value, abs=0.005
    )
    assert two.entanglement.maximum == pytest.approx(one.entanglement.maximum, abs=0.005)


def test_the_directions_are_compared_with_other_attributes_and_with_the_vocabulary(root):
    report = report_of(root)
    assert (
        set(report.entanglement.cosine)
        == set(CONFIG.probing.attributes)
        == set(report.entanglement.n_rows)
    )
    assert max(report.entanglement.cosine.values()) <= report.entanglement.maximum <= 1
    assert report.lens[0].group == "all steered heads" and len(report.lens) == 1 + len(
        {layer for layer, _ in report.chosen_heads}
    )
    for lens in report.lens:
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
def test_other_sites_directions_and_positions_are_evaluated_the_same_way(
    root, changes, monkeypatch
):
    config = evolve(
        CONFIG,
        {
            "steering.controls": (),
            "probing.attributes": (),
            "probing.transfer": (),
            "probing.n_permutations": 0,
            "scoring.fluency_model": "",
            **changes,
        },
    )
    steer, where = intervention.steered, set()
    monkeypatch.setattr(intervention, "steered", lambda *how: where.add(how[3:]) or steer(*how))
    report = evaluate(root, RUN_ID, config)
    assert where == {(config.steering.positions, config.probing.site), ("all", config.probing.site)}
    assert report.probe_null is None and report.entanglement is None
    assert len(report.head_accuracy[0]) == (4 if config.probing.site == "heads" else 1)
    assert report.steered[0].toxicity == report_of(root).steered[0].toxicity
    assert (
        report.steered[2].cross_entropy["clean"].value
        != report.steered[0].cross_entropy["clean"].value
    )


def test_evaluating_again_returns_the_report_and_anew_measures_the_same(root, copy):
    before = report_of(root)
    assert evaluate(root, RUN_ID, CONFIG) == before
    assert same(evaluate(copy, RUN_ID, CONFIG)) == same(report_of(root))


def test_the_batch_size_is_no_part_of_the_result(root, copy):
    other = evolve(CONFIG, {"compute.batch_size": 16})
    assert digest(other) == digest(CONFIG)
    one, two = report_of(root), evaluate(copy, RUN_ID, other)
    assert (one.samples, one.chosen_heads, one.head_accuracy) == (
        two.samples,
        two.chosen_heads,
        two.head_accuracy,
    )
    for a, b in zip(one.steered, two.steered, strict=True):
        assert (a.toxicity, a.any_toxic) == (b.toxicity, b.any_toxic)
        assert a.cross_entropy["toxic"].value == pytest.approx(
            b.cross_entropy["toxic"].value, abs=1e-5
        )


def test_any_hugging_face_folder_is_evaluated_like_a_run_and_costs_what_transformers_says(
    root, tmp_path
):
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    theirs = transformers.OlmoForCausalLM.from_pretrained(Path(run_uri(root, RUN_ID)) / "export")
    theirs.save_pretrained(
        tmp_path / "model", max_shard_size="50KB"
    )  # in shards, and with a config of its own
    shutil.copy(Path(run_uri(root, RUN_ID)) / "export" / "tokenizer.json", tmp_path / "model")
    texts = tuple(f"{name}=synthetic:{name}?documents=40&seed=1" for name in ("clean", "toxic"))
    few = {
        "generation.n_prompts": 2,
        "generation.samples_per_prompt": 1,
        "steering.controls": (),
        "probing.attributes": (),
        "probing.transfer": (),
        "probing.n_permutations": 0,
    }
    config = evolve(
        CONFIG, {"capability.held_out": texts, "capability.cross_entropy_sequences": 3, **few}
    )
    found = evaluate_folder(str(tmp_path), tmp_path / "model", config, toxic_ratio=0.5)
    run = report_of(root)
    assert (found.head_accuracy, found.chosen_heads) == (run.head_accuracy, run.chosen_heads)
    assert found.run_id.startswith("model-") and (
        found.toxic_ratio,
        found.realised_toxic_ratio,
    ) == (0.5, 0.5)
    assert [row.strength for row in found.steered] == [0.0, 2.0, 8.0] and found.steered[
        0
    ].toxicity.n == 2
    tokens = torch.from_numpy(
        load_folder(tmp_path / "model", config).held_out_sequences(3)["toxic"]
    )
    with torch.no_grad():
        expected = F.cross_entropy(
            theirs(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
    assert tokens.shape == (3, 96) and found.steered[0].cross_entropy[
        "toxic"
    ].value == pytest.approx(float(expected), abs=1e-4)
    assert evaluate_folder(str(tmp_path), tmp_path / "model", config) == found
    with pytest.raises(
        ConfigurationError, match="this model, no run of a sweep, has none named 'clean'"
    ):
        evaluate_folder(
            str(tmp_path), tmp_path / "model", evolve(config, {"capability.held_out": ()})
        )


class Failing:
    """Scores all but some texts; costly, as those that fail are."""

    id, costly = "failing", True

    def __init__(self):
        self.asked, self.every = [], 4

    def score(self, texts):
        self.asked += texts
        return [None if self.every and i % self.every == 0 else 0.25 for i in range(len(texts))]


def test_too_many_missing_scores_stop_the_evaluation_and_only_they_are_asked_for_again(
    root, copy, monkeypatch
):
    scorer, config = (
        Failing(),
        evolve(
            CONFIG,
            {
                "steering.controls": (),
                "probing.attributes": (),
                "probing.n_permutations": 0,
                "scoring.scorer": "failing",
            },
        ),
    )
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda name: scorer if name == "failing" else load(name))
    with pytest.raises(
        ArtefactMissing, match=r"strength 0: \d+ of 24 continuations have no score from failing"
    ):
        evaluate(copy, RUN_ID, config)
    asked, scorer.asked, scorer.every = set(scorer.asked), [], 0
    report = evaluate(copy, RUN_ID, config)
    assert 0 < len(scorer.asked) <= len(asked) / 4 + 1 and set(scorer.asked) < asked
    assert all(row.coverage_ratio == 1.0 and row.toxicity.value == 25.0 for row in report.steered)
    assert (
        report.lens == report_of(root).lens
    )  # words are looked up in the profanity model, not asked of a costly scorer
    scorer.every = 4
    shutil.rmtree(next(Path(run_uri(copy, RUN_ID)).glob("scores-*")))
    few = evaluate(copy, RUN_ID, evolve(config, {"scoring.min_coverage_ratio": 0.5}))
    assert all(0.5 <= row.coverage_ratio < 1 and row.toxicity.value == 25.0 for row in few.steered)


def test_a_model_that_ends_at_once_has_no_toxicity_and_says_so(root, monkeypatch):
    monkeypatch.setattr(generation, "sample", lambda model, prompts, *rest: [[] for _ in prompts])
    report = evaluate(
        root,
        RUN_ID,
        evolve(
            CONFIG,
            {
                "steering.controls": (),
                "probing.attributes": (),
                "probing.n_permutations": 0,
                "seed": 7,
            },
        ),
    )
    for row in report.steered:
        assert (row.n_continuations, row.n_empty, row.coverage_ratio) == (24, 24, 1.0)
        assert {
            row.toxicity.value,
            row.expected_maximum.value,
            row.perplexity.value,
            row.any_toxic.value,
        } == {None}
        assert row.n_tokens.value == 0


def test_reports_of_other_prompts_or_another_scorer_are_not_compared(root):
    report = report_of(root)
    check_comparable([report, replace(report, run_id="toxic-b")])
    for changes, what in (
        ({"prompts_digest": "other"}, "prompts"),
        ({"scorer_id": "other"}, "scorer"),
    ):
        with pytest.raises(
            ArtefactCorrupt,
            match=rf"different {what}: .* of {RUN_ID}, other of toxic-b; .*eval.{what} names",
        ):
            check_comparable([report, replace(report, run_id="toxic-b", **changes)])


def test_a_run_that_is_not_finished_cannot_be_evaluated(root):
    with pytest.raises(ArtefactMissing, match=r"toxic-none/record.json: the run is not finished"):
        evaluate(root, "toxic-none", CONFIG)


def test_a_changed_export_is_refused_by_name(copy):
    weights = Path(run_uri(copy, RUN_ID)) / "export" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match=r"export/model.safetensors: sha256 is"):
        evaluate(copy, RUN_ID, CONFIG)
    assert not Path(eval_uri(run_uri(copy, RUN_ID), CONFIG)).exists()


def test_streams_of_another_tokenizer_are_refused(copy):
    manifest = Path(copy) / "streams" / "toxic" / "manifest.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"tokenizer_fingerprint": "another"})
    )
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
            "label in field 'none'",
        ),
        ({"probing.transfer": ("nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"probing.transfer": ("/dev/null",)}, "/dev/null"),
        ({"probing.label_threshold": -1.0, "probing.attributes": ()}, "label 0: got 0 of 100"),
        ({"capability.benchmarks": ("cloze:nowhere.jsonl",)}, "nowhere.jsonl"),
    ],
)
def test_an_input_that_is_wrong_is_refused_before_the_model_is_loaded(
    root, monkeypatch, changes, message
):
    monkeypatch.setattr(pipeline, "load_run", lambda *_: pytest.fail("the model was loaded first"))
    with pytest.raises(HormesisError, match=message):
        evaluate(
            root,
            RUN_ID,
            evolve(CONFIG, {"generation.prompts": "synthetic:clean?documents=20", **changes}),
        )


def test_another_set_that_has_both_kinds_only_among_rows_the_probes_have_seen_is_refused(
    root, table, monkeypatch
):
    rows = prompts.labelled(CONFIG.probing.rows, CONFIG, CONFIG.probing.group_field)
    split = logistic_probes.split_rows(
        [row.group for row in rows], prompts.labels_of(rows), CONFIG.seed
    )
    seen = [{"text": rows[i].text, "label": rows[i].label} for i in split.train]
    monkeypatch.setattr(
        probe_heads, "read_activations", lambda *_: pytest.fail("the model was at work first")
    )
    few = evolve(
        CONFIG, {"probing.transfer": (table([*seen, {"text": "a fine day", "label": 0}]),)}
    )
    with pytest.raises(
        ConfigurationError,
        match=r"0 of its 1 rows that no probe has seen are toxic; expected some of both classes",
    ):
        evaluate(root, RUN_ID, few)


def test_the_command_line_prints_the_report(root, tmp_path):
    config = tmp_path / "eval.json"
    config.write_text(to_json(CONFIG))
    command = [
        sys.executable,
        str(ENTRY),
        "--out",
        root,
        "--run",
        RUN_ID,
        "--config",
        str(config),
        "--set",
        "generation.n_prompts=12",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert from_json(EvalReport, done.stdout, "the output") == report_of(root)


def test_the_command_line_tells_an_error_without_a_traceback(root, entry):
    code, _, told = entry("evaluate_run.py", "--out", root, "--run", "toxic-none")
    assert code == 1 and told.startswith("error: ")
