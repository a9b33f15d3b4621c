"""The servers that are compared: how each is given the same names and upstream, started, and told of a changed list.

Each is set up as its manual says for one thread on one core, with caches large enough for the cached case, without
DNSSEC and query logs. A blocked name covers what is below it, everywhere. A peer blocks in the way it does best:
Unbound by local zones and, as a peer of its own, by RPZ.

`write` makes the files in a folder of the peer's own; `command` starts it; `add` puts one more name on the list as its
file has it, and `reload` makes the server read it, or is None where only a restart does.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType

from tests.bench.names import Names, read
from tests.bench.processes import Process
from tests.ports import free_port

CACHED_ANSWERS = 200_000
RELOAD_PATIENCE = 300  # seconds that a peer's own command may take to reload
FIRST_SERIAL = 1_000_000_001  # of zones; ten digits, so that it can be raised in place


class Peer(ABC):
    """One kind of server. `upstream`: the port on loopback of the server that is asked for everything else."""

    name: str
    program: str
    version: tuple[str, ...]
    blocks = True  # whether it looks at names at all
    speaks_tcp = True
    cores = "0"
    cwd: Path | None = None

    def __init__(self, folder: Path, port: int, upstream: int) -> None:
        self.folder, self.port, self.upstream = folder / self.name, port, upstream

    @classmethod
    def is_installed(cls) -> bool:
        return shutil.which(cls.program) is not None

    @classmethod
    def describe(cls) -> str:
        """The program's own line about its version."""
        out = subprocess.run(cls.version, capture_output=True, text=True, timeout=20, check=False)
        found = re.search(r"\d+\.\d+[\w.-]*", out.stdout + out.stderr)
        return found[0] if found else "?"

    @abstractmethod
    def write(self, names: Names) -> None:
        """Write the configuration and the list in this server's own form."""

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What starts it in the foreground."""

    def forget(self) -> None:  # noqa: B027 most keep nothing
        """Remove what an earlier run left, so that a start is a first start."""

    def start(self) -> Process:
        log = self.folder / "log"
        return Process(self.command, self.cores, cwd=self.cwd, log=log)

    can_reload = False

    def add(self, name: str) -> None:
        """Put one more name on the list."""
        raise NotImplementedError

    def reload(self, server: Process) -> None:
        """Make the running server read the list again; may return before it has."""
        raise NotImplementedError


class Echo(Peer):
    """The floor: datagrams are received and sent back in batches, and nobody looks into them."""

    name = program = "echo"
    version = ("gcc", "--version")
    blocks = speaks_tcp = False

    @classmethod
    def is_installed(cls) -> bool:
        return shutil.which("gcc") is not None

    def write(self, names: Names) -> None:
        self.folder.mkdir()
        build("echo", self.folder)

    @property
    def command(self) -> list[str]:
        return [str(self.folder / "echo"), str(self.port)]


def build(program: str, folder: Path) -> Path:
    """Compile one of the C programs beside this file."""
    source = Path(__file__).with_name(f"{program}.c")
    subprocess.run(["gcc", "-O2", "-o", folder / program, source], check=True, timeout=60)
    return folder / program


def rpz(names: Iterator[str], serial: int = FIRST_SERIAL) -> Iterator[str]:
    """A response policy zone that answers NXDOMAIN for the names and all below them."""
    yield f"$TTL 60\n@ IN SOA localhost. root.localhost. {serial} 3600 600 86400 60\n@ IN NS localhost.\n"
    for name in names:
        yield f"{name} CNAME .\n*.{name} CNAME .\n"


def write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", buffering=1 << 20) as file:
        file.writelines(lines)


class _RpzPeer(Peer):
    """A peer that reads a zone file."""

    can_reload = True

    @property
    def zone(self) -> Path:
        return self.folder / "rpz.zone"

    def write(self, names: Names) -> None:
        self.folder.mkdir()
        write_lines(self.zone, rpz(read(names.path)))

    def add(self, name: str) -> None:
        """Append the name and raise the serial, which stands in the second line."""
        with self.zone.open("r+") as file:
            head = "".join(islice(file, 2))
            found = re.search(r"localhost\. (\d+) ", head)
            assert found
            file.seek(found.start(1))
            file.write(str(int(found[1]) + 1))
            file.seek(0, os.SEEK_END)
            file.write(f"{name} CNAME .\n*.{name} CNAME .\n")

    def reload(self, server: Process) -> None:
        for pid in server.tree:
            os.kill(pid, signal.SIGHUP)


_UNBOUND = """server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  num-threads: 1
  use-syslog: no
  verbosity: 0
  do-not-query-localhost: no
  module-config: "{modules}"
  msg-cache-size: 64m
  rrset-cache-size: 128m
  so-rcvbuf: 4m
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
remote-control:
  control-enable: no
"""


class Unbound(Peer):
    name = program = "unbound"
    version = ("unbound", "-V")
    can_reload = True

    def write(self, names: Names) -> None:
        self.folder.mkdir()
        text = _UNBOUND.format(port=self.port, folder=self.folder, modules="iterator", upstream=self.upstream)
        (self.folder / "unbound.conf").write_text(f'{text}include: "{self.folder}/names.conf"\n')
        zones = (f'local-zone: "{name}" always_null\n' for name in read(names.path))
        write_lines(self.folder / "names.conf", (line for lines in (["server:\n"], zones) for line in lines))

    @property
    def command(self) -> list[str]:
        return ["unbound", "-c", f"{self.folder}/unbound.conf"]

    def add(self, name: str) -> None:
        with (self.folder / "names.conf").open("a") as file:
            file.write(f'local-zone: "{name}" always_null\n')

    def reload(self, server: Process) -> None:
        server.send(signal.SIGHUP)


class UnboundRpz(_RpzPeer):
    name, program = "unbound-rpz", "unbound"
    version = ("unbound", "-V")

    def write(self, names: Names) -> None:
        super().write(names)
        text = _UNBOUND.format(port=self.port, folder=self.folder, modules="respip iterator", upstream=self.upstream)
        (self.folder / "unbound.conf").write_text(f'{text}rpz:\n  name: "rpz.local"\n  zonefile: "{self.zone}"\n')

    @property
    def command(self) -> list[str]:
        return ["unbound", "-c", f"{self.folder}/unbound.conf"]


class Bind(_RpzPeer):
    name, program = "bind9", "named"
    version = ("named", "-v")

    def write(self, names: Names) -> None:
        super().write(names)
        (self.folder / "named.conf").write_text(
            f"""options {{
 directory "{self.folder}"; listen-on port {self.port} {{127.0.0.1;}}; listen-on-v6 {{none;}};
 recursion yes; forward only; forwarders port {self.upstream} {{127.0.0.1;}}; dnssec-validation no;
 pid-file none; session-keyfile none; max-cache-size 256m;
 response-policy {{ zone "rpz.local"; }} qname-wait-recurse no min-update-interval 0; minimal-responses yes;
}};
zone "rpz.local" {{ type primary; file "{self.zone}"; check-names ignore; }};
controls {{}};
"""
        )

    @property
    def command(self) -> list[str]:
        return ["named", "-f", "-n", "1", "-c", f"{self.folder}/named.conf"]


class Recursor(_RpzPeer):
    name, program = "pdns-recursor", "pdns_recursor"
    version = ("pdns_recursor", "--version")

    def write(self, names: Names) -> None:
        super().write(names)
        (self.folder / "recursor.conf").write_text(
            f"""local-address=127.0.0.1
local-port={self.port}
forward-zones-recurse=.=127.0.0.1:{self.upstream}
dont-query=
threads=1
pdns-distributes-queries=no
lua-config-file={self.folder}/recursor.lua
socket-dir={self.folder}
setuid=
setgid=
dnssec=off
max-cache-entries={CACHED_ANSWERS}
max-packetcache-entries={CACHED_ANSWERS}
security-poll-suffix=
"""
        )
        (self.folder / "recursor.lua").write_text(f'rpzFile("{self.zone}", {{policyName="rpz"}})\n')

    @property
    def command(self) -> list[str]:
        return ["pdns_recursor", f"--config-dir={self.folder}", "--daemon=no"]

    def reload(self, server: Process) -> None:
        options = [f"--socket-dir={self.folder}", f"--timeout={RELOAD_PATIENCE}"]
        command = ["rec_control", *options, "reload-lua-config"]
        subprocess.run(command, capture_output=True, timeout=RELOAD_PATIENCE + 5, check=True)


class Dnsdist(Peer):
    """It has no command to read a list again; its console runs a function of its configuration that does."""

    name = program = "dnsdist"
    version = ("dnsdist", "--version")
    can_reload = True

    def write(self, names: Names) -> None:
        self.folder.mkdir()
        shutil.copyfile(names.path, self.folder / "names.txt")
        key = base64.b64encode(os.urandom(32)).decode()
        console = f'setKey("{key}")\ncontrolSocket("127.0.0.1:{free_port()}")\n'
        (self.folder / "console.conf").write_text(console)
        (self.folder / "dnsdist.conf").write_text(
            f"""setLocal("127.0.0.1:{self.port}")
newServer({{address="127.0.0.1:{self.upstream}"}})
getPool(""):setCache(newPacketCache({CACHED_ANSWERS}, {{maxTTL=86400}}))
function readList()
  local blocked = newSuffixMatchNode()
  for line in io.lines("{self.folder}/names.txt") do blocked:add(newDNSName(line)) end
  clearRules()
  addAction(SuffixMatchNodeRule(blocked), SpoofAction({{"0.0.0.0"}}))
end
readList()
setSecurityPollSuffix("")
{console}"""
        )

    @property
    def command(self) -> list[str]:
        return ["dnsdist", "--supervised", "--disable-syslog", "-C", f"{self.folder}/dnsdist.conf"]

    def add(self, name: str) -> None:
        with (self.folder / "names.txt").open("a") as file:
            file.write(f"{name}\n")

    def reload(self, server: Process) -> None:
        command = ["dnsdist", "-C", f"{self.folder}/console.conf", "-e", "readList()"]
        subprocess.run(command, capture_output=True, timeout=RELOAD_PATIENCE, check=True)


class Dnsmasq(Peer):
    name = program = "dnsmasq"
    version = ("dnsmasq", "--version")

    def write(self, names: Names) -> None:
        self.folder.mkdir()
        (self.folder / "dnsmasq.conf").write_text(
            f"""port={self.port}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
server=127.0.0.1#{self.upstream}
cache-size=20000
user=root
conf-file={self.folder}/names.conf
"""
        )
        write_lines(self.folder / "names.conf", (f"address=/{name}/0.0.0.0\n" for name in read(names.path)))

    @property
    def command(self) -> list[str]:
        return ["dnsmasq", "-k", "-C", f"{self.folder}/dnsmasq.conf"]


class KnotResolver(_RpzPeer):
    name, program = "knot-resolver", "kresd"
    version = ("kresd", "--version")

    def write(self, names: Names) -> None:
        super().write(names)
        (self.folder / "kresd.conf").write_text(
            f"""net.listen('127.0.0.1', {self.port}, {{ kind = 'dns' }})
modules.unload('ta_update')
modules.unload('ta_signal_query')
modules.unload('priming')
modules.unload('detect_time_skew')
trust_anchors.remove('.')
cache.size = 200 * MB
policy.add(policy.rpz(policy.DENY, '{self.zone}', true))
policy.add(policy.all(policy.STUB('127.0.0.1@{self.upstream}')))
"""
        )

    @property
    def command(self) -> list[str]:
        return ["kresd", "-n", "-c", f"{self.folder}/kresd.conf", str(self.folder)]

    def forget(self) -> None:
        for file in self.folder.glob("*.mdb"):
            file.unlink()

    def reload(self, server: Process) -> None:
        """Nothing to do: it watches the file."""


_NSD = """server:
  ip-address: 127.0.0.1@{port}
  zonesdir: "{folder}"
  database: ""
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd"
  zonelistfile: "{folder}/zones"
  username: ""
  server-count: 1
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone"
"""


class Upstream:
    """An nsd that answers every name with 192.0.2.1, for as long as the block lasts."""

    def __init__(self, folder: Path, port: int, core: str) -> None:
        self.port = port
        self._folder, self._core = folder, core
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, also where an earlier one has ended."""
        self.end()
        command = ["nsd", "-d", "-c", f"{self._folder}/nsd.conf"]
        self._process = Process(command, self._core, log=self._folder / "log")

    def end(self) -> None:
        if self._process is not None:
            self._process.end()

    @property
    def process(self) -> Process:
        """The running one."""
        assert self._process is not None
        return self._process

    def has_ended(self) -> bool:
        return self._process is None or self._process.has_ended()

    def __enter__(self) -> Upstream:
        self._folder.mkdir()
        (self._folder / "root.zone").write_text(
            "$ORIGIN .\n$TTL 3600\n@ IN SOA a. b. 1 3600 600 86400 300\n@ IN NS a.\na. IN A 127.0.0.1\n*. IN A 192.0.2.1\n"
        )
        (self._folder / "nsd.conf").write_text(_NSD.format(port=self.port, folder=self._folder))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
