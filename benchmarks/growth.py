"""Growth: the same appends to a database that is empty, and to one that holds very much already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from benchmarks import appends
from benchmarks.measures import Measure, Target
from benchmarks.wire import STREAMS
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Piece
from durable_chat.store.migrations import migrate_sqlite
from durable_chat.store.sqlite.writer import CompactionJob, SqliteWriter, StreamJob, checkpoint

BATCH = 1000
"""Messages of one append, or streams of one step, while a database is filled."""
READY, RESIDENT = "ready s", "MB when ready"


async def fill_messages(folder: Path, messages: int) -> None:
    """One stream with so many messages, a thousand at a time."""
    await asyncio.to_thread(_fill, folder, ([job] for job in _long_stream(messages)), 1)


async def fill_streams(folder: Path, streams: int) -> None:
    """So many streams with a message each, a thousand at a time."""
    jobs = _many_streams(streams)
    await asyncio.to_thread(_fill, folder, iter(lambda: list(islice(jobs, BATCH)), []), streams)


def _fill(folder: Path, steps: Iterator[list[StreamJob]], stream_id_max: int) -> None:
    """By the steps in which the store compacts, in this process: the rows are those that the server would have left."""
    first = next(steps, [])
    if not first:
        return
    path = str(folder / "bench.db")
    migrate_sqlite(path)
    writer = SqliteWriter(path)
    writer.open()
    try:
        for jobs in chain([first], steps):
            writer.compact(CompactionJob(tuple(jobs)))
        writer.forget(0, stream_id_max, bytes_max=0)
        checkpoint(path)
    finally:
        writer.close()


def _long_stream(messages: int) -> Iterator[StreamJob]:
    now_ms = time.time_ns() // 1_000_000
    for version, start in enumerate(range(0, messages, BATCH), 1):
        piece = _piece(start, range(start, min(start + BATCH, messages)))
        yield StreamJob(
            StreamState(1, "growth-0", version, JSON, piece.stop, now_ms, now_ms), (piece,), (), 0, len(piece.data)
        )


def _many_streams(streams: int) -> Iterator[StreamJob]:
    now_ms = time.time_ns() // 1_000_000
    for index in range(streams):
        state = StreamState(index + 1, f"growth-{index}", 1, JSON, 1, now_ms, now_ms)
        piece = _piece(0, (index,))
        yield StreamJob(state, (piece,), (), 0, len(piece.data))


def _piece(start: int, numbers: Iterable[int]) -> Piece:
    messages = [appends.message(0, number) for number in numbers]
    return Piece(start, b",".join(messages), tuple(map(len, messages)))


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
