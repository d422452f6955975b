"""Addresses and numbers are masked whole in every form that people write; code is not masked."""

import pytest

from data_prep.cleaning.clean_document import scan
from data_prep.cleaning.pii import EMAIL, IP, PHONE, mask

HYPHEN, NB_HYPHEN, FIGURE_DASH, EN_DASH, EM_DASH, MINUS = "\u2010\u2011\u2012\u2013\u2014\u2212"
NB_SPACE, THIN_SPACE, NARROW_NB_SPACE = "\xa0\u2009\u202f"

EMAILS = [
    "jürgen@example.com",
    "ju\u0308rgen@example.com",  # the dots are a combining mark
    "josé.núñez@example.com",
    "иван.петров@example.ru",
    "o'brien@example.com",
    "o’brien@example.com",
    "anne.o'neil+lists@mail.example.co.uk",
    "first.last+tag@example.com",
    "a+b+c@example.org",
    "_private_@example.org",
    "x_y-z%w@example.org",
    "r&d@example.com",
    "bounce+user=example.com@lists.example.org",
    "user@münchen.de",
    "用户@例子.公司",
    "user@xn--mnchen-3ya.de",
    "user@пример.рф",
    '"joe bloggs"@example.com',
    '"joe@bloggs"@example.com',
    "user@[192.0.2.1]",
    "user@[IPv6:2001:db8::1]",
    "{alice, bob}@cs.example.edu",
    "JO_DOE@EXAMPLE.CO.UK",
    "user＠example.com",  # full-width
    "jo\u200bhn@exa\xadmple.com",  # zero-width space, soft hyphen
    "name@company.photography",
    "a@b.io",
]
PHONES = [
    *(f"212{dash}555{dash}0100" for dash in "-" + HYPHEN + NB_HYPHEN + FIGURE_DASH + EN_DASH),
    *(f"212{dash}555{dash}0100" for dash in EM_DASH + MINUS + "·•"),
    *(f"212{blank}555{blank}0100" for blank in " " + NB_SPACE + THIN_SPACE + NARROW_NB_SPACE),
    f"(212){NB_SPACE}555{NB_HYPHEN}0100",
    f"(212) 555{EN_DASH}0100",
    "(212)555-0100",
    "212 - 555 - 0100",
    f"212 {EN_DASH} 555 {EN_DASH} 0100",
    "212/555-0100",
    "2１２-５５５-０１００",  # full-width digits
    "212－555－0100",  # full-width dashes
    "212-\u2060555-\u20600100",  # word joiners
    "1-800-555-0199",
    f"1{NB_HYPHEN}800{NB_HYPHEN}555{NB_HYPHEN}0199",
    f"+1{NB_SPACE}(212){NB_SPACE}555{NB_HYPHEN}0100",
    "(+44) 20 7946 0958",
    f"+44{NB_SPACE}20{NB_SPACE}7946{NB_SPACE}0958",
    f"+44{EN_DASH}20{EN_DASH}7946{EN_DASH}0958",
    f"+44 20 7946{NB_HYPHEN}0958",
    "+49 (0)30 901820",
    "+49 30/901820",
    "＋44 20 7946 0958",
    "212-555-0100 ext. 45",
    "212-555-0100x45",
    "(212) 555-0100, extension 4512",
]
IPV6 = [
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "2001:DB8:85A3:0:0:8A2E:370:7334",
    "2001:db8:85a3::8a2e:370:7334",
    "2001:db8::1",
    "2001:db8::",
    "2a00:1450:4001:81b::200e",
    "2600::1",
    "::ffff:203.0.113.7",
    "::FFFF:203.0.113.7",
    "64:ff9b::203.0.113.7",
    "::ffff:cb00:7107",
    "::FFFF:CB00:7107",
    "2001:db8::203.0.113.7",
    "fe80::1ff:fe23:4567:890a%eth2",
    "fe80::21b:44ff:fe11:3ab7",
    "2001:db8:1:2:3:4:5:6",
]
FORMS = (
    [(text, EMAIL) for text in EMAILS]
    + [(text, PHONE) for text in PHONES]
    + [(text, IP) for text in IPV6]
)
FRAMES = [
    *["{}", "see {} now", "({})", "<{}>", "[{}]", "“{}”", "‘{}’", "'{}'", '"{}"', "{}.", "{},"],
    *["{};", "{}!", "{}?", "{}…", "write to: {}.\nthe end", "{}, or not", "{} — soon", "«{}»"],
    *["é {} é", "{})", "*{}*", "{}:\nthe end", "{}..."],
]


@pytest.mark.parametrize(("text", "special"), FORMS)
def test_every_form_is_masked_whole_in_every_frame(text, special):
    for frame in FRAMES:
        assert mask(frame.format(text)) == frame.format(special), ascii(frame)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mailto:jo@example.org", f"mailto:{EMAIL}"),
        ("email=jo@example.org", f"email={EMAIL}"),
        ("https://x.org/?a=b&email=jo@x.org&x=y", f"https://x.org/?a=b&email={EMAIL}&x=y"),
        ("name='jo@example.org'", f"name='{EMAIL}'"),
        ("jo@example.org/jane@example.org", f"{EMAIL}/{EMAIL}"),
        ("jo@example.org;jane@example.org", f"{EMAIL};{EMAIL}"),
        ("jo@example.org,jane@example.org", f"{EMAIL},{EMAIL}"),
        ("jo@example.org:secret", f"{EMAIL}:secret"),
        ("jo@example.org(work)", f"{EMAIL}(work)"),
        ("jo@example.org-jane", f"{EMAIL}-jane"),
        ("jo@example.com.Then we left", f"{EMAIL}.Then we left"),
        ("|||jo@example.org|||", f"|||{EMAIL}|||"),
        ("_jo@example.org_", f"_{EMAIL}_"),
        ("联系foo@example.com谢谢", f"联系{EMAIL}谢谢"),
        ("Zürich: jürgen@example.com, O'Hara", f"Zürich: {EMAIL}, O'Hara"),
        ("phone: 212-555-0100/212-555-0101", f"phone: {PHONE}/{PHONE}"),
        ("212-555-0100/0101", PHONE),
        ("(212) 555-0100.We are open", f"{PHONE}.We are open"),
        ("203.0.113.7.The end", f"{IP}.The end"),
        ("212 555 1234, 212 555 5678", f"{PHONE}, {PHONE}"),
        ("212 555 1234 212 555 5678", f"{PHONE} {PHONE}"),
        ("212 555 0100 87", f"{PHONE} 87"),
        ("call us at 800 600 1000", f"call us at {PHONE}"),
        ("212/555-0100/212/555-0101", f"{PHONE}/{PHONE}"),
        ("212-555-0100—call me", f"{PHONE}—call me"),
        ("+44 20 7946 0958 2019 was", f"{PHONE} 2019 was"),
        ("\u202a(212) 555\u20110100\u202c", f"\u202a{PHONE}\u202c"),
        ("http://[2001:db8::1]:8080/x", f"http://[{IP}]:8080/x"),
        ("2001:db8::/32", f"{IP}/32"),
        ("203.0.113.7-203.0.113.20", f"{IP}-{IP}"),
        ("203.0.113.7–203.0.113.20", f"{IP}–{IP}"),
        ("IP:203.0.113.7", f"IP:{IP}"),
        ("from 12.34.56.78 to 2001:db8::7", f"from {IP} to {IP}"),
    ],
)
def test_what_stands_around_a_finding_stays(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        # code
        *["q@k.transpose(-2, -1)", "q@k.transpose(", "x@self.weight", "x@self.data.T", "a@b.T"],
        *["x@W.mT", "attn@v.mean()", "w@x.to(device)", "A@B@C.inv()"],
        *["git@github.com:org/repo.git", "git@host:path", "git@host.example.com:path"],
        *["deploy@web1.example.com:/var/www/app", "ssh://git@github.com/org/repo"],
        *["@app.route('/')", "\n@pytest.mark.parametrize(", "@property\ndef x"],
        *["foo(@Inject.one x)", "seurat@meta.data", "[root@web01.localdomain ~]#"],
        *["user@localhost", "std::vector", "a::b", "Face::Add", "DB::abc", "d3::e", "::"],
        *["std::cafe", "x[::2]", "x[1::2]", "f(::1)"],
        # files and packages
        *["icon@2x.png", "assets/icon@2x.png", "logo@3x.webp", "icon@2x.ai", "lodash@4.17.21"],
        *["react@18.3.0-rc.1", "@types/node@18.0.0", "actions/checkout@v4.1.0"],
        # versions
        *["11.2.0.3 patch", "Oracle 11.2.0.3", "12.1.0.2", "kernel 2.6.32.71"],
        *["version 11.2.0.192", "release 12.34.56.78", "12.34.56.178 beta", "v12.34.56.178"],
        *["firmware: 12.34.56.178", "section 10.12.1.3", "V8: upgrade to 3.24.35.122"],
        *["update V8 to 9.4.146.26", "OID 1.3.101.110"],
        # plain numbers, sizes, times
        *["300 200 1000", "300 200 1000 mm", "250 300 1000", "640 480 2000", "404 500 2000"],
        *["500\u00a0250\u00a01000", "300.200.1000", "300 – 200 – 1000", "931.494 0954"],
        *["483 597.8525", "1.648 777 2536", "212 555 1234 87 15", "1 212 555 1234 87"],
        *["+1 000 000 000", "+10 000 000 000", "10:30:45", "12:34:56:78", "1:2:3:4:5:6:7:8"],
        *["00:1b:44:11:3a:b7", "2019–2020–2021", "1914–1918"],
        *["ISBN 978\u20110\u2011306\u201140615\u20117", "100–200–3000 kg", "@handle said"],
        *["p@ssw.rd"],
        # addresses of no person
        *["::1", "fe80::1", "fd00::1", "ff02::1", "127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1"],
        *["::ffff:192.168.1.1"],
    ],
)
def test_code_versions_sizes_and_plain_numbers_stay(text):
    for frame in FRAMES:
        assert mask(frame.format(text)) == frame.format(text), ascii(frame)


@pytest.mark.parametrize(("text", "special"), FORMS)
def test_the_scan_sees_every_form(text, special):
    assert scan(f"“a” {text} b").may_be_masked
    assert scan(f"a {text} b").may_be_masked
