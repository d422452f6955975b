"""a lexicon read token by token: how each next token changes the score of a text

    1 − score of a text = Π (1 − weight of its entries) = Π factor of its tokens · factor of its end

Whether an entry is complete is known when the token after its last word begins, or the text ends:
"glim" may become "glimmer". The factor of a token anticipates it: it is as if the text ended behind
the token, and a later token that makes a longer word takes it back. An anticipated factor is at
least ANTICIPATED_LEAST, so that it can be taken back.

Shapes: V ids of the tokenizer.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from data_prep.core.errors import ConfigurationError
from data_prep.scorers.lexicon import TOKEN, Lexicon
from data_prep.token_stream.tokenizer import Tokenizer

ENDS_IN_WORD = re.compile(r"\w\Z")
FIRST_LETTER = 0x250  # letters that lexicons rarely have; one of them stands for any other word
INCOMPLETE = "\ufffd"  # what decoding makes of a part of a character
ANTICIPATED_LEAST = 1 / 32
MOST_PARTS = 3  # tokens that hold parts of one character, before its last


class State(NamedTuple):
    """What matters of the text so far: words that may become an entry, an unfinished word, and ids
    of an unfinished character.
    """

    words: tuple[str, ...] = ()
    unfinished: str = ""
    parts: tuple[int, ...] = ()


class StreamedLexicon:
    """A lexicon over the tokens of a tokenizer."""

    def __init__(self, lexicon: Lexicon, tokenizer: Tokenizer) -> None:
        """Raises ConfigurationError if no entry can be written with the tokenizer."""
        self._weights = lexicon.weights
        self._lengths = sorted({len(entry) for entry in self._weights}, reverse=True)
        self._beginnings = {entry[:n] for entry in self._weights for n in range(1, len(entry))}
        words = {word for entry in self._weights for word in entry}
        self._word_beginnings = {word[:n] for word in words for n in range(1, len(word) + 1)}
        letters = set("".join(words))
        self._other = next(filter(lambda letter: letter not in letters, map(chr, _letters())))
        self._tokenizer = tokenizer
        self._anchor = tokenizer.encode_batch(["a"]).ids[-1:].tolist()
        self._n_before = len(tokenizer.decode(self._anchor))
        self.n_unwritable = _n_unwritable([" ".join(entry) for entry in self._weights], tokenizer)
        if self.n_unwritable == len(self._weights):
            raise ConfigurationError(
                f"none of the {self.n_unwritable} entries of the lexicon {lexicon.id} can be "
                "written with the model's tokenizer, so expected toxicity would be 0; name another "
                "lexicon, or switch it off with eval.expected_toxicity.n_paths=0"
            )
        self.factors = cache(self._factors)
        self._text = cache(self._decoded)
        self._anticipated = cache(lambda state: max(self._at_end(state), ANTICIPATED_LEAST))

    def after(self, state: State, token: int) -> State:
        """The state behind one more token."""
        return self._read(state, token)[1]

    def factor_of_end(self, state: State) -> float:
        """The factor of a text's end."""
        return self._at_end(state) / self._anticipated(state)

    def _at_end(self, state: State) -> float:
        """Π (1 − weight) of the entries that are complete if the text ends here."""
        words = TOKEN.findall(state.unfinished + self._text(state.parts))
        kept, _ = self._count((*state.words, *words), is_end=True)
        return kept

    def _factors(self, state: State) -> np.ndarray:
        """The factor of each token that may follow, [V]: 1 where it changes nothing."""
        before = self._anticipated(state)
        read = (self._read(state, i) for i in range(self._tokenizer.n_ids))
        return np.array([kept * self._anticipated(after) / before for kept, after in read])

    def _read(self, state: State, token: int) -> tuple[float, State]:
        """Π (1 − weight) of the entries that a token completes, and the state behind it."""
        if token == self._tokenizer.eos_id:
            return 1.0, state
        parts = (*state.parts, token)
        text = self._text(parts)
        if text.endswith(INCOMPLETE) and len(parts) <= MOST_PARTS:
            return 1.0, state._replace(parts=parts)
        text = state.unfinished + text
        words = TOKEN.findall(text)
        unfinished = words.pop() if ENDS_IN_WORD.search(text) else ""
        if unfinished and unfinished not in self._word_beginnings:
            unfinished = self._other
        kept, left = self._count((*state.words, *words))
        return kept, State(left, unfinished)

    def _decoded(self, tokens: tuple[int, ...]) -> str:
        """The text that ids add to a text before them, in lower case."""
        return self._tokenizer.decode([*self._anchor, *tokens])[self._n_before :].casefold()

    def _count(
        self, words: tuple[str, ...], *, is_end: bool = False
    ) -> tuple[float, tuple[str, ...]]:
        """Π (1 − weight) of the entries that are complete, the longest first as the lexicon counts,
        and the words that may still become one.
        """
        kept = 1.0
        while words and (is_end or words not in self._beginnings):
            n = next((n for n in self._lengths if words[:n] in self._weights), 0)
            kept *= 1 - self._weights[words[:n]] if n else 1.0
            words = words[n or 1 :]
        return kept, words


def _letters() -> range:
    return range(FIRST_LETTER, FIRST_LETTER + 96)  # the block "IPA Extensions", all letters


def _n_unwritable(entries: Sequence[str], tokenizer: Tokenizer) -> int:
    """How many entries the tokenizer does not give back."""
    ids, lengths = tokenizer.encode_batch([f" {entry}" for entry in entries])
    written = [tokenizer.decode(row) for row in np.split(ids, np.cumsum(lengths)[:-1])]
    return sum(
        TOKEN.findall(text.casefold()) != TOKEN.findall(entry)
        for text, entry in zip(written, entries, strict=True)
    )
