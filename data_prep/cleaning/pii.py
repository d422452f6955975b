"""e-mail addresses, IP addresses and phone numbers → OLMo's three special strings

The strings are Dolma's (Soldaini et al. 2024), which OLMo's tokenizer has as added tokens that are
*not* special: in its streams each becomes one id (50277, 50278 and 0), because only special tokens
are spelled out as text; in a tokenizer of our own training they are ordinary text. Neither is a
control id. Dolma masks pages with up to five findings and drops those with more; here all are
masked and nothing is dropped, since a threshold would take whole board threads.

Rather a number too few than a price, year, ISBN, version or post number too many: a phone number is
North American (3-3-4 digits, parted) or international with its plus sign; bare runs of digits never
are one. An IP address is a dotted quad that is neither private nor all below ten (sections,
versions, public resolvers). Masking twice is masking once: nothing is masked that touches a special
string.

The patterns run at 20 MB/s, so they are tried only near the places where a text has the right
shape:

    text    "Call (212) 555-0100, or a.b@example.org."
    shape   "xxxx-x000x-000-0000x-xx-x.x@xxxxxxx.xxx."      one table; then a search for each kind's `sought`, at memory speed
"""

import re
from collections.abc import Callable
from typing import NamedTuple

EMAIL, PHONE, IP = "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"


class Kind(NamedTuple):
    """One kind of finding. Its shape holds `rare`, one of `sought`, and a match of `hint`, which
    says where.
    """

    rare: bytes  # part of each of `sought`, and the faster search
    sought: tuple[bytes, ...]
    hint: re.Pattern[bytes]
    before: int  # characters from a finding's start to its hint, at most
    behind: (
        int  # characters from the hint's start to the last one that the pattern looks at, at most
    )
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str]


def _phone(found: re.Match[str]) -> str:
    """10 to 15 digits (E.164) behind the plus sign are a phone number."""
    return PHONE if 10 <= sum(map(str.isdigit, found[0])) <= 15 else found[0]


def _address(found: re.Match[str]) -> str:
    return found[0] if NOBODYS.match(found[0]) else IP


SHAPE = bytes(
    0x30 if 0x30 <= byte <= 0x39 else 0x2D if byte in b" -" else byte if byte in b"+.@" else 0x78
    for byte in range(256)
)
BEFORE, BEHIND = r"(?<![\w$€£#>+./=&%@-])(?<!\|\|\|)", r"(?![\w%]|[-./]\w|[-./]?\|\|\|)"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
NOBODYS = re.compile(
    r"([0-9]\.){3}[0-9]$|(0|10|127|169\.254|172\.(1[6-9]|2[0-9]|3[01])|192\.168|22[4-9]|2[3-5][0-9])\."
)
DOMAIN = re.compile(
    r"@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9@-]|\|\|\|)"
)
DOMAIN_BYTES = re.compile(
    DOMAIN.pattern.encode()
)  # begins with a literal, so that the engine skips to it
ADDRESS = re.compile(
    r"(?<![A-Za-z0-9])(?<!\|\|\|)[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}" + DOMAIN.pattern
)
NORTH_AMERICAN = re.compile(
    BEFORE
    + r"(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"
    + BEHIND
)
INTERNATIONAL = re.compile(
    BEFORE
    + r"\+[1-9][0-9]{0,14}(?:[ .-]?\([0-9]{1,5}\)|[ .-][0-9]{1,10}|(?<=\))[0-9]{1,10}){0,7}"
    + BEHIND
)
QUAD = re.compile(
    rf"(?<![\w.-])(?<![^/]/)(?<!ersion )(?<!\|\|\|)(?:{OCTET}\.){{3}}{OCTET}"
    + r"(?![\w-]|\.\w|[-.]?\|\|\|)"
)
KINDS = (
    Kind(b"@", (b"@",), re.compile(rb"@(?<=[x0.+-]@)[x0]"), 64, 600, ADDRESS, lambda found: EMAIL),
    Kind(
        b"0",
        (b"000-0000", b"000.0000"),
        re.compile(rb"000[-.]0000"),
        9,
        12,
        NORTH_AMERICAN,
        lambda found: PHONE,
    ),
    Kind(b"+", (b"+0",), re.compile(rb"\+0"), 0, 100, INTERNATIONAL, _phone),
    Kind(
        b"0.0",
        (b"0.0.0", b"0.00.0", b"0.000.0"),
        re.compile(rb"0\.0{1,3}\.0"),
        2,
        20,
        QUAD,
        _address,
    ),
)
DOTTED = tuple(
    sought for kind in KINDS for sought in kind.sought if b"0.0" in sought
)  # all others are named in `may_be_masked`


def may_be_masked(content: bytes, shape: bytes) -> bool:
    """Whether `mask` can change the text with these UTF-8 bytes of this shape; false only if it
    cannot.
    """
    if b"@" in shape and DOMAIN_BYTES.search(content):
        return True
    if b"000-0000" in shape or (b"+" in shape and b"+0" in shape):
        return True
    return b"0.0" in shape and any(sought in shape for sought in DOTTED)


def mask(text: str) -> str:
    """`text` with every e-mail address, IP address and phone number replaced by its special string."""
    shape = _shape(text)
    for kind in KINDS:
        if _may_hold(shape, kind):
            masked = _replaced(text, shape, kind)
            if masked is not text:
                text, shape = masked, _shape(masked)
    return text


def _may_hold(shape: bytes, kind: Kind) -> bool:
    return kind.rare in shape and any(sought in shape for sought in kind.sought)


def _shape(text: str) -> bytes:
    """One byte for each character."""
    return text.encode("ascii", "replace").translate(SHAPE)


def _replaced(text: str, shape: bytes, kind: Kind) -> str:
    """What `kind.pattern.sub(kind.replace, text)` makes, at the hints only."""
    pieces, done = list[str](), 0
    for hint in kind.hint.finditer(shape):
        at = hint.start()
        if kind is KINDS[0] and not DOMAIN.match(
            text, at, at + kind.behind
        ):  # else tries are 65 for each of "@a.@a.@a."
            continue
        tries = (
            kind.pattern.match(text, start, at + kind.behind)
            for start in range(max(done, at - kind.before), at + 1)
        )
        if found := next(filter(None, tries), None):
            pieces += text[done : found.start()], kind.replace(found)
            done = found.end()
    return "".join([*pieces, text[done:]]) if pieces else text
