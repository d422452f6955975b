"""the special strings that replace personal data, and what the rules that find it share

Nothing that touches a special string is masked, so that masking twice gives the same as masking
once.
"""

from typing import NamedTuple

EMAIL = "|||EMAIL_ADDRESS|||"
PHONE = "|||PHONE_NUMBER|||"
IP = "|||IP_ADDRESS|||"

# For regular expressions: not directly after a special string; one that follows.
NOT_AFTER_SPECIAL = r"(?<!_ADDRESS\|\|\|)(?<!_NUMBER\|\|\|)"
SPECIAL = r"\|\|\|(?:EMAIL_ADDRESS|PHONE_NUMBER|IP_ADDRESS)\|\|\|"
MASKED_NUMBER = r"\|\|\|(?:PHONE_NUMBER|IP_ADDRESS)\|\|\|"

# Contents of character classes. Of those outside ASCII each begins in UTF-8 with one of the bytes
# that pii.SHAPE maps to "-".
BLANKS = " \xa0\u2000-\u200a\u202f\u205f\u3000"
DASHES = r"\-\xad\u2010-\u2015\u2212\ufe58\ufe63\uff0d"  # with the soft hyphen
BULLETS = "\xb7\u2022\u2027\u2219\u22c5"
ZERO_WIDTH = "\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"


class Finding(NamedTuple):
    """The span of a text to replace, and by what."""

    start: int
    end: int
    replacement: str
