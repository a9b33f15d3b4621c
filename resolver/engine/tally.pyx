# tally: which names were asked most in the last day, and by how many clients, out of query records; in bounded memory.
#
# A table of at most `limit` names with exact counts since each got its place. A full one drops the half that was asked
# least, so a name that is asked often never loses its place for long, whatever else is asked once; what a name may have been
# asked before is at most `missed`, the sum of what the names dropped had (Manku and Motwani's lossy counting, with places
# instead of octets). No count is ever higher than what was asked, unless records come faster than all need be taken: then
# one of some stands for them, and counts are estimates.
#
# Once names have been dropped, a new one waits at the door: it gets a place when it is asked again before half as many
# others were as have places. So names that are asked once, by the million in some attacks, cost no more than a mark each.
#
# What costs is memory that is not in the processor's cache: four lines of it a record. Records are taken a few at a time,
# and the lines of all are asked for before the first is counted.
#
# The day is in windows that follow each other; a name has one for each in which it was asked. Clients are counted in each
# by 64 registers of 4 bits (HyperLogLog), which add up by their maxima: good to some 13 %, almost exact below ten. No
# address is kept, only where its keyed hash fell.
#
# Records come from workers through a ring and counts from a file: neither is trusted.

from libc.math cimport ldexp, log
from libc.stdlib cimport qsort

cdef extern from "stdlib.h" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef enum:
    TALLY_WINDOWS = 5          # the one under way and those before it that count
    TALLY_REGISTERS = 64
    TALLY_HIGHEST = 15         # of a register
    TALLY_HEAD = 8             # octets of a name in a dump, before its name and windows
    TALLY_ALLOWED = 2          # beside TOLD_BLOCKED, of a name's last query
    TALLY_TOGETHER = 16        # records
    LINE_OCTETS = 64           # of the processor's cache

cdef struct TallyWindow:       # what was asked of a name in one window
    uint32_t number
    uint32_t asked
    uint32_t blocked
    uint8_t clients[32]      # a register each half: TALLY_REGISTERS of 4 bits

cdef struct Sighting:          # a record that counts
    const RecordHead* record
    uint64_t hash              # of its name

cdef struct TallyName:         # 64 octets: a line
    uint64_t hash
    uint8_t* wire
    TallyWindow* windows[TALLY_WINDOWS]  # NULL: not asked in it
    uint16_t slot              # of the list that decided last
    uint8_t size               # octets of wire
    uint8_t told               # TOLD_BLOCKED, TALLY_ALLOWED or 0: what became of the last query


cdef uint8_t plain_octets[256]  # 1: one of a-z, 0-9, - and _
for _octet in map(ord, "abcdefghijklmnopqrstuvwxyz0123456789-_"):
    plain_octets[<int> _octet] = 1


cdef bint is_plain_name(const uint8_t* wire, uint32_t size) noexcept nogil:
    """Whether these octets are a name, not the root, of a-z, 0-9, - and _ alone: no other can be in a list."""
    cdef uint32_t at = 0, end
    if size < 3 or size > NAME_OCTETS:
        return False
    while at < size and wire[at]:
        if wire[at] > 63 or at + wire[at] + 1 >= size:
            return False
        end = at + wire[at] + 1
        at += 1
        while at < end:
            if not plain_octets[wire[at]]:
                return False
            at += 1
    return at == size - 1


cdef bint record_counts(const RecordHead* record, const uint8_t* wire) noexcept nogil:
    """Whether somebody was served by a query: no stranger's is, nor one that comes again by TCP or was dropped unblocked."""
    return record.policy_class < CLASS_WITHHELD and record.qclass == 1 and not record.told & TOLD_TRUNCATED \
        and (not record.told & TOLD_DROPPED or record.told & TOLD_BLOCKED) and is_plain_name(wire, record.name_size)


cdef int compare_counts(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*> a)[0], y = (<const uint64_t*> b)[0]
    return (x > y) - (x < y)


cdef void tally_client(TallyWindow* w, const uint8_t* client, uint64_t key0, uint64_t key1) noexcept nogil:
    """Count a client of 16 octets."""
    cdef Sip s
    cdef uint64_t hash
    cdef uint32_t place, shift
    cdef uint8_t rank = 1
    sip_start(&s, key0, key1)
    sip_word(&s, load_le64(client))
    sip_word(&s, load_le64(client + 8))
    hash = sip_finish64(&s)
    place = hash & (TALLY_REGISTERS - 1)
    hash >>= 6
    while rank < TALLY_HIGHEST and not hash & 1:
        hash >>= 1
        rank += 1
    shift = 4 * (place & 1)
    if rank > (w.clients[place >> 1] >> shift & 15):
        w.clients[place >> 1] = <uint8_t> ((w.clients[place >> 1] & (0xF0 >> shift)) | (rank << shift))


cdef class Tally:
    """Counts of the names asked most. See engine.pyi."""

    cdef TallyName* names
    cdef uint32_t* table       # open addressing: 1 + place in names, 0 is free
    cdef uint32_t mask
    cdef readonly uint32_t limit
    cdef readonly uint32_t count
    cdef readonly uint64_t missed
    cdef uint8_t* door         # as many octets as table has cells: 1 where a name waits
    cdef uint32_t waiting
    cdef uint32_t turn         # of records, where not all are taken
    cdef uint64_t keys[4]      # of names, of clients

    def __cinit__(self, uint32_t limit, bytes key not None):
        cdef uint32_t size = 16
        if not 2 <= limit <= 1 << 24 or len(key) != 32:
            raise ValueError("a tally has 2 to 16,777,216 names and a key of 32 octets")
        while size < 2 * limit:
            size *= 2
        self.limit = limit
        self.mask = size - 1
        memcpy(self.keys, <const char*> key, 32)
        self.names = <TallyName*> aligned_alloc(LINE_OCTETS, limit * sizeof(TallyName))
        self.table = <uint32_t*> calloc(size, 4)
        self.door = <uint8_t*> calloc(size, 1)
        if self.names == NULL or self.table == NULL or self.door == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t place
        if self.names != NULL:
            for place in range(self.count):
                self._free(&self.names[place])
        free(self.names)
        free(self.table)
        free(self.door)

    cdef void _free(self, TallyName* name) noexcept nogil:
        cdef int i
        for i in range(TALLY_WINDOWS):
            free(name.windows[i])
        free(name.wire)

    cdef uint64_t _hash(self, const uint8_t* wire) noexcept nogil:
        cdef Sip s
        cdef uint32_t at = 0
        sip_start(&s, self.keys[0], self.keys[1])
        while wire[at]:
            sip_label(&s, wire + at)
            at += wire[at] + 1
        return sip_finish64(&s)

    cdef uint32_t* _find(self, const uint8_t* wire, uint32_t size, uint64_t hash) noexcept nogil:
        """The table's cell of a name, or the free one where it belongs."""
        cdef uint32_t at = <uint32_t> hash & self.mask
        cdef TallyName* name
        while self.table[at]:
            name = &self.names[self.table[at] - 1]
            if name.hash == hash and name.size == size and memcmp(name.wire, wire, size) == 0:
                break
            at = (at + 1) & self.mask
        return &self.table[at]

    cdef bint _waits(self, uint64_t hash) noexcept nogil:
        """Whether a name that has no place has to wait for one: the first time. `missed` holds for who comes again, too."""
        cdef uint8_t* mark = &self.door[hash & self.mask]
        if self.missed == 0 or mark[0]:  # it has waited, or another whose mark is the same: then it comes in early
            return False
        if self.waiting == 0:
            self.missed += 1
        mark[0] = 1
        self.waiting += 1
        if self.waiting >= self.limit // 2:
            memset(self.door, 0, <size_t> self.mask + 1)
            self.waiting = 0
        return True

    cdef TallyName* _place(self, uint32_t* cell, const uint8_t* wire, uint32_t size, uint64_t hash,
                           uint32_t window) except NULL nogil:
        """A place for a name that has none. `cell`: as _find() gives it."""
        cdef TallyName* name
        if self.count == self.limit:
            self._drop_half(window)
            cell = self._find(wire, size, hash)
        name = &self.names[self.count]
        memset(name, 0, sizeof(TallyName))
        name.wire = <uint8_t*> malloc(size)
        if name.wire == NULL:
            with gil:
                raise MemoryError
        memcpy(name.wire, wire, size)
        name.size = <uint8_t> size
        name.hash = hash
        self.count += 1
        cell[0] = self.count
        return name

    cdef TallyWindow* _window(self, TallyName* name, uint32_t number) except NULL nogil:
        """The name's window of that number, empty if it was not asked in it before."""
        cdef TallyWindow* w = name.windows[number % TALLY_WINDOWS]
        if w == NULL:
            w = <TallyWindow*> malloc(sizeof(TallyWindow))
            if w == NULL:
                with gil:
                    raise MemoryError
            name.windows[number % TALLY_WINDOWS] = w
        elif w.number == number:
            return w
        memset(w, 0, sizeof(TallyWindow))
        w.number = number
        return w

    cdef uint64_t _asked(self, const TallyName* name, uint32_t window) noexcept nogil:
        """How often a name was asked in the windows that count."""
        cdef uint64_t total = 0
        cdef int i
        for i in range(TALLY_WINDOWS):
            if name.windows[i] != NULL and window - name.windows[i].number < TALLY_WINDOWS:
                total += name.windows[i].asked
        return total

    cdef int _drop_half(self, uint32_t window) except -1 nogil:
        """Drop the half of the names that was asked least; of equals those that came first."""
        cdef uint64_t* totals = <uint64_t*> malloc(2 * self.count * sizeof(uint64_t))
        cdef uint64_t* sorted_totals
        cdef uint64_t middle
        cdef uint32_t place, kept = 0, half = self.count // 2, equals = half, at
        if totals == NULL:
            with gil:
                raise MemoryError
        sorted_totals = totals + self.count
        for place in range(self.count):
            totals[place] = sorted_totals[place] = self._asked(&self.names[place], window)
        qsort(sorted_totals, self.count, sizeof(uint64_t), compare_counts)
        middle = sorted_totals[half - 1] if half else sorted_totals[0]
        for place in range(half):
            equals -= sorted_totals[place] < middle  # what is left of the half goes to names with the middle count
        for place in range(self.count):
            if totals[place] < middle or (totals[place] == middle and equals):
                equals -= totals[place] == middle
                self._free(&self.names[place])
            else:
                self.names[kept] = self.names[place]
                kept += 1
        free(totals)
        self.missed += middle
        self.count = kept
        memset(self.table, 0, (<size_t> self.mask + 1) * 4)
        for place in range(kept):
            at = <uint32_t> self.names[place].hash & self.mask
            while self.table[at]:
                at = (at + 1) & self.mask
            self.table[at] = place + 1
        return 0

    def add(self, bytes records not None, uint32_t window, int clients, uint32_t every=1):
        cdef const uint8_t* octets = <const uint8_t*> PyBytes_AS_STRING(records)
        cdef uint64_t left = PyBytes_GET_SIZE(records), counted = 0
        cdef Sighting seen[TALLY_TOGETHER]
        cdef const RecordHead* record
        cdef uint32_t size, count, place
        cdef bint is_sound = True
        if not 1 <= every <= 1000:
            raise ValueError("one record in 1 to 1,000 is taken")
        with nogil:
            while left and is_sound:
                count = 0
                while left and count < TALLY_TOGETHER:
                    record = <const RecordHead*> octets
                    size = record.size if left >= 8 else 0
                    is_sound = 8 <= size <= left and not size & 7 and (
                        record.kind != RECORD_QUERY or RECORD_NAME + record.name_size <= size)
                    if not is_sound:
                        break
                    self.turn += 1
                    if self.turn >= every:
                        self.turn = 0
                        if record.kind == RECORD_QUERY and record_counts(record, octets + RECORD_NAME):
                            seen[count].record = record
                            seen[count].hash = self._hash(octets + RECORD_NAME)
                            count += 1
                    octets += size
                    left -= size
                self._ask_for(seen, count, window)
                for place in range(count):
                    self._count(&seen[place], window, clients, every)
                counted += count
        if not is_sound:
            raise ValueError("octets that are no record")
        return counted

    cdef void _ask_for(self, const Sighting* seen, uint32_t count, uint32_t window) noexcept nogil:
        """Have the processor fetch what counting these will read, as far as the first look finds it."""
        cdef uint32_t i, cell
        cdef const TallyName* name
        for i in range(count):
            __builtin_prefetch(&self.table[seen[i].hash & self.mask])
        for i in range(count):
            cell = self.table[seen[i].hash & self.mask]
            __builtin_prefetch(&self.names[cell - 1] if cell else <const void*> &self.door[seen[i].hash & self.mask])
        for i in range(count):
            cell = self.table[seen[i].hash & self.mask]
            if cell:
                name = &self.names[cell - 1]
                __builtin_prefetch(name.wire)
                __builtin_prefetch(name.windows[window % TALLY_WINDOWS])

    cdef int _count(self, const Sighting* seen, uint32_t window, int clients, uint32_t times) except -1 nogil:
        cdef const RecordHead* record = seen.record
        cdef const uint8_t* wire = <const uint8_t*> record + RECORD_NAME
        cdef uint32_t* cell = self._find(wire, record.name_size, seen.hash)
        cdef TallyName* name
        cdef TallyWindow* w
        cdef uint8_t client[16]
        cdef bint blocked = record.told & TOLD_BLOCKED != 0
        if cell[0]:
            name = &self.names[cell[0] - 1]
        elif self._waits(seen.hash):
            return 0
        else:
            name = self._place(cell, wire, record.name_size, seen.hash, window)
        w = self._window(name, window)
        if w.asked < <uint32_t> 0xFFFFFFFF - times:
            w.asked += times
            w.blocked += times if blocked else 0
        name.slot = record.slot
        name.told = TOLD_BLOCKED if blocked else TALLY_ALLOWED if record.action == ACTION_ALLOW else 0
        if clients:
            memcpy(client, record.client, 16)
            if clients == 2:  # its network alone: /24, or /56
                if memcmp(client, MAPPED_PREFIX, 12) == 0:
                    client[15] = 0
                else:
                    memset(client + 7, 0, 9)
            tally_client(w, client, self.keys[2], self.keys[3])
        return 0

    def names_asked(self, uint32_t window):
        cdef list found = []
        cdef TallyName* name
        cdef TallyWindow* w
        cdef uint64_t asked, blocked
        cdef uint8_t registers[TALLY_REGISTERS]
        cdef uint32_t place
        cdef int i, j
        for place in range(self.count):
            name = &self.names[place]
            asked = blocked = 0
            memset(registers, 0, TALLY_REGISTERS)
            for i in range(TALLY_WINDOWS):
                w = name.windows[i]
                if w != NULL and window - w.number < TALLY_WINDOWS:
                    asked += w.asked
                    blocked += w.blocked
                    for j in range(TALLY_REGISTERS):
                        registers[j] = max(registers[j], w.clients[j >> 1] >> (4 * (j & 1)) & 15)
            if asked:
                found.append((wire_text(name.wire), asked, blocked, clients_of(registers), name.slot, name.told))
        return found

    def dump(self):
        cdef uint64_t size = 0, at = 0
        cdef TallyName* name
        cdef uint32_t place
        cdef uint8_t windows
        cdef int i
        for place in range(self.count):
            size += TALLY_HEAD + self.names[place].size
            for i in range(TALLY_WINDOWS):
                size += sizeof(TallyWindow) if self.names[place].windows[i] != NULL else 0
        cdef bytes octets = PyBytes_FromStringAndSize(NULL, size)
        cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(octets)
        for place in range(self.count):
            name = &self.names[place]
            windows = 0
            for i in range(TALLY_WINDOWS):
                windows += name.windows[i] != NULL
            memset(out + at, 0, TALLY_HEAD)
            out[at] = name.size
            out[at + 1] = name.told
            out[at + 2] = windows
            memcpy(out + at + 4, &name.slot, 2)
            memcpy(out + at + TALLY_HEAD, name.wire, name.size)
            at += TALLY_HEAD + name.size
            for i in range(TALLY_WINDOWS):
                if name.windows[i] != NULL:
                    memcpy(out + at, name.windows[i], sizeof(TallyWindow))
                    at += sizeof(TallyWindow)
        return octets

    def load(self, bytes octets not None, uint32_t window, dict slots not None):
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(octets)
        cdef uint64_t left = PyBytes_GET_SIZE(octets)
        cdef TallyName* name
        cdef TallyWindow w
        cdef uint64_t hash
        cdef uint32_t size
        cdef uint32_t* cell
        cdef uint16_t slot
        cdef int i, windows
        while left:
            size = data[0] if left >= TALLY_HEAD else 0
            windows = data[2] if left >= TALLY_HEAD else 0
            if windows > TALLY_WINDOWS or TALLY_HEAD + size + windows * sizeof(TallyWindow) > left \
                    or not is_plain_name(data + TALLY_HEAD, size):
                raise ValueError("octets that are no tally")
            hash = self._hash(data + TALLY_HEAD)
            cell = self._find(data + TALLY_HEAD, size, hash)
            name = &self.names[cell[0] - 1] if cell[0] else self._place(cell, data + TALLY_HEAD, size, hash, window)
            memcpy(&slot, data + 4, 2)
            name.slot = slots.get(slot, 0xFFFF)
            name.told = data[1]
            for i in range(windows):
                memcpy(&w, data + TALLY_HEAD + size + i * sizeof(TallyWindow), sizeof(TallyWindow))
                if window - w.number < TALLY_WINDOWS:
                    memcpy(self._window(name, w.number), &w, sizeof(TallyWindow))
            size = TALLY_HEAD + size + windows * sizeof(TallyWindow)
            data += size
            left -= size


cdef const uint8_t* MAPPED_PREFIX = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"


cdef str wire_text(const uint8_t* wire):
    """A plain name in wire form as text, without the final dot."""
    cdef uint8_t text[NAME_OCTETS]
    cdef uint32_t at = 0, size = 0
    while wire[at]:
        if at:
            text[at - 1] = 46
        memcpy(text + at, wire + at + 1, wire[at])
        size = at + wire[at]
        at += wire[at] + 1
    return text[:size].decode("ascii")


cdef uint64_t clients_of(const uint8_t* registers) noexcept:
    """How many clients left such registers (Flajolet et al., HyperLogLog, 2007; linear counting below 160)."""
    cdef double sum = 0, found
    cdef int i, empty = 0
    for i in range(TALLY_REGISTERS):
        sum += ldexp(1.0, -registers[i])
        empty += registers[i] == 0
    found = 0.709 * TALLY_REGISTERS * TALLY_REGISTERS / sum
    if found <= 2.5 * TALLY_REGISTERS and empty:
        found = TALLY_REGISTERS * log(<double> TALLY_REGISTERS / empty)
    return <uint64_t> (found + 0.5)
