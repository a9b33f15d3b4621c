# inspect: what an upstream's answer points at is looked up like the name that was asked.
#
# A name that is on no list may be an alias (CNAME, DNAME) of one that is, or name it as its service's target (SVCB, HTTPS,
# RFC 9460). The listsets of such targets are kept with the answer, and the newest of the operators' words on them, stamped
# with the generation and the overlay they were found by: so an answer is inspected once, and again on its first hit after a
# reload or an operator's word. What they mean is decided for each client, in the one total order: an allow of the name that
# was asked outranks a block of what it points at; of the operators' words the newest speaks, whichever name it is about.


cdef inline void inspect_listset(Inspection* found, uint32_t listset) noexcept nogil:
    # Keep a listset, once.
    cdef uint32_t i
    for i in range(found.count):
        if found.listsets[i] == listset:
            return
    if found.count < TARGETS:
        found.listsets[found.count] = listset
        found.count += 1


cdef void inspect_answer(const Core* core, const Answer* answer, uint32_t question_end) noexcept nogil:
    # Find what is said of the answer's targets. cache_prepare has checked the message's form.
    cdef const SnapshotView* s = core.snapshot
    cdef Inspection* found = answer.inspection
    cdef Reader r
    cdef Target target
    cdef uint32_t records, rtype, rdlength, at, end, listset
    reader_start(&r, answer.packet, answer.size)
    r.at = 6
    records = read_u16(&r)
    r.at = question_end
    found.count = found.word = 0
    found.generation = s.number
    found.overlay = core.overlay_number
    while records:
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
        if at >= r.at:
            continue
        end = r.at
        r.at = at
        if read_name(&r, target.name, target.labels, &target.size, &target.labels_count, True):
            listset = index_lookup(s.index, target.name, target.labels, target.labels_count)
            if listset:
                inspect_listset(found, listset)
            if core.overlay != NULL:
                found.word = max(found.word, suffix_lookup(core.overlay, target.name, target.labels, target.labels_count))
        r.at = end
        r.failed = False


cdef void policy_answer(const Core* core, const Answer* answer, Query* q) noexcept nogil:
    """Let what the answer points at speak too: the cell of the lowest rank becomes the query's."""
    cdef const SnapshotView* s = core.snapshot
    cdef const Inspection* found = answer.inspection
    cdef const Cell* cell
    cdef uint32_t i
    if found.generation != s.number or found.overlay != core.overlay_number:
        inspect_answer(core, answer, q.question_end)
    if found.word > q.word and s.profile_count > PROFILE_OVERLAY:
        policy_word(s, found.word, q)
        return
    for i in range(found.count):
        cell = &s.cells[<size_t> q.policy_class * s.shape_count + index_shape(s.index, found.listsets[i])]
        if cell.rank < q.cell.rank and not cell.flags & CELL_CONDITIONAL:
            q.cell = cell[0]
            q.listset = found.listsets[i]
