"""Only a document that is surely in another language is dropped."""

import sys

import pytest

from data_prep.cleaning import language
from data_prep.cleaning.clean_document import Cleaned, clean
from data_prep.config import CleaningConfig
from data_prep.core.errors import ConfigurationError

GERMAN = (
    "Der Hund schläft heute den ganzen Tag unter dem Tisch in der Küche und träumt von Knochen."
)
ENGLISH = (
    "The dog sleeps all day under the table in the kitchen and dreams of bones and long walks."
)
# English posts for which another language is the most probable one.
SHORT_POSTS = ["lol based", "kek", "nice bro", "Rodeo gala a la mode, si?", "inb4 thread 404"]
ONLY_ENGLISH = CleaningConfig(languages=("en",), min_chars=1)


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("py3langid", reason="the extra `language` is not installed")


def most_probable(text):
    probability = language.probabilities(text)
    return max(probability, key=probability.__getitem__)


def test_documents_in_other_languages_are_dropped_if_configured():
    assert (most_probable(GERMAN), most_probable(ENGLISH)) == ("de", "en")
    assert clean(GERMAN, CleaningConfig(languages=("en", "fr"))) == Cleaned(None, "language")
    assert (
        clean(GERMAN, CleaningConfig(languages=("en", "de")))
        == clean(GERMAN, CleaningConfig())
        == Cleaned(GERMAN)
    )
    assert clean(ENGLISH, ONLY_ENGLISH) == Cleaned(ENGLISH)


@pytest.mark.parametrize("text", SHORT_POSTS)
def test_a_short_document_is_kept_and_counted_as_uncertain(text):
    assert clean(text, ONLY_ENGLISH) == Cleaned(text, is_language_uncertain=True)


def test_the_shortest_length_is_a_setting():
    short = GERMAN[:39]
    assert clean(short, ONLY_ENGLISH) == Cleaned(short, is_language_uncertain=True)
    assert clean(GERMAN[:40], ONLY_ENGLISH).reason == "language"
    any_length = CleaningConfig(languages=("en",), min_language_chars=0)
    assert clean(short, any_length).reason == "language"


def test_below_the_confidence_a_document_is_kept_and_counted(monkeypatch):
    """The probability that counts is that of all languages to keep together."""
    monkeypatch.setattr(
        language, "probabilities", lambda text: {"en": 0.02, "de": 0.01, "nl": 0.97}
    )
    text = "x" * 50

    def judge(*languages, **settings):
        return language.judge(text, CleaningConfig(languages=languages, **settings))

    assert judge("en") == "uncertain"
    assert judge("en", min_language_confidence=0.98) == "drop"
    assert judge("en", "de", min_language_confidence=0.98) == "uncertain"
    assert judge("en", "de", min_language_confidence=0.97) == "drop"
    assert judge("nl", min_language_confidence=0.97) == "keep"


def test_a_document_of_two_other_languages_is_surely_not_english(monkeypatch):
    monkeypatch.setattr(
        language, "probabilities", lambda text: {"da": 0.5, "no": 0.499, "en": 0.001}
    )
    assert language.judge("x" * 50, CleaningConfig(languages=("en",))) == "drop"


def test_without_languages_nothing_is_detected(monkeypatch):
    monkeypatch.setattr(language, "load_model", lambda: pytest.fail("was loaded"))
    assert language.judge(GERMAN, CleaningConfig()) == "keep"


def test_an_unknown_language_code_is_refused():
    with pytest.raises(ConfigurationError, match="'english' is not a language code"):
        clean(ENGLISH, CleaningConfig(languages=("english",)))


def test_without_py3langid_the_error_says_what_to_install(monkeypatch):
    language.load_model.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ConfigurationError, match=r"hormesis\[language\]"):
        clean(ENGLISH, CleaningConfig(languages=("en",)))
    assert clean(ENGLISH, CleaningConfig()) == Cleaned(ENGLISH)
