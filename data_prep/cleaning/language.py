"""language filter: drop a document that is surely in none of the languages to keep

py3langid gives a probability per language. For a few words it is a guess: of posts of a board in
English 13 % have another language as the most probable, of those of less than 20 characters 76 %.
So a document is dropped only if it has a shortest length and if the languages to keep have hardly
any probability together. Measured on 13,800 English posts, tweets and paragraphs, and on 8,900
paragraphs in 28 other languages (share dropped, by characters; confidence 0.99):

               20–40   40–60   60–100   100–200   more
    English     4.5      0.6      0.3       0.2    0.1 %
    others     92.7     95.5     97.7      97.9   99.6 %

A document that these bounds keep is counted, because nobody knows its language.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

from data_prep.config import CleaningConfig
from data_prep.core.errors import ConfigurationError

DETECTED_CHARS = 1000  # of a text, to detect its language: 5 times faster than all of it


def judge(text: str, config: CleaningConfig) -> Literal["keep", "uncertain", "drop"]:
    """Whether the language of `text` is one of data.cleaning.languages."""
    if not config.languages:
        return "keep"
    _check(config.languages)
    if len(text) < config.min_language_chars:
        return "uncertain"
    probability = probabilities(text)
    if 1 - sum(map(probability.__getitem__, config.languages)) >= config.min_language_confidence:
        return "drop"
    is_likely = max(probability, key=probability.__getitem__) in config.languages
    return "keep" if is_likely else "uncertain"


def probabilities(text: str) -> dict[str, float]:
    """The probability of each language, from the start of `text`."""
    return dict(load_model().rank(text[:DETECTED_CHARS]))


@lru_cache(maxsize=1)
def load_model() -> Any:
    """The language classifier, loaded once (0.7 s; the model is in the package)."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigurationError(
            "data.cleaning.languages is set, but the library py3langid is not installed; install "
            "hormesis[language] on every machine of the build, or leave data.cleaning.languages "
            "empty"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_codes(languages: tuple[str, ...]) -> None:
    """Raise ConfigurationError for a code that the detector does not know, before a build.

    Without py3langid it checks nothing: finished streams do not need it, and a build says so.
    """
    if languages and find_spec("py3langid"):
        _check(languages)


@lru_cache
def _check(languages: tuple[str, ...]) -> None:
    known = load_model().labels
    if unknown := [code for code in languages if code not in known]:
        raise ConfigurationError(
            f"data.cleaning.languages: {', '.join(map(repr, unknown))} is not a language code; "
            f"expected some of {' '.join(known)}"
        )
