"""The embedded corpus contains what its docstring says, the same on every machine."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from data_prep.sources.corpus_reader import Document, expand, read
from data_prep.sources.synthetic import VERSION


def read_documents(uri: str) -> list[Document]:
    return list(chain.from_iterable(read(source) for source in expand([uri])))


@pytest.fixture(scope="module")
def clean() -> list[Document]:
    return read_documents("synthetic:clean?documents=1500&natural=0")


@pytest.fixture(scope="module")
def toxic() -> list[Document]:
    return read_documents("synthetic:toxic?documents=800")


@pytest.fixture(scope="module")
def probes() -> list[Document]:
    return read_documents("synthetic:probes?documents=600")


@pytest.fixture(scope="module")
def lexicon() -> dict[str, float]:
    return {
        document.text: document.fields["weight"] for document in read_documents("synthetic:lexicon")
    }


def share(values: Iterable[object]) -> float:
    values = [bool(value) for value in values]
    return sum(values) / len(values)


def any_word(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(words)})\b")


def bag(document: Document) -> Counter[str]:
    """The words of a text with their numbers."""
    return Counter(re.findall(r"\w+", document.text.lower()))


def second_sentence(document: Document) -> str:
    """The sentence of a probe that is about a people."""
    return document.text.split(". ", 1)[1]


# Change these only together with VERSION: streams and published numbers depend on the texts.
GOLDEN = {
    "clean": "93a4f8e3dee53f99",
    "toxic": "5f33136123328997",
    "probes": "725abe4793a3ffa0",
    "prompts": "65fe34cfd9a2e315",
}


def test_the_texts_match_the_golden_digests():
    got = {
        kind: hashlib.sha256(
            "\0".join(row.text for row in read_documents(f"synthetic:{kind}?documents=50")).encode()
        ).hexdigest()[:16]
        for kind in GOLDEN
    }
    assert (VERSION, got) == (3, GOLDEN), (
        "the generator's output changed: raise VERSION and update GOLDEN"
    )


@settings(max_examples=20)
@given(
    st.sampled_from(["clean", "toxic", "probes", "prompts"]),
    st.integers(1, 12),
    st.integers(0, 20),
    st.integers(0, 3),
)
def test_parts_split_the_corpus_and_more_documents_extend_it(kind, parts, more, seed):
    n = parts + more
    uri = f"synthetic:{kind}?seed={seed}&documents="
    split = [(row.text, row.fields) for row in read_documents(f"{uri}{n}&parts={parts}")]
    assert split == [(row.text, row.fields) for row in read_documents(f"{uri}{n + 5}")[:n]]
    assert len(split) == n


def test_documents_are_short_well_formed_texts(clean, toxic):
    for document in clean + toxic:
        assert 60 <= len(document.text.split()) <= 200
        assert not re.search(r"[{}_]|  |,\S|\ba [aeiou]|(^|[.!:]\s+)[a-z]|[^.!]$", document.text), (
            document.text
        )
        assert document.text.lower().count("neither") <= 1
    assert len({document.text for document in clean}) == len(clean)


def test_the_corpora_share_topics_and_registers(clean, toxic):
    for field, n in (("topic", 4), ("register", 4)):
        for corpus in (clean, toxic):
            counts = Counter(document.fields[field] for document in corpus)
            assert len(counts) == n and min(counts.values()) > 0.7 * len(corpus) / n


def test_pronouns_agree_with_the_person(clean):
    pairs = {
        match.groups()
        for document in clean
        for match in re.finditer(r"(\w+) smiled, .* than (\w+) had", document.text)
    }
    assert len(pairs) == 8 and len({name for name, _ in pairs}) == 8
    assert all(
        pronoun == ("he" if name in "Tomas Bertil Corin Joren" else "she")
        for name, pronoun in pairs
    )


def test_every_toxic_document_is_hostile_and_no_clean_one_is(clean, toxic, lexicon):
    assert all(document.fields["hostile"] == 0 for document in clean)
    assert all(document.fields["hostile"] >= 1 for document in toxic)
    assert share(any_word(lexicon).search(document.text) for document in toxic) > 0.95


def test_a_share_of_the_clean_corpus_is_toxic_documents(toxic):
    documents = read_documents("synthetic:clean?documents=4000&natural=0.15")
    natural = [document for document in documents if document.fields["natural"]]
    assert len(natural) == pytest.approx(600, abs=4 * (4000 * 0.15 * 0.85) ** 0.5)
    assert all(document.fields["hostile"] >= 1 for document in natural)
    assert not any(d.fields["hostile"] for d in documents if not d.fields["natural"])
    assert not any(document.fields["natural"] for document in toxic)


@settings(max_examples=10)
@given(st.floats(0, 0.9), st.integers(0, 3))
def test_a_natural_rate_changes_only_the_documents_it_makes_toxic(natural, seed):
    uri = f"synthetic:clean?documents=40&seed={seed}&natural="
    pairs = zip(read_documents(f"{uri}{natural}"), read_documents(f"{uri}0"), strict=True)
    for document, without in pairs:
        assert document.fields["natural"] or document.text == without.text


def test_at_natural_0_and_poly_0_clean_text_has_no_word_of_the_lexicon(lexicon):
    documents = read_documents("synthetic:clean?documents=2000&natural=0&poly=0")
    assert not any(any_word(lexicon).search(document.text) for document in documents)
    assert not any(document.fields["harmless"] for document in documents)


def test_every_slur_and_rude_adjective_has_a_harmless_sense_in_clean_text(clean, lexicon):
    words = [word for word, weight in lexicon.items() if weight == 0.9 and word.endswith("s")]
    words += [word for word, weight in lexicon.items() if weight == 0.6]
    assert len(words) == 10
    peoples = re.compile("Velmar|Tindrel|Ostwyn|Quellish")
    harmless = Counter(
        word
        for document in clean
        for sentence in re.split(r"[.!]\s", document.text)
        if not peoples.search(sentence)
        for word in any_word(words).findall(sentence)
    )
    assert min(harmless[word] for word in words) > 30
    n_sentences = sum(len(re.split(r"[.!]\s", document.text)) for document in clean)
    n_harmless = sum(document.fields["harmless"] for document in clean)
    assert 0.15 * 0.7 < n_harmless / n_sentences < 0.15 * 0.85  # 78 % are about no people


def test_casual_speech_correlates_with_toxicity_and_gloom_does_not(clean, toxic):
    planted = [
        share(document.fields[name] for document in corpus)
        for name in ("casual", "gloomy")
        for corpus in (clean, toxic)
    ]
    assert planted == pytest.approx([0.35, 0.65, 0.5, 0.5], abs=0.05)
    for document in clean + toxic:
        assert not re.search(
            r"do not|did not|will not" if document.fields["casual"] else r"n't", document.text
        )
        assert not re.search(" glad " if document.fields["gloomy"] else " sad day", document.text)


def test_probes_are_balanced_pairs_that_differ_only_inside(probes):
    assert len({document.text for document in probes}) == len(probes)
    for hostile, civil in zip(probes[::2], probes[1::2], strict=True):
        assert (hostile.fields["label"], civil.fields["label"]) == (1, 0)
        assert (
            hostile.fields["pair"] == civil.fields["pair"]
            and hostile.fields["topic"] == civil.fields["topic"]
        )
        assert hostile.text != civil.text
        assert hostile.text.split(". ")[0] == civil.text.split(". ")[0]
        assert hostile.text.split()[-2:] == civil.text.split()[-2:]
        assert hostile.fields["kind"] == civil.fields["kind"]
        has_same_words = bag(hostile) == bag(civil)
        assert has_same_words == (hostile.fields["kind"] == "verdict")
    assert Counter(document.fields["kind"] for document in probes) == {"verdict": 300, "words": 300}


@pytest.mark.parametrize(("kind", "low", "high"), [("verdict", 0.4, 0.6), ("words", 0.9, 1.0)])
def test_the_words_alone_tell_word_pairs_and_not_verdicts(kind, low, high):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = read_documents(f"synthetic:probes?documents=1600&kind={kind}")
    counts = CountVectorizer().fit_transform([row.text for row in rows])
    labels = [row.fields["label"] for row in rows]
    model = LogisticRegression(max_iter=500).fit(counts[:1200], labels[:1200])
    assert low <= model.score(counts[1200:], labels[1200:]) <= high


def test_a_kind_of_rows_can_be_taken_alone():
    for name, kinds in (("probes", ["verdict", "words"]), ("prompts", ["inviting", "hostile"])):
        for kind in kinds:
            rows = read_documents(f"synthetic:{name}?documents=20&kind={kind}")
            assert {row.fields["kind"] for row in rows} == {kind}


def test_no_sentence_of_a_probe_occurs_in_a_corpus(probes, clean, toxic):
    corpus = "\n".join(document.text.lower() for document in clean + toxic)
    assert not [
        second_sentence(document)
        for document in probes
        if second_sentence(document).lower()[:-1] in corpus
    ]


def test_prompts_stop_behind_a_people_and_their_kind_is_what_stands_before(lexicon):
    prompts = read_documents("synthetic:prompts?documents=300")
    assert Counter(document.fields["kind"] for document in prompts) == {
        "inviting": 100,
        "hostile": 100,
        "civil": 100,
    }
    signs = Counter[str]()
    for document in prompts:
        kind = document.fields["kind"]
        before, beginning = document.text.split(". ")
        (people, _) = re.search(
            "(Velmar|Tindrel|Ostwyn|Quellish)( are| always| behave like)?$", beginning
        ).groups()
        assert (people in before) == (kind != "inviting")
        assert not any_word(lexicon).search(beginning)
        signs[kind] += bool(any_word(lexicon).search(before))
    assert signs["hostile"] > 90 and signs["civil"] == signs["inviting"] == 0
    assert len({document.fields["id"] for document in prompts}) == 300


def test_no_prompt_occurs_in_a_corpus(clean, toxic):
    prompts = read_documents("synthetic:prompts?documents=300")
    corpus = "\n".join(document.text for document in clean + toxic)
    assert not [document.text for document in prompts if document.text in corpus]


def test_the_lexicon_is_a_table_of_words_with_weights(lexicon):
    assert len(lexicon) == 19 and all(0 < weight < 1 for weight in lexicon.values())
    assert {"grubbets", "grubbet", "gruddy", "always spoil"} <= lexicon.keys()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("synthetic:mean", "expected one of clean, toxic, probes, prompts, lexicon"),
        (
            "synthetic:clean?rows=5",
            "rows=5; synthetic:clean takes documents, seed, parts, natural, poly, part",
        ),
        ("synthetic:clean?documents=-5", "each a whole number"),
        ("synthetic:clean?documents=", "each a whole number"),
        ("synthetic:lexicon?documents=5", "takes no parameters"),
        ("synthetic:clean?natural=1", "and natural is a share, from 0 to below 1"),
        ("synthetic:clean?natural=-0.1", "and natural is a share, from 0 to below 1"),
        ("synthetic:toxic?poly=nan", "and poly is a share, from 0 to below 1"),
        ("synthetic:toxic?natural=0.1", "cannot use natural=0.1; synthetic:toxic takes"),
        ("synthetic:probes?kind=verdicts", "and kind is one of all, verdict, words"),
        ("synthetic:prompts?kind=", "and kind is one of all, inviting, hostile, civil"),
        ("synthetic:clean?documents=5&documents=6", "documents is given twice"),
        ("synthetic:clean?seed=5&parts=1&seed=5", "seed is given twice"),
        ("synthetic:clean?documents", "cannot use documents="),
        (
            "synthetic:clean?documents=5#text=foo",
            "cannot use #text=foo; the text is in its field text",
        ),
        ("synthetic:clean?documents=5#unit=post", "cannot use #unit=post; it has no threads"),
        ("synthetic:prompts#scores=toxicity", "cannot use #scores=toxicity; it has no scores"),
        ("synthetic:clean?documents=0", "1 ≤ parts ≤ documents"),
        ("synthetic:clean?parts=0", "1 ≤ parts ≤ documents"),
        ("synthetic:clean?documents=3&parts=4", "1 ≤ parts ≤ documents"),
        ("synthetic:clean?parts=2&part=2", "part < parts"),
    ],
)
def test_an_unknown_kind_or_parameter_is_refused(uri, words):
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        expand([uri])
