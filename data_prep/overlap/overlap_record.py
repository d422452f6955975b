"""overlap of one evaluation set with one stream, as a record in the stream's folder

    streams/<stream>-<digest>/overlap/<digest of the set's name>.json
                             /overlap/parts/    shards that are done, while a search is under way

A record is valid for one manifest and one content of the set, whose digests it holds.
"""

from typing import Annotated, NamedTuple

from data_prep.config import DataConfig
from data_prep.core import storage
from data_prep.core.records import digest, format_version, record
from data_prep.core.settings import CountOrZero
from data_prep.sources.uri_options import texts_of

FORMAT_VERSION = 1
FOLDER = "overlap"
DEFAULT_NGRAM = 13  # where decontamination is off (data.decontamination.ngram=0)


class SoughtSet(NamedTuple):
    """A set of evaluation texts, as a setting names it."""

    setting: str  # such as eval.prompts.toxigen
    uri: str


@record
class SetOverlap:
    """How many texts of a set share an n-gram with the training split of a stream.

    texts_digest identifies the words of the texts, n and the rules of the search. n_searched: texts
    long enough to be searched for. is_whole_set: false if the set is so large that only its first
    texts were searched for. n_tokens_searched: tokens of the shards that were searched, of n_tokens
    in the split.
    """

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
    manifest_digest: str
    texts_digest: str
    uri: str
    ngram: int
    n_texts: CountOrZero
    n_searched: CountOrZero
    n_found: CountOrZero
    is_whole_set: bool
    n_tokens_searched: CountOrZero
    n_tokens: CountOrZero


def ngram_of(config: DataConfig) -> int:
    """The words in a row that count as overlap."""
    return config.decontamination.ngram or DEFAULT_NGRAM


def was_looked_for(uri: str, config: DataConfig) -> bool:
    """Whether no training document has an n-gram of the set, because the build dropped them."""
    looked_for = {texts_of(other) for other in config.decontamination.uris}
    return config.decontamination.ngram > 0 and texts_of(uri) in looked_for


def record_uri(stream_uri: str, uri: str) -> str:
    """The record of the set `uri` in the folder of a stream."""
    return storage.join(stream_uri, FOLDER, f"{digest(texts_of(uri))}.json")


def find(stream_uri: str, uri: str) -> SetOverlap | None:
    """The recorded overlap of a set with the stream in a folder, or None."""
    name = record_uri(stream_uri, uri)
    return storage.load(SetOverlap, name) if storage.exists(name) else None
