"""e-mail addresses, IP addresses and phone numbers → OLMo's three special strings

The strings are Dolma's (Soldaini et al. 2024), which OLMo's tokenizer has as added tokens that are *not* special: in its
streams each becomes one id (50277, 50278 and 0), because only special tokens are spelled out as text; in a tokenizer of
our own training they are ordinary text. Neither is a control id. Dolma masks pages with up to five findings and drops
those with more; here all are masked and nothing is dropped, since a threshold would take whole board threads.

Rather a number too few than a price, year, ISBN, version or post number too many: a phone number is North American
(3-3-4 digits, parted) or international with its plus sign; bare runs of digits never are one. An IP address is a dotted
quad that is neither private nor all below ten (sections, versions, public resolvers). Masking twice is masking once:
nothing is masked that touches a special string.
"""

import re

VERSION = 1
EMAIL, PHONE, IP = "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"

# What a number looks like, before any pattern runs: digits are 0, what parts a phone's digits is -, a dot stays, so that
# one table and a few searches for short strings (both at memory speed) clear most texts.
SHAPE = bytes(0x30 if 0x30 <= b <= 0x39 else 0x2D if b in b" -." else 0x2B if b == 0x2B else 0x78 for b in range(256))
DOTS = bytes(0x30 if 0x30 <= b <= 0x39 else 0x2E if b == 0x2E else 0x78 for b in range(256))

_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9])(?<!\|\|\|)[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9@-]|\|\|\|)"
)
_AT = re.compile(r"@[A-Za-z0-9-]{1,63}\.")
_BEFORE = r"(?<![\w$€£#>+./=&%@-])(?<!\|\|\|)"
_AFTER = r"(?![\w%]|[-./]\w|\|\|\||[-./]\|\|\|)"
_NORTH_AMERICAN = re.compile(_BEFORE + r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}" + _AFTER)
_INTERNATIONAL = re.compile(_BEFORE + r"\+[1-9]\d{0,3}(?:[ .-]?\(?\d{1,5}\)?){1,7}" + _AFTER)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_QUAD = re.compile(
    r"(?<![\w.-])(?<![^/]/)(?<!ersion )(?<!\|\|\|)(?:" + _OCTET + r"\.){3}" + _OCTET + r"(?![\w-]|\.\w|\|\|\||[-.]\|\|\|)"
)
_NOBODYS = re.compile(r"(?:\d\.\d\.\d\.\d|(?:0|10|127|169\.254|172\.(?:1[6-9]|2\d|3[01])|192\.168|22[4-9]|2[3-5]\d)\..*)\Z")


def mask(text: str) -> str:
    """`text` with every e-mail address, IP address and phone number replaced by its special string."""
    if "@" in text and _AT.search(text):
        text = _ADDRESS.sub(EMAIL, text)
    content = text.encode(errors="replace")
    shape = content.translate(SHAPE)
    if b"000-0000" in shape:
        text = _NORTH_AMERICAN.sub(PHONE, text)
    if b"+0" in shape:
        text = _INTERNATIONAL.sub(_phone, text)
    if b"0-0" in shape and _has_quad(content.translate(DOTS)):
        text = _QUAD.sub(_address, text)
    return text


def _has_quad(dots: bytes) -> bool:
    return b"0.0.0" in dots or b"0.00.0" in dots or b"0.000.0" in dots


def _phone(found: re.Match[str]) -> str:
    """10 to 15 digits (E.164) behind the plus sign are a phone number."""
    return PHONE if 10 <= sum(map(str.isdigit, found[0])) <= 15 else found[0]


def _address(found: re.Match[str]) -> str:
    return found[0] if _NOBODYS.match(found[0]) else IP
