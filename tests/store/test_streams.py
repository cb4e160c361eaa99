"""Streams on each backend: what callers of the log rely on beyond the protocol's own test suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from durable_chat.errors import (
    Conflict,
    Gone,
    InvalidRequest,
    NotFound,
    OffsetGone,
    SequenceGap,
    StaleEpoch,
    StoreFailed,
    StreamClosed,
    Unavailable,
)
from durable_chat.protocol.messages import JSON, Payload
from durable_chat.protocol.offsets import ZERO, encode_offset
from durable_chat.protocol.requests import Append, Create, Fork, Producer
from durable_chat.store.base import Reader, RecordWrite, Write
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import Streams
from tests.store.making import FailingBackend, GatedBackend, json_append, json_create, offset_at

LONG_S = 30.0
"""A wait that a passing test never comes near."""


FIRST_LIFE = 1_000_000
"""Of the first stream that is created: the time by the clock."""


class Clock:
    def __init__(self) -> None:
        self.ms = FIRST_LIFE

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def streams(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Streams]:
    backend = MemoryBackend() if request.param == "memory" else SqliteBackend(str(tmp_path / "a.db"))
    streams = Streams(backend, clock)
    await streams.open()
    yield streams
    await streams.close()


async def read_all(streams: Streams, path: str, offset: str = "-1") -> bytes:
    async with await streams.read(path, offset) as reader:
        parts = []
        while True:
            batch = await reader.next()
            parts.append(batch.data)
            if batch.up_to_date:
                return b",".join(filter(None, parts))


async def test_appends_of_one_flush_keep_their_order(streams: Streams) -> None:
    """Concurrent appends are executed in the order of their arrival, and each returns its own tail."""
    await streams.create("s", json_create())
    answers = await asyncio.gather(*(streams.append("s", json_append(b"%d" % n)) for n in range(50)))
    assert [answer.next_offset for answer in answers] == [await offset_at(streams, "s", n + 1) for n in range(50)]
    assert await read_all(streams, "s") == b",".join(b"%d" % n for n in range(50))


async def test_a_reader_follows_from_the_store_to_the_tail(streams: Streams) -> None:
    """There is no gap or overlap between catching up and following."""
    await streams.create("s", json_create())
    await streams.append("s", json_append(b"1", b"2"))
    async with await streams.read("s", "-1") as reader:
        first = await reader.next()
        assert (first.data, first.up_to_date) == (b"1,2", True)
        waiting = asyncio.ensure_future(reader.next(LONG_S))
        await streams.append("s", json_append(b"3"))
        batch = await waiting
        offsets = [await offset_at(streams, "s", n) for n in (2, 3)]
        assert ([batch.offset, batch.next_offset], batch.data) == (offsets, b"3")


async def test_readers_of_one_stream_share_each_batch(streams: Streams) -> None:
    """A batch is encoded once for all readers."""
    await streams.create("s", json_create())
    readers = [await streams.read("s", "now") for _ in range(3)]
    waiting = [asyncio.ensure_future(reader.next(LONG_S)) for reader in readers]
    await asyncio.sleep(0)
    await streams.append("s", json_append(b"1"))
    batches = await asyncio.gather(*waiting)
    assert batches[0] is batches[1] is batches[2]
    for reader in readers:
        await reader.aclose()


async def test_a_slow_reader_loses_nothing(streams: Streams) -> None:
    """However far behind it is, it gets every message once."""
    await streams.create("s", json_create())
    async with await streams.read("s", "-1") as reader:
        assert (await reader.next()).data == b""
        big = b'"' + b"x" * 100_000 + b'"'
        for n in range(20):
            await streams.append("s", json_append(b"%d" % n, big))
        got: list[bytes] = []
        while len(got) < 40:
            batch = await reader.next(LONG_S)
            got += [part for part in batch.data.split(b",") if part]
        assert got == [part for n in range(20) for part in (b"%d" % n, big)]


async def test_a_closed_stream_ends_its_readers(streams: Streams) -> None:
    """A waiting reader is told of the close at once. Appends are refused with the final offset."""
    await streams.create("s", json_create())
    async with await streams.read("s", "now") as reader:
        waiting = asyncio.ensure_future(reader.next(LONG_S))
        await asyncio.sleep(0)
        await streams.append("s", json_append(b"1", close=True))
        batch = await waiting
        assert (batch.data, batch.closed) == (b"1", True)
        assert (await reader.next(LONG_S)).closed
    with pytest.raises(StreamClosed) as refused:
        await streams.append("s", json_append(b"2"))
    assert refused.value.next_offset == await offset_at(streams, "s", 1)
    assert (await streams.append("s", Append(close=True))).closed


async def test_a_deleted_stream_ends_its_readers(streams: Streams) -> None:
    """A waiting reader is told, even if another stream takes the path at once."""
    await streams.create("s", json_create())
    reader = await streams.read("s", "now")
    waiting = asyncio.ensure_future(reader.next(LONG_S))
    await asyncio.sleep(0)
    await asyncio.gather(streams.delete("s"), streams.create("s", json_create()))
    with pytest.raises(NotFound):
        await waiting
    await reader.aclose()
    assert await read_all(streams, "s") == b""


async def test_an_absent_stream_reads_as_empty_and_goes_live(streams: Streams) -> None:
    """A reader that came before the stream gets its first message. Reading creates nothing."""
    async with await streams.read("s", "-1", absent=JSON) as reader:
        first = await reader.next()
        assert (first.data, first.up_to_date, first.next_offset) == (b"", True, ZERO)
        waiting = asyncio.ensure_future(reader.next(LONG_S))
        await asyncio.sleep(0)
        with pytest.raises(NotFound):
            await streams.head("s")
        await streams.create("s", json_create())
        await streams.append("s", json_append(b"1"))
        assert (await waiting).data == b"1"


async def test_offsets_past_the_end_are_refused(streams: Streams) -> None:
    """The stream never returned such an offset."""
    await streams.create("s", json_create())
    with pytest.raises(InvalidRequest):
        await streams.read("s", encode_offset(FIRST_LIFE, 1))
    for bad in ("", "0", "-2", "x" * 33, ZERO + "0"):
        with pytest.raises(InvalidRequest):
            await streams.read("s", bad)


async def test_producers_are_idempotent_and_fenced(streams: Streams) -> None:
    """A repeated number adds nothing. A gap or an old epoch is refused."""
    await streams.create("s", json_create())
    one = json_append(b"1", producer=Producer("p", 0, 0))
    assert not (await streams.append("s", one)).duplicate
    again = await streams.append("s", one)
    assert again.duplicate and again.next_offset == await offset_at(streams, "s", 1)
    with pytest.raises(SequenceGap):
        await streams.append("s", json_append(b"3", producer=Producer("p", 0, 2)))
    await streams.append("s", json_append(b"2", producer=Producer("p", 1, 0)))
    with pytest.raises(StaleEpoch):
        await streams.append("s", json_append(b"no", producer=Producer("p", 0, 1)))
    assert await read_all(streams, "s") == b"1,2"


async def test_records_change_with_the_append_or_not_at_all(streams: Streams) -> None:
    """If a record has another version, the append is refused too."""
    await streams.create("s", json_create())
    await streams.append("s", json_append(b"1"), [RecordWrite("run", "r", b"a", 0)])
    with pytest.raises(Conflict):
        await streams.append("s", json_append(b"2"), [RecordWrite("run", "r", b"b", 0)])
    assert await read_all(streams, "s") == b"1"
    await streams.append("s", json_append(b"2"), [RecordWrite("run", "r", b"b", 1)])
    record = await streams.record("run", "r")
    assert record is not None
    assert (record.version, record.value) == (2, b"b")
    with pytest.raises(Conflict):
        await streams.write_records([RecordWrite("run", "r", None, 1)])
    assert await read_all(streams, "s") == b"1,2"


async def test_a_fork_keeps_its_sources_bytes(streams: Streams) -> None:
    """This holds through a chain of forks, and after the sources were deleted. They are dropped with the last fork."""
    await streams.create("a", json_create())
    await streams.append("a", json_append(b"1", b"2", b"3"))
    await streams.create("b", Create(fork=Fork("a", await offset_at(streams, "a", 2))))
    await streams.append("b", json_append(b"4"))
    await streams.create("c", Create(fork=Fork("b")))
    await streams.append("c", json_append(b"5"))
    await streams.delete("a")
    await streams.delete("b")
    with pytest.raises(Gone):
        await streams.head("a")
    assert await read_all(streams, "c") == b"1,2,4,5"
    assert await read_all(streams, "c", encode_offset(FIRST_LIFE, 1)) == b"2,4,5"
    await streams.delete("c")
    for path in ("a", "b", "c"):
        with pytest.raises(NotFound):
            await streams.head(path)


async def test_streams_expire(streams: Streams, clock: Clock) -> None:
    """A stream expires when it is not used for its TTL. Reads and writes extend it, a HEAD does not."""
    await streams.create("s", json_create(ttl_s=10))
    clock.ms += 9_000
    await read_all(streams, "s")
    clock.ms += 9_000
    assert (await streams.head("s")).ttl_s == 10
    clock.ms += 1_000
    with pytest.raises(NotFound):
        await streams.head("s")
    await streams.create("s", json_create())


async def test_the_sweep_deletes_what_is_due_and_spares_what_was_read(streams: Streams, clock: Clock) -> None:
    """The sweep needs no request."""
    await streams.create("old", json_create(ttl_s=10))
    await streams.create("read", json_create(ttl_s=10))
    clock.ms += 9_000
    await read_all(streams, "read")
    clock.ms += 1_000
    assert await streams.expiry.expire_due(100) == 2
    assert await streams.expiry.expire_due(100) == 0
    await streams.head("read")


async def test_a_stream_that_is_read_does_not_expire(streams: Streams, clock: Clock) -> None:
    """
    While a live reader is there, the stream does not expire (PROTOCOL.md 5.1). The TTL starts when the reader has left.
    """
    await streams.create("s", json_create(ttl_s=10))
    reader = await streams.read("s", "now")
    for _ in range(3):
        clock.ms += 9_900
        await streams.head("s")
        clock.ms += 9_900
        assert await streams.expiry.expire_due(100) == 1
        assert await streams.expiry.expire_due(100) == 0  # the sweep does not come upon it again and again
    clock.ms += 11_000
    await reader.aclose()
    clock.ms += 9_900
    await streams.head("s")
    clock.ms += 200
    with pytest.raises(NotFound):
        await streams.head("s")


async def test_a_reader_of_what_may_be_absent_starts_over(streams: Streams) -> None:
    """
    When its stream is deleted, it is at the beginning of an empty stream, and continues with the next one at that path.
    """
    await streams.create("s", json_create())
    await streams.append("s", json_append(b"1", b"2"))
    told: list[str] = []
    streams.on_drop.append(told.append)
    async with await streams.read("s", "now", absent=JSON) as reader, await streams.read("s", "now") as other:
        await streams.delete("s")
        assert told == ["s"]
        nothing = await reader.next()
        assert (nothing.data, nothing.next_offset, nothing.up_to_date) == (b"", ZERO, True)
        with pytest.raises(NotFound):
            await other.next()
        await streams.create("s", json_create())
        await streams.append("s", json_append(b"3"))
        assert (await reader.next()).data == b"3"
    with pytest.raises(OffsetGone):
        await streams.read("s", encode_offset(FIRST_LIFE, 1), absent=JSON)


async def test_what_is_not_durable_is_not_visible() -> None:
    """Readers, metadata and refusals show only durable state."""
    backend = GatedBackend()
    streams = Streams(backend)
    await streams.open()
    await streams.create("s", json_create())
    reader = await streams.read("s", "-1")
    backend.hold()
    append = asyncio.ensure_future(streams.append("s", json_append(b"1", close=True)))
    refused = asyncio.ensure_future(streams.append("s", json_append(b"2")))
    created = asyncio.ensure_future(streams.create("new", json_create()))
    found = asyncio.ensure_future(streams.create("new", json_create()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in (append, refused, created, found))
    assert (await reader.next()).data == b""
    assert (await streams.head("s")).next_offset == ZERO
    backend.gate.set()
    assert (await append).closed
    with pytest.raises(StreamClosed):
        await refused
    assert (await created).existed is False
    assert (await found).existed is True
    assert (await reader.next()).data == b"1"
    await reader.aclose()
    await streams.close()


async def test_writers_share_a_flush() -> None:
    """All writes that arrive during a flush are in the next one."""
    backend = GatedBackend()
    streams = Streams(backend)
    await streams.open()
    await streams.create("s", json_create())
    backend.hold()
    first = asyncio.ensure_future(streams.append("s", json_append(b"0")))
    await backend.asked.wait()
    rest = [asyncio.ensure_future(streams.append("s", json_append(b"%d" % n))) for n in range(1, 100)]
    await asyncio.sleep(0)
    backend.gate.set()
    await asyncio.gather(first, *rest)
    assert backend.batches[-2:] == [1, 99]
    await streams.close()


async def test_a_failed_flush_ends_writing_and_nothing_acknowledged_is_lost() -> None:
    """A retry would succeed, but is not made. Writers get 503, and readers see what was durable."""
    backend = FailingBackend(fails_at=3)
    streams = Streams(backend)
    await streams.open()
    await streams.create("s", json_create())
    await streams.append("s", json_append(b"1"))
    with pytest.raises(StoreFailed):
        await streams.append("s", json_append(b"2"))
    for _ in range(3):
        with pytest.raises(StoreFailed):
            await streams.append("s", json_append(b"3"))
    with pytest.raises(StoreFailed):
        await streams.create("new", json_create())
    assert backend.flushes == 3
    assert await read_all(streams, "s") == b"1"
    assert streams.failure is not None


async def test_a_writer_that_leaves_takes_nothing_with_it() -> None:
    """A cancelled append that was decided is carried out, and the next one follows it."""
    backend = GatedBackend()
    streams = Streams(backend)
    await streams.open()
    await streams.create("s", json_create())
    backend.hold()
    leaving = asyncio.ensure_future(streams.append("s", json_append(b"1")))
    await backend.asked.wait()
    leaving.cancel()
    backend.gate.set()
    await streams.append("s", json_append(b"2"))
    assert await read_all(streams, "s") == b"1,2"
    await streams.close()


async def test_a_reader_that_is_cancelled_leaves_no_trace(streams: Streams) -> None:
    """It is removed from the tail, and other readers continue."""
    await streams.create("s", json_create())
    reader: Reader = await streams.read("s", "now")
    waiting = asyncio.ensure_future(reader.next(LONG_S))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await streams.append("s", json_append(b"1"))
    assert (await reader.next(LONG_S)).data == b"1"
    await reader.aclose()


async def test_a_closing_store_writes_what_it_took() -> None:
    """It writes all accepted data, and accepts no more."""
    backend = GatedBackend()
    streams = Streams(backend)
    await streams.open()
    await streams.create("s", json_create())
    backend.hold()
    append = asyncio.ensure_future(streams.append("s", json_append(b"1")))
    await backend.asked.wait()
    closing = asyncio.ensure_future(streams.close())
    for _ in range(10):  # it has nothing to wait for until it comes to the gate
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await streams.append("s", json_append(b"2"))
    backend.gate.set()
    await append
    await closing


async def test_a_binary_stream_counts_bytes(streams: Streams) -> None:
    """A read begins at the append that holds its position (see test_boundaries.py)."""
    await streams.create("s", Create("application/octet-stream"))
    await streams.append("s", Append(Payload(b"abc"), "application/octet-stream"))
    await streams.append("s", Append(Payload(b"def"), "application/octet-stream"))
    assert (await streams.head("s")).next_offset == encode_offset(FIRST_LIFE, 6)
    async with await streams.read("s", encode_offset(FIRST_LIFE, 4)) as reader:
        assert (await reader.next()).data == b"def"


async def test_a_bug_in_a_backend_leaves_nobody_waiting() -> None:
    """Whatever a flush raises, its writers and all later ones get an error."""

    class Broken(MemoryBackend):
        async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
            raise ZeroDivisionError

    streams = Streams(Broken())
    await streams.open()
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await streams.create("s", json_create())
    assert streams.failure is not None
    await streams.close()
