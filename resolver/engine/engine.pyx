# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The engine: every packet's way from socket to answer, without a Python object on the hit path.

The includes are the table of contents, in the order of a query's way. `query.pxd` has what passes between the stages. What
a packet, an upstream or a file says is never trusted: wire.pyx reads packets by one bounds-checked reader, index.pyx
verifies a file before it is used.

One engine a worker, driven by one thread: the loop's, when the epoll descriptor is readable. A generation (Snapshot) is
swapped between two batches, so a query sees one from start to end.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE  # no-cython-lint
from libc cimport errno  # no-cython-lint
from libc.errno cimport ECONNREFUSED  # no-cython-lint
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t  # no-cython-lint
from libc.stdlib cimport calloc, free, malloc, realloc  # no-cython-lint
from libc.string cimport memcmp, memcpy, memmove, memset  # no-cython-lint

# The parts use these; the linter sees the root alone.
from .index cimport *
from .query cimport *
from .system cimport *

import os  # no-cython-lint

from resolver.counters import DURATION_BOUNDS, LATENCY_BOUNDS  # no-cython-lint

REPLY = VERDICT_REPLY
DROP = VERDICT_DROP
WAIT = VERDICT_WAIT
PUNT = VERDICT_PUNT
OVERLAY_ALLOW_VALUE = OVERLAY_ALLOW
OVERLAY_BLOCK_VALUE = OVERLAY_BLOCK
PUNT_FORWARD = REASON_FORWARD
PUNT_CONDITIONAL = REASON_CONDITIONAL
PUNT_LOCAL = REASON_LOCAL
PUNT_NOTIFY = REASON_NOTIFY
PUNT_REFRESH = REASON_REFRESH
PUNT_PATTERN = REASON_PATTERN
PUNT_DNS64 = REASON_DNS64
PUNT_SERVERS = REASON_SERVERS

ECS_POLICIES = ("strip", "forward", "set")  # ECS_…
LIMIT_ACTIONS = ("truncate", "drop", "refuse")  # LIMIT_…

(AFTER_NOTHING, AFTER_TIMEOUT, AFTER_TRUNCATED, AFTER_RCODE, AFTER_BAD, AFTER_CLOSED, AFTER_SLOW) = range(7)  # HandedWhy

cdef uint32_t MAPPED_WORD = int.from_bytes(b"\0\0\xff\xff", "little")

include "pages.pyx"      # mapped files
include "hash.pyx"       # the keyed hash of names
include "wire.pyx"       # the packet
include "reply.pyx"      # writing answers
include "client.pyx"     # who asks
include "edns.pyx"       # what it can do, and what we tell of us
include "suffix.pyx"     # small tables of names: routes, the overlay
include "ranges.pyx"     # which addresses are listed
include "index.pyx"      # what is listed
include "policy.pyx"     # what that means for this client
include "cache.pyx"      # what upstreams said
include "memo.pyx"       # which patterns a name fits
include "limit.pyx"      # how often they may
include "proxy.pyx"      # whom a load balancer speaks for
include "core.pyx"       # what an engine holds
include "forward.pyx"    # asking upstream
include "inspect.pyx"    # what answers point at
include "dns64.pyx"      # AAAA from A
include "local.pyx"      # what the config says of names
include "answer.pyx"     # the map: answer_query
include "ring.pyx"       # a record of each query
include "encrypted.pyx"  # what answers over TLS and HTTPS have besides
include "udp.pyx"        # sockets
include "border.pyx"     # Snapshot, Punt, Engine: what Python sees

# Reading records: no worker does.
include "tally.pyx"      # which names were asked most

# Compiling lists: its own half of the module, which no query runs through.
include "sort.pyx"       # sorting a list's rules
include "build.pyx"      # a list's rules into a run
include "read.pyx"       # reading runs
include "transfer.pyx"   # zone transfers into rules
include "merge.pyx"      # runs into the index's buckets
include "patch.pyx"       # a copy of an index, changed where a list did
include "guard.pyx"      # what is asked of runs before they go live
include "survey.pyx"     # what lists repeat, and how much they share

# Who is in which group.
include "clients.pyx"    # files and networks into the client map
