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


cdef void inspect_answer(const SnapshotView* s, const Answer* answer, uint32_t question_end) noexcept nogil:
    # Find the listsets of the answer's targets. cache_prepare has checked the message's form.
    cdef Inspection* found = answer.inspection
    cdef Reader r
    cdef Target target
    cdef uint32_t records, rtype, rdlength, at, listset
    reader_start(&r, answer.packet, answer.size)
    r.at = 6
    records = read_u16(&r)
    r.at = question_end
    found.count = 0
    found.generation = s.number
    while records and found.count < TARGETS:
        records -= 1
        read_past_name(&r)
        rtype = read_u16(&r)
        read_skip(&r, 6)
        rdlength = read_u16(&r)
        at = r.at
        read_skip(&r, rdlength)
        if r.failed:
            return
        if rtype == TYPE_SVCB or rtype == TYPE_HTTPS:
            at += 2  # SvcPriority
        elif rtype != TYPE_CNAME and rtype != TYPE_DNAME:
            continue
        if at >= r.at or not read_target(answer.packet, answer.size, at, &target):
            continue
        listset = index_lookup(s.index, target.name, target.labels, target.labels_count)
        if listset:
            found.listsets[found.count] = listset
            found.count += 1


cdef void policy_answer(const SnapshotView* s, const Answer* answer, Query* q) noexcept nogil:
    """Let what the answer points at speak too: the cell of the lowest rank becomes the query's."""
    cdef const Inspection* found = answer.inspection
    cdef const Cell* cell
    cdef uint32_t i
    if found.generation != s.number:
        inspect_answer(s, answer, q.question_end)
    for i in range(found.count):
        cell = &s.cells[<size_t> q.policy_class * s.shape_count + index_shape(s.index, found.listsets[i])]
        if cell.flags & CELL_SHADOW and not q.shadow:
            q.shadow = found.listsets[i]
        if cell.rank < q.cell.rank and not cell.flags & CELL_CONDITIONAL:
            q.cell = cell[0]
            q.listset = found.listsets[i]
