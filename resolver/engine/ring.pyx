# ring: a record of each query that has come to its end, for whoever keeps them. resolver/ring.py draws the layout.
#
# One producer (this engine), one consumer (another process), no lock, no system call. A record that finds no room is
# dropped and counted; while nobody reads none is written. The consumer's words (tail, wanted) are not trusted: whatever
# they say, writing stays inside of data.

cdef enum:
    RING_VERSION = 1
    RING_HEAD = 64             # offsets of the header's words, each on a cache line of its own
    RING_TAIL = 128
    RING_WANTED = 192
    RING_HEADER = 256
    RECORD_NAME = 52           # octets of a record before its name
    RECORD_MAX = 312
    RECORD_FILLER = 0          # kinds
    RECORD_QUERY = 1
    RECORDS_NONE = 0           # which queries are recorded
    RECORDS_BLOCKED = 1
    RECORDS_ALL = 2
    TOLD_BLOCKED = 1
    TOLD_CACHED = 2
    TOLD_FORWARDED = 4
    TOLD_PUNTED = 8
    TOLD_TRUNCATED = 16
    TOLD_DROPPED = 32
    TOLD_INNER = 64            # a question that answering another led to: nobody asked it, so it is not recorded

cdef struct RecordHead:        # a record before its name: RECORD_NAME octets of it are written
    uint16_t size
    uint8_t kind
    uint8_t name_size
    uint8_t transport
    uint8_t action
    uint8_t rank
    uint8_t told
    uint64_t time              # nanoseconds since the epoch
    uint8_t client[16]
    uint16_t qtype
    uint16_t qclass
    uint16_t rcode
    uint16_t slot
    uint32_t listset
    uint16_t policy_class
    int16_t ede
    uint32_t duration          # microseconds

cdef bint ring_is_sound(const uint8_t* memory, uint64_t octets) noexcept nogil:
    # Whether the memory is a ring of this layout.
    cdef uint64_t size
    if octets < RING_HEADER or memcmp(memory, b"TAMPAHQR", 8) != 0 or (<const uint32_t*> (memory + 8))[0] != RING_VERSION:
        return False
    size = (<const uint64_t*> (memory + 16))[0]
    return size == octets - RING_HEADER and size >= 2 * RECORD_MAX and not size & (size - 1)


cdef uint8_t* ring_room(Core* core, uint32_t wanted) noexcept nogil:
    # Where the next record of `wanted` octets goes, a filler before it where it would cross data's end; NULL: no room.
    cdef Records* r = &core.records
    cdef uint64_t at = r.head & (r.size - 1), needed = wanted
    if r.size - at < wanted:
        needed += r.size - at
    if r.head + needed - r.tail > r.size:
        r.tail = atomic_load(<uint64_t*> (r.memory + RING_TAIL), ATOMIC_ACQUIRE)
        if r.head + needed - r.tail > r.size:
            core.counters[RECORDS_DROPPED] += 1
            atomic_store(<uint64_t*> (r.memory + RING_HEAD), r.head, ATOMIC_RELEASE)  # should somebody have spoilt it
            return NULL
    if needed != wanted:
        (<uint16_t*> (r.data + at))[0] = <uint16_t> (needed - wanted)
        r.data[at + 2] = RECORD_FILLER
        r.head += needed - wanted
        return r.data
    return r.data + at


cdef void ring_put(Core* core, const Query* q, int verdict, uint32_t duration) noexcept nogil:
    """Record a query that has come to its end: REPLY or DROP. `duration`: microseconds, where it took any time."""
    cdef Records* r = &core.records
    cdef RecordHead* record
    cdef bint blocked
    cdef uint32_t at, size
    cdef uint8_t* place
    if q.question_end == 0 or not atomic_load(<uint64_t*> (r.memory + RING_WANTED), ATOMIC_RELAXED):
        return
    blocked = is_blocked(q) and q.cell.action != ACTION_LOCAL
    if r.what == RECORDS_BLOCKED and not blocked:
        return
    size = (RECORD_NAME + q.name_size + 7) & ~<uint32_t> 7
    place = ring_room(core, size)
    if place == NULL:
        return
    record = <RecordHead*> place
    record.size = <uint16_t> size
    record.kind = RECORD_QUERY
    record.name_size = <uint8_t> q.name_size
    record.transport = <uint8_t> q.transport
    record.action = q.cell.action
    record.rank = q.cell.rank
    record.told = q.told | (TOLD_BLOCKED if blocked else 0)
    if verdict == VERDICT_DROP:
        record.told |= TOLD_DROPPED
    elif q.reply[2] & (FLAG_TC >> 8):
        record.told |= TOLD_TRUNCATED
    record.time = core.wall
    memcpy(record.client, q.client, 16)
    record.qtype = q.qtype
    record.qclass = q.qclass
    record.rcode = q.rcode
    record.slot = q.cell.slot
    record.listset = q.listset
    record.policy_class = <uint16_t> q.policy_class
    record.ede = <int16_t> q.ede
    record.duration = duration
    at = 0
    while at < q.name_size:  # a name has room for whole words, and so has the record but for its last four octets
        memcpy(place + RECORD_NAME + at, q.name + at, 4)
        at += 4
    r.head += size
    core.counters[RECORDS_WRITTEN] += 1
    atomic_store(<uint64_t*> (r.memory + RING_HEAD), r.head, ATOMIC_RELEASE)


cdef class RingEnd:
    """The consumer's end of a ring. See engine.pyi."""

    cdef object buffer
    cdef uint8_t* memory
    cdef uint64_t size

    def __init__(self, buffer):
        cdef uint8_t[::1] view = buffer
        if not ring_is_sound(&view[0] if view.shape[0] else NULL, view.shape[0]):
            raise ValueError("no ring of query records, or one of another version")
        self.buffer = view
        self.memory = &view[0]
        self.size = view.shape[0] - RING_HEADER

    def close(self):
        self.memory = NULL
        self.buffer = None

    cdef uint8_t* _open(self) except NULL:
        if self.memory == NULL:
            raise ValueError("the ring is closed")
        return self.memory

    def want(self, bint wanted):
        cdef uint8_t* memory = self._open()
        if wanted and not atomic_load(<uint64_t*> (memory + RING_WANTED), ATOMIC_ACQUIRE):
            self.skip()
        atomic_store(<uint64_t*> (memory + RING_WANTED), 1 if wanted else 0, ATOMIC_RELEASE)

    def skip(self):
        cdef uint8_t* memory = self._open()
        atomic_store(<uint64_t*> (memory + RING_TAIL),
                     atomic_load(<uint64_t*> (memory + RING_HEAD), ATOMIC_ACQUIRE), ATOMIC_RELEASE)

    def take(self, uint64_t octets):
        cdef uint8_t* memory = self._open()
        cdef uint64_t head = atomic_load(<uint64_t*> (memory + RING_HEAD), ATOMIC_ACQUIRE)
        cdef uint64_t tail = (<uint64_t*> (memory + RING_TAIL))[0]
        cdef uint64_t at = tail & (self.size - 1), end, size
        cdef bytes taken
        if head - tail > self.size or tail & 7 or head & 7:  # no engine writes that: begin anew
            self.skip()
            raise ValueError("the ring's words do not fit each other")
        end = min(head - tail, self.size - at) + at  # up to data's end at most: the rest comes with the next call
        size = 0
        while at + size < end and size < octets:
            size += max((<uint16_t*> (memory + RING_HEADER + at + size))[0], 8)
        size = min(size, end - at)
        taken = take_bytes(memory + RING_HEADER + at, size)
        atomic_store(<uint64_t*> (memory + RING_TAIL), tail + size, ATOMIC_RELEASE)
        return taken
