# Sorts a list's rules by key: multikey quicksort over eight octets at a time, held beside each reference.
#
# Most comparisons are of two integers that stand side by side in memory; the arena is read only once for every eight
# octets of a key that its neighbours share. Keys end with a zero octet and hold no two in a row, so a chunk that ends
# with two zeros (or is zero) is the end of its key: what is equal there is the same key, and is put in order by `tie`.
# Pivots are drawn at random: no list can be written to make this slow.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef extern from *:
    uint64_t __builtin_bswap64(uint64_t value) noexcept nogil

cdef enum:
    RULE_HEADER = 9         # octets of a rule in the arena before its key: u32 line, u32 tag, u8 length
    SORT_SMALL = 16         # fewer are sorted by insertion
    SORT_TIES = 0xFFFF      # depth that says: the keys are equal, chunk holds the tie
    SORT_AHEAD = 12         # references between a prefetch and its use

cdef struct Ref:
    uint64_t chunk          # eight octets of the key, big-endian, from the depth reached; or the tie
    uint64_t at             # where the rule is in the arena

cdef struct Sorter:
    const uint8_t* arena
    bint replaces           # ties: by line; else by outcome, then line
    uint64_t random


cdef inline uint64_t sort_chunk(const uint8_t* rule, uint32_t depth) noexcept nogil:
    """Eight octets of the key from `depth` on, zeros beyond its end; the arena has eight octets to spare."""
    cdef uint32_t length = rule[8]
    cdef uint64_t chunk
    if depth >= length:
        return 0
    chunk = __builtin_bswap64(load_le64(rule + RULE_HEADER + depth))
    if length - depth < 8:
        chunk &= ~<uint64_t>0 << (64 - 8 * (length - depth))
    return chunk


cdef inline uint64_t sort_tie(const uint8_t* rule, bint replaces) noexcept nogil:
    cdef uint64_t line = load_le32(rule)
    return line if replaces else (<uint64_t>(load_le32(rule + 4) >> 2) << 32) | line


cdef bint sort_less(const Sorter* sorter, const Ref* a, const Ref* b, uint32_t depth) noexcept nogil:
    cdef const uint8_t* left
    cdef const uint8_t* right
    cdef uint32_t shorter
    cdef int order
    if a.chunk != b.chunk or depth == SORT_TIES:
        return a.chunk < b.chunk
    left = sorter.arena + a.at
    right = sorter.arena + b.at
    shorter = left[8] if left[8] < right[8] else right[8]
    if depth + 8 < shorter:
        order = memcmp(left + RULE_HEADER + depth + 8, right + RULE_HEADER + depth + 8, shorter - depth - 8)
        if order:
            return order < 0
    if left[8] != right[8]:
        return left[8] < right[8]
    return sort_tie(left, sorter.replaces) < sort_tie(right, sorter.replaces)


cdef inline uint64_t sort_sample(Sorter* sorter, const Ref* refs, uint64_t count) noexcept nogil:
    sorter.random ^= sorter.random << 13
    sorter.random ^= sorter.random >> 7
    sorter.random ^= sorter.random << 17
    return refs[sorter.random % count].chunk


cdef uint64_t sort_median(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    if a < b:
        return b if b < c else (c if a < c else a)
    return a if a < c else (c if b < c else b)


cdef void sort_split(Sorter* sorter, Ref* refs, uint64_t count, uint64_t* less, uint64_t* equal) noexcept nogil:
    """Put the smaller chunks first and the larger last; returns how many are smaller than and equal to the pivot."""
    cdef uint64_t pivot, low = 0, at = 0, high = count
    cdef uint64_t sample[3]
    cdef Ref swap
    cdef int i
    for i in range(3):
        sample[i] = sort_median(
            sort_sample(sorter, refs, count), sort_sample(sorter, refs, count), sort_sample(sorter, refs, count)
        )
    pivot = sort_median(sample[0], sample[1], sample[2])
    while at < high:
        if refs[at].chunk < pivot:
            swap = refs[at]
            refs[at] = refs[low]
            refs[low] = swap
            low += 1
            at += 1
        elif refs[at].chunk > pivot:
            high -= 1
            swap = refs[at]
            refs[at] = refs[high]
            refs[high] = swap
        else:
            at += 1
    less[0] = low
    equal[0] = high - low


cdef uint32_t sort_deepen(const Sorter* sorter, Ref* refs, uint64_t count, uint32_t depth) noexcept nogil:
    """Load the next chunks of keys that are equal up to here; returns the new depth."""
    cdef uint64_t i
    if refs[0].chunk & 0xFFFF == 0:
        for i in range(count):
            refs[i].chunk = sort_tie(sorter.arena + refs[i].at, sorter.replaces)
        return SORT_TIES
    for i in range(count):
        if i + SORT_AHEAD < count:
            __builtin_prefetch(sorter.arena + refs[i + SORT_AHEAD].at + RULE_HEADER + depth + 8)
        refs[i].chunk = sort_chunk(sorter.arena + refs[i].at, depth + 8)
    return depth + 8


cdef void sort_refs(Sorter* sorter, Ref* refs, uint64_t count, uint32_t depth) noexcept nogil:
    cdef uint64_t less, equal, i, j
    cdef Ref moved
    while count > SORT_SMALL:
        sort_split(sorter, refs, count, &less, &equal)
        if depth != SORT_TIES and equal > 1:
            sort_refs(sorter, refs + less, equal, sort_deepen(sorter, refs + less, equal, depth))
        if less < count - less - equal:  # recursion takes the smaller side: the stack stays small
            sort_refs(sorter, refs, less, depth)
            refs += less + equal
            count -= less + equal
        else:
            sort_refs(sorter, refs + less + equal, count - less - equal, depth)
            count = less
    for i in range(1, count):
        moved = refs[i]
        j = i
        while j and sort_less(sorter, &moved, &refs[j - 1], depth):
            refs[j] = refs[j - 1]
            j -= 1
        refs[j] = moved
