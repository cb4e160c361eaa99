"""Which streams to compact, and which journal rows are no longer needed, with a test clock."""

from __future__ import annotations

from durable_chat.store.sqlite.backlog import (
    AGE_MAX_S,
    COMPACT_BYTES,
    FULL,
    HELD_BYTES_MAX,
    HELD_STREAMS_MAX,
    JOURNAL_BYTES_MAX,
    QUIET_S,
    Backlog,
)
from durable_chat.store.tables import Accepted
from tests.store.making import json_piece, make_state, write_of


def accepted(path: str, stream_id: int, size: int = 0, *, drop: bool = False) -> Accepted:
    piece = json_piece(0, b"x" * size) if size else None
    return Accepted(write_of(make_state(path, stream_id=stream_id), piece, drop=drop).streams, ())


def due(backlog: Backlog, now_s: float, journal_bytes: int = 0) -> list[str]:
    old_seq = backlog.old_seq(journal_bytes)
    return [path for path, held in backlog.streams.items() if held.is_due(now_s, old_seq)]


def test_when_a_stream_is_due() -> None:
    """A stream is due when it fills a blob, when it is idle, or when it has waited long; not while it grows slowly."""
    backlog = Backlog()
    backlog.note([accepted("long", 1, COMPACT_BYTES), accepted("quiet", 2, 1)], 1, 0.0)
    seq = 1
    now_s = 0.0
    while now_s < AGE_MAX_S - 1:
        assert due(backlog, now_s) == ["long"] if now_s < QUIET_S else ["long", "quiet"]
        now_s += 1
        seq += 1
        backlog.note([accepted("trickle", 3, 1)], seq, now_s)
    assert due(backlog, now_s) == ["long", "quiet"]
    backlog.note([accepted("trickle", 3, 1)], seq + 1, AGE_MAX_S + 1)
    assert due(backlog, AGE_MAX_S + 1) == ["long", "quiet", "trickle"]


def test_what_the_journal_keeps() -> None:
    """It keeps all rows from the first one with content that is not in the tables."""
    backlog = Backlog()
    assert backlog.floor() == 0
    for seq, path in enumerate("abacb", 1):
        backlog.note([accepted(path, ord(path), 10)], seq, 0.0)
    assert (backlog.floor(), backlog.size) == (0, 50)
    backlog.moved("a", ord("a"), 20, 5, 1.0, left=False, whole=True)
    assert (backlog.floor(), backlog.size) == (1, 30)
    backlog.moved("b", ord("b"), 10, 5, 1.0, left=True, whole=False)
    assert (backlog.floor(), backlog.size) == (1, 20)
    backlog.note([accepted("b", ord("b"), 10)], 6, 1.0)
    backlog.moved("b", ord("b"), 10, 5, 1.0, left=True, whole=True)
    assert (backlog.floor(), backlog.size) == (3, 20)
    backlog.note([accepted("c", ord("c"), drop=True)], 7, 1.0)
    assert (backlog.floor(), backlog.size) == (5, 10)


def test_a_stream_that_came_in_place_of_another() -> None:
    """State of the earlier stream is not used for the new one."""
    backlog = Backlog()
    backlog.note([accepted("a", 1, 10)], 1, 0.0)
    backlog.note([accepted("a", 1, drop=True), accepted("a", 2, 7)], 2, 0.0)
    backlog.moved("a", 1, 10, 1, 0.0, left=True, whole=True)
    assert (backlog.size, backlog.floor()) == (7, 1)


def test_under_pressure_the_oldest_half_is_due() -> None:
    """
    This holds for too many bytes in memory, too many streams, or too long a journal. Flushes wait at twice the limit.
    """
    backlog = Backlog()
    for seq in range(1, 101):
        backlog.note([accepted(f"s{seq}", seq, 1)], seq, 0.0)
    assert due(backlog, 0.0, JOURNAL_BYTES_MAX) == []
    assert due(backlog, 0.0, JOURNAL_BYTES_MAX + 1) == [f"s{seq}" for seq in range(1, 51)]
    assert backlog.pressure(2 * JOURNAL_BYTES_MAX) >= FULL
    backlog.size = 2 * HELD_BYTES_MAX
    assert backlog.pressure(0) >= FULL
    backlog.size = 0
    backlog.note([accepted(f"t{n}", n) for n in range(HELD_STREAMS_MAX)], 101, 0.0)
    assert backlog.pressure(0) > 1
