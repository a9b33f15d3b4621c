# forward: the first try of a question upstream, by plain UDP; whatever is not a good answer in time goes to Python.
#
# An upstream is a set of connected sockets on random ports, made and renewed by Python (upstream/native.py). A batch of
# queries leaves by one socket, picked at random, in one sendmmsg. Against spoofed answers stand: connect (the kernel checks
# the source), a random id, random case in the qname (0x20), all from SipHash in counter mode under a key nobody knows, and
# the question compared octet for octet.
#
# A pending question is one entry however many clients wait for it. Its waiters keep their packet, not a decision: when the
# answer comes, each goes through answer_query again, under the generation in force by then. Every table is bounded; a
# question that finds no room is refused (SERVFAIL, Network Error) rather than queued. Room is shared fairly: a client may
# have SHARE times as many questions waiting as there are places left, so those that have most are refused first, one that
# has none never, and a single client can have nearly all (Choudhury and Hahne's dynamic threshold; nobody is counted or
# evicted one by one). Clients are counted in two rows of a sketch under the table's key: who is in doubt counts as the
# smaller.
#
# Handed over to Python with all waiters: no answer within the upstream's time-out, TC, an rcode that another server may
# better, an answer that is not sound, a port that is closed. What was handed over for its time-out stays under way for LATE
# as nobody's: an answer that comes then is kept, and Python is told, so that a slow server need not be asked twice to be
# heard once.

cdef enum:
    UPSTREAMS = 64
    UPSTREAM_SOCKETS = 64
    PENDING = 16384
    WAITERS = 32768
    WAITERS_EACH = 1024        # that may wait for one question
    HEADS = 16384              # of each hash chain, a power of two
    ROUTES = 256
    WAITER_PACKET = 320        # a longer query goes to Python at once
    QUERY_ROOM = 312           # header, question, OPT with the client's network
    ANSWER_IN = 4096
    SOCKET_USES = 4096         # queries after which a socket rests and is renewed
    NONE = 0xFFFFFFFFu         # no entry
    LATE = 3000000             # microseconds from its sending in which a late answer is taken
    SHARES = 4096              # of a row of the sketch, a power of two
    SHARE = 4                  # see above
    OUTBOX = 64

cdef enum HandedWhy:           # Punt.after: AFTER_… of engine.pyi
    WHY_NOTHING = 0
    WHY_TIMEOUT = 1
    WHY_TRUNCATED = 2
    WHY_RCODE = 3
    WHY_BAD = 4
    WHY_CLOSED = 5
    WHY_SLOW = 6               # it takes longer than most, and another server may be asked beside

cdef struct Upstream:
    bint used
    uint32_t socket_count
    int fds[UPSTREAM_SOCKETS]
    uint32_t uses[UPSTREAM_SOCKETS]
    uint32_t in_flight[UPSTREAM_SOCKETS]
    uint32_t counters          # index of its section in the counters
    uint64_t timeout           # microseconds
    uint32_t why               # WHY_TIMEOUT, or WHY_SLOW where the time-out says only that
    uint32_t oldest[2]         # [late]: what is under way, by age
    uint32_t newest[2]

cdef struct Waiter:            # a client of a pending question
    uint32_t next
    int fd                     # the socket to answer by; -1: a stream
    uint32_t token             # a stream's: key in Engine.tokens
    uint32_t transport
    uint32_t size              # of packet
    uint32_t why               # HandedWhy, once it is handed over
    uint32_t upstream
    uint64_t since             # Query.since
    uint16_t share[2]          # its client's places in the sketch
    size_t control_size
    uint8_t client[16]
    sockaddr_in6 peer
    uint8_t control[CONTROL_ROOM]
    uint8_t packet[WAITER_PACKET]

cdef struct Pending:           # a question under way
    uint64_t hash              # of its key
    uint64_t sent              # microseconds, monotonic
    uint32_t next_question     # chain by hash, or of free entries
    uint32_t next_id           # chain by socket and id
    uint32_t older, newer      # of the same upstream, by age
    uint32_t late              # 1: nobody waits here any more, and it is in no chain of questions
    uint32_t waiters, last_waiter
    uint32_t waiter_count
    uint16_t upstream
    uint16_t socket
    uint16_t id
    uint16_t key_size
    uint16_t query_size
    uint16_t question_end      # offset behind the question in query
    uint8_t key[KEY_ROOM]
    uint8_t query[QUERY_ROOM]  # as it was sent, in its random case

cdef struct Forward:
    Upstream upstreams[UPSTREAMS]
    uint32_t route_upstream[ROUTES]  # NONE: Python asks
    uint32_t by_question[HEADS]
    uint32_t by_id[HEADS]
    uint32_t free_pending      # chain of entries given back; NONE: take a fresh one
    uint32_t fresh_pending     # entries from here on were never used, so their memory is not touched
    uint32_t free_waiter
    uint32_t fresh_waiter
    uint32_t pending_count     # late ones included
    uint32_t late_count
    uint32_t waiter_count
    uint32_t handed            # waiters for Python, chained
    uint16_t shares[2][SHARES]  # waiters of each client
    uint64_t now               # microseconds, monotonic; set once a batch
    uint64_t key0, key1        # of the random numbers
    uint64_t drawn
    uint32_t out_upstream      # where the outbox goes
    uint32_t out_socket
    uint32_t out_count
    uint32_t outbox[OUTBOX]    # pending entries to send
    mmsghdr sending[OUTBOX]
    iovec parts[OUTBOX]
    mmsghdr received[BATCH]
    iovec in_parts[BATCH]
    uint8_t answers[BATCH][ANSWER_IN]
    mmsghdr replying[BATCH]    # to the clients
    iovec reply_parts[BATCH]
    uint8_t replies[BATCH][OUT_ROOM]
    uint32_t reply_count
    int reply_fd
    uint32_t reply_waiters[BATCH]
    Pending pending[PENDING]
    Waiter waiters[WAITERS]


cdef uint64_t forward_random(Forward* f) noexcept nogil:
    # 64 bits that cannot be told from chance without the key.
    cdef Sip state
    f.drawn += 1
    sip_start(&state, f.key0, f.key1)
    sip_word(&state, f.drawn)
    return sip_finish64(&state)


cdef Forward* forward_make() noexcept nogil:
    """An empty table with no upstream, zeroed; NULL without memory. Its keys are the caller's to set."""
    cdef uint32_t i
    cdef Forward* f = <Forward*> calloc(1, sizeof(Forward))
    if f == NULL:
        return NULL
    f.free_pending = f.free_waiter = NONE
    for i in range(HEADS):
        f.by_question[i] = f.by_id[i] = NONE
    for i in range(ROUTES):
        f.route_upstream[i] = NONE
    for i in range(BATCH):
        f.in_parts[i].iov_base = f.answers[i]
        f.in_parts[i].iov_len = ANSWER_IN
        f.received[i].msg_hdr.msg_iov = &f.in_parts[i]
        f.received[i].msg_hdr.msg_iovlen = 1
    f.handed = NONE
    return f


cdef inline uint32_t id_head(uint32_t upstream, uint32_t socket, uint32_t id) noexcept nogil:
    return (id ^ socket << 7 ^ upstream << 3) & (HEADS - 1)


cdef Pending* forward_by_id(Forward* f, uint32_t upstream, uint32_t socket, uint32_t id) noexcept nogil:
    cdef uint32_t at = f.by_id[id_head(upstream, socket, id)]
    while at != NONE:
        if f.pending[at].id == id and f.pending[at].socket == socket and f.pending[at].upstream == upstream:
            return &f.pending[at]
        at = f.pending[at].next_id
    return NULL


cdef Pending* forward_by_question(Forward* f, const uint8_t* key, uint32_t size, uint64_t hash) noexcept nogil:
    cdef uint32_t at = f.by_question[hash & (HEADS - 1)]
    cdef Pending* p
    while at != NONE:
        p = &f.pending[at]
        if p.hash == hash and p.key_size == size and memcmp(p.key, key, size) == 0:
            return p
        at = p.next_question
    return NULL


cdef bint forward_share(Forward* f, const Query* q, uint16_t* share) noexcept nogil:
    # Where the query's client is counted, in `share`; whether it may have one more waiting. A client is an IPv4 address or
    # the first 56 bits of an IPv6 one.
    cdef Sip state
    cdef uint64_t low = load_le64(q.client), high = load_le64(q.client + 8), hash
    cdef uint32_t room = min(WAITERS - f.waiter_count, PENDING - (f.pending_count - f.late_count))
    if low or (high & 0xFFFFFFFFu) != 0xFFFF0000u:
        low &= 0x00FFFFFFFFFFFFFFu
        high = 0
    sip_start(&state, f.key1, f.key0)
    sip_word(&state, low)
    sip_word(&state, high)
    hash = sip_finish64(&state)
    share[0] = <uint16_t> (hash & (SHARES - 1))
    share[1] = <uint16_t> (hash >> 32 & (SHARES - 1))
    return min(f.shares[0][share[0]], f.shares[1][share[1]]) < SHARE * room


cdef bint forward_wait(Forward* f, Pending* p, const Query* q, const uint16_t* share) noexcept nogil:
    # The client of `q` waits for `p`; False without room.
    cdef uint32_t at = f.free_waiter
    cdef Waiter* w
    if p.waiter_count >= WAITERS_EACH or (at == NONE and f.fresh_waiter == WAITERS):
        return False
    f.waiter_count += 1
    if at == NONE:
        at = f.fresh_waiter
        f.fresh_waiter += 1
    else:
        f.free_waiter = f.waiters[at].next
    w = &f.waiters[at]
    w.next = NONE
    w.fd = q.fd
    w.token = q.token
    w.transport = q.transport
    w.size = q.size
    w.why = WHY_NOTHING
    w.upstream = NONE
    w.since = q.since
    w.share[0] = share[0]
    w.share[1] = share[1]
    f.shares[0][share[0]] += 1
    f.shares[1][share[1]] += 1
    memcpy(w.client, q.client, 16)
    memcpy(w.packet, q.packet, q.size)
    if q.fd >= 0:
        memcpy(&w.peer, q.peer, sizeof(sockaddr_in6))
        w.control_size = q.control_size
        if q.control_size:
            memcpy(w.control, q.control, q.control_size)
    if p.waiters == NONE:
        p.waiters = at
    else:
        f.waiters[p.last_waiter].next = at
    p.last_waiter = at
    p.waiter_count += 1
    return True


cdef inline void forward_release(Forward* f, uint32_t waiter) noexcept nogil:
    f.waiter_count -= 1
    f.shares[0][f.waiters[waiter].share[0]] -= 1
    f.shares[1][f.waiters[waiter].share[1]] -= 1
    f.waiters[waiter].next = f.free_waiter
    f.free_waiter = waiter


cdef void forward_write(Forward* f, Pending* p, const Query* q) noexcept nogil:
    # The query to send: our id, RD, the client's CD and DO, its question in random case, our OPT and none of its options but
    # its network, by policy. AD always: whether an answer was validated is kept with it and shown to who asks (RFC 6840
    # section 5.7).
    cdef uint8_t* at = p.query
    cdef uint32_t i, size = q.name_size
    cdef uint64_t bits = 0
    put_u16(at, p.id)
    put_u16(at + 2, FLAG_RD | FLAG_AD | (q.flags & FLAG_CD))
    put_u16(at + 4, 1)
    put_u32(at + 6, 0)
    put_u16(at + 10, 1)
    at += HEADER
    for i in range(size):
        if i % 64 == 0:
            bits = forward_random(f)
        at[i] = q.name[i]
        if 97 <= at[i] <= 122 and bits & 1:  # a length octet is below 64
            at[i] -= 32
        bits >>= 1
    at += size
    put_u16(at, q.qtype)
    put_u16(at + 2, q.qclass)
    at[4] = 0
    put_u16(at + 5, TYPE_OPT)
    put_u16(at + 7, UDP_EDNS)
    put_u32(at + 9, 0x8000 if q.dnssec_ok else 0)
    put_u16(at + 13, ecs_option_size(q))
    if q.ecs_size:
        ecs_option(q, at + 15)
    p.question_end = <uint16_t> (HEADER + size + 4)
    p.query_size = <uint16_t> (p.question_end + 11 + ecs_option_size(q))


cdef void age_append(Forward* f, Pending* p) noexcept nogil:
    # As the newest of its upstream.
    cdef uint32_t me = <uint32_t> (p - f.pending)
    cdef Upstream* u = &f.upstreams[p.upstream]
    p.older = u.newest[p.late]
    p.newer = NONE
    if p.older == NONE:
        u.oldest[p.late] = me
    else:
        f.pending[p.older].newer = me
    u.newest[p.late] = me


cdef void age_unlink(Forward* f, Pending* p) noexcept nogil:
    cdef Upstream* u = &f.upstreams[p.upstream]
    if p.older == NONE:
        u.oldest[p.late] = p.newer
    else:
        f.pending[p.older].newer = p.newer
    if p.newer == NONE:
        u.newest[p.late] = p.older
    else:
        f.pending[p.newer].older = p.older


cdef void question_unlink(Forward* f, Pending* p) noexcept nogil:
    cdef uint32_t me = <uint32_t> (p - f.pending)
    cdef uint32_t* link = &f.by_question[p.hash & (HEADS - 1)]
    while link[0] != me:
        link = &f.pending[link[0]].next_question
    link[0] = p.next_question


cdef void forward_end(Forward* f, Pending* p) noexcept nogil:
    # Out of every chain; its waiters are the caller's.
    cdef uint32_t me = <uint32_t> (p - f.pending)
    cdef uint32_t* link = &f.by_id[id_head(p.upstream, p.socket, p.id)]
    while link[0] != me:
        link = &f.pending[link[0]].next_id
    link[0] = p.next_id
    if not p.late:
        question_unlink(f, p)
    age_unlink(f, p)
    f.upstreams[p.upstream].in_flight[p.socket] -= 1
    f.pending_count -= 1
    f.late_count -= p.late
    p.next_question = f.free_pending
    f.free_pending = me


cdef void forward_hand_over(Forward* f, Pending* p, uint32_t why) noexcept nogil:
    # To Python, with all who wait.
    cdef uint32_t at = p.waiters
    while at != NONE:
        f.waiters[at].why = why
        f.waiters[at].upstream = p.upstream
        at = f.waiters[at].next
    if p.waiters != NONE:
        f.waiters[p.last_waiter].next = f.handed
        f.handed = p.waiters
    if why != WHY_TIMEOUT and why != WHY_SLOW:
        forward_end(f, p)
        return
    question_unlink(f, p)
    age_unlink(f, p)
    p.late = 1
    p.waiters = NONE
    age_append(f, p)
    f.late_count += 1


cdef void forward_flush(Core* core) noexcept nogil:
    """Send what lies in the outbox."""
    cdef Forward* f = core.forward
    cdef Upstream* u = &f.upstreams[f.out_upstream]
    cdef uint32_t i, sent = 0, failures = 0
    cdef int result
    if f.out_count == 0:
        return
    for i in range(f.out_count):
        f.parts[i].iov_base = f.pending[f.outbox[i]].query
        f.parts[i].iov_len = f.pending[f.outbox[i]].query_size
        f.sending[i].msg_hdr.msg_iov = &f.parts[i]
        f.sending[i].msg_hdr.msg_iovlen = 1
    while sent < f.out_count:
        result = sendmmsg(u.fds[f.out_socket], f.sending + sent, f.out_count - sent, MSG_DONTWAIT)
        if result > 0:
            sent += <uint32_t> result
            failures = 0
        else:  # the first failure may report an older datagram's ICMP error: once more
            failures += 1
            if failures > 1:
                core.counters[u.counters + 1] += 1
                forward_hand_over(f, &f.pending[f.outbox[sent]], WHY_CLOSED)
                sent += 1
                failures = 0
    core.counters[u.counters] += f.out_count
    u.uses[f.out_socket] += f.out_count
    f.out_count = 0


cdef void forward_end_late(Forward* f) noexcept nogil:
    # Make room: a late one of the first upstream that has any.
    cdef uint32_t i
    for i in range(UPSTREAMS if f.late_count else 0):
        if f.upstreams[i].used and f.upstreams[i].oldest[1] != NONE:
            forward_end(f, &f.pending[f.upstreams[i].oldest[1]])
            return


cdef bint forward_pick(Forward* f, uint32_t upstream) noexcept nogil:
    # The socket by which this batch leaves: one at random that is not resting.
    cdef Upstream* u = &f.upstreams[upstream]
    cdef uint32_t _try
    for _try in range(16):
        f.out_socket = <uint32_t> (forward_random(f) % u.socket_count)
        if u.fds[f.out_socket] >= 0 and u.uses[f.out_socket] < SOCKET_USES:
            f.out_upstream = upstream
            return True
    return False


cdef int forward_ask(Core* core, Query* q) noexcept nogil:
    """Ask upstream, or join those who wait for the same question: WAIT; PUNT where Python has to; else SERVFAIL."""
    cdef Forward* f = core.forward
    cdef uint8_t key[KEY_ROOM]
    cdef uint32_t key_size, upstream, at, head
    cdef uint16_t share[2]
    cdef uint64_t hash
    cdef Pending* p
    q.reason = REASON_FORWARD
    upstream = f.route_upstream[q.route] if q.route < ROUTES else NONE
    if upstream == NONE or not q.may_wait or q.size > WAITER_PACKET or q.qtype == TYPE_ANY:
        return VERDICT_PUNT
    key_size = cache_key(q, key)
    hash = cache_hash(&core.cache, key, key_size)
    if not forward_share(f, q, share):
        return reply_shed(q)
    p = forward_by_question(f, key, key_size, hash)
    if p != NULL:
        return VERDICT_WAIT if forward_wait(f, p, q, share) else reply_shed(q)
    if f.free_pending == NONE and f.fresh_pending == PENDING:
        forward_end_late(f)
    if (f.free_pending == NONE and f.fresh_pending == PENDING) or (f.free_waiter == NONE and f.fresh_waiter == WAITERS):
        return reply_shed(q)
    if f.out_count and (f.out_upstream != upstream or f.out_count == OUTBOX):
        forward_flush(core)
    if f.out_count == 0 and not forward_pick(f, upstream):
        return VERDICT_PUNT
    at = f.free_pending
    if at == NONE:
        at = f.fresh_pending
        f.fresh_pending += 1
    else:
        f.free_pending = f.pending[at].next_question
    p = &f.pending[at]
    p.hash = hash
    p.key_size = <uint16_t> key_size
    memcpy(p.key, key, key_size)
    p.upstream = <uint16_t> upstream
    p.socket = <uint16_t> f.out_socket
    p.id = <uint16_t> forward_random(f)
    while forward_by_id(f, upstream, p.socket, p.id) != NULL:
        p.id = <uint16_t> forward_random(f)
    p.sent = f.now
    p.late = 0
    p.waiters = p.last_waiter = NONE
    p.waiter_count = 0
    forward_wait(f, p, q, share)
    forward_write(f, p, q)
    p.next_question = f.by_question[hash & (HEADS - 1)]
    f.by_question[hash & (HEADS - 1)] = at
    head = id_head(upstream, p.socket, p.id)
    p.next_id = f.by_id[head]
    f.by_id[head] = at
    age_append(f, p)
    f.pending_count += 1
    f.upstreams[upstream].in_flight[p.socket] += 1
    f.outbox[f.out_count] = at
    f.out_count += 1
    return VERDICT_WAIT


cdef void forward_reply_flush(Core* core) noexcept nogil:
    # Send the replies to clients that have gathered, all by one socket.
    cdef Forward* f = core.forward
    cdef uint32_t i
    if f.reply_count:
        udp_send(core, f.reply_fd, f.replying, f.reply_count)
        for i in range(f.reply_count):
            forward_release(f, f.reply_waiters[i])
        f.reply_count = 0


cdef void forward_reply(Core* core, Query* q, uint32_t at) noexcept nogil:
    # The reply in q.reply (the next of f.replies) to a waiter; it is released once it was sent.
    cdef Forward* f = core.forward
    cdef Waiter* w = &f.waiters[at]
    cdef msghdr* message = &f.replying[f.reply_count].msg_hdr
    f.reply_parts[f.reply_count].iov_base = q.reply
    f.reply_parts[f.reply_count].iov_len = q.reply_size
    message.msg_name = &w.peer
    message.msg_namelen = sizeof(sockaddr_in6) if w.peer.sin6_family == AF_INET6 else sizeof(sockaddr_in)
    message.msg_iov = &f.reply_parts[f.reply_count]
    message.msg_iovlen = 1
    message.msg_control = w.control if w.control_size else NULL
    message.msg_controllen = w.control_size
    f.reply_waiters[f.reply_count] = at
    f.reply_count += 1


cdef void forward_key(Query* q, const Pending* p) noexcept nogil:
    # What of the key is not in the packet: by which route, and for which network it was asked.
    q.route = (<uint32_t> p.key[q.name_size + 5] << 8) | p.key[q.name_size + 6]
    q.ecs_size = p.key_size - q.name_size - KEY_AFTER_NAME
    memcpy(q.ecs, p.key + q.name_size + KEY_AFTER_NAME, q.ecs_size)


cdef void forward_late(Core* core, Query* q, Pending* p, const uint8_t* packet, uint32_t size) noexcept nogil:
    # An answer for which nobody waits here any more: it is kept, and Python, which has asked again, is told.
    cdef Answer answer
    cdef uint32_t rcode = packet[3] & 0xF
    if not packet[2] & (FLAG_TC >> 8) and (rcode == RCODE_NOERROR or rcode == RCODE_NXDOMAIN):
        query_start(q, p.query, p.query_size, TRANSPORT_UDP, NULL, 0)
        wire_parse(q)
        forward_key(q, p)
        if cache_prepare(&core.cache, q, packet, size, &answer) == PREPARED:
            cache_store(&core.cache, q, &answer, core.now)
            late_tell(core, p, packet, size)
    forward_end(core.forward, p)


cdef void forward_answer(Core* core, Query* q, Pending* p, const uint8_t* packet, uint32_t size) noexcept nogil:
    # An answer that matches `p`: keep it and give it to everyone who waits, each by the generation in force now.
    cdef Forward* f = core.forward
    cdef Waiter* w = &f.waiters[p.waiters]
    cdef Answer answer
    cdef uint32_t at, following
    cdef int verdict
    cdef uint32_t rcode = packet[3] & 0xF
    if packet[2] & (FLAG_TC >> 8):
        forward_hand_over(f, p, WHY_TRUNCATED)
        return
    if rcode != RCODE_NOERROR and rcode != RCODE_NXDOMAIN:
        forward_hand_over(f, p, WHY_RCODE)
        return
    query_start(q, w.packet, w.size, w.transport, NULL, 0)
    wire_parse(q)
    forward_key(q, p)
    if cache_prepare(&core.cache, q, packet, size, &answer) != PREPARED:
        forward_hand_over(f, p, WHY_BAD)
        return
    cache_store(&core.cache, q, &answer, core.now)
    at = p.waiters
    forward_end(f, p)
    while at != NONE:
        w = &f.waiters[at]
        following = w.next
        if w.fd < 0:  # a stream
            stream_answer(core, q, w, &answer)
            forward_release(f, at)
            at = following
            continue
        if f.reply_count and (f.reply_fd != w.fd or f.reply_count == BATCH):
            forward_reply_flush(core)
        f.reply_fd = w.fd
        query_start(q, w.packet, w.size, w.transport, f.replies[f.reply_count], OUT_ROOM)
        memcpy(q.client, w.client, 16)
        q.counted = True
        q.given = &answer
        q.told = TOLD_FORWARDED
        q.since = w.since
        verdict = answer_client(core, q)
        if verdict == VERDICT_PUNT:
            w.why = WHY_NOTHING
            w.next = f.handed
            f.handed = at
        else:
            query_count(core, q, verdict)
            if verdict == VERDICT_REPLY:
                forward_reply(core, q, at)
            else:
                forward_release(f, at)
        at = following


cdef uint64_t[13] LATENCY_US
LATENCY_US[:] = [int(bound * 1e6) for bound in LATENCY_BOUNDS]


cdef void forward_latency(Core* core, const Upstream* u, uint64_t microseconds) noexcept nogil:
    # Into the histogram of resolver/counters.py.
    cdef uint32_t i = 0
    core.counters[u.counters + 7] += microseconds
    while i < 13 and microseconds > LATENCY_US[i]:
        i += 1
    core.counters[u.counters + 8 + i] += 1


cdef int forward_batch(Core* core, Query* q, uint32_t upstream, uint32_t socket) noexcept nogil:
    """Receive a batch of answers from an upstream's socket and pass them on; how many came."""
    cdef Forward* f = core.forward
    cdef Upstream* u = &f.upstreams[upstream]
    cdef Pending* p
    cdef uint32_t i, size, at, following
    cdef const uint8_t* packet
    cdef int count = recvmmsg(u.fds[socket], f.received, BATCH, MSG_DONTWAIT, NULL)
    if count < 0 and errno.errno == ECONNREFUSED:  # nobody listens there: do not wait for the time-out
        at = u.oldest[0]
        while at != NONE:
            p = &f.pending[at]
            following = p.newer
            if p.socket == socket:
                core.counters[u.counters + 1] += 1
                forward_hand_over(f, p, WHY_CLOSED)
            at = following
    if count <= 0:
        return 0
    for i in range(<uint32_t> count):
        packet = f.answers[i]
        size = f.received[i].msg_len
        if size < HEADER:
            continue
        p = forward_by_id(f, upstream, socket, (<uint32_t> packet[0] << 8) | packet[1])
        if p == NULL:
            continue  # late, or for nobody
        if size < p.question_end or not packet[2] & (FLAG_QR >> 8) or packet[4] != 0 or packet[5] != 1 \
                or memcmp(packet + HEADER, p.query + HEADER, p.question_end - HEADER) != 0:
            core.counters[u.counters + 3] += 1
            continue  # a lie, or a server that does not keep case: the time-out hands the question to Python
        forward_latency(core, u, f.now - p.sent)
        if p.late:
            if not f.received[i].msg_hdr.msg_flags & MSG_TRUNC:
                forward_late(core, q, p, packet, size)
        elif f.received[i].msg_hdr.msg_flags & MSG_TRUNC:
            forward_hand_over(f, p, WHY_TRUNCATED)
        else:
            forward_answer(core, q, p, packet, size)
    forward_reply_flush(core)
    core_clock(core)
    return count


cdef void forward_expire(Core* core) noexcept nogil:
    """Hand over what has waited longer than the time-out of a first try, and forget what is too late."""
    cdef Forward* f = core.forward
    cdef Upstream* u
    cdef uint32_t i
    for i in range(UPSTREAMS):
        u = &f.upstreams[i]
        if not u.used:
            continue
        while u.oldest[0] != NONE and f.now - f.pending[u.oldest[0]].sent >= u.timeout:
            if u.why == WHY_TIMEOUT:
                core.counters[u.counters + 2] += 1
            forward_hand_over(f, &f.pending[u.oldest[0]], u.why)
        while u.oldest[1] != NONE and f.now - f.pending[u.oldest[1]].sent >= LATE:
            forward_end(f, &f.pending[u.oldest[1]])
