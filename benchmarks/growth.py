"""Growth: the same appends to a database that is empty, and to one that holds very much already."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks import appends
from benchmarks.measures import LoadError, Measure, Target, now_s
from benchmarks.wire import STREAMS
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Piece, StreamChange, Write
from durable_chat.store.sqlite import SqliteBackend

BATCH = 1000
"""Messages of one append, or streams of one flush, while a database is filled."""
# A million streams are compacted in two to four minutes.
COMPACTION_MAX_S = 600.0
POLL_S = 0.2

READY, RESIDENT = "ready s", "MB when ready"


async def fill_messages(folder: Path, messages: int) -> None:
    """One stream with so many messages, in appends of a thousand, compacted."""
    await _fill(folder, _long_stream(messages), at_once=1)


async def fill_streams(folder: Path, streams: int) -> None:
    """So many streams with a message each, a thousand to a flush, compacted."""
    await _fill(folder, _many_streams(streams), at_once=BATCH)


async def _fill(folder: Path, writes: Iterator[Write], at_once: int) -> None:
    """By the store's own writer, in this process: the rows are those that the server would have written."""
    if not (first := list(islice(writes, at_once))):
        return
    backend = SqliteBackend(str(folder / "bench.db"))
    await backend.open()
    try:
        while first:
            refused = await backend.commit(first)
            assert not refused, "each write has the version that the one before left"
            first = list(islice(writes, at_once))
        await _compacted(folder)
    finally:
        await backend.close()


async def _compacted(folder: Path) -> None:
    """Until the store has moved all of it from its journal into the tables, as it does in the background."""
    until_s = now_s() + COMPACTION_MAX_S
    with closing(sqlite3.connect(folder / "bench.db")) as connection:
        while connection.execute("SELECT count(*) FROM journal").fetchone()[0]:
            if now_s() > until_s:
                raise LoadError(f"the filled database was not compacted within {COMPACTION_MAX_S:g} s")
            await asyncio.sleep(POLL_S)


def _long_stream(messages: int) -> Iterator[Write]:
    now_ms = time.time_ns() // 1_000_000
    for version, start in enumerate(range(0, messages, BATCH), 1):
        piece = _piece(start, range(start, min(start + BATCH, messages)))
        yield _written(StreamState(1, "growth-0", version, JSON, piece.stop, now_ms, now_ms), piece)


def _many_streams(streams: int) -> Iterator[Write]:
    now_ms = time.time_ns() // 1_000_000
    for index in range(streams):
        piece = _piece(0, (index,))
        yield _written(StreamState(index + 1, f"growth-{index}", 1, JSON, 1, now_ms, now_ms), piece)


def _piece(start: int, numbers: Iterable[int]) -> Piece:
    messages = [appends.message(0, number) for number in numbers]
    return Piece(start, b",".join(messages), tuple(map(len, messages)))


def _written(state: StreamState, piece: Piece) -> Write:
    return Write((StreamChange(state, piece),))


async def to_one(target: Target, _messages: int, warm_s: float, seconds: float, connections: int) -> Measure:
    """Appends to one stream, which holds so many messages."""
    return await _measured(target, [f"{STREAMS}growth-0"], warm_s, seconds, connections)


async def to_some(target: Target, streams: int, warm_s: float, seconds: float, connections: int) -> Measure:
    """Appends to 64 streams, spread evenly over the so many that there are."""
    step = max(1, streams // appends.STREAM_COUNT)
    paths = [f"{STREAMS}growth-{index * step}" for index in range(appends.STREAM_COUNT)]
    return await _measured(target, paths, warm_s, seconds, connections)


async def _measured(target: Target, paths: list[str], warm_s: float, seconds: float, connections: int) -> Measure:
    ready = {READY: target.ready_s, RESIDENT: target.memory().now_bytes / 1e6}
    measure = await appends.run_on(target, paths, connections, warm_s, seconds)
    return replace(measure, more=ready)
