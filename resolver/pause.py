"""Pauses: filtering is off for everybody, a group, a client or a network, for a time.

While a pause lasts its clients are answered as if nothing were listed, with three exceptions: `allow_from` still holds,
lists that are `mandatory` (an order by law) stay enforced, and so does what an operator blocked by hand (overlay.py).
A pause always has an end; the supervisor keeps pauses in `state_dir/pauses.json`, written whole, synced and renamed at
each change, so they survive a restart and end at their time whether a server ran meanwhile or not.

What is paused is one word: `all`, a group's name, an address, a network, or a MAC address.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resolver.config import addresses
from resolver.config.addresses import Mac, Network
from resolver.snapshot import write_json

FILE = "pauses.json"  # below state_dir
EVERYBODY = "all"
MAX_ENTRIES = 10_000
MAX_SECONDS = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Pause:
    """Filtering is off for `target` (see the module) until `until`; times in seconds since 1970."""

    target: str
    made: float
    until: float

    def is_over(self, now: float) -> bool:
        """Whether its time has run out."""
        return self.until <= now


class PauseError(Exception):
    """What was asked cannot be done; the text says why."""


def parse_target(text: str, groups: Iterable[str]) -> str:
    """What is to be paused in its one form; PauseError says what was expected.

    A name in `groups` is that group; then comes `all`, then what is an address, a network or a MAC address.
    """
    known = list(groups)
    if text in known or text == EVERYBODY:
        return text
    try:
        client = addresses.parse_client(text)
        if isinstance(client, addresses.ClientFile):
            raise ValueError("expected one client or network, not a file of them")
        if not isinstance(client, Mac) and client.num_addresses == 1:
            return str(client.network_address)
        return str(client)
    except ValueError as error:
        if "/" in text or ":" in text or addresses.as_address(text) is not None:
            raise PauseError(f"{text!r}: {error}") from None
    from resolver.config.types import nearest  # only where something is wrong

    near = nearest(text, [*known, EVERYBODY])
    hint = f"; did you mean {near}?" if near else f"; groups: {', '.join(known)}" if known else "; there is no group"
    raise PauseError(f"{text!r}: expected a group, an address, a network, a MAC address or all{hint}")


def clients_of(pauses: Iterable[Pause], groups: Iterable[str]) -> tuple[frozenset[str], list[Network], list[Mac]]:
    """What pauses mean to a config with these groups: (paused groups, networks, MAC addresses).

    The groups hold EVERYBODY where all are paused. A group that has left the config is passed over.
    """
    known = {*groups, EVERYBODY}
    names: set[str] = set()
    networks: list[Network] = []
    macs: list[Mac] = []
    for pause in pauses:
        if pause.target in known:
            names.add(pause.target)
            continue
        try:
            client = addresses.parse_client(pause.target)
        except ValueError:
            continue
        if isinstance(client, Mac):
            macs.append(client)
        elif not isinstance(client, addresses.ClientFile):
            networks.append(client)
    return frozenset(names), networks, macs


def said(pause: Pause) -> tuple[str, str]:
    """When a pause was made and until when it lasts, for a person."""
    made, until = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) for moment in (pause.made, pause.until))
    return made, until


class Pauses:
    """The supervisor's: kept in a file, changed by commands. `clock` gives seconds since 1970."""

    def __init__(self, state_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """Read what is kept. PauseError if it is damaged: who reads it must not guess for whom filtering is off."""
        self._path = state_dir / FILE
        self._clock = clock
        self._pauses: dict[str, Pause] = {}
        try:
            body = json.loads(self._path.read_text())
            self._pauses = {
                str(target): Pause(str(target), float(made), float(until))
                for target, (made, until) in body["pauses"].items()
            }
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PauseError(
                f"{self._path}: not readable ({error}); mend it, or remove it to start without pauses"
            ) from None

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """Those that last, the oldest first."""
        now = self._clock()
        return tuple(sorted((p for p in self._pauses.values() if not p.is_over(now)), key=lambda p: p.made))

    def put(self, target: str, seconds: float) -> Pause:
        """Pause filtering for `target` for `seconds` from now, in place of an earlier pause of the same."""
        now = self._clock()
        if not 0 < seconds <= MAX_SECONDS:
            raise PauseError("expected a time between 1s and a year for a pause")
        if target not in self._pauses and len(self.pauses) >= MAX_ENTRIES:
            raise PauseError(f"there are {MAX_ENTRIES} pauses already")
        pause = Pause(target, now, now + seconds)
        self._write({**self._pauses, target: pause})
        return pause

    def take_back(self, target: str) -> list[Pause]:
        """End the pause of exactly this target, "" for every pause; returns what ended. PauseError if there is none."""
        ended = [pause for pause in self.pauses if target in ("", pause.target)]
        if not ended:
            others = ", ".join(pause.target for pause in self.pauses)
            what = f"{target} is not paused" if target else "nothing is paused"
            raise PauseError(f"{what}; paused: {others}" if others else what)
        gone = {pause.target for pause in ended}
        self._write({key: pause for key, pause in self._pauses.items() if key not in gone})
        return ended

    def _write(self, pauses: Mapping[str, Pause]) -> None:
        now = self._clock()
        kept = {target: pause for target, pause in pauses.items() if not pause.is_over(now)}
        try:
            write_json(self._path, {"pauses": {target: [p.made, p.until] for target, p in kept.items()}})
        except OSError as error:
            raise PauseError(f"{self._path}: {error.strerror or error}; nothing has changed") from None
        self._pauses = kept


def read(state_dir: Path) -> tuple[Pause, ...]:
    """The pauses that last as the file has them: for a build, and for explain where no server runs."""
    return Pauses(state_dir).pauses
