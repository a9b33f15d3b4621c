# border: what Python sees of the engine. engine.pyi states it with types; the code here only carries things across.

cdef enum:
    EPOLL_EVENTS = 64

cdef enum:
    FROM_UPSTREAM = 0x100000000  # in an epoll event's data: upstream << 16 | its socket, else a client socket's place


cdef bytes take_bytes(const uint8_t* at, Py_ssize_t count):
    return PyBytes_FromStringAndSize(<const char*> at, count)


cdef bytes stream_bytes(Query* q):
    # A reply for a stream's listener.
    if q.transport >= FIRST_ENCRYPTED:
        reply_pad(q)
    return take_bytes(q.reply, q.reply_size)


cdef void* copied(bytes octets, Py_ssize_t wanted, str what) except NULL:
    # A copy of `octets` for the engine to keep, after its length was checked.
    if PyBytes_GET_SIZE(octets) != wanted:
        raise ValueError(f"{what}: {len(octets)} octets where {wanted} were expected")
    cdef void* copy = malloc(wanted if wanted else 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, PyBytes_AS_STRING(octets), wanted)
    return copy


cdef int check_cell(const SnapshotView* s, const Cell* cell) except -1:
    # Counters and profiles are found by what a cell says.
    if cell.action > LAST_ACTION:
        raise ValueError(f"a cell has action {cell.action}, the last is {LAST_ACTION}")
    if cell.action >= ACTION_ADDRESS and cell.profile >= s.profile_count:
        raise ValueError(f"a cell names profile {cell.profile} of {s.profile_count}")
    return 0


cdef class Snapshot:
    """One generation as the engine reads it: immutable, freed after its last reader."""

    cdef SnapshotView view
    cdef readonly Index index
    cdef SuffixTable routes
    cdef SuffixTable unguarded
    cdef list lent              # what the client maps' ranges and classes are in

    def __cinit__(self):
        memset(&self.view, 0, sizeof(SnapshotView))
        self.lent = []

    def __init__(self, Index index not None, policy, number):
        cdef SnapshotView* s = &self.view
        cdef Profile* profiles
        cdef Py_ssize_t i, count
        self.index = index
        self.routes = SuffixTable({zone: (route, route) for zone, route in policy.routes.items()})
        self.unguarded = SuffixTable({name: (1, 1) for name in policy.unguarded})
        s.index = &self.index.view
        s.routes = &self.routes.view
        s.zone_routes = max(policy.routes.values(), default=0)
        s.unguarded = &self.unguarded.view
        if number < 1:  # what was inspected in no generation is stamped 0
            raise ValueError(f"{number} is no generation")
        s.number = number
        s.class_count = policy.classes
        s.shape_count = policy.shapes
        if s.class_count == 0 or s.shape_count < self.index.shapes:
            raise ValueError(f"policy for {s.shape_count} shapes, the index has {self.index.shapes}")
        s.cells = <const Cell*> copied(bytes(policy.cells), 8 * <Py_ssize_t> s.class_count * s.shape_count, "cells")
        count = len(policy.profiles)
        profiles = <Profile*> calloc(count + 1, sizeof(Profile))
        if profiles == NULL:
            raise MemoryError
        s.profiles = profiles
        s.profile_count = count
        for i, profile in enumerate(policy.profiles):
            self._profile(&profiles[i], profile, policy.zones)
        for i in range(<Py_ssize_t> s.class_count * s.shape_count):
            check_cell(s, &s.cells[i])
        self._zones(policy.zones)
        s.order = <const uint16_t*> copied(bytes(policy.order or bytes(2 * LIST_SLOTS)), 2 * LIST_SLOTS, "order of lists")
        if policy.variants:
            count = len(policy.variants) // (2 * VARIANTS)
            s.variant_classes = <uint32_t> count
            s.variants = <const uint16_t*> copied(bytes(policy.variants), count * 2 * VARIANTS, "variants of classes")
            for i in range(count * VARIANTS):
                if s.variants[i] >= s.class_count:
                    raise ValueError(f"a variant is class {s.variants[i]} of {s.class_count}")
        s.pattern_rank = RANK_NOBODY
        for _, listset, _ in policy.patterns:
            if not 0 <= listset < self.index.view.listset_count:
                raise ValueError(f"a pattern has listset {listset} of {self.index.view.listset_count}")
            for i in range(s.class_count):
                s.pattern_rank = min(s.pattern_rank,
                                     <uint32_t> s.cells[i * s.shape_count + index_shape(s.index, listset)].rank)
        if policy.seeks and (s.index.nsnames != NULL or s.index.ranges[RANGES_NSIP].count4):
            s.seeks = <const uint8_t*> copied(bytes(policy.seeks), s.class_count, "who has servers looked up")
        if policy.class_routes:
            routes = b"".join([int(route).to_bytes(2, "little") for route in policy.class_routes])
            s.class_routes = <const uint16_t*> copied(routes, 2 * <Py_ssize_t> s.class_count, "routes of classes")
        self._shadows(bytes(policy.shadows), bytes(policy.shadow_claims))
        self._clients(&s.clients, policy.clients, s.variant_classes if s.variants != NULL else s.class_count)
        if policy.guard is not None:
            self._clients(&s.guard, policy.guard, 1)
        if policy.dns64 is not None:
            self._dns64(policy.dns64)

    cdef int _profile(self, Profile* p, profile, zones) except -1:
        cdef bytes text = profile.text.encode()[:200]
        cdef bytes soa = bytes(profile.soa)
        cdef bytes ipv4 = bytes(profile.ipv4)
        cdef bytes ipv6 = bytes(profile.ipv6)
        cdef bytes full, brief
        while len(text) and text.decode("utf-8", "ignore").encode() != text:
            text = text[:-1]
        if len(soa) > 512 or len(ipv4) != 4 or len(ipv6) != 16:
            raise ValueError("a profile's SOA or address has the wrong length")
        if not 0 <= profile.action <= LAST_ACTION:
            raise ValueError(f"a profile has action {profile.action}, the last is {LAST_ACTION}")
        if not 0 <= profile.zone <= len(zones):
            raise ValueError(f"a profile names policy zone {profile.zone} of {len(zones)}")
        p.action = profile.action
        p.zone = profile.zone
        p.ttl = profile.ttl
        p.ede = profile.ede
        p.text_size = <uint16_t> len(text)
        full = profile.structured.encode()
        brief = profile.structured_brief.encode()
        if len(full) > sizeof(p.full) or len(brief) > sizeof(p.brief):
            raise ValueError("a profile's structured error is too long")
        p.full_size = <uint16_t> len(full)
        p.brief_size = <uint16_t> len(brief)
        memcpy(p.full, PyBytes_AS_STRING(full), len(full))
        memcpy(p.brief, PyBytes_AS_STRING(brief), len(brief))
        p.soa_size = <uint16_t> len(soa)
        memcpy(p.ipv4, PyBytes_AS_STRING(ipv4), 4)
        memcpy(p.ipv6, PyBytes_AS_STRING(ipv6), 16)
        memcpy(p.text, PyBytes_AS_STRING(text), len(text))
        memcpy(p.soa, PyBytes_AS_STRING(soa), len(soa))
        return 0

    cdef int _dns64(self, dns64) except -1:
        cdef Dns64* d = &self.view.dns64
        cdef bytes prefix = bytes(dns64.prefix)
        if len(prefix) not in (4, 5, 6, 7, 8, 12) or (len(prefix) == 12 and prefix[8]):
            raise ValueError(f"{len(prefix)} octets are no prefix of DNS64")
        memcpy(d.prefix, PyBytes_AS_STRING(prefix), len(prefix))
        d.octets = <uint32_t> len(prefix)
        if dns64.clients is not None:
            self._clients(&d.clients, dns64.clients, 1)
        if dns64.excluded is not None:
            self._clients(&d.excluded, dns64.excluded, 1)
        d.on = True
        return 0

    cdef int _zones(self, policy_zones) except -1:
        cdef ZoneSoa* zones = <ZoneSoa*> calloc(len(policy_zones) + 1, sizeof(ZoneSoa))
        cdef bytes name, rdata
        cdef Py_ssize_t i
        if zones == NULL:
            raise MemoryError
        self.view.zones = zones
        self.view.zone_count = <uint32_t> len(policy_zones)
        for i, (name, rdata) in enumerate(policy_zones):
            if len(name) > MAX_NAME or len(rdata) > sizeof(zones.rdata):
                raise ValueError("a policy zone's SOA is too long")
            zones[i].name_size = <uint16_t> len(name)
            zones[i].rdata_size = <uint16_t> len(rdata)
            memcpy(zones[i].name, PyBytes_AS_STRING(name), len(name))
            memcpy(zones[i].rdata, PyBytes_AS_STRING(rdata), len(rdata))
        return 0

    cdef int _shadows(self, bytes shadows, bytes claims) except -1:
        cdef SnapshotView* s = &self.view
        cdef Py_ssize_t i, cells = <Py_ssize_t> s.class_count * s.shape_count
        if shadows:
            s.shadow_count = len(claims) // sizeof(ShadowClaim)
            s.shadows = <const uint16_t*> copied(shadows, 2 * cells, "shadow cells")
            s.shadow_claims = <const ShadowClaim*> copied(claims, s.shadow_count * sizeof(ShadowClaim), "shadow claims")
            if s.shadow_count == 0 or not s.shadow_claims[s.shadow_count - 1].is_last:
                raise ValueError("the claims of shadow lists have no end")
        for i in range(cells):
            if s.cells[i].flags & CELL_SHADOW and (s.shadows == NULL or not 0 < s.shadows[i] < s.shadow_count):
                raise ValueError("a cell's shadow claims are outside of their table")
        return 0

    cdef const void* _lent(self, octets, Py_ssize_t wanted, size_t width, str what) except NULL:
        # Octets that are kept as they are: a client map is a mapped file, which all workers share.
        cdef const uint8_t[::1] view = octets
        if view.shape[0] != wanted:
            raise ValueError(f"{what}: {view.shape[0]} octets where {wanted} were expected")
        if <size_t> &view[0] % width:
            raise ValueError(f"{what}: not at a place for numbers")
        self.lent.append(octets)
        return &view[0]

    cdef int _clients(self, Clients* c, clients, uint32_t class_count) except -1:
        cdef uint32_t i
        c.count4 = len(clients.classes4) // 2
        c.count6 = len(clients.classes6) // 2
        if c.count4 == 0 or c.count6 == 0:
            raise ValueError("the client map has no range")
        c.starts4 = <const uint32_t*> self._lent(clients.starts4, 4 * <Py_ssize_t> c.count4, 4, "client ranges")
        c.starts6 = <const uint8_t*> self._lent(clients.starts6, 16 * <Py_ssize_t> c.count6, 1, "client ranges")
        c.classes4 = <const uint16_t*> self._lent(clients.classes4, 2 * <Py_ssize_t> c.count4, 2, "client classes")
        c.classes6 = <const uint16_t*> self._lent(clients.classes6, 2 * <Py_ssize_t> c.count6, 2, "client classes")
        for i in range(c.count4):
            if c.classes4[i] < CLASS_WITHHELD and c.classes4[i] >= class_count:
                raise ValueError(f"a client range names class {c.classes4[i]} of {class_count}")
            if (c.starts4[i] != 0) if i == 0 else (c.starts4[i] <= c.starts4[i - 1]):
                raise ValueError("the client ranges do not ascend from zero")
        for i in range(c.count6):
            if c.classes6[i] < CLASS_WITHHELD and c.classes6[i] >= class_count:
                raise ValueError(f"a client range names class {c.classes6[i]} of {class_count}")
        if not clients_index(c):
            raise MemoryError
        return 0

    def __dealloc__(self):
        free(<void*> self.view.cells)
        free(<void*> self.view.shadows)
        free(<void*> self.view.shadow_claims)
        free(<void*> self.view.profiles)
        free(<void*> self.view.zones)
        free(<void*> self.view.order)
        free(<void*> self.view.variants)
        free(<void*> self.view.class_routes)
        free(<void*> self.view.seeks)
        clients_free(&self.view.clients)
        clients_free(&self.view.guard)
        clients_free(&self.view.dns64.clients)
        clients_free(&self.view.dns64.excluded)

    @property
    def number(self):
        return self.view.number

    def count_class(self, bytes clients not None, uint32_t policy_class):
        """How many of some clients, 16 octets each, are of a class. Without the GIL."""
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(clients)
        cdef size_t i, count = 0, size = <size_t> len(clients) // 16
        with nogil:
            for i in range(size):
                count += client_class(&self.view.clients, at + 16 * i) == policy_class
        return count

    def decide(self, str name, bytes client):
        """(class, listset, data reference, the cell's 8 octets) for a name and a client's 16 octets."""
        cdef Query q
        cdef uint8_t room[64]
        cdef bytes wire = wire_name(name)
        cdef bytes packet = b"\0\0\1\0\0\1\0\0\0\0\0\0" + wire + b"\0\1\0\1"
        if len(client) != 16:
            raise ValueError("a client has 16 octets")
        query_start(&q, <const uint8_t*> PyBytes_AS_STRING(packet), <uint32_t> len(packet), 0, room, 64)
        if wire_parse(&q) != CONTINUE:
            raise ValueError(f"{name!r} is no name")
        q.policy_class = client_class(&self.view.clients, <const uint8_t*> PyBytes_AS_STRING(client))
        if q.policy_class >= CLASS_WITHHELD:
            return q.policy_class, 0, 0, bytes(8)
        policy_row(&self.view, &q, False)
        q.listset = index_lookup(self.view.index, q.name, q.labels, q.labels_count)
        policy_cell(&self.view, NULL, &q)
        memcpy(q.client, PyBytes_AS_STRING(client), 16)
        policy_client(&self.view, &q)
        return (q.policy_class, q.listset, index_data(self.view.index, q.listset, q.cell.member),
                take_bytes(<const uint8_t*> &q.cell, sizeof(Cell)))


cdef bytes wire_name(str name):
    """`name` in wire form; ValueError if a label is empty or too long, or the name is."""
    cdef list labels = name.rstrip(".").encode().split(b".") if name.rstrip(".") else []
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(f"{name!r} is no name")
    return b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"


cdef uint32_t text_record(uint8_t* record, bytes text):
    # A TXT record's data with one character-string; its octets, 0 where there is no text.
    record[0] = <uint8_t> len(text)
    memcpy(record + 1, PyBytes_AS_STRING(text), len(text))
    return 1 + <uint32_t> len(text) if text else 0


def server_cookie_hash(bytes secret not None, bytes octets not None):
    """SipHash-2-4 as cookies have it (RFC 9018 section 4.4): 8 octets for a secret of 16."""
    cdef uint64_t hashed
    if len(secret) != 16:
        raise ValueError("a secret has 16 octets")
    hashed = sip24(load_le64(<const uint8_t*> PyBytes_AS_STRING(secret)),
                   load_le64(<const uint8_t*> PyBytes_AS_STRING(secret) + 8),
                   <const uint8_t*> PyBytes_AS_STRING(octets), <uint32_t> len(octets))
    return take_bytes(<const uint8_t*> &hashed, 8)


cdef uint32_t wire_labels(bytes name, uint8_t* labels) except? 0:
    # The places of the labels of a name in wire form; how many. ValueError: it is none.
    cdef const uint8_t* wire = <const uint8_t*> PyBytes_AS_STRING(name)
    cdef uint32_t at = 0, count = 0
    while at < len(name) and wire[at]:
        if count == MAX_LABELS or wire[at] > 63:
            raise ValueError("not a name in wire form")
        labels[count] = <uint8_t> at
        count += 1
        at += 1 + wire[at]
    if at + 1 != len(name) or at > 254:
        raise ValueError("not a name in wire form")
    return count


cdef uint64_t server_key(const SnapshotView* s, uint32_t kind, uint32_t id) noexcept:
    # The strongest place in the total order that a finding has for any class.
    cdef uint32_t listset = finding_listset(s, kind, id)
    cdef uint64_t strongest = <uint64_t> RANK_NOBODY << 56
    cdef const Cell* cell = s.cells + index_shape(s.index, listset)
    cdef uint32_t _row
    for _row in range(s.class_count if listset else 0):
        strongest = min(strongest, finding_key(s, cell, kind, id, 0))
        cell += s.shape_count
    return strongest


cdef tuple target_names(const Query* q):
    # The names that the answer under inspection points at, in wire form; where their servers are asked for, aliases alone.
    cdef Reader r
    cdef Target target
    cdef list names = []
    cdef uint32_t records, at, end
    reader_start(&r, q.inspected, q.inspected_size)
    r.at = 6
    records = read_u16(&r)
    r.at = q.question_end
    while records and len(names) < PATTERN_TARGETS:
        records -= 1
        at = next_target(&r, q.reason == REASON_SERVERS)
        if r.failed:
            break
        if at and read_target(q.inspected, q.inspected_size, at, &target):
            end = target.labels[target.labels_count - 1] if target.labels_count else 0
            names.append(take_bytes(target.name, end + target.name[end] + 2 if target.labels_count else 1))
    return tuple(names)


cdef class Punt:
    """A query that Python takes. Give it back with Engine.finish() or Engine.send(), once."""

    cdef readonly bytes packet, client, question, qname
    cdef readonly bytes ecs    # the data of the option that tells an upstream of the client's network
    cdef readonly bint structured
    cdef readonly int after, upstream
    cdef readonly int transport, reason, route, qtype, listset, slot, action, rank, member, profile, policy_class, row
    cdef readonly bint do, cd
    cdef readonly unsigned long long generation
    cdef readonly tuple targets  # listsets found beside the name's own, between which Python decides
    cdef readonly tuple names  # whose patterns or servers are not known
    cdef bytes given           # the upstream's answer that this is about, if it is not in the cache
    cdef bytes cell            # what Python decided, by the generation
    cdef uint32_t decided, chosen, stage
    cdef public object token
    cdef int fd
    cdef sockaddr_in6 peer
    cdef uint8_t control[CONTROL_ROOM]
    cdef size_t control_size
    cdef uint64_t since
    cdef uint8_t told


cdef class Engine:
    """Owns a cache and answers for UDP sockets that it was lent. One a worker, for one thread."""

    cdef Core core
    cdef Snapshot snapshot
    cdef Batch* batch
    cdef Socket* sockets
    cdef uint32_t socket_count
    cdef int epoll
    cdef object counters
    cdef object buckets
    cdef object ring
    cdef SuffixTable overlay
    cdef list punts
    cdef list late_answers     # (question, answer) of what came too late
    cdef list stream_answers   # (token, answer) of streams whose question came back
    cdef dict tokens           # what a stream's waiter in the engine stands for
    cdef uint32_t next_token
    cdef Query query           # of answer() and finish(): the batch has its own
    cdef uint8_t* stream_reply

    def __cinit__(self):
        memset(&self.core, 0, sizeof(Core))
        self.epoll = -1
        self.batch = NULL
        self.sockets = NULL
        self.stream_reply = NULL

    def __init__(self, *, counters, cache_bytes, max_ttl=86400, min_ttl=0, negative_ttl=3600):
        cdef uint8_t[::1] view = counters
        cdef bytes random = os.urandom(16)
        if view.shape[0] != COUNT_ALL * 8:
            raise ValueError(f"counters of {view.shape[0]} octets where {COUNT_ALL * 8} were expected")
        if self.batch != NULL:
            raise ValueError("an engine is made once")
        self.counters = counters
        self.core.counters = <uint64_t*> &view[0]
        self.core.cache.counters = self.core.counters
        self.core.cache.key0 = (<const uint64_t*> PyBytes_AS_STRING(random))[0]
        self.core.cache.key1 = (<const uint64_t*> PyBytes_AS_STRING(random))[1]
        self.configure_cache(max_ttl=max_ttl, min_ttl=min_ttl, negative_ttl=negative_ttl)
        random = os.urandom(16)
        self.core.memo.key0 = (<const uint64_t*> PyBytes_AS_STRING(random))[0]
        self.core.memo.key1 = (<const uint64_t*> PyBytes_AS_STRING(random))[1]
        self.core.servers.key0, self.core.servers.key1 = self.core.memo.key0, self.core.memo.key1
        self.punts = []
        self.late_answers = []
        self.stream_answers = []
        self.tokens = {}
        self.core.engine = <void*> self
        self.core.forward = forward_make()
        self.batch = <Batch*> malloc(sizeof(Batch))
        self.stream_reply = <uint8_t*> malloc(MAX_TCP)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.core.forward == NULL or self.batch == NULL or self.stream_reply == NULL \
                or not cache_make(&self.core.cache, cache_bytes):
            raise MemoryError
        if self.epoll < 0:
            raise OSError("no epoll descriptor")
        random = os.urandom(16)
        self.core.forward.key0 = (<const uint64_t*> PyBytes_AS_STRING(random))[0]
        self.core.forward.key1 = (<const uint64_t*> PyBytes_AS_STRING(random))[1]
        self.core.counters[CACHE_ROOM] = self.core.cache.small.room + <uint64_t> self.core.cache.main.room
        batch_make(self.batch)

    def __dealloc__(self):
        if self.epoll >= 0:
            close(self.epoll)
        cache_free(&self.core.cache)
        free(self.core.forward)
        free(self.core.memo.entries)
        free(self.core.servers.entries)
        free(self.batch)
        free(self.sockets)
        free(self.stream_reply)

    def configure_cache(self, *, max_ttl, min_ttl, negative_ttl, stale_ttl=0, bint prefetch=False):
        """Limits, in seconds, of what is stored from now on; how long it may serve once it has expired."""
        self.core.cache.stale_ttl = min(stale_ttl, 0x3FFFFFFF)
        self.core.cache.prefetch = prefetch
        self.core.cache.max_ttl = min(max_ttl, 0x7FFFFFFF)
        self.core.cache.min_ttl = min(min_ttl, max_ttl)
        self.core.cache.negative_ttl = negative_ttl

    def configure_edns(self, *, uint32_t cookies=COOKIES_OFF, bytes cookie_key=b"", bytes nsid=b"", bytes version=b"",
                       bytes identity=b"", uint32_t structured=0, uint32_t keepalive=0, str ecs="strip", int prefix4=24,
                       int prefix6=56):
        """What is told and taken by options of EDNS from the next query on; ValueError on what cannot be."""
        cdef Edns e
        if cookies > COOKIES_REQUIRED or (cookies and len(cookie_key) != 16):
            raise ValueError("cookies that cannot be made")
        if len(nsid) > NSID_ROOM or len(version) >= TXT_ROOM or len(identity) >= TXT_ROOM:
            raise ValueError("an identity that is too long")
        if structured > 0xFFFF or keepalive > 0xFFFF or ecs not in ECS_POLICIES \
                or not 0 <= prefix4 <= 32 or not 0 <= prefix6 <= 128:
            raise ValueError("an option that cannot be kept")
        memset(&e, 0, sizeof(Edns))
        e.cookies = cookies
        e.structured = structured
        e.keepalive = keepalive
        e.ecs = ECS_POLICIES.index(ecs)
        e.prefix4 = <uint8_t> prefix4
        e.prefix6 = <uint8_t> prefix6
        e.checks = cookies == COOKIES_REQUIRED or e.ecs != ECS_STRIP
        e.nsid_size = <uint8_t> len(nsid)
        memcpy(e.nsid, PyBytes_AS_STRING(nsid), len(nsid))
        e.version_size = text_record(e.version, version)
        e.id_size = text_record(e.id, identity)
        if cookies:
            e.key0 = load_le64(<const uint8_t*> PyBytes_AS_STRING(cookie_key))
            e.key1 = load_le64(<const uint8_t*> PyBytes_AS_STRING(cookie_key) + 8)
        self.core.edns = e

    def swap(self, Snapshot snapshot not None):
        """Every query from the next one on sees `snapshot`."""
        if snapshot.view.pattern_rank < RANK_NOBODY and self.core.memo.entries == NULL:
            self.core.memo.entries = <MemoEntry*> calloc(MEMO_SETS * MEMO_WAYS, sizeof(MemoEntry))
            if self.core.memo.entries == NULL:
                raise MemoryError
        if snapshot.view.seeks != NULL and self.core.servers.entries == NULL:
            self.core.servers.entries = <MemoEntry*> calloc(MEMO_SETS * MEMO_WAYS, sizeof(MemoEntry))
            if self.core.servers.entries == NULL:
                raise MemoryError
        self.core.snapshot = &snapshot.view
        self.snapshot = snapshot

    def set_overlay(self, SuffixTable table):
        """What operators said, name by name, as overlay.words() puts it; None for nothing."""
        self.core.overlay = &table.view if table is not None else NULL
        self.core.overlay_number += 1
        self.overlay = table

    def set_limit(self, buckets, *, uint32_t per_second, int prefix4, int prefix6, bytes key, uint32_t responses=0,
                  uint32_t slip=2, str action="truncate"):
        """Limit each client prefix to `per_second` queries over UDP (0: no limit), and to `responses` of one kind.

        `buckets`: writable memory that all workers share, a power of two of octets; `key`: 16 octets that they share too.
        """
        cdef uint8_t[::1] view
        cdef uint32_t sets
        cdef Limits* limits = &self.core.limits
        if not per_second and not responses:
            limits.per_second = limits.responses = 0
            limits.buckets = NULL
            self.buckets = None
            return
        view = buckets
        sets = <uint32_t> (view.shape[0] // (LIMIT_WAYS * sizeof(Bucket)))
        if sets == 0 or sets & (sets - 1) or per_second > 1000000 or responses > 1000000 or action not in LIMIT_ACTIONS \
                or not 0 <= prefix4 <= 32 or not 0 <= prefix6 <= 128 or len(key) != 16:
            raise ValueError("a rate limit that cannot be kept")
        limits.sets = sets
        limits.per_second = per_second
        limits.responses = responses
        limits.slip = slip
        limits.action = LIMIT_ACTIONS.index(action)
        limits.mask4 = <uint8_t> prefix4
        limits.mask6 = <uint8_t> prefix6
        limits.key0 = load_le64(<const uint8_t*> PyBytes_AS_STRING(key))
        limits.key1 = load_le64(<const uint8_t*> PyBytes_AS_STRING(key) + 8)
        limits.buckets = <Bucket*> &view[0]
        self.buckets = buckets

    def set_proxies(self, networks):
        """Take PROXY headers (version 2) before datagrams from these networks, (16 octets, bits that count) each."""
        cdef Proxies* p = &self.core.proxies
        cdef bytes network
        cdef int prefix
        if len(networks) > PROXY_NETWORKS:
            raise ValueError(f"{len(networks)} networks of proxies, {PROXY_NETWORKS} at most")
        for network, prefix in networks:
            if len(network) != 16 or not 0 <= prefix <= 128:
                raise ValueError("a network of proxies that is none")
        p.count = 0
        for network, prefix in networks:
            memcpy(p.networks[p.count], PyBytes_AS_STRING(network), 16)
            p.prefixes[p.count] = <uint8_t> prefix
            p.count += 1

    def set_ring(self, ring):
        """Write query records into a ring (ring.make): a writable buffer. ValueError if it is none."""
        cdef uint8_t[::1] view = ring
        cdef Records* r = &self.core.records
        cdef uint64_t head
        if not ring_is_sound(&view[0] if view.shape[0] else NULL, view.shape[0]):
            raise ValueError("no ring of query records, or one of another version")
        head = (<uint64_t*> (&view[0] + RING_HEAD))[0]
        if head & 7:
            raise ValueError(f"the ring of query records has its head at {head}")
        self.ring = view
        r.memory = &view[0]
        r.data = r.memory + RING_HEADER
        r.size = view.shape[0] - RING_HEADER
        r.head = head
        r.tail = atomic_load(<uint64_t*> (r.memory + RING_TAIL), ATOMIC_ACQUIRE)
        r.what = RECORDS_ALL

    def set_records(self, uint32_t what):
        """Which queries are recorded: a place in ring.WHAT."""
        if what > RECORDS_ALL:
            raise ValueError(f"{what} says nothing of records")
        self.core.records.what = what if self.core.records.memory != NULL else RECORDS_NONE

    def add_udp(self, int fd, int family, bint wildcard):
        """Take a bound UDP socket, which stays the caller's. `wildcard`: bound to 0.0.0.0 or ::, with PKTINFO on."""
        cdef epoll_event event
        cdef Socket* sockets = <Socket*> realloc(self.sockets, (self.socket_count + 1) * sizeof(Socket))
        if sockets == NULL:
            raise MemoryError
        self.sockets = sockets
        sockets[self.socket_count].fd = fd
        sockets[self.socket_count].wildcard = wildcard
        event.events = EPOLLIN
        event.data.u64 = self.socket_count
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event):
            raise OSError(f"descriptor {fd} cannot be watched")
        self.socket_count += 1

    def fileno(self):
        """The epoll descriptor to watch; call drain() when it is readable."""
        return self.epoll

    def drain(self):
        """Answer what has come in, a bounded amount; returns how many datagrams. take_punts() has what is left."""
        cdef epoll_event events[EPOLL_EVENTS]
        cdef int i, ready, count, total = 0, _round
        cdef const Socket* s
        if self.snapshot is None:
            return 0
        with nogil:
            core_clock(&self.core)
            ready = epoll_wait(self.epoll, events, EPOLL_EVENTS, 0)
            for i in range(ready):
                if events[i].data.u64 & FROM_UPSTREAM:
                    for _round in range(ROUNDS):
                        count = forward_batch(&self.core, &self.batch.query, <uint32_t> events[i].data.u64 >> 16,
                                              events[i].data.u64 & 0xFFFF)
                        if count < BATCH:
                            break
                    continue
                s = &self.sockets[events[i].data.u64]
                for _round in range(ROUNDS):
                    count = udp_batch(&self.core, self.batch, s)
                    total += count
                    if count == 0:  # what came meanwhile costs less than another turn of the loop
                        break
        if self.core.forward.handed != NONE:
            self._take_handed()
        return total

    cdef _take_handed(self):
        # The waiters that the engine gave up as Punts. A question that is cached by now, or blocked, is answered here.
        cdef Forward* f = self.core.forward
        cdef uint32_t at = f.handed, following
        cdef Waiter* w
        cdef Punt punt
        cdef Query* q = &self.query
        cdef int verdict
        f.handed = NONE
        while at != NONE:
            w = &f.waiters[at]
            query_start(q, w.packet, w.size, w.transport, self.stream_reply,
                        OUT_ROOM if w.transport == TRANSPORT_UDP else MAX_TCP)
            memcpy(q.client, w.client, 16)
            q.counted = True
            q.since = w.since
            q.told = TOLD_FORWARDED
            verdict = answer_client(&self.core, q)
            punt = self._punt(q, self.tokens.pop(w.token, None) if w.fd < 0 else None, verdict == VERDICT_PUNT)
            punt.fd = w.fd
            punt.after = w.why
            punt.upstream = w.upstream
            punt.peer = w.peer
            punt.control_size = w.control_size if w.fd >= 0 else 0
            memcpy(punt.control, w.control, punt.control_size)
            if verdict != VERDICT_PUNT:
                query_count(&self.core, q, verdict)
                if verdict == VERDICT_REPLY and w.fd >= 0:
                    self._give(punt, q)
                elif w.fd < 0:
                    self.stream_answers.append((punt.token, stream_bytes(q) if verdict == VERDICT_REPLY else None))
            following = w.next
            forward_release(f, at)
            at = following

    cdef void answer_stream(self, Query* q, Waiter* w, const Answer* answer):
        # A waiter on a stream gets the upstream's answer; see take_answers.
        cdef object token = self.tokens.pop(w.token, None)
        cdef int verdict
        query_start(q, w.packet, w.size, w.transport, self.stream_reply, MAX_TCP)
        memcpy(q.client, w.client, 16)
        q.counted = True
        q.given = answer
        q.since = w.since
        q.told = TOLD_FORWARDED
        verdict = answer_client(&self.core, q)
        if verdict == VERDICT_PUNT:
            self._punt(q, token, True)
            return
        query_count(&self.core, q, verdict)
        self.stream_answers.append((token, stream_bytes(q) if verdict == VERDICT_REPLY else None))

    def take_answers(self):
        """(token, answer or None for a drop) of streams that were told to wait."""
        cdef list answers = self.stream_answers
        self.stream_answers = []
        return answers

    def set_upstream(self, uint32_t upstream, list fds, uint32_t slot):
        """Let questions leave by these connected UDP sockets, which stay the caller's. `slot`: of its counters."""
        cdef Upstream* u
        cdef uint32_t i
        if upstream >= UPSTREAMS or slot >= UPSTREAMS or not 0 < len(fds) <= UPSTREAM_SOCKETS:
            raise ValueError(f"upstream {upstream} with {len(fds)} sockets")
        u = &self.core.forward.upstreams[upstream]
        if u.used:
            raise ValueError(f"upstream {upstream} is in use")
        u.used = True
        u.timeout = 400000
        u.why = WHY_TIMEOUT
        u.oldest[0] = u.oldest[1] = u.newest[0] = u.newest[1] = NONE
        u.socket_count = len(fds)
        u.counters = COUNT_UPSTREAM + slot * 32
        for i in range(u.socket_count):
            u.fds[i] = -1
            u.in_flight[i] = 0
        try:
            for i in range(u.socket_count):
                self.replace_socket(upstream, i, fds[i])
        except OSError:
            self.drop_upstream(upstream)
            raise

    def drop_upstream(self, uint32_t upstream):
        """Forget an upstream; what was under way there is handed over. Its sockets may be closed then."""
        cdef Forward* f = self.core.forward
        cdef uint32_t i
        cdef Upstream* u
        if upstream >= UPSTREAMS or not f.upstreams[upstream].used:
            return
        u = &f.upstreams[upstream]
        for i in range(ROUTES):
            if f.route_upstream[i] == upstream:
                f.route_upstream[i] = NONE
        while u.oldest[0] != NONE:
            forward_hand_over(f, &f.pending[u.oldest[0]], WHY_CLOSED)
        while u.oldest[1] != NONE:
            forward_end(f, &f.pending[u.oldest[1]])
        for i in range(f.upstreams[upstream].socket_count):
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, f.upstreams[upstream].fds[i], NULL)
        f.upstreams[upstream].used = False
        self._take_handed()

    def worn_sockets(self, uint32_t upstream):
        """The sockets that have been used enough and have nothing under way: replace_socket each."""
        cdef Upstream* u = &self.core.forward.upstreams[upstream if upstream < UPSTREAMS else 0]
        return [i for i in range(u.socket_count if u.used else 0) if u.uses[i] >= SOCKET_USES and not u.in_flight[i]]

    def replace_socket(self, uint32_t upstream, uint32_t place, int fd):
        """Put a new connected socket in a place of an upstream; the old one may be closed then."""
        cdef Upstream* u
        cdef epoll_event event
        if upstream >= UPSTREAMS or place >= self.core.forward.upstreams[upstream].socket_count:
            raise ValueError(f"upstream {upstream} has no socket {place}")
        u = &self.core.forward.upstreams[upstream]
        if u.in_flight[place]:
            raise ValueError(f"socket {place} of upstream {upstream} has questions under way")
        if u.fds[place] >= 0:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, u.fds[place], NULL)
        event.events = EPOLLIN
        event.data.u64 = FROM_UPSTREAM | upstream << 16 | place
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event):
            raise OSError(f"descriptor {fd} cannot be watched")
        u.fds[place] = fd
        u.uses[place] = 0

    def set_route(self, uint32_t route, int upstream):
        """Which upstream a route's questions go to first; -1: Python asks."""
        if route >= ROUTES or upstream >= UPSTREAMS or (upstream >= 0 and
                                                        not self.core.forward.upstreams[upstream].used):
            raise ValueError(f"no route {route} to upstream {upstream}")
        self.core.forward.route_upstream[route] = <uint32_t> upstream if upstream >= 0 else NONE

    def set_timeout(self, uint32_t upstream, double seconds, bint slow=False):
        """How long an upstream's first try may take before Python takes it over. `slow`: that is not held against it."""
        cdef Upstream* u
        if upstream >= UPSTREAMS or not self.core.forward.upstreams[upstream].used:
            raise ValueError(f"there is no upstream {upstream}")
        u = &self.core.forward.upstreams[upstream]
        u.timeout = <uint64_t> (max(seconds, 0.001) * 1e6)
        u.why = WHY_SLOW if slow else WHY_TIMEOUT

    cdef void keep_late(self, const Pending* p, const uint8_t* packet, uint32_t size):
        self.late_answers.append((take_bytes(p.key, p.key_size), take_bytes(packet, size)))

    def take_late(self):
        """(question, answer) of what was answered after it had been handed over; the answers are cached already."""
        cdef list late = self.late_answers
        self.late_answers = []
        return late

    def tick(self):
        """Hand over what has waited too long; call it some ten times a second. Returns how many are under way."""
        with nogil:
            core_clock(&self.core)
            forward_expire(&self.core)
        if self.core.forward.handed != NONE:
            self._take_handed()
        return self.core.forward.pending_count - self.core.forward.late_count

    cdef void take_datagram(self, const Query* q):
        # A datagram that Python takes, with where its answer goes.
        cdef Punt punt = self._punt(q, None, True)
        punt.fd = q.fd
        memcpy(&punt.peer, q.peer, sizeof(sockaddr_in6))
        punt.control_size = q.control_size
        if q.control_size:
            memcpy(punt.control, q.control, q.control_size)

    cdef void take_refresh(self, const Query* q):
        # A question for Python to ask, that nobody waits for.
        cdef Punt punt = self._punt(q, None, True)
        punt.reason = REASON_REFRESH

    cdef Punt _punt(self, const Query* q, object token, bint queue):
        # The query as a Punt; `queue`: among the next take_punts().
        cdef Punt punt = Punt.__new__(Punt)
        cdef uint8_t key[KEY_ROOM]
        cdef uint8_t option[8 + ECS_ROOM]
        cdef uint32_t i
        punt.packet = take_bytes(q.packet, q.size)
        punt.client = take_bytes(q.client, 16)
        punt.question = take_bytes(key, cache_key(q, key))
        punt.qname = take_bytes(q.name, q.name_size)
        punt.transport = q.transport
        punt.reason = q.reason
        punt.route = q.route
        punt.qtype = q.qtype
        punt.listset = q.listset
        punt.slot = q.cell.slot
        punt.action = q.cell.action
        punt.rank = q.cell.rank
        punt.policy_class = q.policy_class
        punt.row = q.row
        punt.since = q.since
        punt.told = q.told | TOLD_PUNTED
        punt.member = q.cell.member
        punt.profile = q.cell.profile
        punt.generation = self.core.snapshot.number
        punt.targets = ()
        punt.names = ()
        punt.stage = q.stage
        if q.undecided != NULL:
            punt.targets = tuple([
                finding_listset(self.core.snapshot, q.undecided.kinds[i], q.undecided.ids[i])
                for i in range(q.undecided.count)
            ])
        if q.reason == REASON_PATTERN or q.reason == REASON_SERVERS:
            punt.names = (punt.qname,)
            if q.inspected != NULL:
                punt.names += target_names(q)
        if q.given != NULL and q.reason in (REASON_CONDITIONAL, REASON_PATTERN, REASON_DNS64, REASON_SERVERS):
            punt.given = take_bytes(q.given.packet, q.given.size)
        punt.ecs = b""
        if q.ecs_size:
            ecs_option(q, option)
            punt.ecs = take_bytes(option + 4, ecs_option_size(q) - 4)
        punt.structured = asks_structured(q)
        punt.do = q.dnssec_ok
        punt.cd = q.flags & FLAG_CD
        punt.token = token
        punt.fd = -1
        punt.upstream = -1
        if queue:
            if q.reason == REASON_LOCAL and q.shadow:  # decided here: Python only writes the answer
                shadow_count(self.core.snapshot, q, self.core.counters)
            self.core.counters[ENGINE_PUNTS] += 1
            self.punts.append(punt)
        return punt

    def take_punts(self):
        """The queries that Python has to take, oldest first."""
        cdef list punts = self.punts
        self.punts = []
        return punts

    def answer(self, bytes packet not None, bytes client not None, int transport, object token=None):
        """One query from a stream: (verdict, answer). A PUNT is among the next take_punts(), with `token` on it."""
        cdef Query* q = &self.query
        cdef int verdict
        cdef uint64_t began
        if len(client) != 16:
            raise ValueError("a client has 16 octets")
        if not 0 <= transport < TRANSPORTS:
            raise ValueError(f"{transport} is no transport")
        if self.snapshot is None or len(packet) > MAX_TCP:
            return VERDICT_DROP, None
        core_clock(&self.core)
        query_start(q, <const uint8_t*> PyBytes_AS_STRING(packet), <uint32_t> len(packet), transport,
                    self.stream_reply, MAX_TCP)
        memcpy(q.client, PyBytes_AS_STRING(client), 16)
        q.may_wait = token is not None
        q.token = self.next_token
        q.since = began = self.core.forward.now
        verdict = answer_client(&self.core, q)
        if verdict == VERDICT_WAIT:
            self.tokens[q.token] = token
            self.next_token += 1
            forward_flush(&self.core)
            return verdict, None
        if verdict == VERDICT_PUNT:
            self._punt(q, token, True)
            return verdict, None
        query_count(&self.core, q, verdict)
        core_clock(&self.core)
        batch_count(&self.core, transport, began)
        return verdict, stream_bytes(q) if verdict == VERDICT_REPLY else None

    def chase(self, bytes packet not None, bytes client not None, object token):
        """A question that answering a client's led to: (verdict, answer). Lists do not speak of it, local names do."""
        cdef Query* q = &self.query
        cdef const SnapshotView* s = self.core.snapshot
        cdef Cell cell
        cdef Punt punt
        cdef int verdict
        if len(client) != 16 or s == NULL:
            raise ValueError("a client has 16 octets, and is answered by a generation")
        core_clock(&self.core)
        query_start(q, <const uint8_t*> PyBytes_AS_STRING(packet), <uint32_t> len(packet), TRANSPORT_TCP,
                    self.stream_reply, MAX_TCP)
        memcpy(q.client, PyBytes_AS_STRING(client), 16)
        if wire_parse(q) != CONTINUE:
            raise ValueError("not a query")
        q.policy_class = client_class(&s.clients, q.client)
        memset(&cell, 0, sizeof(Cell))
        cell.rank = RANK_OVERLAY
        cell.action = ACTION_ALLOW
        cell.slot = NO_LIST
        if q.policy_class < CLASS_WITHHELD:
            policy_row(s, q, False)
            q.listset = index_lookup(s.index, q.name, q.labels, q.labels_count)
            if q.listset and policy_of(s, q, q.listset).rank == RANK_OVERLAY:
                cell = policy_of(s, q, q.listset)[0]
        query_start(q, q.packet, q.size, TRANSPORT_TCP, q.reply, q.reply_room)
        q.told = TOLD_INNER
        q.cell = cell
        q.decided = DECIDED_ALL
        verdict = answer_query(&self.core, q)
        if verdict == VERDICT_PUNT:
            punt = self._punt(q, token, True)
            punt.cell = take_bytes(<const uint8_t*> &cell, sizeof(Cell))
            punt.decided = DECIDED_ALL
        return verdict, stream_bytes(q) if verdict == VERDICT_REPLY else None

    def synthesise(self, Punt punt not None, bytes answer):
        """Answer a PUNT_DNS64, now that the same question for A is answered; None: it is not. As decide() does."""
        return self._finish(punt, punt.given, True, EDE_NONE, "", b"" if answer is None else answer)

    @property
    def decided(self):
        """(listset, finding, position, the cell's 8 octets): what answer() or finish() decided by last, for explain."""
        cdef Query* q = &self.query
        return q.listset, q.finding, q.position, take_bytes(<const uint8_t*> &q.cell, sizeof(Cell))

    cdef int _question(self, Query* q, Punt punt) noexcept:
        # `q` as the punt's question, up to the stage wire; its route as it was asked along.
        cdef int verdict
        query_start(q, <const uint8_t*> PyBytes_AS_STRING(punt.packet), <uint32_t> len(punt.packet), punt.transport,
                    self.stream_reply, MAX_TCP if punt.transport != TRANSPORT_UDP else OUT_ROOM)
        memcpy(q.client, PyBytes_AS_STRING(punt.client), 16)
        verdict = wire_parse(q)
        q.route = punt.route
        q.edns = &self.core.edns
        if verdict == CONTINUE and q.edns.ecs != ECS_STRIP:
            ecs_take(q.edns, q)
        return verdict

    def learn(self, Punt punt not None, bytes answer not None):
        """Keep an upstream's answer in the cache; False where it is not one to keep. ValueError: not an answer to it."""
        cdef Query* q = &self.query
        cdef Answer prepared
        cdef int result
        core_clock(&self.core)
        if self._question(q, punt) != CONTINUE:
            return False
        result = cache_prepare(&self.core.cache, q, <const uint8_t*> PyBytes_AS_STRING(answer), <uint32_t> len(answer),
                               &prepared)
        if result != PREPARED:
            raise ValueError("the answer's OPT stands before other records" if result == PREPARED_ODD
                             else "no sound answer to the question")
        return cache_store(&self.core.cache, q, &prepared, self.core.now)

    def fail(self, Punt punt not None, int ede):
        """Keep for a moment that nobody answers the question; an answer that may still serve does so from now on."""
        cdef Query* q = &self.query
        core_clock(&self.core)
        if self._question(q, punt) == CONTINUE:
            cache_fail(&self.core.cache, q, ede, self.core.now)

    def has_stale(self, Punt punt not None):
        """Whether an answer is kept that may serve if there is no other."""
        cdef Query* q = &self.query
        cdef Answer kept
        core_clock(&self.core)
        return self._question(q, punt) == CONTINUE and cache_stale(&self.core.cache, q, self.core.now, &kept)

    def remember(self, bytes name not None, listsets, uint64_t generation):
        """Which patterns a name (wire form, lower-case) fits in a generation: at most six of their listsets."""
        cdef uint8_t labels[128]
        cdef const uint8_t* wire = <const uint8_t*> PyBytes_AS_STRING(name)
        cdef uint32_t count, listset
        cdef Inspection* found
        if self.core.memo.entries == NULL or self.snapshot is None or generation != self.snapshot.view.number:
            return
        count = wire_labels(name, labels)
        for listset in listsets:
            if listset >= self.snapshot.index.view.listset_count:
                raise ValueError(f"no listset {listset}")
        found = memo_room(&self.core.memo, NONE, wire, labels, count)
        found.generation = generation
        found.count = found.flags = 0
        for listset in listsets:
            inspect_keep(found, listset)

    def remember_servers(self, bytes name not None, servers, addresses, uint32_t ttl, uint64_t generation):
        """Who a name's servers are (wire form, lower-case), and their addresses (16 octets), for `ttl` seconds."""
        cdef uint8_t labels[128]
        cdef const SnapshotView* s = self.core.snapshot
        cdef Inspection* found
        cdef bytes each
        cdef set said = set()
        cdef uint32_t id, kind, count
        if self.core.servers.entries == NULL or self.snapshot is None or generation != s.number:
            return
        for each in servers if s.index.nsnames != NULL else ():
            count = wire_labels(each, labels)
            id = suffix_lookup(s.index.nsnames, <const uint8_t*> PyBytes_AS_STRING(each), labels, count)
            said.add((server_key(s, FOUND_NSDNAME, id), b"", FOUND_NSDNAME, id))
        for each in addresses:
            if len(each) != 16:
                raise ValueError("an address has 16 octets")
            id = ranges_find(&s.index.ranges[RANGES_NSIP], <const uint8_t*> PyBytes_AS_STRING(each))
            said.add((server_key(s, FOUND_NSIP, id), each, FOUND_NSIP, id))
        count = wire_labels(name, labels)
        found = memo_room(&self.core.servers, self.core.now + ttl, <const uint8_t*> PyBytes_AS_STRING(name), labels, count)
        found.generation = generation
        found.count = found.flags = 0
        # Of more than are kept the strongest, and of equal ones that of the smallest address (rpz.md, 14).
        for kind, id in dict.fromkeys([(kind, id) for _, _, kind, id in sorted(said)]):
            if found.count < TARGETS and finding_listset(s, kind, id):
                found.ids[found.count] = id
                found.kinds[found.count] = <uint8_t> kind
                found.positions[found.count] = 0
                found.count += 1

    def resume(self, Punt punt not None):
        """Answer a PUNT_PATTERN or PUNT_SERVERS again, now that its names are known: as decide() does."""
        return self._finish(punt, punt.given, True, EDE_NONE, "")

    def decide(self, Punt punt not None, bytes cell, uint32_t listset=0):
        """Go on with a PUNT_CONDITIONAL by what Python decided: (verdict, the answer for a stream).

        `cell`: 8 octets, None to ask for the decision anew; `listset`: by which it was decided, 0: the name's. A PUNT (the
        upstream has to be asked, say) is among the next take_punts(), with the same token, and remembers the cell.
        """
        if cell is not None:
            if len(cell) != sizeof(Cell):
                raise ValueError("a cell has 8 octets")
            if listset >= self.snapshot.index.view.listset_count:
                raise ValueError(f"no listset {listset}")
        punt.cell = cell
        punt.chosen = listset
        punt.decided = punt.stage
        return self._finish(punt, punt.given, True, EDE_NONE, "")

    def finish(self, Punt punt not None, bytes answer, int ede=EDE_NONE, str text=""):
        """Answer a punt, by the generation in force: (verdict, the answer for a stream).

        `answer`: the upstream's, or None for SERVFAIL with `ede` and `text`. Where there is no answer, or an error for one,
        what is kept serves. A PUNT (the generation has changed) is among the next take_punts(), with the same token.
        """
        return self._finish(punt, answer, False, ede, text)

    cdef tuple _finish(self, Punt punt, bytes answer, bint may_ask, int ede, str text, bytes answer_a=None):
        # `answer_a`: the answer for A that one for AAAA may be made from; empty: there is none; None: not asked for yet.
        cdef Query* q = &self.query
        cdef Answer prepared
        cdef Answer prepared_a
        cdef Answer kept
        cdef Inspection own
        cdef bytes copy
        cdef bint has_a = False
        cdef bytes words = text.encode()[:200]
        cdef Punt again
        cdef bint is_stale
        cdef int verdict = self._question(q, punt)
        core_clock(&self.core)
        if verdict != CONTINUE or self.snapshot is None:
            return VERDICT_DROP, None
        if answer is not None and cache_prepare(&self.core.cache, q, <const uint8_t*> PyBytes_AS_STRING(answer),
                                                <uint32_t> len(answer), &prepared) != PREPARED:
            answer = None
        is_stale = (not may_ask if answer is None else prepared.failed) \
            and cache_stale(&self.core.cache, q, self.core.now, &kept)
        if answer_a:  # the cache makes one answer ready at a time: the other one moves
            if answer is not None:
                copy = take_bytes(prepared.packet, prepared.size)
                prepared.packet = <const uint8_t*> PyBytes_AS_STRING(copy)
                prepared.ttl_count = own.count = own.flags = 0
                own.generation = 0
                prepared.inspection = &own
            q.qtype = TYPE_A
            has_a = cache_prepare(&self.core.cache, q, <const uint8_t*> PyBytes_AS_STRING(answer_a),
                                  <uint32_t> len(answer_a), &prepared_a) == PREPARED
        query_start(q, q.packet, q.size, q.transport, q.reply, q.reply_room)
        q.counted = True
        q.since = punt.since
        q.told = punt.told
        q.given_a = &prepared_a if has_a else NULL
        q.without_a = answer_a is not None and not has_a
        if punt.cell is not None and punt.generation == self.snapshot.view.number:  # profiles and listsets are its own
            memcpy(&q.cell, PyBytes_AS_STRING(punt.cell), sizeof(Cell))
            check_cell(&self.snapshot.view, &q.cell)
            q.decided = punt.decided
            q.chosen = punt.chosen
        if answer is not None:
            q.given = &prepared
        if is_stale:
            q.given = &kept
        verdict = answer_client(&self.core, q)
        if verdict == VERDICT_PUNT and q.reason == REASON_FORWARD and answer is None and not may_ask:
            q.rcode = RCODE_SERVFAIL
            q.ede = ede
            q.ede_text = <const uint8_t*> PyBytes_AS_STRING(words)
            q.ede_size = <uint32_t> len(words)
            verdict = reply_error(q)
        if verdict == VERDICT_PUNT:
            again = self._punt(q, punt.token, True)
            if q.decided:
                again.cell = punt.cell
                again.decided = punt.decided
                again.chosen = punt.chosen
            again.fd = punt.fd
            again.peer = punt.peer
            again.control_size = punt.control_size
            memcpy(again.control, punt.control, CONTROL_ROOM)
            return verdict, None
        query_count(&self.core, q, verdict)
        if verdict == VERDICT_DROP:
            return verdict, None
        return verdict, self._give(punt, q)

    def send(self, Punt punt not None, bytes reply not None):
        """Send a reply made in Python, with the options that belong to the query's; returns it for a stream.

        Longer than a UDP client takes: ValueError.
        """
        cdef Query* q = &self.query
        cdef int verdict = VERDICT_REPLY
        if self._question(q, punt) not in (CONTINUE, VERDICT_PUNT) or not HEADER <= len(reply) <= q.reply_room:
            raise ValueError("not a reply that can be sent")
        if punt.transport == TRANSPORT_UDP and len(reply) > q.limit:
            raise ValueError(f"{len(reply)} octets where the client takes {q.limit}")
        core_clock(&self.core)
        memcpy(q.reply, PyBytes_AS_STRING(reply), len(reply))
        q.reply_size = <uint32_t> len(reply)
        q.rcode = q.reply[3] & 0xF
        if q.options & ASKED_COOKIE and self.core.edns.cookies:
            cookie_take(&self.core.edns, q, <uint32_t> (self.core.wall // 1000000000))
        if q.options:
            edns_add(q)
        q.cell.action = <uint8_t> punt.action
        q.cell.rank = <uint8_t> punt.rank
        q.cell.slot = <uint16_t> punt.slot
        q.listset = punt.listset
        q.policy_class = punt.policy_class
        q.since = punt.since
        q.told = punt.told
        if self.core.limits.responses and q.transport == TRANSPORT_UDP:
            verdict = limit_response(&self.core, q)
        query_count(&self.core, q, verdict)
        return self._give(punt, q) if verdict == VERDICT_REPLY else None

    cdef bytes _give(self, Punt punt, Query* q):
        # To the punt's client: a datagram is sent here, a stream's listener gets the octets.
        cdef mmsghdr message
        cdef iovec part
        if punt.fd < 0:
            return stream_bytes(q)
        memset(&message, 0, sizeof(mmsghdr))
        part.iov_base = q.reply
        part.iov_len = q.reply_size
        message.msg_hdr.msg_name = &punt.peer
        message.msg_hdr.msg_namelen = sizeof(sockaddr_in6) if punt.peer.sin6_family == AF_INET6 else sizeof(sockaddr_in)
        message.msg_hdr.msg_iov = &part
        message.msg_hdr.msg_iovlen = 1
        if punt.control_size:
            message.msg_hdr.msg_control = punt.control
            message.msg_hdr.msg_controllen = punt.control_size
        udp_send(&self.core, punt.fd, &message, 1)
        return None

    def flush(self, str name=None, bint subtree=False):
        """Forget every cached answer, or those of a name, with `subtree` of all names below it too; returns how many."""
        cdef uint32_t count = self.core.cache.entry_count
        cdef bytes wire
        if name is None:
            cache_flush(&self.core.cache)
            return count
        wire = wire_name(name.lower())
        return cache_forget(&self.core.cache, <const uint8_t*> PyBytes_AS_STRING(wire), <uint32_t> len(wire), subtree)

    def kept(self):
        """Every answer that is kept and may still serve, as (key, age in seconds, message), the oldest of a ring first.

        Those for some network alone are not among them.
        """
        cdef Cache* c = &self.core.cache
        cdef Ring* ring
        cdef Entry* e
        cdef uint32_t at, left, which
        cdef list found = []
        core_clock(&self.core)
        for which in range(2):
            ring = &c.small if which else &c.main
            at = ring.tail
            left = ring.used
            while left:
                e = <Entry*> (ring.data + at)
                if not entry_is_dead(e) and entry_may_be_stale(c, e, self.core.now) \
                        and e.key_size == key_name_size(entry_key(e)) + KEY_AFTER_NAME:
                    found.append((take_bytes(entry_key(e), e.key_size), self.core.now - e.stored,
                                  take_bytes(entry_packet(e), e.packet_size)))
                left -= e.octets
                at += e.octets
                if at == ring.room:
                    at = 0
        return found

    def keep(self, bytes key not None, uint32_t age, bytes message not None):
        """Take back what kept() gave, however long ago; False where it is not sound, too old, or known better by now."""
        cdef Query* q = &self.query
        cdef Answer prepared, kept
        cdef bytes packet
        cdef Py_ssize_t size = len(key) - KEY_AFTER_NAME
        if not 0 < size <= MAX_NAME or age >= CLOCK_START:
            return False
        packet = (b"\0\0\1" + (b"\x10" if key[size + 4] & 2 else b"\0") + b"\0\1\0\0\0\0\0\1" + key[:size + 4]
                  + b"\0\0\x29\4\xd0\0\0" + (b"\x80" if key[size + 4] & 1 else b"\0") + b"\0\0\0")
        core_clock(&self.core)
        query_start(q, <const uint8_t*> PyBytes_AS_STRING(packet), <uint32_t> len(packet), TRANSPORT_UDP, NULL, 0)
        if wire_parse(q) != CONTINUE:
            return False
        q.route = (<uint32_t> key[size + 5] << 8) | <uint32_t> key[size + 6]
        if cache_stale(&self.core.cache, q, self.core.now, &kept) \
                or cache_prepare(&self.core.cache, q, <const uint8_t*> PyBytes_AS_STRING(message),
                                 <uint32_t> len(message), &prepared) != PREPARED or prepared.failed \
                or age >= <uint64_t> prepared.lifetime + self.core.cache.stale_ttl:
            return False
        return cache_store(&self.core.cache, q, &prepared, self.core.now - age)

    def close(self):
        """Let go of the sockets. What is left to send is left."""
        cdef uint32_t i
        for i in range(self.socket_count):
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.sockets[i].fd, NULL)
        self.socket_count = 0
        for i in range(UPSTREAMS):
            self.drop_upstream(i)


cdef void stream_answer(Core* core, Query* q, Waiter* w, const Answer* answer) noexcept with gil:
    # forward.pyx has an upstream's answer for a client on a stream: Python has the connection.
    (<Engine> core.engine).answer_stream(q, w, answer)


cdef void late_tell(Core* core, const Pending* p, const uint8_t* packet, uint32_t size) noexcept with gil:
    # forward.pyx has an answer to a question that Python has taken over.
    (<Engine> core.engine).keep_late(p, packet, size)


cdef void refresh_punt(Core* core, const Query* q) noexcept with gil:
    # answer.pyx wants a question asked anew, for no client.
    (<Engine> core.engine).take_refresh(q)


cdef void datagram_punt(Core* core, const Query* q) noexcept with gil:
    # udp.pyx has a query that Python takes.
    (<Engine> core.engine).take_datagram(q)
