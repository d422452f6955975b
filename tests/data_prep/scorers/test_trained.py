import hashlib
import shutil

import numpy as np
import pytest
from tiny_encoder import WIDTH, labelled_rows, save_encoder

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.scorers import load_scorer, trained
from data_prep.scorers.text_encoder import TextEncoder
from data_prep.scorers.trained import HeldOutAuroc, LogisticHead, TrainedHead

pytest.importorskip("transformers", reason="the extra classifiers is not installed")
TEXTS = [row["text"] for row in labelled_rows(30)]
HEAD = LogisticHead(np.linspace(-0.5, 0.5, WIDTH), 0.25)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


def save_scorer(folder, encoder_folder, head=HEAD, **changes):
    """A scorer's folder with this head."""
    encoder = TextEncoder(encoder_folder)
    content = trained.head_bytes(head)
    fields = {
        "format_version": trained.FORMAT_VERSION,
        "encoder_digest": encoder.digest,
        "encoder_type": encoder.model_type,
        "width": encoder.width,
        "max_length": 32,
        "head_sha256": hashlib.sha256(content).hexdigest(),
        "seed": 0,
        "max_rows_per_class": 10,
        "l2": 1.0,
        "l2_candidates": (1.0,),
        "sets": (),
        "held_out": HeldOutAuroc(value=0.9, low=0.8, high=0.95, n=40),
        "calibration_error": 0.1,
    }
    record = TrainedHead(**(fields | changes))
    storage.write(f"{folder}/{trained.HEAD_NAME}", content)
    storage.save(record, f"{folder}/{trained.RECORD_NAME}")
    return record


@pytest.fixture
def scorer_folder(tmp_path, encoder_folder):
    save_scorer(tmp_path / "scorer", encoder_folder)
    return tmp_path / "scorer"


def load(folder, encoder_folder):
    return load_scorer.load(f"trained:{folder}#encoder={encoder_folder}")


def test_a_score_is_the_heads_probability_of_the_embedding(scorer_folder, encoder_folder):
    embeddings = TextEncoder(encoder_folder).embed(TEXTS).astype(np.float64)
    expected = 1 / (1 + np.exp(-(embeddings @ HEAD.weight_D + HEAD.bias)))
    scores = load(scorer_folder, encoder_folder).score(TEXTS)
    assert scores == pytest.approx(expected.tolist(), abs=2e-6)
    assert 0.05 < min(expected) < max(expected) < 0.95


def test_order_and_repetition_do_not_change_a_score(scorer_folder, encoder_folder):
    scorer = load(scorer_folder, encoder_folder)
    scores = scorer.score(TEXTS)
    assert scorer.score(TEXTS[::-1])[::-1] == scores
    assert scorer.score(TEXTS + TEXTS)[len(TEXTS) :] == scores
    assert [scorer.score([text])[0] for text in TEXTS] == pytest.approx(scores, abs=2e-6)


def test_empty_text_has_no_score_and_lone_surrogates_are_scored(scorer_folder, encoder_folder):
    scorer = load(scorer_folder, encoder_folder)
    assert scorer.score(["", " \n"]) == [None, None] and scorer.score([]) == []
    assert scorer.score(["half \udce2"]) != [None]


def test_a_score_that_is_nan_is_missing(tmp_path, encoder_folder):
    save_scorer(tmp_path / "nan", encoder_folder, LogisticHead(np.full(WIDTH, np.nan), 0.0))
    assert load(tmp_path / "nan", encoder_folder).score(["the day"]) == [None]


def test_the_id_is_the_records_digest_wherever_the_folders_lie(
    tmp_path, scorer_folder, encoder_folder
):
    scorer = load(scorer_folder, encoder_folder)
    record, _ = trained.read(str(scorer_folder))
    assert scorer.id == f"trained-{digest(record)}" and scorer.costly
    shutil.copytree(encoder_folder, tmp_path / "moved" / "encoder")
    shutil.copytree(scorer_folder, tmp_path / "moved", dirs_exist_ok=True)
    inside = load_scorer.load(f"trained:{tmp_path / 'moved'}")
    assert inside.id == scorer.id and inside.score(TEXTS) == scorer.score(TEXTS)
    save_scorer(tmp_path / "better", encoder_folder, calibration_error=0.05)
    assert load(tmp_path / "better", encoder_folder).id != scorer.id


def test_another_encoder_is_refused_by_its_digest(tmp_path, scorer_folder):
    other = save_encoder(tmp_path / "other", seed=1)
    with pytest.raises(
        ConfigurationError, match=r"other has the digest .*; expected .*which the head was trained"
    ):
        load(scorer_folder, other)


def test_a_head_that_is_not_the_records_is_refused(tmp_path, scorer_folder, encoder_folder):
    (scorer_folder / trained.HEAD_NAME).write_bytes(
        trained.head_bytes(LogisticHead(np.zeros(WIDTH), 0.0))
    )
    with pytest.raises(ArtefactCorrupt, match=r"head.safetensors has sha256 .*train the scorer"):
        load(scorer_folder, encoder_folder)


def test_a_folder_without_a_record_or_an_encoder_is_missing(tmp_path, scorer_folder):
    with pytest.raises(ArtefactMissing, match=r"has no record.json; .*train_scorer.py wrote"):
        load_scorer.load(f"trained:{tmp_path / 'nowhere'}")
    with pytest.raises(ArtefactMissing, match=r"there is no encoder in .*#encoder=FOLDER"):
        load_scorer.load(f"trained:{scorer_folder}")
    with pytest.raises(ConfigurationError, match="cannot use 'encoding=x' after #"):
        load_scorer.load(f"trained:{scorer_folder}#encoding=x")
