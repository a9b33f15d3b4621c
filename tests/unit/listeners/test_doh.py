"""What a request means, whichever version of HTTP it came by."""

from __future__ import annotations

import itertools
from base64 import urlsafe_b64encode

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.engine.engine import freshness
from resolver.listeners import doh
from resolver.listeners.doh import HttpError

QUERY = dns.message.make_query("www.example", "A", id=0).to_wire()
TYPE = b"application/dns-message"
PATH = b"/dns-query"


def encoded(query: bytes = QUERY) -> bytes:
    return urlsafe_b64encode(query).rstrip(b"=")


@pytest.mark.parametrize(
    "target",
    [
        b"/dns-query?dns=" + encoded(),
        b"/dns-query?ct=x&dns=" + encoded() + b"&more",
        b"/dns-query?dns=" + encoded() + b"==",
        b"https://dns.example/dns-query?dns=" + encoded(),
    ],
)
def test_get(target: bytes) -> None:
    assert doh.begin(b"GET", target, b"", PATH) == QUERY


@pytest.mark.parametrize("kind", [TYPE, b"Application/DNS-Message; charset=x"])
def test_post_waits_for_its_body(kind: bytes) -> None:
    assert doh.begin(b"POST", b"/dns-query", kind, PATH) is None
    assert doh.query(QUERY) == QUERY


@pytest.mark.parametrize(
    ("method", "target", "kind", "status"),
    [
        (b"GET", b"/", b"", 404),
        (b"GET", b"/dns-query/", b"", 404),
        (b"POST", b"/other?dns=x", TYPE, 404),
        (b"GET", b"/dns-query", b"", 400),
        (b"GET", b"/dns-query?name=www.example", b"", 400),
        (b"GET", b"/dns-query?dns=", b"", 400),
        (b"GET", b"/dns-query?dns=AAAA", b"", 400),
        (b"GET", b"/dns-query?dns=A", b"", 400),
        (b"GET", b"/dns-query?dns=" + encoded() + b"!", b"", 400),
        (b"GET", b"/dns-query?dns=" + encoded()[:20] + b"%00" + encoded()[20:], b"", 400),
        (b"GET", b"/dns-query?dns=" + urlsafe_b64encode(bytes(70_000)), b"", 413),
        (b"HEAD", b"/dns-query?dns=" + encoded(), b"", 405),
        (b"PUT", b"/dns-query", TYPE, 405),
        (b"POST", b"/dns-query", b"", 415),
        (b"POST", b"/dns-query", b"application/json", 415),
    ],
)
def test_what_is_refused(method: bytes, target: bytes, kind: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        doh.begin(method, target, kind, PATH)
    assert caught.value.status == status
    assert status != 405 or (b"allow", b"GET, POST") in caught.value.headers


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (bytes(11), 400), (bytes(65_536), 413)])
def test_bodies_that_are_no_query(body: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        doh.query(body)
    assert caught.value.status == status


def test_an_answer_is_no_query() -> None:
    with pytest.raises(HttpError):
        doh.query(dns.message.make_response(dns.message.from_wire(QUERY)).to_wire())


@given(st.binary(max_size=100))
def test_any_query_survives_a_get(query: bytes) -> None:
    packet = bytes(12) + query
    assert doh.begin(b"GET", b"/dns-query?dns=" + encoded(packet), b"", PATH) == packet


@given(st.binary(max_size=80))
def test_no_parameter_breaks_it(text: bytes) -> None:
    try:
        doh.begin(b"GET", b"/dns-query?dns=" + text, b"", PATH)
    except HttpError as error:
        assert error.status in (400, 404)


# -- how long it may be kept ------------------------------------------------------------------------------------------


def answer(*records: tuple[str, str], rcode: str = "NOERROR") -> bytes:
    made = dns.message.make_response(dns.message.make_query("www.example", "A", use_edns=0))
    made.set_rcode(dns.rcode.from_text(rcode))
    for section, text in records:
        name, ttl, kind, *data = text.split()
        getattr(made, section).append(dns.rrset.from_text(name, int(ttl), "IN", kind, " ".join(data)))
    return made.to_wire()


SOA = "example. {} SOA ns.example. mail.example. 1 2 3 4 {}"


@pytest.mark.parametrize(
    ("octets", "seconds"),
    [
        (answer(("answer", "www.example. 300 A 192.0.2.1")), 300),
        (answer(("answer", "www.example. 600 CNAME a.example."), ("answer", "a.example. 20 A 192.0.2.1")), 20),
        (answer(("answer", "www.example. 300 A 192.0.2.1"), ("authority", "example. 5 NS ns.example.")), 300),
        (answer(("answer", "www.example. 0 A 192.0.2.1")), 0),
        (answer(("authority", SOA.format(900, 60)), rcode="NXDOMAIN"), 60),
        (answer(("authority", SOA.format(30, 600))), 30),
        (answer(("authority", "example. 5 NS ns.example.")), 0),
        (answer(rcode="SERVFAIL"), 0),
        (answer(("answer", "www.example. 4294967295 A 192.0.2.1")), 0),
        (answer(("answer", "www.example. 300 A 192.0.2.1"))[:-20], 0),
        (b"", 0),
    ],
    ids=itertools.count(),
)
def test_freshness(octets: bytes, seconds: int) -> None:
    assert freshness(octets) == seconds


@given(st.binary(max_size=200))
def test_freshness_of_anything(octets: bytes) -> None:
    assert freshness(octets) >= 0


def test_headers_of_an_answer() -> None:
    headers = dict(doh.headers(answer(("answer", "www.example. 300 A 192.0.2.1"))))
    assert headers[b"content-type"] == TYPE and headers[b"cache-control"] == b"max-age=300"
    assert headers[b"date"].endswith(b" GMT")
