# limit: token buckets in memory that all workers share: one for each client prefix that asks, and one for each kind of
# answer that goes to a prefix.
#
# A bucket holds at most one second's worth of queries. The table is four-way associative and of fixed size: a prefix that
# finds its four places taken gets that of the one heard of longest ago, with a full bucket, so a flood from many
# prefixes cannot lock others out. Workers write without a lock: a race may lose a query's payment, never more.
#
# Limiting responses is for ports that strangers can reach: what is asked under a forged address is answered to the owner of
# that address. Answers with records count by name and type, others by what they are, as one who forges asks the same again
# and again, and a network behind one address does not. What is over the limit is dropped, and one of `slip` becomes an
# empty answer with TC, so that a real client comes back over TCP; a client with a good cookie is not limited.

cdef enum:
    LIMIT_WAYS = 4
    BUCKET_SHARE = 1000        # a query's price in tokens: a rate of one a second earns one token a millisecond
    LIMIT_TRUNCATE = 0         # Limits.action
    LIMIT_DROP = 1
    LIMIT_REFUSE = 2
    KIND_NODATA = 1            # kinds of answers that are not told apart by name
    KIND_NXDOMAIN = 2
    KIND_ERROR = 3

cdef struct Bucket:
    uint64_t who               # hash of the prefix, and of the kind of answer; never 0; 0: free
    uint32_t tokens
    uint32_t at                # millisecond of the last payment

cdef struct Limits:
    Bucket* buckets            # NULL: no limit
    uint32_t sets              # of LIMIT_WAYS buckets, a power of two
    uint32_t per_second        # queries of a prefix over UDP, 0: no limit
    uint32_t responses         # of a kind to a prefix over UDP, each second, 0: no limit
    uint32_t slip              # one of so many beyond that gets TC; 0: none
    uint32_t action            # LIMIT_…, with a query beyond per_second
    uint8_t mask4              # bits of a prefix
    uint8_t mask6
    uint64_t key0, key1


cdef uint64_t limit_prefix(const Limits* l, const uint8_t* client, uint64_t kind) noexcept nogil:
    # The hash of the client's prefix and, if it is not 0, of a kind of answer.
    cdef uint8_t octets[16]
    cdef uint32_t i, bits = l.mask6
    cdef uint64_t word
    cdef Sip state
    memcpy(octets, client, 16)
    if is_mapped(client):
        bits = 96 + l.mask4
    for i in range(bits // 8, 16):
        octets[i] = <uint8_t> (octets[i] & (0xFF00 >> (bits % 8) & 0xFF)) if i == bits // 8 else 0
    sip_start(&state, l.key0, l.key1)
    memcpy(&word, octets, 8)
    sip_word(&state, word)
    memcpy(&word, octets + 8, 8)
    sip_word(&state, word)
    if kind:
        sip_word(&state, kind)
    return sip_finish64(&state) | 1


cdef bint limit_pays(const Limits* l, uint64_t who, uint32_t rate, uint64_t microseconds) noexcept nogil:
    """Take one query's price from a bucket that earns `rate` queries a second; False where it is empty."""
    cdef uint64_t earned
    cdef uint32_t now = <uint32_t> (microseconds // 1000), full = rate * BUCKET_SHARE
    cdef Bucket* row = l.buckets + (who >> 32 & (l.sets - 1)) * LIMIT_WAYS
    cdef Bucket* bucket = row
    cdef uint32_t i
    for i in range(LIMIT_WAYS):
        if row[i].who == who:
            bucket = &row[i]
            break
        if now - row[i].at > now - bucket.at or row[i].who == 0:
            bucket = &row[i]
    if bucket.who != who:
        bucket.who = who
        bucket.tokens = full
        bucket.at = now
    earned = <uint64_t> (now - bucket.at) * rate
    if now - bucket.at >= 0x80000000u:  # another worker's clock was a moment ahead
        earned = 0
    else:
        bucket.at = now
    bucket.tokens = <uint32_t> (full if bucket.tokens + earned > full else bucket.tokens + earned)
    if bucket.tokens < BUCKET_SHARE:
        return False
    bucket.tokens -= BUCKET_SHARE
    return True


cdef uint64_t limit_kind(const Limits* l, const Query* q) noexcept nogil:
    """The kind of the answer in q.reply: its name and type where it has records, else what it says."""
    if q.rcode == RCODE_NOERROR and (q.reply[6] or q.reply[7]):
        return sip_octets(l.key0, l.key1 ^ q.qtype, q.name, q.name_size) | 4
    return KIND_NODATA if q.rcode == RCODE_NOERROR else KIND_NXDOMAIN if q.rcode == RCODE_NXDOMAIN else KIND_ERROR
