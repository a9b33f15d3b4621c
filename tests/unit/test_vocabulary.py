"""The numbers that Python and the engine both know are the same: the engine's own text is read, nothing is copied."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from resolver import counters, decide, ring, snapshot
from resolver.config import model
from resolver.engine import engine
from resolver.lists import matrix
from resolver.vocabulary import EDE, Action, Rank, Rcode, RRClass, RRType, Transport

ENGINE = Path(engine.__file__).parent


def constants(name: str) -> dict[str, int]:
    """Every `NAME = number` of the enums of a header or part of the engine; later ones may build on earlier ones."""
    found: dict[str, int] = {}
    for line in (ENGINE / name).read_text().splitlines():
        match = re.fullmatch(r"\s+([A-Z][A-Z0-9_]*) = ([^#]+?)\s*(?:#.*)?", line)
        if match and re.fullmatch(r"[\w\s+*x-]+", match[2]):
            words = re.sub(r"\b(0x[0-9A-Fa-f]+|\d+)u\b", r"\1", match[2])
            if all(word in found for word in re.findall(r"\b[A-Z][A-Z0-9_]*\b", words)):
                found[match[1]] = eval(words, {}, dict(found))
    return found


QUERY = constants("query.pxd")


def test_the_headers_numbers_are_read() -> None:
    assert QUERY["MAX_TCP"] == 65535 and QUERY["OPCODE_MASK"] == 0x7800 and len(QUERY) > 80
    assert QUERY["ENGINE_PUNTS"] == QUERY["COUNT_ENGINE"] + 3


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("ACTION_", Action),
        ("TYPE_", RRType),
        ("CLASS_", RRClass),
        ("RCODE_", Rcode),
        ("EDE_", EDE),
        ("RANK_", Rank),
        ("TRANSPORT_", Transport),
    ],
)
def test_words_have_the_same_number_on_both_sides(prefix: str, words: type[IntEnum]) -> None:
    others = {"TYPE_SLOTS", "CLASS_REFUSED", "CLASS_WITHHELD", "EDE_NONE", "TYPE_TKEY", "TYPE_TSIG", "TYPE_CAA"}
    ours = {name.removeprefix(prefix): number for name, number in QUERY.items() if name.startswith(prefix)}
    theirs = {name: number for name, number in words.__members__.items() if name in ours}
    assert {name: ours[name] for name in theirs} == {name: int(number) for name, number in theirs.items()}
    assert {prefix + name for name in ours if name not in theirs} <= others


def test_every_action_is_known_to_the_engine() -> None:
    assert {name.removeprefix("ACTION_") for name in QUERY if name.startswith("ACTION_")} == set(Action.__members__)
    assert max(Action) < counters.ACTIONS


def test_numbers_of_the_protocol_that_only_the_engine_names() -> None:
    import dns.rdatatype

    for name in ("TKEY", "TSIG", "CAA"):
        assert QUERY[f"TYPE_{name}"] == dns.rdatatype.from_text(name)


def test_counters_have_the_same_layout() -> None:
    for name, section in counters.SECTIONS.items():
        assert QUERY[f"COUNT_{name.upper()}"] == section.start, name
    assert QUERY["COUNT_ALL"] == counters.COUNT
    assert QUERY["TYPE_SLOTS"] == counters.TYPE_SLOTS
    assert QUERY["LIST_SLOTS"] == counters.LIST_SLOTS
    assert QUERY["NO_LIST"] == counters.NO_LIST
    assert QUERY["TRANSPORTS"] == counters.TRANSPORTS == len(Transport)


def test_the_engine_counts_within_its_sections() -> None:
    for prefix, section in (("CACHE_", "cache"), ("ENGINE_", "engine"), ("RECORDS_", "records")):
        start, length = counters.SECTIONS[section].start, counters.SECTIONS[section].length
        places = [number for name, number in QUERY.items() if name.startswith(prefix)]
        assert places and len(set(places)) == len(places)
        assert all(start <= place < start + length for place in places)


def test_durations_have_the_same_layout() -> None:
    assert QUERY["WAYS"] == len(counters.WAYS)
    assert QUERY["DURATION_STRIDE"] == counters.DURATION_STRIDE


def test_a_ring_of_records_has_the_same_layout() -> None:
    ours = constants("ring.pyx")
    assert ours["RING_VERSION"] == ring.VERSION
    assert (ours["RING_HEAD"], ours["RING_TAIL"], ours["RING_WANTED"]) == (ring.HEAD_AT, ring.TAIL_AT, ring.WANTED_AT)
    assert ours["RING_HEADER"] == ring.HEADER_SIZE
    assert (ours["RECORD_NAME"], ours["RECORD_MAX"]) == (ring.RECORD_SIZE, ring.MAX_RECORD)
    assert (ours["RECORD_FILLER"], ours["RECORD_QUERY"]) == (ring.FILLER, ring.QUERY)
    assert [ours[f"RECORDS_{word.upper()}"] for word in ring.WHAT] == [0, 1, 2]
    assert {name.removeprefix("TOLD_"): number for name, number in ours.items() if name.startswith("TOLD_")} == {
        name: int(told) for name, told in ring.Told.__members__.items()
    }


def test_cells_say_the_same_on_both_sides() -> None:
    assert QUERY["CELL_NEEDS_ANSWER"] == matrix.NEEDS_ANSWER
    assert QUERY["CELL_CONDITIONAL"] == matrix.CONDITIONAL
    assert QUERY["CELL_QUESTION_ONLY"] == matrix.QUESTION_ONLY == decide.QUESTION_ONLY
    assert QUERY["CLASS_REFUSED"] == snapshot.REFUSED_CLASS
    assert QUERY["CLASS_WITHHELD"] == snapshot.WITHHELD_CLASS
    assert QUERY["EDE_NONE"] == snapshot.NO_EDE


def test_upstreams_are_as_many_as_there_are_counters_for() -> None:
    forward = constants("forward.pyx")
    assert forward["UPSTREAMS"] == counters.SERVERS
    assert forward["ROUTES"] == model.ROUTES
    border = (ENGINE / "border.pyx").read_text()
    assert f"COUNT_UPSTREAM + slot * {counters.UPSTREAM_STRIDE}" in border


def test_verdicts_and_reasons_are_what_the_border_says() -> None:
    for name in ("REPLY", "DROP", "WAIT", "PUNT"):
        assert getattr(engine, name) == QUERY[f"VERDICT_{name}"]
    for name in ("FORWARD", "CONDITIONAL", "LOCAL", "REFRESH", "DNS64"):
        assert getattr(engine, f"PUNT_{name}") == QUERY[f"REASON_{name}"]
    forward = constants("forward.pyx")
    for name in ("NOTHING", "TIMEOUT", "TRUNCATED", "RCODE", "BAD", "CLOSED", "SLOW"):
        assert getattr(engine, f"AFTER_{name}") == forward[f"WHY_{name}"]


def test_a_text_fits_on_both_sides() -> None:
    assert re.search(rf"uint8_t text\[{snapshot.MAX_TEXT}\]", (ENGINE / "query.pxd").read_text())
