"""Who is in which group at a moment: config, files of clients, the neighbour table, schedules and pauses → client map.

    matrix and classes (policy file, once a generation)  +  Membership.make()  →  client map

Schedules, pauses, MAC addresses and files of clients only ever change the client map: no list is read for them, no
matrix is made again, no index is written. A group outside of its schedule has no clients, so they fall to the next group
that matches. A paused group or client has the paused class that goes with its own (lists/matrix.py).

What decides beside config and files is a `State`; as long as it is the same, so is the map. `Membership` asks no clock
and no kernel by itself: both are handed in. A build, `explain` and the supervisor make the same map from the same state.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resolver import pause, schedule
from resolver.config.addresses import ClientFile, Mac, Network
from resolver.lists.clients import ClientsRead, Layer, Packed, flatten, intervals, pack, pack_addresses, read_file
from resolver.lists.report import duration
from resolver.neighbours import read_kernel
from resolver.pause import EVERYBODY, Pause
from resolver.snapshot import Clients, Policy, write_whole

if TYPE_CHECKING:
    from resolver.config.model import Config, Group

FOLDER = "clients"  # below state_dir: last good copies of files of clients, and the client maps in force
MAX_OCTETS = 1 << 28  # of a file of clients
BROKEN_TOLD = 5  # broken lines of a file that are reported
YOUNG = 2.0  # seconds: a file changed so shortly before it was read may change again without its stat showing it

Addresses = Mapping[str, Sequence[bytes]]  # MAC address → its addresses in 4 or 16 octets


# -- files of clients -------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _File:
    """A file of clients as last read. `good`: what serves; `alarm`: why that is not what stands there now."""

    good: ClientsRead = field(default_factory=lambda: ClientsRead(Packed()))
    stat: tuple[int, int, int] = (0, 0, 0)
    read: float = 0.0
    alarm: str = ""


class ClientFiles:
    """The files of clients that groups name. Each that cannot be read serves on by its last good content.

    That is kept in state_dir too, so that a restart does not lose it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER
        self._files: dict[Path, _File] = {}
        self._fresh: dict[Path, bytes] = {}  # good content that `keep` has yet to write

    def __getitem__(self, path: Path) -> ClientsRead:
        """What serves of a file that was read."""
        return self._files[path].good

    def read(self, paths: Iterable[Path]) -> None:
        """Read these files where they have changed, and forget others."""
        known, self._files = self._files, {}
        for path in dict.fromkeys(paths):
            self._files[path] = self._renewed(path, known.get(path))

    @property
    def alarms(self) -> list[str]:
        """What somebody should look at: files of which older content serves."""
        return [file.alarm for file in self._files.values() if file.alarm]

    @property
    def warnings(self) -> list[str]:
        """Lines that name no client, with file and number."""
        found = []
        for path, file in self._files.items():
            found += [f"{path}:{each.line}: {each.reason}: {each.text}" for each in file.good.broken[:BROKEN_TOLD]]
            if file.good.refused > BROKEN_TOLD:
                found.append(f"{path}: {file.good.refused:,} lines in all name no client and are left out")
        return found

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """File → (lines that name clients, lines that do not)."""
        return {str(path): (file.good.lines, file.good.refused) for path, file in self._files.items()}

    def _renewed(self, path: Path, known: _File | None) -> _File:
        try:
            stat = path.stat()
            seen = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if known and not known.alarm and known.stat == seen and stat.st_mtime < known.read - YOUNG:
                return known
            if stat.st_size > MAX_OCTETS:
                raise ValueError(f"expected at most {MAX_OCTETS >> 20} MiB")
            now = time.time()
            octets = path.read_bytes()
            found = read_file(octets)
            if not octets.strip():
                raise ValueError("empty: a file without clients has a comment that says so")
            if found.refused and not found.lines:
                first = found.broken[0]
                raise ValueError(
                    f"none of its {found.refused:,} lines names a client; line {first.line}: {first.reason}"
                )
        except (OSError, ValueError) as error:
            return self._kept(path, known, getattr(error, "strerror", None) or str(error))
        self._fresh[path] = octets
        return _File(found, seen, now)

    def _kept(self, path: Path, known: _File | None, reason: str) -> _File:
        copy = self._copy(path)
        try:
            age = duration(max(0.0, time.time() - copy.stat().st_mtime))
            good = known.good if known else read_file(copy.read_bytes())
        except OSError:
            return _File(alarm=f"{path}: {reason}; there is no earlier copy, so it names nobody")
        return _File(good, alarm=f"{path}: {reason}; the copy of {age} ago serves on")

    @property
    def is_kept(self) -> bool:
        """Whether `keep` has nothing to do."""
        return not self._fresh

    def keep(self) -> None:
        """Write what was read since the last time to state_dir. That takes its time, so enforce it before."""
        fresh, self._fresh = self._fresh, {}
        for path, octets in fresh.items():
            copy = self._copy(path)
            with contextlib.suppress(OSError):
                if copy.read_bytes() == octets:
                    copy.touch()  # found good just now
                    continue
            with contextlib.suppress(OSError):  # a full disk: what was read serves all the same
                write_whole(copy, octets)

    def _copy(self, path: Path) -> Path:
        return self._folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.good"


# -- the state --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class State:
    """What the client map follows from beside config and files: which groups apply, which are paused (EVERYBODY for
    all), which networks are, and the addresses of the MAC addresses of groups and pauses."""

    applying: tuple[bool, ...]
    paused: frozenset[str]
    networks: tuple[Network, ...]
    paused_macs: tuple[str, ...]
    addresses: tuple[tuple[str, tuple[bytes, ...]], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Which group a client is in and why. `entry`: the client entry that matched, "" where no group did; `notes`: what
    else there is to say, a sentence each; `paused`: what is paused, "" if nothing that matters to it."""

    group: str
    entry: str
    notes: tuple[str, ...]
    paused: str


class Membership:
    """Groups of one config over one set of files."""

    def __init__(self, config: Config, files: ClientFiles) -> None:
        """Reads the files of clients."""
        self.groups = config.groups
        self.files = files
        self._doors = pack(config.allow_from)
        self._networks = [pack(group.networks) for group in config.groups]
        self._windows = [group.windows for group in config.groups]
        files.read(path for group in config.groups for path in group.files)

    def _macs_of(self, group: Group) -> list[str]:
        return [mac.text for mac in group.macs] + [mac for path in group.files for mac in self.files[path].macs]

    def macs(self, pauses: Iterable[Pause]) -> frozenset[str]:
        """The MAC addresses whose addresses matter."""
        _, _, paused = pause.clients_of(pauses, ())
        own = (mac for group in self.groups for mac in self._macs_of(group))
        return frozenset((*own, *(mac.text for mac in paused)))

    def state(self, now: float, pauses: Iterable[Pause], addresses: Addresses) -> State:
        """The state at an instant, in seconds since 1970."""
        living = [each for each in pauses if not each.is_over(now)]
        names, networks, macs = pause.clients_of(living, (group.name for group in self.groups))
        wanted = self.macs(living)
        return State(
            applying=tuple(schedule.active(windows, now) for windows in self._windows),
            paused=names,
            networks=tuple(networks),
            paused_macs=tuple(mac.text for mac in macs),
            addresses=tuple((mac, tuple(found)) for mac, found in addresses.items() if mac in wanted),
        )

    def next_change(self, now: float, pauses: Iterable[Pause]) -> float | None:
        """When the state changes by itself next; None if it does not."""
        changes = [schedule.next_change(windows, now) for windows in self._windows]
        ends = [each.until for each in pauses if each.until > now]
        return min((moment for moment in (*changes, *ends) if moment is not None), default=None)

    def make(self, policy: Policy, state: State) -> Clients:
        """The client map for the classes of a policy. A group that the policy does not know sees every list."""
        addresses = dict(state.addresses)
        all_paused = EVERYBODY in state.paused
        layers = []
        for group, networks, applies in zip(self.groups, self._networks, state.applying, strict=True):
            if not applies:
                continue
            own = policy.groups.get(group.name, 0)
            paused = policy.paused.get(group.name, own)
            if all_paused or group.name in state.paused:
                own = paused
            found = [address for mac in self._macs_of(group) for address in addresses.get(mac, ())]
            clients = Packed(
                b"".join([networks.four, *(self.files[path].packed.four for path in group.files)]),
                b"".join([networks.six, *(self.files[path].packed.six for path in group.files)]),
            )
            layers.append(Layer(clients + pack_addresses(found), own, paused))
        paused = policy.paused.get("", 0)
        by_mac = [address for mac in state.paused_macs for address in addresses.get(mac, ())]
        halted = pack(state.networks) + pack_addresses(by_mac)
        return policy.withhold(flatten(self._doors, layers, (paused if all_paused else 0, paused), halted))

    # -- for a person -------------------------------------------------------------------------------------------------
    def find(self, address: str, state: State, pauses: Iterable[Pause], now: float) -> Found:
        """Which group a client is in and why: the rules of `make`, walked through one by one."""
        octets = ipaddress.ip_address(address).packed
        if len(octets) == 16 and octets.startswith(b"\0" * 10 + b"\xff\xff"):
            octets = octets[12:]
        addresses = dict(state.addresses)
        notes: list[str] = []
        group_name, entry = "", ""
        for group, windows, applies in zip(self.groups, self._windows, state.applying, strict=True):
            matched = next((text for text in self._entries(group, octets, addresses)), "")
            if not matched:
                continue
            change = schedule.next_change(windows, now)
            until = f" until {_clock(change)}" if change is not None else ""
            if not applies:
                notes.append(f"group {group.name} ({matched}) does not apply by its schedule{until}")
                continue
            if windows:
                notes.append(f"group {group.name} applies by its schedule{until}")
            group_name, entry = group.name, matched
            break
        paused = ""
        for each in pauses:
            if each.target in (EVERYBODY, group_name) or self._is_paused(each, octets, addresses):
                paused = each.target
                notes.append(f"filtering is paused for {each.target} until {_clock(each.until)}; mandatory lists stay")
                break
        return Found(group_name, entry, tuple(notes), paused)

    def _is_paused(self, each: Pause, octets: bytes, addresses: Addresses) -> bool:
        _, networks, macs = pause.clients_of([each], (group.name for group in self.groups))
        return any(_holds(network, octets) for network in networks) or any(
            octets in addresses.get(mac.text, ()) for mac in macs
        )

    def _entries(self, group: Group, octets: bytes, addresses: Addresses) -> Iterator[str]:
        """The client entries of a group that hold an address, in the order of the config."""
        paths = iter(group.files)
        for client in group.clients:
            if isinstance(client, Mac):
                if octets in addresses.get(client.text, ()):
                    yield f"{client}, which has {ipaddress.ip_address(octets)} by the neighbour table"
            elif isinstance(client, ClientFile):
                read = self.files[next(paths)]
                if _is_in(read.packed, octets):
                    yield str(client)
                yield from (
                    f"{client}: {mac}, by the neighbour table" for mac in read.macs if octets in addresses.get(mac, ())
                )
            elif _holds(client, octets):
                yield str(client)


def _holds(network: Network, octets: bytes) -> bool:
    return any(
        start <= int.from_bytes(octets, "big") < end
        for found, size in zip(intervals([network]), (4, 16), strict=True)
        for start, end in found
        if size == len(octets)
    )


def _is_in(packed: Packed, octets: bytes) -> bool:
    """Whether packed intervals hold an address; walked through, so for one question and not for a query."""
    if len(octets) == 4:
        number = int.from_bytes(octets, "big")
        edges = memoryview(packed.four).cast("I")
        return any(edges[at] <= number <= edges[at + 1] for at in range(0, len(edges), 2))
    return any(
        packed.six[at : at + 16] <= octets <= packed.six[at + 16 : at + 32] for at in range(0, len(packed.six), 32)
    )


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


# -- at this moment, for a build and for explain ----------------------------------------------------------------------
def membership_now(
    config: Config, state_dir: Path, clock: Callable[[], float] = time.time
) -> tuple[Membership, State, tuple[Pause, ...]]:
    """The membership of a config at this moment, with the pauses that are kept and the kernel's neighbour table."""
    members = Membership(config, ClientFiles(state_dir))
    pauses = pause.read(state_dir)
    return members, members.state(clock(), pauses, _addresses_now(members.macs(pauses))), pauses


def _addresses_now(macs: frozenset[str]) -> Addresses:
    found: dict[str, list[bytes]] = {}
    if macs:
        try:
            for neighbour in read_kernel():
                if neighbour.mac in macs:
                    found.setdefault(neighbour.mac, []).append(neighbour.address)
        except OSError:
            pass  # the supervisor has said so
    return {mac: sorted(addresses) for mac, addresses in sorted(found.items())}
