"""slur masking: reduce offensive words in quoted texts to their first letter"""

import re
from collections.abc import Callable, Iterable

WORD = re.compile(r"[\w@$]+(?:['’*-][\w@$]+)*")


def mask(text: str, is_slur: Callable[[str], bool]) -> str:
    """`text` with each word that `is_slur` reduced to its first letter and asterisks."""
    return WORD.sub(
        lambda found: found[0][0] + "*" * (len(found[0]) - 1) if is_slur(found[0]) else found[0],
        text,
    )


def slurs(texts: Iterable[str]) -> set[str]:
    """The words of `texts` that the offline profanity scorer alone calls at least as likely profane
    as not, also without a plural s. It hides on the safe side whatever scorer the evaluation used.
    """
    from data_prep.scorers import registry

    scorer = registry.load("profanity")
    ordered = sorted({word for text in texts for word in WORD.findall(text)})
    whole, singular = (
        scorer.score(ordered),
        scorer.score([word.lower().removesuffix("s") for word in ordered]),
    )
    return {
        word
        for word, *scores in zip(ordered, whole, singular, strict=True)
        if any((score or 0.0) >= 0.5 for score in scores)
    }
