# dns64: AAAA records made from A records for clients that have IPv6 alone (RFC 6147; the form of addresses: RFC 6052).
#
# Where an answer for AAAA has none, the answer to the same question for A is taken from the cache, held against the lists
# like any other, and its addresses are put behind the prefix. What is not in the cache Python asks for (PUNT_DNS64) and
# gives back with Engine.synthesise(). Not for those who verify themselves, CD and DO (section 5.5); an error stays one. A
# name with rules for some types alone is left as it is: what they say of A was not asked.

cdef enum:
    DNS64_TTL = 600            # seconds, at most, where no SOA says how long there is no AAAA (section 5.1.7)

cdef struct Owner:             # where a name stands in the message being written
    Target target
    uint32_t at                # 0: nowhere


cdef bint dns64_serves(const SnapshotView* s, const Query* q) noexcept nogil:
    """Whether the client gets addresses that were made."""
    if q.dnssec_ok and q.flags & FLAG_CD or q.qclass != CLASS_IN:
        return False
    return s.dns64.clients.count4 == 0 or client_class(&s.dns64.clients, q.client) == 0


cdef bint dns64_map(const Dns64* d, const uint8_t* four, uint8_t* mapped) noexcept nogil:
    """An IPv4 address behind the prefix (RFC 6052 section 2.2); False for one that must not be."""
    cdef uint8_t address[16]
    cdef uint32_t i, at = d.octets
    memset(address, 0, 10)
    address[10] = address[11] = 0xFF
    memcpy(address + 12, four, 4)
    if d.excluded.count4 and client_class(&d.excluded, address) == 0:
        return False
    memcpy(mapped, d.prefix, 16)
    for i in range(4):
        if at == 8:  # bits 64 to 71 are zero
            at = 9
        mapped[at] = four[i]
        at += 1
    return True


cdef bint dns64_lacks(const SnapshotView* s, const Query* q, const Answer* answer, uint32_t* ttl) noexcept nogil:
    # Whether an answer for AAAA has none that counts (sections 5.1.1 and 5.1.4). `ttl`: how long that holds.
    cdef Reader r
    cdef uint8_t address[16]
    cdef uint32_t counts[2]
    cdef uint32_t section, rtype, age, rdlength, at
    ttl[0] = DNS64_TTL
    if answer.failed or answer.packet[2] & (FLAG_TC >> 8) or answer.packet[3] & 0xF:
        return False
    reader_start(&r, answer.packet, answer.size)
    r.at = 6
    counts[0] = read_u16(&r)
    counts[1] = read_u16(&r)
    r.at = q.question_end
    for section in range(2):
        while counts[section]:
            counts[section] -= 1
            read_past_name(&r)
            rtype = read_u16(&r)
            read_u16(&r)
            age = read_u32(&r)
            rdlength = read_u16(&r)
            at = r.at
            read_skip(&r, rdlength)
            if r.failed:
                return False
            if section == 0 and rtype == TYPE_AAAA and rdlength == 16:
                memcpy(address, answer.packet + at, 16)  # is_mapped reads words, and a packet's may begin anywhere
                if not is_mapped(address) \
                        and not (s.dns64.excluded.count4 and client_class(&s.dns64.excluded, address) == 0):
                    return False
            if section == 1 and rtype == TYPE_SOA:
                ttl[0] = age - answer.age if age > answer.age else 0
    return True


cdef void dns64_name(Writer* w, const Query* q, const Target* target, Owner* known) noexcept nogil:
    # A name: where it stood before, if it is the question's or `known`, else in full, and then `known` is it.
    if target.size == q.name_size and memcmp(target.name, q.name, target.size) == 0:
        write_u16(w, NAME_OF_QUESTION)
    elif known.at and target.size == known.target.size and memcmp(target.name, known.target.name, target.size) == 0:
        write_u16(w, <uint32_t> POINTER << 8 | known.at)
    else:
        known.at = w.at if w.at < 0x4000 else 0
        known.target = target[0]
        write_octets(w, target.name, target.size)


cdef int dns64_reply(const SnapshotView* s, Query* q, const Answer* a, uint32_t most) noexcept nogil:
    # The aliases of an answer for A and its addresses as AAAA records, none living longer than `most`; NODATA's place is
    # the caller's: VERDICT_DROP where no address is left.
    cdef Writer w
    cdef Reader r
    cdef Owner known
    cdef Target target
    cdef uint8_t mapped[16]
    cdef uint32_t count, rtype, ttl, rdlength, at, owner, place, written = 0, made = 0
    q.rcode = RCODE_NOERROR
    q.ede = EDE_STALE_ANSWER if a.stale else a.ede
    known.at = 0
    reply_begin(q, &w)
    reader_start(&r, a.packet, a.size)
    r.at = 6
    count = read_u16(&r)
    r.at = q.question_end
    while count:
        count -= 1
        owner = r.at
        read_past_name(&r)
        rtype = read_u16(&r)
        read_u16(&r)
        ttl = read_u32(&r)
        rdlength = read_u16(&r)
        at = r.at
        read_skip(&r, rdlength)
        if r.failed:
            return VERDICT_DROP
        ttl = STALE_TTL if a.stale else ttl - a.age if ttl > a.age else 0
        if rtype == TYPE_A and rdlength == 4:
            if not dns64_map(&s.dns64, a.packet + at, mapped):
                continue
            if ttl > most:
                ttl = most
        elif rtype != TYPE_CNAME and rtype != TYPE_DNAME:
            continue
        if not read_target(a.packet, a.size, owner, &target):
            return VERDICT_DROP
        dns64_name(&w, q, &target, &known)
        write_u16(&w, TYPE_AAAA if rtype == TYPE_A else rtype)
        write_u16(&w, CLASS_IN)
        write_u32(&w, ttl)
        if rtype == TYPE_A:
            write_u16(&w, 16)
            write_octets(&w, mapped, 16)
            made += 1
        else:
            place = w.at
            write_u16(&w, 0)
            if not read_target(a.packet, a.size, at, &target):
                return VERDICT_DROP
            dns64_name(&w, q, &target, &known)
            if not w.full:
                put_u16(w.data + place, w.at - place - 2)
        written += 1
    return reply_end(q, &w, written, 0, 0) if made else VERDICT_DROP


cdef int dns64_answer(Core* core, Query* q, const Answer* answer) noexcept nogil:
    """An answer for AAAA as it stands, or with addresses made from those for A; PUNT where Python has to ask for these."""
    cdef const SnapshotView* s = core.snapshot
    cdef Answer kept
    cdef const Answer* a = q.given_a
    cdef uint32_t most
    cdef bint found
    if q.without_a or (q.decided and q.cell.rank != RANK_OVERLAY) or not dns64_serves(s, q) \
            or not dns64_lacks(s, q, answer, &most):
        return reply_answer(q, answer)
    if a == NULL:
        q.qtype = TYPE_A
        found = cache_lookup(&core.cache, q, core.now, &kept) and not (kept.refresh and q.may_wait)
        q.qtype = TYPE_AAAA
        if not found and q.flags & FLAG_RD:
            q.reason = REASON_DNS64
            return VERDICT_PUNT
        if not found:
            return reply_answer(q, answer)
        a = &kept
    if a.failed or a.packet[3] & 0xF or a.packet[2] & (FLAG_TC >> 8):
        return reply_answer(q, answer)
    if not policy_answer(core, a, q):
        return VERDICT_PUNT
    if is_blocked(q):
        return reply_blocked(q, s)
    if dns64_reply(s, q, a, most) == VERDICT_REPLY:
        return VERDICT_REPLY
    return reply_answer(q, answer)
