# inspect: what an upstream's answer points at is looked up like the name that was asked.
#
# A name that is on no list may be an alias (CNAME, DNAME) of one that is, or name it as its service's target (SVCB, HTTPS,
# RFC 9460). The listsets of such targets are kept with the answer, and the newest of the operators' words on them, stamped
# with the generation and the overlay they were found by: so an answer is inspected once, and again on its first hit after a
# reload or an operator's word. What they mean is decided for each client, in the one total order: an allow of the name that
# was asked outranks a block of what it points at; of the operators' words the newest speaks, whichever name it is about.


cdef inline void inspect_keep(Inspection* found, uint32_t listset) noexcept nogil:
    # Keep a listset, once.
    cdef uint32_t i
    if listset == 0:
        return
    for i in range(found.count):
        if found.listsets[i] == listset:
            return
    if found.count < TARGETS:
        found.listsets[found.count] = listset
        found.count += 1


cdef uint32_t next_target(Reader* r) noexcept nogil:
    # Past the next record: where the name stands that it points at, 0 if it points at none.
    cdef uint32_t rtype, rdlength, at
    read_past_name(r)
    rtype = read_u16(r)
    read_skip(r, 6)
    rdlength = read_u16(r)
    at = r.at
    read_skip(r, rdlength)
    if rtype == TYPE_SVCB or rtype == TYPE_HTTPS:
        at += 2  # SvcPriority
    elif rtype != TYPE_CNAME and rtype != TYPE_DNAME:
        return 0
    return at if at < r.at else 0


cdef bint read_target(const uint8_t* packet, uint32_t size, uint32_t at, Target* target) noexcept nogil:
    # The name at an offset, lower-case and without compression.
    cdef Reader r
    reader_start(&r, packet, size)
    r.at = at
    return read_name(&r, target.name, target.labels, &target.size, &target.labels_count, True)


cdef bint inspect_answer(Core* core, const Answer* answer, uint32_t question_end) noexcept nogil:
    # Find what is said of the answer's targets. cache_prepare has checked the message's form. False: which patterns a target
    # fits is not known.
    cdef const SnapshotView* s = core.snapshot
    cdef const Inspection* known
    cdef bint missing = False
    cdef Inspection* found = answer.inspection
    cdef Reader r
    cdef Target target
    cdef uint32_t records, at, i, looked = 0
    reader_start(&r, answer.packet, answer.size)
    r.at = 6
    records = read_u16(&r)
    r.at = question_end
    found.count = found.word = 0
    found.generation = s.number
    found.overlay = core.overlay_number
    while records:
        records -= 1
        at = next_target(&r)
        if r.failed:
            return True
        if not at or not read_target(answer.packet, answer.size, at, &target):
            continue
        inspect_keep(found, index_lookup(s.index, target.name, target.labels, target.labels_count))
        if core.overlay != NULL:
            found.word = max(found.word, suffix_lookup(core.overlay, target.name, target.labels, target.labels_count))
        if s.pattern_rank < RANK_NOBODY and looked < PATTERN_TARGETS:
            looked += 1
            known = memo_find(&core.memo, s.number, target.name, target.labels, target.labels_count)
            missing = missing or known == NULL
            for i in range(known.count if known != NULL else 0):
                inspect_keep(found, known.listsets[i])
    if missing:
        found.generation = 0
    return not missing


cdef bint policy_answer(Core* core, const Answer* answer, Query* q) noexcept nogil:
    """Let what the answer points at speak too: the cell of the lowest rank becomes the query's.

    False: Python has to take the query (a PUNT), as it is not known which patterns a target fits, or a target's cell is
    conditional.
    """
    cdef const SnapshotView* s = core.snapshot
    cdef const Inspection* found = answer.inspection
    if q.decided == DECIDED_ALL:
        return True
    if (found.generation != s.number or found.overlay != core.overlay_number) \
            and not inspect_answer(core, answer, q.question_end):
        q.inspected = answer.packet
        q.inspected_size = answer.size
        q.reason = REASON_PATTERN
        return False
    if found.word > q.word and s.profile_count > PROFILE_OVERLAY:
        policy_word(s, found.word, q)
        return True
    return policy_compete(s, found, q, DECIDED_ALL)
