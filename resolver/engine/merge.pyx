# Merges sorted runs into the index's buckets in one pass.
#
# Keys come in order, so a name's parents are a stack: each frame has what is said below that name and the running hash
# of its labels. A frame is written when it is left, because only then is known whether longer names were written below
# it. A name whose listsets are what its parent says of it anyway, and that has nothing written below it, is left out:
# the walk ends at the parent with the same answer. What the rules of a name come to is Python's business (`combine`);
# as names with the same parent's verdict and the same rules come to the same, nearly every call is answered by a small
# table in front of it.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

cdef enum:
    MEMO_CELLS = 16384      # a power of two
    MEMO_RULES = 6          # names with more rules than this are asked of Python each time
    NO_PAIR = 0xFFFFFFFF
    FILL_AHEAD = 16         # entries between a prefetch and its use

cdef struct MergeEntry:
    Hash hash
    uint32_t pair
    uint32_t children

cdef struct MergeFrame:
    Sip state               # the hash of the name's labels, under way
    uint32_t key_end        # octets of the path that are this name's key
    uint32_t below          # listset of what is below the name
    uint32_t pair           # NO_PAIR: no rule speaks of this name
    bint speaks             # the pair differs from what the parent says
    bint children           # something was written below it

cdef struct Combined:
    uint32_t self
    uint32_t below
    uint32_t pair

cdef struct MemoCell:
    uint64_t rules[MEMO_RULES]
    uint32_t count          # rules, plus 1; 0: empty
    uint32_t inherited
    Combined result


class KeyCollision(Exception):
    """Two names have the same hash under this key, as far as the index keeps it: take another key."""


cdef class BucketTable:
    """Collects the index's entries and lays them out in buckets. See engine.pyi and lists/layout.py."""

    cdef Octets entries
    cdef Octets uses            # u64 a pair: how many entries have it
    cdef readonly uint32_t buckets
    cdef readonly uint32_t reach
    cdef readonly bytearray octets
    cdef readonly bytearray side

    def __dealloc__(self):
        free(self.entries.octets)
        free(self.uses.octets)

    @property
    def count(self):
        return self.entries.size // sizeof(MergeEntry)

    cdef bint put(self, const Hash* hash, uint32_t pair, bint children) noexcept nogil:
        """Take an entry; False if there is no memory."""
        cdef MergeEntry* entry
        cdef uint64_t pairs = self.uses.size // sizeof(uint64_t)
        if not stream_room(&self.entries, sizeof(MergeEntry)):
            return False
        if pair >= pairs:
            if not stream_room(&self.uses, (pair + 1 - pairs) * sizeof(uint64_t)):
                return False
            memset(self.uses.octets + self.uses.size, 0, (pair + 1 - pairs) * sizeof(uint64_t))
            self.uses.size = (<uint64_t>pair + 1) * sizeof(uint64_t)
        entry = <MergeEntry*>(self.entries.octets + self.entries.size)
        entry.hash = hash[0]
        entry.pair = pair
        entry.children = children
        self.entries.size += sizeof(MergeEntry)
        (<uint64_t*>self.uses.octets)[pair] += 1
        return True

    def add(self, uint64_t high, uint64_t low, uint32_t pair, bint children):
        cdef Hash hash
        hash.high = high
        hash.low = low
        if not self.put(&hash, pair, children):
            raise MemoryError

    def pair_uses(self):
        return [(<uint64_t*>self.uses.octets)[i] for i in range(self.uses.size // sizeof(uint64_t))]

    def fill(self, pairs):
        cdef uint64_t count = self.entries.size // sizeof(MergeEntry), i, escaped = 0
        cdef uint32_t known = <uint32_t>len(pairs), cells
        cdef uint32_t* ids
        cdef int fault
        cdef uint8_t* octets
        cdef SideCell* side
        if count > <uint64_t>0xFFFFFFFF // 2 or known < self.uses.size // sizeof(uint64_t):
            raise ValueError("more names than an index can hold")
        self.buckets = <uint32_t>(count * 10 // (8 * BUCKET_SLOTS) + 1)  # four fifths full
        ids = <uint32_t*>malloc((known + 1) * sizeof(uint32_t))
        if ids == NULL:
            raise MemoryError
        try:
            for i in range(known):
                ids[i] = pairs[i]
                if ids[i] >= VALUE_PAIR and i < self.uses.size // sizeof(uint64_t):
                    escaped += (<uint64_t*>self.uses.octets)[i]
            cells = <uint32_t>(escaped + escaped // 2 + 1 if escaped else 0)
            self.octets = bytearray(<uint64_t>self.buckets * BUCKET_OCTETS)
            self.side = bytearray(cells * sizeof(SideCell))
            octets = <uint8_t*><char*>self.octets
            side = <SideCell*><char*>self.side
            with nogil:
                fault = self._fill(octets, ids, side, cells, count)
        finally:
            free(ids)
        if fault:
            raise KeyCollision("two names cannot be told apart under this key")

    cdef int _fill(
        self, uint8_t* octets, const uint32_t* ids, SideCell* side, uint32_t cells, uint64_t count
    ) noexcept nogil:
        cdef MergeEntry* entries = <MergeEntry*>self.entries.octets
        cdef uint64_t i, fingerprint
        cdef uint32_t bucket, reach, slot, pair, at
        cdef uint16_t value
        cdef uint8_t* cell
        self.reach = 0
        for i in range(count):
            if i + FILL_AHEAD < count:
                __builtin_prefetch(
                    octets + <uint64_t>index_bucket(&entries[i + FILL_AHEAD].hash, self.buckets) * BUCKET_OCTETS
                )
            fingerprint = index_fingerprint(&entries[i].hash)
            bucket = index_bucket(&entries[i].hash, self.buckets)
            reach = 0
            while True:
                cell = octets + <uint64_t>bucket * BUCKET_OCTETS
                for slot in range(<uint32_t>BUCKET_SLOTS):
                    if load_le64(cell + slot * 7) & FINGERPRINT == fingerprint:
                        return 1
                    if load_le64(cell + slot * 7) & FINGERPRINT == 0:
                        break
                else:
                    cell[BUCKET_FILTER] |= index_filter(&entries[i].hash)
                    reach += 1
                    bucket = bucket + 1 if bucket + 1 < self.buckets else 0
                    if reach > MAX_REACH or reach >= self.buckets:
                        return 1
                    continue
                break
            if reach > self.reach:
                self.reach = reach
            memcpy(cell + slot * 7, &fingerprint, 7)
            pair = ids[entries[i].pair]
            value = <uint16_t>(pair if pair < VALUE_PAIR else VALUE_PAIR)
            if value == VALUE_PAIR:
                at = side_start(bucket * BUCKET_SLOTS + slot, cells)
                while side[at].slot:
                    at = at + 1 if at + 1 < cells else 0
                side[at].slot = bucket * BUCKET_SLOTS + slot + 1
                side[at].pair = pair
            if entries[i].children:
                value |= VALUE_CHILDREN
            memcpy(cell + BUCKET_VALUES + slot * 2, &value, 2)
        return 0


cdef class RunHeap:
    """Sorted runs that are walked together."""

    cdef list readers
    cdef uint32_t* heap         # readers, the smallest key on top; equal keys in the order of the lists
    cdef uint32_t heap_size

    def __cinit__(self, *args):
        self.heap = NULL

    def __dealloc__(self):
        free(self.heap)

    cdef int _start(self, list readers) except -1:
        """Stand at every run's first key."""
        cdef uint32_t i
        self.readers = readers
        free(self.heap)
        self.heap_size = 0
        self.heap = <uint32_t*>malloc((len(readers) + 1) * sizeof(uint32_t))
        if self.heap == NULL:
            raise MemoryError
        for i in range(<uint32_t>len(readers)):
            if (<RunReader>readers[i]).advance():
                self.heap[self.heap_size] = i
                self.heap_size += 1
        for i in range(self.heap_size // 2):
            self._sift(self.heap_size // 2 - 1 - i)
        return 0

    cdef bint _before(self, uint32_t a, uint32_t b):
        cdef RunReader left = <RunReader>self.readers[a], right = <RunReader>self.readers[b]
        cdef int order = compare_keys(left.key, left.key_length, right.key, right.key_length)
        return order < 0 or (order == 0 and a < b)

    cdef int _sift(self, uint32_t at) except -1:
        cdef uint32_t child, moved = self.heap[at]
        while 2 * at + 1 < self.heap_size:
            child = 2 * at + 1
            if child + 1 < self.heap_size and self._before(self.heap[child + 1], self.heap[child]):
                child += 1
            if not self._before(self.heap[child], moved):
                break
            self.heap[at] = self.heap[child]
            at = child
        self.heap[at] = moved
        return 0


cdef class Merger(RunHeap):
    """Walks sorted runs together and puts what they come to into a BucketTable. See engine.pyi."""

    cdef object combine
    cdef BucketTable table
    cdef MemoCell* memo
    cdef MergeFrame frames[MAX_LABELS + 2]
    cdef int depth
    cdef uint8_t path[MAX_KEY + 1]
    cdef uint32_t path_length
    cdef list inputs
    cdef uint64_t* rules        # list << 32 | outcome << 2 | scope
    cdef uint32_t rule_count
    cdef uint32_t rule_room
    cdef readonly uint64_t names
    cdef readonly uint32_t root_self
    cdef readonly uint32_t root_below

    def __cinit__(self, bytes key, list readers, combine, BucketTable table):
        cdef const uint8_t* raw
        if len(key) != 16:
            raise ValueError("the key has 16 octets")
        self.memo = <MemoCell*>calloc(MEMO_CELLS, sizeof(MemoCell))
        if self.memo == NULL:
            raise MemoryError
        self.inputs = readers
        self.combine = combine
        self.table = table
        raw = <const uint8_t*><const char*>key
        sip_start(&self.frames[0].state, load_le64(raw), load_le64(raw + 8))

    def __dealloc__(self):
        free(self.memo)
        free(self.rules)

    def run(self):
        cdef RunReader reader, top
        self._start(self.inputs)
        while self.heap_size:
            top = <RunReader>self.readers[self.heap[0]]
            self._leave(top.key, top.key_length)
            self.rule_count = 0
            while True:
                reader = <RunReader>self.readers[self.heap[0]]
                self._take_rules(reader, self.heap[0])
                if not reader.advance():
                    self.heap_size -= 1
                    self.heap[0] = self.heap[self.heap_size]
                if self.heap_size == 0:
                    break
                self._sift(0)
                reader = <RunReader>self.readers[self.heap[0]]
                if reader.key_length != self.path_length or memcmp(reader.key, self.path, self.path_length) != 0:
                    break
            self._enter()
            self.names += 1
        self._leave(self.path, 0)

    cdef int _take_rules(self, RunReader reader, uint32_t number) except -1:
        cdef uint32_t i
        cdef uint64_t* grown
        if self.rule_room < self.rule_count + reader.found_count:
            self.rule_room = 2 * (self.rule_count + reader.found_count)
            grown = <uint64_t*>realloc(self.rules, self.rule_room * sizeof(uint64_t))
            if grown == NULL:
                raise MemoryError
            self.rules = grown
        for i in range(reader.found_count):
            self.rules[self.rule_count] = <uint64_t>number << 32 | reader.found[i].tag
            self.rule_count += 1
        return 0

    cdef int _combined(self, uint32_t inherited, uint32_t count, Combined* out) except -1:
        """What the first `count` rules come to below a name that says `inherited`."""
        cdef uint64_t mix = inherited
        cdef MemoCell* cell
        cdef uint32_t i
        for i in range(count):
            mix = (mix ^ self.rules[i]) * 0x9E3779B185EBCA87U
            mix ^= mix >> 29
        cell = &self.memo[mix & (MEMO_CELLS - 1)]
        if cell.count == count + 1 and cell.inherited == inherited and (
            memcmp(cell.rules, self.rules, count * sizeof(uint64_t)) == 0
        ):
            out[0] = cell.result
            return 0
        out.self, out.below, out.pair = self.combine(inherited, [self.rules[i] for i in range(count)])
        if count <= MEMO_RULES:
            cell.count = count + 1
            cell.inherited = inherited
            if count:
                memcpy(cell.rules, self.rules, count * sizeof(uint64_t))
            cell.result = out[0]
        return 0

    cdef int _leave(self, const uint8_t* key, uint32_t length) except -1:
        """Leave every name on the path that is not at the start of `key`, and make `key` the path."""
        cdef uint32_t shared = 0
        cdef MergeFrame* frame
        cdef Combined result
        cdef Hash hash
        while shared < length and shared < self.path_length and key[shared] == self.path[shared]:
            shared += 1
        while self.frames[self.depth].key_end > shared:
            frame = &self.frames[self.depth]
            self.depth -= 1
            if frame.speaks or frame.children:
                if frame.pair == NO_PAIR:
                    self._combined(frame.below, 0, &result)
                    frame.pair = result.pair
                sip_finish(&frame.state, &hash)
                if not self.table.put(&hash, frame.pair, frame.children):
                    raise MemoryError
                self.frames[self.depth].children = True
        memcpy(self.path + shared, key + shared, length - shared)
        self.path_length = length
        return 0

    cdef int _enter(self) except -1:
        """Go down the path to its end, and there apply the rules."""
        cdef uint32_t at = self.frames[self.depth].key_end, start, inherited
        cdef uint8_t label[64]
        cdef MergeFrame* frame
        cdef Combined result
        if self.path_length == 0:
            self._combined(0, self.rule_count, &result)
            self.root_self = result.self
            self.root_below = self.frames[0].below = result.below
            return 0
        while at < self.path_length:
            start = at
            while at < self.path_length and self.path[at]:
                at += 1
            if at == start or at - start > 63 or at == self.path_length or self.depth >= MAX_LABELS:
                raise ValueError("a run holds a key that is no name")
            label[0] = <uint8_t>(at - start)
            memcpy(label + 1, self.path + start, at - start)
            at += 1
            frame = &self.frames[self.depth + 1]
            frame.state = self.frames[self.depth].state
            frame.below = self.frames[self.depth].below
            sip_label(&frame.state, label)
            frame.key_end = at
            frame.pair = NO_PAIR
            frame.speaks = False
            frame.children = False
            self.depth += 1
        frame = &self.frames[self.depth]
        inherited = frame.below
        self._combined(inherited, self.rule_count, &result)
        frame.below = result.below
        frame.pair = result.pair
        frame.speaks = result.self != inherited or result.below != inherited
        return 0
