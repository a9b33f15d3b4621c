"""The index file and the tables in memory as C sees them. The Python description of the same bytes, with the drawings,
is lists/layout.py; tests/unit/lists/test_layout.py proves that both agree. All numbers are little-endian.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    INDEX_VERSION = 2
    INDEX_SECTIONS = 14
    INDEX_ALIGN = 64            # octets; every section starts at a multiple
    BUCKET_OCTETS = 64          # one cache line
    BUCKET_SLOTS = 7
    BUCKET_VALUES = 49          # offset of the u16 values in a bucket, after 7 fingerprints of 7 octets
    BUCKET_FILTER = 63          # offset of the filter octet
    VALUE_CHILDREN = 0x8000     # value bit: longer names are listed below this one
    VALUE_PAIR = 0x7FFF         # value bits: the pair id, or all ones: look in the side table
    MAX_REACH = 1024            # buckets a displaced entry may lie behind its own
    MAX_LABELS = 127            # of a name (RFC 1035 section 3.1: 255 octets)
    MAX_KEY = 254               # octets of a name's key: 253 octets of text and the last label's end

cdef struct IndexSection:
    uint64_t offset             # from the file's start, octets
    uint64_t length             # octets
    uint64_t checksum           # XXH64, seed 0, of the section

cdef struct IndexHeader:        # the file's first octets
    uint8_t magic[8]            # "TAMPAHIX"
    uint32_t version            # INDEX_VERSION
    uint32_t sections           # INDEX_SECTIONS
    uint64_t length             # of the whole file, octets
    uint8_t key[16]             # of the name hash
    uint32_t buckets            # how many
    uint32_t reach              # the farthest an entry lies behind its bucket, in buckets
    uint64_t entries            # names stored in the buckets
    uint32_t root_self          # listset of the root itself
    uint32_t root_below         # listset of everything below the root that no entry speaks of
    IndexSection table[14]      # in the order of layout.IndexSection
    uint64_t checksum           # XXH64, seed 0, of all octets before it

cdef struct SideCell:
    uint32_t slot               # bucket * 7 + slot in it, plus 1; 0: empty
    uint32_t pair               # its pair id

cdef struct Pair:
    uint32_t self               # listset of the name itself
    uint32_t below              # listset of every name below it that has no entry

cdef struct Listset:
    uint32_t shape              # row of the matrix
    uint32_t refs               # index in refs of its members' data references; 0: no member has data

cdef enum:                      # which addresses a table of ranges is about
    RANGES_ANSWER = 0           # those in an answer
    RANGES_CLIENT = 1           # the client's
    RANGES_NSIP = 2             # those of the name's name servers
    RANGE_KINDS = 3

cdef enum:
    RANGES_HEADER = 8           # u32 ranges of IPv4, u32 of IPv6
    NSNAME_HEADER = 9           # u8 octets of the name, u32 listset of it, u32 of what is below it

cdef struct RangeSet:           # what lists say of a range's addresses
    uint32_t listset
    uint32_t lengths            # index in lengths of its members' prefix lengths; 0: none has one

cdef struct Ranges:             # ascending; a range ends where the next one starts, the first starts at 0
    const uint32_t* starts4     # host order
    const uint32_t* sets4
    const uint32_t* sets6
    const uint8_t* starts6      # 16 octets each, network order
    uint32_t count4             # 0: nobody speaks of any address
    uint32_t count6
    uint32_t* first4            # 65,537: the range in which x.y.0.0 lies, and the last one at the end; owned by the Index

cdef struct SuffixEntry:
    uint64_t high               # the name's hash; both 0: empty
    uint64_t low
    uint32_t self               # value for the name itself
    uint32_t below              # value for names below it that have no entry
    uint32_t children           # 1: longer names have entries

cdef struct SuffixView:         # a small table in memory, owned by a SuffixTable
    SuffixEntry* entries        # open-addressed, at most half full
    uint32_t mask               # cells - 1, a power of two less one
    uint32_t root_self
    uint32_t root_below
    uint64_t key0
    uint64_t key1

cdef struct IndexView:          # a verified index, ready to be asked; owned by an Index
    const uint8_t* buckets      # buckets * 64 octets
    const SideCell* side        # open-addressed
    const Pair* pairs
    const Listset* listsets
    const uint32_t* shapes      # how many members each shape has
    const uint32_t* refs        # data references: offsets in data, 0: none
    const uint8_t* data         # record sets
    Ranges ranges[3]            # by RANGES_…
    const RangeSet* sets
    const uint8_t* lengths
    const SuffixView* nsnames   # name of a name server → listset; NULL: nobody speaks of any
    uint64_t key0               # of the name hash
    uint64_t key1
    uint32_t bucket_count
    uint32_t reach              # how many buckets may be looked at beyond the first
    uint32_t side_count         # cells, empty ones too
    uint32_t pair_count
    uint32_t listset_count
    uint32_t shape_count
    uint32_t ref_count
    uint32_t data_octets
    uint32_t set_count
    uint32_t length_count
    uint32_t root_self
    uint32_t root_below

cdef struct RecordSet:          # a rule's own records
    uint32_t ttl                # seconds; RECORDS_NO_TTL: the profile's
    uint16_t flags              # RECORDS_…
    uint16_t count              # records not yet taken by index_next_record
    const uint8_t* next         # the next record: u16 type, u16 rdlength, rdata in wire form
    const uint8_t* end          # of the data section

cdef struct Record:
    uint16_t rrtype
    uint16_t rdlength
    const uint8_t* rdata        # wire form, names uncompressed

cdef enum:
    RECORDS_HEADER = 8          # u32 ttl, u16 flags, u16 count
    RECORD_HEADER = 4           # u16 type, u16 rdlength
    RECORDS_WILDCARD = 1        # the only record is a CNAME and the qname goes before its target
    RECORDS_TTLS = 2            # the data of each begins with its TTL
    RECORDS_NXDOMAIN = 4        # the name does not exist; an SOA among them says so
    RECORDS_MAPPED = 8          # an alias that Python works out from the qname (RFC 6147 section 5.3.1)

cdef enum:
    RECORDS_NO_TTL = 0xFFFFFFFF

cdef struct Sip:                # SipHash-1-3 with 128 bits of output, under way
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3
    uint64_t octets             # absorbed so far, always a multiple of 8

cdef struct Hash:
    uint64_t high               # the first eight octets of the output: picks the bucket
    uint64_t low                # the last eight: fingerprint and filter bit
