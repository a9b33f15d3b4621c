# core: what a query's way needs of one engine.

cdef enum:
    REFRESHES = 500            # answers that are asked for anew in one second, at most
    CLOCK_START = 1 << 30      # what `now` is at the machine's start: so what was kept before it has a time too

cdef struct Forward            # forward.pyx

cdef struct Records:           # the producer's end of the ring of query records (ring.pyx)
    uint8_t* memory            # NULL: there is no ring
    uint8_t* data
    uint64_t size              # of data, a power of two
    uint64_t head              # octets ever written
    uint64_t tail              # octets read, when last looked at
    uint32_t what              # RECORDS_…; RECORDS_NONE where there is no ring

cdef struct Core:
    const SnapshotView* snapshot
    Cache cache
    Forward* forward
    Limits limits
    Proxies proxies
    Edns edns
    Memo memo
    Memo servers               # what the lists say of names' servers, where these are looked up
    const SuffixView* overlay  # what operators blocked and allowed at once; NULL: nothing
    uint32_t overlay_number    # counts its changes
    Records records
    uint64_t* counters
    uint32_t now               # seconds, monotonic; set once a batch
    uint32_t refreshed_at      # the second in which `refreshes` were begun
    uint32_t refreshes
    uint64_t wall              # nanoseconds since the epoch; set once a batch
    int64_t wall_ahead         # of the monotonic clock, nanoseconds
    uint64_t wall_at           # microsecond of the monotonic clock in which that was found
    uint32_t at_once           # queries answered without waiting since their durations were last counted
    void* engine               # the Engine itself, borrowed: for what needs Python


cdef void core_clock(Core* core) noexcept nogil:
    # Read the clock: once a batch, not once a query.
    cdef timespec now
    cdef uint64_t nanoseconds
    clock_gettime(CLOCK_MONOTONIC, &now)
    nanoseconds = <uint64_t> now.tv_sec * 1000000000 + now.tv_nsec
    core.now = <uint32_t> now.tv_sec + CLOCK_START
    core.forward.now = nanoseconds // 1000
    if core.forward.now - core.wall_at >= 1000000 or core.wall_at == 0:  # a step of the other clock is seen within a second
        core.wall_at = core.forward.now
        clock_gettime(CLOCK_REALTIME, &now)
        core.wall_ahead = now.tv_sec * 1000000000 + now.tv_nsec - <int64_t> nanoseconds
    core.wall = nanoseconds + core.wall_ahead
