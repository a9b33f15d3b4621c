"""The counters' layout: sections side by side, and an engine that takes no other size."""

from __future__ import annotations

import pytest

from resolver import counters
from resolver.engine.engine import Engine
from resolver.upstream import health


def test_sections_follow_each_other_without_gap() -> None:
    at = 0
    for section in counters.SECTIONS.values():
        assert section.start == at
        at += section.length
    assert at == counters.COUNT and at * 8 == counters.SIZE


def test_a_section_is_a_view() -> None:
    memory = memoryview(bytearray(counters.SIZE)).cast("Q")
    section = counters.SECTIONS["cache"]
    section.of(memory)[2] = 7  # type: ignore[index]
    assert memory[section.start + 2] == 7 and len(section.of(memory)) == section.length


def test_latency_bounds_ascend_and_the_last_bucket_is_for_the_rest() -> None:
    assert list(counters.LATENCY_BOUNDS) == sorted(set(counters.LATENCY_BOUNDS))
    assert len(counters.LATENCY_BOUNDS) + 1 == counters.LATENCY_BUCKETS
    assert counters.SECTIONS["upstream"].length == counters.SERVERS * counters.UPSTREAM_STRIDE
    assert health.LATENCY_BUCKET + counters.LATENCY_BUCKETS == health.HEDGES
    assert health.BENCHED < counters.UPSTREAM_STRIDE


@pytest.mark.parametrize("size", [0, counters.SIZE - 8, counters.SIZE + 8])
def test_the_engine_refuses_another_size(size: int) -> None:
    with pytest.raises(ValueError, match="counters"):
        Engine(counters=memoryview(bytearray(size)), cache_bytes=1 << 20)


def test_the_engine_refuses_memory_that_it_cannot_write() -> None:
    with pytest.raises((ValueError, BufferError)):
        Engine(counters=memoryview(bytes(counters.SIZE)), cache_bytes=1 << 20)
