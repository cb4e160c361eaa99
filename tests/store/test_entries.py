"""The streams in memory: their number is limited, and an evicted stream is loaded again when it is needed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durable_chat.errors import NotFound
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Create, Fork, Producer
from durable_chat.store.base import Backend
from durable_chat.store.entries import EVICTION_LOOKS_MAX, Entries, Entry
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import Streams
from tests.store.making import GatedBackend, json_append

CACHED_MAX = 100


class Clock:
    """Mutable state: `ms`, the time."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture(params=["memory", "sqlite"])
async def streams(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Streams]:
    backend: Backend = MemoryBackend() if request.param == "memory" else SqliteBackend(str(tmp_path / "a.db"))
    made = Streams(backend, Clock(), cached_max=CACHED_MAX)
    await made.open()
    yield made
    await made.close()


def entries_alive() -> int:
    gc.collect()
    return sum(type(found) is Entry for found in gc.get_objects())


async def contents(streams: Streams, path: str) -> bytes:
    async with await streams.read(path, "-1") as reader:
        return (await reader.next()).data


async def test_memory_is_bounded_by_the_limit_and_not_by_the_streams(streams: Streams) -> None:
    """With thirty times as many streams as fit, all of them work, and memory holds no more entries than the limit."""
    before = entries_alive()
    for n in range(30 * CACHED_MAX):
        await streams.create(f"s{n}", Create(JSON))
        await streams.append(f"s{n}", json_append(b"%d" % n, producer=Producer("p", 0, 0)))
    assert streams.figures().streams_cached == CACHED_MAX
    assert entries_alive() - before <= CACHED_MAX
    for n in range(0, 30 * CACHED_MAX, 7):
        assert await contents(streams, f"s{n}") == b"%d" % n
        again = await streams.append(f"s{n}", json_append(b"0", producer=Producer("p", 0, 0)))
        assert again.duplicate
    assert streams.figures().streams_cached == CACHED_MAX


async def test_many_at_once(streams: Streams) -> None:
    """If more streams are requested at once than fit, each caller gets its own, and the surplus is evicted later."""

    async def make(n: int) -> None:
        await streams.create(f"s{n}", Create(JSON, payload=join_messages([b"%d" % n])))

    await asyncio.gather(*(make(n) for n in range(5 * CACHED_MAX)))
    found = await asyncio.gather(*(contents(streams, f"s{n}") for n in range(5 * CACHED_MAX)))
    assert found == [b"%d" % n for n in range(5 * CACHED_MAX)]
    with pytest.raises(NotFound):
        await streams.head("one more")
    assert streams.figures().streams_cached == CACHED_MAX  # all that were too many, and not one alone


async def test_one_in_use_stays(streams: Streams) -> None:
    """A reader's stream stays the same object, however many others are loaded."""
    await streams.create("read", Create(JSON))
    async with await streams.read("read", "-1") as reader:
        for n in range(3 * CACHED_MAX):
            await streams.create(f"s{n}", Create(JSON))
        waiting = asyncio.create_task(reader.next(20))
        await asyncio.sleep(0)
        await streams.append("read", json_append(b"1"))
        assert (await waiting).data == b"1"


async def test_what_does_not_exist_goes_first(streams: Streams) -> None:
    """Requests for missing or deleted streams evict no existing ones."""
    for n in range(CACHED_MAX // 2):
        await streams.create(f"s{n}", Create(JSON))
    misses = streams.figures().cache_misses
    for n in range(5 * CACHED_MAX):
        with pytest.raises(NotFound):
            await streams.head(f"nothing{n}")
    for n in range(5 * CACHED_MAX):
        await streams.create(f"gone{n}", Create(JSON))
        await streams.delete(f"gone{n}")
    missed = streams.figures().cache_misses - misses
    for n in range(CACHED_MAX // 2):
        await streams.head(f"s{n}")
    assert streams.figures().cache_misses == misses + missed
    assert missed == 10 * CACHED_MAX


async def test_one_that_was_touched_goes_when_that_is_written_down() -> None:
    """The last use of a stream is stored before the stream is evicted."""
    clock = Clock()
    streams = Streams(MemoryBackend(), clock, cached_max=CACHED_MAX)
    await streams.open()
    for n in range(2 * CACHED_MAX):
        await streams.create(f"s{n}", Create(JSON, 60))
        clock.ms += 1
        await streams.append(f"s{n}", json_append(b"1"))
        clock.ms += 1
        assert await contents(streams, f"s{n}") == b"1"
    assert streams.figures().streams_cached == 2 * CACHED_MAX
    await streams.expiry.save_touches()
    await streams.create("one more", Create(JSON))
    await streams.create("and another", Create(JSON))
    assert streams.figures().streams_cached <= CACHED_MAX
    clock.ms += 59_000
    await streams.expiry.expire_due(500)
    assert await contents(streams, "s0") == b"1"
    await streams.close()


async def test_one_that_is_being_written_stays() -> None:
    """A state that is decided and not yet durable exists only in memory."""
    backend = GatedBackend()
    streams = Streams(backend, cached_max=CACHED_MAX)
    await streams.open()
    await streams.create("written", Create(JSON))
    backend.hold()
    writing = asyncio.create_task(streams.append("written", json_append(b"1")))
    await asyncio.sleep(0)
    for n in range(2 * CACHED_MAX):
        with pytest.raises(NotFound):
            await streams.head(f"nothing{n}")
    also = asyncio.create_task(streams.append("written", json_append(b"2")))
    await asyncio.sleep(0)
    backend.gate.set()
    await asyncio.gather(writing, also)
    assert await contents(streams, "written") == b"1,2"
    await streams.close()


async def test_a_load_is_not_longer_the_more_are_in_use() -> None:
    """Only a limited number of streams in use is examined, and these come last in the next round."""
    entries = Entries(MemoryBackend(), 10)
    for n in range(1000):
        (await entries.get(f"s{n}")).pending += 1
    assert len(entries) == 1000
    for n in range(1000):
        entries.held(f"s{n}").pending -= 1  # type: ignore[union-attr] # it is there
    await entries.get("one more")
    assert len(entries) == 10
    assert EVICTION_LOOKS_MAX < 1000


async def test_many_forks_at_once_find_their_places(tmp_path: Path) -> None:
    """
    Each fork needs two streams in memory. All forks are created, even if far fewer streams fit than are requested.
    """
    backend = SqliteBackend(str(tmp_path / "a.db"))
    streams = Streams(backend, Clock(), cached_max=4)
    await streams.open()
    for n in range(60):
        await streams.create(f"s{n}", Create(JSON))
        await streams.append(f"s{n}", json_append(b"%d" % n))
    async with asyncio.timeout(60):
        made = [streams.create(f"f{n}", Create(fork=Fork(f"s{n}"))) for n in range(60)]
        await asyncio.gather(*made)
    assert [await contents(streams, f"f{n}") for n in range(60)] == [b"%d" % n for n in range(60)]
    await streams.close()
