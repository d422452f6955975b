"""toxicity scorers by name: `load`, and the protocol that each of them implements

A scorer gives each text a number in [0, 1], or None where it cannot score it. A missing score is
never counted as harmless. The scorer's `id` contains its version and a digest of its data, and is
stored with every number that the scorer produced.

    profanity        the linear model of alt-profanity-check (profanity.py): offline, a proxy
    lexicon:URI      a table of words and phrases with weights (lexicon.py): offline
    classifier:NAME  a sequence classifier from the Hugging Face hub or a folder (classifier.py)
    trained:FOLDER   a head on a text encoder, trained by eval/tools/train_scorer.py (trained.py)
    openai           OpenAI's moderation service, over the network (openai_moderation.py)
"""

from collections.abc import Sequence
from typing import Protocol

from data_prep.config import SCORER_FORMS, is_scorer
from data_prep.core.errors import ConfigurationError


class Scorer(Protocol):
    """A toxicity score per text.

    id: name, version and digest of the data.
    costly: slow enough that its scores are worth caching.
    """

    @property
    def id(self) -> str: ...

    @property
    def costly(self) -> bool: ...

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """A number in [0, 1] per text; None where there is no score, as for an empty text."""
        ...


def load(name: str) -> Scorer:
    """The scorer that a setting names (SCORER_FORMS of data_prep/config.py).

    Imports the module of that scorer only: classifiers and encoders need torch.
    """
    if not is_scorer(name):
        raise ConfigurationError(f"there is no scorer {name!r}; expected {SCORER_FORMS}")
    kind, _, argument = name.partition(":")
    if name == "profanity":
        from data_prep.scorers.profanity import Profanity

        return Profanity()
    if kind == "lexicon":
        from data_prep.scorers.lexicon import Lexicon, read_lexicon

        return Lexicon(read_lexicon(argument))
    if kind == "classifier":
        from data_prep.scorers.classifier import Classifier

        return Classifier(name)
    if kind == "trained":
        from data_prep.scorers.trained import TrainedScorer

        return TrainedScorer(name)
    from data_prep.scorers.openai_moderation import OpenAIModeration

    return OpenAIModeration(name)
