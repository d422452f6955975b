"""manifest of a token stream: its shards, counts, checksums and input files

It is written last, so its existence means that the stream is complete. It holds nothing that
differs between two builds of the same input: no time, no path of the output, no host. Layout below
the object root:

    streams/clean-<digest>/                          one token stream
        train-00000.bin, .idx, .documents.parquet    Megatron shard and provenance of its documents
        held_out-00000.bin, …                        documents that are never trained on
        drops.jsonl                                  samples of dropped documents, masked
        card.json                                    the data card (data_card.py)
        manifest.json                                this record
"""

from typing import Annotated, Literal

from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.core.records import FileName, Sha256, format_version, record
from data_prep.core.settings import CountOrZero

FORMAT_VERSION = 2
NAME = "manifest.json"
Split = Literal["train", "held_out"]


@record
class Shard:
    """One Megatron .bin/.idx pair: tokens [k·S, (k+1)·S) of its split, k its number, S the first
    shard's n_tokens.

    n_documents: documents that begin in this shard; .documents.parquet lists them, each with all
        its tokens even if it ends in another shard.
    n_continued_tokens: the first tokens, if they belong to a document that began in an earlier
        shard; the .idx has them as its first entry. Its last entry is cut off by the end of the
        shard if the next shard continues it.
    block_sha256: checksums of the .bin in blocks of 8 MiB.
    """

    name: FileName
    n_tokens: CountOrZero
    n_documents: CountOrZero
    n_bytes: CountOrZero
    block_sha256: tuple[Sha256, ...]
    idx_sha256: Sha256
    documents_sha256: Sha256
    n_continued_tokens: CountOrZero = 0


@record
class InputFile:
    """One file of the corpus as it was read. n_documents counts those kept, n_bad_rows those
    unreadable.

    fell_back: the fast tokenizer engine differed from the reference engine on a document, so the
        reference encoded the whole file.
    """

    uri: str
    sha256: Sha256
    n_bytes: int
    n_documents: int
    n_tokens: int
    n_bad_rows: int
    fell_back: bool = False


@record
class Manifest:
    """One token stream. Counts include end-of-document tokens; drops counts documents by reason."""

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
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
    for shard in manifest.train + manifest.held_out:
        n_blocks = -(-shard.n_bytes // storage.BLOCK_BYTES)
        if len(shard.block_sha256) != n_blocks:
            raise ArtefactCorrupt(
                f"{uri}: shard {shard.name} has {len(shard.block_sha256)} block_sha256, but its "
                f"n_bytes {shard.n_bytes:,} are {n_blocks} blocks; delete the manifest and build "
                "the stream again"
            )
    return manifest
