"""read the JSON lines of an archive: the members of a tar, in order, or one file

Members that are JSON lines are read, compressed ones too. Nothing else is left out in silence: a
member that looks like data and cannot be read is named in a warning, and one that is named as JSON
lines and holds something else is refused. A tar must have its end, a block of zeros: without it the
file was cut, and members may be missing. Tars one after the other are read as one. Names come from
whoever made the archive, so they are shown with their control characters escaped.
"""

import posixpath
import re
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import IO, Any, NamedTuple, cast

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.core.telemetry import printable
from data_prep.sources.readers import compression, foreign_content
from data_prep.sources.readers.lines import BYTE_ORDER_MARK

ALL_MEMBERS = "*"
ENDINGS = (".ndjson", ".jsonl", ".json")
CHUNK_BYTES = 64 << 10  # before damage, up to this and the decompressor's buffer is lost
MAX_WINDOW_BYTES = 2 << 30  # of zstd: one process reads an archive, so it may take the memory
MAX_HEADER_BYTES = 1 << 20  # of a tar header: long names and attributes
SHOWN_NAMES = 3
HEAD_BYTES = foreign_content.MAX_POINTER_BYTES + 1
STARTS = (
    (b"\x1f\x8b\x08", ".gz", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", ".zst", "compressed with zstd"),
)
APPLE_DOUBLE = b"\x00\x05\x16\x07"
OTHER_COMPRESSION = re.compile(
    r"\.(ndjson|jsonl|json)\.(zip|bz2|xz|lz4|lzma|7z|br|z|snappy)$", re.IGNORECASE
)
OTHER_ARCHIVE = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz|zip|7z|rar)$", re.IGNORECASE)
HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _LeftOut(NamedTuple):
    """Why members are left out. is_loss: whether they may hold data, which deserves a warning."""

    what: str
    remedy: str
    is_loss: bool = True


SIDE_FILE = _LeftOut("side files of macOS", "they hold no data", is_loss=False)
HIDDEN = _LeftOut("hidden members", "rename those that hold data")
COMPRESSED = _LeftOut(
    "members with a compression that is not read", "compress them with gzip or zstd"
)
ARCHIVE = _LeftOut("archives in the archive", "unpack each and split it on its own")
NO_JSON_LINES = _LeftOut(
    "members that are no JSON lines", "if one holds text, unpack it and name it as a corpus"
)
NOT_CHOSEN = _LeftOut("members that --members does not match", "as requested", is_loss=False)
LINK = _LeftOut("links to members that are read", "their content is in the shards", is_loss=False)
OTHER_LINK = _LeftOut(
    "links to what is not read", "unpack the archive and name its files as a corpus"
)


class _CheckedHeader(tarfile.TarInfo):
    """A tar header that must be complete and small, and that knows where the archive ends.

    The standard library takes a damaged or missing header for the end of the archive, and reads a
    header of any size whole. Make a subclass for each archive: the state is of the class.
    """

    is_at_end = False  # whether the block before was one of zeros

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedHeader":
        is_padding = not buf.strip(b"\0")
        if len(buf) < tarfile.BLOCKSIZE and not (is_padding and cls.is_at_end):
            raise tarfile.ReadError(
                "it ends without the block of zeros that every tar ends with; if the program that "
                "wrote it writes none, unpack it and pack it again with tar"
            )
        cls.is_at_end = is_padding
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if is_padding:
                raise
            raise tarfile.ReadError(f"no member where one should start: {error}") from None
        if header.type in HEADERS and header.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"a header of {header.size:,} bytes, the limit is {MAX_HEADER_BYTES:,}"
            )
        return cast("_CheckedHeader", header)


def full_name(archive: str) -> str:
    """The name with .tgz written as .tar.gz."""
    return re.sub(r"\.tgz$", ".tar.gz", archive, flags=re.IGNORECASE)


def inner_name(archive: str) -> str:
    """The name without the ending of its compression, in lower case.

    Raises ConfigurationError unless it is a .tar or JSON lines.
    """
    name = re.sub(r"\.(gz|zst)$", "", full_name(archive).lower())
    if not name.endswith((".tar", *ENDINGS)):
        raise ConfigurationError(
            f"{archive}: the ending names no archive; expected .tar (or {' '.join(ENDINGS)}), "
            "also with .zst or .gz; rename it"
        )
    return name


def refuse_misnamed(head: bytes, archive: str) -> None:
    """Raise ConfigurationError for an archive that begins as one with another ending does.

    head: its first HEAD_BYTES, or all of a smaller one.
    """
    foreign_content.refuse_pointer(head, archive)
    inner = posixpath.splitext(inner_name(archive))[1]
    compressed = posixpath.splitext(archive.lower())[1].replace(".tgz", ".gz")
    compressed = compressed if compressed in compression.COMPRESSIONS else ""
    stem = full_name(archive)[: -len(inner + compressed)]
    true_inner = inner
    true_compression, what = next(
        ((ending, what) for start, ending, what in STARTS if head.startswith(start)), ("", "")
    )
    if not true_compression:
        if _is_tar(head):
            true_inner, what = ".tar", "a tar without compression"
        elif head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{"):
            true_inner, what = ".jsonl" if inner == ".tar" else inner, "JSON lines, uncompressed"
        else:
            return  # damaged, or no archive at all: reading it says which
    if (true_inner, true_compression) != (inner, compressed):
        raise ConfigurationError(
            f"{archive} is {what}; expected what its ending names; "
            f"rename it to {stem}{true_inner}{true_compression}"
        )


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def json_lines(stream: IO[bytes], archive: str, members: str = ALL_MEMBERS) -> Iterator[bytes]:
    """The JSON lines of the archive in pieces; a member without a final line end gets one.

    members: a pattern of the members to read. Raises one of compression.DAMAGE or tarfile.TarError
    where the archive is damaged, ConfigurationError for a member that is no JSON lines.
    """
    name = full_name(archive)
    text = compression.decompressed(stream, name, max_window_bytes=MAX_WINDOW_BYTES)
    if inner_name(archive).endswith(ENDINGS):
        yield from _checked_pieces(text, archive, "")
        return
    left_out = _LeftOutMembers(archive)
    header = type("_HeaderOfThisArchive", (_CheckedHeader,), {})
    with tarfile.open(  # ignore_zeros: reads to the end of the file, also its last checksum
        fileobj=text, mode="r|", bufsize=CHUNK_BYTES, tarinfo=header, ignore_zeros=True
    ) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            why = _reason_to_leave_out(member, content, members)
            if why is not None:
                left_out.add(why, member.name)
            elif content is None:
                if not member.isdir():
                    left_out.add_link(member)
            else:
                left_out.is_read.add(posixpath.normpath(member.name))
                yield from _member_lines(content, archive, member.name)
    left_out.report()


def _reason_to_leave_out(
    member: tarfile.TarInfo, content: IO[bytes] | None, members: str
) -> _LeftOut | None:
    """Why a member is not read; None for JSON lines, links and folders."""
    name = member.name
    if member.isdir() or member.islnk() or member.issym():
        return None
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if content is not None and parts and parts[-1].startswith("._"):
        peeked = cast(Any, content).peek(len(APPLE_DOUBLE))
        return SIDE_FILE if peeked.startswith(APPLE_DOUBLE) else HIDDEN
    if any(part.startswith(".") for part in parts):
        return HIDDEN
    if not fnmatchcase("/".join(parts), members):
        return NOT_CHOSEN
    if content is not None and re.sub(r"\.(gz|zst)$", "", name.lower()).endswith(ENDINGS):
        return None
    if OTHER_COMPRESSION.search(name):
        return COMPRESSED
    return ARCHIVE if OTHER_ARCHIVE.search(name) else NO_JSON_LINES


class _LeftOutMembers:
    """Counts what is left out of an archive, with the first names of each kind."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._counts: dict[_LeftOut, int] = {}
        self._names: dict[_LeftOut, list[str]] = {}
        self._links: list[tuple[str, str]] = []
        self.is_read = set[str]()  # names of the members that are read

    def add(self, why: _LeftOut, name: str) -> None:
        self._counts[why] = self._counts.get(why, 0) + 1
        names = self._names.setdefault(why, [])
        if len(names) < SHOWN_NAMES:
            names.append(printable(name))

    def add_link(self, member: tarfile.TarInfo) -> None:
        """Keep a link: its target may come later."""
        folder = posixpath.dirname(member.name) if member.issym() else ""
        target = posixpath.normpath(posixpath.join(folder, member.linkname))
        self._links.append((member.name, target))

    def report(self) -> None:
        """Log a line per kind, as a warning where data may be lost."""
        for name, target in self._links:
            self.add(LINK if target in self.is_read else OTHER_LINK, name)
        for why, count in self._counts.items():
            log = telemetry.logger.warning if why.is_loss else telemetry.logger.info
            shown = ", ".join(self._names[why]) + (", …" if count > SHOWN_NAMES else "")
            log(
                "%s: left out %d %s (%s); %s",
                printable(self._archive),
                count,
                why.what,
                shown,
                why.remedy,
            )


def _member_lines(content: IO[bytes], archive: str, name: str) -> Iterator[bytes]:
    """The lines of a member, decompressed, without its byte order mark and with a last line end."""
    text = compression.decompressed(content, name, max_window_bytes=MAX_WINDOW_BYTES)
    last_piece = b"\n"
    try:
        for piece in _checked_pieces(text, archive, name):
            last_piece = piece
            yield piece
    except compression.DAMAGE as error:
        if not name.lower().endswith(compression.COMPRESSIONS):
            raise
        raise tarfile.ReadError(f"in its member {printable(name)}: {error}") from error
    if not last_piece.endswith(b"\n"):
        yield b"\n"


def _checked_pieces(text: IO[bytes], archive: str, name: str) -> Iterator[bytes]:
    """The pieces of one file, of which the first with text must begin JSON lines."""
    is_checked = False
    while piece := text.read(CHUNK_BYTES):
        if name and not is_checked:
            piece = piece.removeprefix(BYTE_ORDER_MARK)
        if not is_checked and piece.strip():
            _check_start(piece, archive, name)
            is_checked = True
        yield piece


def _check_start(piece: bytes, archive: str, name: str) -> None:
    """Raise ConfigurationError unless a file begins as JSON lines do.

    name: of the member; "" for an archive that is JSON lines alone.
    """
    where = f"{archive}: member {printable(name)}" if name else archive
    way_out = ", or leave it out with --members PATTERN" if name else ""
    try:
        foreign_content.refuse_pointer(piece, where)
        foreign_content.refuse_other_content(piece[: foreign_content.HEAD_BYTES], where)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}{way_out}") from None
    start = piece.removeprefix(BYTE_ORDER_MARK).lstrip()
    if start.startswith(b"[") or foreign_content.INDENTED_OBJECT.match(start):
        form = "a JSON array" if start.startswith(b"[") else "an object over several lines"
        tool = "jq -c '.[]'" if start.startswith(b"[") else "jq -c ."
        again = " and pack it again" if name else ""
        raise ConfigurationError(
            f"{where} contains no JSON lines, it is {form}; expected one object per line; "
            f"convert it with {tool}{again}{way_out}"
        )
    if not start.startswith(b"{"):
        raise ConfigurationError(
            f"{where} contains no JSON lines, its text starts with {start[:8]!r}; "
            f"expected one object per line; convert it{way_out}"
        )
