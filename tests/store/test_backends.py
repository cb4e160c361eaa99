"""What every backend must do: one suite for all backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from durable_chat.protocol.states import ProducerState
from durable_chat.store.base import Backend, Piece, Record, RecordWrite, Write
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.sqlite.backend import SqliteBackend
from tests.store.making import json_piece, make_state, write_of

KINDS = ("memory", "sqlite", "sqlite-compacted")


class CompactingBackend(SqliteBackend):
    """SQLite, compacted after every flush, so that reads use the tables."""

    async def commit(self, writes):  # type: ignore[no-untyped-def]
        refused = await super().commit(writes)
        await self.compact()
        return refused


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    kinds: dict[str, Callable[[], Backend]] = {
        "memory": MemoryBackend,
        "sqlite": lambda: SqliteBackend(str(tmp_path / "a.db")),
        "sqlite-compacted": lambda: CompactingBackend(str(tmp_path / "a.db")),
    }
    backend = kinds[request.param]()
    await backend.open()
    yield backend
    await backend.close()


async def read_all(backend: Backend, stream_id: int, start: int, stop: int, bytes_max: int = 1 << 20) -> bytes:
    data, position = [], start
    while position < stop:
        pieces = await backend.read(stream_id, position, stop, bytes_max)
        assert pieces[0].start == position
        data += [piece.data for piece in pieces]
        position = pieces[-1].stop
    return b",".join(data)


async def test_what_was_committed_is_read_back(backend: Backend) -> None:
    """States, producers and messages are read as they were written."""
    producers = {"p": ProducerState(1, 2, 3)}
    state = make_state("s", tail=2, closed_by=("p", 1, 2), closed=True, ttl_s=9, last_seq="x")
    assert not await backend.commit([write_of(state, json_piece(0, b"1", b"22"), producers=producers)])
    loaded = await backend.load("s")
    assert loaded is not None
    assert (loaded.state, loaded.producers) == (state, producers)
    assert await backend.load("other") is None
    assert await read_all(backend, 1, 0, 2) == b"1,22"


async def test_reads_begin_and_end_where_asked(backend: Backend) -> None:
    """Any part of a stream of many flushes is read without a gap, whatever the limit on bytes."""
    messages = [b"%d" % n for n in range(40)]
    for n, message in enumerate(messages):
        await backend.commit([write_of(make_state("s", version=n + 1, tail=n + 1), json_piece(n, message))])
    for start, stop in ((0, 40), (7, 8), (13, 31), (39, 40)):
        for bytes_max in (1, 5, 1 << 20):
            assert await read_all(backend, 1, start, stop, bytes_max) == b",".join(messages[start:stop])


async def test_bytes_are_read_at_any_position(backend: Backend) -> None:
    """A stream that is not JSON can be read from every byte."""
    kind = "application/octet-stream"
    await backend.commit([write_of(make_state("s", tail=4, content_type=kind), Piece(0, b"abcd", None))])
    await backend.commit([write_of(make_state("s", version=2, tail=7, content_type=kind), Piece(4, b"efg", None))])
    for start in range(7):
        pieces = await backend.read(1, start, 7, 100)
        assert b"".join(piece.data for piece in pieces) == b"abcdefg"[start:]


async def test_a_staged_piece_is_read_like_any_other(backend: Backend) -> None:
    """It is read between other pieces. Nothing of it remains when its stream is deleted."""
    large = b'"' + b"x" * 1_300_000 + b'"'
    pieces = [
        json_piece(0, b"1"),
        msgspec.structs.replace(json_piece(1, large), staged=await backend.stage(large)),
        json_piece(2, b"3"),
    ]
    for n, piece in enumerate(pieces):
        await backend.commit([write_of(make_state("s", version=n + 1, tail=n + 1), piece)])
    assert await read_all(backend, 1, 0, 3) == b"1," + large + b",3"
    assert await read_all(backend, 1, 1, 2) == large
    await backend.commit([write_of(make_state("s", version=4, tail=3), drop=True)])
    assert await backend.load("s") is None


async def test_a_write_with_another_version_is_refused_whole(backend: Backend) -> None:
    """A refused write changes nothing, including its records. Other writes in the flush are carried out."""
    assert not await backend.commit([write_of(make_state("s"))])
    stale = write_of(make_state("s", version=1, tail=1), json_piece(0, b"1"), records=[RecordWrite("k", "a", b"x")])
    good = write_of(make_state("s", version=2, tail=1), json_piece(0, b"2"))
    chained = write_of(make_state("s", version=3, tail=2), json_piece(1, b"3"))
    assert await backend.commit([stale, good, chained]) == {0}
    assert await backend.record("k", "a") is None
    assert await read_all(backend, 1, 0, 2) == b"2,3"


async def test_records_keep_their_versions(backend: Backend) -> None:
    """A record's version counts its writes. A write with another expected version is refused."""

    async def write(value: bytes | None, expected: int | None, due_ms: int | None = None) -> bool:
        return not await backend.commit([Write((), (RecordWrite("run", "a", value, expected, due_ms),))])

    assert await write(b"1", 0)
    assert not await write(b"no", 0)
    assert await write(b"2", 1, 50)
    assert await backend.record("run", "a") == Record("run", "a", 2, b"2", 50)
    assert await write(b"3", None, 50)
    assert [record.version for record in await backend.records("run", due_before_ms=50)] == [3]
    assert await backend.records("run", due_before_ms=49) == []
    assert await write(None, 3)
    assert await backend.record("run", "a") is None
    assert await write(b"again", 0)


async def test_records_are_listed_by_key(backend: Backend) -> None:
    """Records of one kind are listed in order, by prefix."""
    for key in ("b", "a/2", "a/1"):
        await backend.commit([Write((), (RecordWrite("k", key, b"v"), RecordWrite("other", key, b"v")))])
    assert [record.key for record in await backend.records("k")] == ["a/1", "a/2", "b"]
    assert [record.key for record in await backend.records("k", prefix="a/")] == ["a/1", "a/2"]


async def test_a_dropped_stream_is_gone_and_its_path_free(backend: Backend) -> None:
    """The next stream at the path has nothing of the dropped one."""
    producers = {"p": ProducerState(0, 0, 0)}
    await backend.commit([write_of(make_state("s", tail=1), json_piece(0, b"old"), producers=producers)])
    await backend.commit([write_of(make_state("s", version=2, tail=1), drop=True)])
    assert await backend.load("s") is None
    await backend.commit([write_of(make_state("s", stream_id=2, tail=1), json_piece(0, b"new"))])
    loaded = await backend.load("s")
    assert loaded is not None
    assert (loaded.state.id, loaded.producers) == (2, {})
    assert await read_all(backend, 2, 0, 1) == b"new"


async def test_drop_and_create_in_one_flush(backend: Backend) -> None:
    """A path can be dropped and used again within one flush."""
    await backend.commit([write_of(make_state("s", tail=1), json_piece(0, b"old"))])
    drop = write_of(make_state("s", version=2, tail=1), drop=True)
    create = write_of(make_state("s", stream_id=2, tail=1), json_piece(0, b"new"))
    assert not await backend.commit([drop, create])
    assert await read_all(backend, 2, 0, 1) == b"new"


async def test_expired_streams_are_found(backend: Backend) -> None:
    """They are found by sliding TTL and by absolute time, but not if they are kept only for forks."""
    await backend.commit([write_of(make_state("ttl", stream_id=1, ttl_s=1, accessed_ms=1000))])
    await backend.commit([write_of(make_state("at", stream_id=2, expires_at_ms=3000))])
    await backend.commit([write_of(make_state("kept", stream_id=3, expires_at_ms=1, deleted=True, forks=1))])
    await backend.commit([write_of(make_state("never", stream_id=4))])
    assert sorted(await backend.expired(1999, 10)) == []
    assert sorted(await backend.expired(2000, 10)) == ["ttl"]
    assert sorted(await backend.expired(3000, 10)) == ["at", "ttl"]
    assert len(await backend.expired(3000, 1)) == 1


async def test_stream_ids_are_new(backend: Backend) -> None:
    """An id is never used again, even after the newest stream is deleted."""
    await backend.commit([write_of(make_state("s", stream_id=7))])
    await backend.commit([write_of(make_state("s", stream_id=7, version=2), drop=True)])
    assert await backend.next_stream_id() == 8
