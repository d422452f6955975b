"""input files of a corpus, with size and version, to notice when one is replaced

A record of what was built keeps them, and each later start compares them with those of today, which
takes a listing and no reading. A file that was only touched, or copied to the store again, has
another version and the same content; so a difference is a reason to compare the content, not more.

    corpus file                version
    on a local disk            when it was modified
    in an object store         its ETag
    hub:, synthetic:           sha256 of its full name, which fixes the content, and of the reader's
                               version
"""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import Sha256OrEmpty, record
from data_prep.core.store.locations import ROW_SOURCES
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Source


@record
class InputVersion:
    """One input file as it was read.

    n_bytes: its size; of a row source without files an estimate. sha256: of its bytes, empty where
    nobody needed all of them.
    """

    uri: str
    n_bytes: int
    version: str
    sha256: Sha256OrEmpty = ""


class ChangedInput(NamedTuple):
    """An input file whose version differs from the recorded one."""

    then: InputVersion
    now: InputVersion

    def __str__(self) -> str:
        return f"{self.now.uri} ({self.then.version}; now {self.now.version})"


def of_corpus(uris: Sequence[str]) -> tuple[InputVersion, ...]:
    """The input files that `uris` name today, in order."""
    return of_sources(corpus_reader.expand(uris))


def of_sources(sources: Sequence[Source]) -> tuple[InputVersion, ...]:
    """The input files of these sources today, in the same order."""
    files = [source.uri for source in sources if not _is_row_source(source.uri)]
    versions = storage.file_versions(files)
    return tuple(
        InputVersion(
            uri=source.uri, n_bytes=versions[source.uri][0], version=versions[source.uri][1]
        )
        if source.uri in versions
        else InputVersion(
            uri=source.uri,
            n_bytes=corpus_reader.n_bytes(source),
            version=f"name {corpus_reader.checksum(source)[:16]}",
        )
        for source in sources
    )


def check_unchanged_while_read(before: InputVersion, source: Source) -> None:
    """Raise ConfigurationError if the file of `source` is no longer the one stated in `before`."""
    (now,) = of_sources([source])
    if (before.n_bytes, before.version) != (now.n_bytes, now.version):
        raise ConfigurationError(
            f"{source.uri} was changed while it was read: {before.n_bytes:,} bytes, "
            f"{before.version}; now {now.n_bytes:,} bytes, {now.version}; expected a file that "
            "nobody writes during a build: run the same command again when it is complete"
        )


def check_same_files(
    record_uri: str, then: Sequence[InputVersion], now: Sequence[InputVersion], remedy: str
) -> None:
    """Raise ConfigurationError unless the inputs have the recorded names and sizes, in order."""
    if [(file.uri, file.n_bytes) for file in then] == [(file.uri, file.n_bytes) for file in now]:
        return
    raise ConfigurationError(
        f"{record_uri}: the inputs changed since it was built: {len(then)} files then, "
        f"{len(now)} now, first difference: {_first_difference(then, now)}; restore the files, "
        f"or {remedy}"
    )


def _first_difference(then: Sequence[InputVersion], now: Sequence[InputVersion]) -> str:
    sizes_then = {file.uri: file.n_bytes for file in then}
    sizes_now = {file.uri: file.n_bytes for file in now}
    for uri in sorted(sizes_then.keys() | sizes_now.keys()):
        if uri not in sizes_now:
            return f"{uri} ({sizes_then[uri]:,} bytes) is not among them now"
        if uri not in sizes_then:
            return f"{uri} ({sizes_now[uri]:,} bytes) was not among them"
        if sizes_then[uri] != sizes_now[uri]:
            return f"{uri} had {sizes_then[uri]:,} bytes, and has {sizes_now[uri]:,} bytes"
    return "their order"


def changed(then: Sequence[InputVersion], now: Sequence[InputVersion]) -> list[ChangedInput]:
    """The files whose version differs. then, now: the same names in the same order."""
    pairs = map(ChangedInput, then, now)
    return [pair for pair in pairs if pair.then.version != pair.now.version]


def check_distinct(clean: Sequence[Source], toxic: Sequence[Source]) -> None:
    """Raise ConfigurationError if a file is read as clean and as toxic text.

    One file may give both if they are in different fields of its rows.
    """
    clean_by_identity = {_identity(source): source for source in clean}
    for source in toxic:
        if other := clean_by_identity.get(_identity(source)):
            alias = "" if other.uri == source.uri else f" (there as {other.uri})"
            raise ConfigurationError(
                f"{source.uri} is in both corpora, data.clean{alias} and data.toxic, so the toxic "
                "ratio would mean nothing; name it in one of them, or name another field of its "
                "rows with #text=FIELD"
            )


def with_same_size(
    clean: Sequence[Source], toxic: Sequence[Source]
) -> Iterable[tuple[Source, Source]]:
    """Pairs of a clean and a toxic file that may have the same bytes and give the same texts."""
    versions = {
        file.uri: file
        for file in of_sources([s for s in (*clean, *toxic) if not _is_row_source(s.uri)])
    }
    by_size: dict[tuple[int, str], list[Source]] = {}
    for source in clean:
        if source.uri in versions:
            size = versions[source.uri].n_bytes
            by_size.setdefault((size, source.text_field), []).append(source)
    for source in toxic:
        if source.uri in versions:
            size = versions[source.uri].n_bytes
            yield from ((other, source) for other in by_size.get((size, source.text_field), []))


def _identity(source: Source) -> tuple[str, str]:
    """The same for two names of one file, read in the same field."""
    local = source.uri.removeprefix("file://")
    is_local = "://" not in local and not _is_row_source(source.uri)
    return (os.path.realpath(local) if is_local else source.uri, source.text_field)


def _is_row_source(uri: str) -> bool:
    return uri.startswith(ROW_SOURCES)
