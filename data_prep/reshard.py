"""ENTRY: split one archive of JSON lines into shards for parallel reading; resumable

    python data_prep/reshard.py --archive pol.tar.zst --out s3://bucket/pol
                                [--shard-bytes 268435456] [--members 'data/*']

A compressed archive can be read from its beginning only: to read its last line takes decompressing
all of it. So it is split once, in order, at line ends, into files that many workers can read:

    OUT/pol-00000.ndjson.zst    the text, bytes unchanged but for byte order marks of members; all
                                shards together are the text of the archive
        pol-00000.json          written after its shard: where it ends in the text, and the sha256
                                of all text up to there
        reshard.json            written last: all shards, and the sha256 of the archive itself

Resuming: the same command skips the shards that exist. It decompresses the archive up to their end
again and checks that they were split from this text, but writes nothing twice. A finished archive
is left as it is. A truncated archive is an error that keeps the shards before the damage; the
complete archive in its place then resumes.

The archive is a .tar (.zst, .gz; its members that are JSON lines, in order, compressed or not) or
JSON lines alone; what is left out of a tar is named in a warning (sources/readers/archive.py). One
process does the work, about as fast as zstd compresses. A shard is in memory, compressed, until it
is published.
"""

import argparse
import hashlib
import io
import posixpath
import re
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import zstandard

from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import FileName, Sha256, record
from data_prep.core.store import ranged_reads
from data_prep.sources.readers import archive as archive_reader
from data_prep.sources.readers import compression, lines

SHARD_BYTES = 256 << 20
RECORD_NAME = "reshard.json"


@record
class ArchiveShard:
    """One shard and where it ends in the text of the archive.

    end_bytes, end_lines: counted from the start of the text. sha256: of the text up to there.
    """

    name: FileName
    file_bytes: int
    end_bytes: int
    end_lines: int
    sha256: Sha256
    shard_bytes: int


@record
class Resharded:
    """The whole archive. archive_sha256: of its own bytes. sha256: of the text inside. members: the
    pattern of those that were read.
    """

    archive: FileName
    archive_bytes: int
    archive_sha256: Sha256
    shard_bytes: int
    n_bytes: int
    n_lines: int
    sha256: Sha256
    shards: tuple[ArchiveShard, ...]
    members: str = archive_reader.ALL_MEMBERS


@entry_command
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    telemetry.configure()
    out = storage.object_root(options.out)
    done = reshard(options.archive, out, options.shard_bytes, members=options.members)
    pattern = storage.join(out, f"{_stem(options.archive)}-*.ndjson.zst")
    print(
        f"{len(done.shards):,} shards, {done.n_lines:,} lines, {done.n_bytes:,} bytes of text; "
        f"name them as a corpus with '{pattern}'"
    )
    return 0


def reshard(
    archive: str, out: str, shard_bytes: int, *, members: str = archive_reader.ALL_MEMBERS
) -> Resharded:
    """Split `archive` into shards in the folder `out`, or finish what an earlier call started.

    members: a pattern of the members of a tar to read.
    """
    _check_one_archive(archive)
    if shard_bytes < 1:
        raise ConfigurationError(f"--shard-bytes is {shard_bytes}; expected at least 1")
    inner_name = archive_reader.inner_name(archive)  # refuses a name that is no archive
    if members != archive_reader.ALL_MEMBERS and not inner_name.endswith(".tar"):
        raise ConfigurationError(
            f"{archive}: --members is for a tar, and this is one file; leave --members out"
        )
    archive_reader.refuse_misnamed(storage.read(archive, 0, archive_reader.HEAD_BYTES), archive)
    existing = _existing_shards(archive, out, shard_bytes)
    finished = _finished(archive, out, existing, members)
    if finished:
        telemetry.logger.info("%s is resharded already; nothing to do", archive)
        return finished
    if existing:
        telemetry.logger.info(
            "resuming after %d shards, at line %s; the archive is read again up to there",
            len(existing),
            f"{existing[-1].end_lines:,}",
        )
    else:
        storage.check_writable(out)
    done = _split(archive, _Splitter(archive, out, shard_bytes, existing), members)
    storage.save(done, storage.join(out, RECORD_NAME))
    return done


def _check_one_archive(archive: str) -> None:
    """Raise ConfigurationError unless --archive may be the URI of one file."""
    if not archive:
        raise ConfigurationError(
            "--archive is empty; expected the URI of one archive, e.g. pol.tar.zst"
        )
    storage.absolute(archive)  # refuses a name that is not UTF-8
    if "*" in archive and not storage.exists(archive):
        raise ConfigurationError(
            f"--archive {archive} is a pattern; expected the URI of one archive; "
            "split each on its own, into its own --out"
        )
    if Path(archive.removeprefix("file://")).is_dir():
        raise ConfigurationError(
            f"--archive {archive} is a folder; expected the URI of one archive; "
            "name a folder of files as a corpus"
        )


def _finished(
    archive: str, out: str, existing: list[ArchiveShard], members: str
) -> Resharded | None:
    """The record of a finished archive, if all of its shards still exist."""
    record_uri = storage.join(out, RECORD_NAME)
    if not storage.exists(record_uri):
        return None
    done = storage.load(Resharded, record_uri)
    n_bytes = storage.size(archive)
    if (done.archive, done.archive_bytes) != (posixpath.basename(archive), n_bytes):
        raise ConfigurationError(
            f"{record_uri} is the record of {done.archive} ({done.archive_bytes:,} bytes), not of "
            f"{archive} ({n_bytes:,} bytes); choose another --out"
        )
    if done.members != members:
        raise ConfigurationError(
            f"{record_uri} is of the members {done.members!r}, but --members is {members!r}; give "
            f"--members {done.members!r} or another --out"
        )
    return done if done.shards == tuple(existing) else None


def _split(archive: str, splitter: "_Splitter", members: str) -> Resharded:
    n_bytes = storage.size(archive)
    name = posixpath.basename(archive)
    with ranged_reads.open_stream(archive) as stream:
        bar = telemetry.progress(n_bytes, f"reshard {telemetry.printable(name)}", "B")
        source = _HashedStream(stream, bar)
        try:
            for chunk in archive_reader.json_lines(cast(IO[bytes], source), archive, members):
                splitter.add(chunk)
            splitter.finish(members)
        except (*compression.DAMAGE, tarfile.TarError) as error:
            kept = "no shard was written; download the archive again"
            if splitter.shards:
                kept = (
                    f"the {len(splitter.shards)} shards up to line {splitter.published_lines:,} "
                    "are complete and stay; download the archive again and repeat the command"
                )
            raise ArtefactCorrupt(
                f"{archive} is damaged or truncated at about byte {source.n_bytes:,} of "
                f"{n_bytes:,}, after {splitter.end_bytes:,} bytes of text ({error}); {kept}"
            ) from error
        finally:
            bar.close()
    return Resharded(
        archive=name,
        archive_bytes=source.n_bytes,
        archive_sha256=source.sha256.hexdigest(),
        shard_bytes=splitter.shard_bytes,
        n_bytes=splitter.end_bytes,
        n_lines=splitter.published_lines,
        sha256=splitter.sha256.hexdigest(),
        shards=tuple(splitter.shards),
        members=members,
    )


class _Splitter:
    """Splits text at the first line end at or after each `shard_bytes`.

    Publishes the shards that do not exist yet, and compares the existing ones with the text.
    """

    def __init__(
        self, archive: str, out: str, shard_bytes: int, existing: list[ArchiveShard]
    ) -> None:
        self._archive = archive
        self._out = out
        self.shard_bytes = shard_bytes
        self._existing = existing
        self.shards: list[ArchiveShard] = []
        self.sha256 = hashlib.sha256()
        self.end_bytes = 0
        self._end_lines = 0
        self._line_bytes = 0  # of the line that the text so far ends in
        self._start_shard()

    @property
    def published_lines(self) -> int:
        return self.shards[-1].end_lines if self.shards else 0

    def add(self, chunk: bytes) -> None:
        """Append the next piece of the text; it may end anywhere."""
        while chunk:
            search_from = max(0, self.shard_bytes - self._n_bytes - 1)
            end = chunk.find(b"\n", search_from) + 1 or len(chunk)
            self._append(chunk[:end])
            if self._n_bytes >= self.shard_bytes and chunk[end - 1 : end] == b"\n":
                self._end_shard()
            chunk = chunk[end:]

    def finish(self, members: str) -> None:
        """End the last shard, after all text was added."""
        if self._n_bytes:
            self._end_shard()
        if len(self._existing) > len(self.shards):
            self._refuse(self._existing[len(self.shards)].name)
        if not self.shards:
            raise ConfigurationError(
                f"{self._archive} contains no JSON lines"
                + (f", no member among those of --members {members!r}" if members != "*" else "")
                + f"; expected a member that ends in {' or '.join(archive_reader.ENDINGS)}"
            )

    def _existing_shard(self) -> ArchiveShard | None:
        """The present shard, if an earlier call published it."""
        number = len(self.shards)
        return self._existing[number] if number < len(self._existing) else None

    def _start_shard(self) -> None:
        self._n_bytes = 0
        self._compressed: list[bytes] = []
        self._compressor = None
        if self._existing_shard() is None:
            self._compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()

    def _append(self, piece: bytes) -> None:
        self.sha256.update(piece)
        self._n_bytes += len(piece)
        self.end_bytes += len(piece)
        self._end_lines += piece.count(b"\n")
        last_end = piece.rfind(b"\n")
        self._line_bytes = len(piece) - last_end - 1 + (self._line_bytes if last_end < 0 else 0)
        if self._line_bytes > lines.MAX_ROW_BYTES:
            raise ConfigurationError(
                f"{self._archive}: line {self._end_lines + 1:,} of its text {lines.too_long()}; "
                "expected one document or thread per line; remove it from the archive, or leave "
                "its member out with --members"
            )
        if self._compressor:
            self._compressed.append(self._compressor.compress(piece))

    def _end_shard(self) -> None:
        """Publish the present shard, or compare it with the one that exists."""
        existing = self._existing_shard()
        content = b""
        if self._compressor:
            content = b"".join([*self._compressed, self._compressor.flush()])
        shard = ArchiveShard(
            name=f"{_stem(self._archive)}-{len(self.shards):05d}.ndjson.zst",
            file_bytes=existing.file_bytes if existing else len(content),
            end_bytes=self.end_bytes,
            end_lines=self._end_lines,
            sha256=self.sha256.hexdigest(),
            shard_bytes=self.shard_bytes,
        )
        if existing is None:
            storage.write(storage.join(self._out, shard.name), content)
            storage.save(shard, _shard_record_uri(self._out, shard.name))
        elif shard != existing:
            self._refuse(shard.name)
        self.shards.append(shard)
        self._start_shard()

    def _refuse(self, name: str) -> NoReturn:
        raise ArtefactCorrupt(
            f"{storage.join(self._out, name)} was split from other text than {self._archive} has "
            f"up to byte {self.end_bytes:,} (line {self._end_lines:,}); "
            "choose another --out, or delete the shards in it"
        )


class _HashedStream(io.RawIOBase):
    """A stream that counts and hashes its bytes as they are read, and moves the progress bar."""

    def __init__(self, stream: IO[bytes], bar: Any) -> None:
        self._stream = stream
        self._bar = bar
        self.n_bytes = 0
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self.n_bytes += len(content)
        self.sha256.update(content)
        self._bar.update(len(content))
        return len(content)


def _existing_shards(archive: str, out: str, shard_bytes: int) -> list[ArchiveShard]:
    """The complete shards of `archive`, from the first one to the one before a gap."""
    existing: list[ArchiveShard] = []
    while True:
        name = f"{_stem(archive)}-{len(existing):05d}.ndjson.zst"
        record_uri = _shard_record_uri(out, name)
        if not storage.exists(record_uri):
            return existing
        shard = storage.load(ArchiveShard, record_uri)
        if shard.shard_bytes != shard_bytes:
            raise ConfigurationError(
                f"{record_uri} is of a shard of {shard.shard_bytes:,} bytes, but --shard-bytes is "
                f"{shard_bytes:,}; give --shard-bytes {shard.shard_bytes} or another --out"
            )
        uri = storage.join(out, shard.name)
        if not storage.exists(uri) or storage.size(uri) != shard.file_bytes:
            return existing
        existing.append(shard)


def _shard_record_uri(out: str, name: str) -> str:
    return storage.join(out, f"{name.removesuffix('.ndjson.zst')}.json")


def _stem(archive: str) -> str:
    """The name of the archive without its folder and endings."""
    name = posixpath.basename(archive_reader.full_name(archive))
    for ending in (r"\.(gz|zst)$", r"\.tar$", r"\.(ndjson|jsonl|json)$"):
        name = re.sub(ending, "", name, flags=re.IGNORECASE)
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reshard.py", description="Split one archive of JSON lines into shards."
    )
    parser.add_argument(
        "--archive",
        required=True,
        metavar="URI",
        help="a .tar.zst, .tar.gz or .tar of JSON lines, or one .ndjson.zst",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="URI",
        help="folder of the shards: a path or s3://bucket/prefix",
    )
    parser.add_argument(
        "--members",
        default=archive_reader.ALL_MEMBERS,
        metavar="PATTERN",
        help="the members of a tar to read, such as 'data/*.jsonl' (default: all)",
    )
    parser.add_argument(
        "--shard-bytes",
        type=int,
        default=SHARD_BYTES,
        metavar="N",
        help="bytes of text per shard, rounded up to a line end (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
