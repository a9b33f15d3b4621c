# Reads a run's blocks: a cursor over sorted keys with their rules, for the merge, explain and diff.
#
# A block's octets come from the Python side already unpacked and verified; still every length in it is checked before
# it is used, as a block may have been written by something else.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from resolver.engine.index cimport MAX_KEY

cdef enum:
    BLOCK_HEADER = 20       # octets: u32 keys, rules, and the lengths of own octets, tags and lines
    SIDE_NOW = 0            # of a delta's rules (their outcome's lowest bit): what is said now
    SIDE_WAS = 1            # and what the run under it says
    SIDE_ALL = 2            # no delta's rules

cdef struct RunRule:
    uint32_t tag            # outcome << 2 | scope
    uint32_t line


cdef inline const uint8_t* read_varint(const uint8_t* at, const uint8_t* end, uint64_t* value) noexcept nogil:
    """The octet after a varint of at most 35 bits; NULL if it is cut off or longer."""
    cdef uint32_t shift = 0
    value[0] = 0
    while at < end and shift < 35:
        value[0] |= <uint64_t>(at[0] & 0x7F) << shift
        at += 1
        if (at - 1)[0] < 0x80:
            return at
        shift += 7
    return NULL


cdef bytes key_to_name(const uint8_t* key, uint32_t length):
    return b".".join(reversed((<const char*>key)[:length].removesuffix(b"\0").split(b"\0"))) if length else b""


cdef class RunReader:
    """A run's keys in order. `load(n)` gives the octets of block n of `blocks`. See engine.pyi."""

    cdef uint8_t key[MAX_KEY + 1]
    cdef uint32_t key_length
    cdef RunRule* found         # the key's rules
    cdef uint32_t found_count
    cdef uint32_t found_room
    cdef object load
    cdef uint32_t blocks
    cdef uint32_t next_block
    cdef bytes octets           # the current block
    cdef uint32_t keys_left
    cdef uint32_t last_line
    cdef const uint8_t* shared
    cdef const uint8_t* own
    cdef const uint8_t* own_octets
    cdef const uint8_t* tags
    cdef const uint8_t* lines
    cdef const uint8_t* end     # of the block

    def __cinit__(self, *_):
        self.found = NULL
        self.keys_left = 0

    def __init__(self, load, uint32_t blocks, uint32_t first=0):
        self.load = load
        self.blocks = blocks
        self.next_block = first

    def __dealloc__(self):
        free(self.found)

    cdef object _fault(self):
        return ValueError(f"block {self.next_block - 1} of a run is damaged")

    cdef int _open_block(self) except -1:
        cdef const uint8_t* at
        cdef uint64_t size, keys, own_octets, tags, lines
        self.octets = self.load(self.next_block)
        self.next_block += 1
        size = len(self.octets)
        at = <const uint8_t*><const char*>self.octets
        if size < BLOCK_HEADER:
            raise self._fault()
        keys = load_le32(at)
        own_octets = load_le32(at + 8)
        tags = load_le32(at + 12)
        lines = load_le32(at + 16)
        if BLOCK_HEADER + 2 * keys + own_octets + tags + lines != size:
            raise self._fault()
        self.keys_left = <uint32_t>keys
        self.shared = at + BLOCK_HEADER
        self.own = self.shared + keys
        self.own_octets = self.own + keys
        self.tags = self.own_octets + own_octets
        self.lines = self.tags + tags
        self.end = self.lines + lines
        self.key_length = 0
        self.last_line = 0
        return 0

    cdef bint advance(self) except -1:
        """Go to the next key; False at the end."""
        while self.keys_left == 0:
            if self.next_block >= self.blocks:
                return False
            self._open_block()
        if not self._take_key():
            raise self._fault()
        return True

    cdef bint _take_key(self) noexcept nogil:
        cdef uint32_t shared = self.shared[0], own = self.own[0]
        cdef uint64_t tag, delta
        cdef RunRule* grown
        if shared > self.key_length or shared + own > MAX_KEY or self.tags - self.own_octets < own:
            return False
        memcpy(self.key + shared, self.own_octets, own)
        self.key_length = shared + own
        if self.key_length and self.key[self.key_length - 1]:
            return False
        self.shared += 1
        self.own += 1
        self.own_octets += own
        self.keys_left -= 1
        self.found_count = 0
        while True:
            self.tags = read_varint(self.tags, self.lines, &tag)
            if self.tags == NULL:
                return False
            self.lines = read_varint(self.lines, self.end, &delta)
            if self.lines == NULL:
                return False
            self.last_line += <uint32_t>((delta >> 1) ^ (0 - (delta & 1)))
            if self.found_count == self.found_room:
                grown = <RunRule*>realloc(self.found, (2 * self.found_room + 8) * sizeof(RunRule))
                if grown == NULL:
                    return False
                self.found = grown
                self.found_room = 2 * self.found_room + 8
            self.found[self.found_count].tag = <uint32_t>((tag >> 3) << 2 | (tag >> 1) & 3)
            self.found[self.found_count].line = self.last_line
            self.found_count += 1
            if not tag & 1:
                return True

    cdef int _copy(self, RunReader other, int side) except -1:
        """Stand where `other` stands. `side`: which half of a delta's rules are taken, or SIDE_ALL as they are."""
        cdef uint32_t i, tag
        cdef RunRule* grown
        memcpy(self.key, other.key, other.key_length)
        self.key_length = other.key_length
        self.found_count = 0
        if self.found_room < other.found_count:
            grown = <RunRule*>realloc(self.found, other.found_room * sizeof(RunRule))
            if grown == NULL:
                raise MemoryError
            self.found = grown
            self.found_room = other.found_room
        for i in range(other.found_count):
            tag = other.found[i].tag
            if side != SIDE_ALL:
                if (tag >> 2 & 1) != <uint32_t>side:
                    continue
                tag = tag >> 3 << 2 | tag & 3
            self.found[self.found_count].tag = tag
            self.found[self.found_count].line = other.found[i].line
            self.found_count += 1
        return 0

    cdef bint _seek(self, bytes key) except -1:
        """Go to the first key that is not before `key`; False if there is none."""
        while self.advance():
            if compare_keys(self.key, self.key_length, <const uint8_t*><const char*>key, <uint32_t>len(key)) >= 0:
                return True
        return False

    cdef tuple _tags(self):
        return tuple([self.found[i].tag for i in range(self.found_count)])

    cdef tuple _item(self):
        return key_to_name(self.key, self.key_length), [
            (self.found[i].tag & 3, self.found[i].tag >> 2, self.found[i].line) for i in range(self.found_count)
        ]

    def find(self, bytes key):
        cdef list found = []
        if self._seek(key) and self.key_length == len(key) and memcmp(self.key, <const char*>key, len(key)) == 0:
            found = self._item()[1]
        return found

    def below(self, bytes key):
        cdef uint32_t length = <uint32_t>len(key)
        cdef bint more = self._seek(key)
        while more:
            if self.key_length < length or memcmp(self.key, <const char*>key, length) != 0:
                return
            yield self._item()
            more = self.advance()

    def __iter__(self):
        return self

    def __next__(self):
        if not self.advance():
            raise StopIteration
        return self._item()


cdef class DeltaReader(RunReader):
    """A run's keys with those of a delta over them: what the delta has of a key is all there is of it. See engine.pyi."""

    cdef RunReader under
    cdef RunReader over
    cdef bint has_under
    cdef bint has_over

    def __init__(self, RunReader under, RunReader over, bytes start=b""):
        self.under = under
        self.over = over
        self.has_under = under.advance()
        self.has_over = over._seek(start) if start else over.advance()

    cdef bint advance(self) except -1:
        cdef int order
        while self.has_under or self.has_over:
            order = 1 if not self.has_under else -1 if not self.has_over else compare_keys(
                self.under.key, self.under.key_length, self.over.key, self.over.key_length
            )
            if order < 0:
                self._copy(self.under, SIDE_ALL)
                self.has_under = self.under.advance()
                return True
            self._copy(self.over, SIDE_NOW)
            self.has_over = self.over.advance()
            if order == 0:
                self.has_under = self.under.advance()
            if self.found_count:
                return True
        return False


cdef class SideReader(RunReader):
    """What one of two deltas of the same run says of the keys of both. See engine.pyi."""

    cdef RunReader own
    cdef RunReader other
    cdef bint has_own
    cdef bint has_other

    def __init__(self, RunReader own, RunReader other):
        self.own = own
        self.other = other
        self.has_own = own.advance()
        self.has_other = other.advance()

    cdef bint advance(self) except -1:
        cdef int order
        while self.has_own or self.has_other:
            order = 1 if not self.has_own else -1 if not self.has_other else compare_keys(
                self.own.key, self.own.key_length, self.other.key, self.other.key_length
            )
            if order <= 0:
                self._copy(self.own, SIDE_NOW)
                self.has_own = self.own.advance()
            else:
                self._copy(self.other, SIDE_WAS)
            if order >= 0:
                self.has_other = self.other.advance()
            if self.found_count:
                return True
        return False


def find_rules(RunReader reader, keys):
    """The rules of each of these keys, which ascend: [[(scope, outcome)]]; reads on from where the cursor is."""
    cdef bint more = reader.advance()
    cdef bytes key
    cdef int order
    cdef list found = [], rules
    for key in keys:
        rules = []
        while more:
            order = compare_keys(
                reader.key, reader.key_length, <const uint8_t*><const char*>key, <uint32_t>len(key)
            )
            if order == 0:
                rules = [(reader.found[i].tag & 3, reader.found[i].tag >> 2) for i in range(reader.found_count)]
            if order >= 0:
                break
            more = reader.advance()
        found.append(rules)
    return found


cdef inline int compare_keys(const uint8_t* a, uint32_t a_length, const uint8_t* b, uint32_t b_length) noexcept nogil:
    cdef int order = memcmp(a, b, a_length if a_length < b_length else b_length)
    return order if order else (a_length > b_length) - (a_length < b_length)


cdef bint same_rules(RunReader a, RunReader b, outcomes) except -1:
    """Do two keys have the same rules, whatever their lines? `outcomes`: a's outcome ids as b's, None: b has it not."""
    cdef uint32_t i
    if a.found_count != b.found_count:
        return False
    if a.found_count == 1:
        return a.found[0].tag & 3 == b.found[0].tag & 3 and outcomes[a.found[0].tag >> 2] == b.found[0].tag >> 2
    return {(a.found[i].tag & 3, outcomes[a.found[i].tag >> 2]) for i in range(a.found_count)} == {
        (b.found[i].tag & 3, b.found[i].tag >> 2) for i in range(b.found_count)
    }


cdef class RunDifference:
    """Everything that differs between two runs of a list, in the order of the keys. See engine.pyi."""

    cdef RunReader old
    cdef RunReader new
    cdef object outcomes
    cdef bint more_old
    cdef bint more_new
    cdef int order             # of the keys under the cursors; below 0: the old run alone has its key

    def __cinit__(self, RunReader old, RunReader new, outcomes):
        self.old = old
        self.new = new
        self.outcomes = outcomes

    cdef bint find_next(self) except -1:
        """Go on to the next key that differs, which is under the cursors then; False after the last."""
        cdef RunReader old = self.old, new = self.new
        while True:
            if self.order <= 0:
                self.more_old = old.advance()
            if self.order >= 0:
                self.more_new = new.advance()
            if not self.more_old and not self.more_new:
                return False
            self.order = 1 if not self.more_old else -1 if not self.more_new else compare_keys(
                old.key, old.key_length, new.key, new.key_length
            )
            if self.order or not same_rules(old, new, self.outcomes):
                return True

    def __iter__(self):
        return self

    def __next__(self):
        if not self.find_next():
            raise StopIteration
        if self.order < 0:
            return (*self.old._item(), [])
        name, rules = self.new._item()
        return name, self.old._item()[1] if self.order == 0 else [], rules


def compare_runs(RunReader old, RunReader new, outcomes, uint64_t limit):
    """Every key that differs between two runs of a list, and how many were added, removed and changed. See engine.pyi."""
    cdef RunDifference found = RunDifference(old, new, outcomes)
    cdef uint64_t added = 0, removed = 0, changed = 0
    cdef RunReader at
    cdef list items = []
    while found.find_next():
        added += found.order > 0
        removed += found.order < 0
        changed += found.order == 0
        if items is not None and added + removed + changed > limit:
            items = None
        if items is not None:
            at = old if found.order < 0 else new
            items.append((
                (<const char*>at.key)[:at.key_length],
                () if found.order > 0 else old._tags(),
                () if found.order < 0 else new._tags(),
                () if found.order < 0 else tuple([new.found[i].line for i in range(new.found_count)]),
            ))
    return items, (added, removed, changed)
