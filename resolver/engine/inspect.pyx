# inspect: what an upstream's answer leads to is held against the lists like the name that was asked.
#
# A name that is on no list may be an alias (CNAME, DNAME) of one that is, or name it as its service's target (SVCB, HTTPS,
# RFC 9460). Its addresses may be listed, in A and AAAA records or as a service's hints, and so may its name servers and
# theirs, as far as the answer carries them. What is found is kept with the answer, and the newest of the operators' words on
# its names, stamped with the generation and the overlay they were found by: so an answer is inspected once, and again on
# its first hit after a reload or an operator's word. What it means is decided for each client, in the one total order: an
# allow of the name that was asked outranks a block of what it leads to; of the operators' words the newest speaks, whichever
# name it is about.
#
# Which patterns a name fits Python has to say where the memo does not know: then it takes the query. Likewise who the
# servers of the name and its aliases are, for lists that want them looked up (rpz.md, 30): an answer rarely carries them.
#
# An answer with more findings than are kept is walked each time, and weighed as it is: no crowd hides the strongest.

cdef enum:
    SERVERS = 16               # names of name servers whose addresses are known for such

cdef struct Walk:              # through one answer
    Memo* memo
    Memo* known_servers        # of names, where these are looked up; NULL: they are not
    uint32_t now
    const SnapshotView* s
    const SuffixView* overlay
    Inspection* found
    Query* q                   # findings are weighed for it; NULL: they are noted in `found`
    uint64_t key               # of the strongest so far
    uint8_t strongest[16]      # its address: of equal findings the one with the smallest decides (rpz.md, 14)
    uint8_t addresses[TARGETS][16]  # of what was noted
    uint32_t looked            # names that were held against patterns
    uint32_t sought            # names whose servers were
    bint missing               # which patterns a name fits is not known
    bint unserved              # who a name's servers are
    uint32_t aliases           # CNAME records so far
    uint32_t server_count
    uint64_t servers[SERVERS]  # hashes of their names


cdef uint32_t next_target(Reader* r, bint alias) noexcept nogil:
    # Past the next record: where the name stands that it points at, 0 if it points at none. `alias`: only if it is a CNAME.
    cdef uint32_t rtype, rdlength, at
    read_past_name(r)
    rtype = read_u16(r)
    read_skip(r, 6)
    rdlength = read_u16(r)
    at = r.at
    read_skip(r, rdlength)
    if alias and rtype != TYPE_CNAME:
        return 0
    if rtype == TYPE_SVCB or rtype == TYPE_HTTPS:
        at += 2  # SvcPriority
    elif rtype != TYPE_CNAME and rtype != TYPE_DNAME:
        return 0
    return at if at < r.at else 0


cdef bint read_target(const uint8_t* packet, uint32_t size, uint32_t at, Target* target) noexcept nogil:
    # The name at an offset, lower-case and without compression.
    cdef Reader r
    reader_start(&r, packet, size)
    r.at = at
    return read_name(&r, target.name, target.labels, &target.size, &target.labels_count, size)


cdef void walk_take(Walk* w, uint32_t kind, uint32_t id, const uint8_t* address) noexcept nogil:
    # Weigh a finding or note it: in the order of addresses, as the first of equal ones decides.
    cdef Inspection* found = w.found
    cdef uint32_t i, position = w.aliases if w.aliases < 255 else 255
    cdef const Cell* cell
    cdef uint64_t key
    if finding_listset(w.s, kind, id) == 0:
        return
    if w.q != NULL:
        cell = policy_of(w.s, w.q, finding_listset(w.s, kind, id))
        if cell.flags & CELL_QUESTION_ONLY:
            return
        if cell.flags & CELL_SHADOW and not w.q.shadow:
            w.q.shadow = finding_listset(w.s, kind, id)
        key = finding_key(w.s, cell, kind, id, position)
        if cell.flags & CELL_CONDITIONAL or key > w.key or (
            key == w.key and (address == NULL or memcmp(address, w.strongest, 16) >= 0)
        ):
            return
        w.key = key
        finding_take(w.s, w.q, cell, kind, id, position)
        if address != NULL:
            memcpy(w.strongest, address, 16)
        return
    for i in range(found.count):
        if found.ids[i] == id and found.kinds[i] == kind:
            if address == NULL or memcmp(address, w.addresses[i], 16) >= 0:
                return
            found.count -= 1  # found by a smaller address: it moves
            memmove(&found.ids[i], &found.ids[i + 1], 4 * (found.count - i))
            memmove(&found.kinds[i], &found.kinds[i + 1], found.count - i)
            memmove(&found.positions[i], &found.positions[i + 1], found.count - i)
            memmove(&w.addresses[i], &w.addresses[i + 1], 16 * (found.count - i))
            break
    if found.count == TARGETS:
        found.flags |= INSPECTED_MORE
        return
    i = found.count
    if address != NULL:
        while i and found.kinds[i - 1] == kind and memcmp(address, w.addresses[i - 1], 16) < 0:
            found.ids[i] = found.ids[i - 1]
            found.kinds[i] = found.kinds[i - 1]
            found.positions[i] = found.positions[i - 1]
            memcpy(w.addresses[i], w.addresses[i - 1], 16)
            i -= 1
        memcpy(w.addresses[i], address, 16)
    found.ids[i] = id
    found.kinds[i] = <uint8_t> kind
    found.positions[i] = <uint8_t> position
    found.count += 1


cdef void walk_address(Walk* w, const uint8_t* octets, uint32_t size, uint32_t kind) noexcept nogil:
    # An address of 4 or 16 octets, of the answer or of a name server.
    cdef uint8_t address[16]
    if size == 4:
        memset(address, 0, 10)
        address[10] = address[11] = 0xFF
        memcpy(address + 12, octets, 4)
    else:
        memcpy(address, octets, 16)
    if kind == FOUND_NSIP:
        walk_take(w, kind, ranges_find(&w.s.index.ranges[RANGES_NSIP], address), address)
        return
    walk_take(w, kind, ranges_find(&w.s.index.ranges[RANGES_ANSWER], address), address)
    if w.s.guard.count4 and client_class(&w.s.guard, address) == 0:
        w.found.flags |= INSPECTED_INSIDE


cdef bint walk_name(Walk* w, const Answer* answer, uint32_t at, uint32_t end) noexcept nogil:
    # The name at an offset, which should end before `end`. Whether there is one.
    cdef Target target
    cdef const Inspection* fitting
    cdef uint32_t i
    if at >= end or not read_target(answer.packet, answer.size, at, &target):
        return False
    walk_take(w, FOUND_NAME, index_lookup(w.s.index, target.name, target.labels, target.labels_count), NULL)
    if w.s.pattern_rank < RANK_NOBODY and w.looked < PATTERN_TARGETS:
        w.looked += 1
        fitting = memo_find(w.memo, w.s.number, 0, target.name, target.labels, target.labels_count)
        w.missing = w.missing or fitting == NULL
        for i in range(fitting.count if fitting != NULL else 0):
            walk_take(w, FOUND_NAME, fitting.ids[i], NULL)
    if w.overlay != NULL:
        w.found.word = max(w.found.word, suffix_lookup(w.overlay, target.name, target.labels, target.labels_count))
    return True


cdef void walk_service(Walk* w, const Answer* answer, uint32_t at, uint32_t end) noexcept nogil:
    # SVCB and HTTPS (RFC 9460 section 2.2): priority, target, parameters, of which the hints are addresses.
    cdef Reader r
    cdef uint32_t key, length, size
    if end - at < 3 or not walk_name(w, answer, at + 2, end):
        return
    reader_start(&r, answer.packet, end)
    r.at = at + 2
    read_past_name(&r)
    while not r.failed and r.at < end:
        key = read_u16(&r)
        length = read_u16(&r)
        at = r.at
        read_skip(&r, length)
        if r.failed:
            return
        size = 4 if key == HINT_IPV4 else 16 if key == HINT_IPV6 else 0
        while size and r.at - at >= size:
            walk_address(w, answer.packet + at, size, FOUND_ADDRESS)
            at += size


cdef uint64_t server_hash(const Target* target) noexcept nogil:
    # FNV-1a of a name; who makes two equal fools only the rules about the two.
    cdef uint64_t value = 0xCBF29CE484222325u
    cdef uint32_t i = 0
    while target.name[i]:
        value = (value ^ target.name[i]) * 0x100000001B3u
        i += 1
    return value


cdef void walk_server(Walk* w, const Answer* answer, uint32_t at, uint32_t end) noexcept nogil:
    # The name in an NS record.
    cdef Target target
    if at >= end or not read_target(answer.packet, answer.size, at, &target):
        return
    if w.s.index.nsnames != NULL:
        walk_take(w, FOUND_NSDNAME,
                  suffix_lookup(w.s.index.nsnames, target.name, target.labels, target.labels_count), NULL)
    if w.server_count < SERVERS:
        w.servers[w.server_count] = server_hash(&target)
        w.server_count += 1


cdef void walk_servers(Walk* w, const Answer* answer, uint32_t at) noexcept nogil:
    # The servers of the name at an offset, as they were looked up.
    cdef Target target
    cdef uint8_t last[16]      # of equal findings those go first that the answer itself carries
    cdef const Inspection* found
    cdef uint32_t i
    if w.known_servers == NULL or w.sought == PATTERN_TARGETS or not read_target(answer.packet, answer.size, at, &target):
        return
    w.sought += 1
    found = memo_find(w.known_servers, w.s.number, w.now, target.name, target.labels, target.labels_count)
    w.unserved = w.unserved or found == NULL
    memset(last, 0xFF, 16)
    for i in range(found.count if found != NULL else 0):
        walk_take(w, found.kinds[i], found.ids[i], last if found.kinds[i] == FOUND_NSIP else NULL)


cdef bint walk_is_server(Walk* w, const Answer* answer, uint32_t owner) noexcept nogil:
    # Whether the name at an offset is one of a name server seen before.
    cdef Target target
    cdef uint64_t value
    cdef uint32_t i
    if not read_target(answer.packet, answer.size, owner, &target):
        return False
    value = server_hash(&target)
    for i in range(w.server_count):
        if w.servers[i] == value:
            return True
    return False


cdef void walk_answer(Walk* w, const Answer* answer, uint32_t question_end) noexcept nogil:
    # Every record that a list may speak of. cache_prepare has checked the message's form; lengths are checked all the same.
    cdef Reader r
    cdef uint32_t counts[3]
    cdef uint32_t section, owner, rtype, rdlength, at
    cdef bint by_servers = w.s.index.nsnames != NULL or w.s.index.ranges[RANGES_NSIP].count4
    w.aliases = w.server_count = w.looked = w.sought = 0
    w.missing = w.unserved = False
    walk_servers(w, answer, HEADER)
    reader_start(&r, answer.packet, answer.size)
    r.at = 6
    for section in range(3):
        counts[section] = read_u16(&r)
    r.at = question_end
    for section in range(3):
        if section and not by_servers:
            return
        while counts[section]:
            counts[section] -= 1
            owner = r.at
            read_past_name(&r)
            rtype = read_u16(&r)
            read_skip(&r, 6)
            rdlength = read_u16(&r)
            at = r.at
            read_skip(&r, rdlength)
            if r.failed:
                return
            if section == 0:
                if (rtype == TYPE_A and rdlength == 4) or (rtype == TYPE_AAAA and rdlength == 16):
                    walk_address(w, answer.packet + at, rdlength, FOUND_ADDRESS)
                elif rtype == TYPE_CNAME or rtype == TYPE_DNAME:
                    w.aliases += 1
                    walk_name(w, answer, at, r.at)
                    if rtype == TYPE_CNAME:
                        walk_servers(w, answer, at)
                    else:  # the CNAME that follows from a DNAME counts
                        w.aliases -= 1
                elif rtype == TYPE_SVCB or rtype == TYPE_HTTPS:
                    walk_service(w, answer, at, r.at)
                elif rtype == TYPE_RRSIG:
                    w.found.flags |= INSPECTED_SIGNED
            elif section == 1:
                if rtype == TYPE_NS:
                    walk_server(w, answer, at, r.at)
            elif w.server_count and ((rtype == TYPE_A and rdlength == 4) or (rtype == TYPE_AAAA and rdlength == 16)):
                if walk_is_server(w, answer, owner):
                    walk_address(w, answer.packet + at, rdlength, FOUND_NSIP)


cdef int inspect_answer(Core* core, const Answer* answer, uint32_t question_end, bint seeks) noexcept nogil:
    # Note what the answer has to do with the lists, and the newest of the operators' words on its names; `seeks`: with its
    # names' servers. A PuntReason where something is not known and it has to be done again, else CONTINUE.
    cdef Walk w
    w.memo = &core.memo
    w.known_servers = &core.servers if seeks else NULL
    w.now = core.now
    w.s = core.snapshot
    w.overlay = core.overlay
    w.found = answer.inspection
    w.q = NULL
    w.found.count = w.found.flags = 0
    w.found.word = 0
    w.found.overlay = core.overlay_number
    walk_answer(&w, answer, question_end)
    if seeks:
        w.found.flags |= INSPECTED_SERVERS
    w.found.generation = 0 if w.missing or w.unserved else w.s.number
    if w.missing:
        return REASON_PATTERN
    return REASON_SERVERS if w.unserved else <int> CONTINUE


cdef bint policy_ask(Query* q, const Answer* answer, uint32_t reason) noexcept nogil:
    # Have Python say what is not known of the answer's names: False.
    q.inspected = answer.packet
    q.inspected_size = answer.size
    q.reason = reason
    return False


cdef bint policy_weigh(Core* core, const Answer* answer, Query* q) noexcept nogil:
    # Let the findings speak: the strongest one's cell becomes the query's. False: Python has to decide.
    cdef const SnapshotView* s = core.snapshot
    cdef const Inspection* found = answer.inspection
    cdef Walk w
    if found.flags & INSPECTED_SIGNED and q.dnssec_ok and s.variants != NULL:
        policy_row(s, q, True)
        if not q.decided:
            policy_cell(s, core.overlay, q)
            policy_client(s, q)
            if s.pattern_rank < RANK_NOBODY and not policy_patterns(s, &core.memo, q):
                return False
            if q.cell.flags & CELL_CONDITIONAL:
                q.reason = REASON_CONDITIONAL
                return False
    if not found.flags & INSPECTED_MORE:
        return policy_compete(s, found, q, DECIDED_ALL)
    w.memo = &core.memo
    w.known_servers = &core.servers if found.flags & INSPECTED_SERVERS else NULL
    w.now = core.now
    w.s = s
    w.overlay = NULL  # its words are known
    w.found = answer.inspection
    w.q = q
    w.key = policy_key_now(s, q)
    memset(w.strongest, 0, 16)
    walk_answer(&w, answer, q.question_end)
    return not w.unserved or policy_ask(q, answer, REASON_SERVERS)


cdef bint policy_answer(Core* core, const Answer* answer, Query* q) noexcept nogil:
    """Let what the answer leads to speak too.

    False: Python has to take the query (a PUNT), as it is not known which patterns a name fits or who its servers are, or
    a finding's cell is conditional.
    """
    cdef const SnapshotView* s = core.snapshot
    cdef const Inspection* found = answer.inspection
    cdef int unknown
    # Rules about servers are RPZ's: for what outranks these nobody has to be asked.
    cdef bint seeks = s.seeks != NULL and s.seeks[q.row] and q.cell.rank >= RANK_RPZ and not answer.failed
    if found.generation != s.number or found.overlay != core.overlay_number \
            or seeks and not found.flags & INSPECTED_SERVERS:
        unknown = inspect_answer(core, answer, q.question_end, seeks)
        if unknown != CONTINUE and q.decided != DECIDED_ALL:
            return policy_ask(q, answer, unknown)
    if q.decided != DECIDED_ALL:
        if found.word > q.word and s.profile_count > PROFILE_OVERLAY:
            policy_word(s, found.word, q)
            return True
        if not policy_weigh(core, answer, q):
            return False
    if found.flags & INSPECTED_INSIDE:
        policy_guard(s, q)
    return True


cdef void policy_guard(const SnapshotView* s, Query* q) noexcept nogil:
    # A name outside has an address inside: blocked like an important name, so that no list but the operator opens the way.
    # Routed zones are the operator's own.
    if 0 < q.route <= s.zone_routes or q.cell.rank <= RANK_IMPORTANT_BLOCK or s.profile_count <= PROFILE_REBINDING:
        return
    if suffix_lookup(s.unguarded, q.name, q.labels, q.labels_count):
        return
    memset(&q.cell, 0, sizeof(Cell))
    q.cell.rank = RANK_IMPORTANT_BLOCK
    q.cell.action = <uint8_t> s.profiles[PROFILE_REBINDING].action
    q.cell.slot = REBINDING_SLOT
    q.cell.profile = PROFILE_REBINDING
    q.listset = 0
    q.finding = FOUND_ADDRESS
