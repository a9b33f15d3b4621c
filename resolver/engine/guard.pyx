# What the list guard asks of runs: the rules of many names in one pass, and every difference between two runs.

from libc.stdint cimport uint8_t, uint32_t


cdef inline int order_of(RunReader reader, bytes key) noexcept:
    return compare_keys(reader.key, reader.key_length, <const uint8_t*><const char*>key, <uint32_t>len(key))


cdef class SkipReader(RunReader):
    """A run's keys without some rules. See engine.pyi."""

    cdef RunReader under
    cdef list skip              # [(key, tags)] in the order of their keys
    cdef uint32_t skip_at       # the first of them that may still come
    cdef uint32_t skip_count

    def __init__(self, RunReader under, list skip):
        self.under = under
        self.skip = skip
        self.skip_at = 0
        self.skip_count = <uint32_t>len(skip)

    cdef bint advance(self) except -1:
        while self.under.advance():
            self._copy(self.under, SIDE_ALL)
            if self.skip_at == self.skip_count or self._pass_over():
                return True
        return False

    cdef bint _pass_over(self) except -1:
        """Drop the rules of the key that are to be passed over; False if none is left."""
        cdef bytes key
        cdef uint32_t i, kept = 0
        cdef int order
        while self.skip_at < self.skip_count:
            key = self.skip[self.skip_at][0]
            order = order_of(self, key)
            if order < 0:
                return True
            if order == 0:
                tags = self.skip[self.skip_at][1]
                for i in range(self.found_count):
                    if self.found[i].tag not in tags:
                        self.found[kept] = self.found[i]
                        kept += 1
                self.found_count = kept
                return kept > 0
            self.skip_at += 1
        return True


def find_many(RunReader reader, list keys):
    """The rules of those of the sorted `keys` that the run has, from the cursor on. See engine.pyi."""
    cdef list found = []
    cdef bytes key
    cdef bint more = reader.advance()
    for key in keys:
        while more and order_of(reader, key) < 0:
            more = reader.advance()
        if not more:
            break
        if order_of(reader, key) == 0:
            found.append((key, reader._item()[1]))
    return found


def first_from(RunReader reader, bytes key):
    """The first key that is not before `key`, or None. Reads on from where the cursor is."""
    if reader._seek(key):
        return (<const char*>reader.key)[:reader.key_length]
    return None
