"""Catch-up: one reader reads a long stream from its start to its end, again and again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from benchmarks.measures import LoadError, Measure, Stopwatch, Target, now_s, undisturbed
from benchmarks.wire import STREAMS, Connection, create_streams, json_request, opened, read_pages

MARK = b'"n":"'
MESSAGE = b'{"n":"%08d","delta":"' + b"x" * 85 + b'"}'
BATCH = 1000


async def run(target: Target, messages: int, warm_s: float, seconds: float, settle_s: float = 0.0) -> Measure:
    """
    MB of bodies per second (MB = 10**6 bytes), and the time of one whole pass. The first pass, not timed, is checked.
    A server has `settle_s` for what it does in the background with what was written.
    """
    path = f"{STREAMS}catchup"
    await create_streams(target.port, [path])
    async with opened(target.port, Connection) as (connection,):
        await _fill(connection, path, messages)
        await asyncio.sleep(settle_s)
        size, marks = await _pass(connection, path, MARK)
        warm_until_s = now_s() + warm_s
        while now_s() < warm_until_s:
            await _pass(connection, path)
        passes_s: list[float] = []
        with undisturbed():
            watch = Stopwatch(target)
            end_s = start_s = now_s()
            while not passes_s or end_s - start_s < seconds:
                begun_s = end_s
                if await _pass(connection, path) != (size, 0):
                    raise LoadError("two passes over one stream gave a different number of bytes")
                end_s = now_s()
                passes_s.append(end_s - begun_s)
            measure = watch.measure(end_s, len(passes_s), passes_s, units=size * len(passes_s) / 1e6)
    faults = () if marks == messages else (f"{marks} of {messages} messages read back",)
    return replace(measure, notes=(f"{size / 1e6:.1f} MB",), faults=faults)


async def _fill(connection: Connection, path: str, messages: int) -> None:
    for first in range(0, messages, BATCH):
        batch = b",".join(MESSAGE % number for number in range(first, min(first + BATCH, messages)))
        await connection.expect(json_request("POST", path, b"[" + batch + b"]"))


async def _pass(connection: Connection, path: str, mark: bytes | None = None) -> tuple[int, int]:
    """Bytes of all the bodies of one pass, and how often `mark` is in them; not looked for when timed."""
    size = found = 0
    async for page in read_pages(connection, path):
        size += page.size
        if mark is not None:
            found += page.body.count(mark)
    return size, found
