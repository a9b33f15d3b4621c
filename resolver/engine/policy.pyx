# policy: (class, shape) → cell. Python worked the matrix out once for this generation; here it is only read.

cdef struct SnapshotView:      # one generation as the stages see it; Snapshot owns what it points at
    const IndexView* index
    const Cell* cells          # [class][shape]
    const uint16_t* shadows    # [class][shape]: the first of a cell's claims, 0 for none; NULL where no list is a shadow
    const ShadowClaim* shadow_claims  # the first is nobody's
    uint32_t shadow_count
    uint32_t class_count
    uint32_t shape_count
    const Profile* profiles
    uint32_t profile_count
    uint32_t pattern_rank      # the lowest rank at which a pattern speaks; RANK_NOBODY: there is none
    Clients clients
    const SuffixView* routes
    uint64_t number


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
    if overlay != NULL and s.profile_count > PROFILE_OVERLAY:
        q.word = suffix_lookup(overlay, q.name, q.labels, q.labels_count)
    if q.word:
        policy_word(s, q.word, q)
    elif q.listset == 0:
        memset(&q.cell, 0, sizeof(Cell))
        q.cell.rank = RANK_NOBODY
        q.cell.slot = NO_LIST
    else:
        q.cell = s.cells[<size_t> q.policy_class * s.shape_count + index_shape(s.index, q.listset)]
        if q.cell.flags & CELL_SHADOW:
            q.shadow = q.listset


cdef void policy_shadow(const SnapshotView* s, Query* q) noexcept nogil:
    """Notice that shadow lists speak of a name whose cell was decided elsewhere."""
    if q.listset and s.cells[<size_t> q.policy_class * s.shape_count + index_shape(s.index, q.listset)].flags & CELL_SHADOW:
        q.shadow = q.listset


cdef void shadow_count(const SnapshotView* s, const Query* q, uint64_t* counters) noexcept nogil:
    """Count the shadow lists that would have decided `q` had they been live: those that outrank what did."""
    cdef const ShadowClaim* claim
    claim = s.shadow_claims + s.shadows[<size_t> q.policy_class * s.shape_count + index_shape(s.index, q.shadow)]
    while True:
        if claim.rank <= q.cell.rank and claim.slot < NO_LIST:
            counters[COUNT_SHADOW + claim.slot] += 1
        if claim.is_last:
            return
        claim += 1
