"""The HTML of a post becomes what its author wrote; `<` and `>` in the text lose nothing."""

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.fourchan import (
    ThreadText,
    as_posts,
    as_thread,
    decode_entities,
    html_to_text,
    scores_in,
)

# Characters of markup are frequent; surrogates are not text, and \n is written as <br>.
WRITTEN = st.text(
    st.sampled_from("<>&;/#3abr\"' ltgmp")
    | st.characters(exclude_categories=["Cs"], exclude_characters="\r")
)
LINK = '<a href="/pol/thread/1#p2" class="quotelink">&gt;&gt;2</a>'
DEAD = '<span class="deadlink">&gt;&gt;3</span>'


def escaped(text: str) -> str:
    """As the board writes it."""
    return html.escape(text).replace("&#x27;", "&#039;").replace("\n", "<br>")


@st.composite
def marked_up(draw: st.DrawFn) -> tuple[str, str]:
    """(what was written, a comment that shows it)."""
    written, comment = [], []
    for text in draw(st.lists(WRITTEN, max_size=6)):
        written.append(text)
        pieces = draw(st.sampled_from([[text], list(text)]))
        shown = "<wbr>".join(map(escaped, pieces))
        around = draw(
            st.sampled_from(
                [
                    "{}",
                    '<span class="quote">{}</span>',
                    "<s>{}</s>",
                    '<pre class="prettyprint">{}</pre>',
                ]
            )
        )
        comment += [
            around.format("\0").replace("\0", shown),
            draw(st.sampled_from(["", "", LINK, DEAD])),
        ]
    return "".join(written), "".join(comment)


@settings(max_examples=500)
@given(marked_up())
def test_the_written_text_comes_back_without_surrounding_blanks(case):
    written, comment = case
    assert html_to_text(comment) == (written.strip() if written.strip() != "[deleted]" else "")


@settings(max_examples=200)
@given(WRITTEN, WRITTEN, WRITTEN)
def test_nothing_between_angle_brackets_is_lost(before, between, after):
    written = f"{before}<{between}>{after}"
    assert html_to_text(escaped(written)) == written.strip()


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            [
                "&",
                "&gt;",
                "&lt;",
                "&amp;",
                "&quot;",
                "&#039;",
                "&#62;",
                "&not",
                "&nbsp;",
                ";",
                "gt;",
                "#",
                "x",
            ]
        )
    )
)
def test_entities_are_decoded_once_as_html_defines_them(pieces):
    text = "".join(pieces)
    assert decode_entities(text) == html.unescape(text)


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("one<br>two<br/>three<br />four", "one\ntwo\nthree\nfour"),
        ("super<wbr>cali&am<wbr>p;", "supercali&"),
        ('<span class="quote">&gt;implying</span><br>no', ">implying\nno"),
        ("it was <s>the ferry</s>", "it was the ferry"),
        (f"{LINK}<br>agreed, and {LINK} too", "agreed, and  too"),
        (f"{DEAD}<br>gone", "gone"),
        ('<a href="/b/catalog" class="quotelink">&gt;&gt;&gt;/b/</a> is worse', "is worse"),
        ('<a href="https://a.example/">a link</a>', "a link"),
        ("&gt;&gt;12 as text", ">>12 as text"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("&lt;b&gt;bold&lt;/b&gt;", "<b>bold</b>"),
        ("I <3 boats, 2 < 3 > 1", "I <3 boats, 2 < 3 > 1"),
        ("<b>a<c", "a<c"),
        ("<!-- no --><DIV>a</DIV>", "a"),
        (" <br> [deleted] <br>", ""),
        ("[deleted] and more", "[deleted] and more"),
        ("", ""),
    ],
)
def test_a_comment_becomes_its_visible_text(comment, text):
    assert html_to_text(comment) == text


def test_the_time_is_linear_in_the_length_of_a_comment():
    for hostile in ("<", "<a ", "&", "<a &gt;&gt;", '<span class="deadlink">&gt;&gt;', "<br "):
        assert (
            html_to_text(hostile * 200_000) is not None
        )  # quadratic time would meet pytest's timeout


def test_posts_keep_their_position_number_and_scores():
    thread = [{"no": 5}, {"no": 6, "com": "a", "perspectives": {"SPAM": 0.5}}, {"com": "b"}]
    assert as_posts(thread) == [
        ThreadText(1, "6", "a", {"spam": 0.5}),
        ThreadText(2, None, "b", None),
    ]
    assert as_thread(thread) == ThreadText(0, "5", "a\n\nb", {"spam": 0.5})
    assert as_thread([{"no": 5}]) == ThreadText(0, "5", "", None)


def test_the_subject_is_a_line_before_the_comment():
    subject = "Ferries &amp; <b>boats</b> &gt; tra<wbr>ins&#039;"
    thread = [
        {"no": 5, "sub": subject, "com": "one<br>two", "perspectives": {"SPAM": 0.5}},
        {"no": 6, "sub": "only a picture"},
        {"no": 7, "sub": "", "com": "three"},
        {"no": 8, "sub": None, "com": "four"},
        {"no": 9, "sub": " <br> "},
        {"no": 10, "sub": "gone", "com": "[deleted]"},
    ]
    assert as_posts(thread) == [
        ThreadText(0, "5", "Ferries & boats > trains'\none\ntwo", {"spam": 0.5}),
        ThreadText(1, "6", "only a picture", None),
        ThreadText(2, "7", "three", None),
        ThreadText(3, "8", "four", None),
        ThreadText(5, "10", "gone", None),
    ]
    assert as_thread(thread).text == (
        "Ferries & boats > trains'\none\ntwo\n\nonly a picture\n\nthree\n\nfour\n\ngone"
    )


@pytest.mark.parametrize("field", ["sub", "com"])
def test_a_field_that_is_no_text_is_named(field):
    with pytest.raises(ValueError, match=f"contains a post whose {field} is not text"):
        as_posts([{"no": 1, "com": "x"} | {field: 5}])


def test_a_threads_score_is_the_mean_over_posts_that_have_it():
    scores = [{"A": 0.25, "B": 1.0}, {"A": 0.75}, None]
    assert as_thread([{"com": "x", "mine": each} for each in scores], "mine").scores == {
        "a": 0.5,
        "b": 1.0,
    }


def test_values_that_are_no_scores_are_missing():
    assert scores_in({"A": 0, "B": 1.5, "C": None, "D": True, "E": "0.5", "F": float("nan")}) == {
        "a": 0.0
    }
    assert scores_in({"A": 2}) is scores_in([0.5]) is scores_in(None) is None
