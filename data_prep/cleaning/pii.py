"""mask e-mail addresses, IP addresses and phone numbers by OLMo's special strings

The strings are Dolma's (Soldaini et al. 2024). OLMo's tokenizer has them as added tokens that are
*not* special, so each becomes one id in its streams (50277, 50278 and 0), because only special
tokens are encoded as text. For a tokenizer of our own training they are ordinary text. None of them
is a control id. Dolma masks pages with up to five findings and drops those with more; here all are
masked and nothing is dropped, because a threshold would drop whole threads of a board.

A finding is masked whole, in the forms that people write: with letters and dashes of any script,
and with full-width digits. The rules (email_addresses.py, phone_numbers.py, ip_addresses.py) prefer
to miss a number rather than to mask a price, year, ISBN, version or post number. Masking twice
gives the same as masking once.

The rules are slow, so they are tried only near places where the text has the right shape:

    text    "Call (212) 555-0100, or a.b@example.org."
    shape   "hhxx-x000x-000-0000x-xx-h.h@hxhxxxh.xxx."      one table; then a search for the sign
                                                            of each kind, at memory speed
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from data_prep.cleaning import email_addresses, ip_addresses, phone_numbers
from data_prep.cleaning.pii_masks import EMAIL, IP, PHONE, Finding

__all__ = ["EMAIL", "IP", "PHONE"]

CONTINUATION = bytes(range(0x80, 0xC0))  # bytes of UTF-8 after the first of a character


def _shape_of_byte(byte: int) -> int:
    char = chr(byte)
    if char.isdecimal():
        return ord("0")
    if char in " -" or byte in (0xC2, 0xE2, 0xE3, 0xEF):  # these begin all blanks and dashes
        return ord("-")
    if char in "+.@:":
        return byte
    return ord("h") if char in "abcdefABCDEF" else ord("x")


SHAPE = bytes(map(_shape_of_byte, range(256)))


class PersonalKind(NamedTuple):
    """One kind of personal data. The shape of a finding contains `sign`, and a match of `hint`,
    whose start `find` takes.
    """

    sign: bytes
    hint: re.Pattern[bytes]
    find: Callable[[str, int, int], Finding | None]


PHONE_HINT = rb"000(?:-{1,5}|\.)0000"
V6_HINT = rb":(?::|[h0]{1,4}:[h0]{1,4}:)"
V4_HINT = rb"0\.0{1,3}\.0"
KINDS = (
    PersonalKind(b"@", re.compile(rb"@"), email_addresses.find),
    PersonalKind(b"0000", re.compile(PHONE_HINT), phone_numbers.find_north_american),
    PersonalKind(b"+", re.compile(rb"\+0"), phone_numbers.find_international),
    PersonalKind(b":", re.compile(V6_HINT), ip_addresses.find_v6),
    PersonalKind(b"0.0", re.compile(V4_HINT), ip_addresses.find_v4),
)
# PHONE_HINT, V4_HINT, and the first group of an address of version 6. It begins with a literal, so
# that the regular expression engine skips to digits, which are rare.
NUMBER_SIGN = re.compile(
    rb"0(?:0(?:0(?:-{1,5}|\.)0000|[h0]{2}:[h0:])|\.0{1,3}\.0|:(?::|0+:0+:)|h[h0]{2}:[h0:])"
)
# What follows the @ of an address, in UTF-8.
DOMAIN = re.compile(
    rb"@(?:\[|[A-Za-z0-9\x80-\xff][A-Za-z0-9\x80-\xff-]*"
    rb"(?:\.|\xef\xbc\x8e|\xef\xb9\x92)[A-Za-z0-9\x80-\xff])"
)
# Full-width forms, of which a finding can consist: for the rules they are the ASCII characters.
FULL_WIDTH = str.maketrans(
    "\uff0b\uff0d\uff0e\uff08\uff09\uff20\ufe52\ufe59\ufe5a\ufe62\ufe63\ufe6b"
    + "".join(map(chr, range(0xFF10, 0xFF1A))),
    "+-.()@.()+-@0123456789",
)
WIDE = re.compile(rb"\xef(?:\xbc[\x8b\x8e\x90-\x99\xa0]|\xb9[\x92\xa2\xab])")


class _Text(NamedTuple):
    """A text, the same with full-width forms as ASCII, and the shape of that; equally long."""

    written: str
    read: str
    shape: bytes


def shape_of(content: bytes, table: bytes = SHAPE) -> bytes:
    """One byte per character of a text in UTF-8."""
    return content.translate(table, b"" if content.isascii() else CONTINUATION)


def may_be_masked(content: bytes, shape: bytes) -> bool:
    """False only if `mask` cannot change the text of these UTF-8 bytes.

    shape: as by shape_of; marks for control characters are allowed.
    """
    if b"@" in shape and DOMAIN.search(content):
        return True
    if (b"+" in shape and b"+0" in shape) or NUMBER_SIGN.search(shape):
        return True
    if b":" in shape and b"::hhhh:" in shape:  # ::ffff:cb00:7107
        return True
    return b"\xef" in content and WIDE.search(content) is not None


def mask(text: str, shape: bytes | None = None) -> str:
    """`text` with each e-mail address, IP address and phone number replaced by its special string.

    A text without any is returned itself, not a copy.

    shape: as by shape_of, if the caller has it, of a text without full-width forms.
    """
    current = _read(text) if shape is None else _Text(text, text, shape)
    for kind in KINDS:
        if kind.sign in current.shape:
            masked = _replace_kind(current, kind)
            if masked is not current.written:
                current = _read(masked)
    return current.written


def _read(text: str) -> _Text:
    content = text.encode(errors="replace")
    if b"\xef" not in content:
        return _Text(text, text, shape_of(content))
    read = text.translate(FULL_WIDTH)
    return _Text(text, read, shape_of(read.encode(errors="replace")))


def _replace_kind(text: _Text, kind: PersonalKind) -> str:
    """The text with every finding of a kind replaced; the text itself if there is none."""
    pieces = list[str]()
    n_done = 0
    for hint in kind.hint.finditer(text.shape):
        position = hint.start()
        if position >= n_done and (finding := kind.find(text.read, position, n_done)):
            pieces += text.written[n_done : finding.start], finding.replacement
            n_done = finding.end
    return "".join([*pieces, text.written[n_done:]]) if pieces else text.written
