# core: what a query's way needs of one engine.

cdef struct Forward            # forward.pyx

cdef struct Core:
    const SnapshotView* snapshot
    Cache cache
    Forward* forward
    Limits limits
    Memo memo
    const SuffixView* overlay  # what operators blocked and allowed at once; NULL: nothing
    uint64_t* counters
    uint32_t now               # seconds, monotonic; set once a batch
    void* engine               # the Engine itself, borrowed: for what needs Python
