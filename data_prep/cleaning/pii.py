"""mask e-mail addresses, IP addresses and phone numbers by OLMo's special strings

The strings are Dolma's (Soldaini et al. 2024). OLMo's tokenizer has them as added tokens that are
*not* special, so each becomes one id in its streams (50277, 50278 and 0), because only special
tokens are encoded as text. For a tokenizer of our own training they are ordinary text. None of them
is a control id. Dolma masks pages with up to five findings and drops those with more; here all are
masked and nothing is dropped, because a threshold would drop whole threads of a board.

The patterns prefer to miss a number rather than to mask a price, year, ISBN, version or post
number: a phone number is North American (3-3-4 digits, separated) or international with its plus
sign; a bare run of digits never is one. An IP address is a dotted quad that is neither private nor
all below ten (sections, versions, public resolvers). Masking twice gives the same as masking once:
nothing is masked that touches a special string.

The patterns run at 20 MB/s, so they are tried only near places where the text has the right shape:

    text    "Call (212) 555-0100, or a.b@example.org."
    shape   "xxxx-x000x-000-0000x-xx-x.x@xxxxxxx.xxx."      one table; then a search for the
                                                            `signs` of each kind, at memory speed
"""

import re
from collections.abc import Callable
from typing import NamedTuple

EMAIL = "|||EMAIL_ADDRESS|||"
PHONE = "|||PHONE_NUMBER|||"
IP = "|||IP_ADDRESS|||"


class PersonalKind(NamedTuple):
    """One kind of personal data. The shape of a finding contains `rare`, one of `signs`, and a
    match of `hint`, which locates it.
    """

    rare: bytes  # part of each of `signs`, and faster to search for
    signs: tuple[bytes, ...]
    hint: re.Pattern[bytes]
    before: int  # characters from the start of a finding to its hint, at most
    behind: int  # characters from the start of the hint that the pattern can read, at most
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str]


def _mask_phone(match: re.Match[str]) -> str:
    """10 to 15 digits (E.164) after the plus sign are a phone number."""
    return PHONE if 10 <= sum(map(str.isdigit, match[0])) <= 15 else match[0]


def _mask_ip(match: re.Match[str]) -> str:
    return match[0] if NOT_PERSONAL_IP.match(match[0]) else IP


SHAPE = bytes(
    0x30 if 0x30 <= byte <= 0x39 else 0x2D if byte in b" -" else byte if byte in b"+.@" else 0x78
    for byte in range(256)
)
BEFORE = r"(?<![\w$€£#>+./=&%@-])(?<!\|\|\|)"
BEHIND = r"(?![\w%]|[-./]\w|[-./]?\|\|\|)"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
NOT_PERSONAL_IP = re.compile(
    r"([0-9]\.){3}[0-9]$"
    r"|(0|10|127|169\.254|172\.(1[6-9]|2[0-9]|3[01])|192\.168|22[4-9]|2[3-5][0-9])\."
)
DOMAIN = re.compile(
    r"@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9@-]|\|\|\|)"
)
# It begins with a literal, so that the regular expression engine skips to it.
DOMAIN_BYTES = re.compile(DOMAIN.pattern.encode())
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
    PersonalKind(
        b"@", (b"@",), re.compile(rb"@(?<=[x0.+-]@)[x0]"), 64, 600, ADDRESS, lambda match: EMAIL
    ),
    PersonalKind(
        b"0",
        (b"000-0000", b"000.0000"),
        re.compile(rb"000[-.]0000"),
        9,
        12,
        NORTH_AMERICAN,
        lambda match: PHONE,
    ),
    PersonalKind(b"+", (b"+0",), re.compile(rb"\+0"), 0, 100, INTERNATIONAL, _mask_phone),
    PersonalKind(
        b"0.0",
        (b"0.0.0", b"0.00.0", b"0.000.0"),
        re.compile(rb"0\.0{1,3}\.0"),
        2,
        20,
        QUAD,
        _mask_ip,
    ),
)
# The signs that `may_be_masked` searches for in a loop; it names all others.
DOTTED_SIGNS = tuple(sign for kind in KINDS for sign in kind.signs if b"0.0" in sign)


def may_be_masked(content: bytes, shape: bytes) -> bool:
    """False only if `mask` cannot change the text of these UTF-8 bytes.

    shape: the bytes translated by SHAPE; marks for other bytes are allowed.
    """
    if b"@" in shape and DOMAIN_BYTES.search(content):
        return True
    if b"000-0000" in shape or (b"+" in shape and b"+0" in shape):
        return True
    return b"0.0" in shape and any(sign in shape for sign in DOTTED_SIGNS)


def mask(text: str) -> str:
    """`text` with each e-mail address, IP address and phone number replaced by its special string.

    A text without any is returned itself, not a copy.
    """
    shape = _shape_of(text)
    for kind in KINDS:
        if kind.rare in shape and any(sign in shape for sign in kind.signs):
            masked = _replace_kind(text, shape, kind)
            if masked is not text:
                text = masked
                shape = _shape_of(masked)
    return text


def _shape_of(text: str) -> bytes:
    """One byte per character."""
    return text.encode("ascii", "replace").translate(SHAPE)


def _replace_kind(text: str, shape: bytes, kind: PersonalKind) -> str:
    """The same as `kind.pattern.sub(kind.replace, text)`, but tried at the hints only."""
    pieces = list[str]()
    n_done = 0
    for hint in kind.hint.finditer(shape):
        hint_start = hint.start()
        limit = hint_start + kind.behind
        # For "@a.@a.@a." this saves 65 attempts per "@".
        if kind is KINDS[0] and not DOMAIN.match(text, hint_start, limit):
            continue
        attempts = (
            kind.pattern.match(text, start, limit)
            for start in range(max(n_done, hint_start - kind.before), hint_start + 1)
        )
        if match := next(filter(None, attempts), None):
            pieces += text[n_done : match.start()], kind.replace(match)
            n_done = match.end()
    return "".join([*pieces, text[n_done:]]) if pieces else text
