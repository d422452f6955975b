"""refuse files that are not what their name says: pointers, encodings, other formats"""

import re
from typing import NamedTuple

from data_prep.core.errors import ConfigurationError

MAX_POINTER_BYTES = 1024  # of git-lfs by its specification; the others are shorter
HEAD_BYTES = 64  # enough for every signature


class _Pointer(NamedTuple):
    """A small file that stands for another one. kind: the program; remedy: how to get the other."""

    pattern: re.Pattern[bytes]
    kind: str
    remedy: str


POINTERS = (
    _Pointer(re.compile(rb"version https?://(git-lfs|hawser)\."), "git-lfs", "git lfs pull"),
    _Pointer(re.compile(rb"\S*/annex/objects/\S+\s*$"), "git-annex", "git annex get"),
    _Pointer(re.compile(rb"(?s)(?=.*^outs:).*^\s*-?\s*(md5|hash|etag):", re.M), "DVC", "dvc pull"),
    _Pointer(re.compile(rb"# xet version"), "git-xet", "git xet checkout"),
)


class _Signature(NamedTuple):
    """The first bytes of a format. remedy: what to do with a file of it, {name} as it is called."""

    pattern: re.Pattern[bytes]
    what: str
    remedy: str


SIGNATURES = (
    _Signature(
        re.compile(rb"\x1f\x8b\x08"),
        "compressed with gzip",
        "rename it to {name}.gz, or decompress it once more if it was compressed twice",
    ),
    _Signature(
        re.compile(rb"\x28\xb5\x2f\xfd"),
        "compressed with zstd",
        "rename it to {name}.zst, or decompress it once more if it was compressed twice",
    ),
    _Signature(re.compile(rb"PK\x03\x04"), "a zip archive", "unpack it and name its files"),
    _Signature(
        re.compile(rb"PAR1(?=.*[\0-\x08])", re.S),
        "a Parquet file",
        "rename it to end in .parquet",
    ),
    _Signature(
        re.compile(rb"BZh[1-9]1AY&SY"), "compressed with bzip2", "compress it with gzip or zstd"
    ),
    _Signature(re.compile(rb"\xfd7zXZ\0"), "compressed with xz", "compress it with gzip or zstd"),
    _Signature(re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", "unpack it and name its files"),
)
INDENTED_OBJECT = re.compile(rb'\{[ \t\r]*\n[ \t]+"')  # JSON that is written for people
BYTE_ORDER_MARKS = (  # the longer ones first
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
# Two or four ASCII characters without a byte order mark: such text has no zero bytes in UTF-8.
UNMARKED = (
    (re.compile(rb"(?:[^\0]\0\0\0){2}"), "UTF-32LE"),
    (re.compile(rb"(?:\0\0\0[^\0]){2}"), "UTF-32BE"),
    (re.compile(rb"(?:[^\0]\0){4}"), "UTF-16LE"),
    (re.compile(rb"(?:\0[^\0]){4}"), "UTF-16BE"),
)


def refuse_pointer(content: bytes, name: str) -> None:
    """Raise ConfigurationError if the whole content of a file is a pointer to another one."""
    if len(content) > MAX_POINTER_BYTES:
        return
    for pointer in POINTERS:
        if pointer.pattern.match(content):
            raise ConfigurationError(
                f"{name} is a pointer of {pointer.kind}, not the data; expected the file it stands "
                f"for: fetch it with {pointer.remedy}"
            )


def refuse_other_content(head: bytes, name: str) -> None:
    """Raise ConfigurationError if a text file begins (with `head`) as one of another encoding or
    format does.
    """
    if encoding := _encoding(head):
        raise ConfigurationError(
            f"{name} is {encoding} text; expected UTF-8; "
            f"convert it with iconv -f {encoding} -t UTF-8"
        )
    for signature in SIGNATURES:
        if signature.pattern.match(head):
            raise ConfigurationError(
                f"{name} is {signature.what}; expected the format that its ending names; "
                f"{signature.remedy.format(name=name)}"
            )


def _encoding(head: bytes) -> str | None:
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    for pattern, encoding in UNMARKED:
        if pattern.match(head):
            return encoding
    return None
