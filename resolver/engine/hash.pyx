# The two hashes: of names (keyed, against crafted collisions) and of a file's sections (against rot).
#
# A name's hash is SipHash-1-3 with 128 bits of output over its labels from the TLD downward, each label as its length
# octet and its octets, filled up with zeros to a multiple of eight. So the hash of x.com is under way when that of
# www.x.com begins: a walk absorbs each label once and finishes a copy of the state for each suffix. The length octet
# makes the message unambiguous whatever octets a label holds.
#
# A section's checksum is XXH64 with seed 0: several octets a cycle, so that a large index is verified at the speed of
# memory.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from resolver.engine.index cimport MAX_LABELS, Hash, Sip


cdef inline uint16_t load_le16(const uint8_t* at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t load_le32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t load_le64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint64_t rotate64(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline void sip_round(Sip* s) noexcept nogil:
    s.v0 += s.v1
    s.v2 += s.v3
    s.v1 = rotate64(s.v1, 13) ^ s.v0
    s.v3 = rotate64(s.v3, 16) ^ s.v2
    s.v0 = rotate64(s.v0, 32)
    s.v2 += s.v1
    s.v0 += s.v3
    s.v1 = rotate64(s.v1, 17) ^ s.v2
    s.v3 = rotate64(s.v3, 21) ^ s.v0
    s.v2 = rotate64(s.v2, 32)


cdef inline void sip_start(Sip* s, uint64_t key0, uint64_t key1) noexcept nogil:
    s.v0 = key0 ^ 0x736f6d6570736575U
    s.v1 = key1 ^ 0x646f72616e646f6dU ^ 0xee
    s.v2 = key0 ^ 0x6c7967656e657261U
    s.v3 = key1 ^ 0x7465646279746573U
    s.octets = 0


cdef inline void sip_word(Sip* s, uint64_t word) noexcept nogil:
    s.v3 ^= word
    sip_round(s)
    s.v0 ^= word


cdef inline void sip_label(Sip* s, const uint8_t* label) noexcept nogil:
    """Absorb one label: `label` points at its length octet (1 to 63). Reads nothing beyond the label."""
    cdef uint32_t left = <uint32_t>label[0] + 1
    cdef const uint8_t* end = label + left
    s.octets += (left + 7) & ~<uint32_t>7
    if left >= 8:
        while left >= 8:
            sip_word(s, load_le64(end - left))
            left -= 8
        if left:
            sip_word(s, load_le64(end - 8) >> (64 - 8 * left))
    elif left >= 4:
        sip_word(s, load_le32(label) | (<uint64_t>load_le32(end - 4) << (8 * (left - 4))))
    else:  # 2 or 3: the octets overlap where there are but two
        sip_word(s, label[0] | (<uint64_t>label[1] << 8) | (<uint64_t>(end - 1)[0] << (8 * (left - 1))))


cdef inline void sip_finish(const Sip* state, Hash* out) noexcept nogil:
    """The hash of what was absorbed; `state` can go on absorbing."""
    cdef Sip s = state[0]
    sip_word(&s, s.octets << 56)
    s.v2 ^= 0xee
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    out.high = s.v0 ^ s.v1 ^ s.v2 ^ s.v3
    s.v1 ^= 0xdd
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    out.low = s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef inline uint64_t sip_finish64(Sip* s) noexcept nogil:
    """64 bits of SipHash-1-3 over what was absorbed, for tables and random numbers; the state is spent."""
    s.v2 ^= 0xff
    sip_round(s)
    sip_round(s)
    sip_round(s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef uint64_t sip_octets(uint64_t key0, uint64_t key1, const uint8_t* octets, uint32_t size) noexcept nogil:
    """SipHash-1-3 over any octets, their number in the last word."""
    cdef Sip state
    cdef uint64_t word
    cdef uint32_t left = size
    sip_start(&state, key0, key1)
    while left >= 8:
        sip_word(&state, load_le64(octets))
        octets += 8
        left -= 8
    word = 0
    memcpy(&word, octets, left)
    sip_word(&state, word | <uint64_t> size << 56)
    return sip_finish64(&state)


cdef enum:
    NAME_OCTETS = 255  # of a name in wire form (RFC 1035 section 3.1)


cdef int name_to_wire(object name, uint8_t* wire, uint8_t* labels) except -1:
    """Write a name given as text, lower-cased, in wire form; returns how many labels. `wire` holds NAME_OCTETS."""
    cdef bytes text = name.encode("ascii") if isinstance(name, str) else bytes(name)
    text = text.lower()
    cdef int count = 0, at = 0, size
    cdef bytes label
    for label in (text.removesuffix(b".").split(b".") if text not in (b"", b".") else ()):
        size = <int>len(label)
        if size < 1 or size > 63 or at + size + 2 > NAME_OCTETS:
            raise ValueError(f"not a domain name: {name!r}")
        labels[count] = at
        wire[at] = size
        memcpy(wire + at + 1, <const char*>label, size)
        at += size + 1
        count += 1
    wire[at] = 0
    return count


def name_hash(bytes key, name):
    """The 16 octets that the index's hash gives `name` under a `key` of 16 octets: for tests."""
    cdef uint8_t wire[NAME_OCTETS + 1]
    cdef uint8_t labels[MAX_LABELS + 1]
    cdef Sip state
    cdef Hash out
    if len(key) != 16:
        raise ValueError("the key has 16 octets")
    cdef const uint8_t* raw = <const uint8_t*><const char*>key
    sip_start(&state, load_le64(raw), load_le64(raw + 8))
    cdef int count = name_to_wire(name, wire, labels)
    while count:
        count -= 1
        sip_label(&state, wire + labels[count])
    sip_finish(&state, &out)
    return (<const uint8_t*>&out)[:16]


cdef inline uint64_t xxh_round(uint64_t lane, uint64_t word) noexcept nogil:
    return rotate64(lane + word * 0xC2B2AE3D27D4EB4FU, 31) * 0x9E3779B185EBCA87U


cdef uint64_t xxh64(const uint8_t* at, uint64_t length, bint patient) noexcept nogil:
    """XXH64 with seed 0. `patient`: stand aside after every STEP."""
    cdef uint64_t p1 = 0x9E3779B185EBCA87U, p2 = 0xC2B2AE3D27D4EB4FU, p3 = 0x165667B19E3779F9U
    cdef uint64_t p4 = 0x85EBCA77C2B2AE63U, p5 = 0x27D4EB2F165667C5U
    cdef uint64_t a = p1 + p2, b = p2, c = 0, d = 0 - p1, value, left = length
    cdef const uint8_t* end
    if left >= 32:
        while left >= 32:
            end = at + (min(left, <uint64_t>STEP) & ~<uint64_t>31)
            left -= end - at
            while at < end:
                a = xxh_round(a, load_le64(at))
                b = xxh_round(b, load_le64(at + 8))
                c = xxh_round(c, load_le64(at + 16))
                d = xxh_round(d, load_le64(at + 24))
                at += 32
            if patient and left >= 32:
                stand_aside()
        value = rotate64(a, 1) + rotate64(b, 7) + rotate64(c, 12) + rotate64(d, 18)
        value = (value ^ xxh_round(0, a)) * p1 + p4
        value = (value ^ xxh_round(0, b)) * p1 + p4
        value = (value ^ xxh_round(0, c)) * p1 + p4
        value = (value ^ xxh_round(0, d)) * p1 + p4
    else:
        value = p5
    value += length
    while left >= 8:
        value = rotate64(value ^ xxh_round(0, load_le64(at)), 27) * p1 + p4
        at += 8
        left -= 8
    if left >= 4:
        value = rotate64(value ^ (load_le32(at) * p1), 23) * p2 + p3
        at += 4
        left -= 4
    while left:
        value = rotate64(value ^ (at[0] * p5), 11) * p1
        at += 1
        left -= 1
    value = (value ^ (value >> 33)) * p2
    value = (value ^ (value >> 29)) * p3
    return value ^ (value >> 32)


def checksum(octets):
    """XXH64 with seed 0 of anything with a contiguous buffer; runs without the GIL."""
    cdef Py_buffer buffer
    cdef uint64_t value
    PyObject_GetBuffer(octets, &buffer, PyBUF_SIMPLE)
    try:
        with nogil:
            value = xxh64(<const uint8_t*>buffer.buf, buffer.len, False)
    finally:
        PyBuffer_Release(&buffer)
    return value
