"""Messages go both ways over a socket, and an end is told from a cut."""

from __future__ import annotations

import asyncio
import socket

import pytest

from resolver import control
from resolver.channel import Channel
from resolver.control import ControlError

SWAP = control.Swap(
    7,
    "i",
    "p",
    control.CacheLimits(1, 0, 1),
    control.Upstream((("1.1.1.1",),), "fastest", 2.0, {}),
    control.RateLimit(0, 24, 56),
)


async def _pair() -> tuple[Channel, Channel]:
    left, right = socket.socketpair()
    return await Channel.over(left), await Channel.over(right)


def test_channel_carries_messages_both_ways_and_reports_the_end() -> None:
    async def go() -> None:
        supervisor, worker = await _pair()
        supervisor.send(SWAP)
        supervisor.send(control.Inspect())
        worker.send(control.Swapped(7))
        assert await worker.receive() == SWAP
        assert await worker.receive() == control.Inspect()
        assert await supervisor.receive() == control.Swapped(7)
        supervisor.close()
        assert await worker.receive() is None
        worker.close()

    asyncio.run(go())


def test_channel_tells_a_cut_message_from_an_end() -> None:
    async def go() -> None:
        left, right = socket.socketpair()
        channel = await Channel.over(right)
        left.sendall(b'{"message":"Rea')
        left.close()
        with pytest.raises(ControlError, match="in the middle"):
            await channel.receive()
        channel.close()

    asyncio.run(go())


def test_a_message_that_is_none_is_an_error_and_sending_to_nobody_is_not() -> None:
    async def go() -> None:
        left, right = await _pair()
        left._writer.write(b"nonsense\n")
        with pytest.raises(ControlError, match="not a JSON object"):
            await right.receive()
        right.close()
        assert await left.receive() is None
        left.send(control.Ready())
        await left.flush()
        left.close()

    asyncio.run(go())
