# local: answers from what the config itself says of a name (Action.LOCAL): its own records and special names.
#
# resolver/lists/own.py writes such names as a list of its own, so they are found by the look-up that every query makes. The
# data of each record begins with its TTL. An SOA among them is that of the zone the name lies in, whose own name is the
# SOA's MNAME (RFC 6303 section 3); it goes with negative answers. A name without one gets the SOA that blocks have.


cdef int reply_soa(Query* q, Writer* w, const Record* soa) noexcept nogil:
    """NODATA or NXDOMAIN by q.rcode with a zone's SOA, of at least five octets; VERDICT_DROP if the name is not in it."""
    cdef const uint8_t* mname = soa.rdata + 4
    cdef uint32_t size = soa.rdlength - 4, at = 0, count = 0, label = 0
    while at < size and mname[at]:
        at += 1 + mname[at]
        count += 1
    if count == 0 or at >= size or count > q.labels_count:
        return VERDICT_DROP
    label = q.labels[q.labels_count - count]
    if label + at + 1 != q.name_size or memcmp(q.name + label, mname, at + 1) != 0:
        return VERDICT_DROP
    write_u16(w, <uint32_t> POINTER << 8 | (HEADER + label))
    write_u16(w, TYPE_SOA)
    write_u16(w, CLASS_IN)
    write_octets(w, soa.rdata, 4)
    write_u16(w, size)
    write_octets(w, mname, size)
    return reply_end(q, w, 0, 1, 0)


cdef const uint8_t* RFC8482 = b"\x07RFC8482\x00"


cdef int reply_local(Query* q, const SnapshotView* s, const Profile* profile) noexcept nogil:
    """The records of the type asked, an alias for Python to chase (PUNT), else NODATA or NXDOMAIN with the zone's SOA."""
    cdef Writer w
    cdef RecordSet records
    cdef Record record
    cdef Record soa
    cdef uint32_t written = 0
    cdef uint8_t mapped[16]
    cdef bint exists, makes = q.qtype == TYPE_AAAA and s.dns64.on and dns64_serves(s, q)
    soa.rdlength = 0
    if not index_records(s.index, index_data(s.index, q.listset, q.cell.member), &records):
        records.count = records.flags = 0
    if records.flags & RECORDS_MAPPED:
        q.reason = REASON_LOCAL
        return VERDICT_PUNT
    exists = not records.flags & RECORDS_NXDOMAIN
    if not exists:
        q.rcode = RCODE_NXDOMAIN
    reply_begin(q, &w)
    if q.qtype == TYPE_ANY and exists and records.count:  # RFC 8482 section 4.2
        write_record(&w, TYPE_HINFO, profile.ttl, RFC8482, 9)
        return reply_end(q, &w, 1, 0, 0)
    while index_next_record(&records, &record):
        if record.rdlength < 5:
            continue
        if exists and record.rrtype == q.qtype:
            write_record(&w, record.rrtype, get_u32(record.rdata), record.rdata + 4, record.rdlength - 4u)
            written += 1
            makes = False
        elif exists and record.rrtype == TYPE_CNAME:
            q.reason = REASON_LOCAL
            return VERDICT_PUNT
        elif record.rrtype == TYPE_SOA:
            soa = record
    if makes and index_records(s.index, index_data(s.index, q.listset, q.cell.member), &records):
        while index_next_record(&records, &record):
            if record.rrtype == TYPE_A and record.rdlength == 8 and dns64_map(&s.dns64, record.rdata + 4, mapped):
                write_record(&w, TYPE_AAAA, get_u32(record.rdata), mapped, 16)
                written += 1
    if written:
        return reply_end(q, &w, written, 0, 0)
    if soa.rdlength and reply_soa(q, &w, &soa) == VERDICT_REPLY:
        return VERDICT_REPLY
    return reply_negative(q, &w, s, profile, profile.ttl)
