"""Signatures by real keys: what is right, each way to be wrong, and how much work a stranger can cause."""

from __future__ import annotations

import time
from dataclasses import replace as _replace
from typing import Any, cast

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataset
import dns.rdatatype
import dns.rrset
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.DS import DS
from dns.rdtypes.ANY.RRSIG import RRSIG

from resolver.dnssec import signatures
from resolver.dnssec.signatures import Bogus, Budget, keys_of, known_delegations, usable_keys, verify
from resolver.vocabulary import EDE

ZONE = dns.name.from_text("example.")
NOW = 1_800_000_000
PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = dns.dnssec.make_dnskey(PRIVATE.public_key(), "ECDSAP256SHA256")
WWW = dns.rrset.from_text("www.example.", 300, "IN", "A", "192.0.2.1", "192.0.2.2")


def sign(rrset: dns.rrset.RRset = WWW, *, begins: int = -10, ends: int = 1000, signer: str = "example.") -> RRSIG:
    signature = dns.dnssec.sign(
        rrset, PRIVATE, dns.name.from_text(signer), KEY, inception=NOW + begins, expiration=NOW + ends
    )
    assert isinstance(signature, RRSIG)
    return signature


def signed(*rdatas: RRSIG, owner: dns.rrset.RRset = WWW) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(owner.name, 300, rdatas)


def check(*rdatas: RRSIG, rrset: dns.rrset.RRset = WWW, budget: Budget | None = None) -> signatures.Verified:
    return verify(rrset, signed(*rdatas), ZONE, usable_keys(ZONE, [KEY]), NOW, budget or Budget())


def test_what_is_signed_may_be_kept_no_longer_than_its_signature_holds() -> None:
    assert check(sign()) == (300, 2)
    assert check(sign(ends=100)) == (100, 2)
    short = dns.rrset.from_text("www.example.", 20, "IN", "A", "192.0.2.1", "192.0.2.2")
    assert check(sign(), rrset=short).ttl == 20
    long = dns.rrset.from_text("www.example.", 9000, "IN", "A", "192.0.2.1", "192.0.2.2")
    assert check(sign(), rrset=long).ttl == 300, "the TTL that was signed, whatever the upstream says"


@pytest.mark.parametrize(
    ("signature", "ede"),
    [
        (sign(begins=-1000, ends=-10), EDE.SIGNATURE_EXPIRED),
        (sign(begins=10), EDE.SIGNATURE_NOT_YET_VALID),
        (sign().replace(inception=NOW + 10, expiration=NOW - 10), EDE.SIGNATURE_EXPIRED_BEFORE_VALID),
        (sign(dns.rrset.from_text("www.example.", 300, "IN", "A", "192.0.2.9")), EDE.DNSSEC_BOGUS),
        (sign(signer="other.example."), EDE.DNSSEC_BOGUS),
        (sign().replace(algorithm=200), EDE.DNSSEC_BOGUS),
        (sign().replace(key_tag=sign().key_tag ^ 1), EDE.DNSSEC_BOGUS),
        (sign().replace(labels=3), EDE.DNSSEC_BOGUS),
        (sign().replace(signature=b""), EDE.DNSSEC_BOGUS),
    ],
)
def test_each_way_to_be_wrong(signature: RRSIG, ede: EDE) -> None:
    with pytest.raises(Bogus) as raised:
        check(signature)
    assert raised.value.ede == ede
    assert check(signature, sign()).ttl == 300, "one that is right is enough"


def test_a_wildcard_is_told_by_the_labels() -> None:
    wildcard = dns.rrset.from_text("*.example.", 300, "IN", "A", "192.0.2.1")
    signature = sign(wildcard)
    expanded = dns.rrset.from_text("a.b.example.", 300, "IN", "A", "192.0.2.1")
    assert (
        verify(expanded, signed(signature, owner=expanded), ZONE, usable_keys(ZONE, [KEY]), NOW, Budget()).labels == 1
    )
    assert signatures.label_count(expanded.name) == 3 and signatures.label_count(wildcard.name) == 1


def flags(value: int, **changes: Any) -> DNSKEY:
    changed = KEY.replace(flags=value, **changes)
    assert isinstance(changed, DNSKEY)
    return changed


def test_keys_that_may_not_sign_are_not_used() -> None:
    assert len(usable_keys(ZONE, [KEY, flags(0x0101)])) == 2
    assert not usable_keys(ZONE, [flags(0)]), "no zone's key"
    assert not usable_keys(ZONE, [flags(0x0180)]), "revoked"
    assert not usable_keys(ZONE, [flags(0x0100, protocol=4)])
    assert not usable_keys(ZONE, [flags(0x0100, algorithm=1)])
    assert signatures.has_zone_key([KEY]) and not signatures.has_zone_key([flags(0)])
    with pytest.raises(Bogus):
        verify(WWW, signed(sign()), ZONE, usable_keys(ZONE, [flags(0)]), NOW, Budget())


def rsa_key(exponent: bytes, modulus: bytes) -> DNSKEY:
    length = bytes((len(exponent),)) if len(exponent) < 256 else b"\0" + len(exponent).to_bytes(2, "big")
    return flags(0x0100, algorithm=8, key=length + exponent + modulus)


def test_rsa_keys_that_would_make_a_check_slow_are_not_used() -> None:
    assert usable_keys(ZONE, [rsa_key(b"\1\0\1", bytes(512))])
    assert not usable_keys(ZONE, [rsa_key(b"\1\0\1", bytes(513))])
    assert not usable_keys(ZONE, [rsa_key(bytes(9), bytes(256))])
    assert not usable_keys(ZONE, [rsa_key(bytes(300), bytes(256))])
    assert not usable_keys(ZONE, [rsa_key(b"", b"")])
    real = rsa.generate_private_key(65537, 1024).public_key()
    assert usable_keys(ZONE, [dns.dnssec.make_dnskey(real, "RSASHA256")])


def test_delegations_that_are_known_here() -> None:
    ds = {digest: dns.dnssec.make_ds(ZONE, KEY, digest) for digest in ("SHA256", "SHA384")}
    weak = ds["SHA256"].replace(digest_type=1, digest=bytes(20))
    unknown = ds["SHA256"].replace(digest_type=200)
    foreign = ds["SHA256"].replace(algorithm=200)
    assert known_delegations(ds.values()) == (list(ds.values()), None)
    assert known_delegations([weak]) == ([weak], None)
    assert known_delegations([weak, ds["SHA256"]]) == ([ds["SHA256"]], None), "RFC 4509: the weaker one is no way in"
    assert known_delegations([unknown]) == ([], EDE.UNSUPPORTED_DIGEST)
    assert known_delegations([foreign, unknown]) == ([], EDE.UNSUPPORTED_DIGEST)
    assert known_delegations([foreign]) == ([], EDE.UNSUPPORTED_ALGORITHM)
    keys = usable_keys(ZONE, [KEY])
    assert keys_of([ds["SHA384"]], ZONE, keys, Budget()) == keys
    assert keys_of([cast(DS, ds["SHA384"].replace(digest=bytes(48)))], ZONE, keys, Budget()) == []
    assert keys_of([ds["SHA384"]], dns.name.from_text("other."), keys, Budget()) == []


def colliding(count: int) -> list[DNSKEY]:
    """Keys of one tag, none of which has signed anything here: octets that change places in pairs keep the sum."""
    keys: list[DNSKEY] = []
    public = bytearray(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    for at in range(count):
        public[0], public[1] = at // 256, at % 256
        public[2], public[3] = (0xFFFF - at) // 256, (0xFFFF - at) % 256
        keys.append(flags(0x0100, algorithm=15, key=bytes(public)))
    assert len({dns.dnssec.key_id(key) for key in keys}) == 1
    return keys


def test_many_keys_and_signatures_of_one_tag_cost_a_bounded_amount() -> None:
    """CVE-2023-50387."""
    keys = colliding(1000)
    usable = usable_keys(ZONE, keys)
    assert len(usable) == signatures.MAX_KEYS
    tag = dns.dnssec.key_id(keys[0])
    right = sign()
    bad = [cast(RRSIG, right.replace(algorithm=15, key_tag=tag, signature=bytes((at,)) * 64)) for at in range(200)]
    budget = Budget()
    began = time.monotonic()
    with pytest.raises(Bogus):
        for _ in range(1000):
            with pytest.raises(Bogus) as raised:
                verify(WWW, signed(*bad), ZONE, usable, NOW, budget)
            if "too many" in raised.value.text:
                raise raised.value
    assert budget.failures == -1 and budget.checks >= 100 - 17
    assert time.monotonic() - began < 20
    one = dns.dnssec.make_ds(ZONE, KEY, "SHA256")
    ds = [cast(DS, one.replace(algorithm=15, key_tag=tag, digest=bytes((at,)) * 32)) for at in range(200)]
    with pytest.raises(Bogus, match="too many"):
        keys_of(ds, ZONE, usable, Budget())


def test_a_large_set_of_records_costs_more() -> None:
    texts = [f"10.0.{at // 256}.{at % 256}" for at in range(3000)]
    large = dns.rrset.from_text_list("www.example.", 300, "IN", "A", texts)
    budget = Budget()
    assert check(sign(large), rrset=large, budget=budget).ttl == 300 and budget.checks == 100 - 47
    with pytest.raises(Bogus, match="too many signatures that are wrong"):
        check(sign(), sign(), rrset=large, budget=Budget())


def test_budgets_count_from_one_place() -> None:
    budget = _replace(Budget(), checks=1, questions=0)
    budget.check()
    with pytest.raises(Bogus, match="signatures to check"):
        budget.check()
    with pytest.raises(Bogus, match="zones between here and the trust anchor"):
        budget.ask()
