"""A session: its path, the queue of its turns, and messages that follow the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.errors import Conflict, InvalidRequest
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.offsets import ZERO
from durable_chat.protocol.requests import Append, Create
from durable_chat.sessions.session import Line, Session
from durable_chat.sessions.sessions import ID_CHARS_MAX, Sessions, session_path
from durable_chat.store.base import Log
from durable_chat.store.opening import open_store
from durable_chat.transcripts.chunks import encode_chunk, messages_snapshot, to_message_echo_chunks
from durable_chat.transcripts.codec import LARGE_BYTES, decode_chunks, encode_chunks
from tests.sessions.serving import user


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    store = await open_store("memory://")
    yield store.log
    await store.close()


def session_of(log: Log, session_id: str = "s", ttl_s: int | None = None) -> Session:
    return Session(log, session_id, session_path(session_id), ttl_s)


async def say(log: Log, text: str, message_id: str, path: str = "chat-s") -> None:
    """Append a message as a client with the stream's secret does."""
    chunks = to_message_echo_chunks(user(text, message_id))
    await log.append(path, Append(join_messages(encode_chunks(chunks)), JSON))


async def ids(session: Session) -> list[str]:
    return [message["id"] for message in (await session.snapshot()).messages]


@pytest.mark.parametrize(
    ("session_id", "path"),
    [
        ("a", "chat-a"),
        ("a/b", "chat-a%2Fb"),
        ("a%2Fb", "chat-a%252Fb"),
        ("..", "chat-.."),
        ("a b!'()*", "chat-a%20b!'()*"),
        ("ä💬", "chat-%C3%A4%F0%9F%92%AC"),
        ("x" * ID_CHARS_MAX, "chat-" + "x" * ID_CHARS_MAX),
    ],
)
def test_an_id_is_encoded_once_as_javascript_does(session_id: str, path: str) -> None:
    """The path is one segment, and it identifies the session."""
    assert session_path(session_id) == path


@pytest.mark.parametrize("session_id", ["", "x" * (ID_CHARS_MAX + 1), "a\0", "\x1f", "a\x7fb", "\x85", "\ud800"])
def test_what_is_no_id_has_no_path(session_id: str) -> None:
    """Missing ids, long ids and ids with control characters are refused with `bad_id`."""
    with pytest.raises(InvalidRequest) as refused:
        session_path(session_id)
    assert refused.value.code == "bad_id"


@given(one=st.text(max_size=300), other=st.text(max_size=300))
def test_two_ids_have_two_paths(one: str, other: str) -> None:
    """No id leads to another session's stream or to another segment of the path."""
    paths = set()
    for session_id in (one, other):
        try:
            paths.add(session_path(session_id))
        except InvalidRequest:
            return
    assert len(paths) == len({one, other})
    assert not any("/" in path or path in (".", "..") for path in paths)


async def test_a_line_calls_one_at_a_time_in_order() -> None:
    """A ticket is called when the one before it leaves. A ticket that leaves while it waits is never called."""
    line = Line()
    tickets = [line.join() for _ in range(4)]
    assert [ticket.done() for ticket in tickets] == [True, False, False, False]
    line.leave(tickets[1])
    line.leave(tickets[0])
    assert [ticket.done() for ticket in tickets] == [True, False, True, False]
    line.leave(tickets[2])
    line.leave(tickets[3])
    assert len(line) == 0
    assert line.join().done()


async def test_creating_is_idempotent(log: Log) -> None:
    """Two sessions, or two calls at once, find the same stream, even if it was created with another lifetime."""
    one, other = session_of(log), session_of(log, ttl_s=60)
    await asyncio.gather(one.ensure(), one.ensure(), other.ensure())
    assert (await log.head("chat-s")).content_type == JSON


async def test_a_stream_of_another_type_is_no_session(log: Log) -> None:
    """It is refused for reads and writes, and stays unchanged."""
    await log.create("chat-s", Create("text/plain"))
    for attempt in (session_of(log).snapshot(), session_of(log).append([b"{}"])):
        with pytest.raises(Conflict):
            await attempt
    assert (await log.head("chat-s")).next_offset == ZERO


async def test_what_others_append_is_folded_too(log: Log) -> None:
    """Chunks from a client with the stream's secret count. Invalid chunks are skipped."""
    session = session_of(log)
    await session.append(encode_chunks(to_message_echo_chunks(user("one", "u1"))))
    await say(log, "two", "u2")
    await log.append("chat-s", Append(join_messages([b"1", b'"x"', b"[]", b"{}", b'{"type":1}']), JSON))
    await say(log, "three", "u3")
    snapshot = await session.snapshot()
    assert [message["id"] for message in snapshot.messages] == ["u1", "u2", "u3"]
    assert snapshot.offset == (await log.head("chat-s")).next_offset


async def test_a_session_that_was_deleted_reads_as_empty_again(log: Log) -> None:
    """This also holds when another client deleted the stream, and when another stream has taken its path."""
    session = session_of(log)
    await session.append(encode_chunks(to_message_echo_chunks(user("one", "u1"))))
    assert await ids(session) == ["u1"]
    await log.delete("chat-s")
    assert await ids(session) == []
    assert session.offset == ZERO
    await session.append([encode_chunk(messages_snapshot([user("two", "u2")], timestamp=0))])
    assert await ids(session) == ["u2"]
    await log.delete("chat-s")
    await log.create("chat-s", Create(JSON))
    for number in range(10):
        await say(log, "new", f"n{number}")
    assert await ids(session) == [f"n{number}" for number in range(10)]


async def test_a_session_deleted_before_an_append_begins_anew(log: Log) -> None:
    """The append creates the stream again."""
    session = session_of(log)
    await session.append([b'{"type":"x"}'])
    await log.delete("chat-s")
    assert await session.append([b'{"type":"x"}']) > ZERO


async def test_a_closed_session_says_so(log: Log) -> None:
    """An append to a stream that another client closed fails with `session_closed`."""
    session = session_of(log)
    await session.append([b'{"type":"x"}'])
    await log.append("chat-s", Append(close=True))
    with pytest.raises(Conflict) as refused:
        await session.append([b'{"type":"x"}'])
    assert refused.value.code == "session_closed"


async def test_while_a_run_is_active_nothing_moves(log: Log) -> None:
    """The snapshot stays the one from before the run, whatever is appended."""
    session = session_of(log)
    await session.append(encode_chunks(to_message_echo_chunks(user("one", "u1"))))
    before = await session.snapshot()
    session.active = "run-1"
    await say(log, "two", "u2")
    during = await session.snapshot()
    assert (during.messages, during.offset, during.active_run) == (before.messages, before.offset, "run-1")
    session.active = None
    assert await ids(session) == ["u1", "u2"]


async def test_a_long_log_is_folded_in_steps(log: Log) -> None:
    """A log of many batches and large snapshots folds to the right messages."""
    session = session_of(log)
    large = [user("x" * 50_000, f"h{number}") for number in range(40)]
    await session.append(encode_chunks([messages_snapshot(large, timestamp=0)]))
    for number in range(3_000):
        await say(log, "hello", f"u{number}")
    assert await ids(session_of(log)) == [f"h{n}" for n in range(40)] + [f"u{n}" for n in range(3_000)]


def test_a_large_snapshot_decodes_to_what_was_encoded() -> None:
    """Decoding it message by message gives the same result as decoding it at once."""
    chunk: dict[str, Any] = messages_snapshot([user("ü" * 100_000, f"u{n}") for n in range(5)], timestamp=7)
    data = b",".join(encode_chunks([chunk]))
    assert len(data) > LARGE_BYTES
    (decoded,) = decode_chunks(data)
    assert decoded["messages"] == chunk["messages"]


async def test_idle_sessions_are_let_go_at_a_bound(log: Log) -> None:
    """The least recently used sessions are evicted. Sessions in use stay, and an evicted session is loaded again."""
    kept = Sessions(log, idle_max=5)
    with kept.hold("used") as used:
        for number in range(15):
            with kept.hold(f"s{number}") as session:
                session.position = ZERO  # one without a stream is not kept
        with kept.hold("used") as again:
            assert again is used
    with kept.hold("s14") as newest:
        assert newest is session
    await say_first(log)
    with kept.hold("s0") as oldest:
        assert await ids(oldest) == ["u1"]


async def say_first(log: Log) -> None:
    await log.create("chat-s0", Create(JSON))
    await say(log, "one", "u1", "chat-s0")
