# inspect: what an upstream's answer points at is looked up like the name that was asked.
#
# A name that is on no list may be an alias (CNAME, DNAME) of one that is, or name it as its service's target (SVCB, HTTPS,
# RFC 9460). The listsets of such targets are kept with the answer, stamped with the generation they were found in: so an
# answer is inspected once, and again on its first hit after a reload. What they mean is decided for each client, in the one
# total order: an allow of the name that was asked outranks a block of what it points at.


cdef bint read_target(const uint8_t* packet, uint32_t size, uint32_t at, Target* target) noexcept nogil:
    # The name at an offset, lower-case and without compression. Pointers must lead backwards, so this ends.
    cdef Reader r
    cdef uint32_t octet, i, length = 0, limit = size
    reader_start(&r, packet, size)
    r.at = at
    target.labels_count = 0
    while True:
        octet = read_u8(&r)
        if octet & POINTER == POINTER:
            at = (octet & 0x3F) << 8 | read_u8(&r)
            if r.failed or at >= limit:
                return False
            limit = at
            r.at = at
            continue
        if r.failed or octet & POINTER or length + octet + 1 > MAX_NAME:
            return False
        target.name[length] = <uint8_t> octet
        if octet == 0:
            return True
        if target.labels_count >= MAX_LABELS or r.size - r.at < octet:
            return False
        target.labels[target.labels_count] = <uint8_t> length
        target.labels_count += 1
        length += 1
        for i in range(octet):
            target.name[length + i] = <uint8_t> lower(r.data[r.at + i])
        length += octet
        r.at += octet


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


cdef inline void inspect_keep(Inspection* found, uint32_t listset) noexcept nogil:
    if listset and found.count < TARGETS:
        found.listsets[found.count] = listset
        found.count += 1


cdef bint inspect_answer(const SnapshotView* s, Memo* memo, const Answer* answer, uint32_t question_end) noexcept nogil:
    # Find the listsets of the answer's targets. cache_prepare has checked the message's form. False: which patterns a target
    # fits is not known.
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
    found.count = 0
    found.generation = s.number
    while records and found.count < TARGETS:
        records -= 1
        at = next_target(&r)
        if r.failed:
            return True
        if not at or not read_target(answer.packet, answer.size, at, &target):
            continue
        inspect_keep(found, index_lookup(s.index, target.name, target.labels, target.labels_count))
        if s.pattern_rank < RANK_NOBODY and looked < PATTERN_TARGETS:
            looked += 1
            known = memo_find(memo, s.number, target.name, target.labels, target.labels_count)
            missing = missing or known == NULL
            for i in range(known.count if known != NULL else 0):
                inspect_keep(found, known.listsets[i])
    if missing:
        found.generation = 0
    return not missing


cdef bint policy_answer(const SnapshotView* s, Memo* memo, const Answer* answer, Query* q) noexcept nogil:
    """Let what the answer points at speak too: the cell of the lowest rank becomes the query's.

    False: Python has to take the query (a PUNT), as it is not known which patterns a target fits, or a target's cell is
    conditional.
    """
    if q.decided == DECIDED_ALL:
        return True
    if answer.inspection.generation != s.number and not inspect_answer(s, memo, answer, q.question_end):
        q.inspected = answer.packet
        q.inspected_size = answer.size
        q.reason = REASON_PATTERN
        return False
    return policy_compete(s, answer.inspection, q, DECIDED_ALL)
