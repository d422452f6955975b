"""held-out text: the held-out split of a token stream, or the documents of any files

Of files, which documents are taken depends on their texts and the seed alone, never on their order:
the ones with the smallest keyed hashes, so that a corpus of any size passes through once and only
the sample is held.
"""

from collections.abc import Iterator
from heapq import heappush, heapreplace
from typing import NamedTuple, Protocol

import numpy as np

from data_prep.core import keyed_random
from data_prep.sources import corpus_reader
from data_prep.token_stream import reader
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.tokenizer import Tokenizer
from eval.inputs.prompts import text_id


class HeldOut(Protocol):
    def documents(self, limit: int) -> list[np.ndarray]:
        """Ids of at most `limit` documents, without the end-of-document id; for a larger limit
        these come first again.
        """
        ...

    def windows(self, length: int, limit: int) -> np.ndarray:
        """At most `limit` windows of documents end to end, [n, length]; n is 0 where there is too
        little text.
        """
        ...


class Stream(NamedTuple):
    """The held-out split of a built stream."""

    uri: str
    manifest: Manifest

    def documents(self, limit: int) -> list[np.ndarray]:
        return reader.read_documents(self.uri, self.manifest, "held_out", limit)

    def windows(self, length: int, limit: int) -> np.ndarray:
        sequences = reader.SequenceReader(self.uri, self.manifest, "held_out", length)
        return sequences.read(np.arange(min(limit, sequences.n_sequences)))


class Files(NamedTuple):
    """The documents of a corpus URI (data_prep/sources/corpus_reader.py), each text once."""

    uri: str
    tokenizer: Tokenizer
    seed: int

    def documents(self, limit: int) -> list[np.ndarray]:
        batch = self.tokenizer.encode_batch(self._sample(limit))
        return [ids.astype(np.int64) for ids in np.split(batch.ids, np.cumsum(batch.lengths)[:-1])]

    def windows(self, length: int, limit: int) -> np.ndarray:
        wanted = limit
        while True:
            documents = self.documents(wanted)
            ids = np.concatenate(
                [np.append(document, self.tokenizer.eos_id) for document in documents]
            )
            n = min(limit, len(ids) // length)
            if n == limit or len(documents) < wanted:
                return ids[: n * length].reshape(n, length)
            wanted *= 4

    def _sample(self, limit: int) -> list[str]:
        """The texts with the `limit` smallest keys, by key."""
        heap, held = list[tuple[int, str]](), set[int]()  # keys negated: the largest is on top
        for text in self._texts():
            key = keyed_random.key("held out", self.seed, text_id(text))
            if key in held or (len(heap) == limit and key > -heap[0][0]):
                continue
            held.add(key)
            if len(heap) < limit:
                heappush(heap, (-key, text))
            else:
                held.remove(-heapreplace(heap, (-key, text))[0])
        return [text for _, text in sorted(heap, reverse=True)]

    def _texts(self) -> Iterator[str]:
        for source in corpus_reader.expand([self.uri]):
            yield from (
                document.text for document in corpus_reader.read(source) if document.text.strip()
            )
