"""`python -m tests.soak.upstream PORT`: an upstream that knows an address for every name, over UDP and TCP.

A process of its own, so that it can be stopped and killed. Names that begin with `tc` are cut over UDP, so the TCP way
is used all the time.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from tests.soak.wire import WireError, respond


class _Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            self._transport.sendto(respond(data, cut=data[13:15].lower() == b"tc"), addr)
        except (WireError, IndexError):
            pass


async def _serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(2), "big")
            answer = respond(await reader.readexactly(length))
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError, WireError):
        pass
    finally:
        writer.close()


async def _main(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(_Udp, local_addr=("127.0.0.1", port))
    server = await asyncio.start_server(_serve_stream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
