"""The process that reads the workers' rings of query records and counts which names are asked most.

    rings ─ ten times a second or more ─▶ Tally.add (natively, no record becomes an object) ─▶ asked.json, asked.tally

It shares rings with the workers and messages with the supervisor, and may die at any time: the rings keep what it has not
taken, and what it had counted is in asked.tally, as of KEEP_EVERY ago at most. A look at a ring takes what is there, copies
it and lets go; workers wait for nothing. What finds no room in a ring meanwhile is dropped and counted by them.

Files are written in a thread, so that the rings are read on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from resolver import control, logs, spawn
from resolver.channel import Channel
from resolver.records.sketch import Sketch
from resolver.ring import DATA_SIZE, Reader

LOOK_EVERY = 0.1  # seconds: half of what a ring holds of 100,000 queries a second
LOOK_SOON = 0.02  # seconds, after a look that found much
MUCH = DATA_SIZE // 4  # octets in all rings
FLOOD = 4 << 20  # octets a second, of some 45,000 queries: beyond it one record in SAMPLE is counted for all
SAMPLE = 4
PIECE = 64 << 10  # octets taken from a ring at once: they stay in the processor's cache until they are counted
LOOK_MOST = 2 * DATA_SIZE  # octets taken from a ring at a look
KEEP_EVERY = 300.0  # seconds between writes that nobody asks for
NICENESS = 5

_log = logging.getLogger(__name__)


class Recording:
    """Counts what the rings bring, by the last Count that it was given. Nothing is read before the first."""

    def __init__(self, readers: Sequence[Reader], clock: Callable[[], float] = time.time) -> None:
        self.sketch: Sketch | None = None
        self._readers = readers
        self._clock = clock
        self._writing = asyncio.Lock()
        self._begun = asyncio.Event()
        self._changed = False  # since what was counted was kept
        self._beside: asyncio.Future[None] | None = None  # a write under way, which would else be forgotten

    def count(self, order: control.Count) -> None:
        """Count by these rules from now on; what was counted by others is forgotten."""
        now = self._clock()
        if self.sketch is not None:
            self.look()  # what is there belongs to the rules of before
        if self.sketch is None or (self.sketch.what, self.sketch.clients) != (order.what, order.clients):
            self.sketch = Sketch(Path(order.state_dir), order.what, order.clients, now)
            self.sketch.know(_slots(order))
            if trouble := self.sketch.take_up(now):
                _log.warning("%s", trouble)
        self.sketch.know(_slots(order))
        self._begun.set()

    def look(self, every: int = 1) -> int:
        """Take what the rings have now, and count one record in `every` for all; how many octets there were."""
        taken = counted = 0
        assert self.sketch is not None
        for reader in self._readers:
            for _ in range(LOOK_MOST // PIECE):
                try:
                    if not (records := reader.take(PIECE)):
                        break
                    taken += len(records)
                    counted += self.sketch.add(records, self._clock(), every)
                except ValueError as error:
                    _log.warning("a ring of query records is damaged and emptied: %s", error)
                    reader.skip()
        self._changed |= counted > 0
        return taken

    async def run(self) -> None:
        """Read the rings, until cancelled."""
        await self._begun.wait()
        kept = self._clock()
        looked, every = time.monotonic(), 1
        while True:
            before, looked = looked, time.monotonic()
            taken = self.look(every)
            every = SAMPLE if taken > FLOOD * (looked - before) else 1
            if self._changed and not self._writing.locked() and not 0 <= self._clock() - kept < KEEP_EVERY:
                kept = self._clock()
                self._beside = asyncio.ensure_future(self._write_quietly())
            await asyncio.sleep(LOOK_SOON if taken > MUCH else LOOK_EVERY)

    async def write(self) -> None:
        """Have asked.json say what is known by now. OSError."""
        if self.sketch is None:
            return
        self.look()
        async with self._writing:
            await asyncio.to_thread(self.sketch.write, self._clock())
        spawn.give_back()

    async def _write_quietly(self) -> None:
        """asked.json and asked.tally; a failure is logged and tried again later."""
        assert self.sketch is not None
        async with self._writing:
            try:
                await asyncio.to_thread(self.sketch.write, self._clock())
                self._changed = False
                await asyncio.to_thread(self.sketch.keep)
            except OSError as error:
                _log.error("what was counted of queries cannot be kept: %s", error)
        spawn.give_back()

    async def end(self) -> None:
        """Take and keep what there is."""
        if self.sketch is not None:
            self.look()
            await self._write_quietly()


def _slots(order: control.Count) -> dict[int, tuple[str, str]]:
    return {counted.slot: (counted.name, counted.category) for counted in order.lists}


async def _main(fd: int, rings: Sequence[int]) -> None:
    connected = socket.socket(fileno=fd)
    with contextlib.ExitStack() as stack:
        recording = Recording([stack.enter_context(Reader(ring)) for ring in rings])
        async with await Channel.over(connected) as channel:
            running = asyncio.ensure_future(recording.run())
            try:
                while message := await channel.receive():  # None: the supervisor has gone, and so does this
                    match message:
                        case control.Count():
                            recording.count(message)
                        case control.Write(serial):
                            error = ""
                            try:
                                await recording.write()
                            except OSError as fault:
                                error = str(fault)
                            channel.send(control.Written(serial, error))
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                await recording.end()


def main() -> int:
    """Serve the supervisor at the other end of the socket whose descriptor is the first argument; the others: rings."""
    os.nice(NICENESS)
    spawn.share_arena()
    logs.set_up("recorder")
    asyncio.run(_main(int(sys.argv[1]), list(map(int, sys.argv[2:]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
