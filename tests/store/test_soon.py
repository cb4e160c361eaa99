"""Creations without a lookup: the disk finds out whether the stream exists, and an existing one is unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durable_chat.errors import Conflict, StoreFailed
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Create, Created, Fork
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import Streams
from tests.store.making import FailingBackend, GatedBackend, create_soon, json_append, json_create

TURNS = 20
"""Of the loop: more than anything takes that waits for nothing."""


@pytest.fixture(params=["memory", "journal", "tables"])
async def streams(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Streams]:
    """A store with an empty stream `there` whose state is not in memory."""
    backend = MemoryBackend() if request.param == "memory" else SqliteBackend(str(tmp_path / "a.db"))
    first = Streams(backend)
    await first.open()
    await first.create("there", json_create())
    if isinstance(backend, SqliteBackend):
        if request.param == "tables":
            await backend.compact()
        await first.close()
        backend = SqliteBackend(str(tmp_path / "a.db"))
    made = Streams(backend)
    await made.open()
    yield made
    await made.close()


async def text(streams: Streams, path: str) -> bytes:
    async with await streams.read(path, "-1") as reader:
        return (await reader.next()).data


async def test_a_new_stream_is_there_when_it_is_told(streams: Streams) -> None:
    """It has its first messages, and the next append finds it."""
    created = await create_soon(streams, "new", Create(JSON, payload=join_messages([b"1", b"2"])))
    assert not created.existed
    assert (await streams.head("new")).next_offset == created.next_offset
    await streams.append("new", json_append(b"3"))
    assert await text(streams, "new") == b"1,2,3"
    assert (await create_soon(streams, "new", json_create())).existed


async def test_one_that_is_there_stays_as_it_was(streams: Streams) -> None:
    """The result is the same as after a lookup: found, or refused."""
    created = await create_soon(streams, "there", json_create())
    assert created.existed
    with pytest.raises(Conflict):
        await create_soon(streams, "there", Create("text/plain"))
    await streams.append("there", json_append(b"1"))
    assert await text(streams, "there") == b"1"


async def test_what_comes_meanwhile_waits_for_the_disk(streams: Streams) -> None:
    """Appends, reads, forks and deletes of a path wait until its creation is decided."""
    told: list[Created | None] = []
    assert streams.create_soon("there", json_create(), lambda created, _: told.append(created))
    assert not streams.append_soon("there", json_append(b"0"), lambda *_: None)
    assert not streams.create_soon("there", json_create(), lambda *_: None)
    appended, head, forked, found = await asyncio.gather(
        streams.append("there", json_append(b"1")),
        streams.head("there"),
        streams.create("fork", Create(fork=Fork("there"))),
        streams.create("there", json_create()),
    )
    assert told == [None]
    assert found.existed
    assert not forked.existed
    assert head.id == (await streams.head("there")).id < (await streams.head("fork")).id
    assert (await streams.head("there")).next_offset == appended.next_offset
    assert await text(streams, "there") == b"1"


async def test_two_creations_at_once_make_one_stream(streams: Streams) -> None:
    """The second one finds the stream of the first."""
    made = await asyncio.gather(*(create_soon(streams, "new", json_create()) for _ in range(2)))
    assert [created.existed for created in made] == [False, True]


async def test_it_is_durable_before_it_is_told() -> None:
    """Until the stream is on disk, no response is sent, and no reader finds it."""
    backend = GatedBackend()
    streams = Streams(backend)
    await streams.open()
    backend.hold()
    creating = asyncio.create_task(create_soon(streams, "new", json_create()))
    await asyncio.sleep(0)
    reading = asyncio.create_task(streams.head("new"))
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert not creating.done() and not reading.done()
    backend.gate.set()
    assert not (await creating).existed
    assert (await reading).next_offset == (await creating).next_offset
    await streams.close()


async def test_a_disk_that_fails_makes_no_stream() -> None:
    """The creator and everybody who waits for the stream get the error."""
    streams = Streams(FailingBackend(fails_at=1))
    await streams.open()
    creating = asyncio.create_task(create_soon(streams, "new", json_create()))
    await asyncio.sleep(0)
    with pytest.raises(StoreFailed):
        await streams.head("new")
    with pytest.raises(StoreFailed):
        await creating
    assert not streams.create_soon("other", json_create(), lambda *_: None)
    await streams.close()


async def test_what_is_created_drives_others_out_of_memory() -> None:
    """When they are on disk, no more streams than the limit stay in memory."""
    streams = Streams(MemoryBackend(), cached_max=100)
    await streams.open()
    for number in range(500):
        await create_soon(streams, f"s{number}", json_create())
    assert streams.figures().streams_cached <= 100
    assert (await create_soon(streams, "s0", json_create())).existed
    await streams.close()
