from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from data_prep.sources.uri_options import split_options, texts_of

ALLOWED = {"text": "FIELD", "unit": ("thread", "post")}


@pytest.mark.parametrize(
    ("name", "base", "options"),
    [
        ("a.csv", "a.csv", {}),
        ("a.csv#", "a.csv", {}),
        ("a.csv#text=body&unit=post", "a.csv", {"text": "body", "unit": "post"}),
        ("a.csv#&text=a%26b&", "a.csv", {"text": "a&b"}),
        ("a.csv#text=x=y", "a.csv", {"text": "x=y"}),
        ("a.csv#text=a#b", "a.csv", {"text": "a#b"}),
    ],
)
def test_options_follow_the_first_hash(name: str, base: str, options: dict):
    assert split_options(name, ALLOWED) == (base, options)


@pytest.mark.parametrize(
    "item", ["texts=x", "text", "text=", "=x", "text=a&text=b", "unit=page", "unit=%20post"]
)
def test_a_wrong_option_is_refused_with_the_known_ones(item: str):
    with pytest.raises(ConfigurationError) as refused:
        split_options(f"a.csv#{item}", ALLOWED)
    assert str(refused.value) == (
        f"a.csv#{item}: cannot use {item.rpartition('&')[2]!r} after #; "
        "expected #text=FIELD, #unit=thread or post, each at most once, joined by &"
    )


@given(st.text(min_size=1))
def test_any_value_survives_percent_encoding(value: str):
    encodable = value.encode("utf-8", "replace").decode()
    _, options = split_options(f"a#text={quote(encodable, safe='')}", ALLOWED)
    assert options == {"text": encodable}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "a.csv"),
        ("a.csv#label=x", "a.csv"),
        ("a.csv#label=x>=2.5&text=a%26b&group=g", "a.csv#text=a%26b"),
        ("a.csv#text=text&unit=thread", "a.csv"),
        ("a.jsonl#unit=post&text=posts", "a.jsonl#text=posts&unit=post"),
        ("number #1.csv", "number #1.csv"),
        ("number #1.csv#label=x", "number #1.csv"),
        ("hub:a/b?split=test&revision=0#text=t", "hub:a/b?split=test&revision=0#text=t"),
    ],
)
def test_two_names_of_the_same_texts_have_one_form(name: str, expected: str):
    assert texts_of(name) == expected
