# memo: which patterns a name fits, as Python found it.
#
# The patterns of a generation are one RE2 set in Python. A name that nothing of higher rank has decided is looked up here;
# where it is not known the query is handed up (REASON_PATTERN), Python runs the set once, remembers what came of it, and the
# query is answered again. Sets of eight entries under a keyed hash, the one not asked for longest goes. A query asks for
# fewer names than a set has room for, so what was just remembered for it is there when it comes again.
#
# Another memo, of the same kind, has what the lists say of a name's servers, where these are looked up (REASON_SERVERS).

cdef enum:
    MEMO_SETS = 2048
    MEMO_WAYS = 8

cdef struct MemoEntry:
    uint64_t hash              # of the name
    uint64_t used              # the memo's clock when it was asked for last; 0: empty
    uint32_t until             # second in which it ends
    Inspection found           # listsets of the patterns that it fits, and the generation

cdef struct Memo:
    MemoEntry* entries         # NULL as long as no generation had patterns
    uint64_t key0
    uint64_t key1
    uint64_t clock


cdef inline uint64_t memo_hash(const Memo* memo, const uint8_t* name, const uint8_t* labels, int count) noexcept nogil:
    cdef Sip state
    sip_start(&state, memo.key0, memo.key1)
    while count:
        count -= 1
        sip_label(&state, name + labels[count])
    return sip_finish64(&state)


cdef const Inspection* memo_find(Memo* memo, uint64_t generation, uint32_t now, const uint8_t* name,
                                 const uint8_t* labels, int count) noexcept nogil:
    """What is known of a name by this generation; NULL if nothing is. Name, labels and count as for index_lookup."""
    cdef uint64_t hash
    cdef MemoEntry* entry
    cdef int _i
    if memo.entries == NULL:
        return NULL
    hash = memo_hash(memo, name, labels, count)
    entry = memo.entries + (hash & (MEMO_SETS - 1)) * MEMO_WAYS
    for _i in range(MEMO_WAYS):
        if entry.hash == hash and entry.used and entry.found.generation == generation and entry.until > now:
            memo.clock += 1
            entry.used = memo.clock
            return &entry.found
        entry += 1
    return NULL


cdef Inspection* memo_room(Memo* memo, uint32_t until, const uint8_t* name, const uint8_t* labels,
                           int count) noexcept nogil:
    """A place for what is found of a name: its own, else that of the entry not asked for longest."""
    cdef uint64_t hash = memo_hash(memo, name, labels, count)
    cdef MemoEntry* entry = memo.entries + (hash & (MEMO_SETS - 1)) * MEMO_WAYS
    cdef MemoEntry* oldest = entry
    cdef int _i
    for _i in range(MEMO_WAYS):
        if entry.hash == hash and entry.used:
            oldest = entry
            break
        if entry.used < oldest.used:
            oldest = entry
        entry += 1
    memo.clock += 1
    oldest.hash = hash
    oldest.used = memo.clock
    oldest.until = until
    return &oldest.found


cdef inline void inspect_keep(Inspection* found, uint32_t listset) noexcept nogil:
    # Note a listset of the name itself, once.
    cdef uint32_t i
    if listset == 0:
        return
    for i in range(found.count):
        if found.ids[i] == listset:
            return
    if found.count < TARGETS:
        found.ids[found.count] = listset
        found.kinds[found.count] = FOUND_NAME
        found.positions[found.count] = 0
        found.count += 1


cdef inline uint32_t finding_listset(const SnapshotView* s, uint32_t kind, uint32_t id) noexcept nogil:
    # What lists say of what was found: addresses have sets, names listsets.
    return s.index.sets[id].listset if kind == FOUND_ADDRESS or kind == FOUND_NSIP else id


cdef uint64_t finding_key(const SnapshotView* s, const Cell* cell, uint32_t kind, uint32_t id,
                          uint32_t position) noexcept nogil:
    # Where a finding with this cell stands in the total order.
    cdef uint32_t length = 0
    if kind == FOUND_ADDRESS or kind == FOUND_NSIP:
        length = index_length(s.index, id, cell.member)
    return policy_key(s, cell, kind, position, length)


cdef void finding_take(const SnapshotView* s, Query* q, const Cell* cell, uint32_t kind, uint32_t id,
                       uint32_t position) noexcept nogil:
    q.cell = cell[0]
    q.listset = finding_listset(s, kind, id)
    q.finding = kind
    q.position = position


cdef bint policy_compete(const SnapshotView* s, const Inspection* found, Query* q, uint32_t stage) noexcept nogil:
    """Let speak what was found beside the name's own listset: the strongest cell becomes the query's.

    False: a conditional cell is among those that may win, so Python has to decide between all of them (a PUNT).
    """
    cdef const Cell* cell
    cdef uint64_t key, strongest
    cdef uint32_t i, listset = q.listset
    if found.count == 0:
        return True
    strongest = policy_key_now(s, q)
    for i in range(found.count):
        cell = policy_of(s, q, finding_listset(s, found.kinds[i], found.ids[i]))
        if cell.flags & CELL_QUESTION_ONLY:
            continue
        if cell.flags & CELL_SHADOW and not q.shadow:
            q.shadow = finding_listset(s, found.kinds[i], found.ids[i])
        key = finding_key(s, cell, found.kinds[i], found.ids[i], found.positions[i])
        if key >= strongest and not (q.cell.flags & CELL_CONDITIONAL and cell.rank != RANK_NOBODY):
            continue
        if (cell.flags | q.cell.flags) & CELL_CONDITIONAL:
            q.listset = listset
            q.undecided = found
            q.stage = stage
            q.reason = REASON_CONDITIONAL
            return False
        strongest = key
        finding_take(s, q, cell, found.kinds[i], found.ids[i], found.positions[i])
    return True


cdef bint policy_patterns(const SnapshotView* s, Memo* memo, Query* q) noexcept nogil:
    """Let the patterns speak that the name fits; False: Python has to take the query (a PUNT)."""
    cdef const Inspection* found = memo_find(memo, s.number, 0, q.name, q.labels, q.labels_count)
    if found == NULL:
        q.reason = REASON_PATTERN
        return False
    return policy_compete(s, found, q, DECIDED_NAME)
