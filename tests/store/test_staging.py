"""Large appends, which are written ahead of their flush: they survive compaction and restarts in any order."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from durable_chat.protocol.messages import BINARY, JSON, parse_payload
from durable_chat.protocol.offsets import ZERO
from durable_chat.protocol.requests import Append, Create, Fork
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.sqlite.writer import SqliteWriter
from durable_chat.store.streams import STAGED_BYTES_MIN, Streams
from tests.conftest import Serve
from tests.store.crash import read_all
from tests.store.making import offset_at

TEXT = "text/plain"
TYPES = [BINARY, TEXT, JSON]
LARGE_BYTES = STAGED_BYTES_MIN + 300_000


def body(content_type: str, name: str, size: int) -> bytes:
    """A body that differs from all others, so that a byte in the wrong place is noticed."""
    text = (f"{name}-" * (size // len(name) + 1))[: size - 2].encode()
    return b'"' + text + b'"'


def append(content_type: str, name: str, size: int, *, close: bool = False) -> Append:
    return Append(parse_payload(content_type, body(content_type, name, size)), content_type, close=close)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Streams, SqliteBackend]]:
    streams = Streams(backend := SqliteBackend(str(path)))
    await streams.open()
    try:
        yield streams, backend
    finally:
        await streams.close()


async def contents(streams: Streams, path: str, position: int = 0) -> bytes:
    data = []
    offset = await offset_at(streams, path, position) if position else ZERO
    async with await streams.read(path, offset) as reader:
        content_type = reader.head.content_type
        while part := (await reader.next()).data:
            data.append(part)
    return (b"," if content_type == JSON else b"").join(data)


def joined(content_type: str, *bodies: bytes) -> bytes:
    return (b"," if content_type == JSON else b"").join(bodies)


def crash(path: Path) -> Path:
    """Copy the files as a process that is killed now would leave them."""
    folder = path.parent / f"crashed-{len(list(path.parent.iterdir()))}"
    folder.mkdir()
    for file in path.parent.glob(path.name + "*"):
        if file.is_file():
            shutil.copy(file, folder)
    return folder / path.name


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    rows: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return rows


async def test_a_large_append_to_a_compacted_stream_outlives_any_restart(serve: Serve) -> None:
    """
    An idle stream gets a large append and perhaps another. After SIGTERM and SIGKILL, everything acknowledged is there.
    """
    server, content_type = serve(), BINARY
    url = f"{server.url}/v1/stream/a"
    bodies = [body(content_type, name, size) for name, size in (("one", 10), ("two", LARGE_BYTES), ("three", 10))]
    headers = {"Content-Type": content_type}
    async with httpx.AsyncClient(timeout=30) as client:
        assert (await client.put(url, headers=headers)).status_code == 201
        assert (await client.post(url, headers=headers, content=bodies[0])).status_code == 204
        database = next(Path(server.folder).glob("*.db"))
        while count(database, "blobs") == 0:
            await client.get(f"{server.url}/healthz")
        for one in bodies[1:]:
            assert (await client.post(url, headers=headers, content=one)).status_code == 204
        for stop in (server.terminate, server.kill):
            stop()
            server.start()
            assert await read_all(client, url) == joined(content_type, *bodies)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("forgets", [True, False], ids=["whole", "cut-off"])
@pytest.mark.parametrize("step_bytes", [1, 1 << 20])
async def test_a_large_append_outlives_every_meeting_with_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content_type: str, forgets: bool, step_bytes: int
) -> None:
    """
    Appends come before, between and after compactions, which may be cut off before the journal is cleared, with a fork
    and a close. After each of two crashes, every byte is there.
    """
    if not forgets:
        monkeypatch.setattr(SqliteWriter, "forget", lambda *_: False)
    path = tmp_path / "a.db"
    sizes = [10, LARGE_BYTES, 10, 70_000, LARGE_BYTES, LARGE_BYTES, 20]
    bodies = [body(content_type, f"{n}", size) for n, size in enumerate(sizes)]
    async with opened(path) as (streams, backend):
        backend.compaction.step_bytes_max = step_bytes
        await streams.create("pin", Create(JSON, payload=parse_payload(JSON, b"1")))
        await streams.create("a", Create(content_type))
        for n, size in enumerate(sizes):
            last = n == len(sizes) - 1
            await streams.append("a", append(content_type, f"{n}", size, close=last))
            await check_crashed(crash(path), content_type, bodies[: n + 1])
            if n % 2 == 0:
                await backend.compact(["a"] if n % 4 == 0 else None)
                await check_crashed(crash(path), content_type, bodies[: n + 1])
        tail = (await streams.head("a")).next_offset
        await streams.create("fork", Create(fork=Fork("a", tail)))
        await streams.delete("a")
        await check_crashed(crash(path), content_type, bodies, name="fork")


async def check_crashed(path: Path, content_type: str, bodies: list[bytes], name: str = "a") -> None:
    expected = joined(content_type, *bodies)
    for compacts in (False, True, False):
        async with opened(path) as (streams, backend):
            assert await contents(streams, name) == expected
            if compacts:
                await backend.compact()
                assert await contents(streams, name) == expected
    shutil.rmtree(path.parent)
