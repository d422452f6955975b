import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_encoder import labelled_rows, save_encoder, write_rows

from data_prep.core.errors import ConfigurationError
from data_prep.scorers import load_scorer, trained
from data_prep.scorers.text_encoder import TextEncoder
from eval.tools import train_scorer

pytest.importorskip("transformers", reason="the extra classifiers is not installed")
COMMAND = "tools/train_scorer.py"


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture
def rows_uri(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", labelled_rows(300))


@pytest.fixture
def train(entry, encoder_folder, tmp_path):
    """Train a scorer on these rows: its folder."""

    def run(*uris, encoder=encoder_folder, name="scorer", words=()):
        out = tmp_path / name
        arguments = ["--encoder", str(encoder), "--out", str(out), "--rows", *uris, *words]
        code, _, message = entry(COMMAND, *arguments)
        assert code == 0, message
        return out

    return run


def record_of(folder):
    return trained.read(str(folder))[0]


def refused(entry, encoder, *uris):
    out = str(encoder.parent / "unused")
    arguments = ["--encoder", str(encoder), "--out", out, "--rows", *uris]
    code, _, message = entry(COMMAND, *arguments)
    assert code == 2 and message.count("\n") == 1, message
    return message


def test_a_trained_scorer_tells_unseen_rude_texts_from_civil_ones(train, rows_uri, encoder_folder):
    scorer = load_scorer.load(f"trained:{train(rows_uri)}#encoder={encoder_folder}")
    unseen = labelled_rows(200, seed=9)
    scores = scorer.score([row["text"] for row in unseen])
    assert roc_auc_score([row["label"] for row in unseen], scores) > 0.95
    record = record_of(Path(rows_uri).parent / "scorer")
    assert record.held_out.value > 0.95 and record.held_out.n == record.sets[0].n_held_out == 60


def test_the_recorded_auroc_is_of_rows_that_the_head_was_not_trained_on(
    train, tmp_path, encoder_folder
):
    """Labels without a meaning: the head learns its own rows by heart and no other."""
    rows = [row | {"label": i // 2 % 2} for i, row in enumerate(labelled_rows(400))]
    record = record_of(train(write_rows(tmp_path / "noise.jsonl", rows)))
    assert (record.held_out.low or 1) < 0.5 < (record.held_out.high or 0)


def test_the_head_is_scikit_learns_optimum(encoder_folder):
    rows = labelled_rows(120)
    x_RD = TextEncoder(encoder_folder).embed([row["text"] for row in rows])
    label_R = np.array([row["label"] for row in rows])
    head = train_scorer.fit_head(x_RD, label_R, l2=2.0)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=5000))
    expected.fit(x_RD.astype(np.float64), label_R)
    assert head.probabilities(x_RD) == pytest.approx(
        expected.predict_proba(x_RD.astype(np.float64))[:, 1], abs=1e-6
    )


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(
    train, rows_uri, tmp_path, encoder_folder
):
    first = train(rows_uri)
    (tmp_path / "elsewhere").mkdir()
    moved_rows = write_rows(tmp_path / "elsewhere" / "rows.jsonl", labelled_rows(300)[::-1])
    moved_encoder = save_encoder(tmp_path / "elsewhere" / "encoder")
    second = train(moved_rows, encoder=moved_encoder, name="second")
    for name in (trained.HEAD_NAME, trained.RECORD_NAME):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    content = (first / trained.RECORD_NAME).read_text()
    assert str(tmp_path) not in content and str(encoder_folder) not in content


def test_the_id_changes_with_rows_encoder_and_seed(train, rows_uri, tmp_path):
    other_rows = write_rows(tmp_path / "other.jsonl", labelled_rows(300, seed=5))
    other_encoder = save_encoder(tmp_path / "other", seed=1)
    folders = [
        (train(rows_uri), None),
        (train(other_rows, name="b"), None),
        (train(rows_uri, encoder=other_encoder, name="c"), other_encoder),
        (train(rows_uri, name="d", words=("--seed", "1")), None),
        (train(rows_uri, name="e", words=("--max-length", "16")), None),
    ]
    records = [json.dumps(record_of(folder).__dict__, default=str) for folder, _ in folders]
    assert len(set(records)) == len(folders)


def test_each_set_is_balanced_and_reported_apart(train, rows_uri, tmp_path):
    mostly_rude = [row for i, row in enumerate(labelled_rows(400, seed=3)) if i % 2 or i % 8 == 0]
    second = write_rows(tmp_path / "mostly_rude.jsonl", mostly_rude)
    record = record_of(train(rows_uri, f"{second}#label=label=1"))
    assert [one.name for one in record.sets] == ["rows.jsonl", "mostly_rude.jsonl#label=label=1"]
    one = record.sets[1]
    n_civil = sum(row["label"] == 0 for row in mostly_rude)
    assert one.n_trained + one.n_held_out <= 2 * n_civil
    assert one.left_out["not needed"] > 50
    assert one.n_read == one.n_trained + one.n_held_out + sum(one.left_out.values())


def test_without_this_set_is_the_auroc_of_a_head_trained_on_the_others(
    train, rows_uri, tmp_path, encoder_folder
):
    reversed_rows = [
        {"text": f"tea {row['text']}", "label": 1 - row["label"]} for row in labelled_rows(300)
    ]
    uri = write_rows(tmp_path / "reversed.jsonl", reversed_rows)
    record = record_of(train(rows_uri, uri))
    assert record.sets[0].without_this_set.value < 0.1
    assert record.sets[1].without_this_set.value < 0.1
    alone = load_scorer.load(f"trained:{train(rows_uri, name='alone')}#encoder={encoder_folder}")
    sets = train_scorer.read_sets([rows_uri, uri], 0, 2000)
    scores = alone.score([row.text for row in sets[1].rows])
    expected = roc_auc_score([row.label for row in sets[1].rows], scores)
    assert record.sets[1].without_this_set.value == pytest.approx(expected, abs=1e-4)
    assert record_of(tmp_path / "alone").sets[0].without_this_set is None


def test_a_text_of_two_sets_is_in_the_first_alone(rows_uri, tmp_path):
    rows = labelled_rows(300)
    both = write_rows(tmp_path / "both.jsonl", [*rows[:50], *labelled_rows(200, seed=7)])
    first, second = train_scorer.read_sets([rows_uri, both], 0, 2000)
    assert second.left_out["also in another set"] == 50
    assert not {row.text for row in first.rows} & {row.text for row in second.rows}


def test_the_folder_may_hold_the_encoder_as_well(train, rows_uri, tmp_path):
    folder = train(rows_uri, words=("--copy-encoder",))
    folder.rename(tmp_path / "taken-along")
    assert load_scorer.load(f"trained:{tmp_path / 'taken-along'}").score(["the vile day"])[0] > 0.5


def test_a_folder_with_another_scorer_is_kept_and_the_same_one_is_no_error(
    train, rows_uri, entry, encoder_folder
):
    folder = train(rows_uri)
    before = (folder / trained.RECORD_NAME).read_bytes()
    assert train(rows_uri) == folder
    arguments = ["--encoder", str(encoder_folder), "--out", str(folder), "--rows", rows_uri]
    code, _, message = entry(COMMAND, *arguments, "--seed", "1")
    assert code == 2 and "holds another trained scorer; nothing was written" in message
    assert (folder / trained.RECORD_NAME).read_bytes() == before


def test_rows_of_one_class_or_too_few_are_refused(entry, encoder_folder, table):
    civil = [row | {"label": 0} for row in labelled_rows(100)]
    message = refused(entry, encoder_folder, table(civil))
    assert "0 of its 100 texts are toxic; expected at least 25 of each class" in message
    message = refused(entry, encoder_folder, table(labelled_rows(40)))
    assert "20 of its 40 texts are toxic; expected at least 25 of each class" in message


def test_labels_that_cannot_be_read_are_refused_by_their_place(entry, encoder_folder, table):
    rows = [row | {"label": "rude"} for row in labelled_rows(100)]
    message = refused(entry, encoder_folder, table(rows))
    assert "rows.jsonl row 0: the label in field 'label' is 'rude'" in message
    assert "none of its 100 rows has a label" in refused(
        entry, encoder_folder, f"{table(labelled_rows(100))}#label=missing"
    )


def test_a_folder_without_an_encoder_is_refused(entry, tmp_path, rows_uri):
    assert "nowhere is no local folder" in refused(entry, tmp_path / "nowhere", rows_uri)


def test_rows_are_refused_before_the_encoder_is_loaded(encoder_folder, table):
    with pytest.raises(ConfigurationError, match="expected at least 25 of each class"):
        train_scorer.read_sets([table(labelled_rows(30))], 0, 2000)
