"""hashes of the texts of a stream, sorted, to find documents that another stream has too

    texts-00000-of-00002.parquet    hash, n_documents: the cleaned texts whose 64-bit hash lies in
    texts-00001-of-00002.parquet    the first, second, … equal part of all hashes

They are written beside the shards before the manifest: 8 bytes per document, read by ranges, so
that two streams of any size are compared in little memory. A text is what dedup compares: the
cleaned text, without the prefix of an annotation.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.records import record
from data_prep.token_stream import parquet_files

if TYPE_CHECKING:
    import pyarrow

NAME = re.compile(r"texts-(\d{5,})-of-(\d{5,})\.parquet")
HASH_SPACE = 1 << 64
ROW_GROUP = 8192
REMEDY = "delete the manifest and build the stream again"


class TextHashes(NamedTuple):
    """Different texts by hash, and how many documents of the stream have each."""

    hashes: np.ndarray  # [texts] uint64, ascending
    n_documents: np.ndarray  # [texts] int64


@record
class CommonDocuments:
    """Documents whose text is in both streams; the digests are of the streams' manifests.

    n_texts: different texts. n_clean, n_toxic: documents of the streams that have one of them.
    """

    clean_manifest_digest: str
    toxic_manifest_digest: str
    n_texts: int
    n_clean: int
    n_toxic: int


def count_name(toxic_uri: str) -> str:
    """The file in the folder of the clean stream that says what it has in common with another."""
    return f"common-with-{toxic_uri.rstrip('/').rpartition('/')[2]}.json"


def ranges(n_hashes: int, per_range: int) -> list[tuple[int, int]]:
    """Equal ranges of hashes, of which each has about `per_range`."""
    n = max(1, -(-n_hashes // per_range))
    return [(i * HASH_SPACE // n, (i + 1) * HASH_SPACE // n) for i in range(n)]


def file_name(number: int, n_files: int) -> str:
    return f"texts-{number:05}-of-{n_files:05}.parquet"


def write(uri: str, texts: TextHashes) -> None:
    """Publish the texts of one range."""
    import pyarrow as pa

    columns = {
        "hash": pa.array(texts.hashes, pa.uint64()),
        "n_documents": pa.array(texts.n_documents, pa.int64()),
    }
    storage.write(uri, parquet_files.encode(pa.table(columns), row_group_rows=ROW_GROUP))


def files(stream_uri: str) -> list[str]:
    """The files of a stream, in order.

    Raises ArtefactMissing if one is missing: an earlier version built the stream, or lost it.
    """
    names = {uri.rpartition("/")[2]: uri for uri in storage.list_files(stream_uri, "texts-*")}
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    n = int(matches[0][2]) if matches else 0
    expected = [file_name(number, n) for number in range(n)]
    if not n or any(name not in names for name in expected):
        raise ArtefactMissing(
            f"{stream_uri}: the hashes of its texts are missing (texts-*.parquet), as in a stream "
            f"of an earlier version; {REMEDY}"
        )
    return [names[name] for name in expected]


def read(uris: list[str], low: int, high: int) -> TextHashes:
    """The texts of a stream with hashes in [low, high). uris: of files()."""
    tables: list[pyarrow.Table] = []
    for (first, end), uri in zip(ranges(len(uris), 1), uris, strict=True):
        if first < high and low < end:
            within = (max(low, first), min(high, end))
            tables.append(parquet_files.read_range(uri, *within, ["n_documents"], REMEDY))
    return TextHashes(
        np.concatenate([parquet_files.column(table, "hash") for table in tables]),
        np.concatenate([parquet_files.column(table, "n_documents") for table in tables]),
    )


def count_common(
    clean_uris: list[str], toxic_uris: list[str], low: int, high: int
) -> tuple[int, int, int]:
    """The Ray task: (texts in both, their clean documents, their toxic documents) in a range."""
    clean, toxic = read(clean_uris, low, high), read(toxic_uris, low, high)
    _, in_clean, in_toxic = np.intersect1d(
        clean.hashes, toxic.hashes, assume_unique=True, return_indices=True
    )
    n_clean, n_toxic = clean.n_documents[in_clean].sum(), toxic.n_documents[in_toxic].sum()
    return len(in_clean), int(n_clean), int(n_toxic)
