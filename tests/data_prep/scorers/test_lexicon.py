import json

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.scorers import load_scorer
from data_prep.scorers.lexicon import Lexicon

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


def test_the_id_of_a_lexicon_is_a_digest_of_its_content():
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
    assert load_scorer.load(f"lexicon:{table}").score(["snark", "boojum"]) == [0.5, 1.0]
    assert load_scorer.load(f"lexicon:{words}#text=word").score(["snark"]) == [1.0]
    (tmp_path / "en.txt").write_text("snark\nbandersnatch folk\n\n")
    assert load_scorer.load(f"lexicon:{tmp_path / 'en.txt'}").score(
        ["a snark", "bandersnatch folk", "folk"]
    ) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"snark": 1.5, "boojum": 0.5}, r"2 entries, 1 of them with a weight outside .* \(1\.5\)"),
        ({}, "0 entries, .* expected at least one entry"),
    ],
)
def test_weights_outside_0_to_1_or_none_at_all_are_refused(weights, message):
    with pytest.raises(ConfigurationError, match=message):
        Lexicon(weights)


def test_a_weight_that_is_not_a_number_is_refused_with_its_row(tmp_path):
    table = tmp_path / "table.jsonl"
    table.write_text('{"text": "snark", "weight": "much"}\n')
    with pytest.raises(ConfigurationError, match=r"table\.jsonl row 0: the weight .* is 'much'"):
        load_scorer.load(f"lexicon:{table}")


def test_an_entry_with_two_weights_is_refused_by_its_rows(tmp_path):
    table = tmp_path / "table.jsonl"
    entries = [("Snark", 0.5), ("boojum", 1), ("boojum", 1.0), (" snark", 0.7)]
    lines = [json.dumps({"text": word, "weight": weight}) for word, weight in entries]
    table.write_text("\n".join(lines[:3]) + "\n")
    assert load_scorer.load(f"lexicon:{table}").score(["snark", "boojum"]) == [0.5, 1.0]
    for order in (lines, lines[::-1]):
        table.write_text("\n".join(order) + "\n")
        with pytest.raises(
            ConfigurationError,
            match=r"row 3: the entry has the weight 0\.\d, and in .* row 0 the weight 0\.\d; expe",
        ):
            load_scorer.load(f"lexicon:{table}")


@pytest.mark.parametrize("weight", ["0,5", "1_0", None, "", [0.5]])
def test_a_weight_is_read_as_labels_are(tmp_path, weight):
    table = tmp_path / "table.jsonl"
    table.write_text(json.dumps({"text": "snark", "weight": weight}) + "\n")
    with pytest.raises(ConfigurationError, match=r"table\.jsonl row 0: the weight of an entry is"):
        load_scorer.load(f"lexicon:{table}")


def test_the_scores_of_a_lexicon_are_not_worth_caching():
    assert not WORDS.costly
