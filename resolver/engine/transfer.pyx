# Reads the records of zone transfers (RFC 5936, RFC 1995) out of their messages, without a Python object a record.
#
# Nearly every record of a policy zone is a CNAME from a trigger to one of a few targets, with one of a few TTLs. Such a
# record is taken here: its owner becomes a key in a RunBuilder, or an item of a list where it is part of a delta. What a
# target and TTL come to was said by Python (learn) when it met the first of them. Every other record goes back to Python
# by the place of its parts. A SOA ends a scan, as it says what the records behind it are.
#
# A message comes from another machine: every length is checked before it is used, and a compression pointer may only
# lead backwards, before the name and every place that it came by, so following it ends (RFC 1035 section 4.1.4).

cdef enum:
    TRANSFER_POLICIES = 64      # targets that are known at a time
    RECORD_FIXED = 10           # octets of type, class, TTL and rdlength

cdef struct TransferPolicy:
    uint8_t target[256]         # lower-case, wire form
    uint32_t size
    uint32_t ttl
    uint32_t outcome

cdef struct TransferRecord:
    uint32_t rtype
    uint32_t rclass
    uint32_t ttl
    uint32_t rdata              # its offset in the message
    uint32_t rdlength

cdef enum TransferTaken:
    TRANSFER_OTHER = 0          # for Python
    TRANSFER_RULE = 1           # its key, scope and outcome are known
    TRANSFER_SOA = 2
    TRANSFER_BAD = 3


cdef uint32_t transfer_name(Reader* r, uint8_t* name, uint8_t* labels, uint32_t* count) noexcept nogil:
    """A name without compression, lower-case, into `name`: its octets, the root's included; 0 and r.failed: it is none.

    `name` has 256 octets, `labels` 128. The reader stands behind the name.
    """
    cdef uint32_t size
    if read_name(r, name, labels, &size, count, r.at):
        return size
    r.failed = True
    return 0


cdef class TransferScanner:
    """Takes the records of a zone's transfer. See engine.pyi."""

    cdef RunBuilder builder     # where rules go; None: they are gathered
    cdef list gathered
    cdef TransferPolicy* policies
    cdef uint32_t policy_count
    cdef uint32_t next_policy   # which is replaced when all are taken
    cdef uint8_t zone[256]
    cdef uint32_t zone_size
    cdef uint32_t zone_labels
    cdef uint8_t key[256]       # of the record taken last
    cdef uint32_t key_length
    cdef uint32_t scope
    cdef uint32_t outcome
    cdef readonly uint64_t records

    def __cinit__(self, bytes zone, RunBuilder builder=None):
        cdef Reader r
        cdef uint8_t labels[128]
        self.policies = <TransferPolicy*>calloc(TRANSFER_POLICIES, sizeof(TransferPolicy))
        if self.policies == NULL:
            raise MemoryError
        self.builder = builder
        self.gathered = []
        reader_start(&r, <const uint8_t*><const char*>zone, <uint32_t>len(zone))
        self.zone_size = transfer_name(&r, self.zone, labels, &self.zone_labels)
        if self.zone_size == 0 or r.at != r.size:
            raise ValueError("not a domain name in wire form")

    def __dealloc__(self):
        free(self.policies)

    def gather(self):
        """From here on rules are gathered."""
        self.builder = None

    def take_gathered(self):
        """What was gathered since the last call: [(key, scope, outcome)]."""
        gathered, self.gathered = self.gathered, []
        return gathered

    def learn(self, bytes target, uint32_t ttl, uint32_t outcome):
        cdef Reader r
        cdef uint8_t labels[128]
        cdef uint32_t count
        cdef TransferPolicy* policy = &self.policies[self.next_policy]
        if outcome > MAX_OUTCOMES:
            raise ValueError(f"outcome {outcome} out of range")
        reader_start(&r, <const uint8_t*><const char*>target, <uint32_t>len(target))
        policy.size = transfer_name(&r, policy.target, labels, &count)
        if policy.size == 0 or r.at != r.size:
            policy.size = 0
            raise ValueError("not a domain name in wire form")
        policy.ttl = ttl
        policy.outcome = outcome
        self.next_policy = (self.next_policy + 1) % TRANSFER_POLICIES
        if self.policy_count < TRANSFER_POLICIES:
            self.policy_count += 1

    def scan(self, bytes message, uint32_t at, uint32_t count):
        cdef Reader r
        cdef TransferRecord record
        cdef uint32_t start, done = 0
        cdef int taken = TRANSFER_OTHER
        cdef list others = []
        cdef bint enough = True
        if len(message) > MAX_TCP:
            raise ValueError("longer than a message can be")
        if self.builder is not None and self.builder.refs != NULL:
            raise RuntimeError("the rules are sorted already")
        reader_start(&r, <const uint8_t*><const char*>message, <uint32_t>len(message))
        if at > r.size:
            raise ValueError("outside the message")
        r.at = at
        while done < count:
            with nogil:
                while done < count:
                    start = r.at
                    taken = self._take(&r, &record)
                    if taken != TRANSFER_RULE or self.builder is None:
                        break
                    if not self.builder._reserve(1, MAX_KEY):
                        enough = False
                        break
                    memcpy(
                        self.builder._begin(self.records, self.outcome << 2 | self.scope, self.key_length),
                        self.key, self.key_length,
                    )
                    self.records += 1
                    done += 1
            if not enough:
                raise MemoryError
            if done == count:
                break
            if taken == TRANSFER_BAD:
                raise ValueError(f"a record at octet {start} of a message is malformed")
            if taken == TRANSFER_SOA:
                r.at = start
                break
            if taken == TRANSFER_RULE:
                self.gathered.append(((<const char*>self.key)[:self.key_length], self.scope, self.outcome))
            else:
                others.append((start, record.rtype, record.rclass, record.ttl, record.rdata, record.rdlength))
            self.records += 1
            done += 1
        if self.records > 0xFFFFFFFF:
            raise ValueError("more records than can be counted")
        return r.at, done, others

    def skip(self, bytes message, uint32_t at, uint32_t count):
        """Past `count` records of any kind: (where the next begins, where the last began and its type; 0 if none)."""
        cdef Reader r
        cdef uint32_t _i, start = 0, rtype = 0
        reader_start(&r, <const uint8_t*><const char*>message, <uint32_t>len(message))
        if at > r.size:
            raise ValueError("outside the message")
        r.at = at
        for _i in range(count):
            start = r.at
            read_past_name(&r)
            rtype = read_u16(&r)
            read_skip(&r, 6)
            read_skip(&r, read_u16(&r))
            if r.failed:
                raise ValueError(f"a record at octet {start} of a message is malformed")
        return r.at, start, rtype

    cdef int _take(self, Reader* r, TransferRecord* record) noexcept nogil:
        """The next record; a rule's key, scope and outcome are then in their fields."""
        cdef uint8_t owner[256]
        cdef uint8_t target[256]
        cdef uint8_t labels[128]
        cdef uint8_t target_labels[128]
        cdef uint32_t size, count, target_count, relative, first = 0, i, at, length, policy
        cdef uint8_t octet
        cdef bint digits
        cdef Reader data
        size = transfer_name(r, owner, labels, &count)
        record.rtype = read_u16(r)
        record.rclass = read_u16(r)
        record.ttl = read_u32(r)
        record.rdlength = read_u16(r)
        record.rdata = r.at
        read_skip(r, record.rdlength)
        if r.failed:
            return TRANSFER_BAD
        if record.rtype == TYPE_SOA:
            return TRANSFER_SOA
        if record.rtype != TYPE_CNAME or record.rclass != CLASS_IN or count < self.zone_labels + 2:
            return TRANSFER_OTHER
        relative = count - self.zone_labels
        at = labels[relative] if self.zone_labels else size - 1
        if size - at != self.zone_size or memcmp(owner + at, self.zone, self.zone_size) != 0:
            return TRANSFER_OTHER
        self.scope = 1
        if owner[0] == 1 and owner[1] == c'*':
            self.scope = 2
            first = 1
            if relative < 3:
                return TRANSFER_OTHER
        # The key: labels of the trigger from the last to the first, as far as they are plain (build.pyx).
        self.key_length = 0
        i = relative
        while i > first:
            i -= 1
            at = labels[i]
            length = owner[at]
            digits = True
            for at in range(at + 1, at + 1 + length):
                octet = PLAIN[owner[at]]
                if octet == 0 or octet == c'.':
                    return TRANSFER_OTHER
                if octet < c'0' or octet > c'9':
                    digits = False
                self.key[self.key_length] = octet
                self.key_length += 1
            self.key[self.key_length] = 0
            self.key_length += 1
            if i == relative - 1:
                at = labels[i]
                if digits or (length >= 4 and memcmp(owner + at + 1, b"rpz-", 4) == 0):
                    return TRANSFER_OTHER
        reader_start(&data, r.data, record.rdata + record.rdlength)
        data.at = record.rdata
        length = transfer_name(&data, target, target_labels, &target_count)
        if length == 0 or data.at != data.size:
            return TRANSFER_BAD
        for policy in range(self.policy_count):
            if self.policies[policy].ttl == record.ttl and self.policies[policy].size == length and (
                memcmp(self.policies[policy].target, target, length) == 0
            ):
                break
        else:
            return TRANSFER_OTHER
        # A target that is its own trigger is an allow and no alias.
        at = labels[first]
        if length == self.key_length + 1 and memcmp(target, owner + at, self.key_length) == 0:
            return TRANSFER_OTHER
        self.outcome = self.policies[policy].outcome
        return TRANSFER_RULE
