import json
import pickle
import random

import pytest

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.scorers import registry
from data_prep.scorers.registry import Lexicon

WORDS = Lexicon({"snark": 0.5, "boojum": 0.75, "bandersnatch folk": 1.0, "🦡": 0.25})


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The Snark, the SNARK!", 0.75),
        ("a snark and a boojum", 0.875),
        ("snarks are not snark-like", 0.5),
        ("Bandersnatch  folk", 1.0),
        ("bandersnatch, folk", 0.0),
        ("a 🦡.", 0.25),
        ("nothing here", 0.0),
        ("", None),
        (" \n", None),
    ],
)
def test_a_lexicon_counts_whole_words_and_phrases(text, score):
    assert WORDS.score([text]) == [score]


def test_the_longest_entry_wins_where_two_overlap():
    assert Lexicon({"mad hatter": 0.2, "mad": 1.0}).score(["the mad hatter"]) == [
        pytest.approx(0.2)
    ]


def test_a_lexicons_id_names_its_content():
    assert (
        Lexicon({"a": 0.1, "b": 0.2}).id
        == Lexicon({"b": 0.2, "a": 0.1}).id
        != Lexicon({"a": 0.1, "b": 0.3}).id
    )


def test_a_lexicon_is_read_from_a_table_with_weights_or_a_list_without(tmp_path):
    table, words = tmp_path / "table.jsonl", tmp_path / "words.csv"
    table.write_text(
        "".join(
            json.dumps({"text": word, "weight": weight}) + "\n"
            for word, weight in [("snark", 0.5), ("boojum", 1)]
        )
    )
    words.write_text("word\nsnark\n")
    assert registry.load(f"lexicon:{table}").score(["snark", "boojum"]) == [0.5, 1.0]
    assert registry.load(f"lexicon:{words}#text=word").score(["snark"]) == [1.0]
    (tmp_path / "en.txt").write_text("snark\nbandersnatch folk\n\n")
    assert registry.load(f"lexicon:{tmp_path / 'en.txt'}").score(
        ["a snark", "bandersnatch folk", "folk"]
    ) == [1.0, 1.0, 0.0]


def test_a_weight_that_is_no_share_is_refused():
    with pytest.raises(ConfigurationError, match=r"1 of them with a weight outside \[0, 1\]"):
        Lexicon({"snark": 1.5, "boojum": 0.5})


@pytest.mark.parametrize("name", ["perspectives", "lexicon", "lexicon:", ""])
def test_an_unknown_scorer_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigurationError, match="known are: profanity, lexicon:URI"):
        registry.load(name)


@pytest.fixture(scope="module")
def profanity():
    return registry.load("profanity")


def test_profanity_equals_the_package_it_comes_from(profanity):
    """The one place that imports the package: its files were checked against their checksums a
    moment ago.
    """
    import profanity_check

    vocabulary = sorted(profanity._column)
    chooser = random.Random(0)
    texts = [" ".join(chooser.choices(vocabulary, k=k)) for k in (1, 2, 5, 20, 200)]
    texts += [texts[2].upper(), "The THE unheard-of xyzzyx", "…", "a b c"]
    assert profanity.score(texts) == pytest.approx(
        list(profanity_check.predict_prob(texts)), abs=1e-12
    )


def test_empty_text_is_missing_though_the_model_would_score_it(profanity):
    assert profanity.score(["", "  "]) == [None, None]
    assert 0.03 < profanity._score("") < 0.04


def test_the_scorers_id_names_version_and_data(profanity):
    assert profanity.id.startswith("profanity-1.9.1-") and len(profanity.id) == 32


def test_a_data_file_that_is_not_the_pinned_one_is_refused(monkeypatch):
    monkeypatch.setitem(registry.PROFANITY_SHA256, "model.joblib", "0" * 64)
    with pytest.raises(
        ArtefactCorrupt,
        match=r"model.joblib: sha256 is aeafc04849d4d93d…, that of .* is 0000000000000000…",
    ):
        registry.load("profanity")


def test_a_pickle_that_names_other_code_runs_none_of_it(tmp_path, monkeypatch):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    with pytest.raises(ArtefactCorrupt, match="nothing was run"):
        registry._unpickle(pickle.dumps(Attack()))
    assert not (tmp_path / "ran").exists()
