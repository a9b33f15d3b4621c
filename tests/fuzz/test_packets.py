"""The short form of the fuzzer, with proof that it has been everywhere."""

from __future__ import annotations

import os
from pathlib import Path

from resolver.engine.engine import REPLY
from resolver.vocabulary import Transport
from tests.fuzz.harness import EVERY, STRANGER, Harness
from tests.unit.engine.world import CLIENT

CORPUS = Path(__file__).parent / "corpus"

COUNT = int(os.environ.get("TAMPAH_FUZZ_PACKETS", "20000"))


def test_every_answer_is_sound_and_every_path_was_taken(tmp_path: Path) -> None:
    harness = Harness(tmp_path, seed=20)
    try:
        harness.run(COUNT)
    finally:
        harness.close()
    reached = harness.paths()
    missing = {path for path in EVERY if reached[path] < 5}
    assert not missing, dict(reached)


def test_every_packet_of_the_corpus_gets_a_sound_answer(tmp_path: Path) -> None:
    harness = Harness(tmp_path, seed=1)
    inputs = sorted((CORPUS / "packet").iterdir())
    assert len(inputs) > 50
    for path in inputs:
        how, packet = path.read_bytes()[:1], path.read_bytes()[1:]
        for transport in (Transport.UDP, Transport.TCP):
            client = STRANGER if how and how[0] & 2 else CLIENT
            verdict, reply = harness.engine.answer(packet, client, transport)
            if verdict == REPLY:
                assert reply is not None, path
                harness.check(packet, transport, reply)
    harness.close()
