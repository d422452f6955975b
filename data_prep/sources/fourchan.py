"""threads of 4chan posts → texts: HTML undone, scores and post numbers kept

A row of "Raiders of the Lost Kek" is a thread, {"posts": [{no, com, perspectives, …}]}, `com` in
HTML and absent where a post is only an image. Its text is in other dumps written out already
(headers `name date no.N: body` before each post): those rows have a field `text` and need nothing
from here.

The order of undoing matters. `<wbr>` goes first, for it stands inside words; then reply links with
the number they show (`>>123` names a post by a number that is in no text: dropped), `<br>` becomes
a line end, all other tags go and what they enclose stays (greentext, spoilers). Entities come last,
in one go: decoded earlier, the `<` and `>` that people wrote would pass for tags, and what stands
between them would be lost; decoded twice, `&amp;lt;` would.

Only what looks like a tag is one: `<3` and `a < b` stay. A comment that is nothing but `[deleted]`
is empty.
"""

import html
import re
from typing import Any, NamedTuple

# A reply link: to a post here or elsewhere, or, as a span, to one that is gone. Both alternatives
# end at the next `<` at the latest, so the time is linear whatever the text.
TAG = re.compile(
    r"""<(?:a [^<>]*|span class="deadlink")>&gt;&gt;[^<>]*</(?:a|span)>|<[a-zA-Z/!][^<>]*>"""
)
LINE_BREAK = re.compile(r"<br ?/>")
DELETED = "[deleted]"


class Text(NamedTuple):
    """part: 0-based number of the post in the thread, those without text counted; id: the board's
    number of post or thread.
    """

    part: int
    id: str | None
    text: str
    scores: dict[str, float] | None


def as_thread(posts: list[Any], scores_field: str | None = None) -> Text:
    """The whole thread as one text, posts joined by blank lines; each score the mean over the posts
    with text that have it.

    Posts count alike in the mean, for how many tokens each has is not known yet.
    """
    texts = as_posts(posts, scores_field)
    return Text(
        0,
        _number(posts[0]) if posts else None,
        "\n\n".join(text.text for text in texts),
        _mean(texts),
    )


def as_posts(posts: list[Any], scores_field: str | None = None) -> list[Text]:
    """The posts that have text, in order. Raises ValueError unless each is an object whose `com` is
    text or absent.
    """
    texts = []
    for part, post in enumerate(posts):
        if not isinstance(post, dict):
            raise ValueError("holds a post that is no object")
        comment = post.get("com")
        if comment is None:
            continue
        if not isinstance(comment, str):
            raise ValueError("holds a post whose com is no text")
        if text := undo_html(comment):
            texts.append(
                Text(part, _number(post), text, scores_in(post.get(scores_field or "perspectives")))
            )
    return texts


def undo_html(comment: str) -> str:
    """The text that a comment shows, without blanks and line ends around it."""
    if "<" in comment:
        comment = comment.replace("<wbr>", "").replace(
            "<br>", "\n"
        )  # what there is most of, ten times as fast as the patterns
        if "<" in comment:
            comment = TAG.sub("", LINE_BREAK.sub("\n", comment) if "<br" in comment else comment)
    comment = decode_entities(comment).strip()
    return "" if comment == DELETED else comment


def decode_entities(text: str) -> str:
    """What html.unescape gives, faster for the five entities that 4chan writes; `&amp;` last, so
    that nothing decodes twice.
    """
    if "&" not in text:
        return text
    text = (
        text.replace("&gt;", ">").replace("&#039;", "'").replace("&quot;", '"').replace("&lt;", "<")
    )
    n_left = text.count("&")
    if n_left == 0:
        return text
    return text.replace("&amp;", "&") if n_left == text.count("&amp;") else html.unescape(text)


def scores_in(value: Any) -> dict[str, float] | None:
    """The numbers in [0, 1] of an object, names in lower case; None where there is none. A missing
    score is missing, not 0.
    """
    if not isinstance(value, dict):
        return None
    return {
        name.lower(): float(n)
        for name, n in value.items()
        if type(n) in (float, int) and 0 <= n <= 1
    } or None


def _number(post: dict[str, Any]) -> str | None:
    number = post.get("no")
    return None if number is None else str(number)


def _mean(texts: list[Text]) -> dict[str, float] | None:
    known: dict[str, list[float]] = {}
    for text in texts:
        for name, score in (text.scores or {}).items():
            known.setdefault(name, []).append(score)
    return {name: sum(scores) / len(scores) for name, scores in known.items()} or None
