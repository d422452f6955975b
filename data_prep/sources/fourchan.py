"""convert threads of 4chan posts to text: decode HTML, keep scores and post numbers

A row of "Raiders of the Lost Kek" is a thread, {"posts": [{no, sub, com, perspectives, …}]}. The
subject `sub` is HTML that only first posts have, and stands on a line of its own before the
comment. The comment `com` is HTML, and absent where a post is only an image. Other dumps contain
the same threads already as text (a header `name date no.N: body` before each post): their rows have
a field `text` and need nothing from here.

The order of the steps matters:
1. `<wbr>` is removed first, because it occurs inside words.
2. Reply links are removed with the number they show: `>>123` names a post by a number that occurs
   in no text.
3. `<br>` becomes a line end. All other tags are removed, and what they enclose stays (greentext,
   spoilers).
4. Entities are decoded last, in one pass. Decoded earlier, the `<` and `>` that people wrote would
   look like tags, and the text between them would be lost; decoded twice, `&amp;lt;` would change.

Only what looks like a tag is one: `<3` and `a < b` stay. A comment that is only `[deleted]` is
empty.
"""

import html
import re
from typing import Any, NamedTuple

# Reply links (to a post that is gone, as a span), then any other tag. Both alternatives end at the
# next `<` at the latest, so the time is linear for any text.
TAG = re.compile(
    r"""<(?:a [^<>]*|span class="deadlink")>&gt;&gt;[^<>]*</(?:a|span)>|<[a-zA-Z/!][^<>]*>"""
)
LINE_BREAK = re.compile(r"<br ?/>")
DELETED = "[deleted]"


class ThreadText(NamedTuple):
    """The text of a thread or of one of its posts.

    part: 0-based number of the post in the thread, posts without text included.
    id: the number that the board gave the post or thread.
    """

    part: int
    id: str | None
    text: str
    scores: dict[str, float] | None


def is_post(value: dict[str, Any]) -> bool:
    """Whether an object has what a post has: a number, a subject or a comment. Other lists of
    objects, such as chat messages, would give empty documents.
    """
    return "no" in value or "com" in value or "sub" in value


def as_thread(posts: list[Any], scores_field: str | None = None) -> ThreadText:
    """The whole thread as one text, with a blank line between posts.

    Each score is the mean over the posts with text that have it. All posts count alike, because
    their numbers of tokens are not known yet.
    """
    texts = as_posts(posts, scores_field)
    return ThreadText(
        part=0,
        id=_number(posts[0]) if posts else None,
        text="\n\n".join(post.text for post in texts),
        scores=_mean_scores(texts),
    )


def as_posts(posts: list[Any], scores_field: str | None = None) -> list[ThreadText]:
    """The posts that have text, in order: the subject on a line of its own, then the comment.

    Raises ValueError unless each post is an object whose `sub` and `com` are text or absent.
    """
    texts = []
    for part, post in enumerate(posts):
        if not isinstance(post, dict):
            raise ValueError("contains a post that is not an object")
        text = _shown_text(post, "com")
        if post.get("sub") is not None:
            text = "\n".join(filter(None, [_shown_text(post, "sub"), text]))
        if not text and not is_post(post):
            raise ValueError("contains an object without no, com and sub, which is no post")
        if text:
            scores = scores_in(post.get(scores_field or "perspectives"))
            texts.append(ThreadText(part, _number(post), text, scores))
    return texts


def _shown_text(post: dict[str, Any], field: str) -> str:
    """The text that a field of HTML shows; "" if the field is absent."""
    content = post.get(field)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ValueError(f"contains a post whose {field} is not text")
    return html_to_text(content)


def html_to_text(comment: str) -> str:
    """The text that a comment shows, stripped of blanks and line ends around it."""
    if "<" in comment:
        # The two most frequent tags first: str.replace is ten times as fast as the patterns.
        comment = comment.replace("<wbr>", "").replace("<br>", "\n")
        if "<br" in comment:
            comment = LINE_BREAK.sub("\n", comment)
        if "<" in comment:
            comment = TAG.sub("", comment)
    comment = decode_entities(comment).strip()
    return "" if comment == DELETED else comment


def decode_entities(text: str) -> str:
    """The result of html.unescape, faster for the five entities that 4chan writes.

    `&amp;` is decoded last, so that nothing is decoded twice.
    """
    if "&" not in text:
        return text
    text = text.replace("&gt;", ">").replace("&#039;", "'")
    text = text.replace("&quot;", '"').replace("&lt;", "<")
    n_left = text.count("&")
    if n_left == 0:
        return text
    return text.replace("&amp;", "&") if n_left == text.count("&amp;") else html.unescape(text)


def scores_in(value: Any) -> dict[str, float] | None:
    """The numbers in [0, 1] of an object, with names in lower case; None without any.

    A missing score is missing, not 0.
    """
    if not isinstance(value, dict):
        return None
    scores = {
        name.lower(): float(number)
        for name, number in value.items()
        if type(number) in (float, int) and 0 <= number <= 1
    }
    return scores or None


def _number(post: dict[str, Any]) -> str | None:
    number = post.get("no")
    return None if number is None else str(number)


def _mean_scores(texts: list[ThreadText]) -> dict[str, float] | None:
    by_name: dict[str, list[float]] = {}
    for text in texts:
        for name, score in (text.scores or {}).items():
            by_name.setdefault(name, []).append(score)
    return {name: sum(scores) / len(scores) for name, scores in by_name.items()} or None
