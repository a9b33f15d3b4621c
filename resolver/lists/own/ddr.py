"""The server's encrypted listeners as SVCB records, by which clients find them (DDR: RFC 9462, RFC 9461)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from resolver.config.addresses import Endpoint
from resolver.config.model import Config

_PROTOCOLS = (("tls", "dot", 853), ("https", "h2,h3", 443), ("quic", "doq", 853))


def designations(config: Config) -> tuple[list[str], tuple[Path, ...]]:
    """(records of `_dns.resolver.arpa` as `SVCB …`, the files that they came from); none without listeners or a name."""
    by_way = [(getattr(config.listen, key), alpn, port) for key, alpn, port in _PROTOCOLS]
    if not any(endpoints for endpoints, _, _ in by_way):
        return [], ()
    name = config.listen.name
    sources: tuple[Path, ...] = ()
    if not name and config.certificate_paths and config.certificate_paths[0].is_file():
        sources = config.certificate_paths[:1]
        name = _name_in(sources[0])
    if not name:
        return [], sources
    found: list[str] = []
    for endpoints, alpn, default in by_way:
        for port in dict.fromkeys(endpoint.port for endpoint in endpoints):
            parts = [f"SVCB {len(found) + 1} {name}.", f'alpn="{alpn}"']
            if port != default:
                parts.append(f"port={port}")
            parts += _hints(endpoint for endpoint in endpoints if endpoint.port == port)
            if alpn.startswith("h"):
                parts.append(f'key7="{config.listen.https_path}{{?dns}}"')
            found.append(" ".join(parts))
    return found, sources


def undesignated(config: Config) -> bool:
    """Whether there are encrypted listeners that clients are to find and cannot, for want of a name."""
    has_any = any(getattr(config.listen, key) for key, _, _ in _PROTOCOLS)
    return has_any and config.special_names.resolver_arpa and not designations(config)[0]


def _hints(endpoints: Iterable[Endpoint]) -> Iterator[str]:
    addresses = [ip_address(endpoint.host) for endpoint in endpoints]
    for version in (4, 6):
        own = ",".join(str(each) for each in addresses if each.version == version and not each.is_unspecified)
        if own:
            yield f"ipv{version}hint={own}"


def _name_in(chain: Path) -> str:
    """The first domain name that a certificate is for, wildcards aside; "" if it has none or cannot be read."""
    from cryptography import x509  # few have such listeners

    try:
        certificate = x509.load_pem_x509_certificates(chain.read_bytes())[0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
    except (OSError, ValueError, IndexError, x509.ExtensionNotFound):
        return ""
    return next((name.lower() for name in found if "*" not in name), "")
