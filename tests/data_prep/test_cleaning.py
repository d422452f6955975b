"""Cleaning takes away what is no text, and nothing else."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cleaning import Cleaned, clean
from data_prep.config import CleaningConfig

ANY = CleaningConfig(min_chars=1)
# Every code point, lone surrogates too, and dense in what the steps look at.
texts = st.text(st.characters() | st.sampled_from("a \t\r\n\x00\x0b\x0c\x1c\x85\xa0\u2028\u3000\ufeff\ud800\udc00"))


@given(texts)
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text, ANY)
    if once.text is not None:
        assert clean(once.text, ANY) == once


@given(texts)
def test_cleaning_never_adds_a_character_nor_moves_one(text):
    left = iter(text.replace("\r", "\n"))
    assert all(char in left for char in clean(text, ANY).text or "")


@given(texts)
def test_what_is_kept_is_always_utf8(text):
    assert "\x00" not in (clean(text, ANY).text or "").encode().decode()


@given(texts, st.integers(0, 8), st.integers(1, 12))
def test_a_text_is_kept_or_dropped_for_one_named_reason(text, min_chars, max_chars):
    cleaned = clean(text, CleaningConfig(min_chars=min_chars, max_chars=max_chars))
    if cleaned.text is None:
        assert cleaned.reason in {"empty", "too_short", "too_long", "link_only"}
    else:
        assert cleaned.reason == "" and max(1, min_chars) <= len(cleaned.text) <= max_chars


def test_every_short_mix_of_line_ends_spaces_and_controls_is_stable():
    for chars in product("a \r\n\x00", repeat=6):
        once = clean("".join(chars), ANY)
        assert once.text is None or (clean(once.text, ANY) == once and "\r" not in once.text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("one\r\ntwo\rthree\nfour", "one\ntwo\nthree\nfour"),
        ("a\x00b\x07c\x7fd\x9be\ud800f\udc80g", "abcdefg"),
        ("\ufeffa tab\tstays\t\nand \xa0\n  indents stay", "a tab\tstays\nand\n  indents stay"),
        ("a\n\n\nb\n\n\n\n\n\nc \n \n", "a\n\n\nb\n\n\nc"),
        ("Café naïve — “quoted” 👩\u200d🚢 e\u0301", "Café naïve — “quoted” 👩\u200d🚢 e\u0301"),
        ("<|endoftext|> is a word", "<|endoftext|> is a word"),
        ("see https://example.org/a", "see https://example.org/a"),
    ],
)
def test_a_text_is_cleaned(text, cleaned):
    assert clean(text, ANY) == Cleaned(cleaned)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \r\n\t\x00\ud800\n", "empty"),
        ("nine char", "too_short"),
        ("www.a.org", "too_short"),
        ("x" * 41, "too_long"),
        ("https://example.org/a\n(WWW.example.org)", "link_only"),
    ],
)
def test_a_text_is_dropped_for_its_first_reason(text, reason):
    assert clean(text, CleaningConfig(min_chars=10, max_chars=40)) == Cleaned(None, reason)


@pytest.mark.parametrize("text", ["x" * 10, "x" * 40])
def test_the_limits_themselves_are_kept(text):
    assert clean(text, CleaningConfig(min_chars=10, max_chars=40)) == Cleaned(text)


def test_a_million_spaces_are_no_trap():
    text = "a" + " " * 1_000_000 + "b"
    assert clean(text, CleaningConfig(max_chars=2_000_000)) == Cleaned(text)
