"""Local records: the config's `rewrites` and `records`, and the reverse names of their addresses.

A name here answers by what it has and with NODATA for other types; names below it are resolved as ever, unless a wildcard
covers them. The most specific entry is the whole truth, so a wildcard covers all that is below but the names that have
entries of their own (and what is below those: unlike in RFC 4592 they do not end it). Addresses get a PTR record for the
first name that has them, but for wildcards, 0.0.0.0, :: and loopback, and unless `records` has one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from resolver.config.addresses import Address
from resolver.config.model import Config
from resolver.config.records import parse_record
from resolver.lists.own.rules import OwnRule
from resolver.lists.rules import Outcome
from resolver.vocabulary import Action, Scope


class _Record(NamedTuple):
    owner: str  # with *. before it for a wildcard
    ttl: int
    type: str
    data: str
    place: str

    @property
    def address(self) -> Address | None:
        return ipaddress.ip_address(self.data) if self.type in ("A", "AAAA") else None


def local_rules(config: Config) -> list[OwnRule]:
    """A rule for each name."""
    given = list(_given(config))
    by_owner: dict[str, list[_Record]] = {}
    for record in (*given, *_reverse(given)):
        by_owner.setdefault(record.owner, []).append(record)
    rules = []
    for owner, records in by_owner.items():
        data = tuple(dict.fromkeys(f"{record.ttl} {record.type} {record.data}" for record in records))
        outcome = Outcome(action=Action.LOCAL, ttl=min(record.ttl for record in records), data=data)
        places = ", ".join(dict.fromkeys(record.place for record in records))
        scope = Scope.BELOW if owner.startswith("*.") else Scope.SELF
        rules.append(OwnRule(owner.removeprefix("*."), scope, outcome, f"local record from config: {places}"))
    return rules


def _given(config: Config) -> Iterator[_Record]:
    for number, rewrite in enumerate(config.rewrites):
        place = f"rewrites[{number}]"
        for answer in rewrite.answers:
            if isinstance(answer, str):
                yield _Record(rewrite.name, rewrite.ttl, "CNAME", f"{answer}.", place)
            else:
                yield _Record(rewrite.name, rewrite.ttl, "A" if answer.version == 4 else "AAAA", str(answer), place)
    for number, text in enumerate(config.records):
        owner, ttl, rtype, data = parse_record(text)
        yield _Record(owner, ttl, rtype, data, f"records[{number}]")


def _reverse(given: list[_Record]) -> Iterator[_Record]:
    """PTR records for the addresses of names."""
    taken = {record.owner for record in given if record.type == "PTR"}
    for record in given:
        address = record.address
        if address is None or record.owner.startswith("*.") or address.is_unspecified or address.is_loopback:
            continue
        if address.reverse_pointer not in taken:
            taken.add(address.reverse_pointer)
            yield _Record(address.reverse_pointer, record.ttl, "PTR", f"{record.owner}.", f"{record.place}, its PTR")
