"""The process that checks signatures for one worker: `python -m resolver.dnssec.process FD`.

It owns no socket but the one to its worker, asks nothing by itself (the worker does, by its own servers) and ends when the
worker closes. It does one thing after the other, so a worker's backlog is this process's queue; the worker bounds it. Its
priority is lower than the worker's, in whose scheduling group it is: answers that are known go before answers that are new.

A question about the chain that several checks need at a time is asked once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Generator
from dataclasses import dataclass

import dns.exception
import dns.name

from resolver import logs, spawn
from resolver.dnssec import anchors, frames
from resolver.dnssec.chain import Answers, Need, Session, Zones
from resolver.dnssec.frames import Asked, Frame, Judged, Kind
from resolver.dnssec.validate import Outcome, Status, parse, validate
from resolver.vocabulary import EDE

PRIORITY = 5  # that this process takes itself back by
RECEIVE = 1 << 18

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Check:
    number: int
    asked: Asked
    steps: Generator[Need, Answers, Outcome]


class Validator:
    """All checks under way: frames in, frames out. ValueError for a frame that is none."""

    def __init__(self) -> None:
        self._anchors: anchors.Anchors = {}
        self._negative: frozenset[dns.name.Name] = frozenset()
        self._zones = Zones()
        self._asking: dict[Asked, int] = {}
        self._waiting: dict[int, tuple[Asked, list[_Check]]] = {}
        self._next = 1

    @property
    def under_way(self) -> int:
        """Questions that the worker owes an answer to."""
        return len(self._waiting)

    def take(self, frame: Frame) -> list[bytes]:
        """What a frame leads to."""
        match frame.kind:
            case Kind.CONFIGURE:
                said = json.loads(frame.body)
                self._anchors = anchors.parse(said["anchors"])
                self._negative = anchors.negative(said["negative"])
                self._zones = Zones()
                return []
            case Kind.CHECK:
                asked, answer = frames.take_question(frame.body)
                session = Session(self._anchors, self._negative, self._zones, afresh=asked.afresh)
                qname = dns.name.from_wire(asked.qname, 0)[0]
                return self._go_on(_Check(frame.number, asked, validate(qname, asked.qtype, answer, session)), None)
            case Kind.TOLD:
                asked, checks = self._waiting.pop(frame.number)
                del self._asking[asked]
                return [said for check in checks for said in self._go_on(check, frame.body)]
            case Kind.PING:
                return [frames.frame(Kind.PONG, 0, b"")]
        raise ValueError(f"{frame.kind.name} is not for a validator")

    def _go_on(self, check: _Check, told: bytes | None) -> list[bytes]:
        """Take a check as far as it goes: to a question, or to its verdict. `told`: None at its begin."""
        try:
            need = check.steps.send(None if told is None else _message(told))
        except StopIteration as end:
            return [_verdict(check.number, end.value)]
        except Exception:  # what an answer can do to the code that reads it is not to end all other checks
            _log.exception("%s could not be checked", check.asked.qname)
            outcome = Outcome(Status.INDETERMINATE, EDE.DNSSEC_INDETERMINATE, "the answer could not be checked")
            return [_verdict(check.number, outcome)]
        asked = Asked(check.asked.route, check.asked.afresh, need.rdtype, need.name.to_digestable())
        number = self._asking.get(asked)
        if number is not None:
            self._waiting[number][1].append(check)
            return []
        number, self._next = self._next, self._next % 0xFFFFFFFF + 1
        self._asking[asked] = number
        self._waiting[number] = asked, [check]
        return [frames.frame(Kind.ASK, number, frames.put_question(asked))]


def _message(octets: bytes) -> Answers:
    try:
        return parse(octets) if octets else None
    except (dns.exception.DNSException, ValueError):
        return None


def _verdict(number: int, outcome: Outcome) -> bytes:
    return frames.frame(Kind.VERDICT, number, frames.put_verdict(Judged(*outcome)))


def serve(connected: socket.socket) -> None:
    """Check until the worker closes."""
    validator, parser = Validator(), frames.Parser()
    with connected, contextlib.suppress(ConnectionError):
        while octets := connected.recv(RECEIVE):
            for frame in parser.feed(octets):
                for said in validator.take(frame):
                    connected.sendall(said)


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's: the worker says when to end
    logs.set_up("validator")
    os.nice(PRIORITY)
    spawn.take_usual_turns()
    gc.freeze()
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except (ValueError, KeyError, struct.error) as error:
        _log.error("the worker said what is not understood: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
