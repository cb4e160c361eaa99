"""The size of the SQLite file: deleted data frees space, and compaction writes little."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Create
from durable_chat.store.sqlite import writer
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.sqlite.backlog import AGE_MAX_S, QUIET_S
from durable_chat.store.streams import Streams
from tests.store.making import json_append, json_piece, make_state, write_of

PAGE_BYTES = 4096
TEXT = b'"' + b"x" * 1000 + b'"'


class Clock:
    """Mutable state: `ms`, the time."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@asynccontextmanager
async def opened(path: Path, clock: Clock | None = None) -> AsyncIterator[tuple[Streams, SqliteBackend]]:
    backend = SqliteBackend(str(path))
    streams = Streams(backend, clock or Clock())
    await streams.open()
    try:
        yield streams, backend
    finally:
        await streams.close()


def pragma(path: Path, name: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
    finally:
        connection.close()


async def fill(streams: Streams, names: list[str], messages: int, ttl_s: int | None = None) -> None:
    async def one(name: str) -> None:
        await streams.create(name, Create(JSON, ttl_s))
        for _ in range(messages):
            await streams.append(name, json_append(TEXT))

    await asyncio.gather(*map(one, names))


async def test_the_file_does_not_grow_under_a_steady_load(tmp_path: Path) -> None:
    """With streams that expire, the file has about as many pages after ten rounds as after two."""
    clock = Clock()
    pages = []
    async with opened(tmp_path / "a.db", clock) as (streams, backend):
        for number in range(10):
            await fill(streams, [f"r{number}/{n}" for n in range(40)], 40, ttl_s=60)
            await backend.compact()
            clock.ms += 61_000
            while await streams.expiry.expire_due(500):
                pass
            await backend.compact()
            pages.append(pragma(tmp_path / "a.db", "page_count"))
        assert not backend.compaction.tables.streams
        assert not backend.compaction.tables.dropped
    assert max(pages[2:]) <= 1.5 * pages[1]


async def test_space_goes_back_to_the_file_system(tmp_path: Path) -> None:
    """After a large delete the file is as small as the remaining data, plus the pages kept for the journal."""
    path = tmp_path / "a.db"
    async with opened(path) as (streams, backend):
        await fill(streams, ["kept"], 10)
        large = join_messages([b'"' + b"y" * 900_000 + b'"'])
        for n in range(90):
            await streams.create(f"large/{n}", Create(JSON, payload=large))
        await backend.compact()
        assert pragma(path, "page_count") * PAGE_BYTES > 80_000_000
        for n in range(90):
            await streams.delete(f"large/{n}")
        before = pragma(path, "page_count") + 1
        while (now := pragma(path, "page_count")) < before:  # each gives back so much: flushes come between
            before = now
            await backend.compact()
        assert pragma(path, "page_count") <= writer.FREE_PAGES_KEPT + 500
        assert path.stat().st_size <= (writer.FREE_PAGES_KEPT + 500) * PAGE_BYTES
    assert path.stat().st_size <= (writer.FREE_PAGES_KEPT + 500) * PAGE_BYTES
    async with opened(path) as (streams, _):
        assert (await streams.head("kept")).next_offset.endswith("10")


async def test_a_file_that_cannot_shrink_is_used_again(tmp_path: Path) -> None:
    """A database without incremental vacuum opens and works, and reuses its free pages."""
    path = tmp_path / "a.db"
    async with opened(path):
        pass
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode=DELETE", "PRAGMA auto_vacuum=NONE", "VACUUM"):
        connection.execute(statement).fetchall()
    connection.close()
    assert pragma(path, "auto_vacuum") == 0
    pages = []
    async with opened(path) as (streams, backend):
        for _ in range(5):
            await fill(streams, [f"{n}" for n in range(40)], 40)
            await backend.compact()
            for n in range(40):
                await streams.delete(f"{n}")
            await backend.compact()
            pages.append(pragma(path, "page_count"))
    assert max(pages[2:]) <= 1.5 * pages[1]


async def test_a_stream_that_is_written_all_the_time_is_compacted_when_it_fills_a_blob(tmp_path: Path) -> None:
    """
    An earlier compaction would rewrite its last blob each time. A long stream is compacted, and its journal rows are
    deleted.
    """
    async with opened(tmp_path / "a.db") as (streams, backend):
        await fill(streams, ["short"], 20)
        await fill(streams, ["long"], 80)
        backlog = backend.compaction.backlog
        short, long = backlog.streams["short"], backlog.streams["long"]
        now_s = max(short.last_s, long.last_s)
        assert not short.is_due(now_s, -1)
        assert long.is_due(now_s, -1)
        assert short.is_due(now_s + QUIET_S, -1)
        assert short.is_due(short.since_s + AGE_MAX_S, -1)
        journal_bytes = backend.journal_bytes
        await backend.compact(["long"])
        assert backend.journal_bytes == journal_bytes  # the short one, which came before, is still needed
        assert backend.uncompacted_bytes == 20 * len(TEXT)
        await backend.compact(["short"])
        assert (backend.journal_bytes, backend.uncompacted_bytes) == (0, 0)


async def test_numbers_that_the_journal_names_are_not_used_again(tmp_path: Path) -> None:
    """A large message is deleted while the journal still refers to it. After a crash its number is not used again."""
    path = tmp_path / "a.db"
    large = join_messages([b'"' + b"y" * 1_200_000 + b'"'])
    async with opened(path) as (streams, backend):
        await streams.create("pins", Create(JSON, payload=join_messages([b"1"])))
        await streams.create("large", Create(JSON, payload=large))
        await streams.delete("large")
        await backend.compact([])
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for file in tmp_path.glob("a.db*"):
            shutil.copy(file, crashed)
    async with opened(crashed / "a.db") as (streams, backend):
        await streams.create("other", Create(JSON, payload=large))
        await backend.compact()
        async with await streams.read("other", "-1") as reader:
            assert (await reader.next()).data == large.data


async def test_flushes_wait_while_too_much_is_held(tmp_path: Path) -> None:
    """They continue when compaction has made room. Memory and the journal stay within their limits."""
    backend = SqliteBackend(str(tmp_path / "a.db"))
    await backend.open()
    text = b'"' + b"x" * 500_000 + b'"'
    highest = 0.0
    for n in range(200):
        await backend.commit([write_of(make_state("s", version=n + 1, tail=n + 1), json_piece(n, text))])
        highest = max(highest, backend.compaction.pressure)
    assert highest < 2.1
    await backend.compact()
    assert (await backend.read(1, 199, 200, 1 << 30))[0].data == text
    await backend.close()
    assert (tmp_path / "a.db").stat().st_size > 90_000_000
