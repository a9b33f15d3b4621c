from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.lists.names import from_key, host_of_url, key, normalise, shown
from resolver.lists.rules import BadLine

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 octets


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x.com", "x.com"),
        ("X.Com", "x.com"),
        ("x.com.", "x.com"),
        ("_dmarc.x.com", "_dmarc.x.com"),
        ("-a.b-.c--d.com", "-a.b-.c--d.com"),
        ("1.2.3.com", "1.2.3.com"),
        ("a.0x7f", "a.0x7f"),
        ("bücher.de", "xn--bcher-kva.de"),
        ("BÜCHER.DE", "xn--bcher-kva.de"),
        ("straße.de", "xn--strae-oqa.de"),  # IDNA 2008, not ss
        ("XN--BCHER-KVA.de", "xn--bcher-kva.de"),
        ("xn--a.com", "xn--a.com"),  # no valid A-label, but it can be asked for
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),  # the ideographic full stop
        ("ｘ．ｃｏｍ", "x.com"),  # full width
        ("_sip.bücher.de", "_sip.xn--bcher-kva.de"),
        ("\u212a.com", "k.com"),  # the Kelvin sign
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
    ],
)
def test_a_name_takes_its_normal_form(text: str, name: str) -> None:
    assert normalise(text) == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no name"),
        (".", "every name"),
        ("com", "bare top-level domain"),
        ("com.", "bare top-level domain"),
        ("a..com", "empty label"),
        (".x.com", "empty label"),
        ("x.com..", "empty label"),
        ("a b.com", "a blank inside the name"),
        ("a\u00a0b.com", "a blank inside the name"),
        ("x.com^", "the character '^'"),
        ("a/c.com", "the character '/'"),
        ("℀.com", "the character '/'"),  # maps to a/c
        ("*.x.com", "the character '*'"),
        ("a" * 64 + ".com", "a label of 64 octets"),
        (LONGEST + "b", "a name of 254 octets"),
        ("a." * 150, "a name of 299 octets"),
        ("a" * 5000, "a name of 5000 characters"),
        ("ü" * 300 + ".com", "IDNA 2008"),
        ("1.2.3.4", "ends in a number"),
        ("x.123", "ends in a number"),
        ("i❤.ws", "IDNA 2008"),
        ("x\udcff.com", "not UTF-8"),
    ],
)
def test_what_is_no_name_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadLine, match=reason.replace("^", r"\^").replace("*", r"\*")):
        normalise(text)


def test_a_top_level_domain_only_where_allowed() -> None:
    assert normalise("ZIP.", allow_tld=True) == "zip"
    assert normalise("みんな", allow_tld=True) == "xn--q9jyb4c"
    with pytest.raises(BadLine):
        normalise("123", allow_tld=True)


@given(st.text(max_size=300))
def test_any_text_gives_a_normal_name_or_a_bad_line(text: str) -> None:
    try:
        name = normalise(text, allow_tld=True)
    except BadLine as error:
        assert str(error).isprintable()
        return
    assert normalise(name, allow_tld=True) == name
    assert len(name) <= 253
    assert all(1 <= len(label) <= 63 for label in name.split("."))
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


LABEL = st.text("ab-_09", min_size=1, max_size=5)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


@given(NAME)
def test_a_key_gives_its_name_back(name: str) -> None:
    assert from_key(key(name)) == name


def test_the_root_has_the_empty_key() -> None:
    assert key("") == b""
    assert from_key(b"") == ""
    assert key("www.x.com") == b"com\0x\0www\0"


@given(NAME, st.lists(NAME, max_size=20))
def test_a_names_descendants_follow_it_in_the_order_of_keys(name: str, others: list[str]) -> None:
    below = [f"{other}.{name}" for other in others[:5]]
    ordered = sorted({key(n) for n in [name, *below, *others]})
    at = ordered.index(key(name))
    descendants = [k for k in ordered if k != key(name) and from_key(k).endswith(f".{name}")]
    assert ordered[at + 1 : at + 1 + len(descendants)] == descendants


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("http://x.com", "x.com"),
        ("https://x.com/a/b?c#d", "x.com"),
        ("HTTPS://u:p@x.com:8443/", "x.com"),
        ("ftp://x.com?q", "x.com"),
        ("http://[2001:db8::1]:80/", "[2001:db8::1]"),
        ("http:///path", ""),
        ("x.com/path", None),
        ("x.com", None),
    ],
)
def test_the_host_of_a_url(text: str, host: str | None) -> None:
    assert host_of_url(text) == host


def test_what_is_shown_prints_and_is_short() -> None:
    assert shown("a\x1b[31mb\udcff") == "a\\x1b[31mb\\xff"
    assert shown("x" * 100, 10) == "x" * 9 + "…"
