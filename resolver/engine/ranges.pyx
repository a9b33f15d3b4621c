# ranges: an address to what lists say of it. lists/ranges.py flattened every list's prefixes into ascending ranges.
#
# As with clients, IPv4 has an index by its high 16 bits, so that a hundred thousand addresses cost two loads and a short
# search; IPv6 is searched in halves. Nothing of a file is used before ranges_fault() has found it in range.


cdef inline uint32_t ranges_find4(const Ranges* r, uint32_t address) noexcept nogil:
    """The set that speaks of an IPv4 address in host order; 0: nobody does. Only where count4 is not 0."""
    return r.sets4[last_start(r.starts4, r.first4[address >> 16], r.first4[(address >> 16) + 1], address)]


cdef uint32_t ranges_find(const Ranges* r, const uint8_t* address) noexcept nogil:
    """The set that speaks of an address of 16 octets, IPv4 as ::ffff:a.b.c.d; 0: nobody does."""
    cdef uint32_t low = 0, high, middle
    if r.count4 == 0:
        return 0
    if is_mapped(address):
        return ranges_find4(r, get_u32(address + 12))
    high = r.count6 - 1
    while low < high:
        middle = low + (high - low + 1) // 2
        if memcmp(r.starts6 + 16 * <size_t> middle, address, 16) <= 0:
            low = middle
        else:
            high = middle - 1
    return r.sets6[low]


cdef const char* ranges_fault(const uint8_t* at, uint64_t length, uint32_t sets, Ranges* r) noexcept nogil:
    """Check a section of ranges and fill in `r`, all but first4; NULL, or what is wrong."""
    cdef uint64_t count4, count6, i
    memset(r, 0, sizeof(Ranges))
    if length == 0:
        return NULL
    if length < RANGES_HEADER:
        return "a table of addresses is cut off"
    count4 = load_le32(at)
    count6 = load_le32(at + 4)
    if count4 == 0 or count6 == 0 or length != RANGES_HEADER + 8 * count4 + 20 * count6:
        return "a table of addresses has not the length that it says"
    r.starts4 = <const uint32_t*>(at + RANGES_HEADER)
    r.sets4 = r.starts4 + count4
    r.sets6 = r.sets4 + count4
    r.starts6 = <const uint8_t*>(r.sets6 + count6)
    r.count6 = <uint32_t>count6
    for i in range(count4):
        if r.sets4[i] >= sets:
            return "a range's set is out of range"
        if (r.starts4[i] != 0) if i == 0 else (r.starts4[i] <= r.starts4[i - 1]):
            return "ranges do not ascend from zero"
    for i in range(count6):
        if r.sets6[i] >= sets:
            return "a range's set is out of range"
        if i and memcmp(r.starts6 + 16 * (i - 1), r.starts6 + 16 * i, 16) >= 0:
            return "ranges do not ascend from zero"
    for i in range(16):
        if r.starts6[i]:
            return "ranges do not ascend from zero"
    r.count4 = <uint32_t>count4
    return NULL


cdef bint ranges_index(Ranges* r) noexcept nogil:
    # Fill first4; False without memory.
    cdef uint32_t i, at = 0
    if r.count4 == 0:
        return True
    r.first4 = <uint32_t*> malloc(65537 * sizeof(uint32_t))
    if r.first4 == NULL:
        return False
    for i in range(<uint32_t> 65536):
        while at + 1 < r.count4 and r.starts4[at + 1] <= i << 16:
            at += 1
        r.first4[i] = at
    r.first4[65536] = r.count4 - 1
    return True
