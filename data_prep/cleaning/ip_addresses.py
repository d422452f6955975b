"""find IP addresses of both versions; those that name no host on the internet stay

Version 4: a dotted quad that is neither private nor a version number. A version number stands
beside a word that says so ("version", "patch"), or has no part of 100 or more and two parts below
ten (11.2.0.3), which 1 address in 500 has.

Version 6: every form that the standard allows (compressed, with an embedded quad, with a zone), if
it is of the range that hosts have (2000::/3) or ends in a quad that would be masked. Names such as
`Face::Add` are of another range. Addresses of a site (fd00::1) stay, as private quads do, and those
of a link unless they have a long number, which is often that of the network card.
"""

import ipaddress
import re

from data_prep.cleaning.pii_masks import IP, NOT_AFTER_SPECIAL, SPECIAL, Finding

OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
QUAD = rf"(?:(?:{OCTET}\.){{3}}{OCTET})"
# A range of addresses is two of them with a hyphen.
QUADS = re.compile(
    rf"(?<![\w.-])(?<![^/]/){NOT_AFTER_SPECIAL}{QUAD}(?:-{QUAD})?(?!\w|-\w|\.(?![A-Z][a-z])\w|[-.]?{SPECIAL})"
)
ONE_QUAD = re.compile(QUAD)
NOT_PERSONAL = re.compile(
    r"([0-9]\.){3}[0-9]$"
    r"|(0|10|127|169\.254|172\.(1[6-9]|2[0-9]|3[01])|192\.168|22[4-9]|2[3-5][0-9])\."
)
VERSION_BEFORE = re.compile(
    r"\b(?:v|ver\.?|versions?|release|rel\.?|build|patch|firmware|revision|rev\.?|oid)"
    r"[ \xa0:=#-]{0,2}\(?\Z",
    re.IGNORECASE,
)
VERSION_BEHIND = re.compile(
    r"\)?[ \xa0-](?:patch(?:es|set)?|release|version|build|update|upgrade|firmware|driver|alpha"
    r"|beta|rc[0-9]?|sp[0-9])\b",
    re.IGNORECASE,
)
# "update V8 to 9.4.146.26": only small numbers, since addresses are updated, too.
UPDATE_BEFORE = re.compile(
    r"\b(?:up|down)(?:grad|dat)(?:e|ed|ing)(?: \w{1,16})? to[ \xa0]\Z"
    r"|\bpatch(?:ed|ing)? \w{1,16} to[ \xa0]\Z",
    re.IGNORECASE,
)
MAX_MAJOR = 32
WORD_WIDTH = 36

GROUP = r"[0-9A-Fa-f]{1,4}"
GROUPS = re.compile(
    rf"(?<![\w:.]){NOT_AFTER_SPECIAL}"
    rf"(?P<address>(?:(?:{GROUP})?:){{2,6}}{QUAD}|(?:(?:{GROUP})?:){{2,7}}(?:{GROUP}|(?<=[0-9A-Fa-f]::)))"
    rf"(?:%[0-9A-Za-z_]{{1,16}}+(?:[.-]\w{{1,16}}+){{0,3}})?(?![\w%]|:[\w:]|\.[0-9]|:?{SPECIAL})"
)
REVERSED_PREFIX = re.compile(r"[0-9A-Fa-f:]+")
MAX_PREFIX = 40  # characters from the start of an address to its quad
INTERFACE_MASK = (1 << 64) - 1
MAPPED = 0xFFFF  # ::ffff:0:0/96 has an address of version 4 as its last 32 bits
LINK = 0xFE80
HOSTS = 0x2000


def find_v4(text: str, position: int, floor: int) -> Finding | None:
    """The address whose first octet ends at `position`, if it does not begin before `floor`."""
    for start in range(max(floor, position - 2), position + 1):
        if match := QUADS.match(text, start):
            replacement = ONE_QUAD.sub(lambda quad: _masked(text, match, quad[0]), match[0])
            return Finding(start, match.end(), replacement) if replacement != match[0] else None
    return None


def find_v6(text: str, position: int, floor: int) -> Finding | None:
    """The address that has a colon at `position`, if there is one and not before `floor`."""
    low = max(floor, position - MAX_PREFIX)
    before = REVERSED_PREFIX.match(text[low:position][::-1])
    match = GROUPS.match(text, position - before.end() if before else position)
    if match and match.end() > position and _is_personal(match["address"]):
        return Finding(match.start(), match.end(), IP)
    return None


def _masked(text: str, match: re.Match[str], quad: str) -> str:
    """The special string, or the quad itself if it is no address of a host."""
    octets = [int(octet) for octet in quad.split(".")]
    is_small = max(octets) < 100 and sum(octet < 10 for octet in octets) >= 2
    if NOT_PERSONAL.match(quad) or is_small:
        return quad
    start, end = match.span()
    low = max(0, start - WORD_WIDTH)
    is_version = (
        VERSION_BEFORE.search(text, low, start)
        or VERSION_BEHIND.match(text, end)
        or (octets[0] < MAX_MAJOR and UPDATE_BEFORE.search(text, low, start))
    )
    return quad if is_version else IP


def _is_personal(text: str) -> bool:
    """Whether a text of the form of an address is one of a host, or has the number of a card."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    value = int(address)
    if value >> 32 == MAPPED:
        return not NOT_PERSONAL.match(str(ipaddress.IPv4Address(value & 0xFFFF_FFFF)))
    if "." in text:
        return not NOT_PERSONAL.match(text.rpartition(":")[2])
    if value >> 112 == LINK:
        return (value & INTERFACE_MASK) >> 32 > 0
    return value >> 125 == HOSTS >> 13
