"""Messages of control.py over an asyncio stream."""

from __future__ import annotations

import asyncio
import socket
import types

from resolver.control import MAX_LINE, ControlError, Message, decode, encode


class Channel:
    """Messages over an asyncio stream: the supervisor's end, and a worker's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Channel:
        """Take over a connected Unix socket."""
        reader, writer = await asyncio.open_unix_connection(sock=connected, limit=MAX_LINE)
        return cls(reader, writer)

    def send(self, message: Message) -> None:
        """Queue a message; a peer that is gone shows in receive()."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def receive(self) -> Message | None:
        """The next message, or None when the peer has closed."""
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise ControlError(f"a message is longer than {MAX_LINE} octets") from None
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ControlError("the peer closed in the middle of a message") from None
            return None
        except ConnectionError:
            return None
        return decode(line)

    async def flush(self) -> None:
        """Wait until what was queued is with the kernel."""
        try:
            await self._writer.drain()
        except ConnectionError:
            pass

    def close(self) -> None:
        """Close both directions."""
        self._writer.close()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()
