# edns: the options of a query that this server knows, and what it answers to each.
#
# wire.pyx walks the options once, notes which of these are there and where all of them are; a query without any of them
# costs one test. What is unknown is neither looked at nor echoed (RFC 6891 section 6.1.2).
#
# Cookies (RFC 7873) are those of RFC 9018: version 1, a timestamp, and SipHash-2-4 of client cookie, version, timestamp and
# address under a secret. Secrets change each day by themselves: that of a day is SipHash-2-4 of its number under a key
# that all workers share and that outlives restarts. A cookie says by its timestamp under which it was made, so nothing has
# to be handed round when a day ends. Good for an hour, renewed after half of one (RFC 9018 section 4.3).
#
# Where cookies are required, a client over UDP that has not proven its address gets no more octets than it sent:
# BADCOOKIE with a cookie where that fits, else TC, which brings it back over TCP for one.

cdef enum:
    COOKIE_VERSION = 1
    COOKIE_CLIENT = 8          # octets of the client's half
    COOKIE_SERVER = 16         # and of ours
    COOKIE_GOOD_FOR = 3600     # seconds
    COOKIE_AHEAD = 300         # that a timestamp may lie ahead
    COOKIE_FRESH = 1800        # in which the same cookie is sent again
    COOKIE_DAY = 86400         # that a secret is used
    ECS_IPV4 = 1               # FAMILY (RFC 7871 section 6)
    ECS_IPV6 = 2


cdef inline void sip24_word(Sip* s, uint64_t word) noexcept nogil:
    s.v3 ^= word
    sip_round(s)
    sip_round(s)
    s.v0 ^= word


cdef uint64_t sip24(uint64_t key0, uint64_t key1, const uint8_t* octets, uint32_t size) noexcept nogil:
    """SipHash-2-4 with 64 bits of output, as its authors have it."""
    cdef Sip s
    cdef uint64_t word
    cdef uint32_t left = size
    s.v0 = key0 ^ 0x736f6d6570736575U
    s.v1 = key1 ^ 0x646f72616e646f6dU
    s.v2 = key0 ^ 0x6c7967656e657261U
    s.v3 = key1 ^ 0x7465646279746573U
    while left >= 8:
        sip24_word(&s, load_le64(octets))
        octets += 8
        left -= 8
    word = 0
    memcpy(&word, octets, left)
    sip24_word(&s, word | <uint64_t> size << 56)
    s.v2 ^= 0xff
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef bint edns_option(const Query* q, uint32_t wanted, uint32_t* at, uint32_t* size) noexcept nogil:
    """Where the first option of a code has its data; wire.pyx has proven the options' form."""
    cdef Reader r
    cdef uint32_t code
    reader_start(&r, q.packet, q.options_end)
    r.at = q.options_at
    while r.at < q.options_end and not r.failed:
        code = read_u16(&r)
        size[0] = read_u16(&r)
        at[0] = r.at
        read_skip(&r, size[0])
        if code == wanted:
            return not r.failed
    return False


# -- cookies ----------------------------------------------------------------------------------------------------------
cdef uint64_t cookie_hash(const Edns* edns, const Query* q, const uint8_t* server, uint32_t made) noexcept nogil:
    # The hash of a server cookie that begins with `server` (RFC 9018 section 4.4), under the secret of its day.
    cdef uint8_t octets[32]
    cdef uint8_t day[9]
    cdef uint64_t secret0, secret1
    cdef bint is_ipv4 = is_mapped(q.client)
    put_u32(day, 0)
    put_u32(day + 4, made // COOKIE_DAY)
    day[8] = 0
    secret0 = sip24(edns.key0, edns.key1, day, 9)
    day[8] = 1
    secret1 = sip24(edns.key0, edns.key1, day, 9)
    memcpy(octets, q.packet + q.cookie_at, COOKIE_CLIENT)
    memcpy(octets + 8, server, 8)
    memcpy(octets + 16, q.client + (12 if is_ipv4 else 0), 4 if is_ipv4 else 16)
    return sip24(secret0, secret1, octets, 20 if is_ipv4 else 32)


cdef void cookie_take(const Edns* edns, Query* q, uint32_t now) noexcept nogil:
    """Judge the query's cookie and make the one to answer with; `now`: seconds since the epoch, modulo 2^32."""
    cdef const uint8_t* server
    cdef uint32_t at, size, made
    cdef uint64_t hashed
    cdef int32_t age
    if not edns_option(q, OPTION_COOKIE, &at, &size):
        return
    q.cookie_at = at
    q.cookie_state = COOKIE_NEW
    if size > COOKIE_CLIENT:
        q.cookie_state = COOKIE_BAD
        server = q.packet + at + COOKIE_CLIENT
        if size == COOKIE_CLIENT + COOKIE_SERVER and server[0] == COOKIE_VERSION:
            made = get_u32(server + 4)
            age = <int32_t> (now - made)  # serial number arithmetic (RFC 1982)
            hashed = cookie_hash(edns, q, server, made)
            if -COOKIE_AHEAD <= age <= COOKIE_GOOD_FOR and hashed == load_le64(server + 8):
                q.cookie_state = COOKIE_GOOD
                if age <= COOKIE_FRESH:
                    memcpy(q.cookie, server, COOKIE_SERVER)
                    return
    put_u32(q.cookie, COOKIE_VERSION << 24)
    put_u32(q.cookie + 4, now)
    hashed = cookie_hash(edns, q, q.cookie, now)
    memcpy(q.cookie + 8, &hashed, 8)


cdef int cookie_refuse(Query* q) noexcept nogil:
    # To a client that has to prove its address: BADCOOKIE if it sent as many octets as that has, else TC.
    cdef uint32_t behind = q.question_end if q.question_end else HEADER
    q.options &= ASKED_COOKIE
    if q.size < q.limit:
        q.limit = q.size
    if q.cookie_state == COOKIE_NONE or q.limit < behind + 11 + 4 + COOKIE_CLIENT + COOKIE_SERVER:
        return reply_truncated(q)
    q.rcode = RCODE_BADCOOKIE
    return reply_error(q)


# -- the client's network ---------------------------------------------------------------------------------------------
cdef void ecs_network(Query* q, uint32_t family, uint32_t bits, const uint8_t* address) noexcept nogil:
    # q.ecs: the first `bits` of an address.
    cdef uint32_t i, octets = (bits + 7) // 8
    q.ecs[0] = <uint8_t> family
    q.ecs[1] = <uint8_t> bits
    for i in range(octets):
        q.ecs[2 + i] = address[i]
    if bits % 8:
        q.ecs[1 + octets] &= <uint8_t> (0xFF00 >> (bits % 8))
    q.ecs_size = 2 + octets


cdef bint ecs_take(const Edns* edns, Query* q) noexcept nogil:
    """Which network an upstream is told that the query comes from (RFC 7871 section 7.1); False: the option is malformed.

    Forwarding passes the client's word on, no longer than the limits; setting tells where the client is, unless it says
    with a prefix of no length that it does not want that.
    """
    cdef uint32_t at, size, family = 0, bits = 0, most
    cdef uint8_t address[16]
    cdef bint is_ipv4
    q.ecs_size = 0
    if q.options & ASKED_ECS and edns_option(q, OPTION_ECS, &at, &size):
        if size < 4:
            return False
        family = (<uint32_t> q.packet[at] << 8) | q.packet[at + 1]
        bits = q.packet[at + 2]
        most = 32 if family == ECS_IPV4 else 128 if family == ECS_IPV6 else 0
        # Section 6: no scope, and no octet too many.
        if q.packet[at + 3] or family > ECS_IPV6 or bits > most or size - 4 != (bits + 7) // 8:
            return False
        if bits % 8 and q.packet[at + size - 1] & (0xFF >> (bits % 8)):
            return False
        q.ecs_at = at
        q.ecs_length = size
        if family == 0:  # with no prefix: the client opts out, whatever its family
            family = ECS_IPV4
        most = edns.prefix4 if family == ECS_IPV4 else edns.prefix6
        if edns.ecs == ECS_FORWARD or bits == 0:
            memset(address, 0, 16)
            memcpy(address, q.packet + at + 4, size - 4)
            ecs_network(q, family, bits if bits < most else most, address)
            return True
    if edns.ecs == ECS_SET:
        is_ipv4 = is_mapped(q.client)
        ecs_network(q, ECS_IPV4 if is_ipv4 else ECS_IPV6, edns.prefix4 if is_ipv4 else edns.prefix6,
                    q.client + (12 if is_ipv4 else 0))
    return True


cdef uint32_t ecs_option_size(const Query* q) noexcept nogil:
    # Of the option for an upstream, its head included.
    return 4 + 4 + q.ecs_size - 2 if q.ecs_size else 0


cdef void ecs_option(const Query* q, uint8_t* to) noexcept nogil:
    """The option for an upstream, ecs_option_size() octets."""
    put_u16(to, OPTION_ECS)
    put_u16(to + 2, 4 + q.ecs_size - 2)
    put_u16(to + 4, q.ecs[0])
    to[6] = q.ecs[1]
    to[7] = 0
    memcpy(to + 8, q.ecs + 2, q.ecs_size - 2)


cdef uint32_t ecs_told(const Query* q, const uint8_t* data, uint32_t size) noexcept nogil:
    """The scope that an upstream's option says its answer has; no option that fits what it was told: that whole network
    (RFC 7871 section 7.3)."""
    if size >= 4 and q.ecs_size and (<uint32_t> data[0] << 8 | data[1]) == q.ecs[0] and data[2] == q.ecs[1] \
            and size - 4 == q.ecs_size - 2 and memcmp(data + 4, q.ecs + 2, size - 4) == 0:
        return data[3] if data[3] < q.ecs[1] else q.ecs[1]
    return q.ecs[1]


# -- the stages -------------------------------------------------------------------------------------------------------
cdef int edns_check(const Edns* edns, Query* q) noexcept nogil:
    """What an option, or its absence, ends a query with: CONTINUE or REPLY."""
    if edns.cookies == COOKIES_REQUIRED and q.cookie_state != COOKIE_GOOD and q.transport == TRANSPORT_UDP:
        return cookie_refuse(q)
    if q.cookie_state == COOKIE_BAD and q.transport == TRANSPORT_UDP:  # the fresh one goes with it (RFC 7873 section 5.2.4)
        q.rcode = RCODE_BADCOOKIE
        return reply_error(q)
    if edns.ecs != ECS_STRIP and not ecs_take(edns, q):
        q.rcode = RCODE_FORMERR
        return reply_error(q)
    return CONTINUE


cdef uint32_t edns_size(const Query* q) noexcept nogil:
    """Octets of the options that edns_write will write."""
    cdef const Edns* edns = q.edns
    cdef uint32_t size = 0
    if edns == NULL:
        return 0
    if q.options & ASKED_COOKIE and q.cookie_state != COOKIE_NONE:
        size += 4 + COOKIE_CLIENT + COOKIE_SERVER
    if q.options & ASKED_NSID and edns.nsid_size:
        size += 4 + edns.nsid_size
    if q.options & ASKED_KEEPALIVE and edns.keepalive and TRANSPORT_UDP < q.transport <= TRANSPORT_TLS:
        size += 6
    if q.options & ASKED_ECS and q.ecs_length:
        size += 4 + q.ecs_length
    return size


cdef void edns_write(const Query* q, Writer* w) noexcept nogil:
    """The options that answer those of the query: its cookie with ours, our name, how long a connection may idle, and for
    which network the answer is."""
    cdef const Edns* edns = q.edns
    cdef uint32_t bits
    if edns == NULL:
        return
    if q.options & ASKED_COOKIE and q.cookie_state != COOKIE_NONE:
        write_u16(w, OPTION_COOKIE)
        write_u16(w, COOKIE_CLIENT + COOKIE_SERVER)
        write_octets(w, q.packet + q.cookie_at, COOKIE_CLIENT)
        write_octets(w, q.cookie, COOKIE_SERVER)
    if q.options & ASKED_NSID and edns.nsid_size:
        write_u16(w, OPTION_NSID)
        write_u16(w, edns.nsid_size)
        write_octets(w, edns.nsid, edns.nsid_size)
    if q.options & ASKED_KEEPALIVE and edns.keepalive and TRANSPORT_UDP < q.transport <= TRANSPORT_TLS:
        write_u16(w, OPTION_KEEPALIVE)
        write_u16(w, 2)
        write_u16(w, edns.keepalive)
    if q.options & ASKED_ECS and q.ecs_length:
        bits = q.packet[q.ecs_at + 2]
        write_u16(w, OPTION_ECS)
        write_u16(w, q.ecs_length)
        write_octets(w, q.packet + q.ecs_at, 3)
        # Where upstream was told of another network than the client's word, the answer is for that word alone.
        write_u8(w, bits if q.ecs_scope and edns.ecs == ECS_SET else q.ecs_scope)
        write_octets(w, q.packet + q.ecs_at + 4, q.ecs_length - 4)


cdef void edns_add(Query* q) noexcept nogil:
    """Put the options into a reply that Python made: into its OPT record where that is its last and there is room, which
    in an answer that is as long as the client takes there need not be."""
    cdef Reader r
    cdef Writer w
    cdef uint32_t records, start = 0, at = 0, rtype = 0, size = edns_size(q), room = q.reply_room
    if q.transport == TRANSPORT_UDP and q.limit < room:
        room = q.limit
    if not size or q.reply_size > room - size:
        return
    reader_start(&r, q.reply, q.reply_size)
    r.at = 6
    records = read_u16(&r) + read_u16(&r)
    records += read_u16(&r)
    r.at = q.question_end
    for _ in range(records):
        start = r.at
        read_past_name(&r)
        rtype = read_u16(&r)
        read_skip(&r, 6)
        at = r.at
        read_skip(&r, read_u16(&r))
    if r.failed or r.at != q.reply_size or rtype != TYPE_OPT or q.reply[start]:
        return
    put_u16(q.reply + at, r.at - at - 2 + size)
    w.data = q.reply
    w.room = room
    w.at = r.at
    w.full = False
    edns_write(q, &w)
    q.reply_size = w.at


# -- who we are -------------------------------------------------------------------------------------------------------
cdef bint is_name(const Query* q, const char* wire, uint32_t size) noexcept nogil:
    return q.name_size == size and memcmp(q.name, wire, size) == 0


cdef int reply_chaos(Query* q) noexcept nogil:
    """Class CH: what the config tells of version and identity (RFC 4892), else REFUSED."""
    cdef Writer w
    cdef const uint8_t* text = NULL
    cdef uint32_t size = 0
    if q.edns != NULL and (q.qtype == TYPE_TXT or q.qtype == TYPE_ANY):
        if is_name(q, b"\7version\4bind", 14) or is_name(q, b"\7version\6server", 16):
            text = q.edns.version
            size = q.edns.version_size
        elif is_name(q, b"\2id\6server", 11) or is_name(q, b"\x08hostname\4bind", 15):
            text = q.edns.id
            size = q.edns.id_size
    if size == 0:
        return reply_refused(q, EDE_NOT_SUPPORTED)
    q.rcode = RCODE_NOERROR
    reply_begin(q, &w)
    write_u16(&w, NAME_OF_QUESTION)
    write_u16(&w, TYPE_TXT)
    write_u16(&w, CLASS_CH)
    write_u32(&w, 0)
    write_u16(&w, size)
    write_octets(&w, text, size)
    return reply_end(q, &w, 1, 0, 0)
