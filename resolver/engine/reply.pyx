# reply: every answer is written here, by one bounds-checked writer, over the question as the client sent it.
#
# The question is copied octet for octet (the client's case: 0x20). Z is never set, AA never (a forwarder owns nothing),
# and OPT comes only where the query had one (RFC 6891 section 6.1.1); edns.pyx writes what else is in it than an EDE. An
# answer that does not fit in what the client takes becomes an empty one with TC=1 and keeps its OPT.


cdef inline void write_u8(Writer* w, uint32_t value) noexcept nogil:
    if w.at >= w.room:
        w.full = True
        return
    w.data[w.at] = <uint8_t> value
    w.at += 1


cdef inline void write_u16(Writer* w, uint32_t value) noexcept nogil:
    if w.room < 2 or w.at > w.room - 2:
        w.full = True
        return
    w.data[w.at] = <uint8_t> (value >> 8)
    w.data[w.at + 1] = <uint8_t> value
    w.at += 2


cdef inline void write_u32(Writer* w, uint32_t value) noexcept nogil:
    write_u16(w, value >> 16)
    write_u16(w, value & 0xFFFF)


cdef inline void write_octets(Writer* w, const uint8_t* octets, uint32_t count) noexcept nogil:
    if count > w.room or w.at > w.room - count:
        w.full = True
        return
    memcpy(w.data + w.at, octets, count)
    w.at += count


cdef inline void put_u16(uint8_t* at, uint32_t value) noexcept nogil:
    # Over two octets that are known to be inside what was written.
    at[0] = <uint8_t> (value >> 8)
    at[1] = <uint8_t> value


cdef inline void put_u32(uint8_t* at, uint32_t value) noexcept nogil:
    put_u16(at, value >> 16)
    put_u16(at + 2, value & 0xFFFF)


cdef inline uint32_t get_u32(const uint8_t* at) noexcept nogil:
    return (<uint32_t> at[0] << 24) | (<uint32_t> at[1] << 16) | (<uint32_t> at[2] << 8) | at[3]


cdef inline uint32_t reply_flags(const Query* q) noexcept nogil:
    return FLAG_QR | FLAG_RA | (q.flags & (OPCODE_MASK | FLAG_RD | FLAG_CD)) | (q.rcode & 0xF)


cdef void reply_begin(Query* q, Writer* w) noexcept nogil:
    # Header and question; the counts are put in when they are known.
    w.data = q.reply
    w.room = q.reply_room
    if q.transport == TRANSPORT_UDP and q.limit < w.room:
        w.room = q.limit
    w.at = 0
    w.full = False
    write_u16(w, q.id)
    write_u16(w, reply_flags(q))
    write_u16(w, 1 if q.question_end else 0)
    write_u16(w, 0)
    write_u32(w, 0)
    if q.question_end:
        write_octets(w, q.packet + HEADER, q.question_end - HEADER)


cdef uint32_t opt_size(const Query* q) noexcept nogil:
    # Octets that reply_end will append.
    if not q.has_opt:
        return 0
    return 11 + (6 + q.ede_size if q.ede != EDE_NONE else 0) + (edns_size(q) if q.options else 0)


cdef int reply_end(Query* q, Writer* w, uint32_t answers, uint32_t authority, uint32_t additional) noexcept nogil:
    # Counts, OPT, and TC where the message did not fit. Of an EDE's text what can be missed goes before all of it does, and
    # that before TC is set for its sake.
    cdef uint32_t options = 0
    if q.has_opt and not w.full and q.ede_size and w.room - w.at < opt_size(q):
        q.ede_text = q.ede_brief
        q.ede_size = q.ede_brief_size
        if q.ede_size and w.room - w.at < opt_size(q):
            q.ede_size = 0
    if w.full or w.room - w.at < opt_size(q):
        w.full = False
        w.at = q.question_end if q.question_end else HEADER
        q.reply[2] |= FLAG_TC >> 8
        answers = authority = additional = q.ede_size = 0
        if w.room - w.at < opt_size(q):  # a client that gets no more than it sent
            q.ede = EDE_NONE
            if w.room - w.at < opt_size(q):
                q.options = 0
    if q.has_opt:
        options = opt_size(q) - 11
        write_u8(w, 0)
        write_u16(w, TYPE_OPT)
        write_u16(w, UDP_EDNS)
        write_u8(w, q.rcode >> 4)
        write_u8(w, 0)
        write_u16(w, 0x8000 if q.dnssec_ok else 0)
        write_u16(w, options)
        if q.ede != EDE_NONE:
            write_u16(w, OPTION_EDE)
            write_u16(w, 2 + q.ede_size)
            write_u16(w, <uint32_t> q.ede)
            if q.ede_size:
                write_octets(w, q.ede_text, q.ede_size)
        if q.options:
            edns_write(q, w)
        additional += 1
    put_u16(q.reply + 6, answers)
    put_u16(q.reply + 8, authority)
    put_u16(q.reply + 10, additional)
    q.reply_size = w.at
    return VERDICT_REPLY


cdef int reply_error(Query* q) noexcept nogil:
    """An answer that is nothing but its rcode (q.rcode) and, where it is set, its EDE."""
    cdef Writer w
    reply_begin(q, &w)
    return reply_end(q, &w, 0, 0, 0)


cdef int reply_truncated(Query* q) noexcept nogil:
    """An empty answer with TC: come back over TCP."""
    cdef Writer w
    reply_begin(q, &w)
    w.full = True
    return reply_end(q, &w, 0, 0, 0)


cdef int reply_refused(Query* q, int ede) noexcept nogil:
    """REFUSED, with `ede`."""
    q.rcode = RCODE_REFUSED
    q.ede = ede
    return reply_error(q)


cdef inline void ede_say(Query* q, int ede, const char* text, uint32_t size) noexcept nogil:
    # An EDE in our own words.
    q.ede = ede
    q.ede_text = <const uint8_t*> text
    q.ede_size = size
    q.ede_brief_size = 0


cdef int reply_shed(Query* q) noexcept nogil:
    """SERVFAIL: there is no room for another question upstream."""
    q.rcode = RCODE_SERVFAIL
    ede_say(q, EDE_NETWORK_ERROR, b"too many queries in flight", 26)
    return reply_error(q)


cdef void write_record(Writer* w, uint32_t rtype, uint32_t ttl, const uint8_t* rdata, uint32_t size) noexcept nogil:
    # A record of class IN whose owner is the question's name.
    write_u16(w, NAME_OF_QUESTION)
    write_u16(w, rtype)
    write_u16(w, CLASS_IN)
    write_u32(w, ttl)
    write_u16(w, size)
    write_octets(w, rdata, size)


cdef uint32_t write_zone(Query* q, Writer* w, const SnapshotView* s, const Profile* profile) noexcept nogil:
    # The policy zone's SOA for ADDITIONAL (rpz.md, 20), if there is one and it fits; how many records.
    cdef const ZoneSoa* zone
    if profile.zone == 0 or profile.zone > s.zone_count or w.full:
        return 0
    zone = &s.zones[profile.zone - 1]
    if w.room - w.at < zone.name_size + 10u + zone.rdata_size + opt_size(q):
        return 0
    write_octets(w, zone.name, zone.name_size)
    write_u16(w, TYPE_SOA)
    write_u16(w, CLASS_IN)
    write_u32(w, profile.ttl)
    write_u16(w, zone.rdata_size)
    write_octets(w, zone.rdata, zone.rdata_size)
    return 1


cdef int reply_negative(Query* q, Writer* w, const SnapshotView* s, const Profile* profile, uint32_t ttl) noexcept nogil:
    # NODATA or NXDOMAIN by q.rcode. The SOA's MINIMUM and TTL say how long the block may be remembered (RFC 2308
    # section 5); its owner is the question's name, the only one we may speak for. A policy zone's SOA stands in ADDITIONAL
    # instead, as nobody is to take that for the SOA of the name.
    if profile.zone:
        return reply_end(q, w, 0, 0, write_zone(q, w, s, profile))
    write_u16(w, NAME_OF_QUESTION)
    write_u16(w, TYPE_SOA)
    write_u16(w, CLASS_IN)
    write_u32(w, ttl)
    write_u16(w, profile.soa_size + 20u)
    write_octets(w, profile.soa, profile.soa_size)
    write_u32(w, 1)         # SERIAL
    write_u32(w, 1800)      # REFRESH
    write_u32(w, 900)       # RETRY
    write_u32(w, 604800)    # EXPIRE
    write_u32(w, ttl)       # MINIMUM
    return reply_end(q, w, 0, 1, 0)


cdef int reply_data(Query* q, const SnapshotView* s, const Profile* profile) noexcept nogil:
    # The rule's own records: those of the type asked, an alias for Python to chase, else NODATA.
    cdef Writer w
    cdef RecordSet records
    cdef Record record
    cdef uint32_t written = 0, ttl = profile.ttl
    if not index_records(s.index, index_data(s.index, q.listset, q.cell.member), &records):
        reply_begin(q, &w)
        return reply_negative(q, &w, s, profile, ttl)
    if records.flags & RECORDS_WILDCARD:  # the qname goes before the target: Python puts them together
        q.reason = REASON_LOCAL
        return VERDICT_PUNT
    if records.ttl < ttl:  # the profile's is the rule's own as well, but for what the list caps
        ttl = records.ttl
    reply_begin(q, &w)
    while index_next_record(&records, &record):
        if record.rrtype == q.qtype or q.qtype == TYPE_ANY:
            write_record(&w, record.rrtype, ttl, record.rdata, record.rdlength)
            written += 1
        elif record.rrtype == TYPE_CNAME:
            q.reason = REASON_LOCAL
            return VERDICT_PUNT
    return reply_end(q, &w, written, 0, write_zone(q, &w, s, profile)) if written else reply_negative(q, &w, s, profile, ttl)


cdef bint asks_structured(const Query* q) noexcept nogil:
    """Whether the client understands a structured error: it sent the option that says so, empty."""
    cdef uint32_t at, size
    return q.options_end > q.options_at and q.edns != NULL and q.edns.structured != 0 \
        and edns_option(q, q.edns.structured, &at, &size) and size == 0


cdef void reply_reason(Query* q, const Profile* profile) noexcept nogil:
    # The EDE of a block, in words for a person or, where asked, structured: never as Forged Answer then.
    q.ede = profile.ede
    q.ede_text = profile.text
    q.ede_size = profile.text_size
    if q.ede != EDE_NONE and asks_structured(q):
        if q.ede == EDE_FORGED_ANSWER:
            q.ede = EDE_BLOCKED
        q.ede_text = profile.full
        q.ede_size = profile.full_size
        q.ede_brief = profile.brief
        q.ede_brief_size = profile.brief_size


cdef int reply_blocked(Query* q, const SnapshotView* s) noexcept nogil:
    """What the cell says of a blocked name: sinkhole addresses only for A and AAAA, HINFO for ANY (RFC 8482 section 4.2),
    every other type NODATA, so that the client has no way around by HTTPS or SVCB records."""
    cdef Writer w
    cdef const Profile* profile = &s.profiles[q.cell.profile]
    cdef uint32_t action = q.cell.action
    if action == ACTION_DROP:
        return VERDICT_DROP
    if action == ACTION_CNAME:  # the target has to be resolved: Python does that
        q.reason = REASON_LOCAL
        return VERDICT_PUNT
    reply_reason(q, profile)
    q.rcode = RCODE_NOERROR
    if action == ACTION_REFUSED or action == ACTION_SERVFAIL:
        q.rcode = RCODE_REFUSED if action == ACTION_REFUSED else RCODE_SERVFAIL
        return reply_error(q)
    if action == ACTION_DATA:
        return reply_data(q, s, profile)
    if action == ACTION_LOCAL:
        return reply_local(q, s, profile)
    if action == ACTION_TCP_ONLY:
        return reply_truncated(q)
    reply_begin(q, &w)
    if action == ACTION_ADDRESS or action == ACTION_ZERO:
        if q.qtype == TYPE_A:
            write_record(&w, TYPE_A, profile.ttl, profile.ipv4, 4)
            return reply_end(q, &w, 1, 0, write_zone(q, &w, s, profile))
        if q.qtype == TYPE_AAAA:
            write_record(&w, TYPE_AAAA, profile.ttl, profile.ipv6, 16)
            return reply_end(q, &w, 1, 0, write_zone(q, &w, s, profile))
        if q.qtype == TYPE_ANY:
            write_record(&w, TYPE_HINFO, profile.ttl, RFC8482, 9)
            return reply_end(q, &w, 1, 0, write_zone(q, &w, s, profile))
    elif action == ACTION_NXDOMAIN:
        q.rcode = RCODE_NXDOMAIN
        put_u16(w.data + 2, reply_flags(q))
    return reply_negative(q, &w, s, profile, profile.ttl)


cdef inline bint shows_ad(const Query* q) noexcept nogil:
    """Whether the client gets to see that an answer was validated: it asked for that (RFC 6840 sections 5.7 and 5.8)."""
    return q.dnssec_ok or q.flags & FLAG_AD


cdef int reply_answer(Query* q, const Answer* answer) noexcept nogil:
    """An upstream's answer as it stands, with our header, the client's question and TTLs counted down."""
    cdef Writer w
    cdef uint32_t i, ttl, flags
    cdef const uint8_t* packet = answer.packet
    cdef uint8_t* place
    flags = ((<uint32_t> packet[2] << 8) | packet[3]) & (FLAG_TC | FLAG_AD | 0xF)
    if answer.stale or not shows_ad(q):  # what is stale may have signatures that have expired since
        flags &= ~<uint32_t> FLAG_AD
    q.ecs_scope = answer.scope
    q.rcode = <uint16_t> (flags & 0xF)
    reply_begin(q, &w)
    put_u16(w.data + 2, reply_flags(q) | (flags & (FLAG_TC | FLAG_AD)))
    write_octets(&w, packet + q.question_end, answer.size - q.question_end)
    q.ede = answer.ede
    if answer.failed and answer.ede == EDE_NONE:  # a server's error without a reason of its own
        q.ede = EDE_NO_REACHABLE_AUTHORITY if q.rcode == RCODE_REFUSED else EDE_NETWORK_ERROR
    if answer.stale:
        q.ede = EDE_STALE_NXDOMAIN if q.rcode == RCODE_NXDOMAIN else EDE_STALE_ANSWER
        for i in range(answer.ttl_count if not w.full else 0):
            put_u32(q.reply + answer.ttls[i], STALE_TTL)
    elif not w.full and answer.age:
        for i in range(answer.ttl_count):
            place = q.reply + answer.ttls[i]
            ttl = get_u32(place)
            put_u32(place, ttl - answer.age if ttl > answer.age else 0)
    return reply_end(q, &w, (<uint32_t> packet[6] << 8) | packet[7], (<uint32_t> packet[8] << 8) | packet[9],
                     (<uint32_t> packet[10] << 8) | packet[11])
