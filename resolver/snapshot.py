"""A generation: what the engine decides by, and which files of the state folder belong together.

`Policy` is the part that a reload without a change of lists renews: the matrix of cells, the profiles, the client map
and the routes. The build writes it to a file of its own, workers read it: nothing here imports the config or reads
lists, as a worker holds neither.

    policy file, little-endian
    ┌────────┬─────────┬───────────────┬───────────┬──────────┬───────────────┬────────────────────────────────────┐
    │ magic  │ version │ length of the │ length of │ checksum │ header (JSON) │ cells, starts4, classes4, starts6, │
    │ 8      │ u32     │ header, u32   │ file, u64 │ 16       │               │ classes6, shadows, shadow_claims,  │
    │        │         │               │           │          │               │ each on a multiple of 8            │
    └────────┴─────────┴───────────────┴───────────┴──────────┴───────────────┴────────────────────────────────────┘

The checksum (BLAKE2b, 128 bits) covers everything after itself. A file that is cut, altered or of another version is a
ValueError that names file and fault; what passes is whole and its sections fit each other. Files are written beside,
synced and renamed, and never written again: one is either there and whole or not there at all.

    state_dir/runs/<digest>.run            a list as it was read         (lists/runs.py)
    state_dir/index/<n>.index              names → listsets              (lists/runs.py)
    state_dir/policy/<n>.policy            this module's file
    state_dir/generations/<n>.json         which of them make generation n: `Generation`
    state_dir/current.json                 the generation in force

`current.json` is written by the supervisor once every worker has swapped, so that a start goes on with what was proved
to work; `last_good` falls back on older generations if that one's files are gone or damaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resolver.lists import conditions
from resolver.vocabulary import EDE

RUNS = "runs"  # folder below state_dir
REFUSED_CLASS = 0xFFFF  # a client that is not in allow_from
WITHHELD_CLASS = 0xFFFE  # one with a list that has never come, and that is to have no answers without it: SERVFAIL
NO_SLOT = 0xFFFF  # no list won, or there was no slot left for it
MAX_PROFILES = 0xFFFF
NO_EDE = -1
MAX_TEXT = 200  # octets of EXTRA-TEXT
MAX_STRUCTURED, MAX_STRUCTURED_BRIEF = 640, 320  # and of a structured one

MAGIC = b"TAMPAHPL"
VERSION = 4
_PREAMBLE = struct.Struct("<8sIIQ16s")  # magic, version, header's length, file's length, checksum
assert _PREAMBLE.size == 40
CELL = struct.Struct("<BBBBHH")  # rank, action, flags, member, list slot, profile; see lists/matrix.py
assert CELL.size == 8
SHADOW_CLAIM = struct.Struct("<BBH")  # rank, whether it is the cell's last, list slot
_SECTIONS = ("cells", "starts4", "classes4", "starts6", "classes6", "shadows", "shadow_claims")
_CLIENT_SECTIONS = _SECTIONS[1:5]


@dataclass(frozen=True, slots=True)
class Profile:
    """How a query is answered once a cell has decided.

    `action` is a vocabulary.Action, `ttl` seconds; `ipv4` and `ipv6` the sinkhole's 4 and 16 octets (zeros unless the
    action is ADDRESS); `ede` an INFO-CODE (RFC 8914) or NO_EDE, `text` its EXTRA-TEXT of at most MAX_TEXT octets; `soa`
    MNAME and RNAME in wire form; `target` the name that an `override: cname:` points at ("": the rule's own data);
    `zone` which of Policy.zones has the SOA that goes with it, from 1 (0: none). `structured`: its EXTRA-TEXT as a
    structured error (lists/reason.py) of at most MAX_STRUCTURED octets, `structured_brief`: what is left where that does
    not fit.
    """

    action: int
    ttl: int
    ipv4: bytes
    ipv6: bytes
    ede: int
    text: str
    soa: bytes
    target: str = ""
    zone: int = 0
    structured: str = ""
    structured_brief: str = ""

    def reason(self, *, structured: bool) -> tuple[int, str]:
        """(INFO-CODE or NO_EDE, EXTRA-TEXT) for a client that understands structured errors or does not."""
        if not structured or self.ede == NO_EDE:
            return self.ede, self.text
        return int(EDE.BLOCKED if self.ede == EDE.FORGED_ANSWER else self.ede), self.structured


@dataclass(frozen=True, slots=True)
class Clients:
    """Client address → policy class as ascending ranges: a range begins at its start and ends before the next one's.

    `starts4`: u32 little-endian, the first is 0. `starts6`: 16 octets each in network order, the first is ::.
    `classes4` and `classes6`: u16 little-endian, parallel; REFUSED_CLASS for clients that are not served. What
    read_clients() gives is a mapped file, which all who read it share.
    """

    starts4: bytes | memoryview
    classes4: bytes | memoryview
    starts6: bytes | memoryview
    classes6: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Dns64:
    """How AAAA is made from A. `prefix`: its 4 to 8 or 12 octets. `clients`: class 0 for those who get it, None: all do;
    `excluded`: class 0 for addresses of either family that are as good as none, None: there are none."""

    prefix: bytes
    clients: Clients | None = None
    excluded: Clients | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the engine decides by, next to an index with the same `shapes`.

    `cells`: row after row, one a class, CELL.size octets a shape. `routes`: zone (lower-case, no trailing dot) → route,
    0 being the default one. `groups`: name → class, in the config's order. `paused`: name → the class of its clients while
    filtering is off for them, "" for clients in no group; one that is not there has its usual class. `decisions`: for each
    conditional (class, shape) the claims to try, the strongest first, as (condition, cell): see resolver/decide.py.
    `patterns`: (text as lists/patterns.py has it, listset, names below which it does not hold). `order`: u16 for each slot
    of lists, their place in the config (b"": nobody asks). `variants`: for each class that clients have four u16, the
    classes that hold for a query by what it is: bit 0 wants no recursion, bit 1 wants to verify an answer that is signed
    (b"": the class itself). `zones`: owner and rdata of policy zones' SOA, in wire form. `guard`: class 0 for the addresses
    that no name outside should have, REFUSED_CLASS for others; `unguarded`: names that may, with what is below them. `dns64`
    None: off. `withheld`: classes whose clients are to get SERVFAIL, as a list of theirs has never come. `class_routes`: for
    each class the route of what is in no routed zone; (): the default one for all. `seeks`: an octet a class, whether the
    servers of names are looked up for its lists (b"": for none).

    `shadows`: where some list only counts, a u16 a cell: where the cell's claims begin in `shadow_claims` (SHADOW_CLAIM
    each, the first is nobody's), 0 for none.
    """

    classes: int
    shapes: int
    cells: bytes
    profiles: tuple[Profile, ...]
    clients: Clients
    routes: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    order: bytes = b""
    variants: bytes = b""
    zones: tuple[tuple[bytes, bytes], ...] = ()
    guard: Clients | None = None
    dns64: Dns64 | None = None
    unguarded: tuple[str, ...] = ()
    withheld: tuple[int, ...] = ()
    decisions: Mapping[tuple[int, int], tuple[tuple[str, bytes], ...]] = field(default_factory=dict)
    patterns: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    paused: Mapping[str, int] = field(default_factory=dict)
    shadows: bytes = b""
    shadow_claims: bytes = b""
    class_routes: tuple[int, ...] = ()
    seeks: bytes = b""

    def withhold(self, clients: Clients) -> Clients:
        """A client map in which the classes that are withheld have WITHHELD_CLASS."""
        if not self.withheld:
            return clients

        def held(octets: bytes | memoryview) -> bytes:
            return array(
                "H", (WITHHELD_CLASS if at in self.withheld else at for at in array("H", bytes(octets)))
            ).tobytes()

        return replace(clients, classes4=held(clients.classes4), classes6=held(clients.classes6))

    def cell(self, policy_class: int, shape: int) -> tuple[int, int, int, int, int, int]:
        """(rank, action, flags, member, list slot, profile) for a class and a shape."""
        rank, action, flags, member, slot, profile = CELL.unpack_from(
            self.cells, (policy_class * self.shapes + shape) * CELL.size
        )
        return rank, action, flags, member, slot, profile


# -- the policy file --------------------------------------------------------------------------------------------------
def write_policy(path: Path, policy: Policy) -> None:
    """Write `policy` beside `path`, sync it and rename it into place."""
    header: dict[str, Any] = {
        "classes": policy.classes,
        "shapes": policy.shapes,
        "profiles": [_profile_to_json(profile) for profile in policy.profiles],
        "routes": dict(policy.routes),
        "groups": dict(policy.groups),
        "order": policy.order.hex(),
        "variants": policy.variants.hex(),
        "zones": [[name.hex(), rdata.hex()] for name, rdata in policy.zones],
        "guard": _clients_to_json(policy.guard),
        "dns64": _dns64_to_json(policy.dns64),
        "unguarded": list(policy.unguarded),
        "withheld": list(policy.withheld),
        "decisions": _decisions_to_json(policy),
        "patterns": policy.patterns,
        "paused": dict(policy.paused),
        "class_routes": policy.class_routes,
        "seeks": policy.seeks.hex(),
        "sections": {},
    }
    client_sections = (getattr(policy.clients, name) for name in _CLIENT_SECTIONS)
    sections = (policy.cells, *client_sections, policy.shadows, policy.shadow_claims)
    offset, body = 0, []
    for name, section in zip(_SECTIONS, sections, strict=True):
        header["sections"][name] = [offset, len(section)]
        padding = -len(section) % 8
        body += [section, bytes(padding)]
        offset += len(section) + padding
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    rest = head + b"".join(body)
    length = _PREAMBLE.size + len(rest)
    write_whole(path, _PREAMBLE.pack(MAGIC, VERSION, len(head), length, _checksum(rest)) + rest)


def read_policy(path: Path) -> Policy:
    """The policy of a file, verified; ValueError names file and fault, OSError if it is not there."""
    octets = memoryview(path.read_bytes())
    if len(octets) < _PREAMBLE.size:
        raise ValueError(f"{path}: cut off after {len(octets)} octets")
    magic, version, head_length, length, checksum = _PREAMBLE.unpack_from(octets)
    if magic != MAGIC:
        raise ValueError(f"{path}: not a policy file")
    if version != VERSION:
        raise ValueError(f"{path}: version {version} of the policy file, this program reads {VERSION}")
    if length != len(octets):
        raise ValueError(f"{path}: {len(octets)} octets long where {length} were written")
    rest = octets[_PREAMBLE.size :]
    if _checksum(rest) != checksum:
        raise ValueError(f"{path}: damaged, its checksum is not the one it was written with")
    try:
        policy = _policy_from(json.loads(bytes(rest[:head_length])), rest[head_length:])
        _check(policy)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: its header and sections do not fit: {error!r}") from None
    return policy


def _policy_from(header: dict[str, Any], body: memoryview) -> Policy:
    def section(name: str) -> bytes:
        start, length = header["sections"][name]
        if not 0 <= start <= start + length <= len(body):
            raise ValueError(f"section {name} is outside of the file")
        return bytes(body[start : start + length])

    return Policy(
        classes=header["classes"],
        shapes=header["shapes"],
        cells=section("cells"),
        profiles=tuple(_profile_from_json(item) for item in header["profiles"]),
        clients=Clients(*(section(name) for name in _CLIENT_SECTIONS)),
        routes=header["routes"],
        groups=header["groups"],
        order=bytes.fromhex(header["order"]),
        variants=bytes.fromhex(header["variants"]),
        zones=tuple((bytes.fromhex(name), bytes.fromhex(rdata)) for name, rdata in header["zones"]),
        guard=_clients_from_json(header["guard"]),
        dns64=_dns64_from_json(header["dns64"]),
        unguarded=tuple(header["unguarded"]),
        withheld=tuple(header["withheld"]),
        decisions=_decisions_from_json(header["decisions"]),
        patterns=tuple((str(text), int(listset), tuple(denied)) for text, listset, denied in header["patterns"]),
        paused=header["paused"],
        shadows=section("shadows"),
        shadow_claims=section("shadow_claims"),
        class_routes=tuple(header["class_routes"]),
        seeks=bytes.fromhex(header["seeks"]),
    )


def _check(policy: Policy) -> None:
    """That the sections fit each other; ValueError says which do not. What cells and ranges name the engine checks."""
    if len(policy.cells) != policy.classes * policy.shapes * CELL.size:
        raise ValueError("the matrix has another size than classes and shapes say")
    if policy.shadows and len(policy.shadows) != 2 * policy.classes * policy.shapes:
        raise ValueError("the shadow cells are not as many as classes and shapes say")
    if policy.class_routes and len(policy.class_routes) != policy.classes:
        raise ValueError("the classes' routes are not as many as the classes")
    if policy.seeks and len(policy.seeks) != policy.classes:
        raise ValueError("there are not as many words on looking up servers as classes")
    if not all(number < policy.classes for number in (*policy.groups.values(), *policy.paused.values())):
        raise ValueError("a group has a class that is not there")
    if not policy.profiles or any(len(profile.ipv4) != 4 or len(profile.ipv6) != 16 for profile in policy.profiles):
        raise ValueError("a profile without its addresses")
    for (policy_class, shape), claims in policy.decisions.items():
        if not 0 <= policy_class < policy.classes or not 0 <= shape < policy.shapes:
            raise ValueError(f"a decision for class {policy_class} and shape {shape}")
        for condition, cell in claims:
            conditions.parse(condition)
            if len(cell) != CELL.size or CELL.unpack(cell)[5] >= len(policy.profiles):
                raise ValueError("a decision whose cell is none")
    _check_clients(policy.clients)


def _check_clients(clients: Clients) -> None:
    for starts, classes, width in (
        (clients.starts4, clients.classes4, 4),
        (clients.starts6, clients.classes6, 16),
    ):
        if not classes or len(starts) * 2 != len(classes) * width or any(starts[:width]):
            raise ValueError(f"the client map of {width}-octet addresses is not whole")


def _clients_to_json(clients: Clients | None) -> list[str] | None:
    return None if clients is None else [getattr(clients, name).hex() for name in _CLIENT_SECTIONS]


def _clients_from_json(item: list[str] | None) -> Clients | None:
    return None if item is None else Clients(*map(bytes.fromhex, item))


def _dns64_to_json(dns64: Dns64 | None) -> list[Any] | None:
    if dns64 is None:
        return None
    return [dns64.prefix.hex(), _clients_to_json(dns64.clients), _clients_to_json(dns64.excluded)]


def _dns64_from_json(item: list[Any] | None) -> Dns64 | None:
    if item is None:
        return None
    prefix, clients, excluded = item
    return Dns64(bytes.fromhex(prefix), _clients_from_json(clients), _clients_from_json(excluded))


def _profile_to_json(profile: Profile) -> dict[str, Any]:
    return {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in ((spec.name, getattr(profile, spec.name)) for spec in dataclasses.fields(profile))
    }


def _profile_from_json(item: dict[str, Any]) -> Profile:
    octets = {name: bytes.fromhex(item[name]) for name in ("ipv4", "ipv6", "soa")}
    return Profile(**{**item, **octets})


def _decisions_to_json(policy: Policy) -> dict[str, Any]:
    """Decisions as JSON: conditions and cells, claims (place, place), decisions (places) and whose they are (place)."""
    texts: dict[str, int] = {}
    cells: dict[str, int] = {}
    rows: dict[tuple[int, ...], int] = {}
    places = []
    for (policy_class, shape), claims in policy.decisions.items():
        row: list[int] = []
        for text, cell in claims:
            row += (texts.setdefault(text, len(texts)), cells.setdefault(cell.hex(), len(cells)))
        places.append([policy_class, shape, rows.setdefault(tuple(row), len(rows))])
    return {"conditions": list(texts), "cells": list(cells), "claims": list(rows), "places": places}


def _decisions_from_json(item: dict[str, Any]) -> dict[tuple[int, int], tuple[tuple[str, bytes], ...]]:
    texts, cells = item["conditions"], [bytes.fromhex(cell) for cell in item["cells"]]
    rows = [tuple((texts[row[at]], cells[row[at + 1]]) for at in range(0, len(row), 2)) for row in item["claims"]]
    return {(policy_class, shape): rows[row] for policy_class, shape, row in item["places"]}


def _checksum(octets: bytes | memoryview) -> bytes:
    return hashlib.blake2b(octets, digest_size=16).digest()


# -- client maps ------------------------------------------------------------------------------------------------------
_MAP_MAGIC, _MAP_VERSION = b"TAMPAHCM", 1
_MAP = struct.Struct("<8sI4QI16s")  # magic, version, lengths of the sections, a spare word, checksum


def write_clients(path: Path, clients: Clients) -> None:
    """Write a client map of its own beside `path` and rename it into place. It outlives no server, so it is not synced."""
    sections = [getattr(clients, name) for name in _CLIENT_SECTIONS]
    body = b"".join(sections)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}{TEMPORARY}")
    beside.write_bytes(_MAP.pack(_MAP_MAGIC, _MAP_VERSION, *map(len, sections), 0, _checksum(body)) + body)
    beside.replace(path)


def read_clients(path: Path) -> Clients:
    """What write_clients wrote, verified and mapped; ValueError names the file where it is not that."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _MAP.size:
            raise ValueError(f"{path}: cut off after {size} octets")
        octets = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    magic, version, *lengths, _, checksum = _MAP.unpack_from(octets)
    body = octets[_MAP.size :]
    if magic != _MAP_MAGIC or version != _MAP_VERSION or sum(lengths) != len(body) or _checksum(body) != checksum:
        raise ValueError(f"{path}: not a whole client map")
    at, sections = 0, []
    for length in lengths:
        sections.append(body[at : at + length])
        at += length
    clients = Clients(*sections)
    try:
        _check_clients(clients)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return clients


# -- routes -----------------------------------------------------------------------------------------------------------
def number_routes(zones_of_routes: Sequence[Sequence[str]]) -> dict[str, int]:
    """Zone → route: the n-th route of `upstream.routes` has number n, counted from 1, as 0 is `upstream.servers`.

    A zone that several routes name keeps the first.
    """
    routes: dict[str, int] = {}
    for number, zones in enumerate(zones_of_routes, start=1):
        for zone in zones:
            routes.setdefault(zone.rstrip(".").lower(), number)
    return routes


def number_groups(zone_routes: int, upstreams: Sequence[Sequence[object]]) -> list[int]:
    """Group → route: groups with servers of their own are numbered behind the `zone_routes` routes of zones, those with
    the same servers alike; 0 for a group without."""
    numbers: dict[tuple[object, ...], int] = {}
    return [
        numbers.setdefault(tuple(servers), zone_routes + 1 + len(numbers)) if servers else 0 for servers in upstreams
    ]


# -- generations ------------------------------------------------------------------------------------------------------
HELD = "held"
REJECTED = "rejected"
VIEW_SUFFIX = ".view.run"  # ends the name of a view of a run, which begins with the run's


def base_of(run: str) -> str:
    """The file name of the run itself, for that of a run or of a view of it."""
    return f"{run.partition('.')[0]}.run" if run.endswith(VIEW_SUFFIX) else run


@dataclass(frozen=True, slots=True)
class ListState:
    """A list as a generation serves it.

    `run`: file name below state_dir/runs, "" when the list could not be read and no good copy was left. `source`: path,
    size, mtime in ns and inode of each file of its source, `options` what else influenced the reading, `seen` when the
    source was last found good, in seconds since the epoch. `slot` counts it in shared memory (counters.LIST_SLOTS).
    `rpz`: it decides at rank 4; `answer_triggers`: it speaks about addresses or name servers in answers too. `zone` and
    `soa`: an RPZ zone's name without the final dot, and its SOA's data in text.

    `run` may be a view of a run (lists/view.py), without rules that the guard left out, `quarantined` of which wait for a
    decision. `pending`: the run that its source came to, where it is not served, and `held` why: HELD by the guard until
    somebody decides, or REJECTED. `origin`: `source` in the config, `digest` of what was read for `run`.
    """

    name: str
    run: str
    slot: int
    source: tuple[tuple[str, int, int, int], ...] = ()
    options: str = ""
    kind: str = "block"
    seen: float = 0.0
    names: int = 0
    replaces: bool = False
    rpz: bool = False
    answer_triggers: bool = False
    zone: str = ""
    soa: str = ""
    origin: str = ""
    digest: str = ""
    pending: str = ""
    held: str = ""
    quarantined: int = 0

    @property
    def newest(self) -> str:
        """The run that the source came to last, served or not, as it was read; "" if there is none."""
        return self.pending or base_of(self.run)

    def files(self) -> set[str]:
        """Its files below state_dir."""
        return {f"{RUNS}/{run}" for run in (self.run, base_of(self.run), self.pending) if run}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> ListState:
        """What dataclasses.asdict gave, once it has been through JSON."""
        return cls(**{**body, "source": tuple((str(path), *numbers) for path, *numbers in body["source"])})


OWN_PREFIX = "built-in:"  # begins the names of lists that are nobody's file: no list of the config can


def own_category(name: str) -> str:
    """The category under which a list that is nobody's file is counted, "" for any other."""
    return name.split(":")[1] if name.startswith(OWN_PREFIX) else ""


@dataclass(frozen=True, slots=True)
class Generation:
    """One immutable state of everything that decides; `number` grows by one a build, `parent` is what it followed.

    `index` and `policy` are file names below state_dir, `created` is in seconds since the epoch, `config` a digest of
    the config as read, `report` what the build had to say (see lists/compile.py). `decided`: how many decisions
    (decisions.py) it goes by. `returns_to`: the generation that a rollback made this one of, 0 if none did. `own`: those
    lists that are nobody's file (lists/own).
    """

    number: int
    parent: int
    created: float
    config: str
    index: str
    policy: str
    lists: tuple[ListState, ...]
    report: dict[str, Any] = field(default_factory=dict)
    decided: int = 0
    returns_to: int = 0
    own: tuple[ListState, ...] = ()

    @property
    def slots(self) -> dict[str, int]:
        """List name → slot of its counters."""
        return {state.name: state.slot for state in (*self.lists, *self.own)}

    def index_path(self, state_dir: Path) -> Path:
        """Where the index file is."""
        return state_dir / self.index

    def policy_path(self, state_dir: Path) -> Path:
        """Where the policy file is."""
        return state_dir / self.policy

    def files(self) -> set[str]:
        """Every file below state_dir that must be kept as long as this generation is."""
        return {self.index, self.policy}.union(*(state.files() for state in (*self.lists, *self.own)))

    def is_complete(self, state_dir: Path) -> bool:
        """Whether its files are there and the policy is whole (the index is verified by the engine)."""
        try:
            read_policy(self.policy_path(state_dir))
        except (OSError, ValueError):
            return False
        return self.index_path(state_dir).is_file()


def write_generation(state_dir: Path, generation: Generation) -> None:
    """Record which files make up a generation."""
    write_json(_record(state_dir, generation.number), dataclasses.asdict(generation))


def read_generation(state_dir: Path, number: int) -> Generation:
    """The generation of a number; ValueError names its record if that is damaged, OSError if it is not there."""
    return _read_record(_record(state_dir, number))


def generations(state_dir: Path) -> list[Generation]:
    """All recorded generations, the newest first; damaged records are left out."""
    found = []
    for path in (state_dir / "generations").glob("*.json"):
        try:
            found.append(_read_record(path))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda generation: generation.number, reverse=True)


def put_in_force(state_dir: Path, number: int) -> None:
    """Record that every worker enforces generation `number`: the next start begins with it."""
    write_json(state_dir / "current.json", {"generation": number})


def in_force(state_dir: Path) -> int:
    """The number of the generation in force; 0 if there was none yet or the record is damaged."""
    try:
        number = json.loads((state_dir / "current.json").read_bytes())["generation"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return number if isinstance(number, int) else 0


def last_good(state_dir: Path) -> Generation | None:
    """The generation to serve before anything is built: the one in force, else the newest older one that is complete.

    None if there is none. A newer generation that never was in force is not taken: nobody proved it.
    """
    current = in_force(state_dir)
    candidates = [generation for generation in generations(state_dir) if generation.number <= current]
    return next((generation for generation in candidates if generation.is_complete(state_dir)), None)


def previous(state_dir: Path) -> int:
    """The number of the newest kept generation before the one in force that has other lists or other versions of them.

    ValueError if there is none."""
    known = generations(state_dir)
    number = in_force(state_dir)
    runs = {each.number: [(state.name, state.run) for state in each.lists] for each in known}
    for each in known:
        if each.number < number and runs[each.number] != runs.get(number):
            return each.number
    raise ValueError(f"{state_dir}: there is no generation before this one with other lists")


def _record(state_dir: Path, number: int) -> Path:
    return state_dir / "generations" / f"{number}.json"


def _read_record(path: Path) -> Generation:
    try:
        body = json.loads(path.read_bytes())
        lists = tuple(ListState.from_json(state) for state in body.pop("lists"))
        own = tuple(ListState.from_json(state) for state in body.pop("own"))
        return Generation(lists=lists, own=own, **body)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a generation's record: {error!r}") from None


# -- files that are there and whole, or not there ---------------------------------------------------------------------
TEMPORARY = ".tmp"  # ends the name of a file that is still being written


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Write JSON as write_whole does."""
    write_whole(path, json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")


def write_whole(path: Path, octets: bytes) -> None:
    """Write a file beside `path`, sync it, rename it into place and sync the folder."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with beside.open("wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
