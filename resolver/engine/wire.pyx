# wire: a client's packet is read once, here, and every read goes through one bounds-checked reader.
#
# Nothing behind this stage looks at the packet again but to copy the question, whose end this stage has proven.
# RFC 1035 section 4.1, RFC 6891, RFC 8906.


cdef inline void reader_start(Reader* r, const uint8_t* data, uint32_t size) noexcept nogil:
    r.data = data
    r.size = size
    r.at = 0
    r.failed = False


cdef inline uint32_t read_u8(Reader* r) noexcept nogil:
    if r.at >= r.size:
        r.failed = True
        return 0
    r.at += 1
    return r.data[r.at - 1]


cdef inline uint32_t read_u16(Reader* r) noexcept nogil:
    if r.size < 2 or r.at > r.size - 2:
        r.failed = True
        return 0
    r.at += 2
    return (<uint32_t> r.data[r.at - 2] << 8) | r.data[r.at - 1]


cdef inline uint32_t read_u32(Reader* r) noexcept nogil:
    cdef uint32_t high = read_u16(r)
    return (high << 16) | read_u16(r)


cdef inline void read_skip(Reader* r, uint32_t octets) noexcept nogil:
    if octets > r.size or r.at > r.size - octets:
        r.failed = True
    else:
        r.at += octets


cdef void read_past_name(Reader* r) noexcept nogil:
    # Past a name that may end in a compression pointer, without following it (RFC 1035 section 4.1.4).
    cdef uint32_t octet
    while not r.failed:
        octet = read_u8(r)
        if octet == 0:
            return
        if octet & POINTER == POINTER:
            read_skip(r, 1)
            return
        if octet & POINTER:
            r.failed = True
            return
        read_skip(r, octet)


cdef inline uint32_t lower(uint32_t octet) noexcept nogil:
    return octet | 0x20 if 65 <= octet <= 90 else octet


cdef inline bint read_name(Reader* r, uint8_t* name, uint8_t* labels, uint32_t* size, uint32_t* labels_count,
                           uint32_t limit) noexcept nogil:
    # A name, lower-case and without compression: its octets, where each label begins, and how many there are of both. The
    # reader stands behind it then. Pointers are followed to before `limit`, and each to before where the last one led, so
    # this ends (RFC 1035 section 4.1.4); 0: there may be none.
    cdef uint32_t octet, i, length = 0, count = 0, behind = 0
    while True:
        octet = read_u8(r)
        if octet & POINTER == POINTER:
            octet = (octet & 0x3F) << 8 | read_u8(r)
            if r.failed or octet >= limit:
                return False
            if behind == 0:
                behind = r.at
            limit = r.at = octet
            continue
        if r.failed or octet & POINTER or length + octet + 1 > MAX_NAME:
            return False
        name[length] = <uint8_t> octet
        if octet == 0:
            size[0] = length + 1
            labels_count[0] = count
            if behind:
                r.at = behind
            return True
        if count >= MAX_LABELS or r.size - r.at < octet:
            return False
        labels[count] = <uint8_t> length
        count += 1
        length += 1
        for i in range(octet):
            name[length + i] = <uint8_t> lower(r.data[r.at + i])
        length += octet
        r.at += octet


cdef bint read_options(Reader* r, Query* q, uint32_t octets) noexcept nogil:
    # Walks the OPT record's options: which of those that edns.pyx answers are there, and whether all have a form that can be
    # (RFC 6891 section 6.1.2, RFC 7873 section 5.2.2). Of several cookies the first counts.
    cdef uint32_t code, length, end = r.at + octets
    q.options_at = r.at
    while r.at < end:
        code = read_u16(r)
        length = read_u16(r)
        if code == OPTION_COOKIE:
            if length != 8 and (length < 16 or length > 40):
                return False
            q.options |= ASKED_COOKIE
        elif code == OPTION_NSID:
            q.options |= ASKED_NSID
        elif code == OPTION_ECS:
            q.options |= ASKED_ECS
        elif code == OPTION_KEEPALIVE:
            q.options |= ASKED_KEEPALIVE
        read_skip(r, length)
        if r.failed or r.at > end:
            return False
    q.options_end = end
    return True


cdef bint read_additional(Reader* r, Query* q, uint32_t records, uint32_t additional) noexcept nogil:
    # Past `records` records, of which the last `additional` stand in the additional section: there OPT may be, once.
    cdef uint32_t i, start, rtype, size, ttl, rdlength
    for i in range(records):
        start = r.at
        read_past_name(r)
        rtype = read_u16(r)
        size = read_u16(r)
        ttl = read_u32(r)
        rdlength = read_u16(r)
        if r.failed or rdlength > r.size - r.at:
            return False
        if rtype != TYPE_OPT:
            read_skip(r, rdlength)
            continue
        if q.has_opt or i < records - additional or r.data[start] != 0:
            return False
        q.has_opt = True
        q.edns_version = <uint8_t> (ttl >> 16 & 0xFF)
        q.dnssec_ok = ttl >> 15 & 1
        q.limit = size
        if q.edns_version:  # what its options would mean nobody knows here (RFC 6891 section 6.1.3)
            read_skip(r, rdlength)
        elif not read_options(r, q, rdlength):
            return False
    return True


cdef inline bint read_question(Reader* r, Query* q) noexcept nogil:
    # Name, type and class. No compression there: nothing stands before it to point at.
    if not read_name(r, q.name, q.labels, &q.name_size, &q.labels_count, 0):
        return False
    q.qtype = <uint16_t> read_u16(r)
    q.qclass = <uint16_t> read_u16(r)
    if r.failed:
        return False
    q.question_end = r.at
    return True


cdef int wire_parse(Query* q) noexcept nogil:
    """Read header, question and EDNS into `q`; CONTINUE, DROP, PUNT for a NOTIFY, or REPLY with q.rcode set to the error."""
    cdef Reader r
    cdef uint32_t questions, records, additional
    cdef bint sound
    reader_start(&r, q.packet, q.size)
    q.id = <uint16_t> read_u16(&r)
    q.flags = <uint16_t> read_u16(&r)
    questions = read_u16(&r)
    records = read_u16(&r) + read_u16(&r)
    additional = read_u16(&r)
    if r.failed or q.flags & FLAG_QR:  # no header to answer to, or an answer: answering those makes loops
        return VERDICT_DROP
    if q.flags & OPCODE_MASK == OPCODE_NOTIFY and questions == 1:
        q.rcode = RCODE_FORMERR
        if not read_question(&r, q):
            return VERDICT_REPLY
        q.reason = REASON_NOTIFY
        return VERDICT_PUNT
    if q.flags & OPCODE_MASK:
        q.rcode = RCODE_NOTIMP
        return VERDICT_REPLY
    q.rcode = RCODE_FORMERR
    if questions > 1 or (questions and not read_question(&r, q)):
        return VERDICT_REPLY
    q.limit = UDP_PLAIN
    sound = read_additional(&r, q, records + additional, additional)
    if q.limit < UDP_PLAIN:
        q.limit = UDP_PLAIN
    elif q.limit > UDP_EDNS:
        q.limit = UDP_EDNS
    if not sound or q.qtype == TYPE_OPT:  # with OPT if we have come as far as that (RFC 6891 section 7)
        q.options = 0
        return VERDICT_REPLY
    if not questions:  # but for a cookie nothing is asked: edns.pyx
        return VERDICT_REPLY
    if q.edns_version:
        q.rcode = RCODE_BADVERS
        return VERDICT_REPLY
    if q.qclass != CLASS_IN or TYPE_TKEY <= q.qtype <= TYPE_AXFR:  # transfers and keys are no matter of a forwarder
        q.rcode = RCODE_REFUSED
        return VERDICT_REPLY
    q.rcode = RCODE_NOERROR
    return CONTINUE
