"""Personal addresses and numbers are masked, other numbers are not."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.cleaning.pii import (
    EMAIL,
    FULL_WIDTH,
    IP,
    KINDS,
    PHONE,
    mask,
    may_be_masked,
    shape_of,
)

pieces = st.sampled_from(
    [
        *["a", "é", "7", "21", "212", "555", "0100", "1", "@", "a@b.cd", ".", "-", " ", "+"],
        *["(", ")", "/", "|", "|||", "\n", "👩", "٣", "212-555-0100", "+44 20 7946 0958"],
        *["203.0.113.7", "b.org", EMAIL, PHONE, IP, "version ", "#", "\ud800", "212 555 1234"],
        *["–", "\u2011", "\xa0", "\xad", "\u200b", "＠", "５", "－", ":", "::", "2001:db8::1"],
        *["ff", "b.com", "'", "&", "=", "_", "x", "://", "git@", "谢", '"', "{", "}", "call "],
    ]
)
texts = st.lists(pieces, max_size=14).map("".join) | st.text(
    st.characters() | st.sampled_from("a0129@.+-() |")
)


def mask_without_hints(text: str) -> str:
    """The same as `mask`, with the rules tried at every character."""
    for kind in KINDS:
        pieces = []
        n_done = 0
        read = text.translate(FULL_WIDTH)
        for position in range(len(text)):
            if position >= n_done and (finding := kind.find(read, position, n_done)):
                pieces += text[n_done : finding.start], finding.replacement
                n_done = finding.end
        text = "".join([*pieces, text[n_done:]])
    return text


@given(texts)
@example("212-555-0100-212-555-0100-212-555-0100")
@example("a@b.cd@e.fg")
def test_masking_twice_gives_the_same_as_masking_once(text):
    once = mask(text)
    assert mask(once) == once


@given(texts)
def test_the_hints_miss_no_finding(text):
    assert mask(text) == mask_without_hints(text)


@given(texts)
def test_a_text_that_masking_changes_is_reported_as_maskable(text):
    content = text.encode(errors="surrogatepass")
    assert mask(text) == text or may_be_masked(content, shape_of(content))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jo.doe+x@mail.example.org.", f"write to {EMAIL}."),
        ("<JO_DOE@EXAMPLE.CO.UK>", f"<{EMAIL}>"),
        ("a@b.org, c@d.net", f"{EMAIL}, {EMAIL}"),
        ("...x@y.io", f"...{EMAIL}"),
        ("ünïk@example.com", EMAIL),
        ("call 212-555-0100 now", f"call {PHONE} now"),
        ("(212) 555-0100", PHONE),
        ("(212)555-0100.", f"{PHONE}."),
        ("Tel:212.555.0100", f"Tel:{PHONE}"),
        ("212 555 0100", PHONE),
        ("1-800-555-0199", PHONE),
        ("+1 (800) 555-0199", PHONE),
        ("+44 20 7946 0958,", f"{PHONE},"),
        ("+49 (0)30 901820", PHONE),
        ("+12125550100", PHONE),
        ("from 203.0.113.7:8080", f"from {IP}:8080"),
        ("http://198.51.100.23/x", f"http://{IP}/x"),
        ("[203.0.113.255]", f"[{IP}]"),
        ("203.0.113.7 a@b.org +44 20 7946 0958", f"{IP} {EMAIL} {PHONE}"),
    ],
)
def test_personal_data_is_masked(text, masked):
    assert mask(text) == masked
    assert mask(f"— “é” 👩 {text}") == f"— “é” 👩 {masked}"


@pytest.mark.parametrize(
    "text",
    [
        *["in 2019, 1,234,567 people", "1914-1918", "2024-05-17 12:30:45", "12/31/1999"],
        *["31.12.1999", "17.05.2024 10:30", "$212 555 0100", "€1.299.000,00", "$1,234.5678"],
        *["3.14159265358979", "100 000 000", "+1 000 000", "+20% to 30%", "ISBN 978-0-306-40615-7"],
        *["ISBN 0-306-40615-2", "ISSN 0317-8471", "doi:10.1000/182.4567", "arXiv:2505.04741"],
        *[">>123456789", "No.123456789", "no.98765432:", ">>212555010", "#2125550100"],
        *["id 2125550100", "1234567890", "v1.2.3.4", "version 10.20.30.40", "1.2.3.4"],
        *["section 2.1.1.3", "Chrome/49.0.262.23", "10.0.0.1", "192.168.1.1", "127.0.0.1"],
        *["256.300.1.2", "1.2.3.4.5", "4.0.30.319", "@handle and @other.handle", "user@localhost"],
        *["a @ b.org", "5@2.50 each", "@", "C++11", "2+2=4", "123-45-6789", "555-0100"],
        *["1234-5678-9012-3456", "200-300-4000-5000", "112-555-0100", "212-155-0100"],
        *["x212-555-0100", "/212-555-0100/", "550e8400-e29b-41d4-a716-446655440000"],
        *["212-555-01000", "9212-555-0100", "+44 20", "+123456789"],
    ],
)
def test_other_numbers_are_not_masked(text):
    assert mask(text) == text
    assert mask(f"“{text} é") == f"“{text} é"


def test_a_text_without_findings_is_returned_itself():
    text = "nothing here, " * 9
    assert mask(text) is text


def test_a_chain_of_near_findings_takes_linear_time():
    """Quadratic time would meet pytest's timeout."""
    for piece in (
        *["212-555-0100-", "212 555 1234 ", "212-555-0100/", "555-0100 x1", "call ", "212–"],
        *["a@a.", "@a.", "a@b.org@", "@b.org ", "a@b.org:", "a&a=", "a'", "o@a-", '"@b.org', "é"],
        *["1.1.1.1.", "203.0.113.7-", "version ", "+1", "+1 (2) ", "+12345678901234567890"],
        *["::", "2001:", "2001:db8::1%a.", "::ffff:1.1.1.1", "a:", "0:", "a" * 64, "{a", "谢@"],
        *["\u200b", "１-", "＠", " ", "\xa0", "-", "0", "|||EMAIL_ADDRESS|||"],
    ):
        mask(piece * (100_000 // len(piece)) + "!")
