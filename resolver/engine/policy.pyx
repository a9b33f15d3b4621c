# policy: (class, shape) → cell. Python worked the matrix out once for this generation; here it is only read.

cdef struct Dns64:             # how AAAA is made from A (dns64.pyx)
    bint on
    uint32_t octets            # of the prefix: 4 to 8, or 12
    uint8_t prefix[16]
    Clients clients            # class 0: they are served; count4 0: all are
    Clients excluded           # class 0: such addresses are as good as none; count4 0: there are none

cdef struct SnapshotView:      # one generation as the stages see it; Snapshot owns what it points at
    const IndexView* index
    const Cell* cells          # [class][shape]
    const uint16_t* shadows    # [class][shape]: the first of a cell's claims, 0 for none; NULL where no list is a shadow
    const ShadowClaim* shadow_claims  # the first is nobody's
    uint32_t shadow_count
    uint32_t class_count       # rows, variants included
    const uint16_t* variants   # [class][VARIANT_…]: the row that sees fewer lists; NULL: there is none
    uint32_t variant_classes   # how many classes have them: those that clients have
    const uint16_t* order      # by slot: a list's place in the config
    uint32_t shape_count
    const Profile* profiles
    uint32_t profile_count
    const ZoneSoa* zones
    uint32_t zone_count
    uint32_t pattern_rank      # the lowest rank at which a pattern speaks; RANK_NOBODY: there is none
    Clients clients
    Clients guard              # class 0: an address that no name outside should have; count4 0: no guard
    const SuffixView* unguarded    # names that may have such addresses
    const SuffixView* routes
    Dns64 dns64
    const uint8_t* seeks       # by row: whether names' servers are looked up for its lists; NULL: for none
    uint32_t zone_routes       # the highest route of a zone; those above it are groups' own
    const uint16_t* class_routes   # by class: the route of what is in no routed zone; NULL: the default one for all
    uint64_t number


cdef inline const Cell* policy_of(const SnapshotView* s, const Query* q, uint32_t listset) noexcept nogil:
    # What a listset means to the query's class.
    return &s.cells[<size_t> q.row * s.shape_count + index_shape(s.index, listset)]


cdef void policy_row(const SnapshotView* s, Query* q, bint is_signed) noexcept nogil:
    """The row of the matrix for the query: lists may leave alone who wants no recursion (rpz.md, 17), or signed answers
    for who wants to verify them (18)."""
    cdef uint32_t variant = 0
    q.row = q.policy_class
    if s.variants != NULL:
        if not q.flags & FLAG_RD:
            variant |= VARIANT_NOT_RECURSIVE
        if is_signed and q.dnssec_ok:
            variant |= VARIANT_SIGNED
        q.row = s.variants[q.policy_class * VARIANTS + variant]


cdef uint64_t policy_key(const SnapshotView* s, const Cell* cell, uint32_t kind, uint32_t position,
                         uint32_t length) noexcept nogil:
    """Where a cell stands in the one total order; the lowest wins.

    By rank, then the config's order of lists. RPZ zones are held against one name of a chain after the other, so there the
    place in the chain comes first, then the zones' order, then what the trigger is about, then the longest prefix (rpz.md,
    11, 12, 14, 15).
    """
    cdef uint64_t order = s.order[cell.slot] if cell.slot < LIST_SLOTS else 0xFFFF
    if cell.rank == RANK_RPZ:
        return <uint64_t> cell.rank << 56 | <uint64_t> position << 48 | order << 16 | kind << 8 | (255 - length)
    return <uint64_t> cell.rank << 56 | order << 16 | position << 8 | kind


cdef uint64_t policy_key_now(const SnapshotView* s, const Query* q) noexcept nogil:
    """Where the query's own cell stands: of one rank before all that is found later, as it does where nothing is looked for
    any more because it settles the question. Only RPZ zones have their places still (rpz.md, 11, 12)."""
    if q.cell.rank == RANK_RPZ:
        return policy_key(s, &q.cell, q.finding, q.position, 0)
    return <uint64_t> q.cell.rank << 56


cdef void policy_word(const SnapshotView* s, uint32_t word, Query* q) noexcept nogil:
    # An operator's word decides: rank 0.
    memset(&q.cell, 0, sizeof(Cell))
    q.cell.rank = RANK_OVERLAY
    q.cell.slot = OVERLAY_SLOT
    q.cell.action = ACTION_ALLOW
    if word & OVERLAY_WORD == OVERLAY_BLOCK:
        q.cell.action = s.profiles[PROFILE_OVERLAY].action
        q.cell.profile = PROFILE_OVERLAY


cdef void policy_cell(const SnapshotView* s, const SuffixView* overlay, Query* q) noexcept nogil:
    """What speaks for the name of `q` to its class: an operator's word (rank 0), else the matrix for its listset."""
    q.finding = FOUND_NAME
    q.position = 0
    if overlay != NULL and s.profile_count > PROFILE_OVERLAY:
        q.word = suffix_lookup(overlay, q.name, q.labels, q.labels_count)
    if q.word:
        policy_word(s, q.word, q)
        if q.cell.action == ACTION_ALLOW and q.listset and policy_of(s, q, q.listset).rank == RANK_OVERLAY:
            q.cell = policy_of(s, q, q.listset)[0]  # an allow of what is answered here does not send it elsewhere
    elif q.listset == 0:
        memset(&q.cell, 0, sizeof(Cell))
        q.cell.rank = RANK_NOBODY
        q.cell.slot = NO_LIST
    else:
        q.cell = policy_of(s, q, q.listset)[0]
        if q.cell.flags & CELL_SHADOW:
            q.shadow = q.listset


cdef void policy_client(const SnapshotView* s, Query* q) noexcept nogil:
    """Let rules about the client's address speak too (rpz.md, 12)."""
    cdef uint32_t found = ranges_find(&s.index.ranges[RANGES_CLIENT], q.client)
    cdef uint32_t listset = s.index.sets[found].listset
    cdef const Cell* cell
    if listset == 0:
        return
    cell = policy_of(s, q, listset)
    if cell.flags & CELL_SHADOW and not q.shadow:
        q.shadow = listset
    if not cell.flags & CELL_CONDITIONAL and (
        policy_key(s, cell, FOUND_CLIENT, 0, 0) < policy_key(s, &q.cell, q.finding, q.position, 0)
    ):
        q.cell = cell[0]
        q.listset = listset
        q.finding = FOUND_CLIENT


cdef void policy_shadow(const SnapshotView* s, Query* q) noexcept nogil:
    """Notice that shadow lists speak of a name whose cell was decided elsewhere."""
    if q.listset and policy_of(s, q, q.listset).flags & CELL_SHADOW:
        q.shadow = q.listset


cdef void shadow_count(const SnapshotView* s, const Query* q, uint64_t* counters) noexcept nogil:
    """Count the shadow lists that would have decided `q` had they been live: those that outrank what did."""
    cdef const ShadowClaim* claim
    claim = s.shadow_claims + s.shadows[<size_t> q.row * s.shape_count + index_shape(s.index, q.shadow)]
    while True:
        if claim.rank <= q.cell.rank and claim.slot < NO_LIST:
            counters[COUNT_SHADOW + claim.slot] += 1
        if claim.is_last:
            return
        claim += 1
