"""Stored snapshots give the same messages faster, and never cause a failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable_chat.errors import Unavailable
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.requests import Create
from durable_chat.sessions.session import Session
from durable_chat.sessions.sessions import Sessions, session_path
from durable_chat.sessions.stored_snapshots import (
    KEPT_MS,
    KIND,
    PART_KIND,
    STORED_EVERY_BYTES,
    STORED_EVERY_SHARE,
    Entry,
    StoredSnapshots,
    decode_entry,
    is_due,
)
from durable_chat.store.base import Record, Records, RecordWrite, Store
from durable_chat.store.opening import open_store
from durable_chat.transcripts.chunks import text_content, text_start, to_message_echo_chunks
from durable_chat.transcripts.codec import encode_chunks
from tests.sessions.serving import Chat, ended, script, serve_chat, texts, user

PATH = session_path("s")
NOISE = random.Random(7)


def noise(chars: int) -> str:
    """Text that compresses badly, so that it takes several parts."""
    return NOISE.randbytes(chars // 2).hex()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made = await open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db")
    yield made
    await made.close()


class WatchedLog:
    """A log that records from where it was read."""

    def __init__(self, store: Store) -> None:
        self._log = store.log
        self.read_from: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(self, path: str, offset: str, *, absent: str | None = None) -> Any:
        self.read_from.append(offset)
        return await self._log.read(path, offset, absent=absent)


class SteeredRecords:
    """Records that call `on_part` before each write of a part."""

    def __init__(self, records: Records, on_part: Any) -> None:
        self._records = records
        self._on_part = on_part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    async def write_records(self, writes: Sequence[RecordWrite]) -> None:
        if writes[0].kind == PART_KIND:
            await self._on_part()
        await self._records.write_records(writes)


def records_of(store: Store) -> Records:
    assert store.records is not None
    return store.records


def session_of(store: Store, records: Any = None) -> tuple[Session, WatchedLog]:
    """A session in a process that has just started."""
    log = WatchedLog(store)
    return Session(log, "s", PATH, None, StoredSnapshots(store.log, records or records_of(store))), log


async def write(session: Session, message_id: str, chars: int = STORED_EVERY_BYTES) -> None:
    """A message in many chunks."""
    chunks = [text_start(message_id, timestamp=1)]
    text = noise(chars)
    chunks += [text_content(message_id, text[at : at + 1000], timestamp=1) for at in range(0, chars, 1000)]
    await session.append(encode_chunks(chunks))


async def stored_session(store: Store, message_id: str = "m1") -> Session:
    session, _ = session_of(store)
    await write(session, message_id)
    await session.snapshot()
    await session.store()
    return session


async def kinds(store: Store) -> dict[str, list[Record]]:
    return {kind: await records_of(store).records(kind) for kind in (KIND, PART_KIND)}


async def entry_of(store: Store) -> Entry:
    (record,) = (await kinds(store))[KIND]
    return decode_entry(record.value)


async def assert_folded_whole(store: Store) -> None:
    """A new process folds the log from its beginning to the same messages."""
    session, log = session_of(store)
    found = await session.snapshot()
    assert log.read_from[0] == BEGINNING
    plain = await Session(store.log, "s", PATH).snapshot()
    assert (found.messages, found.offset) == (plain.messages, plain.offset)


async def test_a_restarted_session_reads_the_stored_snapshot_and_what_came_since(store: Store) -> None:
    """The log is read from the stored offset, and the messages are those of the whole log."""
    before = await (await stored_session(store)).snapshot()
    assert len((await kinds(store))[PART_KIND]) > 1
    other = Session(store.log, "s", PATH)
    await other.append(encode_chunks([text_content("m1", " and more", timestamp=2)]))  # what is open goes on
    await other.append(encode_chunks(to_message_echo_chunks(user("hi"))))
    session, log = session_of(store)
    found = await session.snapshot()
    assert log.read_from == [before.offset]
    assert found.messages == (await other.snapshot()).messages
    assert found.messages[0]["parts"][0]["content"].endswith(" and more")


def test_when_one_is_due() -> None:
    """A snapshot is due after a number of bytes, and after a share of the size of the last one."""
    assert not is_due(STORED_EVERY_BYTES - 1, 0)
    assert is_due(STORED_EVERY_BYTES, 0)
    large = 100 * STORED_EVERY_BYTES
    assert not is_due(STORED_EVERY_BYTES, large)
    assert is_due(int(large * STORED_EVERY_SHARE), large)


async def test_a_session_that_is_not_long_is_not_stored(store: Store) -> None:
    """A short session is not stored, nor is one with few changes since the last time."""
    session, _ = session_of(store)
    await write(session, "m1", 1000)
    await session.snapshot()
    await session.store()
    assert await kinds(store) == {KIND: [], PART_KIND: []}
    await stored_session(store, "m2")
    before = await entry_of(store)
    session, _ = session_of(store)
    await write(session, "m3", 1000)
    await session.store()
    assert await entry_of(store) == before


async def test_the_next_one_takes_the_place_of_the_one_before(store: Store) -> None:
    """Only the parts of the new snapshot exist."""
    session = await stored_session(store)
    first = await entry_of(store)
    await write(session, "m2")
    await session.store()
    second = await entry_of(store)
    assert first.whole and second.whole
    assert second.whole.offset > first.whole.offset
    assert len((await kinds(store))[PART_KIND]) == second.whole.parts
    assert second.draft is None


@pytest.mark.parametrize("what", ["version", "nothing", "part", "damage"])
async def test_one_that_cannot_be_used_is_passed_over(store: Store, what: str) -> None:
    """
    If it has another version, is unreadable, or a part is missing or damaged, the log is folded and a new snapshot is
    stored.
    """
    await stored_session(store)
    found = await kinds(store)
    entry, part = found[KIND][0], found[PART_KIND][-1]
    other = msgspec.json.encode(replace_version(decode_entry(entry.value)))
    change = {
        "version": RecordWrite(KIND, entry.key, other),
        "nothing": RecordWrite(KIND, entry.key, b"[]"),
        "part": RecordWrite(PART_KIND, part.key, None),
        "damage": RecordWrite(PART_KIND, part.key, part.value[::-1]),
    }[what]
    await records_of(store).write_records([change])
    await assert_folded_whole(store)
    session, _ = session_of(store)
    await session.snapshot()
    await session.store()
    again, log = session_of(store)
    await again.snapshot()
    assert log.read_from != [BEGINNING]


def replace_version(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, version=entry.version + 1)


async def test_one_of_a_stream_that_was_replaced_is_passed_over(store: Store) -> None:
    """If the stream was deleted another way and created again, the session is what the new stream says."""
    await stored_session(store)
    await store.log.delete(PATH)
    session, _ = session_of(store)
    assert (await session.snapshot()).messages == []
    await store.log.create(PATH, Create(JSON))
    await write(session, "new")
    await assert_folded_whole(store)


async def test_it_is_deleted_with_the_session(store: Store) -> None:
    """Nothing of the snapshot remains."""
    session = await stored_session(store)
    await session.delete()
    assert await kinds(store) == {KIND: [], PART_KIND: []}


async def test_a_session_deleted_while_it_is_stored_leaves_nothing(store: Store) -> None:
    """The snapshot is deleted, whichever of the two ends first."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await go.wait()

    session, _ = session_of(store, SteeredRecords(records_of(store), hold))
    await write(session, "m1")
    await session.snapshot()
    storing = asyncio.create_task(session.store())
    await reached.wait()
    await session.delete()
    go.set()
    await storing
    assert await kinds(store) == {KIND: [], PART_KIND: []}


async def test_a_crash_while_storing_leaves_the_one_before(store: Store) -> None:
    """The old snapshot is used until the new one is complete. The next one removes leftovers."""
    session = await stored_session(store)
    first = (await entry_of(store)).whole
    left = 1

    async def fail() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Unavailable("The disk is gone.")

    broken, _ = session_of(store, SteeredRecords(records_of(store), fail))
    await write(broken, "m2")
    await broken.snapshot()
    with pytest.raises(Unavailable):
        await broken.store()
    entry = await entry_of(store)
    assert entry.whole == first
    assert entry.draft is not None
    after, log = session_of(store)
    found = await after.snapshot()
    assert first is not None
    assert log.read_from == [first.offset]
    assert [message["id"] for message in found.messages] == ["m1", "m2"]
    await write(after, "m3")
    await after.store()
    entry = await entry_of(store)
    assert entry.whole is not None
    assert len((await kinds(store))[PART_KIND]) == entry.whole.parts
    assert len((await session.snapshot()).messages) == 3


async def test_one_whose_stream_is_gone_is_swept(store: Store) -> None:
    """If the stream expired or was deleted another way, the snapshot is deleted when it is due. Others stay."""
    await stored_session(store)
    stored = StoredSnapshots(store.log, records_of(store))
    (record,) = (await kinds(store))[KIND]
    assert record.due_ms is not None
    await stored.sweep(record.due_ms)
    (kept,) = (await kinds(store))[KIND]
    assert kept.due_ms is not None
    await store.log.delete(PATH)
    await stored.sweep(kept.due_ms - KEPT_MS - 1)
    assert len((await kinds(store))[KIND]) == 1
    await stored.sweep(kept.due_ms)
    assert await kinds(store) == {KIND: [], PART_KIND: []}


async def test_a_snapshot_in_the_middle_of_a_run_is_from_before_it(store: Store) -> None:
    """After a restart, the run is folded from its beginning."""
    session, _ = session_of(store)
    await write(session, "m1")
    before = await session.snapshot()
    session.active = "run-1"
    await write(session, "m2", 1000)
    await session.store()
    entry = await entry_of(store)
    assert entry.whole is not None
    assert entry.whole.offset == before.offset


async def test_whoever_makes_one_due_does_not_wait_for_it(store: Store) -> None:
    """It is stored in the background. Closing waits for it, and nothing is stored afterwards."""
    sessions = Sessions(store.log, records=records_of(store))
    await write(Session(store.log, "s", PATH), "m1")
    with sessions.hold("s") as session:
        await session.snapshot()
    await sessions.close()
    first = await entry_of(store)
    assert first.whole is not None
    with sessions.hold("s") as session:
        await write(session, "m2")
        await session.snapshot()
    await sessions.close()
    assert await entry_of(store) == first


async def test_one_that_cannot_be_stored_harms_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged, and the session continues."""

    async def fail() -> None:
        raise Unavailable("The disk is behind.", code="overloaded")

    sessions = Sessions(store.log, records=SteeredRecords(records_of(store), fail))
    await write(Session(store.log, "s", PATH), "m1")
    with sessions.hold("s") as session:
        await session.snapshot()
    await sessions.close()
    assert "overloaded" in caplog.text
    with sessions.hold("s") as session:
        assert len((await session.snapshot()).messages) == 1


async def answer_long(chat: Chat) -> None:
    await chat.post("s", user("hi"), mode="await")
    await chat.until("s", ended())


async def test_a_long_answer_is_stored_at_the_end_of_its_run(tmp_path: Path) -> None:
    """It is stored without a request. It exists after a restart, and is deleted with the session."""
    url = f"sqlite:///{tmp_path}/chat.db"
    text = noise(STORED_EVERY_BYTES)
    async with serve_chat(script(before=[text], after=[]), url=url) as chat:
        await answer_long(chat)
    async with serve_chat(script(), url=url) as chat:
        assert chat.store.records is not None
        assert len(await chat.store.records.records(KIND)) == 1
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", text)]
        await chat.post("s", user("more", "u2"), mode="await")
        assert texts(await chat.snapshot("s"))[2:] == [("user", "more"), ("assistant", "Hello.")]
        await chat.client.delete("/api/chat?id=s")
        assert await chat.store.records.records(KIND) == []
        assert await chat.store.records.records(PART_KIND) == []


async def test_a_store_without_records_has_none(store: Store) -> None:
    """On a remote store no snapshot is stored or searched."""
    async with serve_chat(script(before=[noise(STORED_EVERY_BYTES)], after=[])) as chat:
        bare = Sessions(replace(chat.store, records=None).log)
        assert bare.stored is None
        await answer_long(chat)
        with bare.hold("s") as session:
            assert not session.is_due
            assert len((await session.snapshot()).messages) == 2
