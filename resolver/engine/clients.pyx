# clients: files of subscribers into intervals, and the intervals of all groups into the ranges that client.pyx searches.
#
# An interval is a first and a last address, both in it: two u32 in host order for IPv4, twice 16 octets in network order
# for IPv6. Those of one layer (a group) may overlap. Each interval is an event at its first address and one behind its
# last; a sweep over the sorted events counts how many intervals of each layer hold the address, and the lowest layer
# with any is the first in config order. 200,000 addresses take some 60 ms, without the GIL.

from libc.stdlib cimport qsort

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int, const char*, void*)

cdef enum:
    TEXT_ROOM = 64             # octets of the longest address with its prefix length, and a zero
    ODD_LINES = 10000          # lines that are left to Python, of one file
    ODD_TEXT = 200             # octets of such a line that are kept

cdef struct Event:
    uint64_t high              # the address as a number; IPv4 in `low`
    uint64_t low
    uint32_t layer
    uint32_t begins            # 1: an interval begins here, 0: one has ended

cdef struct Sweep:
    Event* events
    size_t count
    uint32_t* depth            # of each layer: how many of its intervals hold the address
    uint64_t* bits             # the layers with a depth
    uint32_t layers            # groups; then the doors, then the pauses
    const uint16_t* normal     # each group's class, and behind them that of clients in no group
    const uint16_t* halted     # the same for clients that are paused


cdef int event_order(const void* a, const void* b) noexcept nogil:
    cdef const Event* left = <const Event*> a
    cdef const Event* right = <const Event*> b
    if left.high != right.high:
        return -1 if left.high < right.high else 1
    if left.low != right.low:
        return -1 if left.low < right.low else 1
    return 0


cdef uint32_t sweep_class(const Sweep* s) noexcept nogil:
    """The class of the addresses from here on."""
    cdef uint32_t at, layer = s.layers
    if not s.depth[s.layers]:
        return CLASS_REFUSED
    for at in range(s.layers // 64 + 1):
        if s.bits[at]:
            layer = at * 64 + <uint32_t> __builtin_ctzll(s.bits[at])
            break
    if layer > s.layers:
        layer = s.layers
    return s.halted[layer] if s.depth[s.layers + 1] else s.normal[layer]


cdef size_t sweep_run(Sweep* s, bint is_six, uint8_t* starts, uint16_t* classes) noexcept nogil:
    """Fill starts and classes, which have room for one range more than there are events; returns how many there are."""
    cdef size_t i = 0, count = 1
    cdef uint64_t high = 0, low = 0
    cdef uint32_t found
    cdef Event* e
    qsort(s.events, s.count, sizeof(Event), event_order)
    memset(starts, 0, 16 if is_six else 4)
    classes[0] = CLASS_REFUSED
    while True:
        while i < s.count and s.events[i].high == high and s.events[i].low == low:
            e = s.events + i
            if e.begins:
                s.depth[e.layer] += 1
            else:
                s.depth[e.layer] -= 1
            if s.depth[e.layer]:
                s.bits[e.layer >> 6] |= <uint64_t> 1 << (e.layer & 63)
            else:
                s.bits[e.layer >> 6] &= ~(<uint64_t> 1 << (e.layer & 63))
            i += 1
        found = sweep_class(s)
        if high == 0 and low == 0:
            classes[0] = <uint16_t> found
        elif found != classes[count - 1]:
            classes[count] = <uint16_t> found
            if is_six:
                put_be64(starts + 16 * count, high)
                put_be64(starts + 16 * count + 8, low)
            else:
                (<uint32_t*> starts)[count] = <uint32_t> low
            count += 1
        if i == s.count:
            return count
        high = s.events[i].high
        low = s.events[i].low


cdef inline void put_be64(uint8_t* at, uint64_t value) noexcept nogil:
    value = __builtin_bswap64(value)
    memcpy(at, &value, 8)


cdef inline uint64_t get_be64(const uint8_t* at) noexcept nogil:
    return __builtin_bswap64(load_le64(at))


cdef int sweep_take(Sweep* s, bytes packed, uint32_t layer, bint is_six) except -1:
    """The events of a layer's intervals. ValueError if one ends before it begins."""
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(packed)
    cdef size_t width = 32 if is_six else 8, _i
    cdef uint32_t edges[2]
    cdef Event first, last
    if len(packed) % width:
        raise ValueError(f"{len(packed)} octets are no whole number of intervals")
    for _i in range(<size_t> len(packed) // width):
        first.layer = last.layer = layer
        first.begins, last.begins = 1, 0
        if is_six:
            first.high, first.low = get_be64(at), get_be64(at + 8)
            last.high, last.low = get_be64(at + 16), get_be64(at + 24)
        else:
            memcpy(edges, at, 8)
            first.high = last.high = 0
            first.low, last.low = edges[0], edges[1]
        if first.high > last.high or (first.high == last.high and first.low > last.low):
            raise ValueError("an interval ends before it begins")
        s.events[s.count] = first
        s.count += 1
        last.low += 1
        if is_six and last.low == 0:
            last.high += 1
        if (last.high or last.low) if is_six else last.low <= 0xFFFFFFFF:  # else it lasts to the end of all addresses
            s.events[s.count] = last
            s.count += 1
        at += width
    return 0


cdef tuple flatten_family(list layers, bytes normal, bytes halted, bint is_six):
    cdef Sweep s
    cdef size_t events = 0, width = 32 if is_six else 8, count = 0
    cdef uint8_t* starts = NULL
    cdef uint16_t* classes = NULL
    cdef bytes packed
    memset(&s, 0, sizeof(Sweep))
    s.layers = <uint32_t> len(layers) - 2
    s.normal = <const uint16_t*> PyBytes_AS_STRING(normal)
    s.halted = <const uint16_t*> PyBytes_AS_STRING(halted)
    for packed in layers:
        events += 2 * (<size_t> len(packed) // width)
    try:
        s.events = <Event*> malloc((events + 1) * sizeof(Event))
        s.depth = <uint32_t*> calloc(len(layers), sizeof(uint32_t))
        s.bits = <uint64_t*> calloc(len(layers) // 64 + 1, sizeof(uint64_t))
        starts = <uint8_t*> malloc((events + 1) * (16 if is_six else 4))
        classes = <uint16_t*> malloc((events + 1) * sizeof(uint16_t))
        if s.events == NULL or s.depth == NULL or s.bits == NULL or starts == NULL or classes == NULL:
            raise MemoryError
        for layer, packed in enumerate(layers):
            sweep_take(&s, packed, layer, is_six)
        with nogil:
            count = sweep_run(&s, is_six, starts, classes)
        return (take_bytes(starts, count * (16 if is_six else 4)), take_bytes(<const uint8_t*> classes, 2 * count))
    finally:
        free(s.events)
        free(s.depth)
        free(s.bits)
        free(starts)
        free(classes)


def flatten_clients(doors, pauses, groups, bytes normal not None, bytes halted not None):
    """(starts4, classes4, starts6, classes6) as snapshot.Clients has them. See engine.pyi."""
    cdef list layers = [*groups, doors, pauses]
    if len(normal) != 2 * (len(layers) - 1) or len(halted) != len(normal):
        raise ValueError("a class is missing, or one too many")
    four = flatten_family([bytes(layer[0]) for layer in layers], normal, halted, False)
    six = flatten_family([bytes(layer[1]) for layer in layers], normal, halted, True)
    return (*four, *six)


# -- files of clients -------------------------------------------------------------------------------------------------
cdef int client_line(const uint8_t* text, size_t length, uint8_t* out) noexcept nogil:
    """An address or a prefix as an interval at `out`: its octets (8 or 32), or 0 where this is not plainly one."""
    cdef char room[TEXT_ROOM]
    cdef uint8_t address[16]
    cdef size_t i, end = length
    cdef int family = AF_INET, size = 4
    cdef uint32_t bits, prefix = 0, kept, first
    if length >= TEXT_ROOM:
        return 0
    for i in range(length):
        room[i] = <char> text[i]
        if text[i] == 0:
            return 0
        if text[i] == b":":
            family, size = AF_INET6, 16
        elif text[i] == b"/" and end == length:
            end = i
    room[end] = 0
    if end == 0 or inet_pton(family, room, address) != 1:
        return 0
    bits = 8 * size
    if end < length:
        if length - end < 2 or length - end > 4:
            return 0
        for i in range(end + 1, length):
            if not b"0" <= text[i] <= b"9":
                return 0
            prefix = prefix * 10 + (text[i] - <uint8_t> b"0")
        if prefix > bits or (text[end + 1] == b"0" and length - end > 2):
            return 0
    else:
        prefix = bits
    if size == 16 and prefix >= 96 and is_mapped(address):
        return 0  # IPv4 is written as such: Python says so
    memcpy(out, address, size)
    memcpy(out + size, address, size)
    for i in range(size):
        kept = 0 if prefix <= 8 * i else prefix - 8 * <uint32_t> i
        if kept < 8:
            if address[i] & (0xFF >> kept):
                return 0  # bits behind the prefix
            out[size + i] |= 0xFF >> kept
    if size == 4:
        first = get_u32(out)
        kept = get_u32(out + 4)
        memcpy(out, &first, 4)
        memcpy(out + 4, &kept, 4)
    return 2 * size


cdef uint8_t* roomy(uint8_t* items, size_t used, size_t* room, size_t width) except NULL:
    # Items of `width` octets with room for one more. MemoryError leaves them as they are.
    cdef void* grown
    if used < room[0]:
        return items
    grown = realloc(items, (2 * room[0] + 1024) * width)
    if grown == NULL:
        raise MemoryError
    room[0] = 2 * room[0] + 1024
    return <uint8_t*> grown


def read_clients(bytes text not None):
    """(IPv4 intervals, IPv6 intervals, lines taken, lines left to Python, the first of these). See engine.pyi."""
    cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(text)
    cdef size_t size = len(text), at = 0, end, first, last, taken = 0, left = 0, number = 0
    cdef uint8_t* four = NULL
    cdef uint8_t* six = NULL
    cdef size_t fours = 0, sixes = 0, four_room = 0, six_room = 0
    cdef uint8_t out[32]
    cdef int found
    cdef list odd = []
    try:
        while at < size:
            end = at
            number += 1
            while end < size and data[end] != b"\n":
                end += 1
            first, last = at, at
            while last < end and data[last] != b"#" and data[last] != b";":
                last += 1
            at = end + 1
            while first < last and data[first] <= b" ":
                first += 1
            while last > first and data[last - 1] <= b" ":
                last -= 1
            if first == last:
                continue
            found = client_line(data + first, last - first, out)
            if found == 8:
                four = roomy(four, fours, &four_room, 8)
                memcpy(four + 8 * fours, out, 8)
                fours += 1
            elif found:
                six = roomy(six, sixes, &six_room, 32)
                memcpy(six + 32 * sixes, out, 32)
                sixes += 1
            else:
                left += 1
                if left <= ODD_LINES:
                    odd.append((number, text[first:min(last, first + ODD_TEXT)]))
                continue
            taken += 1
        return (take_bytes(four, 8 * fours) if fours else b"", take_bytes(six, 32 * sixes) if sixes else b"",
                taken, left, odd)
    finally:
        free(four)
        free(six)
