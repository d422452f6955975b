"""find e-mail addresses around an @, and leave code, file names and host paths alone

An address is a local part, an @ and a domain that ends in a top-level domain. The local part takes
letters of any script, the signs that people use inside words of it (o'brien+list@…, r&d@…), a
quoted string and a list in braces ({ann, bob}@…). A sign at its edge is not part of it, nor is the
key of `email=ann@…`.

    q@k.transpose(0, 1)     no top-level domain           x@w.to(device)      a call
    icon@2x.png             likewise                      git@host.org:path   a path on a host
    seurat@meta.data        `data` is one, but nobody has an address there: TOP_LEVEL leaves it out

The time is linear in the text: what lies between two @ is looked at once for each of them.
"""

import re

from data_prep.cleaning.pii_masks import EMAIL, NOT_AFTER_SPECIAL, ZERO_WIDTH, Finding

# The top-level domains of countries, and those of general use under which people have addresses.
# Names that programs use often (data, map, select, call, dot) and suffixes of files (zip, mov) are
# left out; onion, example and test are in use in texts.
CLASSIC = frozenset({"com", "org", "net", "edu", "gov", "mil", "int", "info", "biz"})
_COUNTRIES = """
    ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs
    bt bv bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec
    ee eg er es et eu fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy
    hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz
    la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx
    my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re
    ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th
    tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw
"""
_GENERAL = """
    academy adult aero africa agency alsace amsterdam app archi army arpa art asia associates
    attorney auction audio band bank barcelona bayern beauty beer berlin best bible bike bio
    blog boston boutique brussels builders business bzh cafe camp capetown capital care career
    careers cash casino cat catering catholic center ceo chat cheap church city claims clinic
    clothing cloud club coach codes coffee college cologne community company computer
    construction consulting contact contractors cooking cool coop corsica country courses credit
    cruises cymru dance dating deals degree delivery democrat dental dentist desi design dev
    diet digital direct directory discount doctor dog domains dubai durban earth eco education
    email energy engineer engineering enterprises equipment estate eus events example exchange
    expert express family fans farm fashion film finance financial fish fishing fitness florist
    foundation frl fun fund furniture fyi gal gallery games garden gay gent gift gifts gives
    glass global gmbh gold golf graphics gratis green group guide guitars guru hair hamburg haus
    health healthcare help helsinki hiphop hockey holdings holiday homes horse hospital host
    hosting house icu immo immobilien inc industries ink institute insurance insure
    international invalid investments irish ist istanbul jetzt jewelry jobs joburg juegos kaufen
    kids kitchen kiwi koeln kyoto land lat latino law lawyer lease legal lgbt life lighting
    limited limo live llc loan loans lol london love ltd ltda luxury madrid maison management
    market marketing markets mba media melbourne memorial men miami mobi moda moe mom money
    moscow motorcycles museum music nagoya name navy network news ngo ninja nrw nyc observer
    okinawa one ong onion onl online osaka ovh page paris partners parts party pet pharmacy phd
    photo photography photos physio pics pictures pink pizza plumbing plus poker porn post press
    pro productions prof promo properties property pub quebec racing realestate realtor realty
    recipes red rehab reise reisen ren rent rentals repair report republican rest restaurant
    review reviews rich rio rip rocks rodeo ruhr saarland sale salon school schule science scot
    security services sex sexy shoes shop shopping singles site ski soccer social software solar
    solutions space sport spot stockholm storage store stream studio study style sucks supplies
    supply support surf surgery swiss sydney systems taipei tattoo tax taxi team tech technology
    tel tennis test theater theatre tickets tienda tips tires tirol today tokyo tools top tours
    town toys trade trading training travel tube university uno vacations vegas ventures
    versicherung vet viajes video villas vin vip vision vlaanderen vodka vote voting voto voyage
    wales wang watch webcam website wedding wien wiki win wine work works world wtf xxx xyz
    yachts yoga yokohama zone zuerich
"""
COUNTRIES = frozenset(_COUNTRIES.split())
TOP_LEVEL = COUNTRIES | CLASSIC | frozenset(_GENERAL.split())
# Of COUNTRIES: also names of methods, so that `x@w.to(device)` is code and `jo@x.de(work)` is not.
METHODS = frozenset({"as", "at", "do", "id", "in", "is", "it", "my", "no", "so", "to"})
NOT_HOSTS = frozenset({"self", "this"})
HOST_ACCOUNTS = frozenset({"git", "hg", "svn"})  # of a service, not of a person

# Scripts written without spaces: an address among them ends where the script changes.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u318f\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff"
)
# A letter, digit or combining mark of any other script; zero-width characters inside a word, too.
# Given by what it is not: signs, punctuation, blanks, symbols, emoji.
WORD = (
    r"[^\x00-/:-@\[-`{-\xa9\xab\xac\xae-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7"
    r"\u2000-\u200a\u2010-\u2029\u202f-\u205f\u2065-\u206f\u20a0-\u20cf\u2100-\u2bff\u2e00-\u2e7f"
    r"\u3000-\u303f\ud800-\uf8ff\ufe10-\ufe6f\uff00-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffff"
    rf"\U0001f000-\U0001faff{UNSPACED}]"
)
LABEL = rf"(?:{WORD}++(?:-++{WORD}++)*+|[{UNSPACED}]++)"
DOMAIN = re.compile(rf"@({LABEL}(?:\.{LABEL})++)")
LITERAL_DOMAIN = re.compile(r"@\[(?:[0-9.]{7,15}|(?:IPv6:)?[0-9A-Fa-f:.]{2,45})\]")
# Read backwards from the @, so that the end of the local part is found in one pass.
REVERSED_LOCAL = re.compile(
    rf"[+_-]?{WORD}++(?:(?:[._+%-]{{1,2}}|['’&=~!#$]){WORD}++)*+_?|[{UNSPACED}]++"
)
REVERSED_QUOTED = re.compile(r'"[^"\r\n]{1,64}"')
REVERSED_LIST = re.compile(r"\}[\w.,;| +&-]{1,128}\{")
FIRST_WIDTH = 64  # characters before the @ that are looked at first: the longest valid local part
KEYS = re.compile(r"(?:.*&)?(?:[A-Za-z_]+=)+")
INVISIBLE = re.compile(f"[\xad{ZERO_WIDTH}]+")
HYPHEN = re.compile(f"[-\xad{ZERO_WIDTH}]")  # visible or not
SCREEN_SCALE = re.compile(r"[1-9]x")  # icon@2x.ai
HOST_PATH = re.compile(r":(?!\w+://)(?:[^\s/]{0,64}/|~)")
ACCOUNT = re.compile(r"[\w.-]+")
OTHER_SCHEME = re.compile(r"(?<!http)(?<!https)(?<!ftp)(?<!mailto)://\Z")
NOT_AFTER = re.compile(NOT_AFTER_SPECIAL)


def find(text: str, position: int, floor: int) -> Finding | None:
    """The address around the @ at `position`, if there is one and not before `floor`."""
    literal = LITERAL_DOMAIN.match(text, position)
    end = literal.end() if literal else _end_of_domain(text, position)
    if end is None:
        return None
    start = _start_of_local_part(text, position, floor, end)
    if start is None or not NOT_AFTER.match(text, start) or start == floor > 0:
        return None
    if _is_on_host(text, start, position, end):
        return None
    while text[end : end + 1] == "@" and (next_end := _end_of_domain(text, end)):
        end = next_end
    return Finding(start, end, EMAIL)


def _end_of_domain(text: str, position: int) -> int | None:
    """Where the longest domain with a top-level domain ends; what follows it may be a sentence
    without a space before it.
    """
    match = DOMAIN.match(text, position)
    if not match:
        return None
    labels = match[1].split(".")
    if labels[0] in NOT_HOSTS or SCREEN_SCALE.fullmatch(labels[0]):
        return None
    end = match.end()
    is_last = True
    for label, following in zip(reversed(labels[1:]), ["", *reversed(labels)], strict=False):
        head, *tail = HYPHEN.split(label, maxsplit=1)
        if _is_top_level(label) and (
            is_last or label.lower() in CLASSIC or following[:1].isupper()
        ):
            return None if _is_call(text, end, label) else end
        if tail and _is_top_level(head):
            return end - len(label) + len(head)
        end -= len(label) + 1
        is_last = False
    return None


def _is_top_level(label: str) -> bool:
    label = INVISIBLE.sub("", label)
    if not label.isascii():
        return len(label) > 1 and not any(map(str.isdigit, label))
    if label[:4].lower() == "xn--":
        return True
    name = label.lower()
    is_uniform = label.islower() or label.isupper() or label.istitle()  # x@W.mT is code
    return name in CLASSIC or (is_uniform and name in TOP_LEVEL)


def _is_call(text: str, end: int, label: str) -> bool:
    """Whether a call or an index follows, of a name that is no usual top-level domain."""
    if text[end : end + 1] not in ("(", "["):
        return False
    name = label.lower()
    return name in METHODS or (name not in CLASSIC and name not in COUNTRIES)


def _start_of_local_part(text: str, position: int, floor: int, end: int) -> int | None:
    bound = max(floor, text.rfind("@", floor, position) + 1)
    last = text[position - 1 : position]
    if last in ('"', "}"):
        pattern = REVERSED_QUOTED if last == '"' else REVERSED_LIST
        match = pattern.match(text[max(floor, position - 130) : position][::-1])
        return position - match.end() if match else None
    width = FIRST_WIDTH
    while True:
        low = max(bound, position - width)
        match = REVERSED_LOCAL.match(text[low:position][::-1])
        if not match:
            return None
        if match.end() < position - low or low == bound:
            break
        width *= 4
    start = position - match.end()
    if invisible := INVISIBLE.match(text, start, position):
        start = invisible.end()
    if keys := KEYS.match(text, start, position):
        start = keys.end() if keys.end() < position else start
    if text[start] == "_" and text[end : end + 1] == "_":  # emphasis of Markdown
        start += 1
    return start


def _is_on_host(text: str, start: int, position: int, end: int) -> bool:
    """Whether this is an account on a host, as commands and URLs name it, and not an address."""
    account = text[start:position]
    if account.lower() in HOST_ACCOUNTS or HOST_PATH.match(text, end):
        return True
    is_of_url = OTHER_SCHEME.search(text, max(0, start - 9), start) and ACCOUNT.fullmatch(account)
    return is_of_url is not None
