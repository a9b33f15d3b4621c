"""Signed zones for tests, as they should be and broken in each way, with real servers of them on loopback.

    with Internet(folder) as internet:
        internet.upstream   # the port of a forwarder that validates nothing: what a resolver under test asks
        internet.anchor     # the file of the test's trust anchor
        internet.validator  # the port of an Unbound that validates by the same anchor

The zones are made by dnssec-keygen and dnssec-signzone and served by named: a root, `test` below it, and below that one zone
a case, each with `www A 192.0.2.1`.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import dns.exception
import dns.message
import dns.query

from tests.ports import free_port

PATIENCE = 60.0
HEAD = "$TTL 300\n@ SOA ns.test. hostmaster.test. 1 3600 600 86400 60\n@ NS ns.test.\n"
WWW = "www A 192.0.2.1\n"


def _without(pattern: str) -> Callable[[str], str]:
    """A change of a signed zone: the records (one a line) that match are taken out."""
    wanted = re.compile(pattern)
    return lambda text: "".join(line for line in text.splitlines(keepends=True) if not wanted.search(line))


@dataclass(frozen=True)
class Zone:
    """`name` without the final dot; `algorithm` "": not signed. `sign`: options of dnssec-signzone. `spoil`: what is done to
    the signed zone, a record a line. `ds`: instead of the zone's own DS records in the parent; None: those. `is_odd`: served
    by nsd, as named gives nothing of a zone so broken."""

    name: str
    records: str = WWW
    algorithm: str = "ECDSAP256SHA256"
    sign: tuple[str, ...] = ()
    spoil: Callable[[str], str] | None = None
    ds: str | None = None
    is_odd: bool = False


_DIGEST = "2BB183AF5F22588179A53B0A98631FAD1A292118ADB85D7A4F2D0A0A8B4A7A8D"
NSEC3 = ("-3", "-", "-H", "0")
ZONES = (
    Zone(
        "valid.test",
        WWW
        + "*.wild A 192.0.2.2\nclose.wild A 192.0.2.3\nleaf.ent A 192.0.2.4\ntext TXT hello\n"
        + "to-nsec3 CNAME www.nsec3.test.\nto-plain CNAME www.plain.test.\nto-bogus CNAME www.bogus.test.\n"
        + "to-nothing CNAME nothing.nsec3.test.\n*.aliases CNAME www.nsec3.test.\n"
        + "moved DNAME nsec3.test.\nunsigned-move DNAME plain.test.\n",
    ),
    Zone(
        "nsec3.test",
        WWW + "*.wild A 192.0.2.2\nleaf.ent A 192.0.2.4\ntext TXT hello\nplain NS ns.test.\n",
        "RSASHA256",
        NSEC3,
    ),
    Zone("optout.test", WWW + "plain NS ns.test.\n*.wild A 192.0.2.2\n", "RSASHA256", (*NSEC3, "-A")),
    Zone("plain.nsec3.test", algorithm=""),
    Zone("plain.optout.test", algorithm=""),
    Zone("plain.test", WWW + "to-valid CNAME www.valid.test.\nto-bogus CNAME www.bogus.test.\n", ""),
    Zone("hashes.test", WWW, "ECDSAP256SHA256", ("-3", "-", "-H", "150")),
    Zone("rsasha1.test", algorithm="RSASHA1"),
    Zone("rsasha512.test", algorithm="RSASHA512"),
    Zone("p384.test", algorithm="ECDSAP384SHA384"),
    Zone("ed25519.test", algorithm="ED25519"),
    Zone("ed448.test", algorithm="ED448"),
    Zone("expired.test", sign=("-s", "20200101000000", "-e", "20200201000000")),
    Zone("future.test", sign=("-s", "20400101000000", "-e", "20410101000000")),
    Zone("bogus.test", spoil=lambda text: text.replace("192.0.2.1", "192.0.2.66")),
    Zone("unsigned.test", spoil=_without(r"^www\S*\s.*RRSIG\s+A\s")),
    Zone("no-nsec.test", spoil=_without(r"^www\S*\s.*\sNSEC\s"), is_odd=True),
    Zone("no-keys.test", spoil=_without(r"\sDNSKEY\s")),
    Zone("no-key-signature.test", spoil=_without(r"RRSIG\s+DNSKEY\s")),
    Zone("other-key.test", ds=f"12345 13 2 {_DIGEST}"),
    Zone("algorithm.test", ds=f"12345 200 2 {_DIGEST}"),
    Zone("digest.test", ds=f"12345 13 200 {_DIGEST}"),
    Zone("stripped.test", algorithm="", ds=f"12345 13 2 {_DIGEST}"),
    Zone("secret.test", spoil=lambda text: text.replace("192.0.2.1", "192.0.2.67")),
)


class Internet:
    """See the module. `extra`: further zones below test."""

    def __init__(self, folder: Path, extra: Sequence[Zone] = (), *, validator: bool = True) -> None:
        self.folder = folder
        self.upstream, self.validator = free_port(), free_port()
        self.authority, self.odd = free_port(), free_port()
        self.anchor = folder / "anchor"
        self._zones = (*ZONES, *extra)
        self._validates = validator
        self._processes: list[subprocess.Popen[bytes]] = []

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def _make(self, zone: Zone, delegations: str = "") -> str:
        """Write a zone's file; its DS records as lines below its parent."""
        name = zone.name or "."
        file = self.folder / f"{zone.name or 'root'}.zone"
        file.write_text(f"$ORIGIN {zone.name}.\n{HEAD}{zone.records}{delegations}")
        if not zone.algorithm:
            return f"{zone.name}. DS {zone.ds}\n" if zone.ds else ""
        keys = []
        size = ("-b", "2048") if zone.algorithm.startswith("RSA") else ()
        for flags in ((), ("-f", "KSK")):
            keys.append(self._run("dnssec-keygen", "-q", "-a", zone.algorithm, *size, *flags, name).strip())
        with file.open("a") as stream:
            stream.writelines((self.folder / f"{key}.key").read_text() for key in keys)
        signed = self.folder / f"{file.name}.signed"
        self._run(
            *("dnssec-signzone", "-q", "-P", "-O", "full", "-o", name, "-k", keys[1], "-f", str(signed)),
            *("-d", str(self.folder), *zone.sign, str(file), keys[0]),
        )
        text = signed.read_text()
        file.write_text(zone.spoil(text) if zone.spoil else text)
        if zone.ds is not None:
            return f"{zone.name}. DS {zone.ds}\n"
        return self._run("dnssec-dsfromkey", "-2", f"{keys[1]}.key")

    def _make_all(self) -> None:
        delegations = ""
        for zone in self._zones:
            if zone.name.count(".") == 1:
                delegations += f"{zone.name}. NS ns.test.\n"
                delegations += self._make(zone)
            else:
                self._make(zone)
        ds = self._make(Zone("test", "ns A 127.0.0.1\n"), delegations)
        self.anchor.write_text(self._make(Zone("", "ns.test. A 127.0.0.1\ntest. NS ns.test.\n"), ds))

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{Path(command[0]).name}.log").open("ab")
        with log:
            self._processes.append(subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log))

    def _serve(self) -> None:
        names = ["", "test", *(zone.name for zone in self._zones if not zone.is_odd)]
        odd = [zone.name for zone in self._zones if zone.is_odd]
        zones = "".join(
            f'zone "{name or "."}" {{ type primary; file "{self.folder}/{name or "root"}.zone"; }};\n' for name in names
        )
        (self.folder / "named.conf").write_text(
            f'options {{ directory "{self.folder}"; listen-on port {self.authority} {{ 127.0.0.1; }}; '
            f' listen-on-v6 {{ none; }}; pid-file none; session-keyfile "{self.folder}/session.key";'
            " recursion yes; dnssec-validation no;"
            " notify no; check-integrity no; check-names primary ignore; };\n"
            "controls { };\n" + zones
        )
        self._start("named", "-g", "-c", str(self.folder / "named.conf"))
        nsd = "".join(f' name: "{name}"\n zonefile: "{self.folder}/{name}.zone"\nzone:\n' for name in odd)
        (self.folder / "nsd.conf").write_text(
            f'server:\n ip-address: 127.0.0.1@{self.odd}\n zonesdir: "{self.folder}"\n username: ""\n pidfile: ""\n'
            f' database: ""\n xfrdfile: "{self.folder}/xfrd"\n zonelistfile: "{self.folder}/zones.list"\n'
            f' xfrdir: "{self.folder}"\n server-count: 1\nremote-control:\n control-enable: no\nzone:\n'
            + nsd.removesuffix("zone:\n")
        )
        self._start("nsd", "-d", "-c", str(self.folder / "nsd.conf"))
        elsewhere = dict.fromkeys(odd, self.odd)
        self._unbound("upstream", self.upstream, 'module-config: "iterator"', {".": self.authority, **elsewhere})
        if self._validates:
            anchored = (
                f'module-config: "validator iterator"\n trust-anchor-file: "{self.anchor}"\n ede: yes\n'
                ' val-nsec3-keysize-iterations: "1024 100 2048 100 4096 100"'
            )
            self._unbound("validator", self.validator, anchored, {".": self.upstream})

    def _unbound(self, name: str, port: int, options: str, asks: dict[str, int]) -> None:
        file = self.folder / f"{name}.conf"
        file.write_text(
            f'server:\n directory: "{self.folder}"\n username: ""\n chroot: ""\n pidfile: ""\n use-syslog: no\n'
            f" interface: 127.0.0.1@{port}\n do-not-query-localhost: no\n do-ip6: no\n num-threads: 1\n"
            f' local-zone: "test." nodefault\n qname-minimisation: no\n {options}\n'
            "remote-control:\n control-enable: no\n"
            + "".join(f'forward-zone:\n name: "{zone}"\n forward-addr: 127.0.0.1@{at}\n' for zone, at in asks.items())
        )
        self._start("unbound", "-d", "-c", str(file))

    def __enter__(self) -> Internet:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_all()
        self._serve()
        try:
            for port in (self.authority, self.upstream, *((self.validator,) if self._validates else ())):
                self._wait(port)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self, port: int) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(dns.exception.DNSException, OSError):
                reply = dns.query.udp(
                    dns.message.make_query("www.valid.test", "A", want_dnssec=True), "127.0.0.1", port=port, timeout=2
                )
                if reply.answer:
                    return
            time.sleep(0.1)
        logs = "".join(log.read_text(errors="replace")[-3000:] for log in self.folder.glob("*.log"))
        raise AssertionError(f"nobody answers on port {port}:\n{logs}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
