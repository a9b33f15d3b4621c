# Looks over the sorted rules of a builder for what `tampah lint` tells: rules that say nothing new, or can never decide.
#
# Rules stand by key, so a name's parents are a stack: each frame has the rules that speak of what is below that name and
# may cover others, at most SURVEY_KEPT of them. What an outcome is to others is Python's business (lists/lint.py) and
# comes as a table of traits; what lines are a file's comes as the first line of each. The duplicates found are those that
# take_block() leaves out.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy

cdef extern from *:
    int __builtin_ctzll(unsigned long long value) noexcept nogil

cdef enum:
    SURVEY_KEPT = 64            # rules of one name that others are held against
    SURVEY_COVERS = 1           # flags of a trait: may cover rules of its group
    SURVEY_COVERABLE = 2        # may be covered
    SURVEY_SILENCES = 4         # holds whoever asks for whatever: outranked rules that speak against it never decide
    SURVEY_MORTAL = 8           # may be silenced
    SURVEY_CANCELS = 16         # a badfilter: its name's rules are left alone
    SURVEY_PLAIN = 32           # no badfilter is meant for it

    FOUND_DUPLICATE = 0         # an earlier line says the same of the name
    FOUND_OVERRULED = 1         # an earlier line of a file where the first counts says something else of it
    FOUND_SILENT = 2            # a stronger rule that speaks against it holds for all it names
    FOUND_COVERED = 3           # a parent's rule, or a stronger one for the name, says as much
    FOUND_ELSEWHERE = 4         # another file says as much
    FOUND_KINDS = 5

cdef struct SurveyTrait:        # of an outcome; lists/lint.py packs it
    uint32_t same               # equal for equal outcomes
    uint32_t group              # equal where one may cover the other
    uint32_t cross              # the same between files
    uint8_t strength            # in the group
    uint8_t rank                # vocabulary.Rank
    uint8_t verb
    uint8_t flags

cdef struct SurveyRule:
    uint32_t file
    uint32_t order              # what duplicates have in common: `same`, or 0 in a file where the first counts
    uint32_t line
    uint32_t tag
    uint32_t by                 # line that it is held against
    uint32_t found              # a FOUND_…, or FOUND_KINDS: nothing

cdef struct SurveyFrame:
    uint32_t key_end
    uint32_t kept_start         # in `kept`


cdef int survey_order(const void* a, const void* b) noexcept nogil:
    cdef const SurveyRule* left = <const SurveyRule*>a
    cdef const SurveyRule* right = <const SurveyRule*>b
    if left.file != right.file:
        return -1 if left.file < right.file else 1
    if left.order != right.order:
        return -1 if left.order < right.order else 1
    return (left.line > right.line) - (left.line < right.line)


cdef class Survey:
    """Looks over a sorted builder's rules. See engine.pyi."""

    cdef RunBuilder builder
    cdef bytes traits_octets
    cdef bytes starts_octets
    cdef bytes replacing_octets
    cdef const SurveyTrait* traits
    cdef uint64_t outcomes
    cdef const uint32_t* starts
    cdef uint32_t files
    cdef const uint8_t* replacing
    cdef SurveyRule* rules
    cdef uint64_t room
    cdef SurveyRule* kept
    cdef uint32_t kept_count
    cdef uint32_t kept_room
    cdef SurveyFrame frames[MAX_LABELS + 2]
    cdef int depth

    def __init__(self, RunBuilder builder, bytes traits, bytes starts, bytes replacing):
        if builder.refs == NULL:
            raise RuntimeError("sort first")
        if len(traits) % sizeof(SurveyTrait) or len(starts) != 4 * len(replacing) or not replacing:
            raise ValueError("traits or files of the wrong size")
        self.builder = builder
        self.traits_octets, self.starts_octets, self.replacing_octets = traits, starts, replacing
        self.traits = <const SurveyTrait*><const char*>traits
        self.outcomes = len(traits) // sizeof(SurveyTrait)
        self.starts = <const uint32_t*><const char*>starts
        self.replacing = <const uint8_t*><const char*>replacing
        self.files = <uint32_t>len(replacing)

    def __dealloc__(self):
        free(self.rules)
        free(self.kept)

    cdef inline uint32_t _file_of(self, uint32_t line) noexcept nogil:
        cdef uint32_t low = 0, high = self.files, middle
        while high - low > 1:
            middle = (low + high) // 2
            if self.starts[middle] <= line:
                low = middle
            else:
                high = middle
        return low

    def findings(self, uint64_t limit):
        """Go over all rules: the counts of each kind for each file, and the first `limit` of each as
        (kind, line, line that it is held against, name)."""
        cdef RunBuilder builder = self.builder
        cdef uint64_t at = 0, i, count
        cdef const uint8_t* rule
        cdef const uint8_t* path = NULL
        cdef uint32_t shared, kind
        counts = [[0] * FOUND_KINDS for _ in range(self.files)]
        found = []
        self.depth = 0
        self.kept_count = 0
        self.frames[0].key_end = 0
        self.frames[0].kept_start = 0
        while at < builder.taken:
            rule = builder.arena.octets + builder.refs[at].at
            if path != NULL:
                shared = 0
                while shared < rule[8] and shared < path[8] and (
                    rule[RULE_HEADER + shared] == path[RULE_HEADER + shared]
                ):
                    shared += 1
                while self.depth and self.frames[self.depth].key_end > shared:
                    self.kept_count = self.frames[self.depth].kept_start
                    self.depth -= 1
            path = rule
            count = self._gather(&at, rule)
            self._judge(count)
            for i in range(count):
                kind = self.rules[i].found
                if kind < FOUND_KINDS:
                    row = counts[self.rules[i].file]
                    row[kind] += 1
                    if row[kind] <= limit:
                        found.append((
                            kind, self.rules[i].line, self.rules[i].by, key_to_name(rule + RULE_HEADER, rule[8])
                        ))
            self._enter(rule[8], count)
        return counts, found

    cdef uint64_t _gather(self, uint64_t* at, const uint8_t* first) except? 0:
        """The rules of one name, those of each file and outcome together, by line; `at` goes to the next name."""
        cdef RunBuilder builder = self.builder
        cdef const uint8_t* rule
        cdef uint64_t count = 0
        cdef SurveyRule* grown
        cdef SurveyRule* made
        while at[0] < builder.taken:
            rule = builder.arena.octets + builder.refs[at[0]].at
            if rule[8] != first[8] or memcmp(rule + RULE_HEADER, first + RULE_HEADER, rule[8]) != 0:
                break
            if count == self.room:
                grown = <SurveyRule*>realloc(self.rules, (2 * self.room + 16) * sizeof(SurveyRule))
                if grown == NULL:
                    raise MemoryError
                self.rules = grown
                self.room = 2 * self.room + 16
            made = &self.rules[count]
            made.line = load_le32(rule)
            made.tag = load_le32(rule + 4)
            if made.tag >> 2 >= self.outcomes:
                raise ValueError("a rule with an outcome that has no traits")
            made.file = self._file_of(made.line)
            made.order = 0 if self.replacing[made.file] else self.traits[made.tag >> 2].same + 1
            made.by = 0
            made.found = FOUND_KINDS
            count += 1
            at[0] += 1
        if count > 1:
            qsort(self.rules, count, sizeof(SurveyRule), survey_order)
        return count

    cdef void _judge(self, uint64_t count) noexcept nogil:
        """Mark duplicates first: what is left out covers nothing."""
        cdef uint64_t i, first = 0
        cdef uint32_t seen = 0, fresh
        cdef bint is_cancelled = self._is_cancelled(count)
        for i in range(count):
            if i == 0 or self.rules[i].file != self.rules[first].file or self.rules[i].order != self.rules[first].order:
                first = i
                seen = 0
            fresh = self.rules[i].tag & 3 & ~seen
            seen |= fresh
            if fresh == 0:
                self._mark_earlier(i, first)
        for i in range(count):
            if self.rules[i].found == FOUND_KINDS and (
                not is_cancelled or self.traits[self.rules[i].tag >> 2].flags & SURVEY_PLAIN
            ):
                self._hold(&self.rules[i], count)

    cdef bint _is_cancelled(self, uint64_t count) noexcept nogil:
        """Whether a badfilter stands at the name."""
        cdef uint64_t i
        for i in range(count):
            if self.traits[self.rules[i].tag >> 2].flags & SURVEY_CANCELS:
                return True
        return False

    cdef void _mark_earlier(self, uint64_t i, uint64_t first) noexcept nogil:
        """A rule that brings nothing new: by the earlier one that says the same, or the first if none does."""
        cdef uint64_t j
        cdef uint32_t same = self.traits[self.rules[i].tag >> 2].same
        self.rules[i].found = FOUND_OVERRULED
        self.rules[i].by = self.rules[first].line
        for j in range(first, i if i < first + SURVEY_KEPT else first + SURVEY_KEPT):
            if self.rules[j].tag & self.rules[i].tag & 3 and self.rules[j].found == FOUND_KINDS:
                self.rules[i].by = self.rules[j].line
                if self.traits[self.rules[j].tag >> 2].same == same:
                    self.rules[i].found = FOUND_DUPLICATE
                break

    cdef void _hold(self, SurveyRule* rule, uint64_t count) noexcept nogil:
        """Hold a rule against the others of its name, and against those of the names above."""
        cdef uint64_t i
        cdef uint32_t at, below = self.kept_count
        cdef int frame = self.depth
        cdef const SurveyRule* other
        cdef bint is_settled = False    # a nearer parent of a file where the nearest counts has spoken
        for i in range(count if count < SURVEY_KEPT else SURVEY_KEPT):
            other = &self.rules[i]
            if other != rule and other.found > FOUND_OVERRULED:
                self._compare(rule, other, True)
        while frame >= 0:
            at = self.frames[frame].kept_start
            for i in range(at, below):
                other = &self.kept[i]
                if other.file == rule.file and self.replacing[rule.file]:
                    if not is_settled:
                        self._compare(rule, other, False)
                else:
                    self._compare(rule, other, False)
            if self.replacing[rule.file]:
                for i in range(at, below):
                    is_settled = is_settled or self.kept[i].file == rule.file
            below = at
            frame -= 1

    cdef void _compare(self, SurveyRule* rule, const SurveyRule* other, bint is_own_name) noexcept nogil:
        """Note what `other` takes from `rule`, unless something that counts for more is noted already."""
        cdef const SurveyTrait* own = &self.traits[rule.tag >> 2]
        cdef const SurveyTrait* their = &self.traits[other.tag >> 2]
        cdef uint32_t found = FOUND_KINDS
        cdef bint is_wider
        if is_own_name and rule.tag & 3 & ~other.tag:
            return
        if rule.file != other.file:
            is_wider = not is_own_name or other.file < rule.file or (other.tag & 3) != (rule.tag & 3)
            if is_wider and own.cross == their.cross and own.flags & SURVEY_COVERABLE and their.flags & SURVEY_COVERS:
                found = FOUND_ELSEWHERE
        elif (
            not self.replacing[rule.file] and own.verb != their.verb and their.rank < own.rank
            and their.flags & SURVEY_SILENCES and own.flags & SURVEY_MORTAL
        ):
            found = FOUND_SILENT
        elif own.group == their.group and own.flags & SURVEY_COVERABLE and their.flags & SURVEY_COVERS and (
            their.strength > own.strength
            or (their.strength == own.strength and (not is_own_name or (other.tag & 3) != (rule.tag & 3)))
        ):
            found = FOUND_COVERED
        if found < rule.found:
            rule.found = found
            rule.by = other.line

    cdef int _enter(self, uint32_t key_end, uint64_t count) except -1:
        """Keep the name's rules that speak of what is below it."""
        cdef uint64_t i
        cdef uint32_t flags, held = 0
        cdef SurveyRule* grown
        cdef bint is_cancelled = self._is_cancelled(count)
        if key_end:
            self.depth += 1
            self.frames[self.depth].key_end = key_end
            self.frames[self.depth].kept_start = self.kept_count
        for i in range(count):
            flags = self.traits[self.rules[i].tag >> 2].flags
            if not self.rules[i].tag & 2 or self.rules[i].found <= FOUND_OVERRULED or held == SURVEY_KEPT:
                continue
            if is_cancelled and not flags & SURVEY_PLAIN:
                continue
            if not flags & (SURVEY_COVERS | SURVEY_SILENCES) and not self.replacing[self.rules[i].file]:
                continue
            if self.kept_count == self.kept_room:
                grown = <SurveyRule*>realloc(self.kept, (2 * self.kept_room + 64) * sizeof(SurveyRule))
                if grown == NULL:
                    raise MemoryError
                self.kept = grown
                self.kept_room = 2 * self.kept_room + 64
            self.kept[self.kept_count] = self.rules[i]
            self.kept_count += 1
            held += 1
        return 0

    def lines(self, uint64_t limit):
        """For each outcome: how many rules have it, and the lines of the first `limit`."""
        cdef RunBuilder builder = self.builder
        cdef uint64_t _i, i, at = 0
        cdef uint32_t outcome
        cdef const uint8_t* rule
        counts = [0] * self.outcomes
        lines = [[] for _ in counts]
        cdef uint64_t* seen = <uint64_t*>malloc((self.outcomes + 1) * sizeof(uint64_t))
        if seen == NULL:
            raise MemoryError
        memset(seen, 0, (self.outcomes + 1) * sizeof(uint64_t))
        for _i in range(builder.taken):
            rule = builder.arena.octets + at
            outcome = load_le32(rule + 4) >> 2
            if outcome < self.outcomes:
                seen[outcome] += 1
                if seen[outcome] <= limit:
                    lines[outcome].append(load_le32(rule))
            at += RULE_HEADER + rule[8]
        for i in range(self.outcomes):
            counts[i] = seen[i]
        free(seen)
        return counts, lines

    cdef uint64_t _place(self, const uint8_t* key, uint32_t length) noexcept nogil:
        """The first rule whose key is not before `key`."""
        cdef uint64_t low = 0, high = self.builder.taken, middle
        cdef const uint8_t* rule
        while low < high:
            middle = (low + high) // 2
            rule = self.builder.arena.octets + self.builder.refs[middle].at
            if compare_keys(rule + RULE_HEADER, rule[8], key, length) < 0:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, bytes key):
        """The (scope, outcome, line) of every rule of a key."""
        cdef const uint8_t* rule
        cdef uint64_t at = self._place(<const uint8_t*><const char*>key, <uint32_t>len(key))
        found = []
        while at < self.builder.taken:
            rule = self.builder.arena.octets + self.builder.refs[at].at
            if rule[8] != len(key) or memcmp(rule + RULE_HEADER, <const char*>key, rule[8]) != 0:
                break
            found.append((load_le32(rule + 4) & 3, load_le32(rule + 4) >> 2, load_le32(rule)))
            at += 1
        return found

    def children(self, bytes key):
        """The names one label below a key that have rules or have such below them: (name, rules, line of the first)."""
        cdef uint64_t at = self._place(<const uint8_t*><const char*>key, <uint32_t>len(key)), end
        cdef uint32_t length = <uint32_t>len(key), stop
        cdef const uint8_t* rule
        cdef uint8_t next_key[MAX_KEY + 1]
        found = []
        while at < self.builder.taken:
            rule = self.builder.arena.octets + self.builder.refs[at].at
            if rule[8] < length or memcmp(rule + RULE_HEADER, <const char*>key, length) != 0:
                break
            if rule[8] == length:
                at += 1
                continue
            stop = length
            while rule[RULE_HEADER + stop]:
                stop += 1
            memcpy(next_key, rule + RULE_HEADER, stop)
            next_key[stop] = 1          # behind all keys that go on with a zero octet
            end = self._place(next_key, stop + 1)
            found.append((key_to_name(rule + RULE_HEADER, stop + 1), end - at, load_le32(rule)))
            at = end
        return found


cdef class Shares(RunHeap):
    """Walks sorted runs together and counts what lists have in common. See engine.pyi."""

    cdef list inputs
    cdef list verbs             # of each list: the verb of each outcome, an octet each
    cdef uint32_t words         # of a set of lists
    cdef uint64_t* below        # a frame: for each verb the lists that speak of what is below its name
    cdef uint64_t* own          # of the name at hand: for each verb and scope bit the lists that speak of it
    cdef uint32_t key_ends[MAX_LABELS + 2]
    cdef int depth
    cdef uint8_t path[MAX_KEY + 1]
    cdef uint32_t path_length

    def __cinit__(self, list readers, list verbs):
        self.words = <uint32_t>(len(readers) + 63) // 64
        self.below = <uint64_t*>calloc((MAX_LABELS + 2) * 2 * self.words + 1, sizeof(uint64_t))
        self.own = <uint64_t*>calloc(4 * self.words + 1, sizeof(uint64_t))
        if self.below == NULL or self.own == NULL:
            raise MemoryError
        if len(verbs) != len(readers):
            raise ValueError("verbs for each list")
        self.inputs = readers
        self.verbs = verbs

    def __dealloc__(self):
        free(self.below)
        free(self.own)

    def count(self):
        """(names, names that no other list covers, for each list how many each other one covers) of each list."""
        cdef uint32_t lists = <uint32_t>len(self.inputs), number, i, j
        cdef uint32_t here
        cdef RunReader reader
        cdef uint32_t* at_name = <uint32_t*>malloc((lists + 1) * sizeof(uint32_t))
        cdef uint64_t* names = <uint64_t*>calloc(lists + 1, sizeof(uint64_t))
        cdef uint64_t* unique = <uint64_t*>calloc(lists + 1, sizeof(uint64_t))
        cdef uint64_t* shared = <uint64_t*>calloc(<uint64_t>lists * lists + 1, sizeof(uint64_t))
        cdef uint8_t* scopes = <uint8_t*>calloc(3 * <uint64_t>lists + 1, 1)  # of each list: by block, by allow, else
        try:
            if at_name == NULL or names == NULL or unique == NULL or shared == NULL or scopes == NULL:
                raise MemoryError
            self.depth = 0
            self._start(self.inputs)
            while self.heap_size:
                reader = <RunReader>self.readers[self.heap[0]]
                self._go_to(reader)
                here = 0
                while True:
                    number = self.heap[0]
                    reader = <RunReader>self.readers[number]
                    self._take(reader, number, scopes + 3 * number)
                    at_name[here] = number
                    here += 1
                    if not reader.advance():
                        self.heap_size -= 1
                        self.heap[0] = self.heap[self.heap_size]
                    if self.heap_size == 0:
                        break
                    self._sift(0)
                    reader = <RunReader>self.readers[self.heap[0]]
                    if reader.key_length != self.path_length or memcmp(reader.key, self.path, self.path_length) != 0:
                        break
                for i in range(here):
                    number = at_name[i]
                    names[number] += 1
                    unique[number] += not self._note(scopes + 3 * number, number, shared + <uint64_t>number * lists)
                self._enter()
                memset(self.own, 0, 4 * self.words * sizeof(uint64_t))
                for i in range(here):
                    memset(scopes + 3 * at_name[i], 0, 3)
            return [
                (names[i], unique[i], [shared[<uint64_t>i * lists + j] for j in range(lists)]) for i in range(lists)
            ]
        finally:
            free(at_name)
            free(names)
            free(unique)
            free(shared)
            free(scopes)

    cdef int _go_to(self, RunReader reader) except -1:
        """Leave the frames that are not above the next name."""
        cdef uint32_t shared = 0
        while shared < reader.key_length and shared < self.path_length and reader.key[shared] == self.path[shared]:
            shared += 1
        while self.depth and self.key_ends[self.depth] > shared:
            self.depth -= 1
        memcpy(self.path, reader.key, reader.key_length)
        self.path_length = reader.key_length
        return 0

    cdef int _take(self, RunReader reader, uint32_t number, uint8_t* scopes) except -1:
        """Note a list's rules of the name at hand."""
        cdef bytes verbs = self.verbs[number]
        cdef uint32_t i, scope, verb, outcome
        for i in range(reader.found_count):
            outcome = reader.found[i].tag >> 2
            if outcome >= <uint32_t>len(verbs):
                raise ValueError("a rule with an outcome that is not in the list's table")
            verb = <uint8_t>verbs[outcome]
            scope = reader.found[i].tag & 3
            if verb > 1:
                scopes[2] |= <uint8_t>scope
                continue
            scopes[verb] |= <uint8_t>scope
            if scope & 1:
                self.own[2 * verb * self.words + number // 64] |= <uint64_t>1 << (number & 63)
            if scope & 2:
                self.own[(2 * verb + 1) * self.words + number // 64] |= <uint64_t>1 << (number & 63)
        return 0

    cdef bint _note(self, const uint8_t* scopes, uint32_t number, uint64_t* shared) noexcept nogil:
        """Count for the lists that cover all that this one says of the name; whether there is one."""
        cdef uint64_t* above = self.below + <uint64_t>self.depth * 2 * self.words
        cdef uint64_t covering
        cdef uint32_t word, verb, bit
        cdef bint is_covered = False
        if scopes[2]:
            return False
        for word in range(self.words):
            covering = ~<uint64_t>0
            for verb in range(2):
                if scopes[verb] & 1:
                    covering &= above[verb * self.words + word] | self.own[2 * verb * self.words + word]
                if scopes[verb] & 2:
                    covering &= above[verb * self.words + word] | self.own[(2 * verb + 1) * self.words + word]
            if word == number // 64:
                covering &= ~(<uint64_t>1 << (number & 63))
            bit = 0
            while covering:
                is_covered = True
                bit = <uint32_t>__builtin_ctzll(covering)
                shared[word * 64 + bit] += 1
                covering &= covering - 1
        return is_covered

    cdef void _enter(self) noexcept nogil:
        """Keep who speaks of what is below the name."""
        cdef uint64_t* above = self.below + <uint64_t>self.depth * 2 * self.words
        cdef uint64_t* made = above
        cdef uint32_t word, verb
        if self.path_length:
            self.depth += 1
            self.key_ends[self.depth] = self.path_length
            made += 2 * self.words
        for verb in range(2):
            for word in range(self.words):
                made[verb * self.words + word] = above[verb * self.words + word] | (
                    self.own[(2 * verb + 1) * self.words + word]
                )
