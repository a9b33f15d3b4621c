# What the list guard asks of runs: the rules of many names in one pass, and every difference between two runs.

from libc.stdint cimport uint8_t, uint32_t


cdef inline int order_of(RunReader reader, bytes key) noexcept:
    return compare_keys(reader.key, reader.key_length, <const uint8_t*><const char*>key, <uint32_t>len(key))


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


cdef class RunDifference:
    """Everything that differs between two runs of a list, in the order of the keys. See engine.pyi."""

    cdef RunReader old
    cdef RunReader new
    cdef object outcomes
    cdef bint more_old
    cdef bint more_new

    def __cinit__(self, RunReader old, RunReader new, outcomes):
        self.old = old
        self.new = new
        self.outcomes = outcomes
        self.more_old = old.advance()
        self.more_new = new.advance()

    def __iter__(self):
        return self

    def __next__(self):
        cdef RunReader old = self.old, new = self.new
        cdef int order
        item = None
        while item is None and (self.more_old or self.more_new):
            order = 1 if not self.more_old else -1 if not self.more_new else compare_keys(
                old.key, old.key_length, new.key, new.key_length
            )
            if order < 0:
                item = (*old._item(), [])
            elif order > 0:
                name, rules = new._item()
                item = (name, [], rules)
            elif not same_rules(old, new, self.outcomes):
                item = (*old._item(), new._item()[1])
            if order <= 0:
                self.more_old = old.advance()
            if order >= 0:
                self.more_new = new.advance()
        if item is None:
            raise StopIteration
        return item
