"""What is known of the names asked most in the last day, and its two files below state_dir.

    asked.json     for who wants to know (resolver/asked.py): the guard, `tampah preview`
    asked.tally    for the next life of the process that counts: a line of JSON about it, then engine Tally.dump()

The counts are the engine's (engine/tally.pyx); here is what they are counted by. `query_log.what` and `query_log.clients`
hold for them: what is not to be recorded is not counted, and a change of either begins anew, so that nothing is known
which may not be. A list is remembered by its name, as its slot may be another's in the next life of the server.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resolver.asked import FILE, TALLY_FILE
from resolver.engine.engine import Tally
from resolver.snapshot import write_whole

WINDOW = 6 * 3600  # seconds; the current one and the four before it count, so a day at least
WINDOWS = 5
LIMIT = 100_000  # names: some 40 MB, and as much again while they are written down
VERSION = 1
CLIENTS = {"none": 0, "full": 1, "hash": 1, "prefix": 2}  # query_log.clients as Tally.add takes it: no address is kept
_BLOCKED, _ALLOWED = 1, 2
_VERDICTS = {_BLOCKED: "blocked", _ALLOWED: "allowed"}


class Sketch:
    """Counts queries by the name asked, in memory that is bounded, and writes down what came of it.

    `what` and `clients` as in `query_log`. Times are seconds since the epoch.
    """

    def __init__(self, state_dir: Path, what: str, clients: str, now: float, *, limit: int = LIMIT) -> None:
        self.what = what
        self.clients = clients
        self._state_dir = state_dir
        self._limit = limit
        self._lists: dict[int, tuple[str, str]] = {}  # slot → name and category of a list
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._key = secrets.token_bytes(32)
        self._tally = Tally(self._limit, self._key)
        self._began = now

    def know(self, lists: Mapping[int, tuple[str, str]]) -> None:
        """Which lists records speak of from now on: slot → name and category."""
        self._lists = dict(lists)

    def add(self, records: bytes, now: float, every: int = 1) -> int:
        """Count query records as ring.Reader gives them, one in `every` for all; how many counted. ValueError: octets that
        are none."""
        return self._tally.add(records, int(now) // WINDOW, CLIENTS[self.clients], every)

    def asked(self, now: float) -> list[tuple[str, int, int, int, int, int]]:
        """See Tally.names_asked; the most asked first."""
        found = self._tally.names_asked(int(now) // WINDOW)
        return sorted(found, key=lambda each: (-each[1], each[0]))

    # -- asked.json ---------------------------------------------------------------------------------------------------
    def write(self, now: float) -> None:
        """Put asked.json in its place. OSError."""
        head = {
            "since": round(max(self._began, (int(now) // WINDOW - WINDOWS + 1) * WINDOW)),
            "written": round(now),
            "what": self.what,
            "clients": self.clients,
            "missed": self._tally.missed,
        }
        names = ",\n".join(self._entries(now))
        text = f'{json.dumps(head, ensure_ascii=False)[:-1]}, "names": [\n{names}\n]}}\n'
        write_whole(self._state_dir / FILE, text.encode())

    def _entries(self, now: float) -> Iterator[str]:
        """Names and words need no escapes: they have neither quotes nor backslashes."""
        said = {slot: f', "list": {json.dumps(name)}, "category": {json.dumps(category)}' for slot, (name, category) in
                self._lists.items()}  # fmt: skip
        for name, count, blocked, clients, slot, told in self.asked(now):
            verdict = _VERDICTS.get(told, "forwarded")
            yield (
                f'{{"name": "{name}", "count": {count}, "blocked": {blocked}, "clients": {clients}, '
                f'"verdict": "{verdict}"{said.get(slot, "") if told else ""}}}'
            )

    # -- asked.tally --------------------------------------------------------------------------------------------------
    def keep(self) -> None:
        """Put asked.tally in its place. OSError."""
        octets = self._tally.dump()
        head = {
            "version": VERSION,
            "what": self.what,
            "clients": self.clients,
            "key": self._key.hex(),
            "began": self._began,
            "lists": {name: slot for slot, (name, _) in self._lists.items()},
            "crc": zlib.crc32(octets),
        }
        write_whole(self._state_dir / TALLY_FILE, json.dumps(head).encode() + b"\n" + octets)

    def take_up(self, now: float) -> str:
        """Go on from asked.tally; returns why not, "" if there is nothing to say. The lists must be known."""
        try:
            first, _, octets = (self._state_dir / TALLY_FILE).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(error)
        try:
            head: dict[str, Any] = json.loads(first)
            if (head["version"], head["what"], head["clients"]) != (VERSION, self.what, self.clients):
                return ""  # counted by other rules
            if head["crc"] != zlib.crc32(octets):
                raise ValueError("its checksum is wrong")
            self._key = bytes.fromhex(head["key"])
            self._tally = Tally(self._limit, self._key)
            slots = {name: slot for slot, (name, _) in self._lists.items()}
            known = {int(old): slots[name] for name, old in head["lists"].items() if name in slots}
            self._tally.load(octets, int(now) // WINDOW, known)
            self._began = min(now, float(head["began"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._begin(now)
            return f"{self._state_dir / TALLY_FILE}: {error}; counting begins anew"
        return ""
