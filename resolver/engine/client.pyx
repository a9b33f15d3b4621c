# client: an address to its policy class, by longest prefix, flattened into ascending ranges.
#
# Range i covers starts[i] up to starts[i + 1] - 1; the first starts at zero, so every address lies in one. IPv4 has an
# index by its high 16 bits: two loads and a short search even with hundreds of thousands of subscribers.
# resolver/lists/clients.py makes the ranges.

cdef struct Clients:
    const uint32_t* starts4    # host order
    const uint16_t* classes4
    uint32_t count4
    uint32_t* first4           # 65,537: the range in which x.y.0.0 lies, and count4 - 1 at the end
    const uint8_t* starts6     # 16 octets each, network order
    const uint16_t* classes6
    uint32_t count6


cdef inline bint is_mapped(const uint8_t* address) noexcept nogil:
    # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2).
    return (<const uint64_t*> address)[0] == 0 and (<const uint32_t*> (address + 8))[0] == MAPPED_WORD


cdef inline uint32_t last_start(const uint32_t* starts, uint32_t low, uint32_t high, uint32_t value) noexcept nogil:
    """Which of starts[low] to starts[high] is the last that is not beyond `value`; starts[low] is not.

    Without a branch that depends on what is found: a wrong guess of the processor's costs more than a step.
    """
    cdef uint32_t count = high - low + 1, half
    while count > 1:
        half = count >> 1
        low += half * <uint32_t> (starts[low + half] <= value)
        count -= half
    return low


cdef uint32_t client_class(const Clients* c, const uint8_t* address) noexcept nogil:
    """The policy class of a client's 16 octets; CLASS_REFUSED for one that may not ask."""
    cdef uint32_t low, high, middle, value
    if is_mapped(address):
        value = get_u32(address + 12)
        return c.classes4[last_start(c.starts4, c.first4[value >> 16], c.first4[(value >> 16) + 1], value)]
    low = 0
    high = c.count6 - 1
    while low < high:
        middle = (low + high + 1) // 2
        if memcmp(c.starts6 + 16 * <size_t> middle, address, 16) <= 0:
            low = middle
        else:
            high = middle - 1
    return c.classes6[low]


cdef void clients_free(Clients* c) noexcept nogil:
    free(c.first4)  # the rest was lent: Snapshot.lent


cdef bint clients_index(Clients* c) noexcept nogil:
    # Fill first4; False without memory.
    cdef uint32_t i, at = 0
    c.first4 = <uint32_t*> malloc(65537 * sizeof(uint32_t))
    if c.first4 == NULL:
        return False
    for i in range(65536):
        while at + 1 < c.count4 and c.starts4[at + 1] <= i << 16:
            at += 1
        c.first4[i] = at
    c.first4[65536] = c.count4 - 1
    return True
