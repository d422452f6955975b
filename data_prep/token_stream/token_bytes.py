"""text of many documents from their ids, by a table of each token's bytes

In a byte-level BPE (GPT-2, GPT-NeoX, OLMo) a token is the same bytes wherever it stands, so a
document is the concatenation of its tokens' bytes. Looking them up is five times as fast as the
`tokenizers` library, which makes a string per token: 24 million tokens per CPU second, 4.8 there. A
tokenizer of another kind, where a token depends on its place, is decoded by the library.
"""

import json
from collections.abc import Callable, Sequence

import numpy as np

from data_prep.token_stream import tokenizer_json
from data_prep.token_stream.tokenizer import Tokenizer

DecodeAll = Callable[[Sequence[np.ndarray]], list[str]]
N_COMPARED = 16  # documents that are also decoded by the library


def decoder(tokenizer: Tokenizer, samples: Sequence[np.ndarray]) -> DecodeAll:
    """A function from the ids of documents to their texts.

    samples: documents of which the first few are decoded both ways; if one differs, the library
    decodes all.
    """

    def by_library(documents: Sequence[np.ndarray]) -> list[str]:
        return [tokenizer.decode(ids) for ids in documents]

    table = _bytes_by_id(tokenizer)
    if table is None:
        return by_library

    def by_table(documents: Sequence[np.ndarray]) -> list[str]:
        return [
            b"".join(map(table.__getitem__, ids.tolist())).decode(errors="replace")
            for ids in documents
        ]

    compared = samples[:N_COMPARED]
    return by_table if by_table(compared) == by_library(compared) else by_library


def _bytes_by_id(tokenizer: Tokenizer) -> list[bytes] | None:
    """The bytes of each id; None unless the tokenizer's decoder is the byte-level one."""
    parsed = json.loads(tokenizer.json)
    if (parsed.get("decoder") or {}).get("type") != "ByteLevel":
        return None
    byte_of = {character: byte for byte, character in enumerate(_byte_level_alphabet())}
    table = [b""] * tokenizer.n_ids
    for token, i in tokenizer_json.ids_by_token(parsed).items():
        is_coded = all(character in byte_of for character in token)
        table[i] = bytes(map(byte_of.__getitem__, token)) if is_coded else token.encode()
    return table


def _byte_level_alphabet() -> str:
    """The character that stands for each byte in a byte-level BPE (GPT-2's `bytes_to_unicode`):
    itself if it prints in Latin-1, else the next one from U+0100 on.
    """
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in prints else next(others)) for byte in range(256))
