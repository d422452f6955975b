from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_prep.core.errors import ConfigurationError
from data_prep.scorers.lexicon import Lexicon
from data_prep.token_stream.tokenizer import Tokenizer
from eval.steering.measures.streamed_lexicon import State, StreamedLexicon

WEIGHTS = {"glim": 0.5, "glim folk": 0.9, "folk": 0.25, "hollow head!": 1.0, "ab": 0.75}
TEXTS = ["the glim folk met a hollow head! at last", "glimmer, abacus and folklore", "a glim ab"]


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE that splits words as well as joins them."""
    bpe = HFTokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    return Tokenizer(bpe.to_str(), "<|endoftext|>", "test")


@pytest.fixture(scope="module")
def streamed(tokenizer):
    return StreamedLexicon(Lexicon(WEIGHTS), tokenizer)


WORDS = ["glim", "folk", "hollow", "head", "!", "ab", "glimmer", "Folk", "x", ".", "é", "…"]


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=8),
    joins=st.lists(st.sampled_from([" ", "", "  "]), min_size=8, max_size=8),
)
def test_the_factors_of_the_tokens_make_the_score_of_the_text(streamed, tokenizer, words, joins):
    text = "".join(join + word for join, word in zip(joins, words, strict=False))
    kept, state = 1.0, State()
    for token in tokenizer.encode_batch([text]).ids.tolist() if text else []:
        kept *= streamed.factors(state)[token]
        state = streamed.after(state, token)
    kept *= streamed.factor_of_end(state)
    (score,) = Lexicon(WEIGHTS).score([text])
    assert 1 - kept == pytest.approx(score or 0.0, abs=1e-9)


def test_a_word_counts_at_once_and_is_taken_back_if_it_becomes_longer(streamed, tokenizer):
    def after(text):
        state = State()
        for token in tokenizer.encode_batch([text]).ids.tolist():
            state = streamed.after(state, token)
        return state

    def factor(state, text):
        (token,) = tokenizer.encode_batch([text]).ids.tolist()
        return streamed.factors(state)[token]

    assert factor(State(), " glim") == 0.5
    assert factor(after("a glim"), ".") == 1
    assert factor(after("a glim"), "m") == 2  # it may become glimmer
    assert factor(after("xgli"), "m") == 1
    assert factor(after("hollow head"), "!") == 0


def test_a_lexicon_that_cannot_be_written_is_refused(tokenizer):
    with pytest.raises(ConfigurationError, match="none of the 1 entries"):
        StreamedLexicon(Lexicon({"é": 1.0}), _without(tokenizer))


def _without(tokenizer) -> Any:
    class Lossy:
        n_ids, eos_id = tokenizer.n_ids, tokenizer.eos_id
        decode = staticmethod(lambda ids: tokenizer.decode(ids).encode("ascii", "ignore").decode())
        encode_batch = staticmethod(tokenizer.encode_batch)

    return Lossy()
