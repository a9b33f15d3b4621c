"""The sockets of a secondary: a probe over UDP or TCP, and a transfer's messages over TCP. Every wait has an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from resolver.transfer.messages import TransferError

PROBE_TIMEOUT = 3.0  # seconds
CONNECT_TIMEOUT = 10.0
IDLE_TIMEOUT = 30.0  # seconds between two messages of a transfer, and for a message to be whole
DEADLINE = 6 * 3600.0  # seconds for a whole transfer
BUFFER = 1 << 20  # octets read ahead


async def ask_udp(address: str, port: int, query: bytes, patience: float = PROBE_TIMEOUT) -> bytes:
    """The answer to a query; TransferError if none comes in time. Datagrams with another id are passed over."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            if data[:2] == query[:2] and not answer.done():
                answer.set_result(data)

        def error_received(self, exc: Exception) -> None:
            if not answer.done():
                answer.set_exception(exc)

    transport = None
    try:
        async with asyncio.timeout(patience):
            transport, _ = await loop.create_datagram_endpoint(Protocol, remote_addr=(address, port))
            transport.sendto(query)
            return await answer
    except TimeoutError:
        raise TransferError(f"no answer over UDP within {patience:g} s") from None
    except OSError as error:
        raise TransferError(f"no answer over UDP: {error.strerror or error}") from None
    finally:
        if transport is not None:
            transport.close()
        answer.cancel()


@contextlib.asynccontextmanager
async def connected(address: str, port: int, query: bytes, idle: float = IDLE_TIMEOUT) -> AsyncIterator[Messages]:
    """A connection on which `query` was sent; its messages are those that come back. TransferError, whatever fails."""
    try:
        async with asyncio.timeout(min(CONNECT_TIMEOUT, idle)):
            reader, writer = await asyncio.open_connection(address, port, limit=BUFFER)
    except TimeoutError:
        raise TransferError("no connection in time") from None
    except OSError as error:
        raise TransferError(f"no connection: {error.strerror or error}") from None
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        yield Messages(reader, idle)
    finally:
        writer.transport.abort()


class Messages:
    """Messages over TCP (RFC 1035 section 4.2.2)."""

    def __init__(self, reader: asyncio.StreamReader, idle: float) -> None:
        self._reader = reader
        self._idle = idle

    async def next(self) -> bytes:
        """The next message; TransferError if the connection ends or nothing comes."""
        try:
            async with asyncio.timeout(self._idle):
                length = int.from_bytes(await self._reader.readexactly(2), "big")
                return await self._reader.readexactly(length)
        except TimeoutError:
            raise TransferError(f"nothing came for {self._idle:g} s") from None
        except asyncio.IncompleteReadError:
            raise TransferError("it closed the connection in the middle") from None
        except OSError as error:
            raise TransferError(f"the connection broke: {error.strerror or error}") from None
