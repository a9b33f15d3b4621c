# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The whole engine once more, with libFuzzer's entry points: built by `make fuzz` alone (see native.py).

Each target takes an input in an allocation of its own size, so AddressSanitizer sees every read past its end. What must hold
of a reply is checked natively and ends in abort(), which libFuzzer takes for a finding.
"""

include "engine.pyx"

from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort

cdef extern from *:
    """
    int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback)(const unsigned char *data, size_t size));
    """
    int LLVMFuzzerRunDriver(int* argc, char*** argv, int (*callback)(const uint8_t*, size_t) noexcept) noexcept

cdef extern from "<stdlib.h>":
    int posix_memalign(void** at, size_t alignment, size_t size)

cdef enum:
    QUESTIONS = 64

cdef struct Fuzz:
    Core* core
    uint8_t* reply             # OUT_ROOM octets: what a datagram has
    uint8_t* whole             # MAX_TCP octets
    uint8_t clients[32]        # one who may ask, and a stranger
    const uint8_t* questions[QUESTIONS]
    uint32_t sizes[QUESTIONS]
    uint32_t question_count

cdef Fuzz fuzz
cdef Engine fuzz_engine
cdef list fuzz_packets


cdef void must(bint holds, const char* what) noexcept nogil:
    if not holds:
        fprintf(stderr, "not so: %s\n", what)
        abort()


# -- what must hold of a reply ----------------------------------------------------------------------------------------
cdef void check_reply(const Query* q) noexcept nogil:
    cdef Reader r
    cdef uint32_t i, start, records, rtype, opts = 0, questions
    must(HEADER <= q.reply_size <= q.reply_room, "a reply has a header and its room")
    must(q.transport != TRANSPORT_UDP or q.reply_size <= q.limit, "a datagram is no larger than the client takes")
    must(memcmp(q.reply, q.packet, 2) == 0, "the id is echoed")
    must(q.reply[2] & 0x80 and not q.reply[3] & 0x40 and not q.reply[2] & 0x04, "QR is set, Z and AA are not")
    must((q.reply[2] ^ q.packet[2]) & 0x79 == 0, "opcode and RD are echoed")
    reader_start(&r, q.reply, q.reply_size)
    r.at = 4
    questions = read_u16(&r)
    records = read_u16(&r) + read_u16(&r)
    records += read_u16(&r)
    must(questions == (1 if q.question_end else 0), "the question is counted")
    if questions:
        must(memcmp(q.reply + HEADER, q.packet + HEADER, q.question_end - HEADER) == 0, "the question is echoed")
        r.at = q.question_end
    for i in range(records):
        start = r.at
        read_past_name(&r)
        rtype = read_u16(&r)
        read_skip(&r, 6)
        read_skip(&r, read_u16(&r))
        must(not r.failed, "every record is whole")
        if rtype == TYPE_OPT:
            opts += 1
            must(q.reply[start] == 0 and i == records - 1, "OPT is the last, and the root's")
    must(r.at == q.reply_size, "nothing stands behind the last record")
    must(opts == (1 if q.has_opt else 0), "OPT comes where the query had one")


cdef void fuzz_start(Query* q, const uint8_t* packet, uint32_t size, uint32_t how) noexcept nogil:
    # A query by the bits of `how`: 1 stream, 2 a stranger, 4 may wait, 8 encrypted, where it is a stream.
    query_start(q, packet, size, (FIRST_ENCRYPTED if how & 8 else 1) if how & 1 else TRANSPORT_UDP, fuzz.whole if how & 1 else fuzz.reply,
                MAX_TCP if how & 1 else OUT_ROOM)
    memcpy(q.client, &fuzz.clients[16 if how & 2 else 0], 16)
    q.may_wait = how & 4 != 0


cdef void fuzz_end(Query* q, int verdict) noexcept nogil:
    if verdict == VERDICT_REPLY:
        if q.transport >= FIRST_ENCRYPTED:
            reply_pad(q)
        check_reply(q)
        message_freshness(q.reply, q.reply_size)
    if verdict == VERDICT_REPLY or verdict == VERDICT_DROP:
        query_count(fuzz.core, q, verdict)


cdef void forget_pending() noexcept nogil:
    # What was to be sent is not, and who waits is let go.
    cdef Forward* f = fuzz.core.forward
    cdef Upstream* u = &f.upstreams[0]
    cdef uint32_t at
    f.out_count = 0
    while u.oldest[0] != NONE:
        forward_hand_over(f, &f.pending[u.oldest[0]], WHY_TIMEOUT)
    while u.oldest[1] != NONE:
        forward_end(f, &f.pending[u.oldest[1]])
    while f.handed != NONE:
        at = f.handed
        f.handed = f.waiters[at].next
        forward_release(f, at)
    for at in range(UPSTREAM_SOCKETS):
        f.upstreams[0].uses[at] = 0


# -- targets ----------------------------------------------------------------------------------------------------------
cdef int fuzz_packet(const uint8_t* data, size_t size) noexcept:
    """A client's packet behind one octet that says how it comes."""
    cdef Query q
    cdef int verdict
    if not 0 < size <= 4096:
        return 0
    fuzz_start(&q, data + 1, <uint32_t> size - 1, data[0])
    if data[0] & 16 and not proxy_open(&fuzz.core.proxies, &q):
        return 0
    verdict = answer_client(fuzz.core, &q)
    fuzz_end(&q, verdict)
    if verdict == VERDICT_WAIT:
        forget_pending()
    return 0


cdef uint8_t* answer_from(const Query* q, const uint8_t* data, uint32_t size, uint32_t* length) noexcept nogil:
    # An upstream's message in its own allocation: twelve octets of header, the query's question, the rest. NULL: too short.
    cdef uint8_t* packet
    if size < HEADER:
        return NULL
    length[0] = q.question_end + size - HEADER
    packet = <uint8_t*> malloc(length[0])
    memcpy(packet, data, HEADER)
    packet[2] |= 0x80
    put_u16(packet + 4, 1)
    memcpy(packet + HEADER, q.packet + HEADER, q.question_end - HEADER)
    memcpy(packet + q.question_end, data + HEADER, size - HEADER)
    return packet


cdef void give_answer(uint32_t place, uint32_t how, const uint8_t* packet, uint32_t size) noexcept nogil:
    # As Engine.learn and Engine.finish do, then the same question again, which may find it in the cache.
    cdef Query q
    cdef Answer answer
    cdef uint32_t lacking
    fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], how & 1)
    if wire_parse(&q) != CONTINUE:
        return
    q.route = 0
    if cache_prepare(&fuzz.core.cache, &q, packet, size, &answer) != PREPARED:
        return
    if q.qtype == TYPE_A and dns64_reply(fuzz.core.snapshot, &q, &answer, 600) == VERDICT_REPLY:
        check_reply(&q)
    dns64_lacks(fuzz.core.snapshot, &q, &answer, &lacking)
    cache_store(&fuzz.core.cache, &q, &answer, fuzz.core.now)
    fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], how & 1)
    q.given = &answer
    fuzz_end(&q, answer_query(fuzz.core, &q))
    fuzz.core.now += how >> 4
    fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], how >> 1 & 1)
    fuzz_end(&q, answer_query(fuzz.core, &q))


cdef void forget_answer(uint32_t place) noexcept nogil:
    # So that the question is asked upstream.
    cdef Query q
    cdef uint8_t key[KEY_ROOM]
    cdef uint32_t size, at = 0
    cdef Entry* e
    fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], 1)
    if wire_parse(&q) != CONTINUE:
        return
    size = cache_key(&q, key)
    e = cache_find(&fuzz.core.cache, &q, key, size, cache_hash(&fuzz.core.cache, key, size), &at)
    if e != NULL:
        entry_forget(&fuzz.core.cache, e, at)


cdef void give_forward(uint32_t place, uint32_t how, uint8_t* packet, uint32_t size) noexcept nogil:
    # The way of a datagram from an upstream: the question is under way, the message has its id and case.
    cdef Query q
    cdef Forward* f = fuzz.core.forward
    cdef Pending* p
    fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], (how & 1) | 4)
    if answer_query(fuzz.core, &q) == VERDICT_WAIT:
        p = &f.pending[f.upstreams[0].oldest[0]]
        put_u16(packet, p.id)
        memcpy(packet + HEADER, p.query + HEADER, p.question_end - HEADER)
        forward_answer(fuzz.core, &q, p, packet, size)
    forget_pending()


cdef int fuzz_answer(const uint8_t* data, size_t size) noexcept:
    """An upstream's message: an octet for the question, one for how it goes on, header, sections."""
    cdef Query q
    cdef uint32_t place, length = 0
    cdef uint8_t* packet
    if not 2 < size <= 8192:
        return 0
    place = data[0] % fuzz.question_count
    fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], 1)
    wire_parse(&q)
    packet = answer_from(&q, data + 2, <uint32_t> size - 2, &length)
    if packet == NULL:
        give_answer(place, data[1], data + 2, <uint32_t> size - 2)
        return 0
    give_answer(place, data[1], packet, length)
    if data[1] & 8:
        forget_answer(place)
        give_forward(place, data[1], packet, length)
        fuzz_engine.stream_answers.clear()
        fuzz_engine.punts.clear()
        fuzz_engine.tokens.clear()
    free(packet)
    return 0


cdef int fuzz_index(const uint8_t* data, size_t size) noexcept:
    """An index file whose checksums are taken for right."""
    cdef IndexView view
    cdef void* file = NULL
    cdef const IndexHeader* header
    if size < sizeof(IndexHeader) or posix_memalign(&file, 64, size):
        return 0
    memcpy(file, data, size)
    header = <const IndexHeader*> file
    if index_sections_fault(size, header) == NULL and index_fault(<const uint8_t*> file, header, &view, False) == NULL:
        use_index(&view)
    free(file)
    return 0


cdef void use_index(const IndexView* view) noexcept nogil:
    # Everything that a query can make of an index.
    cdef Query q
    cdef RecordSet records
    cdef Record record
    cdef uint32_t place, member, listset
    for place in range(fuzz.question_count // 4):
        fuzz_start(&q, fuzz.questions[place], fuzz.sizes[place], 1)
        if wire_parse(&q) != CONTINUE:
            continue
        listset = index_lookup(view, q.name, q.labels, q.labels_count)
        must(listset < view.listset_count, "a look-up gives a listset that is there")
        must(index_shape(view, listset) < view.shape_count, "a listset has a shape that is there")
        for member in range(8):
            if index_records(view, index_data(view, listset, member), &records):
                while index_next_record(&records, &record):
                    must(record.rdlength == 0 or record.rdata[record.rdlength - 1] >= 0, "a record can be read")


def fuzz_native(Engine engine not None, str target, list questions, bytes clients, list arguments):
    """Run libFuzzer on a target with its command line; does not come back. `questions`: sound packets;
    `clients`: the 16 octets of one who may ask and of a stranger."""
    global fuzz_engine, fuzz_packets
    cdef char** argv = <char**> calloc(len(arguments) + 1, sizeof(char*))
    cdef int argc = len(arguments), i
    cdef list kept = [argument.encode() for argument in arguments]
    fuzz_engine, fuzz_packets = engine, questions
    fuzz.core = &engine.core
    fuzz.core.proxies.count = 1  # everybody is a load balancer to who asks by the bit for it
    core_clock(&engine.core)
    fuzz.reply = <uint8_t*> malloc(OUT_ROOM)
    fuzz.whole = <uint8_t*> malloc(MAX_TCP)
    memcpy(fuzz.clients, <const uint8_t*> clients, 32)
    fuzz.question_count = min(len(questions), QUESTIONS)
    for i in range(<int> fuzz.question_count):
        fuzz.questions[i] = <const uint8_t*> PyBytes_AS_STRING(questions[i])
        fuzz.sizes[i] = <uint32_t> len(questions[i])
    for i in range(argc):
        argv[i] = kept[i]
    if target == "packet":
        LLVMFuzzerRunDriver(&argc, &argv, fuzz_packet)
    elif target == "answer":
        LLVMFuzzerRunDriver(&argc, &argv, fuzz_answer)
    else:
        LLVMFuzzerRunDriver(&argc, &argv, fuzz_index)
