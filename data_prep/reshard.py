"""ENTRY: one archive of JSON lines → numbered shards that can be read in parallel; resumes where it
was killed

    python data_prep/reshard.py --archive pol.tar.zst --out s3://bucket/pol [--shard-bytes
    268435456]

A compressed archive has one beginning: whoever wants its last line reads all before it. So it is
cut once, in order, at line ends, into files that any number of workers read at a time:

    OUT/pol-00000.ndjson.zst    the text, bytes unchanged; all shards in a row are the archive's text
        pol-00000.json          written after its shard: how far in the text it reaches, and the sha256 of all text up to there
        reshard.json            written last: all of them, and the archive's own sha256

A repeated command skips the shards that are there: it must decompress up to their end again, and
checks on the way that this is the text they were cut from, but writes nothing twice. Finished, it
does nothing and says so. A truncated archive is an error that keeps the shards before the damage;
the whole archive in its place is then continued.

The archive is a .tar (.zst, .gz; its members that are JSON lines, in order) or JSON lines by
themselves. One process does the work, about as fast as zstd compresses; a shard is held compressed
in memory until it is published.
"""

import argparse
import hashlib
import io
import posixpath
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn, cast

import zstandard

from data_prep.core import errors, ranged_reads, storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import record
from data_prep.sources import formats

LINES = (".ndjson", ".jsonl", ".json")
SHARD_BYTES = 256 << 20
CHUNK_BYTES = (
    64 << 10
)  # read at once: as much, and what formats.py has buffered, is lost before a damage


@record
class Shard:
    """One shard and where it ends. end_*: in all of the archive's text; sha256: of that text up to
    there.
    """

    name: str
    file_bytes: int
    end_bytes: int
    end_lines: int
    sha256: str
    shard_bytes: int


@record
class Resharded:
    """The whole archive; archive_sha256 is of its own bytes, sha256 of the text inside."""

    archive: str
    archive_bytes: int
    archive_sha256: str
    shard_bytes: int
    n_bytes: int
    n_lines: int
    sha256: str
    shards: tuple[Shard, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="reshard.py", description="Cut one archive of JSON lines into shards."
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
        "--shard-bytes",
        type=int,
        default=SHARD_BYTES,
        metavar="N",
        help="text a shard aims at (default %(default)s)",
    )
    asked = parser.parse_args(arguments)
    telemetry.configure()
    try:
        done = reshard(asked.archive, asked.out, asked.shard_bytes)
    except errors.HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pattern = storage.join(asked.out, f"{_stem(asked.archive)}-*.ndjson.zst")
    print(
        f"{len(done.shards):,} shards, {done.n_lines:,} lines, {done.n_bytes:,} bytes of text; a corpus by the name '{pattern}'"
    )
    return 0


def reshard(archive: str, out: str, shard_bytes: int) -> Resharded:
    """Cut `archive` into shards below `out`, or finish what an earlier call began."""
    if shard_bytes < 1:
        raise ConfigurationError(f"--shard-bytes is {shard_bytes}; expected at least 1")
    _inner_name(archive)
    record_uri, n_bytes = storage.join(out, "reshard.json"), storage.size(archive)
    there = _published(archive, out, shard_bytes)
    if storage.exists(record_uri):
        done = storage.load(Resharded, record_uri)
        if (done.archive, done.archive_bytes) != (posixpath.basename(archive), n_bytes):
            raise ConfigurationError(
                f"{record_uri} is of {done.archive} ({done.archive_bytes:,} bytes), asked is {archive} ({n_bytes:,} bytes); "
                "give another --out"
            )
        if done.shards == tuple(there):
            telemetry.logger.info("%s is resharded already; nothing to do", archive)
            return done
    if there:
        telemetry.logger.info(
            "%d shards are there, to line %s; reading again up to there",
            len(there),
            f"{there[-1].end_lines:,}",
        )
    else:
        storage.check_writable(out)
    with ranged_reads.open_stream(archive) as stream:
        bar = telemetry.progress(n_bytes, f"reshard {posixpath.basename(archive)}", "B")
        source, cutter = _Watched(stream, bar), _Cutter(archive, out, shard_bytes, there)
        try:
            for chunk in _text(cast(IO[bytes], source), archive):
                cutter.add(chunk)
            cutter.finish()
        except (*formats.DAMAGE, tarfile.TarError) as error:
            kept = f"the {len(cutter.shards)} shards up to line {cutter.published_lines:,} are whole and stay"
            raise ArtefactCorrupt(
                f"{archive} is damaged or cut off at about byte {source.n_bytes:,} of {n_bytes:,}, after {cutter.end_bytes:,} "
                f"bytes of text ({error}); {kept}; fetch the archive again and repeat the command"
            ) from error
        finally:
            bar.close()
    done = Resharded(
        archive=posixpath.basename(archive),
        archive_bytes=source.n_bytes,
        archive_sha256=source.sha256.hexdigest(),
        shard_bytes=shard_bytes,
        n_bytes=cutter.end_bytes,
        n_lines=cutter.shards[-1].end_lines,
        sha256=cutter.sha256.hexdigest(),
        shards=tuple(cutter.shards),
    )
    storage.save(done, record_uri)
    return done


class _Cutter:
    """Cuts what it is given at the first line end at or after each `shard_bytes`, and publishes
    what is not there yet.
    """

    def __init__(self, archive: str, out: str, shard_bytes: int, there: list[Shard]) -> None:
        self._archive, self._out, self._shard_bytes, self._there = archive, out, shard_bytes, there
        self.shards: list[Shard] = []
        self.sha256, self.end_bytes, self._end_lines = hashlib.sha256(), 0, 0
        self._begin()

    @property
    def published_lines(self) -> int:
        return self.shards[-1].end_lines if self.shards else 0

    def add(self, chunk: bytes) -> None:
        if self.end_bytes == 0 and not chunk.removeprefix(
            formats.BYTE_ORDER_MARK
        ).lstrip().startswith(b"{"):
            raise ConfigurationError(
                f"{self._archive} holds no JSON lines, its text begins with {chunk[:40]!r}; expected an object a line"
            )
        while chunk:
            end = chunk.find(b"\n", max(0, self._shard_bytes - self._n_bytes - 1)) + 1 or len(chunk)
            self._take(chunk[:end])
            if self._n_bytes >= self._shard_bytes and chunk[end - 1 : end] == b"\n":
                self._publish()
            chunk = chunk[end:]

    def finish(self) -> None:
        if self._n_bytes:
            self._publish()
        if len(self._there) > len(self.shards):
            self._refuse(self._there[len(self.shards)].name)
        if not self.shards:
            raise ConfigurationError(
                f"{self._archive} holds no JSON lines; expected a member that ends in {' or '.join(LINES)}"
            )

    def _begin(self) -> None:
        self._n_bytes, self._parts = 0, list[bytes]()
        is_there = len(self.shards) < len(self._there)
        self._compress = (
            None if is_there else zstandard.ZstdCompressor(write_checksum=True).compressobj()
        )

    def _take(self, piece: bytes) -> None:
        self.sha256.update(piece)
        self._n_bytes += len(piece)
        self.end_bytes += len(piece)
        self._end_lines += piece.count(b"\n")
        if self._compress:
            self._parts.append(self._compress.compress(piece))

    def _publish(self) -> None:
        content = b"".join([*self._parts, self._compress.flush()]) if self._compress else None
        shard = Shard(
            name=f"{_stem(self._archive)}-{len(self.shards):05d}.ndjson.zst",
            file_bytes=self._there[len(self.shards)].file_bytes
            if content is None
            else len(content),
            end_bytes=self.end_bytes,
            end_lines=self._end_lines,
            sha256=self.sha256.hexdigest(),
            shard_bytes=self._shard_bytes,
        )
        if content is not None:
            storage.write(storage.join(self._out, shard.name), content)
            storage.save(shard, _record_uri(self._out, shard.name))
        elif shard != self._there[len(self.shards)]:
            self._refuse(shard.name)
        self.shards.append(shard)
        self._begin()

    def _refuse(self, name: str) -> NoReturn:
        raise ArtefactCorrupt(
            f"{storage.join(self._out, name)} was cut from other text than {self._archive} has up to byte {self.end_bytes:,} "
            f"(line {self._end_lines:,}); give another --out, or delete what is there"
        )


class _Watched(io.RawIOBase):
    """A stream whose bytes are counted, summed and shown as they are read."""

    def __init__(self, stream: IO[bytes], bar: Any) -> None:
        self._stream, self._bar = stream, bar
        self.n_bytes, self.sha256 = 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self.n_bytes += len(content)
        self.sha256.update(content)
        self._bar.update(len(content))
        return len(content)


def _text(stream: IO[bytes], archive: str) -> Iterator[bytes]:
    """The JSON lines of the archive in pieces; a member without a last line end gets one."""
    packed = formats.decompressed(stream, _full_name(archive))
    if _inner_name(archive).endswith(LINES):
        while chunk := packed.read(CHUNK_BYTES):
            yield chunk
        return
    with tarfile.open(fileobj=packed, mode="r|", bufsize=CHUNK_BYTES) as tar:
        for member in tar:
            if not (member.isfile() and member.name.lower().endswith(LINES)):
                telemetry.logger.info(
                    "%s: member %s is no JSON lines; left out", archive, member.name
                )
                continue
            content, chunk = cast(IO[bytes], tar.extractfile(member)), b"\n"
            while piece := content.read(CHUNK_BYTES):
                chunk = piece
                yield piece
            if not chunk.endswith(b"\n"):
                yield b"\n"
        rest = cast(Any, tar.fileobj)
        while padding := rest.read(
            CHUNK_BYTES
        ):  # also what checks the last checksum of the compressed stream
            if padding.strip(b"\0"):
                raise tarfile.ReadError("no member where one should begin")


def _published(archive: str, out: str, shard_bytes: int) -> list[Shard]:
    """The shards of `archive` that are whole, from the first to the one before a gap."""
    there: list[Shard] = []
    while storage.exists(uri := _record_uri(out, f"{_stem(archive)}-{len(there):05d}.ndjson.zst")):
        shard = storage.load(Shard, uri)
        if shard.shard_bytes != shard_bytes:
            raise ConfigurationError(
                f"{uri} is of a shard of {shard.shard_bytes:,} bytes, asked are {shard_bytes:,}; "
                f"give --shard-bytes {shard.shard_bytes} or another --out"
            )
        file_uri = storage.join(out, shard.name)
        if not storage.exists(file_uri) or storage.size(file_uri) != shard.file_bytes:
            break
        there.append(shard)
    return there


def _record_uri(out: str, name: str) -> str:
    return storage.join(out, f"{name.removesuffix('.ndjson.zst')}.json")


def _full_name(archive: str) -> str:
    return re.sub(r"\.tgz$", ".tar.gz", archive, flags=re.IGNORECASE)


def _inner_name(archive: str) -> str:
    """The name without what says how it is compressed, in lower case; ConfigurationError unless it
    is one of ours.
    """
    name = re.sub(r"\.(gz|zst)$", "", _full_name(archive).lower())
    if not name.endswith((".tar", *LINES)):
        raise ConfigurationError(
            f"{archive}: the ending names no archive; expected .tar (or {' '.join(LINES)}), also with .zst or .gz; rename it"
        )
    return name


def _stem(archive: str) -> str:
    name = posixpath.basename(_full_name(archive))
    for ending in (r"\.(gz|zst)$", r"\.tar$", r"\.(ndjson|jsonl|json)$"):
        name = re.sub(ending, "", name, flags=re.IGNORECASE)
    return name


if __name__ == "__main__":
    sys.exit(main())
