"""Cursors: interval numbers that stop a shared cache from answering live reads forever (PROTOCOL.md 10.1)."""

from __future__ import annotations

EPOCH_MS = 1_728_432_000_000
"""October 9, 2024, 00:00:00 UTC."""
INTERVAL_MS = 20_000
JITTER_MAX_S = 3600


def current_cursor(now_ms: int) -> int:
    return max(0, now_ms - EPOCH_MS) // INTERVAL_MS


def next_cursor(seen: str | None, now_ms: int, jitter_s: int) -> int:
    """
    Return the cursor for an answer: the current interval, or a strictly greater one if the client has seen this
    interval or a later one. `jitter_s` is 1 to 3600 seconds, drawn by the caller. A value that is not a number counts
    as not seen.
    """
    assert 1 <= jitter_s <= JITTER_MAX_S
    current = current_cursor(now_ms)
    if seen is None or not (seen.isascii() and seen.isdigit()) or len(seen) > 15 or int(seen) < current:
        return current
    return int(seen) + max(1, jitter_s * 1000 // INTERVAL_MS)
