"""The field's words as numbers: what stands on the wire, and what Tampah decides.

Each number is defined here for Python and once in `engine/query.pxd` for the engine; `tests/unit/test_vocabulary.py`
proves that both agree.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class RRType(IntEnum):
    """Resource record types this program speaks of by name (RFC 1035 section 3.2.2 and later)."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    NAPTR = 35
    DNAME = 39
    OPT = 41
    DS = 43
    RRSIG = 46
    NSEC = 47
    DNSKEY = 48
    NSEC3 = 50
    TLSA = 52
    SVCB = 64
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255


class RRClass(IntEnum):
    """Classes (RFC 1035 section 3.2.4)."""

    IN = 1
    CH = 3
    ANY = 255


class Rcode(IntEnum):
    """Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16
    BADCOOKIE = 23


class EDE(IntEnum):
    """INFO-CODEs of Extended DNS Errors (RFC 8914 section 4)."""

    OTHER = 0
    UNSUPPORTED_ALGORITHM = 1
    UNSUPPORTED_DIGEST = 2
    STALE_ANSWER = 3
    FORGED_ANSWER = 4
    DNSSEC_INDETERMINATE = 5
    DNSSEC_BOGUS = 6
    SIGNATURE_EXPIRED = 7
    SIGNATURE_NOT_YET_VALID = 8
    DNSKEY_MISSING = 9
    RRSIGS_MISSING = 10
    NO_ZONE_KEY_BIT_SET = 11
    NSEC_MISSING = 12
    CACHED_ERROR = 13
    NOT_READY = 14
    BLOCKED = 15
    CENSORED = 16
    FILTERED = 17
    PROHIBITED = 18
    STALE_NXDOMAIN = 19
    NOT_AUTHORITATIVE = 20
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23
    SIGNATURE_EXPIRED_BEFORE_VALID = 25
    UNSUPPORTED_NSEC3_ITERATIONS = 27


class Transport(IntEnum):
    """How a query came in; the order is that of the counters in shared memory."""

    UDP = 0
    TCP = 1
    TLS = 2
    HTTPS = 3
    QUIC = 4


class Action(IntEnum):
    """What is done with a query once policy has spoken."""

    FORWARD = 0  # nobody speaks: cache or upstream
    ALLOW = 1  # an allow or a passthru: cache or upstream, and known to be allowed
    ADDRESS = 2  # the sinkhole's addresses
    ZERO = 3  # 0.0.0.0 and ::
    NXDOMAIN = 4
    NODATA = 5
    REFUSED = 6
    DROP = 7  # no answer at all
    TCP_ONLY = 8  # an empty answer with TC=1 on UDP, normal resolution elsewhere
    CNAME = 9  # an alias to the profile's target
    DATA = 10  # the rule's own records
    SERVFAIL = 11
    LOCAL = 12  # what the config itself says of the name: its own records, special names


class Verb(IntEnum):
    """What a rule says of a name."""

    BLOCK = 0
    ALLOW = 1


class Scope(IntFlag):
    """Which names a rule speaks of: the name itself, what is below it, or both."""

    SELF = 1
    BELOW = 2
    BOTH = 3


class Rank(IntEnum):
    """The total order of everything that can speak about a query; the lowest wins."""

    OVERLAY = 0
    IMPORTANT_ALLOW = 1
    IMPORTANT_BLOCK = 2
    ALLOW = 3
    RPZ = 4
    BLOCK = 5
    NOBODY = 255
