# tally: which names were asked most in the last day, and by how many clients, out of query records; in bounded memory.
#
# A table of at most `limit` names with exact counts since each got its place. A full one drops the half that was asked
# least, so a name that is asked often never loses its place for long, whatever else is asked once; what a name may have been
# asked before is at most `missed`, the sum of what the names dropped had (Manku and Motwani's lossy counting, with places
# instead of octets). No count is ever higher than what was asked.
#
# The day is in windows that follow each other; a name has one for each in which it was asked. Clients are counted in each
# by 64 registers of 4 bits (HyperLogLog), which add up by their maxima: good to some 13 %, almost exact below ten. No
# address is kept, only where its keyed hash fell.
#
# Records come from workers through a ring and counts from a file: neither is trusted.

from libc.math cimport ldexp, log
from libc.stdlib cimport qsort

cdef enum:
    TALLY_WINDOWS = 5          # the one under way and those before it that count
    TALLY_REGISTERS = 64
    TALLY_HIGHEST = 15         # of a register
    TALLY_HEAD = 8             # octets of a name in a dump, before its name and windows
    TALLY_ALLOWED = 2          # beside TOLD_BLOCKED, of a name's last query

cdef struct TallyWindow:       # what was asked of a name in one window
    uint32_t number
    uint32_t asked
    uint32_t blocked
    uint8_t clients[32]      # a register each half: TALLY_REGISTERS of 4 bits

cdef struct TallyName:
    uint64_t hash
    uint8_t* wire
    TallyWindow* windows[TALLY_WINDOWS]  # NULL: not asked in it
    uint16_t slot              # of the list that decided last
    uint8_t size               # octets of wire
    uint8_t told               # TOLD_BLOCKED, TALLY_ALLOWED or 0: what became of the last query


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
            if not (97 <= wire[at] <= 122 or 48 <= wire[at] <= 57 or wire[at] == 45 or wire[at] == 95):
                return False
            at += 1
    return at == size - 1


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
        self.names = <TallyName*> calloc(limit, sizeof(TallyName))
        self.table = <uint32_t*> calloc(size, 4)
        if self.names == NULL or self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t place
        if self.names != NULL:
            for place in range(self.count):
                self._free(&self.names[place])
        free(self.names)
        free(self.table)

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

    cdef TallyName* _place(self, const uint8_t* wire, uint32_t size, uint32_t window) except? NULL nogil:
        """The name's entry, made if need be; NULL without an exception never."""
        cdef uint64_t hash = self._hash(wire)
        cdef uint32_t* cell = self._find(wire, size, hash)
        cdef TallyName* name
        if cell[0]:
            return &self.names[cell[0] - 1]
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

    def add(self, bytes records not None, uint32_t window, int clients):
        cdef const uint8_t* octets = <const uint8_t*> PyBytes_AS_STRING(records)
        cdef uint64_t left = PyBytes_GET_SIZE(records), counted = 0
        cdef const RecordHead* record
        cdef uint32_t size
        with nogil:
            while left:
                record = <const RecordHead*> octets
                size = record.size if left >= 8 else 0
                if size < 8 or size & 7 or size > left:
                    break
                if record.kind == RECORD_QUERY:
                    if size < RECORD_NAME or record.name_size > size - RECORD_NAME:
                        break
                    counted += self._count(record, octets + RECORD_NAME, window, clients)
                octets += size
                left -= size
        if left:
            raise ValueError("octets that are no record")
        return counted

    cdef int _count(self, const RecordHead* record, const uint8_t* wire, uint32_t window, int clients) except -1 nogil:
        """Count a query unless nobody was served by it: a stranger's, one that comes again by TCP, one that was dropped."""
        cdef TallyName* name
        cdef TallyWindow* w
        cdef uint8_t client[16]
        cdef bint blocked = record.told & TOLD_BLOCKED != 0
        if record.policy_class >= CLASS_WITHHELD or record.qclass != 1 or record.told & TOLD_TRUNCATED \
                or (record.told & TOLD_DROPPED and not blocked) or not is_plain_name(wire, record.name_size):
            return 0
        name = self._place(wire, record.name_size, window)
        w = self._window(name, window)
        if w.asked < <uint32_t> 0xFFFFFFFF:
            w.asked += 1
            w.blocked += blocked
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
        return 1

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
        cdef uint32_t size
        cdef uint16_t slot
        cdef int i, windows
        while left:
            size = data[0] if left >= TALLY_HEAD else 0
            windows = data[2] if left >= TALLY_HEAD else 0
            if windows > TALLY_WINDOWS or TALLY_HEAD + size + windows * sizeof(TallyWindow) > left \
                    or not is_plain_name(data + TALLY_HEAD, size):
                raise ValueError("octets that are no tally")
            name = self._place(data + TALLY_HEAD, size, window)
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
