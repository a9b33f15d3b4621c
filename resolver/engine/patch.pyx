# Changes a copy of an index's buckets where one list changed, instead of merging all lists again.
#
# What may have changed are the changed names and all names below them ("dirty"); lists/patch.py finds those that matter
# and gives them here in the order of their keys. The walk is the merge's (merge.pyx): a stack of frames, each written
# when it is left. What the other lists say of a name is taken from the entries as they are, so their runs are not read.
#
# Invariants. Before and after a walk each entry has its right pair, its parent has an entry with the children bit, and
# it is a listed name or a parent of one (or of a name that lists/patch.py remembers as left behind): so who visits the
# listed names below a dirty one visits all its entries, and below a dirty name entries and bits become what a merge
# would make of them. Elsewhere nothing is taken away: a parent whose last child went keeps its entry and its bit, which
# costs a probe. Buckets may have holes, as a look-up compares all slots; filter bits are never cleared.
#
# A new name is taken for one that is there already if it has its fingerprint: as likely as in a look-up (layout.py).
# Any other two entries that could be found for each other end the patch with KeyCollision.

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from resolver.engine.index cimport (
    BUCKET_FILTER, BUCKET_OCTETS, BUCKET_SLOTS, BUCKET_VALUES, MAX_KEY, MAX_LABELS, MAX_REACH, VALUE_CHILDREN,
    VALUE_PAIR, Hash, IndexView, Pair, SideCell, Sip,
)

cdef enum:
    NO_SLOT = 0xFFFFFFFF

cdef struct PatchFrame:
    Sip state               # the hash of the name's labels, under way
    Hash hash
    uint32_t key_end        # octets of the path that are this name's key
    uint32_t slot           # bucket * 7 + slot of the name's entry; NO_SLOT: it had none
    uint32_t old_below      # listset of what is below the name, before
    uint32_t below          # and now
    uint32_t pair           # NO_PAIR: nothing to write
    bint deeper             # longer names may have entries
    bint dirty              # the name or a parent of it changed
    bint speaks             # the pair differs from what the parent says
    bint children           # something is written below it
    bint removed            # the list no longer has the name


def keys_below(RunReader reader, bytes key, uint64_t limit):
    """The keys below `key`, itself included; at most `limit` + 1 of them. Reads on from where the cursor is."""
    cdef uint32_t length = <uint32_t>len(key)
    cdef bint more = reader._seek(key)
    cdef list found = []
    while more and reader.key_length >= length and memcmp(reader.key, <const char*>key, length) == 0:
        found.append((<const char*>reader.key)[:reader.key_length])
        if <uint64_t>len(found) > limit:
            break
        more = reader.advance()
    return found


def rules_below(RunReader reader, list keys, uint64_t limit):
    """As keys_below(), of ascending keys none of which is below another, with the rules of each: [(key, (tag, …))]."""
    cdef bytes key
    cdef uint32_t length
    cdef bint more = reader.advance()
    cdef list found = []
    for key in keys:
        length = <uint32_t>len(key)
        while more and order_of(reader, key) < 0:
            more = reader.advance()
        while more and reader.key_length >= length and memcmp(reader.key, <const char*>key, length) == 0:
            found.append(((<const char*>reader.key)[:reader.key_length], reader._tags()))
            if <uint64_t>len(found) > limit:
                return found
            more = reader.advance()
    return found


cdef class IndexPatch:
    """A copy of an index's buckets, side table and pairs that is changed name by name. See engine.pyi."""

    cdef readonly bytearray octets
    cdef readonly uint32_t buckets
    cdef readonly uint32_t reach
    cdef readonly uint64_t entries
    cdef uint8_t* at
    cdef Octets pair_list
    cdef SideCell* cells
    cdef uint32_t cell_count
    cdef uint32_t cells_used
    cdef uint64_t key0
    cdef uint64_t key1
    cdef uint32_t root_below
    cdef PatchFrame frames[MAX_LABELS + 2]
    cdef int depth
    cdef uint8_t path[MAX_KEY + 1]
    cdef uint32_t path_length
    cdef object combine
    cdef list left_behind

    def __cinit__(self, Index index):
        cdef const IndexView* view = &index.view
        cdef uint64_t pairs = <uint64_t>view.pair_count * sizeof(Pair)
        cdef uint32_t i
        self.octets = PyByteArray_FromStringAndSize(
            <const char*>view.buckets, <Py_ssize_t>(<uint64_t>view.bucket_count * BUCKET_OCTETS)
        )
        self.at = <uint8_t*><char*>self.octets
        self.buckets = view.bucket_count
        self.reach = view.reach
        self.entries = index.entries
        self.key0 = view.key0
        self.key1 = view.key1
        self.root_below = view.root_below
        self.cells = <SideCell*>calloc(view.side_count + 1, sizeof(SideCell))
        if self.cells == NULL or not stream_room(&self.pair_list, pairs):
            raise MemoryError
        memcpy(self.cells, view.side, view.side_count * sizeof(SideCell))
        self.cell_count = view.side_count
        for i in range(view.side_count):
            self.cells_used += self.cells[i].slot != 0
        memcpy(self.pair_list.octets, view.pairs, pairs)
        self.pair_list.size = pairs

    def __dealloc__(self):
        free(self.pair_list.octets)
        free(self.cells)

    @property
    def side(self):
        return (<const char*>self.cells)[:self.cell_count * sizeof(SideCell)]

    @property
    def pairs(self):
        return (<const char*>self.pair_list.octets)[:self.pair_list.size]

    def add_pair(self, uint32_t own, uint32_t below):
        cdef uint64_t number = self.pair_list.size // sizeof(Pair)
        cdef Pair* pair
        if number >= NO_PAIR or not stream_room(&self.pair_list, sizeof(Pair)):
            raise MemoryError
        pair = <Pair*>(self.pair_list.octets + self.pair_list.size)
        pair.self = own
        pair.below = below
        self.pair_list.size += sizeof(Pair)
        return number

    def with_children(self, list keys):
        """Those of the keys whose entries say that longer names are listed."""
        return [key for key in keys if self._has_children(key)]

    cdef bint _has_children(self, bytes key) except -1:
        cdef const uint8_t* at = <const uint8_t*><const char*>key
        cdef const uint8_t* end = at + len(key)
        cdef Sip state
        cdef Hash hash
        cdef uint32_t slot
        sip_start(&state, self.key0, self.key1)
        while at < end:
            at = self._take_label(&state, at, end)
            sip_finish(&state, &hash)
            slot = self._find(&hash)
            if slot == NO_SLOT or not self._value(slot) & VALUE_CHILDREN:
                return False
        return True

    def walk(self, list visits, combine):
        """Visit names in the order of their keys. See engine.pyi."""
        cdef bytes key
        cdef const uint8_t* raw
        cdef PatchFrame* root = &self.frames[0]
        self.combine = combine
        self.left_behind = []
        sip_start(&root.state, self.key0, self.key1)
        root.key_end = 0
        root.slot = NO_SLOT
        root.old_below = root.below = self.root_below
        root.deeper = True
        root.dirty = root.speaks = root.children = root.removed = False
        self.depth = 0
        self.path_length = 0
        for key, rules, removed in visits:
            if not 0 < len(key) <= MAX_KEY:
                raise ValueError("a key that is no name below the root")
            raw = <const uint8_t*><const char*>key
            self._leave(raw, <uint32_t>len(key))
            self._enter(rules, removed)
        self._leave(self.path, 0)
        self.combine = None
        return self.left_behind

    cdef const uint8_t* _take_label(self, Sip* state, const uint8_t* at, const uint8_t* end) except NULL:
        """Hash a key's next label; returns what follows its end."""
        cdef const uint8_t* start = at
        cdef uint8_t label[64]
        while at < end and at[0]:
            at += 1
        if at == start or at - start > 63 or at == end:
            raise ValueError("a run holds a key that is no name")
        label[0] = <uint8_t>(at - start)
        memcpy(label + 1, start, at - start)
        sip_label(state, label)
        return at + 1

    # -- the walk -----------------------------------------------------------------------------------------------------
    cdef int _enter(self, rules, bint removed) except -1:
        """Go down the path to its end; dirty frames get their new pairs."""
        cdef PatchFrame* parent
        cdef PatchFrame* frame
        cdef const Pair* pair
        cdef const uint8_t* end = self.path + self.path_length
        cdef uint32_t old_self
        cdef bint is_last
        while self.frames[self.depth].key_end < self.path_length:
            if self.depth >= MAX_LABELS:
                raise ValueError("a run holds a key that is no name")
            parent = &self.frames[self.depth]
            frame = &self.frames[self.depth + 1]
            frame.state = parent.state
            frame.key_end = <uint32_t>(self._take_label(&frame.state, self.path + parent.key_end, end) - self.path)
            sip_finish(&frame.state, &frame.hash)
            is_last = frame.key_end == self.path_length
            frame.slot = self._find(&frame.hash) if parent.deeper else NO_SLOT
            frame.deeper = False
            frame.old_below = old_self = parent.old_below
            if frame.slot != NO_SLOT:
                pair = <const Pair*>self.pair_list.octets + self._pair(frame.slot)
                old_self = pair.self
                frame.old_below = pair.below
                frame.deeper = self._value(frame.slot) & VALUE_CHILDREN != 0
            frame.below = frame.old_below
            frame.pair = NO_PAIR
            frame.dirty = parent.dirty or is_last
            frame.speaks = frame.children = False
            frame.removed = is_last and removed
            if frame.dirty:
                frame.below, frame.pair, frame.speaks = self.combine(
                    old_self, frame.old_below, parent.below, rules if is_last else ()
                )
            self.depth += 1
        return 0

    cdef int _leave(self, const uint8_t* key, uint32_t length) except -1:
        """Leave every name on the path that is not at the start of `key`, and make `key` the path."""
        cdef uint32_t shared = 0
        cdef PatchFrame* frame
        cdef PatchFrame* parent
        cdef bint needed
        while shared < length and shared < self.path_length and key[shared] == self.path[shared]:
            shared += 1
        while self.frames[self.depth].key_end > shared:
            frame = &self.frames[self.depth]
            self.depth -= 1
            parent = &self.frames[self.depth]
            needed = frame.children or (frame.speaks if frame.dirty else frame.slot != NO_SLOT)
            if needed:
                self._write(frame)
                parent.children = True
            elif frame.slot != NO_SLOT:
                self._delete(frame.slot)
            if frame.removed and (needed or parent.key_end):
                self.left_behind.append((<const char*>self.path)[:frame.key_end if needed else parent.key_end])
        memcpy(self.path + shared, key + shared, length - shared)
        self.path_length = length
        return 0

    cdef int _write(self, PatchFrame* frame) except -1:
        if frame.slot == NO_SLOT:
            if frame.pair == NO_PAIR:
                _, frame.pair, _ = self.combine(frame.below, frame.below, frame.below, ())
            self._insert(frame)
            self._set(frame.slot, frame.pair, frame.children)
        elif frame.dirty:
            self._set(frame.slot, frame.pair, frame.children)
        elif frame.children:
            self._store(frame.slot, self._value(frame.slot) | VALUE_CHILDREN)
        return 0

    # -- buckets ------------------------------------------------------------------------------------------------------
    cdef inline uint8_t* _bucket(self, uint64_t bucket) noexcept nogil:
        return self.at + bucket % self.buckets * BUCKET_OCTETS

    cdef inline uint16_t _value(self, uint32_t slot) noexcept nogil:
        return load_le16(self._bucket(slot // BUCKET_SLOTS) + BUCKET_VALUES + slot % BUCKET_SLOTS * 2)

    cdef inline void _store(self, uint32_t slot, uint16_t value) noexcept nogil:
        memcpy(self._bucket(slot // BUCKET_SLOTS) + BUCKET_VALUES + slot % BUCKET_SLOTS * 2, &value, 2)

    cdef uint32_t _find(self, const Hash* hash) noexcept nogil:
        """The slot of a name's entry, found as index_entry() finds it."""
        cdef uint64_t fingerprint = index_fingerprint(hash)
        cdef uint32_t bucket = index_bucket(hash, self.buckets), slot, _
        cdef const uint8_t* at
        for _ in range(self.reach + <uint32_t>1):
            at = self._bucket(bucket)
            for slot in range(<uint32_t>BUCKET_SLOTS):
                if load_le64(at + slot * 7) & FINGERPRINT == fingerprint:
                    return bucket * BUCKET_SLOTS + slot
            if not at[BUCKET_FILTER] & index_filter(hash):
                return NO_SLOT
            bucket = bucket + 1 if bucket + 1 < self.buckets else 0
        return NO_SLOT

    cdef int _insert(self, PatchFrame* frame) except -1:
        """Take the first free slot for a name that has no entry; KeyCollision where there is none in reach, or where
        its fingerprint is in a bucket that a look-up of either could come by."""
        cdef uint64_t fingerprint = index_fingerprint(&frame.hash), near
        cdef uint64_t home = index_bucket(&frame.hash, self.buckets), bucket = home
        cdef uint32_t slot, found = NO_SLOT, reach = 0
        cdef uint8_t* at
        while True:
            at = self._bucket(bucket)
            for slot in range(<uint32_t>BUCKET_SLOTS):
                if load_le64(at + slot * 7) & FINGERPRINT == 0:
                    found = <uint32_t>(bucket % self.buckets) * BUCKET_SLOTS + slot
                    break
            if found != NO_SLOT:
                break
            at[BUCKET_FILTER] |= index_filter(&frame.hash)
            bucket += 1
            reach += 1
            if reach > MAX_REACH or reach >= self.buckets:
                raise KeyCollision("the buckets are too full")
        if reach > self.reach:
            self.reach = reach
        for near in range(home, bucket + self.reach + 1):
            at = self._bucket(near)
            for slot in range(<uint32_t>BUCKET_SLOTS):
                if load_le64(at + slot * 7) & FINGERPRINT == fingerprint:
                    raise KeyCollision("two names cannot be told apart under this key")
        memcpy(self._bucket(bucket) + found % BUCKET_SLOTS * 7, &fingerprint, 7)
        self._store(found, 0)
        self.entries += 1
        frame.slot = found
        return 0

    cdef void _delete(self, uint32_t slot) noexcept nogil:
        if self._value(slot) & VALUE_PAIR == VALUE_PAIR:
            self._side_drop(slot)
        memset(self._bucket(slot // BUCKET_SLOTS) + slot % BUCKET_SLOTS * 7, 0, 7)
        self._store(slot, 0)
        self.entries -= 1

    cdef uint32_t _pair(self, uint32_t slot) noexcept nogil:
        cdef uint32_t pair = self._value(slot) & VALUE_PAIR
        return pair if pair != VALUE_PAIR else self.cells[self._side_find(slot)].pair

    cdef int _set(self, uint32_t slot, uint32_t pair, bint children) except -1:
        cdef bint was_long = self._value(slot) & VALUE_PAIR == VALUE_PAIR, is_long = pair >= VALUE_PAIR
        if was_long and not is_long:
            self._side_drop(slot)
        if is_long:
            self._side_put(slot, pair)
        self._store(slot, <uint16_t>(VALUE_PAIR if is_long else pair) | (VALUE_CHILDREN if children else 0))
        return 0

    # -- the side table -----------------------------------------------------------------------------------------------
    cdef uint32_t _side_find(self, uint32_t slot) noexcept nogil:
        """The cell of a slot, or the free one where it would go; there is one, as the table is never full."""
        cdef uint32_t at = side_start(slot, self.cell_count)
        while self.cells[at].slot and self.cells[at].slot != slot + 1:
            at = at + 1 if at + 1 < self.cell_count else 0
        return at

    cdef int _side_put(self, uint32_t slot, uint32_t pair) except -1:
        cdef SideCell* old = self.cells
        cdef uint32_t old_count = self.cell_count, i, at
        if (<uint64_t>self.cells_used + 1) * 5 > <uint64_t>self.cell_count * 4:
            self.cell_count = self.cells_used + self.cells_used // 2 + 64
            self.cells = <SideCell*>calloc(self.cell_count, sizeof(SideCell))
            if self.cells == NULL:
                self.cells = old
                self.cell_count = old_count
                raise MemoryError
            for i in range(old_count):
                if old[i].slot:
                    self.cells[self._side_find(old[i].slot - 1)] = old[i]
            free(old)
        at = self._side_find(slot)
        self.cells_used += self.cells[at].slot == 0
        self.cells[at].slot = slot + 1
        self.cells[at].pair = pair
        return 0

    cdef void _side_drop(self, uint32_t slot) noexcept nogil:
        """Free a cell, and move up those behind it that would not be found across the hole."""
        cdef uint32_t hole = self._side_find(slot), at = hole, home
        while True:
            at = at + 1 if at + 1 < self.cell_count else 0
            if self.cells[at].slot == 0:
                break
            home = side_start(self.cells[at].slot - 1, self.cell_count)
            if (hole < home <= at) if hole < at else (home > hole or home <= at):
                continue
            self.cells[hole] = self.cells[at]
            hole = at
        self.cells[hole].slot = 0
        self.cells[hole].pair = 0
        self.cells_used -= 1
