# core: what a query's way needs of one engine.

cdef enum:
    REFRESHES = 500            # answers that are asked for anew in one second, at most
    CLOCK_START = 1 << 30      # what `now` is at the machine's start: so what was kept before it has a time too

cdef struct Forward            # forward.pyx

cdef struct Core:
    const SnapshotView* snapshot
    Cache cache
    Forward* forward
    Limits limits
    const SuffixView* overlay  # what operators blocked and allowed at once; NULL: nothing
    uint64_t* counters
    uint32_t now               # seconds, monotonic; set once a batch
    uint32_t refreshed_at      # the second in which `refreshes` were begun
    uint32_t refreshes
    void* engine               # the Engine itself, borrowed: for what needs Python
