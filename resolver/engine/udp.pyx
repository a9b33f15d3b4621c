# udp: the edge to the kernel. Datagrams come and go in batches; what lies between is answer_client.
#
# A batch owns its buffers for good: nothing is allocated while it runs. An answer goes back with the control message that
# came with the query, so on a socket bound to the wildcard address it leaves from the address that was asked
# (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542 section 6).

cdef struct Socket:
    int fd
    bint wildcard

cdef struct Batch:
    mmsghdr received[BATCH]
    mmsghdr sending[BATCH]
    iovec in_parts[BATCH]
    iovec out_parts[BATCH]
    sockaddr_in6 peers[BATCH]
    uint8_t controls[BATCH][CONTROL_ROOM]
    uint8_t packets[BATCH][IN_ROOM]
    uint8_t replies[BATCH][OUT_ROOM]
    Query query


cdef void batch_make(Batch* b) noexcept nogil:
    cdef uint32_t i
    memset(b, 0, sizeof(Batch))
    for i in range(BATCH):
        b.in_parts[i].iov_base = b.packets[i]
        b.in_parts[i].iov_len = IN_ROOM
        b.received[i].msg_hdr.msg_name = &b.peers[i]
        b.received[i].msg_hdr.msg_iov = &b.in_parts[i]
        b.received[i].msg_hdr.msg_iovlen = 1


cdef void client_of_peer(const sockaddr_in6* peer, uint8_t* client) noexcept nogil:
    # 16 octets, IPv4 as ::ffff:a.b.c.d.
    if peer.sin6_family == AF_INET:
        memset(client, 0, 10)
        client[10] = client[11] = 0xFF
        memcpy(client + 12, &(<const sockaddr_in*> peer).sin_addr, 4)
    else:
        memcpy(client, &peer.sin6_addr, 16)


cdef void source_from_control(msghdr* message) noexcept nogil:
    # Turn the control message that said where the query went into one that says where the answer leaves from.
    cdef cmsghdr* control = CMSG_FIRSTHDR(message)
    cdef in6_pktinfo* info6
    while control != NULL:
        if control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
            (<in_pktinfo*> CMSG_DATA(control)).ipi_ifindex = 0  # let routing choose: the way back may differ
        elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
            info6 = <in6_pktinfo*> CMSG_DATA(control)
            if info6.ipi6_addr.s6_addr[0] != 0xFE:  # but a link-local address needs its link
                info6.ipi6_ifindex = 0
        control = CMSG_NXTHDR(message, control)


cdef uint32_t udp_send(Core* core, int fd, mmsghdr* messages, uint32_t count) noexcept nogil:
    # Send what the kernel takes; one it refuses (a full buffer, an address gone) is counted and passed over.
    cdef uint32_t sent = 0
    cdef int result
    while sent < count:
        result = sendmmsg(fd, messages + sent, count - sent, MSG_DONTWAIT)
        if result <= 0:
            core.counters[ENGINE_SEND_FAILURES] += 1
            result = 1
        sent += <uint32_t> result
    return sent


cdef int udp_batch(Core* core, Batch* b, const Socket* s) noexcept nogil:
    """Receive a batch from `s`, answer it, send the answers, hand Python what is left to it. How many came."""
    cdef uint32_t i, out = 0
    cdef int count, verdict
    cdef uint64_t began = core.forward.now
    cdef Query* q = &b.query
    cdef msghdr* message
    for i in range(BATCH):
        message = &b.received[i].msg_hdr
        message.msg_namelen = sizeof(sockaddr_in6)
        message.msg_control = b.controls[i] if s.wildcard else NULL
        message.msg_controllen = CONTROL_ROOM if s.wildcard else 0
    count = recvmmsg(s.fd, b.received, BATCH, MSG_DONTWAIT, NULL)
    if count <= 0:
        return 0
    core.counters[ENGINE_ROUNDS] += 1
    for i in range(<uint32_t> count):
        query_start(q, b.packets[i], b.received[i].msg_len, TRANSPORT_UDP, b.replies[out], OUT_ROOM)
        client_of_peer(&b.peers[i], q.client)
        if core.proxies.count and not proxy_open(&core.proxies, q):  # first of all: everything behind goes by the client
            core.counters[ENGINE_MALFORMED] += 1
            continue
        q.fd = s.fd
        q.peer = &b.peers[i]
        if s.wildcard:
            source_from_control(&b.received[i].msg_hdr)
            q.control = b.controls[i]
            q.control_size = b.received[i].msg_hdr.msg_controllen
        q.may_wait = True
        q.since = began
        verdict = answer_client(core, q)
        if verdict == VERDICT_WAIT:
            continue
        if verdict == VERDICT_PUNT:
            datagram_punt(core, q)
            continue
        query_count(core, q, verdict)
        if verdict != VERDICT_REPLY:
            continue
        b.out_parts[out].iov_base = q.reply
        b.out_parts[out].iov_len = q.reply_size
        b.sending[out].msg_hdr = b.received[i].msg_hdr
        b.sending[out].msg_hdr.msg_iov = &b.out_parts[out]
        out += 1
    if out:
        udp_send(core, s.fd, b.sending, out)
    forward_flush(core)
    core_clock(core)
    batch_count(core, TRANSPORT_UDP, began)
    return count
