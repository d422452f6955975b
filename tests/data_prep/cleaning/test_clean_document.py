"""Cleaning removes what is not text, and nothing else."""

import sys
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cleaning.clean_document import STEPS, Cleaned, clean, scan
from data_prep.cleaning.pii import EMAIL, mask
from data_prep.config import CleaningConfig
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest

ANY = CleaningConfig(min_chars=1, mask_personal=False)
# Every code point, lone surrogates too, and dense in what the steps look at.
texts = st.text(
    st.characters()
    | st.sampled_from("a \t\r\n\x00\x0b\x0c\x1c\x85\xa0\u2028\u3000\ufeff\ud800\udc00")
)


@given(texts)
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text, ANY)
    if once.text is not None:
        assert clean(once.text, ANY) == once


def needs_no_step(text: str) -> bool:
    return not scan(text).steps


def after_all_steps(text: str) -> str:
    for step in STEPS:
        text = step(text)
    return text


@given(texts)
def test_the_scan_tells_exactly_whether_a_text_needs_a_step(text):
    assert needs_no_step(text) == (after_all_steps(text) == text)
    assert needs_no_step(after_all_steps(text))


def test_the_scan_is_exact_for_code_points_and_every_short_mix():
    points = [
        *range(0x3100),
        0xD7FF,
        0xD800,
        0xDBFF,
        0xDC00,
        0xDFFF,
        0xE000,
        *range(0xFE00, 0x10010),
        sys.maxunicode,
    ]
    for chars in [*map(chr, points), *map("".join, product("a \n\r\xa0\x85\u2028é", repeat=4))]:
        for text in (chars, f"a{chars}b", f"a{chars}\nb"):
            assert needs_no_step(text) == (after_all_steps(text) == text), ascii(text)


@given(texts)
def test_masking_comes_after_all_steps(text):
    masked = clean(f"{text} a@b.cd", CleaningConfig(min_chars=0))
    assert masked == Cleaned(mask(after_all_steps(f"{text} a@b.cd")), is_masked=True)
    assert EMAIL in (masked.text or "") or not text.isprintable()


def test_a_private_address_is_not_counted_as_masked():
    text = "the router has 192.168.1.1"
    assert clean(text, CleaningConfig()) == Cleaned(text)


@given(texts)
def test_cleaning_never_adds_or_moves_a_character(text):
    left = iter(text.replace("\r", "\n"))
    assert all(char in left for char in clean(text, ANY).text or "")


@given(texts)
def test_kept_text_can_be_encoded_as_utf8(text):
    assert "\x00" not in (clean(text, ANY).text or "").encode().decode()


@given(texts, st.integers(0, 8), st.integers(0, 8))
def test_a_text_is_kept_or_dropped_for_one_named_reason(text, min_chars, more_chars):
    max_chars = max(1, min_chars + more_chars)
    cleaned = clean(text, CleaningConfig(min_chars=min_chars, max_chars=max_chars))
    if cleaned.text is None:
        assert cleaned.reason in {"empty", "too_short", "too_long", "link_only"}
    else:
        assert cleaned.reason == "" and max(1, min_chars) <= len(cleaned.text) <= max_chars


def test_every_short_mix_of_spaces_and_controls_is_stable():
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


def test_a_million_spaces_are_cleaned_in_linear_time():
    text = "a" + " " * 1_000_000 + "b"
    assert clean(text, CleaningConfig(max_chars=2_000_000)) == Cleaned(text)


@pytest.mark.parametrize(
    ("settings", "scores", "reason"),
    [
        ({"min_scores": {"TOXICITY": 0.5}}, {"TOXICITY": 0.5}, ""),
        ({"min_scores": {"TOXICITY": 0.5}}, {"TOXICITY": 0.49}, "scores"),
        ({"max_scores": {"TOXICITY": 0.5}}, {"TOXICITY": 0.5}, ""),
        ({"max_scores": {"TOXICITY": 0.5}}, {"TOXICITY": 0.51, "INSULT": 0.1}, "scores"),
        ({"max_scores": {"TOXICITY": 0.5}}, {"INSULT": 0.9}, ""),
        ({"min_scores": {"TOXICITY": 0.5}}, None, ""),
        ({}, {"TOXICITY": 1.0}, ""),
    ],
)
def test_a_score_out_of_bounds_drops_and_a_missing_one_does_not(settings, scores, reason):
    assert clean("A text long enough to keep.", CleaningConfig(**settings), scores).reason == reason


def test_bounds_that_keep_nothing_are_refused():
    with pytest.raises(
        ConfigurationError,
        match=r"keeps no document: min_scores\['TOXICITY'\] is 0.9, "
        r"max_scores\['TOXICITY'\] is 0.1",
    ):
        CleaningConfig(min_scores={"TOXICITY": 0.9}, max_scores={"TOXICITY": 0.1})


def test_every_setting_of_cleaning_is_part_of_the_digest():
    variants = (
        CleaningConfig(),
        CleaningConfig(mask_personal=False),
        CleaningConfig(languages=("en",)),
        CleaningConfig(min_scores={"x": 0.1}),
        CleaningConfig(max_scores={"x": 0.1}),
    )
    assert len({digest(config) for config in variants}) == len(variants)
