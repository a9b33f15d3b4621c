# Takes a list's rules, sorts them and gives them out as blocks of a run file.
#
# Names are kept as keys in one arena, never as Python objects: about 30 octets a name, and 16 more while sorting. A
# rule in the arena: u32 line, u32 tag (outcome << 2 | scope), u8 length of the key, key. A key: the name's labels from
# the TLD downward, lower-case, each followed by a zero octet, so that a parent's key is the start of its children's.
#
# scan() is the quick way in: a line that is a template's prefix, a plain name and its suffix. A plain name has the
# octets a-z A-Z 0-9 - _ and dots; at least two labels of 1 to 63 octets, at most 253 octets in all; a last label that
# is not all digits; a first label that is not `localhost` and does not begin with `ip6-`. Every other line that is not
# blank goes back to its dialect's module.

import concurrent.futures
import os

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    MAX_NAME_TEXT = 253          # octets of a name's text (RFC 1035 section 3.1, less the wire form's two)
    MAX_OUTCOMES = 0x3FFFFFFF
    MAX_TEMPLATES = 64

cdef uint8_t[256] PLAIN     # what an octet of a plain name becomes; 0: not of a plain name


cdef int fill_plain() except -1:
    cdef int octet
    for octet in range(256):
        if c'a' <= octet <= c'z' or c'0' <= octet <= c'9' or octet == c'-' or octet == c'_' or octet == c'.':
            PLAIN[octet] = <uint8_t>octet
        elif c'A' <= octet <= c'Z':
            PLAIN[octet] = <uint8_t>(octet + 32)
    return 0


fill_plain()

cdef struct LineTemplate:
    const uint8_t* prefix
    const uint8_t* suffix
    uint32_t prefix_length
    uint32_t suffix_length
    uint32_t tag

cdef struct RemainingLine:      # a line that fits no template
    uint64_t start          # in the chunk
    uint64_t end
    uint64_t number         # its place among the chunk's lines, from 0

cdef struct Octets:         # octets that grow
    uint8_t* octets
    uint64_t size
    uint64_t room


cdef inline bint stream_room(Octets* stream, uint64_t more) noexcept nogil:
    """Make room for `more` octets; False if there is no memory."""
    cdef uint64_t room
    cdef uint8_t* grown
    if stream.room - stream.size >= more:
        return True
    room = stream.size + more + stream.room // 2 + 4096
    grown = <uint8_t*>realloc(stream.octets, room)
    if grown == NULL:
        return False
    stream.octets = grown
    stream.room = room
    return True


cdef inline void stream_varint(Octets* stream, uint64_t value) noexcept nogil:
    """Seven bits an octet, the lowest first; needs room for ten octets."""
    while value >= 0x80:
        stream.octets[stream.size] = <uint8_t>(value | 0x80)
        stream.size += 1
        value >>= 7
    stream.octets[stream.size] = <uint8_t>value
    stream.size += 1


cdef inline void store_le32(uint8_t* at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline uint32_t plain_labels(const uint8_t* name, uint64_t length, uint8_t* starts) noexcept nogil:
    """How many labels a plain name has, and where each starts; 0: it is no plain name."""
    cdef uint32_t i, count = 1, start = 0
    cdef bint digits = True
    cdef uint8_t octet
    if length > MAX_NAME_TEXT:
        return 0
    starts[0] = 0
    for i in range(<uint32_t>length):
        octet = PLAIN[name[i]]
        if octet == c'.':
            if i == start or i - start > 63:
                return 0
            start = i + 1
            starts[count] = start
            count += 1
            digits = True
        elif octet == 0:
            return 0
        elif octet < c'0' or octet > c'9':
            digits = False
    if count == 1 or digits or length == start or length - start > 63:
        return 0
    if starts[1] == 10 and PLAIN[name[0]] == c'l' and is_localhost(name):
        return 0
    if (PLAIN[name[0]] == c'i' and PLAIN[name[1]] == c'p' and starts[1] > 4 and name[2] == c'6' and name[3] == c'-'):
        return 0
    return count


cdef bint is_localhost(const uint8_t* label) noexcept nogil:
    cdef const char* word = "localhost"
    cdef int i
    for i in range(9):
        if PLAIN[label[i]] != word[i]:
            return False
    return True


def count_blank(bytes chunk not None):
    """How many of a chunk's lines, which end in LF, hold nothing but spaces, tabs, CR, VT and FF."""
    cdef const uint8_t* at = <const uint8_t*><const char*>chunk
    cdef const uint8_t* stop = at + len(chunk)
    cdef uint64_t count = 0
    with nogil:
        while at != NULL and at < stop:
            while at < stop and (at[0] == c' ' or at[0] == c'\t' or 11 <= at[0] <= 13):
                at += 1
            if at < stop and at[0] == c'\n':
                count += 1
            at = <const uint8_t*>memchr(at, c'\n', stop - at)
            if at != NULL:
                at += 1
    return count


cdef class RunBuilder:
    """Collects a list's rules (rules.RuleSink), then gives them out sorted, block by block. See engine.pyi."""

    cdef Octets arena
    cdef Ref* refs
    cdef uint64_t next_ref      # the first not yet given out
    cdef public bint replaces    # read when sorting: may be set until then
    cdef public bint lineless    # line numbers only say which rule is the first, and are not given out
    cdef readonly bytes last_key    # of what take_block() gave out
    cdef readonly uint64_t taken
    cdef readonly uint64_t names
    cdef readonly uint64_t rules
    cdef readonly uint64_t duplicates

    def __cinit__(self, replaces=False):
        self.replaces = bool(replaces)
        self.lineless = False
        self.last_key = b""
        self.refs = NULL

    def __dealloc__(self):
        free(self.arena.octets)
        free(self.refs)

    cdef inline bint _reserve(self, uint64_t rules, uint64_t octets) noexcept nogil:
        return stream_room(&self.arena, rules * (RULE_HEADER + 1) + octets + 8)

    cdef inline uint8_t* _begin(self, uint64_t line, uint32_t tag, uint32_t length) noexcept nogil:
        """Write a rule's header and return where its key goes."""
        cdef uint8_t* at = self.arena.octets + self.arena.size
        store_le32(at, <uint32_t>line)
        store_le32(at + 4, tag)
        at[8] = <uint8_t>length
        self.arena.size += RULE_HEADER + length
        self.taken += 1
        return at + RULE_HEADER

    def add(self, name, int scope, outcome, line):
        cdef bytes text = name
        cdef list labels = text.lower().split(b".") if text else []
        cdef bytes label
        cdef uint8_t* key
        if self.refs != NULL:
            raise RuntimeError("the rules are sorted already")
        if not 1 <= scope <= 3 or not 0 <= outcome <= MAX_OUTCOMES or not 0 <= line <= 0xFFFFFFFF:
            raise ValueError(f"scope {scope}, outcome {outcome} or line {line} out of range")
        if len(text) > MAX_NAME_TEXT or b"\0" in text or any(not 0 < len(label) <= 63 for label in labels):
            raise ValueError(f"line {line}: not a domain name: {text!r}")
        if not self._reserve(1, len(text)):
            raise MemoryError
        key = self._begin(line, <uint32_t>outcome << 2 | scope, <uint32_t>len(text) + 1 if text else 0)
        for label in reversed(labels):
            memcpy(key, <const char*>label, len(label))
            key += len(label)
            key[0] = 0
            key += 1

    def scan(self, bytes chunk, first_line, templates):
        cdef LineTemplate table[MAX_TEMPLATES]
        cdef uint32_t count = 0
        cdef uint64_t lines, first = first_line, i
        cdef Octets left = Octets(NULL, 0, 0)
        cdef RemainingLine* remaining
        cdef const uint8_t* start = <const uint8_t*><const char*>chunk
        cdef uint64_t size = len(chunk)
        cdef bint enough
        if self.refs != NULL:
            raise RuntimeError("the rules are sorted already")
        if len(templates) > MAX_TEMPLATES:
            raise ValueError(f"more than {MAX_TEMPLATES} templates")
        for prefix, suffix, scope, outcome in templates:
            if not 1 <= scope <= 3 or not 0 <= outcome <= MAX_OUTCOMES:
                raise ValueError(f"scope {scope} or outcome {outcome} out of range")
            table[count] = LineTemplate(
                <const uint8_t*><const char*>prefix, <const uint8_t*><const char*>suffix, len(prefix), len(suffix),
                <uint32_t>outcome << 2 | <uint32_t>scope,
            )
            count += 1
        try:
            with nogil:
                enough = self._scan(start, size, first, table, count, &left, &lines)
            if not enough:
                raise MemoryError
            if first + lines > 0xFFFFFFFF:
                raise ValueError("more lines than can be counted")
            remaining = <RemainingLine*>left.octets
            return lines, [
                (first_line + remaining[i].number, start[remaining[i].start:remaining[i].end])
                for i in range(left.size // sizeof(RemainingLine))
            ]
        finally:
            free(left.octets)

    cdef bint _scan(
        self, const uint8_t* start, uint64_t size, uint64_t first, const LineTemplate* table, uint32_t count,
        Octets* left, uint64_t* lines,
    ) noexcept nogil:
        cdef const uint8_t* at = start
        cdef const uint8_t* stop = start + size
        cdef const uint8_t* end
        cdef const uint8_t* next_line
        cdef const uint8_t* found
        cdef RemainingLine rest
        cdef uint64_t number = 0
        while at < stop:
            end = <const uint8_t*>memchr(at, c'\n', stop - at)
            if end == NULL:
                end = next_line = stop
            else:
                next_line = end + 1
                if end > at and (end - 1)[0] == c'\r':
                    end -= 1
            if not self._reserve(1, MAX_NAME_TEXT):
                return False
            if not self._take_line(at, end - at, first + number, table, count):
                found = at
                while found < end and (found[0] == c' ' or found[0] == c'\t' or found[0] == c'\r'):
                    found += 1
                if found < end:
                    if not stream_room(left, sizeof(RemainingLine)):
                        return False
                    rest.start = at - start
                    rest.end = end - start
                    rest.number = number
                    memcpy(left.octets + left.size, &rest, sizeof(RemainingLine))
                    left.size += sizeof(RemainingLine)
            number += 1
            at = next_line
        lines[0] = number
        return True

    cdef inline bint _take_line(
        self, const uint8_t* line, uint64_t length, uint64_t number, const LineTemplate* table, uint32_t count
    ) noexcept nogil:
        cdef uint8_t starts[MAX_NAME_TEXT + 1]
        cdef const LineTemplate* template
        cdef uint32_t i, labels, at, end
        cdef const uint8_t* name
        cdef uint8_t* key
        for i in range(count):
            template = &table[i]
            if length < template.prefix_length + template.suffix_length + 3:
                continue
            if memcmp(line, template.prefix, template.prefix_length) != 0:
                continue
            if memcmp(line + length - template.suffix_length, template.suffix, template.suffix_length) != 0:
                continue
            name = line + template.prefix_length
            end = 0
            labels = plain_labels(name, length - template.prefix_length - template.suffix_length, starts)
            if labels == 0:
                continue
            end = <uint32_t>(length - template.prefix_length - template.suffix_length)
            key = self._begin(number, template.tag, end + 1)
            while labels:
                labels -= 1
                for at in range(starts[labels], end):
                    key[0] = PLAIN[name[at]]
                    key += 1
                key[0] = 0
                key += 1
                end = <uint32_t>starts[labels] - 1
            return True
        return False

    def sort(self, int threads=1):
        """Sort what was taken; after this no rule can be added. Runs without the GIL in up to `threads` threads."""
        cdef uint64_t i, at = 0
        if self.refs != NULL:
            return
        self.refs = <Ref*>malloc((self.taken + 1) * sizeof(Ref))
        if self.refs == NULL:
            raise MemoryError
        with nogil:
            for i in range(self.taken):
                self.refs[i].at = at
                self.refs[i].chunk = sort_chunk(self.arena.octets + at, 0)
                at += RULE_HEADER + self.arena.octets[at + 8]
        parts = [(0, self.taken, 0)]
        done = []
        while parts and len(parts) < 4 * threads and max(parts, key=lambda part: part[1])[1] > 100_000 and threads > 1:
            part = max(parts, key=lambda part: part[1])
            parts.remove(part)
            parts += self._split_part(part)
        if len(parts) == 1:
            self._sort_part(parts[0])
            return
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(self._sort_part, sorted(parts, key=lambda part: -part[1])))

    cdef Sorter _sorter(self):
        cdef Sorter sorter
        cdef bytes random = os.urandom(8)
        sorter.arena = self.arena.octets
        sorter.replaces = self.replaces
        sorter.random = load_le64(<const uint8_t*><const char*>random) | 1
        return sorter

    def _split_part(self, part):
        cdef uint64_t start = part[0], count = part[1], less, equal
        cdef uint32_t depth = part[2], deeper = depth
        cdef Sorter sorter = self._sorter()
        with nogil:
            sort_split(&sorter, self.refs + start, count, &less, &equal)
            if depth != SORT_TIES:
                deeper = sort_deepen(&sorter, self.refs + start + less, equal, depth)
        greater = start + less + equal
        return [(start, less, depth), (start + less, equal, deeper), (greater, start + count - greater, depth)]

    def _sort_part(self, part):
        cdef uint64_t start = part[0], count = part[1]
        cdef uint32_t depth = part[2]
        cdef Sorter sorter = self._sorter()
        with nogil:
            sort_refs(&sorter, self.refs + start, count, depth)

    def take_block(self, uint32_t keys):
        """The next up to `keys` keys with their rules: (first key, keys, octets of a block); None at the end. Blocks end
        where a key's hash says so, a quarter of `keys` apart at least: where two lists agree, so do their blocks."""
        cdef Octets streams[5]
        cdef uint32_t done = 0, kept, i
        cdef bint enough
        cdef const uint8_t* rule
        if self.refs == NULL:
            raise RuntimeError("sort first")
        if self.next_ref == self.taken:
            return None
        rule = self.arena.octets + self.refs[self.next_ref].at
        first = (<const char*>rule + RULE_HEADER)[:rule[8]]
        for i in range(5):
            streams[i] = Octets(NULL, 0, 0)
        try:
            with nogil:
                enough = self._encode(keys, streams, &done, &kept)
            if not enough:
                raise MemoryError
            rule = self.arena.octets + self.refs[self.next_ref - 1].at
            self.last_key = (<const char*>rule + RULE_HEADER)[:rule[8]]
            octets = b"".join([(<const char*>streams[i].octets)[:streams[i].size] for i in range(5)])
            sizes = (done, kept, streams[2].size, streams[3].size, streams[4].size)
        finally:
            for i in range(5):
                free(streams[i].octets)
        self.names += done
        self.rules += kept
        return first, done, b"".join([int(number).to_bytes(4, "little") for number in sizes]) + octets

    def reopen(self):
        """Take rules again: those that were not given out stay, and `taken` counts them alone."""
        cdef Octets arena = Octets(NULL, 0, 0)
        cdef uint64_t i, size, kept = 0
        cdef bint enough = True
        if self.refs == NULL:
            return
        with nogil:
            for i in range(self.next_ref, self.taken):
                size = RULE_HEADER + self.arena.octets[self.refs[i].at + 8]
                if not stream_room(&arena, size + 8):
                    enough = False
                    break
                memcpy(arena.octets + arena.size, self.arena.octets + self.refs[i].at, size)
                arena.size += size
                kept += 1
        if not enough:
            free(arena.octets)
            raise MemoryError
        free(self.arena.octets)
        free(self.refs)
        self.arena = arena
        self.refs = NULL
        self.next_ref = 0
        self.taken = kept

    @property
    def left(self):
        """How many rules take_block() has yet to give out."""
        return self.taken - self.next_ref

    def absorb(self, RunReader reader, uint64_t first_line, uint64_t limit):
        """Take the rules of the next keys of a cursor, up to `limit` or a few more; returns how many: 0 at its end."""
        cdef uint64_t count = 0
        cdef uint32_t i
        if self.refs != NULL:
            raise RuntimeError("the rules are sorted already")
        while count < limit and reader.advance():
            for i in range(reader.found_count):
                if not self._reserve(1, MAX_KEY):
                    raise MemoryError
                memcpy(
                    self._begin(first_line + count, reader.found[i].tag, reader.key_length), reader.key,
                    reader.key_length,
                )
                count += 1
        return count

    cdef bint _encode(self, uint32_t keys, Octets* streams, uint32_t* done, uint32_t* kept) noexcept nogil:
        """Fill the streams: shared lengths, own lengths, own octets, tags, lines."""
        cdef const uint8_t* previous = NULL
        cdef const uint8_t* rule
        cdef uint32_t shared, outcome, seen, seen_outcome, fresh, last_line = 0, line, tag, held
        cdef uint32_t least = keys // 4 if keys > 4 else 1
        cdef int64_t delta
        kept[0] = 0
        while done[0] < keys and self.next_ref < self.taken:
            rule = self.arena.octets + self.refs[self.next_ref].at
            shared = 0
            if previous != NULL:
                while shared < previous[8] and shared < rule[8] and (
                    previous[RULE_HEADER + shared] == rule[RULE_HEADER + shared]
                ):
                    shared += 1
            if not (stream_room(&streams[0], 1) and stream_room(&streams[1], 1) and stream_room(&streams[2], 256)):
                return False
            streams[0].octets[done[0]] = <uint8_t>shared
            streams[1].octets[done[0]] = <uint8_t>(rule[8] - shared)
            streams[0].size += 1
            streams[1].size += 1
            memcpy(streams[2].octets + streams[2].size, rule + RULE_HEADER + shared, rule[8] - shared)
            streams[2].size += rule[8] - shared
            previous = rule
            done[0] += 1
            # Every rule of this key; the first line that speaks of a scope is kept. A rule is written once the next
            # one is known, as its tag says whether another follows.
            seen = 0
            seen_outcome = 0
            held = 0
            while self.next_ref < self.taken:
                if self.next_ref + SORT_AHEAD < self.taken:
                    __builtin_prefetch(self.arena.octets + self.refs[self.next_ref + SORT_AHEAD].at)
                rule = self.arena.octets + self.refs[self.next_ref].at
                if rule[8] != previous[8] or memcmp(rule + RULE_HEADER, previous + RULE_HEADER, rule[8]) != 0:
                    break
                self.next_ref += 1
                tag = load_le32(rule + 4)
                line = load_le32(rule)
                outcome = tag >> 2
                if not self.replaces and outcome != seen_outcome:
                    seen = 0
                    seen_outcome = outcome
                fresh = tag & 3 & ~seen
                if fresh == 0:
                    self.duplicates += 1
                    continue
                seen |= fresh
                if self.lineless:
                    line = 0
                    if held and held >> 2 == outcome:  # the same of the name and of those below it: one rule
                        held |= fresh
                        continue
                if not (stream_room(&streams[3], 10) and stream_room(&streams[4], 10)):
                    return False
                if held:
                    stream_varint(&streams[3], <uint64_t>(held >> 2) << 3 | (held & 3) << 1 | 1)
                held = outcome << 2 | fresh
                delta = <int64_t>line - <int64_t>last_line
                stream_varint(&streams[4], <uint64_t>(delta << 1) ^ <uint64_t>(delta >> 63))
                last_line = line
                kept[0] += 1
            if not stream_room(&streams[3], 10):
                return False
            stream_varint(&streams[3], <uint64_t>(held >> 2) << 3 | (held & 3) << 1)
            if done[0] >= least and xxh64(previous + RULE_HEADER, previous[8], False) % least == 0:
                break
        return True
