# cache: unmodified upstream answers in a byte budget, one cache a worker, no lock.
#
# Two rings of octets hold the entries, oldest at the tail: S3-FIFO (Yang et al., SOSP 2023). A new answer goes into
# `small`, a tenth of the room. What was asked again before it reaches small's tail moves on to `main`; what was not is
# forgotten, but for a fingerprint in `ghost`, which sends it straight to main if it comes back. So a scan of names asked
# once passes through the small ring and leaves main alone. As long as main was never full, everything moves on. At main's
# tail an entry that was asked again gets another round. Entries never wrap: a filler takes the rest of a ring's end.
#
# `slots` is an open-addressed table: the high word of an entry's hash is the tag and, scaled, the home; the low word is the
# place (ring and offset). Deletion shifts back, so there are no tombstones. The key is qname, qtype, qclass, DO, CD, route
# and, where upstream is told of it, the client's network; its hash is keyed with random bits of this process, so nobody
# outside can aim at one slot. An answer for every network (scope 0) is kept under the key without one; of a scope that is
# shorter than the network it serves that network alone (RFC 7871 section 7.3 would allow more).
#
# An answer is kept as it came but for its OPT record, which is between the upstream and us, and TTLs: config limits them,
# and a negative answer's SOA gets the time that the answer is good for (RFC 2308 section 3).
#
# An entry that has expired stays until its place is needed. It serves (RFC 8767) only once asking anew has failed, and then
# at once, while Python goes on asking in the background. That there is no answer is kept too (RFC 9520): an error that a
# server gave, or that an answer is bogus, for 1, 2, 4 … 30 seconds; the silence of all servers for one, so that their return
# is noticed.

cdef enum:
    KEY_ROOM = 288             # a name, type, class, flags, route, the client's network
    KEY_AFTER_NAME = 7         # octets of those behind the name, but for the network
    NO_EDE = 0xFFFF            # Entry.ede: none goes with it
    ALIGN = 8
    FREQUENCY_MAX = 3
    PROMOTIONS_MAX = 128       # entries given another round in one insertion: bounds its time
    IN_MAIN = 0x80000000u
    ANSWER_ROOM = 65536
    FAILURE_MAX = 30           # seconds that a failure is kept at most
    FAILURE_MEMORY = 60        # seconds after which it counts as the first again
    REFRESH_EVERY = 1          # seconds between two refreshes of what is expired
    PREFETCH_EVERY = 5         # seconds between two of what is not
    PREFETCH_FROM = 10         # seconds that an answer must live to be fetched again early
    PREFETCH_ASKED = 2         # how often it must have been asked for again

cdef struct Entry:             # octets at the start of each entry in a ring; `octets` must stay the first field
    uint32_t octets            # of the whole entry, a multiple of ALIGN
    uint32_t stored            # second in which it came
    uint64_t hash
    uint32_t expires           # second from which on it is not used
    uint32_t packet_size
    uint16_t ttl_count
    uint8_t scope              # Answer.scope
    uint8_t spare
    uint16_t key_size
    uint8_t frequency          # asked again, saturating
    uint8_t dead               # a filler, or replaced
    uint32_t refreshed         # second in which asking anew was last begun, 0: never
    uint16_t ede               # INFO-CODE that goes with it, NO_EDE: none
    uint8_t failures           # how often in a row there was no answer; 0: this is one
    uint8_t failing            # asking anew has failed: it serves when it is expired
    Inspection inspection

cdef struct Ring:
    uint8_t* data
    uint32_t room
    uint32_t head              # where the next entry goes
    uint32_t tail              # the oldest entry
    uint32_t used              # octets between them, fillers included

cdef struct Cache:
    Ring small
    Ring main
    uint64_t* slots            # tag << 32 | place; 0 = empty (a place is never 0)
    uint32_t slot_count
    uint32_t entry_count
    uint32_t entry_limit       # three quarters of the slots
    uint32_t* ghost            # tags of what small forgot, direct-mapped
    uint32_t ghost_count       # a power of two
    uint64_t key0, key1        # of the hash
    uint32_t max_ttl, min_ttl, negative_ttl
    uint32_t stale_ttl         # seconds that an expired answer may still serve
    bint prefetch
    uint8_t* scratch           # an entry on its way from one place to another
    uint8_t* answer_packet     # the answer that cache_prepare made ready
    uint16_t* answer_ttls
    Inspection answer_inspection
    uint64_t* counters

cdef enum Prepared:
    PREPARED = 0
    PREPARED_BAD = 1           # not an answer to this question, or broken
    PREPARED_ODD = 2           # sound, but its OPT stands where it cannot be cut out: Python writes it anew


cdef inline uint32_t aligned(uint32_t octets) noexcept nogil:
    return (octets + ALIGN - 1) & ~<uint32_t> (ALIGN - 1)


cdef inline Entry* entry_at(Cache* c, uint32_t place) noexcept nogil:
    # A place is (offset / ALIGN + 1), with IN_MAIN set for the main ring.
    cdef Ring* ring = &c.main if place & IN_MAIN else &c.small
    return <Entry*> (ring.data + ((place & ~IN_MAIN) - 1) * ALIGN)


cdef inline uint8_t* entry_key(Entry* e) noexcept nogil:
    return <uint8_t*> e + sizeof(Entry)


cdef inline uint16_t* entry_ttls(Entry* e) noexcept nogil:
    return <uint16_t*> (<uint8_t*> e + sizeof(Entry) + ((e.key_size + 1) & ~1))


cdef inline uint8_t* entry_packet(Entry* e) noexcept nogil:
    return <uint8_t*> entry_ttls(e) + 2 * e.ttl_count


cdef uint32_t cache_key(const Query* q, uint8_t* key) noexcept nogil:
    # The key's octets at `key` (KEY_ROOM of them); returns how many.
    memcpy(key, q.name, q.name_size)
    put_u16(key + q.name_size, q.qtype)
    put_u16(key + q.name_size + 2, q.qclass)
    key[q.name_size + 4] = <uint8_t> ((1 if q.dnssec_ok else 0) | (2 if q.flags & FLAG_CD else 0))
    put_u16(key + q.name_size + 5, q.route)
    if q.ecs_size:
        memcpy(key + q.name_size + KEY_AFTER_NAME, q.ecs, q.ecs_size)
    return q.name_size + KEY_AFTER_NAME + q.ecs_size


cdef uint32_t key_name_size(const uint8_t* key) noexcept nogil:
    # Octets of the name that a key begins with.
    cdef uint32_t at = 0
    while key[at]:
        at += key[at] + 1u
    return at + 1


cdef inline uint64_t cache_hash(const Cache* c, const uint8_t* key, uint32_t size) noexcept nogil:
    return sip_octets(c.key0, c.key1, key, size)


cdef inline uint32_t slot_home(const Cache* c, uint64_t slot) noexcept nogil:
    return <uint32_t> ((slot >> 32) * c.slot_count >> 32)


cdef inline uint32_t slot_after(const Cache* c, uint32_t at) noexcept nogil:
    return at + 1 if at + 1 < c.slot_count else 0


cdef inline uint32_t slot_steps(const Cache* c, uint32_t start, uint32_t end) noexcept nogil:
    # How far the search goes from `start` to `end`.
    return end - start if end >= start else end + c.slot_count - start


cdef uint32_t slot_of_place(const Cache* c, uint64_t hash, uint32_t place) noexcept nogil:
    # The slot that holds `place`; it is there.
    cdef uint64_t wanted = (hash & 0xFFFFFFFF00000000u) | place
    cdef uint32_t at = slot_home(c, wanted)
    while c.slots[at] != wanted:
        at = slot_after(c, at)
    return at


cdef void slot_insert(Cache* c, uint64_t hash, uint32_t place) noexcept nogil:
    cdef uint64_t slot = (hash & 0xFFFFFFFF00000000u) | place
    cdef uint32_t at = slot_home(c, slot)
    while c.slots[at]:
        at = slot_after(c, at)
    c.slots[at] = slot
    c.entry_count += 1


cdef void slot_remove(Cache* c, uint32_t at) noexcept nogil:
    cdef uint32_t hole = at, scan = slot_after(c, at)
    c.entry_count -= 1
    while c.slots[scan]:
        # Its home is not between the hole and itself: move it back.
        if slot_steps(c, slot_home(c, c.slots[scan]), scan) >= slot_steps(c, hole, scan):
            c.slots[hole] = c.slots[scan]
            hole = scan
        scan = slot_after(c, scan)
    c.slots[hole] = 0


cdef void entry_forget(Cache* c, Entry* e, uint32_t place) noexcept nogil:
    # Out of the table; its octets stay in the ring as dead until the tail passes.
    slot_remove(c, slot_of_place(c, e.hash, place))
    e.dead = 1


cdef void ring_pop(Ring* ring) noexcept nogil:
    cdef uint32_t octets = (<Entry*> (ring.data + ring.tail)).octets
    ring.tail += octets
    ring.used -= octets
    if ring.tail == ring.room:
        ring.tail = 0


cdef bint ring_has_room(Ring* ring, uint32_t octets) noexcept nogil:
    # Whether `octets` fit at the head; the rest of the ring's end becomes a filler where they do not fit before it.
    cdef uint32_t rest
    cdef Entry* filler
    if ring.used == 0:
        ring.head = ring.tail = 0
    if ring.head >= ring.tail and (ring.used == 0 or ring.head > ring.tail):
        rest = ring.room - ring.head
        if rest >= octets:
            return True
        if rest:
            filler = <Entry*> (ring.data + ring.head)
            filler.octets = rest
            if rest >= sizeof(Entry):  # a shorter rest is known as a filler by its length
                filler.dead = 1
            ring.used += rest
        ring.head = 0
    return ring.tail - ring.head >= octets and ring.head != ring.tail


cdef uint32_t ring_push(Ring* ring, const uint8_t* entry, uint32_t octets) noexcept nogil:
    # Copy an entry to the head, where ring_has_room just said that it fits; returns its place without the ring's bit.
    cdef uint32_t place = ring.head // ALIGN + 1
    memcpy(ring.data + ring.head, entry, octets)
    ring.head += octets
    ring.used += octets
    if ring.head == ring.room:
        ring.head = 0
    return place


cdef inline bint entry_is_dead(const Entry* e) noexcept nogil:
    return e.octets < sizeof(Entry) or e.dead


cdef bint main_evict(Cache* c, bint again) noexcept nogil:
    # main's tail: out, but what was asked again gets another round if `again`. Whether it got one.
    cdef Entry* oldest = <Entry*> (c.main.data + c.main.tail)
    cdef Entry* moved = <Entry*> (c.scratch + ANSWER_ROOM * 2)
    cdef uint32_t octets = oldest.octets
    if entry_is_dead(oldest):
        ring_pop(&c.main)
        return False
    again = again and oldest.frequency
    if again:
        memcpy(moved, oldest, octets)
        moved.frequency -= 1
    entry_forget(c, oldest, (c.main.tail // ALIGN + 1) | IN_MAIN)
    ring_pop(&c.main)
    if again and ring_has_room(&c.main, octets):
        slot_insert(c, moved.hash, ring_push(&c.main, <uint8_t*> moved, octets) | IN_MAIN)
    else:
        c.counters[CACHE_EVICTIONS] += 1
    return again


cdef void main_insert(Cache* c, uint8_t* entry, uint32_t octets) noexcept nogil:
    # `entry` (outside the rings) into main; the tail gives way.
    cdef uint32_t rounds = 0
    while not ring_has_room(&c.main, octets):
        rounds += main_evict(c, rounds < PROMOTIONS_MAX)
    slot_insert(c, (<Entry*> entry).hash, ring_push(&c.main, entry, octets) | IN_MAIN)


cdef void table_make_room(Cache* c) noexcept nogil:
    # A table full of small answers before the rings are: an entry gives way, from the ring that has more than its share.
    cdef uint32_t rounds = 0
    while c.entry_count >= c.entry_limit:
        if c.small.used > c.main.used // 9:
            small_evict(c)
        else:
            rounds += main_evict(c, rounds < PROMOTIONS_MAX)


cdef void small_evict(Cache* c) noexcept nogil:
    # small's tail: on to main if it was asked again, or if main has room yet; else out, its fingerprint kept in ghost.
    cdef Entry* oldest = <Entry*> (c.small.data + c.small.tail)
    cdef Entry* moved = <Entry*> (c.scratch + ANSWER_ROOM)
    cdef uint32_t octets = oldest.octets, tag
    if entry_is_dead(oldest):
        ring_pop(&c.small)
        return
    if oldest.frequency or (c.main.room - c.main.used >= octets and c.entry_count < c.entry_limit):
        memcpy(moved, oldest, octets)
        moved.frequency = 0
    else:
        tag = <uint32_t> (oldest.hash >> 32)
        c.ghost[tag & (c.ghost_count - 1)] = tag
        moved = NULL
        c.counters[CACHE_EVICTIONS] += 1
    entry_forget(c, oldest, c.small.tail // ALIGN + 1)
    ring_pop(&c.small)
    if moved != NULL:
        main_insert(c, <uint8_t*> moved, octets)


cdef Entry* cache_find(Cache* c, const Query* q, const uint8_t* key, uint32_t key_size, uint64_t hash,
                       uint32_t* place) noexcept nogil:
    # The entry under `key`, fresh or not, or NULL.
    cdef uint32_t at = slot_home(c, hash)
    cdef uint32_t tag = <uint32_t> (hash >> 32)
    cdef Entry* e
    while c.slots[at]:
        if <uint32_t> (c.slots[at] >> 32) == tag:
            e = entry_at(c, <uint32_t> c.slots[at])
            if e.hash == hash and e.key_size == key_size and memcmp(entry_key(e), key, key_size) == 0:
                place[0] = <uint32_t> c.slots[at]
                return e
        at = slot_after(c, at)
    return NULL


cdef void entry_answer(Entry* e, uint32_t now, Answer* answer) noexcept nogil:
    # The entry as an answer, valid until the next cache_store.
    answer.packet = entry_packet(e)
    answer.ttls = entry_ttls(e)
    answer.inspection = &e.inspection
    answer.size = e.packet_size
    answer.ttl_count = e.ttl_count
    answer.age = now - e.stored
    answer.lifetime = e.expires - now if now < e.expires else 0
    answer.stale = now >= e.expires
    answer.refresh = False
    answer.failed = e.failures != 0
    answer.silent = False
    answer.ede = <int32_t> e.ede if e.ede != NO_EDE else <int32_t> EDE_NONE
    answer.scope = e.scope


cdef bint entry_wants_refresh(const Cache* c, Entry* e, uint32_t now) noexcept nogil:
    # Whether to ask anew: for a popular answer in the last tenth of its life, for an expired one that serves each second.
    cdef uint32_t life = e.expires - e.stored
    if now >= e.expires:
        if now - e.refreshed < REFRESH_EVERY:
            return False
    elif not c.prefetch or e.failures or e.frequency < PREFETCH_ASKED or life < PREFETCH_FROM \
            or e.expires - now > life // 10 or now - e.refreshed < PREFETCH_EVERY:
        return False
    e.refreshed = now
    return True


cdef inline Entry* cache_entry(Cache* c, const Query* q, uint32_t* place) noexcept nogil:
    # What is kept for the query: for its client's network, else for all.
    cdef uint8_t key[KEY_ROOM]
    cdef uint32_t key_size = cache_key(q, key)
    cdef Entry* e = cache_find(c, q, key, key_size, cache_hash(c, key, key_size), place)
    if e == NULL and q.ecs_size:
        key_size -= q.ecs_size
        e = cache_find(c, q, key, key_size, cache_hash(c, key, key_size), place)
    return e


cdef bint cache_lookup(Cache* c, const Query* q, uint32_t now, Answer* answer) noexcept nogil:
    """Whether an answer that may be given is kept: a fresh one, or an expired one if asking anew has failed.

    `answer` then points at it, until the next cache_store; with answer.refresh the question is to be asked anew.
    """
    cdef uint32_t place = 0
    cdef Entry* e = cache_entry(c, q, &place)
    if e == NULL or (now >= e.expires and not (e.failing and entry_may_be_stale(c, e, now))):
        c.counters[CACHE_MISSES] += 1
        return False
    c.counters[CACHE_HITS] += 1
    if e.frequency < FREQUENCY_MAX:
        e.frequency += 1
    entry_answer(e, now, answer)
    answer.refresh = entry_wants_refresh(c, e, now)
    return True


cdef inline bint entry_may_be_stale(const Cache* c, const Entry* e, uint32_t now) noexcept nogil:
    # Whether an answer is good enough to serve where there is no other.
    return e.failures == 0 and (now < e.expires or now - e.expires < c.stale_ttl)


cdef bint cache_stale(Cache* c, const Query* q, uint32_t now, Answer* answer) noexcept nogil:
    """Whether an answer is kept that may serve because there is no other, expired or not."""
    cdef uint32_t place = 0
    cdef Entry* e = cache_entry(c, q, &place)
    if e == NULL or not entry_may_be_stale(c, e, now):
        return False
    entry_answer(e, now, answer)
    return True


cdef bint cache_store(Cache* c, const Query* q, const Answer* answer, uint32_t now) noexcept nogil:
    """Keep a prepared answer under the question `q`; False where it is not one to keep (no lifetime, too large).

    A failure does not take the place of an answer that may still serve, and is kept the longer the more often it came.
    """
    cdef uint8_t key[KEY_ROOM]
    cdef uint32_t key_size = cache_key(q, key) - (0 if answer.scope else q.ecs_size)
    cdef uint32_t place = 0, octets, tag, lifetime = answer.lifetime
    cdef uint64_t hash = cache_hash(c, key, key_size)
    cdef Entry* old = cache_find(c, q, key, key_size, hash, &place)
    cdef Entry* e = <Entry*> c.scratch
    cdef uint8_t failures = 0
    if answer.failed:
        if old != NULL and entry_may_be_stale(c, old, now):
            old.failing = 1
            old.refreshed = now
            return False
        failures = 1
        if old != NULL and old.failures and now < old.expires + FAILURE_MEMORY:
            failures = old.failures + 1 if old.failures < 6 else 6
        lifetime = <uint32_t> 1 << (failures - 1) if not answer.silent else 1
        if lifetime > FAILURE_MAX:
            lifetime = FAILURE_MAX
    if old != NULL:
        entry_forget(c, old, place)
        c.counters[CACHE_ENTRIES] = c.entry_count
    octets = aligned(<uint32_t> sizeof(Entry) + ((key_size + 1) & ~1u) + 2 * answer.ttl_count + answer.size)
    if lifetime == 0 or octets > ANSWER_ROOM or octets > c.small.room // 4:
        return False
    e.octets = octets
    e.hash = hash
    e.stored = now
    e.expires = now + lifetime
    e.packet_size = answer.size
    e.ttl_count = <uint16_t> answer.ttl_count
    e.scope = <uint8_t> answer.scope
    e.spare = 0
    e.key_size = <uint16_t> key_size
    e.frequency = 0
    e.dead = 0
    e.refreshed = 0
    e.failing = 0
    e.failures = failures
    e.ede = <uint16_t> (answer.ede if answer.ede != EDE_NONE
                        else <int32_t> EDE_CACHED_ERROR if failures else <int32_t> NO_EDE)
    e.inspection = answer.inspection[0]
    memcpy(entry_key(e), key, key_size)
    memcpy(entry_ttls(e), answer.ttls, 2 * answer.ttl_count)
    memcpy(entry_packet(e), answer.packet, answer.size)
    table_make_room(c)
    tag = <uint32_t> (hash >> 32)
    if c.ghost[tag & (c.ghost_count - 1)] == tag:
        c.ghost[tag & (c.ghost_count - 1)] = 0
        main_insert(c, c.scratch, octets)
    else:
        while not ring_has_room(&c.small, octets):
            small_evict(c)
        place = ring_push(&c.small, c.scratch, octets)
        slot_insert(c, hash, place)
    c.counters[CACHE_STORES] += 1
    c.counters[CACHE_ENTRIES] = c.entry_count
    c.counters[CACHE_OCTETS] = c.small.used + <uint64_t> c.main.used
    return True


cdef bint cache_fail(Cache* c, const Query* q, int ede, uint32_t now) noexcept nogil:
    """Keep that nobody answered `q`, with the EDE that says so; an answer that may still serve stays and serves."""
    cdef Answer failure
    cdef Writer w
    if ede < 0:
        ede = EDE_NETWORK_ERROR
    memset(&failure, 0, sizeof(Answer))
    w.data = c.answer_packet
    w.room = ANSWER_ROOM
    w.at = 0
    w.full = False
    write_u16(&w, 0)
    write_u16(&w, FLAG_QR | FLAG_RA | RCODE_SERVFAIL)
    write_u16(&w, 1)
    write_u16(&w, 0)
    write_u32(&w, 0)
    write_octets(&w, q.name, q.name_size)
    write_u16(&w, q.qtype)
    write_u16(&w, q.qclass)
    c.answer_inspection.generation = 0
    c.answer_inspection.count = 0
    failure.packet = c.answer_packet
    failure.ttls = c.answer_ttls
    failure.inspection = &c.answer_inspection
    failure.size = w.at
    failure.failed = True
    failure.silent = not EDE_DNSSEC_BOGUS <= ede <= EDE_NSEC_MISSING
    failure.ede = ede
    failure.scope = q.ecs[1] if q.ecs_size else 0
    return cache_store(c, q, &failure, now)


cdef bint key_is_below(Entry* e, const uint8_t* name, uint32_t size, bint subtree) noexcept nogil:
    # Whether an entry's name is `name` (wire form, lower-case) or, with `subtree`, below it.
    cdef const uint8_t* own = entry_key(e)
    cdef uint32_t at = 0, length = key_name_size(own)
    while length - at >= size:
        if length - at == size and memcmp(own + at, name, size) == 0:
            return True
        if not subtree or own[at] == 0:
            return False
        at += own[at] + 1u
    return False


cdef uint32_t ring_forget(Cache* c, Ring* ring, uint32_t in_main, const uint8_t* name, uint32_t size,
                          bint subtree) noexcept nogil:
    cdef uint32_t at = ring.tail, left = ring.used, count = 0, octets
    cdef Entry* e
    while left:
        e = <Entry*> (ring.data + at)
        octets = e.octets
        if not entry_is_dead(e) and key_is_below(e, name, size, subtree):
            entry_forget(c, e, (at // ALIGN + 1) | in_main)
            count += 1
        at += octets
        left -= octets
        if at == ring.room:
            at = 0
    return count


cdef uint32_t cache_forget(Cache* c, const uint8_t* name, uint32_t size, bint subtree) noexcept nogil:
    """Forget what is kept of a name (wire form, lower-case), any type, and with `subtree` what is below; how many."""
    cdef uint32_t count = ring_forget(c, &c.small, 0, name, size, subtree) \
        + ring_forget(c, &c.main, IN_MAIN, name, size, subtree)
    c.counters[CACHE_ENTRIES] = c.entry_count
    return count


cdef void cache_flush(Cache* c) noexcept nogil:
    """Forget everything."""
    c.small.head = c.small.tail = c.small.used = 0
    c.main.head = c.main.tail = c.main.used = 0
    c.entry_count = 0
    memset(c.slots, 0, 8 * <size_t> c.slot_count)
    memset(c.ghost, 0, 4 * <size_t> c.ghost_count)
    c.counters[CACHE_ENTRIES] = c.counters[CACHE_OCTETS] = 0


cdef bint read_question_again(Reader* r, const Query* q) noexcept nogil:
    # Whether the answer's question is the query's, whatever its case.
    cdef uint32_t i
    if q.name_size > r.size - r.at:
        return False
    for i in range(q.name_size):
        if lower(r.data[r.at + i]) != q.name[i]:  # length octets are below 64: lower() leaves them
            return False
    r.at += q.name_size
    return read_u16(r) == q.qtype and read_u16(r) == q.qclass and not r.failed


cdef bint read_past_sound_name(Reader* r) noexcept nogil:
    # Past a name of an answer; a pointer must point backwards, behind the header (RFC 1035 section 4.1.4).
    cdef uint32_t octet, target, start = r.at
    while not r.failed:
        octet = read_u8(r)
        if octet == 0:
            return not r.failed
        if octet & POINTER == POINTER:
            target = (octet & 0x3F) << 8 | read_u8(r)
            return not r.failed and HEADER <= target < start
        if octet & POINTER:
            return False
        read_skip(r, octet)
    return False


cdef void answer_options(const Query* q, const uint8_t* options, uint32_t size, Answer* answer) noexcept nogil:
    # What an upstream's OPT says beside its answer: the first EDE's INFO-CODE (its text is between the upstream and us), and
    # for which networks it is.
    cdef Reader r
    cdef uint32_t code, length, at
    reader_start(&r, options, size)
    while r.at < size:
        code = read_u16(&r)
        length = read_u16(&r)
        at = r.at
        read_skip(&r, length)
        if r.failed:
            return
        if code == OPTION_EDE and length >= 2 and answer.ede == EDE_NONE:
            answer.ede = (<int32_t> options[at] << 8) | options[at + 1]
            if answer.ede == NO_EDE:
                answer.ede = EDE_NONE
        elif code == OPTION_ECS and q.ecs_size:
            answer.scope = ecs_told(q, options + at, length)


cdef int cache_prepare(Cache* c, const Query* q, const uint8_t* packet, uint32_t size, Answer* answer) noexcept nogil:
    """Check an upstream's message as an answer to `q` and make it ready for reply_answer and cache_store.

    The result lies in the cache's own buffer until the next call. Lifetime by RFC 2181 section 8 and RFC 2308 section 5:
    the smallest TTL; for a negative answer also the SOA's MINIMUM, and nothing without an SOA.
    """
    cdef Reader r
    cdef uint32_t counts[3]
    cdef uint32_t i, start, rtype, ttl, rdlength, records, count = 0, lifetime = c.max_ttl, minimum = 0
    cdef uint32_t cut = 0, section = 0, negative_ttl = 0, end, soa_ttl = 0
    cdef bint has_type = False, has_soa = False
    cdef uint32_t flags
    if size < HEADER or size > MAX_TCP:
        return PREPARED_BAD
    answer.ede = EDE_NONE
    answer.scope = q.ecs[1] if q.ecs_size else 0
    memcpy(c.answer_packet, packet, size)
    reader_start(&r, c.answer_packet, size)
    read_u16(&r)
    flags = read_u16(&r)
    if not flags & FLAG_QR or flags & OPCODE_MASK or read_u16(&r) != 1:
        return PREPARED_BAD
    for i in range(3):
        counts[i] = read_u16(&r)
    if not read_question_again(&r, q):
        return PREPARED_BAD
    end = r.at
    for section in range(3):
        records = counts[section]
        while records:
            records -= 1
            start = r.at
            if not read_past_sound_name(&r):
                return PREPARED_BAD
            rtype = read_u16(&r)
            read_u16(&r)
            ttl = read_u32(&r)
            rdlength = read_u16(&r)
            read_skip(&r, rdlength)
            if r.failed:
                return PREPARED_BAD
            if rtype == TYPE_OPT:
                if section != 2 or cut or c.answer_packet[start]:
                    return PREPARED_BAD
                if ttl >> 24:  # BADVERS and the like: no answer to the question (RFC 6891 section 6.1.3)
                    return PREPARED_BAD
                cut = start
                counts[2] -= 1
                answer_options(q, c.answer_packet + r.at - rdlength, rdlength, answer)
                continue
            if cut:
                return PREPARED_ODD
            end = r.at
            if ttl & 0x80000000u:
                ttl = 0
            if ttl > c.max_ttl:
                ttl = c.max_ttl
            if ttl < c.min_ttl:
                ttl = c.min_ttl
            put_u32(c.answer_packet + r.at - rdlength - 6, ttl)
            c.answer_ttls[count] = <uint16_t> (r.at - rdlength - 6)
            count += 1
            if ttl < lifetime:
                lifetime = ttl
            if section == 0 and (rtype == q.qtype or q.qtype == TYPE_ANY):
                has_type = True
            if section == 1 and rtype == TYPE_SOA and rdlength >= 22:
                has_soa = True
                soa_ttl = r.at - rdlength - 6
                minimum = get_u32(c.answer_packet + r.at - 4)
                negative_ttl = minimum if minimum < ttl else ttl
    put_u16(c.answer_packet + 10, counts[2])
    if not has_type:
        if not has_soa:
            negative_ttl = 0
        if negative_ttl > c.negative_ttl:
            negative_ttl = c.negative_ttl
        if has_soa:  # nobody behind us is to remember it longer than we do
            put_u32(c.answer_packet + soa_ttl, negative_ttl)
        if negative_ttl < lifetime:
            lifetime = negative_ttl
    answer.failed = flags & 0xF != RCODE_NOERROR and flags & 0xF != RCODE_NXDOMAIN and not flags & FLAG_TC
    answer.silent = answer.stale = answer.refresh = False
    if flags & FLAG_TC or answer.failed:
        lifetime = 0
    answer.packet = c.answer_packet
    answer.ttls = c.answer_ttls
    answer.inspection = &c.answer_inspection
    c.answer_inspection.generation = 0
    c.answer_inspection.count = 0
    answer.size = end
    answer.ttl_count = count
    answer.age = 0
    answer.lifetime = lifetime
    return PREPARED


cdef void cache_free(Cache* c) noexcept nogil:
    free(c.small.data)
    free(c.main.data)
    free(c.slots)
    free(c.ghost)
    free(c.scratch)
    free(c.answer_packet)
    free(c.answer_ttls)


cdef bint cache_make(Cache* c, uint64_t octets) noexcept nogil:
    """Give an empty cache its memory, `octets` in all (at least 1 MiB, at most 4 GiB); False where there is none."""
    cdef uint64_t room
    if octets < 1 << 20:
        octets = 1 << 20
    if octets > <uint64_t> 4 << 30:
        octets = <uint64_t> 4 << 30
    c.slot_count = <uint32_t> (octets // 96)  # so the rings are full first if an entry takes more than some 117 octets
    c.entry_limit = c.slot_count // 4 * 3
    c.ghost_count = 1024
    while c.ghost_count * 2 <= c.slot_count:
        c.ghost_count *= 2
    room = octets - 8 * <uint64_t> c.slot_count - 4 * <uint64_t> c.ghost_count
    c.small.room = <uint32_t> (room // 10) & ~<uint32_t> (ALIGN - 1)
    c.main.room = <uint32_t> (room - room // 10) & ~<uint32_t> (ALIGN - 1)
    c.small.data = <uint8_t*> malloc(c.small.room)
    c.main.data = <uint8_t*> malloc(c.main.room)
    c.slots = <uint64_t*> calloc(c.slot_count, 8)
    c.ghost = <uint32_t*> calloc(c.ghost_count, 4)
    c.scratch = <uint8_t*> malloc(3 * ANSWER_ROOM)
    c.answer_packet = <uint8_t*> malloc(ANSWER_ROOM)
    c.answer_ttls = <uint16_t*> malloc(2 * ANSWER_ROOM // 11 + 2)
    return c.small.data != NULL and c.main.data != NULL and c.slots != NULL and c.ghost != NULL \
        and c.scratch != NULL and c.answer_packet != NULL and c.answer_ttls != NULL
