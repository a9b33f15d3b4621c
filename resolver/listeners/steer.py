"""Which of several workers gets a QUIC datagram: the one whose number its connection id begins with.

Each worker has a socket of its own on the port. Left alone, the kernel picks one by addresses and ports, and a client
that moves to another address (RFC 9000 section 9) would reach a worker that does not know it. So a small program in the
kernel looks at the first octet of the destination connection id instead, modulo the number of sockets. A server's ids are
made to fit (resolver/quic.py). A client's first packets have an id that it made up itself, and since it keeps that one for
all of them they reach one worker too.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
# linux/bpf_common.h
_LOAD_OCTET, _JUMP, _JUMP_IF_BITS, _MODULO, _RETURN = 0x30, 0x05, 0x45, 0x94, 0x16
_LONG_HEADER = 0x80  # RFC 9000 section 17.2
_ID_LONG, _ID_SHORT = 6, 1  # where the destination connection id begins (RFC 8999 section 5)


def steer(sock: socket.socket, sockets: int) -> None:
    """Have the kernel pick among the `sockets` that are, or will be, bound to this one's port, in the order of binding.

    OSError where the kernel does not do that: then it picks as before.
    """
    program = (  # (code, how far to jump if true, if false, operand)
        (_LOAD_OCTET, 0, 0, 0),
        (_JUMP_IF_BITS, 0, 2, _LONG_HEADER),
        (_LOAD_OCTET, 0, 0, _ID_LONG),
        (_JUMP, 0, 0, 1),
        (_LOAD_OCTET, 0, 0, _ID_SHORT),
        (_MODULO, 0, 0, sockets),
        (_RETURN, 0, 0, 0),
    )
    octets = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(program), ctypes.addressof(octets))
    )
