"""slur masking: offensive words in quoted texts are reduced to their first letter

The pages quote documents and continuations. The offline profanity scorer finds the words whatever
scorer the evaluation used. It misses some, and hateful text without such words stays readable, so
the pages say so and fold quotes away.
"""

import re
from collections.abc import Callable, Collection, Iterable

WORD = re.compile(r"[\w@$]+(?:['’*-][\w@$]+)*")
OFFENSIVE_FROM = 0.5  # score of a word on its own


def masking(texts: Iterable[str]) -> Callable[[str], str]:
    """A function that masks the slurs of `texts` in any of them."""
    slurs = find_slurs(texts)
    return lambda text: mask(text, slurs)


def mask(text: str, slurs: Collection[str]) -> str:
    """`text` with each word of `slurs` reduced to its first letter and asterisks."""

    def masked(match: re.Match[str]) -> str:
        word = match[0]
        return word[0] + "*" * (len(word) - 1) if word in slurs else word

    return WORD.sub(masked, text)


def find_slurs(texts: Iterable[str]) -> set[str]:
    """The words of `texts` that the offline profanity scorer calls at least as likely profane as
    not, on their own or without a plural s.
    """
    from data_prep.scorers import load_scorer

    scorer = load_scorer.load("profanity")
    words = sorted({word for text in texts for word in WORD.findall(text)})
    scores = scorer.score(words)
    singular_scores = scorer.score([word.lower().removesuffix("s") for word in words])
    return {
        word
        for word, *word_scores in zip(words, scores, singular_scores, strict=True)
        if any((score or 0.0) >= OFFENSIVE_FROM for score in word_scores)
    }
