# Small immutable tables of names: routes, the overlay, special names. The most specific value wins.
#
# Unlike the index a table holds the whole 128-bit hash of each name and lives in this process alone; its key is drawn
# anew for each table.

from libc.stdlib cimport calloc, free

from resolver.engine.index cimport SuffixEntry, SuffixView


cdef inline SuffixEntry* suffix_cell(const SuffixView* view, const Hash* hash) noexcept nogil:
    """The cell of a name, or the empty one where it would stand; at most half of the cells are in use."""
    cdef uint32_t at = <uint32_t>hash.high & view.mask
    while True:
        if view.entries[at].low == hash.low and view.entries[at].high == hash.high:
            return view.entries + at
        if view.entries[at].low == 0 and view.entries[at].high == 0:
            return view.entries + at
        at = (at + 1) & view.mask


cdef uint32_t suffix_lookup(
    const SuffixView* view, const uint8_t* name, const uint8_t* labels, int count
) noexcept nogil:
    """The value of a name: its own, else the nearest parent's for what is below, else 0. Arguments as index_lookup."""
    cdef Sip state
    cdef Hash hash
    cdef SuffixEntry* entry
    cdef uint32_t below = view.root_below
    if count == 0:
        return view.root_self
    sip_start(&state, view.key0, view.key1)
    while count:
        count -= 1
        sip_label(&state, name + labels[count])
        sip_finish(&state, &hash)
        entry = suffix_cell(view, &hash)
        if entry.low == 0 and entry.high == 0:
            break
        if count == 0:
            return entry.self
        below = entry.below
        if not entry.children:
            break
    return below


cdef class SuffixTable:
    """Names with a value for themselves and one for what is below them. See engine.pyi."""

    cdef SuffixView view

    def __cinit__(self):
        self.view.entries = NULL

    def __init__(self, names):
        cdef uint32_t cells = 4
        cdef uint8_t wire[NAME_OCTETS + 1]
        cdef uint8_t labels[MAX_LABELS + 1]
        cdef Sip state
        cdef Hash hash
        cdef SuffixEntry* entry
        cdef int count, label
        if self.view.entries != NULL:
            raise RuntimeError("a SuffixTable is filled once")
        values = {name.lower().removesuffix("."): value for name, value in names.items()}
        wanted = {}  # every name and each of its parents, parents first
        for name in values:
            parts = name.split(".") if name else []
            for label in range(len(parts) + 1):
                wanted.setdefault(".".join(parts[len(parts) - label:]), label)
        while cells < 2 * len(wanted):
            cells *= 2
        self.view.entries = <SuffixEntry*>calloc(cells, sizeof(SuffixEntry))
        if self.view.entries == NULL:
            raise MemoryError
        self.view.mask = cells - 1
        key = os.urandom(16)
        self.view.key0 = load_le64(<const uint8_t*><const char*>key)
        self.view.key1 = load_le64(<const uint8_t*><const char*>key + 8)
        below = {}
        self.view.root_self, self.view.root_below = values.get("", (0, 0))
        for name in sorted(wanted, key=wanted.__getitem__):
            parent = name.partition(".")[2]
            own_self, own_below = values.get(name, (0, 0))
            inherited = below[parent] if name else 0
            below[name] = own_below or inherited
            count = name_to_wire(name, wire, labels)
            if count == 0:
                continue
            sip_start(&state, self.view.key0, self.view.key1)
            entry = NULL
            while count:
                count -= 1
                sip_label(&state, wire + labels[count])
                if entry != NULL:
                    entry.children = 1
                sip_finish(&state, &hash)
                entry = suffix_cell(&self.view, &hash)
            entry.high = hash.high
            entry.low = hash.low
            entry.self = own_self or inherited
            entry.below = below[name]

    def __dealloc__(self):
        free(self.view.entries)

    def find(self, name):
        cdef uint8_t wire[NAME_OCTETS + 1]
        cdef uint8_t labels[MAX_LABELS + 1]
        cdef int count = name_to_wire(name, wire, labels)
        return suffix_lookup(&self.view, wire, labels, count)
