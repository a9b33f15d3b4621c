"""Which records tell clients where the encrypted listeners are."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from resolver.config.model import Config
from resolver.lists.own.ddr import designations, undesignated
from resolver.lists.own.local import local_rules
from resolver.lists.own.special import special_rules
from resolver.lists.records import encode_records

LISTEN: dict[str, Any] = {
    "tls": ["192.0.2.1:853", "[2001:db8::1]:853"],
    "https": ["0.0.0.0:8443"],
    "quic": ["192.0.2.1:784"],
}


def certificate(path: Path, *names: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not this")])
    now = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + datetime.timedelta(days=30))
    if names:
        sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(sans, critical=False)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def config(folder: Path, **listen: Any) -> Config:
    return Config.model_validate({"listen": LISTEN | listen}, context={"file": folder / "config.yaml"})


def test_each_listener_has_a_record(tmp_path: Path) -> None:
    found, sources = designations(config(tmp_path, name="dns.example"))
    assert sources == ()
    assert found == [
        'SVCB 1 dns.example. alpn="dot" ipv4hint=192.0.2.1 ipv6hint=2001:db8::1',
        'SVCB 2 dns.example. alpn="h2,h3" port=8443 key7="/dns-query{?dns}"',
        'SVCB 3 dns.example. alpn="doq" port=784 ipv4hint=192.0.2.1',
    ]


def test_the_path_is_where_https_takes_queries(tmp_path: Path) -> None:
    found, _ = designations(config(tmp_path, name="dns.example", https_path="/other"))
    assert found[1].endswith('key7="/other{?dns}"')


def test_they_are_in_the_zone_and_nodata_is_for_the_rest(tmp_path: Path) -> None:
    made = config(tmp_path, name="dns.example")
    rules, _ = special_rules(made, local_rules(made))
    [rule] = [rule for rule in rules if rule.name == "_dns.resolver.arpa"]
    assert len(encode_records(rule.outcome)) > 100 and len(rule.outcome.data) == 3


def test_the_name_may_come_from_the_certificate(tmp_path: Path) -> None:
    certificate(tmp_path / "chain.pem", "*.wild.example", "Dns.Example")
    pem = {"chain": "chain.pem", "key": "key.pem"}
    found, sources = designations(config(tmp_path, certificate=pem))
    assert found[0].startswith("SVCB 1 dns.example.") and sources == (tmp_path / "chain.pem",)


@pytest.mark.parametrize("what", ["nothing", "no name", "no certificate", "no file"])
def test_without_a_name_nothing_is_said(tmp_path: Path, what: str) -> None:
    pem = {"chain": "chain.pem", "key": "key.pem"}
    if what == "no name":
        certificate(tmp_path / "chain.pem")
    elif what == "no certificate":
        (tmp_path / "chain.pem").write_text("hello")
    made = config(tmp_path) if what == "nothing" else config(tmp_path, certificate=pem)
    assert designations(made)[0] == [] and undesignated(made)


def test_without_listeners_nothing_is_said(tmp_path: Path) -> None:
    assert designations(config(tmp_path, tls=[], https=[], quic=[], name="dns.example")) == ([], ())
    assert not undesignated(config(tmp_path, tls=[], https=[], quic=[]))
