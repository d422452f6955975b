"""Texts decoded by the bytes of tokens are those of the tokenizers library."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import TokenizerConfig
from data_prep.token_stream import token_bytes, tokenizer
from data_prep.token_stream.tokenizer import Tokenizer

OLMO = Path(__file__).parents[4] / "shared/data/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"
TEXTS = [
    "Hello, world.  Two   spaces\n\n\ttab",
    "naïve café — 日本語 🙂 é",
    "a <|endoftext|> b",
    "",
]
TRAINED = tokenizer.train(iter(TEXTS * 40), TokenizerConfig(source="train", vocab_size=300))


def encoded(engine: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    ids, lengths = engine.encode_batch(texts)
    return np.split(ids, np.cumsum(lengths)[:-1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_decoding_by_bytes_gives_back_every_text(texts: list[str]):
    whole = [text.encode(errors="replace").decode() for text in texts]
    documents = encoded(TRAINED, whole)
    decode = token_bytes.decoder(TRAINED, documents)
    assert decode.__name__ == "by_table" and decode(documents) == whole


def test_a_tokenizer_with_runs_of_spaces_is_decoded_alike():
    if not OLMO.exists():
        pytest.skip(f"the tokenizer {OLMO} is not beside this checkout")
    config = TokenizerConfig(source=str(OLMO), vocab_size=50_280)
    olmo = tokenizer.load(str(OLMO), config)
    documents = [*encoded(olmo, TEXTS), np.arange(50_000), np.array([olmo.eos_id])]
    decode = token_bytes.decoder(olmo, [])
    assert decode.__name__ == "by_table"
    by_library = [olmo.decode(ids) for ids in documents]
    assert decode(documents)[:4] == by_library[:4] == TEXTS
    assert decode(documents)[-1] == by_library[-1]


def test_a_tokenizer_of_another_kind_is_decoded_by_the_library():
    parsed = json.loads(TRAINED.json)
    parsed["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}
    other = Tokenizer(json.dumps(parsed), "<|endoftext|>", "a test")
    documents = encoded(other, TEXTS)
    decode = token_bytes.decoder(other, [])
    assert decode.__name__ == "by_library"
    assert decode(documents) == [other.decode(ids) for ids in documents]


def test_a_document_that_differs_makes_the_library_decode_all(monkeypatch):
    monkeypatch.setattr(token_bytes, "_byte_level_alphabet", lambda: "")
    documents = encoded(TRAINED, TEXTS)
    decode = token_bytes.decoder(TRAINED, documents)
    assert decode.__name__ == "by_library" and decode(documents) == TEXTS
