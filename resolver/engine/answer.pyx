# answer: the map. One query from its packet to a verdict, one call a stage.

cdef inline uint32_t type_slot(uint32_t qtype) noexcept nogil:
    # The counter of a qtype, as resolver/counters.py lays them out.
    if qtype < 66:
        return qtype
    return 66 if qtype == TYPE_ANY else 67 if qtype == TYPE_CAA else 71


cdef inline bint is_blocked(const Query* q) noexcept nogil:
    # Whether the cell keeps the upstream's answer from the client.
    return q.cell.action >= ACTION_ADDRESS and not (q.cell.action == ACTION_TCP_ONLY and q.transport != TRANSPORT_UDP)


cdef inline bint is_over_limit(Core* core, const Query* q) noexcept nogil:
    # Whether the client's network asks too often over UDP; it has paid for this query otherwise.
    cdef const Limits* limits = &core.limits
    if limits.per_second == 0 or q.transport != TRANSPORT_UDP or q.counted \
            or limit_pays(limits, limit_prefix(limits, q.client, 0), limits.per_second, core.forward.now):
        return False
    core.counters[ENGINE_LIMITED] += 1
    return True


cdef int reply_limited(const Core* core, Query* q) noexcept nogil:
    # What a client gets that asks too often.
    if core.limits.action == LIMIT_DROP:
        return VERDICT_DROP
    if core.limits.action == LIMIT_REFUSE:
        ede_say(q, EDE_OTHER, b"too many queries", 16)
        q.rcode = RCODE_REFUSED
        return reply_error(q)
    return reply_truncated(q)


cdef int limit_response(Core* core, Query* q) noexcept nogil:
    """Whether the reply in q.reply may go over UDP: REPLY, maybe with another in its place, or DROP."""
    cdef const Limits* limits = &core.limits
    if q.cookie_state == COOKIE_GOOD or limit_pays(
        limits, limit_prefix(limits, q.client, limit_kind(limits, q)), limits.responses, core.forward.now
    ):
        return VERDICT_REPLY
    core.counters[ENGINE_LIMITED] += 1
    if limits.slip == 0 or forward_random(core.forward) % limits.slip:
        return VERDICT_DROP
    q.rcode = RCODE_NOERROR
    q.ede = EDE_NONE
    return reply_truncated(q)


cdef int answer_odd(Core* core, Query* q, int verdict) noexcept nogil:
    """What is no plain query: an error, a transfer, another class, a question for a cookie alone (RFC 7873 section 5.4)."""
    if q.given == NULL and verdict != VERDICT_PUNT:
        core.counters[ENGINE_MALFORMED] += 1
    if verdict == VERDICT_DROP or is_over_limit(core, q):
        return VERDICT_DROP
    if verdict == VERDICT_PUNT:  # a NOTIFY: rare, and who may send one is not the client map's matter
        return VERDICT_PUNT
    if q.options & ASKED_COOKIE and core.edns.cookies:
        cookie_take(&core.edns, q, <uint32_t> (core.wall // 1000000000))
    if q.rcode == RCODE_FORMERR and not (q.packet[4] or q.packet[5]) and q.cookie_state != COOKIE_NONE:
        if core.edns.cookies == COOKIES_REQUIRED and q.cookie_state != COOKIE_GOOD and q.transport == TRANSPORT_UDP:
            return cookie_refuse(q)
        q.rcode = RCODE_BADCOOKIE if q.cookie_state == COOKIE_BAD else RCODE_NOERROR
    if q.rcode != RCODE_REFUSED:
        return reply_error(q)
    verdict = edns_check(&core.edns, q)
    if verdict != CONTINUE:
        return verdict
    q.rcode = RCODE_REFUSED
    if client_class(&core.snapshot.clients, q.client) == CLASS_REFUSED:
        core.counters[ENGINE_REFUSED] += 1
        return reply_refused(q, EDE_PROHIBITED)
    return reply_chaos(q) if q.qclass == CLASS_CH else reply_refused(q, EDE_NOT_SUPPORTED)


cdef int answer_client(Core* core, Query* q) noexcept nogil:
    """answer_query(), and what comes of it within the limit of responses: how every query is answered."""
    cdef int verdict = answer_query(core, q)
    if verdict == VERDICT_REPLY and core.limits.responses and q.transport == TRANSPORT_UDP:
        return limit_response(core, q)
    return verdict


cdef void refresh_begin(Core* core, const Query* q) noexcept nogil:
    # The question to Python, for no client; so many a second at most, as the answer to a client does not depend on it.
    if core.refreshed_at != core.now:
        core.refreshed_at = core.now
        core.refreshes = 0
    if core.refreshes < REFRESHES:
        core.refreshes += 1
        refresh_punt(core, q)


cdef int answer_query(Core* core, Query* q) noexcept nogil:
    """Decide a query and write its reply: REPLY, DROP, WAIT, or PUNT with q.reason.

    q.given: the upstream's answer, where it is there already.
    """
    cdef const SnapshotView* s = core.snapshot
    cdef Answer kept
    cdef const Answer* answer
    cdef int verdict

    # The packet first: nothing may look at what has not been proven to be there.
    q.edns = &core.edns
    verdict = wire_parse(q)
    if verdict != CONTINUE:
        return answer_odd(core, q, verdict)
    if q.options & ASKED_COOKIE and core.edns.cookies:
        cookie_take(&core.edns, q, <uint32_t> (core.wall // 1000000000))

    # A flood must cost as little as possible. TC brings a real client back over TCP, which proves its address.
    if is_over_limit(core, q):
        return reply_limited(core, q)

    # A cookie that is missing or bad ends what follows, as nothing may be sent to an address that somebody else may have
    # written there.
    if q.options | core.edns.checks:
        verdict = edns_check(&core.edns, q)
        if verdict != CONTINUE:
            return verdict

    # Then who asks: a stranger must not learn from our answers or timing what is listed or cached.
    q.policy_class = client_class(&s.clients, q.client)
    if q.policy_class >= CLASS_WITHHELD:
        if q.policy_class == CLASS_WITHHELD:
            q.rcode = RCODE_SERVFAIL
            q.ede = EDE_NOT_READY
            return reply_error(q)
        core.counters[ENGINE_REFUSED] += 1
        return reply_refused(q, EDE_PROHIBITED)

    # Policy before the cache: a block acts at once on names that are cached. A cell that Python decided stands, but its
    # data is found by the listset.
    policy_row(s, q, False)
    q.listset = index_lookup(s.index, q.name, q.labels, q.labels_count)
    if not q.decided:
        policy_cell(s, core.overlay, q)
    else:
        policy_shadow(s, q)
        if q.chosen:
            q.listset = q.chosen
    if s.index.ranges[RANGES_CLIENT].count4:
        policy_client(s, q)
    if not q.decided:
        # A name costs a look for patterns only where one could outrank what is known, or what may not hold.
        if s.pattern_rank < RANK_NOBODY and (s.pattern_rank < q.cell.rank or q.cell.flags & CELL_CONDITIONAL) \
                and not policy_patterns(s, &core.memo, q):
            return VERDICT_PUNT
        if q.cell.flags & CELL_CONDITIONAL:
            q.reason = REASON_CONDITIONAL
            return VERDICT_PUNT

    # Blocked: answered here, unless a list has to see the upstream's answer first. TCP_ONLY lets streams pass.
    if is_blocked(q) and not q.cell.flags & (CELL_NEEDS_ANSWER | (CELL_KEEPS_SIGNED if q.dnssec_ok else 0)):
        return reply_blocked(q, s)

    # ANY is large, and of use to who forges addresses: over TCP only (RFC 8482 section 4.4).
    if q.qtype == TYPE_ANY and q.transport == TRANSPORT_UDP:
        return reply_truncated(q)

    # The upstream's answer, given or kept. The route is in the cache's key, so it is worked out before: the zone's, else the
    # class's own.
    q.route = suffix_lookup(s.routes, q.name, q.labels, q.labels_count)
    if q.route == 0 and s.class_routes != NULL:
        q.route = s.class_routes[q.policy_class]
    answer = q.given
    if answer == NULL and cache_lookup(&core.cache, q, core.now, &kept):
        answer = &kept
        q.told |= TOLD_CACHED
    if answer != NULL:
        # Popular and soon expired, or expired already: Python asks anew.
        if answer.refresh and (q.may_wait or q.told & TOLD_INNER):
            refresh_begin(core, q)
        if not policy_answer(core, answer, q):
            return VERDICT_PUNT
        if answer.stale:
            core.counters[CACHE_STALE] += 1
        if is_blocked(q):
            return reply_blocked(q, s)
        return dns64_answer(core, q, answer) if s.dns64.on and q.qtype == TYPE_AAAA else reply_answer(q, answer)

    # Unknown here: only a client that wants recursion gets it (RFC 1035 section 4.1.1).
    if not q.flags & FLAG_RD:
        return reply_refused(q, EDE_NOT_AUTHORITATIVE)
    return forward_ask(core, q)


cdef void query_start(Query* q, const uint8_t* packet, uint32_t size, uint32_t transport,
                      uint8_t* reply, uint32_t room) noexcept nogil:
    """The one reset of a query; the client's address is set by the caller."""
    q.packet = packet
    q.size = size
    q.transport = transport
    q.reply = reply
    q.reply_room = room
    q.fd = -1
    q.token = 0
    q.peer = NULL
    q.control = NULL
    q.control_size = 0
    q.may_wait = False
    q.counted = False
    q.given = q.given_a = NULL
    q.without_a = False
    q.since = 0
    q.decided = DECIDED_NOTHING
    q.word = 0
    q.chosen = 0
    q.undecided = NULL
    q.stage = DECIDED_NAME
    q.inspected = NULL
    q.question_end = 0
    q.has_opt = False
    q.dnssec_ok = False
    q.edns_version = 0
    q.options = 0
    q.cookie_state = COOKIE_NONE
    q.options_at = 0
    q.options_end = 0
    q.edns = NULL
    q.ecs_length = 0
    q.ecs_size = 0
    q.ecs_scope = 0
    q.limit = UDP_PLAIN
    q.listset = 0
    q.row = 0
    q.finding = FOUND_NAME
    q.position = 0
    q.shadow = 0
    q.route = 0
    q.policy_class = CLASS_REFUSED
    q.cell.rank = RANK_NOBODY
    q.cell.action = ACTION_FORWARD
    q.cell.slot = NO_LIST
    q.rcode = RCODE_NOERROR
    q.ede = EDE_NONE
    q.ede_size = 0
    q.ede_brief_size = 0
    q.reply_size = 0
    q.qtype = 0
    q.told = 0


cdef uint64_t[DURATION_STRIDE - 2] DURATION_US
DURATION_US[:] = [int(bound * 1e6) for bound in DURATION_BOUNDS]


cdef void duration_count(Core* core, uint32_t transport, uint32_t way, uint64_t microseconds,
                         uint32_t queries) noexcept nogil:
    """Into the histogram of resolver/counters.py; `way`: 0 at once, 1 by the engine's forward, 2 by Python."""
    cdef uint64_t* histogram = core.counters + COUNT_DURATIONS + (transport * WAYS + way) * DURATION_STRIDE
    cdef uint32_t i = 0
    histogram[0] += microseconds * queries
    while i < DURATION_STRIDE - 2 and microseconds > DURATION_US[i]:
        i += 1
    histogram[1 + i] += queries


cdef inline void batch_count(Core* core, uint32_t transport, uint64_t began) noexcept nogil:
    """Count how long what was answered at once has taken, after core_clock: one reading of the clock for all of it."""
    if core.at_once:
        duration_count(core, transport, 0, core.forward.now - began, core.at_once)
        core.at_once = 0


cdef void query_count(Core* core, const Query* q, int verdict) noexcept nogil:
    """Count a query that has come to its end, REPLY or DROP, and record it. What was answered at once also needs
    batch_count()."""
    cdef uint32_t slot = q.cell.slot if q.cell.slot < NO_LIST else NO_LIST
    cdef uint64_t duration = 0
    if q.told & TOLD_INNER or (verdict == VERDICT_DROP and q.question_end == 0):
        return  # not a client's, or not a query
    core.counters[COUNT_QUERIES + q.transport * TYPE_SLOTS + type_slot(q.qtype)] += 1
    core.counters[COUNT_ANSWERS + q.cell.action * LIST_SLOTS + slot] += 1
    if q.shadow:
        shadow_count(core.snapshot, q, core.counters)
    if verdict == VERDICT_DROP:
        core.counters[ENGINE_DROPPED] += 1
    else:
        core.counters[COUNT_RESPONSES + (q.rcode if q.rcode < 24 else 2)] += 1
        if q.reply[2] & (FLAG_TC >> 8):
            core.counters[ENGINE_TRUNCATED] += 1
    if q.told & (TOLD_FORWARDED | TOLD_PUNTED):
        duration = core.forward.now - q.since
        duration_count(core, q.transport, 2 if q.told & TOLD_PUNTED else 1, duration, 1)
    else:
        core.at_once += 1
    if core.records.what != RECORDS_NONE:
        ring_put(core, q, verdict, <uint32_t> min(duration, 0xFFFFFFFFu))
