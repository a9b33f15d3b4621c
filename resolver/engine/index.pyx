# The index: which listset speaks for a name. One walk from the TLD down, one bucket (a cache line) a label.
#
# Invariants. Nothing of a file is used before _verify() has found it in range, so the functions below trust the view.
# A name's walk ends at the first suffix that has no entry or no children: a name that is not listed costs the TLD's
# bucket, which is warm, and one more. Each entry holds what its parents say as well, so the deepest entry found is the
# whole truth. A bucket that was full when an entry came has that entry's filter bit set, and so has each bucket passed
# on the way to a free slot: a clear bit ends the search.

import os

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from resolver.engine.index cimport (
    BUCKET_FILTER, BUCKET_OCTETS, BUCKET_SLOTS, BUCKET_VALUES, INDEX_ALIGN, INDEX_SECTIONS, INDEX_VERSION, MAX_KEY,
    MAX_LABELS, MAX_REACH, NSNAME_HEADER, RANGE_KINDS, RANGES_HEADER, RECORD_HEADER, RECORDS_HEADER, RECORDS_MAPPED,
    RECORDS_NO_TTL, RECORDS_NXDOMAIN, RECORDS_TTLS, RECORDS_WILDCARD, VALUE_CHILDREN, VALUE_PAIR, Hash, IndexHeader,
    IndexSection, IndexView, Listset, Pair, RangeSet, Record, RecordSet, SideCell, Sip,
)

cdef extern from *:
    void __builtin_prefetch(const void* at) noexcept nogil

cdef enum:
    FINGERPRINT_BITS = 56

cdef uint64_t FINGERPRINT = (<uint64_t>1 << FINGERPRINT_BITS) - 1
cdef uint64_t NOT_LISTED = ~<uint64_t>0
cdef uint64_t ENTRY_CHILDREN = <uint64_t>1 << 32  # beside the pair id in what index_entry returns


cdef inline uint64_t index_fingerprint(const Hash* hash) noexcept nogil:
    """56 bits, never 0: that marks a free slot."""
    cdef uint64_t fingerprint = hash.low & FINGERPRINT
    return fingerprint if fingerprint else 1


cdef inline uint32_t index_bucket(const Hash* hash, uint32_t buckets) noexcept nogil:
    return <uint32_t>(((hash.high >> 32) * buckets) >> 32)


cdef inline uint8_t index_filter(const Hash* hash) noexcept nogil:
    return <uint8_t>(1 << (hash.low >> 61))


cdef inline uint32_t side_start(uint32_t slot, uint32_t cells) noexcept nogil:
    """Where in the side table the search for a slot begins."""
    return <uint32_t>((<uint64_t><uint32_t>(slot * 0x9E3779B1U) * cells) >> 32)


cdef uint64_t index_side(const IndexView* view, uint32_t slot) noexcept nogil:
    """The pair id of a slot whose value has no room for it; NOT_LISTED if the side table lacks it."""
    cdef uint32_t at
    if view.side_count == 0:
        return NOT_LISTED
    at = side_start(slot, view.side_count)
    while view.side[at].slot:  # ends: a verified side table has an empty cell
        if view.side[at].slot == slot + 1:
            return view.side[at].pair
        at += 1
        if at == view.side_count:
            at = 0
    return NOT_LISTED


cdef inline uint64_t index_entry(const IndexView* view, const Hash* hash) noexcept nogil:
    """The pair id of a name, with ENTRY_CHILDREN where longer names are listed; or NOT_LISTED."""
    cdef uint64_t fingerprint = index_fingerprint(hash), entry
    cdef uint32_t bucket = index_bucket(hash, view.bucket_count), _, slot
    cdef uint16_t value
    cdef const uint8_t* at
    for _ in range(view.reach + <uint32_t>1):
        at = view.buckets + <uint64_t>bucket * BUCKET_OCTETS
        for slot in range(<uint32_t>BUCKET_SLOTS):
            if (load_le64(at + slot * 7) & FINGERPRINT) == fingerprint:
                value = load_le16(at + BUCKET_VALUES + slot * 2)
                entry = value & VALUE_PAIR
                if entry == VALUE_PAIR:
                    entry = index_side(view, bucket * BUCKET_SLOTS + slot)
                    if entry == NOT_LISTED:
                        return NOT_LISTED
                return entry | ENTRY_CHILDREN if value & VALUE_CHILDREN else entry
        if not at[BUCKET_FILTER] & index_filter(hash):
            return NOT_LISTED
        bucket += 1
        if bucket == view.bucket_count:
            bucket = 0
    return NOT_LISTED


cdef inline void index_hash(const IndexView* view, Sip* state, const uint8_t* label, Hash* out) noexcept nogil:
    """Hash one more label and ask for its bucket, which is then under way from memory."""
    sip_label(state, label)
    sip_finish(state, out)
    __builtin_prefetch(view.buckets + <uint64_t>index_bucket(out, view.bucket_count) * BUCKET_OCTETS)


cdef uint32_t index_lookup(const IndexView* view, const uint8_t* name, const uint8_t* labels, int count) noexcept nogil:
    """The listset that speaks for a name; 0: nobody does.

    `name`: lower-case wire form; `labels`: the offset of each label from the left; `count`: labels without the root.
    """
    cdef Sip state
    cdef Hash hash, longer
    cdef uint64_t entry
    cdef uint32_t below = view.root_below
    if count == 0:
        return view.root_self
    sip_start(&state, view.key0, view.key1)
    index_hash(view, &state, name + labels[count - 1], &longer)
    while count:
        count -= 1
        hash = longer
        if count:  # the next bucket comes from memory while this one is read
            index_hash(view, &state, name + labels[count - 1], &longer)
        entry = index_entry(view, &hash)
        if entry == NOT_LISTED:
            break
        if count == 0:
            return view.pairs[<uint32_t>entry].self
        below = view.pairs[<uint32_t>entry].below
        if not entry & ENTRY_CHILDREN:
            break
    return below


cdef inline uint32_t index_shape(const IndexView* view, uint32_t listset) noexcept nogil:
    """The matrix row of a listset; 0 also for an id that is none."""
    return view.listsets[listset].shape if listset < view.listset_count else 0


cdef inline uint32_t index_data(const IndexView* view, uint32_t listset, uint32_t member) noexcept nogil:
    """The data reference of a member of a listset; 0: it has none."""
    cdef const Listset* at
    if listset >= view.listset_count:
        return 0
    at = view.listsets + listset
    if at.refs == 0 or member >= view.shapes[at.shape]:
        return 0
    return view.refs[at.refs + member]


cdef bint index_records(const IndexView* view, uint32_t reference, RecordSet* out) noexcept nogil:
    """Open a rule's own records; False for a reference that is 0 or out of range. Then call index_next_record."""
    cdef const uint8_t* at
    if reference == 0 or reference > view.data_octets or view.data_octets - reference < RECORDS_HEADER:
        return False
    at = view.data + reference
    out.ttl = load_le32(at)
    out.flags = load_le16(at + 4)
    out.count = load_le16(at + 6)
    out.next = at + RECORDS_HEADER
    out.end = view.data + view.data_octets
    return True


cdef bint index_next_record(RecordSet* records, Record* out) noexcept nogil:
    """Take the next record; False after the last."""
    if records.count == 0 or records.end - records.next < RECORD_HEADER:
        return False
    out.rrtype = load_le16(records.next)
    out.rdlength = load_le16(records.next + 2)
    out.rdata = records.next + RECORD_HEADER
    if records.end - out.rdata < out.rdlength:
        return False
    records.next = out.rdata + out.rdlength
    records.count -= 1
    return True


cdef inline uint32_t index_length(const IndexView* view, uint32_t number, uint32_t member) noexcept nogil:
    """How long the prefix is by which a member of a set's listset speaks; 0: its list does not go by length."""
    cdef const RangeSet* at = view.sets + number
    if at.lengths == 0 or member >= view.shapes[view.listsets[at.listset].shape]:
        return 0
    return view.lengths[at.lengths + member]


cdef const char* index_sections_fault(uint64_t size, const IndexHeader* header) noexcept nogil:
    """Whether every section lies in the file's `size` octets; NULL, or what is wrong."""
    cdef const IndexSection* section
    cdef int i
    for i in range(INDEX_SECTIONS):
        section = &header.table[i]
        if (section.offset % INDEX_ALIGN or section.offset < sizeof(IndexHeader) or section.offset > size
                or section.length > size - section.offset):
            return "a section lies outside the file"
    return NULL


cdef const char* index_fault(
    const uint8_t* file, const IndexHeader* header, IndexView* view, bint patient
) noexcept nogil:
    """Check every id and offset of a file whose checksums are right, and fill in `view`; NULL, or what is wrong."""
    cdef const IndexSection* table = &header.table[0]
    cdef uint64_t at, used = 0, escaped = 0, empty = 0, fingerprint
    cdef uint32_t slot
    cdef uint16_t value
    cdef const uint8_t* bucket
    cdef const char* fault
    cdef RecordSet records
    cdef Record record
    if header.buckets == 0 or header.buckets > <uint32_t>0xFFFFFFFF // BUCKET_SLOTS:
        return "the number of buckets is out of range"
    if table[0].length != <uint64_t>header.buckets * BUCKET_OCTETS:
        return "the buckets have not the length that the header says"
    if header.reach > MAX_REACH or header.reach >= header.buckets:
        return "the reach is out of range"
    for at in range(1, INDEX_SECTIONS - 1):
        if table[at].length >> 32 or table[at].length % (8 if at <= 3 or at == 10 else 4 if at <= 5 else 1):
            return "a table's length is no multiple of its cells"
    view.buckets = file + table[0].offset
    view.side = <const SideCell*>(file + table[1].offset)
    view.pairs = <const Pair*>(file + table[2].offset)
    view.listsets = <const Listset*>(file + table[3].offset)
    view.shapes = <const uint32_t*>(file + table[4].offset)
    view.refs = <const uint32_t*>(file + table[5].offset)
    view.data = file + table[6].offset
    view.sets = <const RangeSet*>(file + table[10].offset)
    view.lengths = file + table[11].offset
    view.set_count = <uint32_t>(table[10].length // sizeof(RangeSet))
    view.length_count = <uint32_t>table[11].length
    view.key0 = load_le64(header.key)
    view.key1 = load_le64(header.key + 8)
    view.bucket_count = header.buckets
    view.reach = header.reach
    view.side_count = <uint32_t>(table[1].length // sizeof(SideCell))
    view.pair_count = <uint32_t>(table[2].length // sizeof(Pair))
    view.listset_count = <uint32_t>(table[3].length // sizeof(Listset))
    view.shape_count = <uint32_t>(table[4].length // sizeof(uint32_t))
    view.ref_count = <uint32_t>(table[5].length // sizeof(uint32_t))
    view.data_octets = <uint32_t>table[6].length
    view.root_self = header.root_self
    view.root_below = header.root_below
    if view.listset_count == 0 or view.shape_count == 0 or view.listsets[0].shape or view.listsets[0].refs:
        return "listset 0 is not the empty one"
    if view.shapes[0]:
        return "shape 0 is not the empty one"
    if view.root_self >= view.listset_count or view.root_below >= view.listset_count:
        return "the root's listset is out of range"
    for at in range(view.pair_count):
        if view.pairs[at].self >= view.listset_count or view.pairs[at].below >= view.listset_count:
            return "a pair's listset is out of range"
    for at in range(view.listset_count):
        if view.listsets[at].shape >= view.shape_count:
            return "a listset's shape is out of range"
        if view.listsets[at].refs and (<uint64_t>view.listsets[at].refs + view.shapes[view.listsets[at].shape]
                                       > view.ref_count):
            return "a listset's data references are out of range"
    if view.set_count == 0 or view.sets[0].listset:
        return "set 0 is not the empty one"
    for at in range(view.set_count):
        if view.sets[at].listset >= view.listset_count:
            return "a set's listset is out of range"
        if view.sets[at].lengths and (
            <uint64_t>view.sets[at].lengths + view.shapes[view.listsets[view.sets[at].listset].shape] > view.length_count
        ):
            return "a set's prefix lengths are out of range"
    for at in range(RANGE_KINDS):
        fault = ranges_fault(file + table[7 + at].offset, table[7 + at].length, view.set_count, &view.ranges[at])
        if fault != NULL:
            return fault
    for at in range(view.ref_count):
        if view.refs[at]:
            if not index_records(view, view.refs[at], &records):
                return "a data reference is out of range"
            while index_next_record(&records, &record):
                pass
            if records.count:
                return "a record is cut off"
    for at in range(view.side_count):
        if view.side[at].slot == 0:
            empty += 1
        elif (<uint64_t>view.side[at].slot > <uint64_t>view.bucket_count * BUCKET_SLOTS
              or view.side[at].pair >= view.pair_count):
            return "a cell of the side table is out of range"
    if view.side_count and empty == 0:
        return "the side table is full"
    for at in range(view.bucket_count):
        if patient and at % (STEP // BUCKET_OCTETS) == STEP // BUCKET_OCTETS - 1:
            stand_aside()
        bucket = view.buckets + at * BUCKET_OCTETS
        for slot in range(<uint32_t>BUCKET_SLOTS):
            fingerprint = load_le64(bucket + slot * 7) & FINGERPRINT
            if fingerprint:
                used += 1
                value = load_le16(bucket + BUCKET_VALUES + slot * 2) & VALUE_PAIR
                if value == VALUE_PAIR:
                    escaped += 1
                elif value >= view.pair_count:
                    return "an entry's pair is out of range"
    if used != header.entries:
        return "the buckets hold not as many entries as the header says"
    if escaped != view.side_count - empty:
        return "the side table holds not as many cells as the buckets refer to"
    return NULL


cdef class Index:
    """A verified, memory-mapped index file; `view` is what the engine's functions read. See engine.pyi."""

    cdef IndexView view
    cdef Pages pages
    cdef SuffixTable nsnames
    cdef readonly str path
    cdef readonly uint64_t entries
    cdef readonly uint64_t bytes_hot

    def __init__(self, path, *, bint patient=False):
        if self.pages is not None:
            raise RuntimeError("an Index is opened once")
        self.path = os.fspath(path)
        self.pages = Pages()
        self.pages.open(self.path, sizeof(IndexHeader), not patient)
        self._verify(patient)

    def __dealloc__(self):
        cdef int i
        for i in range(RANGE_KINDS):
            free(self.view.ranges[i].first4)

    cdef int _verify(self, bint patient) except -1:
        cdef const uint8_t* file = self.pages.at
        cdef uint64_t size = self.pages.size, total
        cdef const IndexHeader* header = <const IndexHeader*>file
        cdef const char* fault = NULL
        cdef int i
        if memcmp(header.magic, b"TAMPAHIX", 8) != 0:
            raise ValueError(f"{self.path}: no index file: the magic number is wrong")
        if header.version != INDEX_VERSION:
            raise ValueError(f"{self.path}: index version {header.version}, expected {INDEX_VERSION}: compile again")
        if xxh64(file, sizeof(IndexHeader) - 8, False) != header.checksum:
            raise ValueError(f"{self.path}: the header's checksum is wrong")
        if header.sections != INDEX_SECTIONS or header.length != size:
            raise ValueError(f"{self.path}: {size} octets long, the header says {header.length}")
        with nogil:
            fault = index_sections_fault(size, header)
            if fault == NULL:
                for i in range(INDEX_SECTIONS):
                    if xxh64(file + header.table[i].offset, header.table[i].length, patient) != header.table[i].checksum:
                        fault = "a section's checksum is wrong"
                        break
            if fault == NULL:
                fault = index_fault(file, header, &self.view, patient)
        if fault != NULL:
            raise ValueError(f"{self.path}: {fault.decode()}")
        for i in range(RANGE_KINDS):
            if not ranges_index(&self.view.ranges[i]):
                raise MemoryError
        self._take_nsnames(file + header.table[12].offset, header.table[12].length)
        self.entries = header.entries
        total = sizeof(IndexHeader)
        for i in range(INDEX_SECTIONS - 1):
            total += header.table[i].length
        self.bytes_hot = total
        return 0

    cdef int _take_nsnames(self, const uint8_t* at, uint64_t left) except -1:
        """Names of name servers, few as they are, go into a table of their own."""
        cdef uint32_t own, below, size
        cdef dict names = {}
        while left:
            size = at[0]
            if left < NSNAME_HEADER + size:
                raise ValueError(f"{self.path}: a name of a name server is cut off")
            own = load_le32(at + 1)
            below = load_le32(at + 5)
            if own >= self.view.listset_count or below >= self.view.listset_count:
                raise ValueError(f"{self.path}: a listset of a name server is out of range")
            names[(<const char*>at + NSNAME_HEADER)[:size].decode("latin-1")] = (own, below)
            at += NSNAME_HEADER + size
            left -= NSNAME_HEADER + size
        if names:
            try:
                self.nsnames = SuffixTable(names)
            except ValueError as error:
                raise ValueError(f"{self.path}: a name of a name server is none: {error}") from error
            self.view.nsnames = &self.nsnames.view
        return 0

    def find_address(self, bytes address, int kind=RANGES_ANSWER):
        if len(address) != 16 or not 0 <= kind < RANGE_KINDS:
            raise ValueError("an address has 16 octets, and there are three kinds")
        return self.view.sets[
            ranges_find(&self.view.ranges[kind], <const uint8_t*><const char*>address)
        ].listset

    def find_server(self, name):
        return self.nsnames.find(name) if self.nsnames is not None else 0

    @property
    def speaks_of_server_addresses(self):
        return self.view.ranges[RANGES_NSIP].count4 > 0

    @property
    def shapes(self):
        return self.view.shape_count

    @property
    def listsets(self):
        return self.view.listset_count

    def find(self, name):
        cdef uint8_t wire[NAME_OCTETS + 1]
        cdef uint8_t labels[MAX_LABELS + 1]
        cdef int count = name_to_wire(name, wire, labels)
        return index_lookup(&self.view, wire, labels, count)

    def count_listed(self, bytes names):
        cdef uint8_t labels[MAX_LABELS + 1]
        cdef const uint8_t* name = <const uint8_t*><const char*>names
        cdef const uint8_t* end = name + len(names)
        cdef uint64_t listed = 0
        cdef uint32_t at
        cdef int count
        with nogil:
            while name < end:
                at = 0
                count = 0
                while name + at < end and name[at]:
                    if name[at] > 63 or count == MAX_LABELS:
                        break
                    labels[count] = <uint8_t>at
                    count += 1
                    at += name[at] + 1
                if name + at >= end or name[at] or at >= NAME_OCTETS:
                    break
                if index_lookup(&self.view, name, labels, count):
                    listed += 1
                name += at + 1
        if name != end:
            raise ValueError("not a row of names in wire form")
        return listed

    def shape(self, uint32_t listset):
        return index_shape(&self.view, listset)

    def data(self, uint32_t listset, uint32_t member):
        return index_data(&self.view, listset, member)

    def records(self, uint32_t reference):
        cdef RecordSet records
        cdef Record record
        if not index_records(&self.view, reference, &records):
            raise ValueError(f"{reference} is no data reference")
        found = []
        ttl = None if records.ttl == RECORDS_NO_TTL else records.ttl
        wildcard = bool(records.flags & RECORDS_WILDCARD)
        while index_next_record(&records, &record):
            found.append((record.rrtype, record.rdata[:record.rdlength]))
        if records.flags & RECORDS_TTLS:
            ttl = min([int.from_bytes(rdata[:4], "big") for _, rdata in found], default=ttl)
            found = [(rtype, rdata[4:]) for rtype, rdata in found]
        return ttl, wildcard, found


def index_layout():
    """The C side's sizes and numbers by name, for the test that compares them with lists/layout.py."""
    return {
        "version": INDEX_VERSION, "sections": INDEX_SECTIONS, "align": INDEX_ALIGN, "header": sizeof(IndexHeader),
        "section": sizeof(IndexSection), "bucket": BUCKET_OCTETS, "slots": BUCKET_SLOTS, "values": BUCKET_VALUES,
        "filter": BUCKET_FILTER, "children": VALUE_CHILDREN, "pair_mask": VALUE_PAIR, "reach": MAX_REACH,
        "side": sizeof(SideCell), "pair": sizeof(Pair), "listset": sizeof(Listset), "key": MAX_KEY,
        "labels": MAX_LABELS, "records": RECORDS_HEADER, "record": RECORD_HEADER, "wildcard": RECORDS_WILDCARD,
        "ttls": RECORDS_TTLS, "nxdomain": RECORDS_NXDOMAIN, "mapped": RECORDS_MAPPED,
        "ranges": RANGES_HEADER, "range_set": sizeof(RangeSet), "nsname": NSNAME_HEADER,
        "no_ttl": <uint32_t>RECORDS_NO_TTL, "fingerprint_bits": FINGERPRINT_BITS,
    }
