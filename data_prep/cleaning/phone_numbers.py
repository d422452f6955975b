"""find phone numbers: North American ones, and international ones with their plus sign

A North American number has 3, 3 and 4 digits, separated; a bare run of digits never is one. The
separators are dashes, blanks, dots and bullets of any kind, those that do not break included. Three
numbers with blanks, dots or spaced dashes between them are often sizes or a row of a table
("300 200 1000"), so they are a phone number only if they look like one: not all round, of an area
code that exists, not beside another number; or if the words before say so ("call us at …").

An international number has 10 to 15 digits (E.164). An extension belongs to its number.
"""

import re

from data_prep.cleaning.pii_masks import (
    BLANKS,
    BULLETS,
    DASHES,
    MASKED_NUMBER,
    NOT_AFTER_SPECIAL,
    PHONE,
    SPECIAL,
    ZERO_WIDTH,
    Finding,
)

BLANK = f"[{BLANKS}]"
# pii.SHAPE shows a separator as one dot, or as dashes only.
SEPARATOR = rf"(?:\.|[{ZERO_WIDTH}]?(?:{BLANK}?[{DASHES}{BULLETS}]{BLANK}?|{BLANK})[{ZERO_WIDTH}]?)"
MAX_PREFIX = 20  # characters from the start of a North American number to its exchange code
DIGITS_OF_E164 = range(10, 16)

BEFORE = (
    rf"(?<![\w$€£#>+.=&%@-])(?<![0-9][{DASHES}])"
    rf"{NOT_AFTER_SPECIAL}(?<!IP_ADDRESS\|\|\|[{DASHES}])(?<!_NUMBER\|\|\|[{DASHES}])"
)
# A dot before a capital letter ends a sentence.
BEHIND = (
    rf"(?![\w%]|[-/]\w|\.(?![A-Z][a-z])\w"
    rf"|[{DASHES}][0-9]|[-./]?{SPECIAL}|[{DASHES}]{MASKED_NUMBER})"
)
EXTENSION = (
    rf"(?:[,;]?{BLANK}{{0,2}}(?i:x|ext\.?|extn\.?|extension){BLANK}?[.:#]?{BLANK}?[0-9]{{1,6}})?"
)
CORE = (
    rf"(?:\+?1{SEPARATOR}?)?(?:\([2-9][0-9]{{2}}\){SEPARATOR}?|[2-9][0-9]{{2}}(?:{SEPARATOR}|/))"
    rf"[2-9][0-9]{{2}}{SEPARATOR}[0-9]{{4}}{EXTENSION}"
)
# "212-555-0100/0101" is one number and another last group, "212-555-0100/212-555-0101" two numbers.
NORTH_AMERICAN = re.compile(
    rf"(?<!/){BEFORE}{CORE}(?:/{CORE}){{0,3}}(?:/[0-9]{{2,4}}(?![0-9/]))?{BEHIND}"
)
ONE = re.compile(CORE)
GROUPS = re.compile(
    rf"(?:1(?P<prefix>{SEPARATOR})?)?(?P<area>[0-9]{{3}})(?P<separator>{SEPARATOR}|/)"
    rf"(?P<exchange>[0-9]{{3}})(?P<last>{SEPARATOR})(?P<line>[0-9]{{4}})"
)
TIGHT = re.compile(f"[{ZERO_WIDTH}]?[/{DASHES}][{ZERO_WIDTH}]?")
CUE = re.compile(
    r"\b(?:tel|telephone|phones?|ph|call|fax|cell|mobile|mob|text|sms|whatsapp|dial|hotline|contact"
    r"|toll[ -]free)\b[^\w\n]{0,4}(?:[a-z]{1,8}[^\w\n]{1,3}){0,3}\Z",
    re.IGNORECASE,
)
CUE_WIDTH = 48
# A number beside it; of the same form it is another phone number.
THREE_GROUPS = rf"[2-9][0-9]{{2}}{SEPARATOR}[2-9][0-9]{{2}}{SEPARATOR}[0-9]{{4}}"
NUMBER_BEFORE = re.compile(rf"(?:[0-9]|{MASKED_NUMBER}),?{BLANK}\Z")
PHONE_BEFORE = re.compile(rf"(?<![0-9]){THREE_GROUPS},?{BLANK}\Z")
NUMBER_BEHIND = re.compile(rf",?{BLANK}(?:(?!{THREE_GROUPS}(?![0-9]))[0-9]|{MASKED_NUMBER})")
BEFORE_WIDTH = 30
# 931.494 0954, 483 597.8525 and 1.648 777 2536
DECIMAL = re.compile(
    rf"1?[0-9]{{3}}\.[0-9]{{3}}{BLANK}|1?[0-9]{{3}}{BLANK}[0-9]{{3}}\.|1\.[0-9]{{3}}{BLANK}"
)
NO_AREA = re.compile(r"[2-9]9|[2-9]11|37|96|[2-4]00")  # never assigned in North America

GROUP = (
    rf"(?:(?:{SEPARATOR}|/)?\([0-9]{{1,5}}\)|(?:{SEPARATOR}|/)[0-9]{{1,10}}|(?<=\))[0-9]{{1,10}})"
)
INTERNATIONAL = re.compile(
    rf"{BEFORE}(?P<number>(?:\(\+[1-9][0-9]{{0,3}}\)|\+[1-9][0-9]{{0,14}}){GROUP}{{0,7}}){EXTENSION}{BEHIND}"
)
COUNTRY = re.compile(r"\(\+[0-9]+\)|\+[0-9]+")
LAST_GROUP = re.compile(GROUP)
END = re.compile(BEHIND)
THOUSANDS = re.compile(rf"\+[0-9]{{1,3}}(?:[{BLANKS},.][0-9]{{3}})*[{BLANKS},.]000[{BLANKS},.]000")


def find_north_american(text: str, position: int, floor: int) -> Finding | None:
    """The number whose exchange code is at `position`, if there is one and not before `floor`."""
    for start in range(max(floor, position - MAX_PREFIX), position):
        if text[start] in "+1(23456789" and (match := NORTH_AMERICAN.match(text, start)):
            if match.end() <= position or _is_plain(text, start, match.end()):
                continue
            n_numbers = len(ONE.findall(match[0]))
            return Finding(start, match.end(), "/".join([PHONE] * n_numbers))
    return None


def find_international(text: str, position: int, floor: int) -> Finding | None:
    """The number whose plus sign is at `position`, likewise."""
    start = position - 1 if position > floor and text[position - 1] == "(" else position
    match = INTERNATIONAL.match(text, start) or INTERNATIONAL.match(text, position)
    if not match:
        return None
    start, end = match.span()
    if _n_digits(match["number"]) not in DIGITS_OF_E164:
        end = _end_of_longest(text, start, match.end("number"))
    if end is None or THOUSANDS.fullmatch(text, start, end):
        return None
    return Finding(start, end, PHONE)


def _n_digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _end_of_longest(text: str, start: int, end: int) -> int | None:
    """Where the number ends if it has at most 15 digits: a number may follow it after a blank."""
    country = COUNTRY.match(text, start)
    assert country, start
    stop = country.end()
    n_digits = _n_digits(country[0])
    longest = None
    while stop <= end and n_digits < DIGITS_OF_E164.stop:
        if n_digits in DIGITS_OF_E164 and END.match(text, stop):
            longest = stop
        group = LAST_GROUP.match(text, stop, end)
        if not group:
            break
        stop = group.end()
        n_digits += _n_digits(group[0])
    return longest


def _is_plain(text: str, start: int, end: int) -> bool:
    """Whether three numbers of 3, 3 and 4 digits are rather sizes, or part of a row of numbers."""
    groups = GROUPS.match(text, start)
    # A plus sign or brackets are of phone numbers only.
    if not groups or CUE.search(text, max(0, start - CUE_WIDTH), start):
        return False
    area, exchange, line = groups["area"], groups["exchange"], groups["line"]
    n_zeros = [len(number) - len(number.rstrip("0")) for number in (area, exchange, line)]
    separators = (groups["separator"], groups["last"])
    if all(TIGHT.fullmatch(separator) for separator in separators):
        return min(n_zeros) >= 2
    if DECIMAL.match(text, start):
        return True
    if line[0] == "0":  # no other number begins with 0
        return False
    low = max(0, start - BEFORE_WIDTH)
    if NUMBER_BEFORE.search(text, low, start) and not PHONE_BEFORE.search(text, low, start):
        return True
    is_round = min(n_zeros) >= 1 or min(n_zeros[1:]) >= 2
    is_no_phone = NO_AREA.match(area) or exchange[1:] == "11"
    return bool(is_round or is_no_phone or NUMBER_BEHIND.match(text, end))
