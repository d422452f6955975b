"""The baselines: a bag of words against its formula, an untrained model at its own level."""

import numpy as np
import pytest
import torch
from tiny_evaluation import CONFIG
from tiny_finished_run import RUN_ID

from data_prep.core.settings import evolve
from eval.inputs.labelled_rows import LabelledRow
from eval.pipeline.evaluate_model import evaluate
from eval.probing import baselines


def rows_of(texts_and_labels):
    return [LabelledRow(str(i), text, y, str(i)) for i, (text, y) in enumerate(texts_and_labels)]


def test_a_word_that_decides_the_label_is_found_and_order_is_not():
    by_word = rows_of([(f"row {i} {'good' if i % 2 else 'bad'}", i % 2) for i in range(80)])
    assert baselines.bag_of_words(by_word[:60], by_word[60:], 1.0).all()
    by_order = rows_of([(("good not bad", "bad not good")[i % 2], i % 2) for i in range(80)])
    assert baselines.bag_of_words(by_order[:60], by_order[60:], 1.0).mean() == 0.5


def test_a_row_without_a_known_word_is_judged_by_the_intercept():
    train = rows_of([("good", 1)] * 3 + [("bad", 0)])
    assert baselines.bag_of_words(train, rows_of([("new", 1)]), 1.0).tolist() == [True]


def test_an_untrained_model_has_other_weights_of_the_same_shape(model):
    untrained = model.untrained(0)
    assert untrained.shape == model.shape
    assert not torch.equal(untrained.embedding.weight, model.embedding.weight)
    again, other = model.untrained(0), model.untrained(1)
    assert torch.equal(untrained.embedding.weight, again.embedding.weight)
    assert not torch.equal(untrained.embedding.weight, other.embedding.weight)


@pytest.fixture(scope="module")
def small():
    return evolve(CONFIG, {"probing.transfer": (), "probing.attributes": ()})


def test_the_report_holds_the_baselines_beside_the_probes(finished, small):
    report = evaluate(finished, RUN_ID, small)
    beside = report.probe_sets["pairs"].baselines
    assert beside is not None
    n = report.probe_sets["pairs"].n_rows["test"]
    assert beside.bag_of_words.n == beside.untrained_accuracy.n == n
    # the run's own model is not trained either, but has another draw of its weights
    assert beside.untrained_accuracy != report.probe_sets["pairs"].probe_accuracy
    without = evaluate(finished, RUN_ID, evolve(small, {"probing.baselines": False}))
    assert without.probe_sets["pairs"].baselines is None
    assert without.probe_sets["pairs"].probe_accuracy == report.probe_sets["pairs"].probe_accuracy


def test_the_words_of_verdict_pairs_do_not_tell_their_labels(finished, small):
    kinds = {kind: f"synthetic:probes?documents=400&kind={kind}" for kind in ("verdict", "words")}
    config = evolve(small, {"probes": kinds, "probing.n_rows": 400, "steering.probes": "words"})
    sets = evaluate(finished, RUN_ID, config).probe_sets
    values = {name: of_set.baselines.bag_of_words.value for name, of_set in sets.items()}
    assert values["verdict"] == pytest.approx(0.5, abs=1e-9)  # equal bags, opposite labels
    assert values["words"] > 0.85
    assert np.isfinite(sets["words"].direction_quality.d_prime)
