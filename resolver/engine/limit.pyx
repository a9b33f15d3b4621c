# limit: a token bucket for each client prefix, in memory that all workers share.
#
# A bucket holds at most one second's worth of queries. The table is four-way associative and of fixed size: a prefix that
# finds its four places taken gets that of the one heard of longest ago, with a full bucket, so a flood from many
# prefixes cannot lock others out. Workers write without a lock: a race may lose a query's payment, never more.

cdef enum:
    LIMIT_WAYS = 4
    BUCKET_SHARE = 1000        # a query's price in tokens: a rate of one a second earns one token a millisecond

cdef struct Bucket:
    uint64_t who               # hash of the prefix, never 0; 0: free
    uint32_t tokens
    uint32_t at                # millisecond of the last payment

cdef struct Limits:
    Bucket* buckets            # NULL: no limit
    uint32_t sets              # of LIMIT_WAYS buckets, a power of two
    uint32_t per_second
    uint8_t mask4              # bits of a prefix
    uint8_t mask6
    uint64_t key0, key1


cdef uint64_t limit_prefix(const Limits* l, const uint8_t* client) noexcept nogil:
    # The hash of the client's prefix.
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
    return sip_finish64(&state) | 1


cdef bint limit_pays(const Limits* l, const uint8_t* client, uint64_t microseconds) noexcept nogil:
    """Take one query's price from the client's bucket; False where it is empty."""
    cdef uint64_t who = limit_prefix(l, client), earned
    cdef uint32_t now = <uint32_t> (microseconds // 1000), full = l.per_second * BUCKET_SHARE
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
    earned = <uint64_t> (now - bucket.at) * l.per_second
    if now - bucket.at >= 0x80000000u:  # another worker's clock was a moment ahead
        earned = 0
    else:
        bucket.at = now
    bucket.tokens = <uint32_t> (full if bucket.tokens + earned > full else bucket.tokens + earned)
    if bucket.tokens < BUCKET_SHARE:
        return False
    bucket.tokens -= BUCKET_SHARE
    return True
