"""
Where reads of bytes begin: at a position that the server returned, otherwise at the append that holds the position.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path

import pytest

from durable_chat.errors import InvalidRequest
from durable_chat.protocol.messages import BINARY, Payload
from durable_chat.protocol.offsets import ZERO, decode_offset
from durable_chat.protocol.requests import Append, Create, Fork
from durable_chat.store.base import CUT_BYTES, Backend
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.readers import READ_BYTES_MAX
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import STAGED_BYTES_MIN, Streams
from tests.store.making import offset_at

SIZES = (3, 1, 5, 70_000, 2, CUT_BYTES + 7, 40_000, STAGED_BYTES_MIN, 4, READ_BYTES_MAX + 1, 3 * 1024 * 1024 + 11, 9)
"""On both sides of what fills a blob, what is staged and what one read gives."""

POSITIONS = 60
"""Positions that nobody was given, drawn at random beside those next to each boundary."""


def body(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


BODIES = [body(number, size) for number, size in enumerate(SIZES)]
WHOLE = b"".join(BODIES)
STARTS = list(accumulate(SIZES, initial=0))


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[Streams]:
    streams = Streams(backend)
    await streams.open()
    yield streams
    await streams.close()


async def fill(streams: Streams, bodies: Sequence[bytes] = BODIES, path: str = "s") -> None:
    await streams.create(path, Create(BINARY))
    for data in bodies:
        await streams.append(path, Append(Payload(data), BINARY))


async def read(streams: Streams, path: str, offset: str) -> tuple[bytes, list[str]]:
    """All data from an offset, and the offsets returned on the way."""
    data, offsets = b"", []
    async with await streams.read(path, offset) as reader:
        while True:
            part = await reader.next()
            data += part.data
            offsets.append(part.next_offset)
            if part.up_to_date:
                return data, offsets


def start_of(position: int) -> int:
    return max(start for start in STARTS if start <= position)


async def check(streams: Streams, path: str = "s") -> None:
    whole, given = await read(streams, path, ZERO)
    assert whole == WHOLE
    offsets = {decode_offset(offset)[1] for offset in given} | set(STARTS)
    for offset in sorted(offsets):  # those given out from there on, too
        data, more = await read(streams, path, await offset_at(streams, path, offset))
        assert data == WHOLE[offset:]
        offsets |= {decode_offset(one)[1] for one in more}
    beside = {start + by for start in STARTS for by in (-1, 1) if 0 < start + by < len(WHOLE)}
    drawn = random.Random(len(WHOLE)).sample(range(1, len(WHOLE)), POSITIONS)
    for position in sorted((beside | set(drawn)) - offsets):
        async with await streams.read(path, await offset_at(streams, path, position)) as reader:
            batch = await reader.next()
        start = start_of(position)
        assert decode_offset(batch.offset)[1] == start
        assert batch.data == WHOLE[start : start + len(batch.data)]


async def test_in_memory() -> None:
    """The rule holds in memory as in every store."""
    async with opened(MemoryBackend()) as streams:
        await fill(streams)
        await check(streams)


@pytest.mark.parametrize("compacted", [0, 4, len(SIZES)])
async def test_in_sqlite_after_compaction_and_a_restart(tmp_path: Path, compacted: int) -> None:
    """Blobs keep the boundaries of their appends."""
    path = str(tmp_path / "a.db")
    async with opened(backend := SqliteBackend(path)) as streams:
        await fill(streams, BODIES[:compacted])
        await backend.compact()
        for data in BODIES[compacted:]:
            await streams.append("s", Append(Payload(data), BINARY))
        await check(streams)
    async with opened(backend := SqliteBackend(path)) as streams:
        await check(streams)
        await backend.compact()
        await check(streams)


async def test_many_small_appends_in_one_blob(tmp_path: Path) -> None:
    """The blob is filled by several compactions."""
    bodies = [body(n, 1 + n % 5) for n in range(300)]
    async with opened(backend := SqliteBackend(str(tmp_path / "a.db"))) as streams:
        await fill(streams, [])
        start = 0
        for n, data in enumerate(bodies):
            await streams.append("s", Append(Payload(data), BINARY))
            if n % 100 == 99:
                await backend.compact()
        for data in bodies:
            for inside in range(1, len(data)):
                async with await streams.read("s", await offset_at(streams, "s", start + inside)) as reader:
                    assert decode_offset((await reader.next()).offset)[1] == start
            start += len(data)


async def test_a_position_that_is_counted_on_from_the_tail() -> None:
    """A read at the tail gets the next append from its beginning. Positions beyond the tail do not exist yet."""
    async with opened(MemoryBackend()) as streams:
        await fill(streams, [b"abc"])
        async with await streams.read("s", await offset_at(streams, "s", 4)) as reader:
            nothing = await reader.next()
            assert (nothing.data, nothing.up_to_date) == (b"", True)
            assert nothing.next_offset == (await streams.head("s")).next_offset
            await streams.append("s", Append(Payload(b"defg"), BINARY))
            assert (await reader.next()).data == b"defg"
        with pytest.raises(InvalidRequest):
            await streams.read("s", await offset_at(streams, "s", 9))


async def test_a_fork_has_its_sources_boundaries() -> None:
    """This holds wherever the fork begins. Its own bytes begin an append."""
    async with opened(MemoryBackend()) as streams:
        await fill(streams, [b"abc", b"defg"])
        await streams.create("f", Create(fork=Fork("s", await offset_at(streams, "s", 3), 2)))
        await streams.append("f", Append(Payload(b"hij"), BINARY))
        places = [("s", 1, b"abcdehij"), ("s", 4, b"dehij"), ("s", 5, b"hij"), ("f", 6, b"hij"), ("f", 7, b"hij")]
        for life, position, wanted in places:
            assert (await read(streams, "f", await offset_at(streams, life, position)))[0] == wanted


async def test_what_an_earlier_version_has_stored_is_read_exactly(tmp_path: Path) -> None:
    """Its boundaries are unknown, so every position is read exactly."""
    path = str(tmp_path / "a.db")
    async with opened(backend := SqliteBackend(path)) as streams:
        await fill(streams, [b"abc", b"defg"])
        await backend.compact()
    with sqlite3.connect(path) as database:
        assert database.execute("UPDATE blobs SET lengths = NULL, crc = NULL").rowcount == 1
    database.close()
    async with opened(backend := SqliteBackend(path)) as streams:
        assert (await read(streams, "s", await offset_at(streams, "s", 5)))[0] == b"fg"
        await streams.append("s", Append(Payload(b"hij"), BINARY))
        await backend.compact()
        assert (await read(streams, "s", await offset_at(streams, "s", 5)))[0] == b"fghij"
