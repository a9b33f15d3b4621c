# One query on its way through the engine, and what the stages read. Read this first.
#
# A Query is reset once (query_start) and then filled stage by stage; each stage reads only what an earlier one filled.
# Numbers that Python also knows (actions, codes, counters) are proven equal by tests/unit/test_vocabulary.py.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HEADER = 12                # octets of a message header (RFC 1035 section 4.1.1)
    MAX_NAME = 255             # octets of a name in wire form (RFC 1035 section 3.1)
    MAX_LABELS = 127
    MAX_TCP = 65535
    UDP_PLAIN = 512            # what a client without EDNS takes (RFC 1035 section 4.2.1)
    UDP_EDNS = 1232            # what we send at most over UDP (DNS flag day 2020)
    FLAG_QR = 0x8000
    FLAG_AA = 0x0400
    FLAG_TC = 0x0200
    FLAG_RD = 0x0100
    FLAG_RA = 0x0080
    FLAG_AD = 0x0020
    FLAG_CD = 0x0010
    OPCODE_MASK = 0x7800
    OPCODE_NOTIFY = 0x2000     # 4 (RFC 1996), where OPCODE_MASK has it
    POINTER = 0xC0             # the two high bits of a compression pointer
    NAME_OF_QUESTION = 0xC00C  # a pointer to the question's name
    STALE_TTL = 30             # seconds (RFC 8767 section 4)

cdef enum:
    BATCH = 64                 # datagrams a system call
    ROUNDS = 4                 # batches a socket may take before the loop gets its turn
    IN_ROOM = 2112             # a longer query is cut and so FORMERR; multiples of 2048 share lines of a cache
    OUT_ROOM = 1280            # more than UDP_EDNS
    CONTROL_ROOM = 64          # octets of a control message

cdef enum Verdict:
    CONTINUE = -1              # the stage has nothing to say: go on to the next
    VERDICT_REPLY = 0
    VERDICT_DROP = 1
    VERDICT_WAIT = 2
    VERDICT_PUNT = 3

cdef enum PuntReason:
    REASON_FORWARD = 0
    REASON_CONDITIONAL = 1
    REASON_LOCAL = 2
    REASON_REFRESH = 3
    REASON_PATTERN = 4
    REASON_NOTIFY = 5
    REASON_DNS64 = 6
    REASON_SERVERS = 7

cdef enum:
    TYPE_A = 1
    TYPE_NS = 2
    TYPE_CNAME = 5
    TYPE_SOA = 6
    TYPE_HINFO = 13
    TYPE_TXT = 16
    TYPE_AAAA = 28
    TYPE_DNAME = 39
    TYPE_OPT = 41
    TYPE_RRSIG = 46
    TYPE_SVCB = 64
    TYPE_HTTPS = 65
    TYPE_TKEY = 249
    TYPE_TSIG = 250
    TYPE_IXFR = 251
    TYPE_AXFR = 252
    TYPE_ANY = 255
    TYPE_CAA = 257
    CLASS_IN = 1
    CLASS_CH = 3
    RCODE_NOERROR = 0
    RCODE_FORMERR = 1
    RCODE_SERVFAIL = 2
    RCODE_NXDOMAIN = 3
    RCODE_NOTIMP = 4
    RCODE_REFUSED = 5
    RCODE_BADVERS = 16
    RCODE_BADCOOKIE = 23
    OPTION_NSID = 3            # RFC 5001
    OPTION_ECS = 8             # RFC 7871
    OPTION_COOKIE = 10         # RFC 7873
    OPTION_KEEPALIVE = 11      # RFC 7828
    OPTION_EDE = 15            # RFC 8914
    EDE_NONE = -1
    EDE_OTHER = 0
    EDE_STALE_ANSWER = 3
    EDE_FORGED_ANSWER = 4
    EDE_DNSSEC_BOGUS = 6
    EDE_NSEC_MISSING = 12
    EDE_CACHED_ERROR = 13
    EDE_NOT_READY = 14
    EDE_BLOCKED = 15
    EDE_PROHIBITED = 18
    EDE_STALE_NXDOMAIN = 19
    EDE_NOT_AUTHORITATIVE = 20
    EDE_NOT_SUPPORTED = 21
    EDE_NO_REACHABLE_AUTHORITY = 22
    EDE_NETWORK_ERROR = 23

cdef enum:
    ACTION_FORWARD = 0
    ACTION_ALLOW = 1
    ACTION_ADDRESS = 2
    ACTION_ZERO = 3
    ACTION_NXDOMAIN = 4
    ACTION_NODATA = 5
    ACTION_REFUSED = 6
    ACTION_DROP = 7
    ACTION_TCP_ONLY = 8
    ACTION_CNAME = 9
    ACTION_DATA = 10
    ACTION_SERVFAIL = 11
    ACTION_LOCAL = 12
    LAST_ACTION = 12
    RANK_OVERLAY = 0
    RANK_IMPORTANT_BLOCK = 2
    RANK_RPZ = 4
    RANK_NOBODY = 255
    OVERLAY_ALLOW = 1          # operators' words: two bits of a value in the overlay's table; the newer, the higher the rest
    OVERLAY_BLOCK = 2
    OVERLAY_WORD = 3
    PROFILE_OVERLAY = 2        # how an operator's block is answered: matrix.py puts it there
    CELL_NEEDS_ANSWER = 1
    PROFILE_REBINDING = 3      # how a name outside that points inside is answered, likewise
    CELL_CONDITIONAL = 2
    CELL_KEEPS_SIGNED = 4      # its list leaves signed answers alone where the client wants to verify them
    CELL_QUESTION_ONLY = 8     # its list speaks of names that are asked for, not of what answers lead to
    VARIANT_NOT_RECURSIVE = 1  # bits of a class's variants
    VARIANT_SIGNED = 2
    VARIANTS = 4
    HINT_IPV4 = 4              # SvcParamKeys (RFC 9460 section 14.3.2)
    HINT_IPV6 = 6
    DECIDED_NOTHING = 0
    DECIDED_NAME = 1           # for the name: what the answer points at may still outrank it
    DECIDED_ALL = 2            # for the answer too
    CELL_SHADOW = 0x80         # a shadow list would have decided: see SnapshotView.shadows
    CLASS_REFUSED = 0xFFFF
    CLASS_WITHHELD = 0xFFFE    # a list of theirs has never come: SERVFAIL until it does
    TRANSPORT_UDP = 0
    TRANSPORT_TCP = 1
    FIRST_ENCRYPTED = 2        # of the transports: TLS, HTTPS, QUIC
    TRANSPORT_TLS = 2

# What this server tells of itself by EDNS, and what it takes from it (edns.pyx).
cdef enum:
    ASKED_NSID = 1             # bits of Query.options: the options that the query has
    ASKED_ECS = 2
    ASKED_COOKIE = 4
    ASKED_KEEPALIVE = 8
    COOKIE_NONE = 0            # Query.cookie_state: the query has no cookie, or nobody looks at it
    COOKIE_NEW = 1             # the client's half alone
    COOKIE_BAD = 2             # with a server's half that is none of ours, of another address or too old
    COOKIE_GOOD = 3            # its address is proven
    COOKIES_OFF = 0
    COOKIES_ON = 1
    COOKIES_REQUIRED = 2
    ECS_STRIP = 0
    ECS_FORWARD = 1
    ECS_SET = 2
    ECS_ROOM = 18              # octets of a client's network in a key: family, prefix length, address
    NSID_ROOM = 64             # octets
    TXT_ROOM = 256             # octets of a TXT record with one string

cdef struct Edns:
    uint32_t cookies           # COOKIES_…
    uint32_t structured        # code of the option that asks for structured errors; 0: none does
    uint32_t keepalive         # how long a connection may be idle, in tenths of a second; 0: not told
    uint32_t ecs               # ECS_…
    uint8_t prefix4            # bits of a client's network that an upstream may see
    uint8_t prefix6
    uint8_t checks             # whether even a query without options is looked at
    uint8_t nsid_size          # 0: not told
    uint8_t version_size       # of the TXT records for version.bind and id.server, 0: REFUSED
    uint8_t id_size
    uint8_t nsid[64]
    uint8_t version[256]       # one character-string
    uint8_t id[256]
    uint64_t key0, key1        # of which the secrets of server cookies are made

# The sections of resolver/counters.py: index of the first counter of each.
cdef enum:
    TRANSPORTS = 5
    WAYS = 3                   # counters.WAYS
    DURATION_STRIDE = 20       # a sum and the buckets of a histogram
    TYPE_SLOTS = 72
    LIST_SLOTS = 1024
    NO_LIST = 1023
    OVERLAY_SLOT = 1022
    REBINDING_SLOT = 1021
    COUNT_QUERIES = 0                                      # [transport][type slot]
    COUNT_RESPONSES = 360                                  # [rcode]
    COUNT_ANSWERS = 384                                    # [action][list slot]
    COUNT_CACHE = 16768
    COUNT_ENGINE = 16776
    COUNT_UPSTREAM = 16784
    COUNT_DURATIONS = 18832                                # [transport][way]: sum in microseconds, buckets
    COUNT_RECORDS = 19132
    COUNT_SHADOW = 19140                                   # [list slot]
    COUNT_DNSSEC = 20164                                   # counted by Python
    COUNT_ALL = 20172
    CACHE_HITS = COUNT_CACHE
    CACHE_MISSES = COUNT_CACHE + 1
    CACHE_STORES = COUNT_CACHE + 2
    CACHE_EVICTIONS = COUNT_CACHE + 3
    CACHE_ENTRIES = COUNT_CACHE + 4
    CACHE_OCTETS = COUNT_CACHE + 5
    CACHE_ROOM = COUNT_CACHE + 6
    CACHE_STALE = COUNT_CACHE + 7
    ENGINE_MALFORMED = COUNT_ENGINE
    ENGINE_REFUSED = COUNT_ENGINE + 1
    ENGINE_TRUNCATED = COUNT_ENGINE + 2
    ENGINE_PUNTS = COUNT_ENGINE + 3
    ENGINE_SEND_FAILURES = COUNT_ENGINE + 4
    ENGINE_ROUNDS = COUNT_ENGINE + 5
    ENGINE_DROPPED = COUNT_ENGINE + 6
    ENGINE_LIMITED = COUNT_ENGINE + 7
    RECORDS_WRITTEN = COUNT_RECORDS
    RECORDS_DROPPED = COUNT_RECORDS + 1

# A message under inspection. `failed` sticks: check it once after a run of reads.
cdef struct Reader:
    const uint8_t* data
    uint32_t size
    uint32_t at
    bint failed

# A message being written. `full` sticks: nothing is written past `room`.
cdef struct Writer:
    uint8_t* data
    uint32_t room
    uint32_t at
    bint full

# What policy says of (class, shape): one cell of the matrix, eight octets, computed by resolver/lists/matrix.py.
cdef packed struct Cell:
    uint8_t rank               # vocabulary.Rank
    uint8_t action             # vocabulary.Action
    uint8_t flags              # CELL_…
    uint8_t member             # which member of the shape won: finds its data
    uint16_t slot              # counters' slot of the list that won, 0xFFFF for none
    uint16_t profile           # how a block is answered

# A shadow list that would have decided; those of a cell follow each other.
cdef packed struct ShadowClaim:
    uint8_t rank               # with which it would have spoken
    uint8_t is_last            # of its cell
    uint16_t slot              # counters' slot of the list

# How a block is answered.
cdef struct Profile:
    uint32_t action            # ACTION_…
    uint32_t ttl               # seconds
    int32_t ede                # INFO-CODE or EDE_NONE
    uint16_t text_size
    uint16_t soa_size
    uint8_t ipv4[4]
    uint8_t ipv6[16]
    uint32_t zone              # which policy zone's SOA goes with it, from 1; 0: none
    uint8_t text[200]          # EXTRA-TEXT, UTF-8
    uint16_t full_size
    uint16_t brief_size
    uint8_t full[640]          # EXTRA-TEXT of a structured error, I-JSON; and what is left where that does not fit
    uint8_t brief[320]
    uint8_t soa[512]           # MNAME and RNAME in wire form

# A policy zone's SOA, which tells by whom an answer was made.
cdef struct ZoneSoa:
    uint16_t name_size
    uint16_t rdata_size
    uint8_t name[256]          # wire form
    uint8_t rdata[544]         # wire form, uncompressed

# What an answer has to do with the lists (inspect.pyx).
cdef enum:
    TARGETS = 6                # findings that are kept of one answer
    PATTERN_TARGETS = 24       # names that are held against patterns; an honest answer has a few

# What was listed, in the order in which an RPZ zone goes by it (rpz.md, 12).
cdef enum FindingKind:
    FOUND_CLIENT = 0           # the client's address
    FOUND_NAME = 1             # the name asked for, or one that the answer leads to
    FOUND_ADDRESS = 2          # an address in the answer
    FOUND_NSDNAME = 3          # the name of a name server
    FOUND_NSIP = 4             # its address

cdef enum:
    INSPECTED_MORE = 1         # there was more than is kept: it is looked for again each time
    INSPECTED_INSIDE = 2       # an address that no name outside should have
    INSPECTED_SIGNED = 4       # the answer has signatures
    INSPECTED_SERVERS = 8      # its names' servers were looked up

cdef struct Inspection:
    uint64_t generation        # in which it was found; 0: not inspected yet
    uint32_t overlay           # by which it was found: Core.overlay_number
    uint32_t word              # the newest of the operators' words on its names; 0: none
    uint32_t ids[TARGETS]      # listsets of names, sets of addresses
    uint8_t positions[TARGETS]  # how many aliases lead there
    uint8_t kinds[TARGETS]     # FindingKind
    uint8_t count
    uint8_t flags              # INSPECTED_…

# A name that an answer points at.
cdef struct Target:
    uint32_t size              # octets of name, the root's included
    uint32_t labels_count      # without the root
    uint8_t labels[128]        # offset of each label in name, from the left
    uint8_t name[256]          # lower-case, wire form

# An upstream's answer, made ready by cache_prepare: checked, without OPT, with the places of its TTLs.
cdef struct Answer:
    const uint8_t* packet      # header, question, sections
    const uint16_t* ttls       # offset of each TTL in packet
    Inspection* inspection     # what was found in it; filled when first needed
    uint32_t size              # octets of packet
    uint32_t ttl_count
    uint32_t age               # seconds since it was stored
    uint32_t lifetime          # seconds it may be kept (0: not at all)
    bint stale                 # it has expired, and serves because there is no other
    bint refresh               # the question is to be asked anew, whatever the client gets
    bint failed                # it says only that there is no answer
    bint silent                # because nobody answered
    int32_t ede                # INFO-CODE that goes with it, else EDE_NONE
    uint32_t scope             # bits of the client's network that it is for; meant only where ECS is not stripped

cdef struct Query:
    # in: set by the socket's edge
    const uint8_t* packet
    uint32_t size
    uint32_t transport         # vocabulary.Transport
    uint8_t client[16]         # IPv4 as ::ffff:a.b.c.d
    uint8_t* reply
    uint32_t reply_room        # octets at `reply`
    int fd                     # the socket to answer by, -1 for a stream
    uint32_t token             # a stream's: which client waits
    const void* peer           # sockaddr of a datagram's client
    const uint8_t* control     # the control message to answer with
    uint64_t control_size      # its octets
    bint may_wait              # the engine may ask upstream itself
    const Answer* given        # finish(): the upstream's answer to use instead of the cache
    const Answer* given_a      # likewise the answer to the same question for A, where AAAA is made from it (DNS64)
    bint without_a             # there is none
    uint64_t since             # microseconds, monotonic: when it came in
    # wire
    uint16_t id
    uint16_t flags             # as received
    uint16_t qtype
    uint16_t qclass
    uint32_t question_end      # offset behind the question, 0 if there is none to echo
    uint32_t name_size         # octets of name, the root's included
    uint32_t labels_count      # without the root
    uint8_t labels[128]        # offset of each label in name, from the left
    uint8_t name[256]          # lower-case, wire form
    bint has_opt
    bint dnssec_ok
    uint8_t edns_version
    uint8_t options            # ASKED_…
    uint8_t cookie_state       # COOKIE_…
    uint8_t cookie[16]         # the server's half to send (RFC 9018 section 4)
    uint32_t options_at        # offset of the options in packet
    uint32_t options_end
    uint32_t cookie_at         # offset of the client's half in packet
    uint32_t limit             # octets that the reply may have
    const Edns* edns
    uint32_t ecs_at            # offset of the client's own option's data in packet
    uint32_t ecs_length        # its octets; 0: it has none, or none that is sound, or nobody looks at it
    uint32_t ecs_size          # octets of ecs, 0: the client's network is nobody's matter
    uint32_t ecs_scope         # bits that the answer is for
    uint8_t ecs[18]            # family, prefix length, address as far as the prefix goes: what an upstream sees
    # client, index, policy
    uint32_t policy_class
    uint32_t row               # of the matrix: the class's own, or a variant that does not see some lists
    uint32_t listset
    uint32_t finding           # FindingKind: what the cell speaks about
    uint32_t position          # how many aliases lead there
    uint32_t route
    bint counted               # its client's bucket has paid for it
    uint32_t decided           # what of the cell was set by Python: DECIDED_…
    uint32_t chosen            # the listset it decided by; 0: the name's
    const Inspection* undecided  # what was found beside the name's listset, where Python has to decide; NULL: nothing
    uint32_t stage             # for what it decides then: DECIDED_…
    const uint8_t* inspected   # the answer whose targets are not known yet; NULL: the name is not
    uint32_t inspected_size
    uint32_t word              # the operators' on the name, as the overlay's table has it; 0: none
    uint32_t shadow            # the listset of which shadow lists speak, 0 for none
    Cell cell
    # out
    uint16_t rcode             # with the extended bits
    int32_t ede                # INFO-CODE to send or EDE_NONE
    const uint8_t* ede_text
    uint32_t ede_size
    const uint8_t* ede_brief   # instead of it where it does not fit
    uint32_t ede_brief_size
    uint32_t reply_size
    uint32_t reason            # PuntReason
    uint8_t told               # TOLD_…: what its record says (ring.pyx)
