# proxy: what a load balancer that is trusted says before a datagram's query (PROXY protocol, version 2; the layout is drawn
# in listeners/proxy.py). The reply goes to the balancer as it is.

cdef enum:
    PROXY_NETWORKS = 64
    PROXY_FIXED = 16           # octets before the addresses

cdef struct Proxies:
    uint32_t count             # 0: nobody's word is taken
    uint8_t networks[PROXY_NETWORKS][16]
    uint8_t prefixes[PROXY_NETWORKS]  # bits that count

cdef const uint8_t* PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


cdef bint proxy_trusts(const Proxies* p, const uint8_t* client) noexcept nogil:
    # Whether a client, 16 octets, is a trusted balancer.
    cdef uint32_t i, whole, rest
    for i in range(p.count):
        whole = p.prefixes[i] >> 3
        rest = p.prefixes[i] & 7
        if memcmp(client, p.networks[i], whole) == 0 \
                and (rest == 0 or (client[whole] ^ p.networks[i][whole]) >> (8 - rest) == 0):
            return True
    return False


cdef bint proxy_open(const Proxies* p, Query* q) noexcept nogil:
    """Take the header off a trusted balancer's datagram, and the client from it; False: there is none as it should be."""
    cdef Reader r
    cdef uint32_t command, family, length, size
    if not proxy_trusts(p, q.client):
        return True
    reader_start(&r, q.packet, q.size)
    read_skip(&r, 12)
    command = read_u8(&r)
    family = read_u8(&r) >> 4
    length = read_u16(&r)
    read_skip(&r, length)
    if r.failed or memcmp(q.packet, PROXY_SIGNATURE, 12) != 0 or (command != 0x20 and command != 0x21) or family > 3:
        return False
    size = 4 if family == 1 else 16 if family == 2 else 0
    if command == 0x21 and size:
        if length < 2 * size + 4:
            return False
        if size == 4:
            memset(q.client, 0, 10)
            q.client[10] = q.client[11] = 0xFF
        memcpy(q.client + 16 - size, q.packet + PROXY_FIXED, size)
    q.packet += r.at
    q.size -= r.at
    return True
