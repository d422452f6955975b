import pickle
import random

import pytest

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.scorers import load_scorer
from data_prep.scorers import profanity as profanity_module


@pytest.fixture(scope="module")
def profanity():
    return load_scorer.load("profanity")


def test_profanity_equals_the_package_it_comes_from(profanity):
    """The one place that imports the package: its files were checked against their checksums a
    moment ago.
    """
    import profanity_check

    vocabulary = sorted(profanity._column_of)
    chooser = random.Random(0)
    texts = [" ".join(chooser.choices(vocabulary, k=k)) for k in (1, 2, 5, 20, 200)]
    texts += [texts[2].upper(), "The THE unheard-of xyzzyx", "…", "a b c"]
    assert profanity.score(texts) == pytest.approx(
        list(profanity_check.predict_prob(texts)), abs=1e-12
    )


def test_empty_text_is_missing_though_the_model_would_score_it(profanity):
    assert profanity.score(["", "  "]) == [None, None]
    assert 0.03 < profanity._score("") < 0.04


def test_the_id_contains_version_and_digest_of_the_data(profanity):
    assert profanity.id == "profanity-1.9.1-48365328b8d74f2b"


def test_a_data_file_that_is_not_the_pinned_one_is_refused(monkeypatch):
    monkeypatch.setitem(profanity_module.FILE_SHA256, "model.joblib", "0" * 64)
    with pytest.raises(
        ArtefactCorrupt,
        match=r"model\.joblib has sha256 aeafc04849d4d93d…; expected 0000000000000000…",
    ):
        load_scorer.load("profanity")


def test_a_pickle_that_names_other_code_runs_none_of_it(tmp_path, monkeypatch):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    with pytest.raises(ArtefactCorrupt, match="nothing of it was run"):
        profanity_module.unpickle(pickle.dumps(Attack()))
    assert not (tmp_path / "ran").exists()


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(profanity_module, "find_spec", lambda name: None)
    with pytest.raises(ArtefactMissing, match=r"install it, or choose the scorer lexicon:URI"):
        load_scorer.load("profanity")
