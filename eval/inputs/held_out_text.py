"""held-out text: the held-out split of a token stream, or the documents of any files

Which documents of a file are taken depends on their texts and the seed alone, never on their order:
the ones with the smallest keyed hashes. So a corpus of any size is read once and only the sample is
kept in memory.
"""

from collections.abc import Iterator
from heapq import heappush, heapreplace
from typing import NamedTuple, Protocol

import numpy as np

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from data_prep.token_stream import reader
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.tokenizer import Tokenizer
from eval.inputs.text_rows import text_id


def check_readable(uri: str) -> None:
    """Read the first text of files; ConfigurationError if none of them has any."""
    for source in corpus_reader.expand([uri]):
        if any(document.text.strip() for document in corpus_reader.read(source)):
            return
    raise ConfigurationError(
        f"eval.capability.held_out {uri}: no document has text; name other files or their field "
        "(URI#text=FIELD)"
    )


class HeldOutText(Protocol):
    """Text that the model was not trained on."""

    def documents(self, limit: int) -> list[np.ndarray]:
        """Ids of at most `limit` documents, without the end-of-document id; with a larger limit the
        same documents come first.
        """
        ...

    def windows(self, length: int, limit: int) -> np.ndarray:
        """At most `limit` windows of concatenated documents, [n, length]; n is 0 if there is too
        little text.
        """
        ...


class HeldOutStream(NamedTuple):
    """The held-out split of a token stream."""

    uri: str
    manifest: Manifest

    def documents(self, limit: int) -> list[np.ndarray]:
        return reader.read_documents(self.uri, self.manifest, "held_out", limit)

    def windows(self, length: int, limit: int) -> np.ndarray:
        sequences = reader.SequenceReader(self.uri, self.manifest, "held_out", length)
        return sequences.read(np.arange(min(limit, sequences.n_sequences)))


class HeldOutFiles(NamedTuple):
    """The documents of a corpus URI (data_prep/sources/corpus_reader.py), each text once."""

    uri: str
    tokenizer: Tokenizer
    seed: int
    prefix: tuple[int, ...] = ()
    """Ids that stand before each document in a window."""

    def documents(self, limit: int) -> list[np.ndarray]:
        batch = self.tokenizer.encode_batch(self._sample(limit))
        return [ids.astype(np.int64) for ids in np.split(batch.ids, np.cumsum(batch.lengths)[:-1])]

    def windows(self, length: int, limit: int) -> np.ndarray:
        n_documents = limit
        while True:
            documents = self.documents(n_documents)
            ids = np.concatenate(
                [
                    np.array([*self.prefix, *document, self.tokenizer.eos_id])
                    for document in documents
                ]
            )
            n = min(limit, len(ids) // length)
            if n == limit or len(documents) < n_documents:
                return ids[: n * length].reshape(n, length)
            n_documents *= 4

    def _sample(self, limit: int) -> list[str]:
        """The texts with the `limit` smallest keys, by key."""
        heap: list[tuple[int, str]] = []  # keys are negated: the largest is on top
        held: set[int] = set()
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
                document.text
                for document in corpus_reader.read(source, columns=())
                if document.text.strip()
            )
