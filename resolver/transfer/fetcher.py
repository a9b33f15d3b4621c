"""Keeps the copies of zones up to date: one refresh of one list, for the process that fetches lists.

Probe, transfer and reading run here, in a process of low priority. What is held of a zone is a window of its records
(lists/splice.py), so a transfer of any size takes the memory of a small one. The copy is in force once the record that
names it is written (zone.py, fetch/store.py); whatever fails before leaves the one before.

A zone's own timers count (RFC 1035 section 3.3.13): REFRESH, though no longer than the list's `refresh`, RETRY after a
failure, and EXPIRE, at which a refresh is tried once more and the copy is then said to be expired.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

import dns.name
import dns.tsig

from resolver.config.addresses import Primary
from resolver.config.model import Config, ListConfig
from resolver.fetch.base import Fetched, FetchError
from resolver.fetch.lookup import Lookup, LookupFailed
from resolver.fetch.store import Meta, Place
from resolver.lists.reading import options_of
from resolver.lists.runs import run_digest
from resolver.transfer import client
from resolver.transfer.messages import Request, TransferError, read_soa
from resolver.transfer.reader import TransferReader
from resolver.transfer.refresh import Done, Failed, Probe, Refresh, Transfer
from resolver.transfer.zone import Soa, ZonePlace, ZoneRecord

_log = logging.getLogger(__name__)


class TransferFetcher:
    """Fetches axfr:// lists by a config. `hurry` makes a list due."""

    def __init__(
        self,
        config: Config,
        hurry: Callable[[str], None],
        lookup: Lookup | None = None,
        *,
        probe_timeout: float = client.PROBE_TIMEOUT,
        idle_timeout: float | None = None,
    ) -> None:
        self._config = config
        self._hurry = hurry
        self._lookup = lookup or Lookup(config)
        self._probe_timeout = probe_timeout
        self._idle_timeout = idle_timeout if idle_timeout is not None else max(config.fetch.timeout, 1.0)
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        for listed in config.lists:
            record = ZonePlace(config.state_path, listed.name).read() if listed.scheme == "axfr" else None
            if record is not None:
                self._watch(listed, record)
                if record.options != options_of(listed).fingerprint():  # a newer version reads zones in another way
                    asyncio.get_running_loop().call_soon(hurry, listed.name)

    async def close(self) -> None:
        """End the timers."""
        for timer in self._expiries.values():
            timer.cancel()

    async def fetch(self, listed: ListConfig, now: float) -> Fetched:
        """See Fetcher: one refresh of a zone."""
        work = _Work(self._config, listed, self._key(listed), self._lookup, self._probe_timeout, self._idle_timeout)
        try:
            record, done = await work.run(now)
        except FetchError as error:
            raise self._expired(listed, now, error) from None
        if done.alarm:
            _log.error("lists.%s: %s", listed.name, done.alarm)
        self._watch(listed, record)
        refresh = min(record.soa.refresh_seconds, float(listed.refresh))
        return Fetched(changed=done.changed or work.revived, octets=work.octets, refresh=refresh)

    def _key(self, listed: ListConfig) -> dns.tsig.Key | None:
        if not listed.tsig:
            return None
        name = listed.tsig.lower().rstrip(".")
        for key in self._config.tsig_keys:
            if key.name == name:
                try:
                    return dns.tsig.Key(dns.name.from_text(name), key.octets(), dns.name.from_text(key.algorithm))
                except (OSError, ValueError) as error:
                    raise FetchError(f"tsig_keys.{name}: {error}") from None
        raise FetchError(f"lists.{listed.name}.tsig: there is no key {name} in tsig_keys")

    # -- EXPIRE -------------------------------------------------------------------------------------------------------
    def _watch(self, listed: ListConfig, record: ZoneRecord) -> None:
        """Have the list refreshed when its copy expires."""
        if timer := self._expiries.pop(listed.name, None):
            timer.cancel()
        if not record.expired:
            wait = max(0.0, record.expires - time.time()) + 0.05
            self._expiries[listed.name] = asyncio.get_running_loop().call_later(wait, self._hurry, listed.name)

    def _expired(self, listed: ListConfig, now: float, error: FetchError) -> FetchError:
        """The same failure, or more, where the copy has become too old by it."""
        place = ZonePlace(self._config.state_path, listed.name)
        record = place.read()
        if record is None or record.expired or time.time() < record.expires:
            return error
        place.write(replace(record, expired=True))
        drops = listed.on_expire == "drop"
        serves = "it is enforced no more (on_expire: drop)" if drops else "the copy serves on (on_expire: keep)"
        text = f"the zone expired, {int(now - record.checked)} s after a primary last answered; {serves}"
        _log.error("lists.%s: %s", listed.name, text)
        return FetchError(f"{text}: {error}", error.retry_after, error.octets, exact=error.exact, changed=drops)


class _Work:
    """One refresh under way."""

    def __init__(
        self,
        config: Config,
        listed: ListConfig,
        key: dns.tsig.Key | None,
        lookup: Lookup,
        probe_timeout: float,
        idle_timeout: float,
    ) -> None:
        self.octets = 0
        self.revived = False  # the copy had expired
        self._listed = listed
        self._key = key
        self._lookup = lookup
        self._probe_timeout, self._idle_timeout = probe_timeout, idle_timeout
        self._primaries = listed.primaries
        self._place, self._store = ZonePlace(config.state_path, listed.name), Place(config.state_path, listed.name)
        self._options = options_of(listed)
        meta, record = self._store.meta(), self._place.read()
        if record is not None and (
            meta is None
            or meta.file != record.run
            or meta.source != listed.source
            or record.zone != listed.zone
            or record.options != self._options.fingerprint()
        ):
            record = None
        self._old = record

    async def run(self, now: float) -> tuple[ZoneRecord, Done]:
        """Until the copy is what a primary has; FetchError if it cannot be had."""
        old = self._old
        first = old.first % len(self._primaries) if old else 0
        # A rule of an allow list does not tell which of its owner's records it stands for.
        deltas = self._options.kind != "allow"
        names = tuple(map(str, self._primaries))
        refresh = Refresh(names, old.soa if old else None, first=first, deltas=deltas)
        record = old
        while True:
            match refresh.step:
                case Probe(primary, tcp):
                    try:
                        refresh.probed(await self._probe(self._primaries[primary], tcp))
                    except TransferError as error:
                        refresh.probe_failed(str(error))
                case Transfer(primary, base):
                    try:
                        record = await self._transfer(self._primaries[primary], base, now)
                        refresh.transferred(record is not old)
                    except TransferError as error:
                        refresh.transfer_failed(str(error), no_delta=error.no_delta)
                case Done() as done:
                    assert record is not None
                    self.revived = record.expired
                    record = replace(record, checked=time.time(), expired=False, first=done.primary)
                    self._place.write(record)
                    return record, done
                case Failed(text, retry, following):
                    if old is not None and old.first != following:
                        self._place.write(replace(old, first=following))
                    raise FetchError(text, retry, self.octets, exact=old is not None)

    async def _address(self, primary: Primary) -> str:
        try:
            return str((await self._lookup.addresses(primary.host))[0])
        except LookupFailed as error:
            raise TransferError(str(error)) from None

    async def _probe(self, primary: Primary, tcp: bool) -> Soa:
        request = Request(self._listed.zone, "SOA", self._key)
        address = await self._address(primary)
        if not tcp:
            return read_soa(request, await client.ask_udp(address, primary.port, request.wire, self._probe_timeout))
        async with client.connected(address, primary.port, request.wire, self._idle_timeout) as messages:
            return read_soa(request, await messages.next())

    async def _transfer(self, primary: Primary, base: Soa | None, now: float) -> ZoneRecord | None:
        """The copy that a transfer leaves; the old record if nothing had changed."""
        began = time.monotonic()
        request = Request(self._listed.zone, "AXFR" if base is None else "IXFR", self._key, base=base)
        old = self._place.path(self._old) if self._old else None
        path = self._place.fresh()
        most = self._listed.max_size
        try:
            with TransferReader(request, self._options, path, base=base, old=old) as reader:
                try:
                    async with asyncio.timeout(client.DEADLINE):
                        address = await self._address(primary)
                        async with client.connected(
                            address, primary.port, request.wire, self._idle_timeout
                        ) as messages:
                            while not reader.receive(await messages.next()):
                                if most is not None and reader.octets > most:
                                    raise TransferError(f"more than {most} octets (max_size)")
                finally:
                    self.octets += reader.octets
                soa, header = reader.finish()
                kind = "ixfr" if reader.is_delta else "axfr"
        except TimeoutError:
            raise TransferError(f"not done after {client.DEADLINE:g} s") from None
        if header is None:
            return self._old
        record = ZoneRecord(
            zone=self._listed.zone,
            soa=soa,
            run=path.name,
            digest=run_digest(hashlib.sha256(secrets.token_bytes(16)).hexdigest(), {"zone": self._listed.zone}),
            options=self._options.fingerprint(),
            primary=str(primary),
            kind=kind,
            names=header.names,
            octets=self.octets,
            seconds=time.monotonic() - began,
            transferred=time.time(),
            checked=time.time(),
            expired=self._old.expired if self._old else False,
        )
        meta = Meta(
            source=self._listed.source,
            url=f"axfr://{primary}/{self._listed.zone}",
            file=path.name,
            sha256=record.digest,
            size=path.stat().st_size,
            fetched=record.transferred,
        )
        self._store.write_meta(meta)
        self._place.write(record)
        _log.info(
            "lists.%s: %s from %s by %s: serial %d, %d names, %d octets in %.1f s",
            self._listed.name,
            self._listed.zone,
            primary,
            kind,
            soa.serial,
            header.names,
            self.octets,
            record.seconds,
        )
        return record
