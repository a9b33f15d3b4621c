"""The engine's border: everything Python may call, typed. See engine.pyx for how it is put together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike

from typing_extensions import Buffer

from resolver.snapshot import Policy

# -- verdicts of Engine.answer() ------------------------------------------------------------------------------------
REPLY: int  # the answer is there
DROP: int  # nothing is to be sent
WAIT: int  # a forward is under way in the engine; the answer comes through take_answers()
PUNT: int  # Python takes the query: see Punt

OVERLAY_ALLOW_VALUE: int  # the lowest two bits of values in the overlay's table; of two values the higher is the newer
OVERLAY_BLOCK_VALUE: int

# -- why a query was punted -----------------------------------------------------------------------------------------
PUNT_FORWARD: int  # not cached: ask upstream along `route`
PUNT_CONDITIONAL: int  # the listset depends on type or client: Python decides
PUNT_REFRESH: int  # nobody waits: what is kept is to be asked anew
PUNT_LOCAL: int  # answered by this server itself (a CNAME to chase, a special name)
PUNT_NOTIFY: int  # a NOTIFY (RFC 1996); only packet, client, qname and qtype count

PUNT_PATTERN: int  # nobody knows yet which patterns `names` fit: Engine.remember(), then Engine.resume()
PUNT_DNS64: int  # addresses are to be made: ask the same question for A, then Engine.synthesise()
PUNT_SERVERS: int  # nobody knows yet who the servers of `names` are: Engine.remember_servers(), then Engine.resume()

class Index:
    """A verified, memory-mapped index file. ValueError names file and fault when any part of it is wrong.

    `patient`: for a thread beside one that answers queries, which are to wait no longer than a fraction of a millisecond.
    Then let go of it in such a thread as well.
    """

    def __init__(self, path: str | PathLike[str], *, patient: bool = False) -> None: ...
    def find(self, name: str) -> int:
        """The listset that speaks for `name` (0: nobody). ValueError if it is no name."""
    def find_address(self, address: bytes, kind: int = 0) -> int:
        """The listset that speaks of an address of 16 octets: in an answer (0), of a client (1), of a name server (2)."""
    def find_server(self, name: str) -> int:
        """The listset that speaks of the name of a name server."""
    def count_listed(self, names: bytes) -> int:
        """How many of some lower-case names in wire form, one after the other, somebody speaks of. Without the GIL."""
    def shape(self, listset: int) -> int:
        """The matrix row of a listset."""
    def data(self, listset: int, member: int) -> int:
        """The data reference of a member of a listset (0: none)."""
    def records(self, reference: int) -> tuple[int | None, bool, list[tuple[int, bytes]]]:
        """(TTL in seconds or None, whether the qname goes before the CNAME's target, [(type, rdata in wire form)])."""
    @property
    def path(self) -> str: ...
    @property
    def speaks_of_server_addresses(self) -> bool: ...
    @property
    def shapes(self) -> int: ...
    @property
    def listsets(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def bytes_hot(self) -> int:
        """Octets that stay in memory."""

class SuffixTable:
    """Names with a value for themselves and one for what is below them (0: nothing): the most specific wins."""

    def __init__(self, names: Mapping[str, tuple[int, int]]) -> None: ...
    def find(self, name: str) -> int: ...

# -- compile: see lists/runs.py and lists/merge.py --------------------------------------------------------------------

class RunBuilder:
    """Takes a list's rules (rules.RuleSink), then gives them out sorted by key and without duplicates.

    A duplicate speaks of nothing that an earlier line for the same name did not: with the same outcome, or, if
    `replaces`, with any; it may be set until sort(), as the dialect is known only then. About 30 octets of memory a
    rule, 46 while sorting. `taken`: rules taken; `names`, `rules` and `duplicates` count what take_block() has given out.
    """

    replaces: bool
    lineless: (
        bool  # lines only say which rule is the first: 0 is given out, and rules of a name that say the same are one
    )
    last_key: bytes  # of what take_block() has given out
    taken: int
    names: int
    rules: int
    duplicates: int

    def __init__(self, replaces: bool = False) -> None: ...
    def reopen(self) -> None:
        """Take rules again after sort(): those not given out stay, and `taken` counts them alone."""
    @property
    def left(self) -> int:
        """How many rules take_block() has yet to give out."""
    def absorb(self, reader: RunReader, first_line: int, limit: int) -> int:
        """Take the rules of a cursor's next keys, up to `limit` or a few more, numbered on from `first_line`; how many."""
    def add(self, name: bytes, scope: int, outcome: int, line: int) -> None: ...
    def scan(
        self, chunk: bytes, first_line: int, templates: Sequence[tuple[bytes, bytes, int, int]]
    ) -> tuple[int, list[tuple[int, bytes]]]: ...
    def sort(self, threads: int = 1) -> None: ...
    def take_block(self, keys: int) -> tuple[bytes, int, bytes] | None:
        """(first key, keys, octets of a block as lists/layout.py draws it), of `keys` keys at most; None after the last.

        Blocks end where a key's hash says so: where two lists have the same names, they have the same blocks there.
        """

def count_blank(chunk: bytes) -> int:
    """How many of a chunk's lines, which end in LF, hold nothing but spaces, tabs, CR, VT and FF. Without the GIL."""

class RunReader:
    """A cursor over a run's keys; each item is (name, [(scope, outcome, line)]). ValueError if a block is damaged."""

    def __init__(
        self,
        load: Callable[[int], bytes],
        blocks: int,
        first: int = 0,
    ) -> None: ...
    def find(self, key: bytes) -> list[tuple[int, int, int]]:
        """The rules of a key; reads on from where the cursor is."""
    def below(self, key: bytes) -> Iterator[tuple[bytes, list[tuple[int, int, int]]]]:
        """The name with this key and all below it; reads on from where the cursor is."""
    def __iter__(self) -> RunReader: ...
    def __next__(self) -> tuple[bytes, list[tuple[int, int, int]]]: ...

class DeltaReader(RunReader):
    """A cursor over a run with a delta over it, from the key `start` on. Both cursors stand before their first key.

    A delta's rules have outcome << 1 | side: 0, what is said of the key now; 1, what the run under it says of it.
    """

    def __init__(self, under: RunReader, over: RunReader, start: bytes = b"") -> None: ...

class SideReader(RunReader):
    """A cursor over the keys of two deltas of the same run, with what the run and the first of them say of those."""

    def __init__(self, own: RunReader, other: RunReader) -> None: ...

def find_rules(reader: RunReader, keys: Sequence[bytes]) -> list[list[tuple[int, int]]]:
    """The (scope, outcome) of each of these ascending keys; reads on from where the cursor is."""

def rules_below(reader: RunReader, keys: list[bytes], limit: int) -> list[tuple[bytes, tuple[int, ...]]]:
    """The keys below some, these included, with their rules (outcome << 2 | scope); at most `limit` + 1.

    `keys` ascend, and none is below another; reads on from the cursor.
    """

class TransferScanner:
    """Takes the records of a transfer of a zone (wire form): CNAMEs of plain triggers whose target was learned.

    Their rules go to `builder`, numbered by record; without one, and after gather(), they are gathered. `records`: seen.
    """

    records: int

    def __init__(self, zone: bytes, builder: RunBuilder | None = None) -> None: ...
    def gather(self) -> None:
        """From here on rules are gathered."""
    def take_gathered(self) -> list[tuple[bytes, int, int]]:
        """(key, scope, outcome) of what was gathered since the last call, in order."""
    def learn(self, target: bytes, ttl: int, outcome: int) -> None:
        """What a CNAME with this target (wire form) and TTL comes to, unless its trigger is its target."""
    def scan(self, message: bytes, at: int, count: int) -> tuple[int, int, list[tuple[int, int, int, int, int, int]]]:
        """Read up to `count` records from octet `at` on, up to a SOA: (where the next begins, how many were read, others).

        An other: (where it begins, type, class, TTL, where its rdata begins, rdlength). ValueError: malformed.
        """
    def skip(self, message: bytes, at: int, count: int) -> tuple[int, int, int]:
        """Past `count` records: (where the next begins, where the last begins, its type). ValueError: malformed."""

def compare_runs(
    old: RunReader, new: RunReader, outcomes: Sequence[int | None], limit: int
) -> tuple[list[tuple[bytes, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] | None, tuple[int, int, int]]:
    """What differs between two runs of a list, and how many names were added, removed and changed.

    In the order of the keys: (key, the old run's rules, the new one's, the lines of these), rules as `outcome << 2 | scope`
    of their run; None where more than `limit` differ. `outcomes`: the old run's ids as the new's, None where it has none.
    ValueError if a block is damaged.
    """

class KeyCollision(Exception):
    """Two names have the same hash under this key, as far as the index keeps it: take another key."""

class BucketTable:
    """Collects an index's entries and lays them out in buckets; see lists/layout.py."""

    @property
    def count(self) -> int: ...
    buckets: int
    reach: int
    octets: bytearray
    side: bytearray

    def add(self, high: int, low: int, pair: int, children: bool) -> None:
        """Take an entry by its hash."""
    def pair_uses(self) -> list[int]:
        """For each pair id how many entries have it."""
    def fill(self, pairs: Sequence[int]) -> None:
        """Lay the entries out, with each pair id replaced. KeyCollision if two cannot be told apart."""

class Merger:
    """Merges runs in the order of the lists: combine(inherited listset, rules) → (own, below, pair id)."""

    names: int
    root_self: int
    root_below: int

    def __init__(
        self,
        key: bytes,
        readers: list[RunReader],
        combine: Callable[[int, list[int]], tuple[int, int, int]],
        table: BucketTable,
    ) -> None: ...
    def run(self) -> None: ...

def keys_below(reader: RunReader, key: bytes, limit: int) -> list[bytes]:
    """The keys below `key`, itself included, at most `limit` + 1; reads on from where the cursor is."""

# -- guard: see lists/guard.py ----------------------------------------------------------------------------------------
class SkipReader(RunReader):
    """The same keys without some rules: `skip` has (key, {outcome << 2 | scope}) in the order of the keys."""

    def __init__(self, under: RunReader, skip: list[tuple[bytes, frozenset[int]]]) -> None: ...

def find_many(reader: RunReader, keys: list[bytes]) -> list[tuple[bytes, list[tuple[int, int, int]]]]:
    """(key, [(scope, outcome, line)]) of those of the sorted `keys` that the run has; reads on from the cursor."""

def first_from(reader: RunReader, key: bytes) -> bytes | None:
    """The first key that is not before `key`; reads on from the cursor."""

class RunDifference:
    """What differs between two runs: (name, the old run's rules, the new one's), each [(scope, outcome, line)].

    In the order of the keys; `outcomes` as for compare_runs(). ValueError if a block is damaged.
    """

    def __init__(self, old: RunReader, new: RunReader, outcomes: Sequence[int | None]) -> None: ...
    def __iter__(self) -> RunDifference: ...
    def __next__(self) -> tuple[bytes, list[tuple[int, int, int]], list[tuple[int, int, int]]]: ...

class IndexPatch:
    """A copy of an index's buckets, side table and pairs, for changing. Of no use after an exception."""

    octets: bytearray
    buckets: int
    reach: int
    entries: int
    @property
    def side(self) -> bytes: ...
    @property
    def pairs(self) -> bytes: ...
    def __init__(self, index: Index) -> None: ...
    def add_pair(self, own: int, below: int) -> int:
        """A new pair's id."""
    def with_children(self, keys: list[bytes]) -> list[bytes]:
        """Those of the keys below whose names there may be entries."""
    def walk(
        self,
        visits: list[tuple[bytes, tuple[int, ...], bool]],
        combine: Callable[[int, int, int, tuple[int, ...]], tuple[int, int, bool]],
    ) -> list[bytes]:
        """Visit the names that may have changed in the order of their keys, each with its rules and whether it went.

        combine(listset of the name before, of what was below it, listset that its parent now gives it, rules) → (listset
        of what is below it, pair id, whether the name differs from its parent). Returns names that the index may still
        hold although no list has them nor one below. KeyCollision: a full build is due.
        """

def name_hash(key: bytes, name: str) -> bytes:
    """The 16 octets that the index's hash gives `name` under a key of 16 octets."""

def checksum(octets: Buffer) -> int:
    """XXH64 with seed 0."""

def index_layout() -> dict[str, int]:
    """Sizes and numbers of engine/index.pxd by name."""

def server_cookie_hash(secret: bytes, octets: bytes) -> bytes:
    """SipHash-2-4 as cookies have it (RFC 9018 section 4.4): 8 octets for a secret of 16."""

class Snapshot:
    """One generation as the engine reads it: immutable, shared by reference, freed after its last reader."""

    def __init__(self, index: Index, policy: Policy, number: int) -> None: ...
    @property
    def index(self) -> Index: ...
    @property
    def number(self) -> int: ...
    def count_class(self, clients: bytes, policy_class: int) -> int:
        """How many of some clients, 16 octets each, are of a class. Without the GIL."""
    def decide(self, name: str, client: bytes) -> tuple[int, int, int, bytes]:
        """(class, listset, data reference, the cell's 8 octets) for a name and a client's 16 octets: explain and tests."""

# -- why the engine gave a question up, in Punt.after --------------------------------------------------------------
AFTER_NOTHING: int  # it was not asked
AFTER_TIMEOUT: int
AFTER_TRUNCATED: int  # TC: ask the same server over TCP
AFTER_RCODE: int  # another server may know better
AFTER_BAD: int  # the answer was not sound
AFTER_SLOW: int  # it takes longer than most; its answer may still come: see take_late()
AFTER_CLOSED: int  # the server's port is closed, or the socket went

class Punt:
    """A query that Python takes. Give it back with Engine.finish() or Engine.send(), once."""

    packet: bytes
    client: bytes  # 16 octets, IPv4 as ::ffff:a.b.c.d
    transport: int
    reason: int  # PUNT_…
    after: int  # AFTER_…
    upstream: int  # which of the engine's upstreams was asked, or -1
    route: int
    question: bytes  # what identical questions share: lower-case qname in wire form, qtype, qclass, DO|CD, route
    qname: bytes  # lower-case, wire form
    qtype: int
    policy_class: int
    row: int  # of the matrix: the class or a variant of it
    generation: int  # by which it was handed up
    names: tuple[bytes, ...]  # PUNT_PATTERN, PUNT_SERVERS: the names in question, in wire form
    targets: tuple[int, ...]  # PUNT_CONDITIONAL: listsets found beside the name's own, to be decided with `listset`
    do: bool
    cd: bool
    ecs: bytes  # data of the option that tells an upstream of the client's network; empty: not told
    structured: bool  # whether the client understands structured errors
    listset: int
    slot: int  # of the list that won
    action: int  # vocabulary.Action
    rank: int  # vocabulary.Rank
    member: int  # of the listset's shape: which member won
    profile: int
    token: object  # free for the listener (streams: which client waits)

def freshness(message: bytes) -> int:
    """Seconds that HTTP caches may keep an answer (RFC 8484 section 5.1); 0: not at all."""

class RingEnd:
    """The consumer's end of a ring of query records: see ring.Reader. ValueError: the buffer holds no ring."""

    def __init__(self, buffer: Buffer) -> None: ...
    def want(self, wanted: bool) -> None:
        """Have the worker write from now on, or no more. What an end that died has not taken is there; what was left from
        before that is skipped."""
    def take(self, octets: int) -> bytes:
        """Whole records, oldest first, up to the first that reaches `octets`; empty: none. ValueError: a damaged ring."""
    def skip(self) -> None:
        """Forget what was written."""
    def close(self) -> None: ...

class Tally:
    """How often names were asked in the last day, and by how many clients; of at most `limit` names, those asked most.

    `key`: 32 octets, drawn at random. `count`: names now; `missed`: how often at most a name was asked before it got its
    place. Times are numbers of windows, which follow each other; the current one and the four before it count.
    """

    limit: int
    count: int
    missed: int

    def __init__(self, limit: int, key: bytes) -> None: ...
    def add(self, records: bytes, window: int, clients: int, every: int = 1) -> int:
        """Count query records as RingEnd.take gives them; how many counted. `clients`: 0, none is; 1, each; 2, networks
        (/24, /56). `every`: of so many records one is taken, and counts for all. ValueError: octets that are no record;
        those before them are counted."""
    def names_asked(self, window: int) -> list[tuple[str, int, int, int, int, int]]:
        """(name, asked, blocked, about how many clients, slot of the list that decided last, 1: it blocked, 2: it
        allowed), in no order."""
    def dump(self) -> bytes:
        """Everything, for load()."""
    def load(self, octets: bytes, window: int, slots: dict[int, int]) -> None:
        """Take what dump() gave, of a tally with the same key. `slots`: those of then to those of now. ValueError: it is
        none; what came before is taken."""

class Engine:
    """Owns a cache and serves UDP sockets that it was lent; hands up what it cannot answer. One a worker, for one thread.

    `counters`: writable buffer of counters.SIZE octets. `cache_bytes`: this worker's share.
    """

    def __init__(
        self,
        *,
        counters: memoryview,
        cache_bytes: int,
        max_ttl: int = 86400,
        min_ttl: int = 0,
        negative_ttl: int = 3600,
    ) -> None: ...
    def configure_cache(
        self, *, max_ttl: int, min_ttl: int, negative_ttl: int, stale_ttl: int = 0, prefetch: bool = False
    ) -> None:
        """Limits, in seconds, of what is stored from now on, and how long it may serve once it has expired.

        `prefetch`: popular answers are asked for anew (PUNT_REFRESH) in the last tenth of their time.
        """
    def swap(self, snapshot: Snapshot) -> None:
        """Every query from the next one on sees `snapshot`."""
    def set_overlay(self, table: SuffixTable | None) -> None:
        """What operators said, name by name, as overlay.words() puts it; None for nothing."""
    def set_limit(
        self,
        buckets: memoryview | None,
        *,
        per_second: int,
        prefix4: int,
        prefix6: int,
        key: bytes,
        responses: int = 0,
        slip: int = 2,
        action: str = "truncate",
    ) -> None:
        """Limit each client prefix over UDP to `per_second` queries and `responses` of one kind (0: no limit).

        `buckets`: writable memory that all workers share, a power of two of octets; `key`: 16 octets that they share too.
        `slip`: one of so many answers beyond `responses` becomes TC, the rest is dropped (0: all). `action`: with a query
        beyond `per_second`: truncate, drop, refuse. ValueError on what cannot be kept.
        """
    def configure_edns(
        self,
        *,
        cookies: int = 0,
        cookie_key: bytes = b"",
        nsid: bytes = b"",
        version: bytes = b"",
        identity: bytes = b"",
        structured: int = 0,
        keepalive: int = 0,
        ecs: str = "strip",
        prefix4: int = 24,
        prefix6: int = 56,
    ) -> None:
        """What is told and taken by options of EDNS from the next query on; ValueError on what cannot be.

        `cookies`: 0 off, 1 on, 2 required over UDP, made with `cookie_key` (16 octets, the same in all workers). `version`
        and `identity`: answers of class CH. `structured`: the option that asks for structured errors. `keepalive`: how long
        a connection may be idle, in tenths of a second. `ecs`: strip, forward or set, and the prefixes that are told.
        """
    def set_proxies(self, networks: Sequence[tuple[bytes, int]]) -> None:
        """Take PROXY headers (version 2) before datagrams from these networks, (16 octets, bits that count) each; a datagram
        from there without one is dropped. ValueError: more than 64."""
    def set_ring(self, ring: Buffer) -> None:
        """Write query records into a ring (ring.make): a writable buffer. ValueError if it is none."""
    def set_records(self, what: int) -> None:
        """Which queries are recorded: a place in ring.WHAT. Without a ring none are."""
    def add_udp(self, fd: int, family: int, wildcard: bool) -> None:
        """Take a bound UDP socket, which stays the caller's. `wildcard`: bound to 0.0.0.0 or ::, with PKTINFO on."""
    def fileno(self) -> int:
        """The epoll descriptor to watch; call drain() when it is readable."""
    def drain(self) -> int:
        """Answer what has come in, a bounded amount; returns how many datagrams clients sent.

        Then look at take_punts() and take_answers().
        """
    def answer(self, packet: bytes, client: bytes, transport: int, token: object = None) -> tuple[int, bytes | None]:
        """One query from a stream: (verdict, answer). A PUNT is among the next take_punts() with `token` on it; the answer
        to a WAIT among the next take_answers(). Without a token the engine does not ask upstream itself."""
    def take_punts(self) -> list[Punt]:
        """The queries that Python has to take, oldest first."""
    def take_answers(self) -> list[tuple[object, bytes | None]]:
        """(token, answer or None for a drop) of streams that were told to WAIT."""
    def chase(self, packet: bytes, client: bytes, token: object) -> tuple[int, bytes | None]:
        """A question that answering a client's led to, an alias's target say: (verdict, answer), as answer() gives them.

        Lists do not speak of it, local names do; it is not counted or recorded. A PUNT is among the next take_punts() with
        `token` on it. ValueError: no query.
        """
    def synthesise(self, punt: Punt, answer: bytes | None) -> tuple[int, bytes | None]:
        """Answer a PUNT_DNS64, now that the same question for A has this answer; None: it has none. As decide() does."""
    @property
    def decided(self) -> tuple[int, int, int, bytes]:
        """(listset, FindingKind of query.pxd, aliases that lead there, the cell's 8 octets): by what answer() or finish()
        decided last, for explain."""
    def learn(self, punt: Punt, answer: bytes) -> bool:
        """Keep an upstream's answer in the cache; False where it is not one to keep. ValueError: no sound answer to it."""
    def fail(self, punt: Punt, ede: int) -> None:
        """Keep for a moment that nobody answers the question (RFC 9520); an answer that may still serve does from now on.

        `ede`: the INFO-CODE that says so.
        """
    def has_stale(self, punt: Punt) -> bool:
        """Whether an answer is kept that may serve if there is no other."""
    def remember(self, name: bytes, listsets: Sequence[int], generation: int) -> None:
        """Which patterns a name (wire form, lower-case) fits in a generation: at most six of their listsets."""
    def remember_servers(
        self, name: bytes, servers: Sequence[bytes], addresses: Sequence[bytes], ttl: int, generation: int
    ) -> None:
        """Who the servers of a name are in a generation, in wire form and lower-case as the name, and their addresses of 16
        octets; known for `ttl` seconds. Of more than six that lists speak of the strongest count."""
    def resume(self, punt: Punt) -> tuple[int, bytes | None]:
        """Answer a PUNT_PATTERN or PUNT_SERVERS again, now that its names are known: as decide() does."""
    def decide(self, punt: Punt, cell: bytes | None, listset: int = 0) -> tuple[int, bytes | None]:
        """Go on with a PUNT_CONDITIONAL by what Python decided: (verdict, the answer for a stream).

        `cell`: 8 octets, None to ask for the decision anew; `listset`: by which it was decided, 0: the name's. A PUNT (the
        upstream has to be asked, say) is among the next take_punts(), with the same token, and remembers the cell as long
        as the generation stands.
        """
    def finish(self, punt: Punt, answer: bytes | None, ede: int = -1, text: str = "") -> tuple[int, bytes | None]:
        """Answer a punt, by the generation in force: (verdict, the answer for a stream; a datagram is sent here).

        `answer`: the upstream's, or None for SERVFAIL with `ede` and `text`. Where there is no answer, or an error for one,
        what is kept serves (RFC 8767). A PUNT (the generation has changed) is among the next take_punts(), with the same
        token.
        """
    def send(self, punt: Punt, reply: bytes) -> bytes | None:
        """Send a reply made in Python, with the options that belong to the query's (cookie, NSID, …) added to its OPT, the
        last record; returns it for a stream. ValueError: longer than a UDP client takes."""
    def set_upstream(self, upstream: int, fds: list[int], slot: int) -> None:
        """Let questions leave by these connected UDP sockets, which stay the caller's. `slot`: of its counters."""
    def drop_upstream(self, upstream: int) -> None:
        """Forget an upstream; what was under way there is handed over. Its sockets may be closed then."""
    def worn_sockets(self, upstream: int) -> list[int]:
        """The sockets that have been used enough and have nothing under way: replace_socket() each."""
    def replace_socket(self, upstream: int, place: int, fd: int) -> None:
        """Put a new connected socket in a place of an upstream; the old one may be closed then."""
    def set_route(self, route: int, upstream: int) -> None:
        """Which upstream a route's questions go to first; -1: Python asks."""
    def set_timeout(self, upstream: int, seconds: float, slow: bool = False) -> None:
        """How long an upstream's first try may take before Python takes it over. `slow`: it is then AFTER_SLOW, and not
        counted as a time-out."""
    def take_late(self) -> list[tuple[bytes, bytes]]:
        """(Punt.question, answer) of what was answered after it had been handed over; the answers are cached already."""
    def tick(self) -> int:
        """Hand over what has waited too long; call it some ten times a second. Returns how many are under way."""
    def flush(self, name: str | None = None, subtree: bool = False) -> int:
        """Forget every cached answer, or those of a name, with `subtree` of all names below it too; returns how many."""
    def kept(self) -> list[tuple[bytes, int, bytes]]:
        """Every answer that is kept and may still serve: (key, age in seconds, message), the oldest of a ring first."""
    def keep(self, key: bytes, age: int, message: bytes) -> bool:
        """Take back what kept() gave; `age` in seconds by now. False where it is unsound, too old, or known better."""
    def close(self) -> None:
        """Let go of all sockets."""

# -- who is in which group: see lists/clients.py ------------------------------------------------------------------------
def flatten_clients(
    doors: tuple[bytes, bytes],
    pauses: tuple[bytes, bytes],
    groups: Sequence[tuple[bytes, bytes]],
    normal: bytes,
    halted: bytes,
) -> tuple[bytes, bytes, bytes, bytes]:
    """(starts4, classes4, starts6, classes6) as snapshot.Clients has them.

    Each of `doors` (who is served), `pauses` (for whom filtering is off) and `groups` (in config order) is a pair of
    intervals: of IPv4, first and last address as two u32 in native order; of IPv6, as 16 octets each in network order.
    `normal`, `halted`: u16 in native order, the class of each group and then of clients in none; for those paused the
    latter. ValueError where lengths do not fit.
    """

def read_clients(text: bytes) -> tuple[bytes, bytes, int, int, list[tuple[int, bytes]]]:
    """A file of clients: (IPv4 intervals, IPv6 intervals, lines taken, lines left, the first 10,000 of those left).

    One address or prefix a line; `#` and `;` begin a comment. A line that is not plainly an address or a prefix in its
    one form is left to Python: its number from 1 and its text.
    """

# -- what lists repeat, and how much they share: see lint/ and lists/value.py --------------------------------------------
class Survey:
    """Looks over a sorted builder's rules. ValueError where the tables do not fit.

    `traits`: a SurveyTrait for each outcome; `starts`: u32 in native order, the first line of each file; `replacing`: an
    octet a file, 1 where the most specific rule and the first of two for a name count.
    """

    def __init__(self, builder: RunBuilder, traits: bytes, starts: bytes, replacing: bytes) -> None: ...
    def findings(self, limit: int) -> tuple[list[list[int]], list[tuple[int, int, int, bytes]]]:
        """For each file how many rules are of each kind; and of each the first `limit` by name: (kind, line, line of the
        rule that it is held against, name). Kinds: 0 an earlier line says the same, 1 an earlier line says something else
        and counts, 2 a stronger rule speaks against it, 3 a wider or stronger rule says as much, 4 another file does."""
    def lines(self, limit: int) -> tuple[list[int], list[list[int]]]:
        """For each outcome: how many rules have it, and the lines of the first `limit`."""
    def find(self, key: bytes) -> list[tuple[int, int, int]]:
        """The (scope, outcome, line) of every rule of a key."""
    def children(self, key: bytes) -> list[tuple[bytes, int, int]]:
        """The names one label below a key that have rules, or have such below them: (name, rules, line of the first)."""

class Shares:
    """Walks the runs of lists together and counts what they have in common.

    `verbs`: for each list an octet for each of its outcomes, 0 for a block, 1 for an allow, 2 for what is restricted and
    neither covers nor is covered.
    """

    def __init__(self, readers: list[RunReader], verbs: list[bytes]) -> None: ...
    def count(self) -> list[tuple[int, int, list[int]]]:
        """Of each list: names, names that no other list covers, and how many of its names each list covers."""
