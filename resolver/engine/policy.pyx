# policy: (class, shape) → cell. Python worked the matrix out once for this generation; here it is only read.

cdef struct SnapshotView:      # one generation as the stages see it; Snapshot owns what it points at
    const IndexView* index
    const Cell* cells          # [class][shape]
    uint32_t class_count
    uint32_t shape_count
    const Profile* profiles
    uint32_t profile_count
    Clients clients
    const SuffixView* routes
    uint64_t number


cdef inline void policy_cell(const SnapshotView* s, Query* q) noexcept nogil:
    """What speaks for the listset of `q`, to its class."""
    if q.listset == 0:
        memset(&q.cell, 0, sizeof(Cell))
        q.cell.rank = RANK_NOBODY
        q.cell.slot = NO_LIST
    else:
        q.cell = s.cells[<size_t> q.policy_class * s.shape_count + index_shape(s.index, q.listset)]
