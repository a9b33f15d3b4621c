# encrypted: what answers over TLS, HTTPS and QUIC have that others have not: padding, and a time for HTTP caches.

cdef enum:
    OPTION_PADDING = 12
    PAD_BLOCK = 468            # octets (RFC 8467 section 4.1)


cdef bint opt_find(const uint8_t* message, uint32_t size, uint32_t at, uint32_t* start, uint32_t* octets) noexcept nogil:
    # Where the options of a message's OPT begin, and how many octets they have; `at`: where its records begin.
    cdef Reader r
    cdef uint32_t records, rtype, rdlength
    reader_start(&r, message, size)
    r.at = 6
    records = read_u16(&r)
    records += read_u16(&r)
    records += read_u16(&r)
    r.at = at
    while records:
        records -= 1
        read_past_name(&r)
        rtype = read_u16(&r)
        read_skip(&r, 6)
        rdlength = read_u16(&r)
        if r.failed or rdlength > r.size - r.at:
            return False
        if rtype == TYPE_OPT:
            start[0] = r.at
            octets[0] = rdlength
            return True
        read_skip(&r, rdlength)
    return False


cdef bint opt_pads(const uint8_t* message, uint32_t start, uint32_t octets) noexcept nogil:
    # Whether padding is among an OPT's options, if only of nothing (RFC 7830 section 4).
    cdef Reader r
    cdef uint32_t code, length
    reader_start(&r, message, start + octets)
    r.at = start
    while r.at < r.size and not r.failed:
        code = read_u16(&r)
        length = read_u16(&r)
        read_skip(&r, length)
        if code == OPTION_PADDING and not r.failed:
            return True
    return False


cdef void reply_pad(Query* q) noexcept nogil:
    """Make the reply's length say nothing, where the query is padded; the OPT, which is the last record, takes it up."""
    cdef uint32_t start = 0, octets = 0, size, padding
    if not q.has_opt or not opt_find(q.packet, q.size, q.question_end, &start, &octets) \
            or not opt_pads(q.packet, start, octets):
        return
    if not opt_find(q.reply, q.reply_size, q.question_end, &start, &octets) or start + octets != q.reply_size \
            or opt_pads(q.reply, start, octets):
        return
    size = q.reply_size + 4
    padding = (PAD_BLOCK - size % PAD_BLOCK) % PAD_BLOCK
    if size + padding > q.reply_room:
        return
    put_u16(q.reply + start - 2, octets + 4 + padding)
    put_u16(q.reply + q.reply_size, OPTION_PADDING)
    put_u16(q.reply + q.reply_size + 2, padding)
    memset(q.reply + size, 0, padding)
    q.reply_size = size + padding


cdef uint32_t message_freshness(const uint8_t* message, uint32_t size) noexcept nogil:
    # Seconds that a cache may keep an answer (RFC 8484 section 5.1): the smallest TTL of its ANSWER section, or, where that
    # is empty, what its SOA says (RFC 2308 section 5); 0 for anything else.
    cdef Reader r
    cdef uint32_t questions, answers, authority, rtype, ttl, rdlength, least = 0x7FFFFFFF
    cdef bint found = False, is_answer
    reader_start(&r, message, size)
    r.at = 4
    questions = read_u16(&r)
    answers = read_u16(&r)
    authority = read_u16(&r)
    r.at = HEADER
    while questions and not r.failed:
        questions -= 1
        read_past_name(&r)
        read_skip(&r, 4)
    is_answer = answers > 0
    if not is_answer:
        answers = authority
    while answers and not r.failed:
        answers -= 1
        read_past_name(&r)
        rtype = read_u16(&r)
        read_skip(&r, 2)
        ttl = read_u32(&r)
        rdlength = read_u16(&r)
        read_skip(&r, rdlength)
        if r.failed or not (is_answer or rtype == TYPE_SOA):
            continue
        if not is_answer and rdlength >= 20:
            ttl = min(ttl, get_u32(message + r.at - 4))
        least = min(least, ttl if ttl < 0x80000000u else 0)
        found = True
    return least if found and not r.failed else 0


def freshness(bytes message not None):
    """Seconds that HTTP caches may keep an answer (RFC 8484 section 5.1); 0: not at all."""
    return message_freshness(<const uint8_t*> PyBytes_AS_STRING(message), <uint32_t> PyBytes_GET_SIZE(message))
