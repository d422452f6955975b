"""what was made: a token stream's shards, counts, checksums and where it all came from

Written last, so its existence means the stream is whole. It holds nothing that differs between two
builds of the same input: no time, no path of the output, no host. Layout below the object root:

    streams/clean-<digest>/                                        one token stream
        train-00000.bin, .idx, .documents.parquet                 Megatron shard and its documents' provenance
        held_out-00000.bin, …                                     documents never trained on
        drops.jsonl                                               some dropped documents, masked, to look at (dropped_samples.py)
        manifest.json                                             this record
"""

from typing import Literal

from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.core.records import record

FORMAT_VERSION = 2
NAME = "manifest.json"
Split = Literal["train", "held_out"]


@record
class Shard:
    """One Megatron .bin/.idx pair: tokens [k·S, (k+1)·S) of its split's stream, k its number, S the
    first one's n_tokens.

    n_documents: those that begin here; .documents.parquet lists them, a document that ends in
    another shard with all its tokens.
    n_continued_tokens: the first tokens, when they belong to a document that began in an earlier
    shard; the .idx has them as
        its first entry. The last entry is cut off by the shard's end if the next shard continues
        it.
    block_sha256 covers the .bin in blocks of 8 MiB.
    """

    name: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    block_sha256: tuple[str, ...]
    idx_sha256: str
    documents_sha256: str
    n_continued_tokens: int = 0


@record
class InputFile:
    """One file of the corpus as it was read. n_documents counts those kept, n_bad_rows those
    unreadable.

    fell_back: the fast tokenizer made other ids of a sample, so the reference encoded the file.
    """

    uri: str
    sha256: str
    n_bytes: int
    n_documents: int
    n_tokens: int
    n_bad_rows: int
    fell_back: bool = False


@record
class Manifest:
    """One token stream. Counts include end-of-document tokens; drops are documents by reason."""

    format_version: int
    stream: StreamName
    settings_digest: str
    tokenizer_fingerprint: str
    vocab_size: int
    eos_id: int
    dtype: Literal["uint16", "int32"]
    cleaning_version: int
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    drops: dict[str, int]
    train: tuple[Shard, ...]
    held_out: tuple[Shard, ...]
    inputs: tuple[InputFile, ...]

    def shards(self, split: Split) -> tuple[Shard, ...]:
        return self.train if split == "train" else self.held_out

    def split_tokens(self, split: Split) -> int:
        return sum(shard.n_tokens for shard in self.shards(split))


def load(stream_uri: str) -> Manifest:
    """The manifest of the stream in the folder `stream_uri`."""
    uri = storage.join(stream_uri, NAME)
    if not storage.exists(uri):
        raise ArtefactMissing(
            f"{uri}: the token stream has not been built; run launch/sweep.py --only data first"
        )
    manifest = storage.load(Manifest, uri)
    if manifest.format_version != FORMAT_VERSION:
        raise ArtefactCorrupt(
            f"{uri}: has format version {manifest.format_version}, this program reads {FORMAT_VERSION}; build the stream again"
        )
    return manifest
