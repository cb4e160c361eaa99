"""The end of a session: deleted by a person or another client, or expired; and what keeps it alive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable_chat.errors import NotFound
from durable_chat.protocol.offsets import ZERO
from durable_chat.sessions import stored_snapshots
from durable_chat.sessions.expiry import session_of
from durable_chat.sessions.recovering import leases
from durable_chat.sessions.running import idempotency
from durable_chat.sessions.sessions import session_path
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.streams import Streams
from tests.conftest import Serve
from tests.lines import alines_of
from tests.sessions.serving import ANSWER_MAX_S, Chat, Stubborn, ended, script, serve_chat, texts, types, user
from tests.sessions.test_runs import rules_hold, wait

KINDS = (leases.KIND, idempotency.KIND, stored_snapshots.KIND, stored_snapshots.PART_KIND)
POLL_S = 0.01


class Tab:
    """
    A live read of a session on its own socket, which resumes by its offset when the response has ended cleanly. Mutable
    state: `chunks` and `offset` as received, and the response.
    """

    def __init__(self, chat: Chat, session_id: str, offset: str) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.offset = offset
        self._chat = chat
        self._session_id = session_id
        self._answer: httpx.Response | None = None

    async def open(self) -> None:
        params = {"id": self._session_id, "offset": self.offset, "live": "sse"}
        request = self._chat.client.build_request("GET", "/api/chat-stream", params=params)
        self._answer = await self._chat.client.send(request, stream=True)
        assert self._answer.status_code == 200
        self._lines = alines_of(self._answer)

    async def close(self) -> None:
        if self._answer is not None:
            await self._answer.aclose()

    async def until(self, wanted: Callable[[Tab], bool]) -> None:
        event = ""
        async with asyncio.timeout(ANSWER_MAX_S):
            while not wanted(self):
                line = await anext(self._lines, None)
                if line is None:
                    await self.close()
                    await self.open()
                    continue
                if line.startswith("event:"):
                    event = line.removeprefix("event:").strip()
                elif line.startswith("data:") and event == "data":
                    self.chunks += json.loads(line.removeprefix("data:"))
                elif line.startswith("data:"):
                    self.offset = json.loads(line.removeprefix("data:"))["streamNextOffset"]


@asynccontextmanager
async def tab(chat: Chat, session_id: str = "s", offset: str = "-1") -> AsyncIterator[Tab]:
    opened = Tab(chat, session_id, offset)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def records(chat: Chat, kinds: tuple[str, ...] = KINDS) -> list[str]:
    assert chat.store.records is not None
    return [record.key for kind in kinds for record in await chat.store.records.records(kind)]


async def until(wanted: Callable[[], bool]) -> None:
    """Wait until a condition holds that sends no signal."""
    async with asyncio.timeout(ANSWER_MAX_S):
        while True:
            if wanted():
                return
            await asyncio.sleep(POLL_S)


async def until_nothing_is_left(chat: Chat) -> None:
    async with asyncio.timeout(ANSWER_MAX_S):
        while True:
            if not (await records(chat) or await exists(chat)):
                return
            await asyncio.sleep(POLL_S)


async def exists(chat: Chat) -> bool:
    try:
        await chat.store.log.head("chat-s")
    except NotFound:
        return False
    return True


async def store_snapshot(chat: Chat) -> None:
    """Store a snapshot, as a long session does."""
    stored = chat.runs.sessions.stored
    assert stored is not None
    with chat.runs.sessions.hold("s") as session:
        await session.snapshot()
        head = await chat.store.log.head("chat-s")
        await stored.save(session.path, head.id, session.position, list(session.transcript.lines()))


# Deleted by a person.


@pytest.fixture(params=["memory://", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory://" else f"sqlite:///{tmp_path}/chat.db"


async def test_a_session_is_deleted_in_the_middle(url: str) -> None:
    """
    Its runs are stopped, and waiting requests are answered. Every open tab shows an empty session, and follows the
    session when it begins again.
    """
    model = script(go=False)
    async with serve_chat(model, url=url) as chat, tab(chat) as first, tab(chat) as second:
        sender = asyncio.create_task(chat.post("s", user("one", "u1"), mode="await"))
        await wait(model.waiting)
        await chat.post("s", user("two", "u2"))
        for one in (first, second):
            await one.until(lambda one: any(chunk.get("name") == "durable-chat.turn-queued" for chunk in one.chunks))
        assert (await chat.client.delete("/api/chat?id=s")).status_code == 204
        assert (await sender).status_code == 200
        assert model.closed == 1
        assert len(model.turns) == 1
        for one in (first, second):
            await one.until(lambda one: one.offset == ZERO)
            assert one.chunks[-1]["type"] == "MESSAGES_SNAPSHOT"
            assert one.chunks[-1]["messages"] == []
            rules_hold(one.chunks)
        assert await records(chat) == []
        assert await chat.chunks("s") == []
        model.go.set()
        before = len(first.chunks)
        assert (await chat.post("s", user("anew", "u3"), mode="await")).status_code == 200
        chunks = await chat.until("s", ended())
        for one in (first, second):
            await one.until(lambda one: ended()(one.chunks[before:]))
            assert one.chunks[before:] == chunks
        assert texts(await chat.snapshot("s")) == [("user", "anew"), ("assistant", "Hello.")]


@pytest.mark.parametrize("place", ["embedded", "remote"])
async def test_a_tab_that_comes_back_to_another_session(place: str, serve: Serve) -> None:
    """
    Its offset belongs to the deleted session. It gets the new one from the beginning, in a snapshot, and then what
    follows.
    """
    url = "memory://" if place == "embedded" else f"{serve().url}/v1/stream/service"
    async with serve_chat(script(), url=url) as chat:
        await chat.post("s", user("one", "u1"), mode="await")
        await chat.post("s", user("two", "u2"), mode="await")
        offset = (await chat.snapshot("s"))["offset"]
        await chat.client.delete("/api/chat?id=s")
        async with tab(chat, offset=offset) as early:
            await chat.post("s", user("three", "u3"), mode="await")
            chunks = await chat.chunks("s")
            await early.until(lambda one: ended()(one.chunks))
            assert (early.chunks[0]["type"], early.chunks[0]["messages"]) == ("MESSAGES_SNAPSHOT", [])
            assert early.chunks[1:] == chunks
        shown = (await chat.snapshot("s"))["messages"]
        async with tab(chat, offset=offset) as later:
            await later.until(lambda one: bool(one.chunks))
            (first,) = later.chunks
            assert (first["type"], first["messages"]) == ("MESSAGES_SNAPSHOT", shown)
        params = {"id": "s", "offset": offset, "live": "long-poll"}
        (first,) = (await chat.client.get("/api/chat-stream", params=params)).json()
        assert first["messages"] == shown


async def test_a_long_poll_while_the_session_is_deleted() -> None:
    """It gets the current data, and then an empty session. It never gets an error."""
    async with serve_chat(script(), long_poll_s=0.3) as chat:
        await chat.post("s", user("one", "u1"), mode="await")
        params = {"id": "s", "offset": (await chat.snapshot("s"))["offset"], "live": "long-poll"}
        waiting = asyncio.create_task(chat.client.get("/api/chat-stream", params=params))
        await chat.client.delete("/api/chat?id=s")
        answer = await waiting
        while answer.status_code == 200:
            assert answer.json()[-1]["messages"] == []
            params["offset"] = answer.headers["stream-next-offset"]
            answer = await chat.client.get("/api/chat-stream", params=params)
        assert answer.status_code == 204
        assert answer.headers["stream-next-offset"] == ZERO


async def test_turns_that_come_while_it_is_deleted() -> None:
    """They begin the session again, in whatever order they arrive, and none is lost."""
    async with serve_chat(script()) as chat:
        for number in range(10):
            session_id = f"s{number}"
            await chat.post(session_id, user("old", "u1"), mode="await")
            deleted, posted = await asyncio.gather(
                chat.client.delete(f"/api/chat?id={session_id}"),
                chat.post(session_id, user("new", "u2"), mode="await"),
            )
            assert (deleted.status_code, posted.status_code) == (204, 200)
            rules_hold(await chat.chunks(session_id))
            found = texts(await chat.snapshot(session_id))
            assert found in ([], [("user", "new"), ("assistant", "Hello.")])


async def test_a_turn_that_comes_while_a_run_is_being_stopped() -> None:
    """A turn acknowledged in the deleted session is answered once in the new one."""
    model = Stubborn()
    async with serve_chat(model) as chat:
        await chat.post("s", user("old", "u1"))
        await wait(model.waiting)
        deleting = asyncio.create_task(chat.client.delete("/api/chat?id=s"))
        await until(lambda: all(run.halted for run in chat.runs.of("s")))
        body = {"messages": [user("new", "u2")]}
        posted = await chat.client.post("/api/chat?id=s", json=body, headers={"idempotency-key": "k"})
        assert posted.status_code == 202
        model.go.set()
        assert (await deleting).status_code == 204
        chunks = await chat.until("s", ended())
        rules_hold(chunks)
        assert types(chunks)[-1] == "RUN_FINISHED"
        assert texts(await chat.snapshot("s")) == [("user", "new"), ("assistant", "a")]
        again = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers={"idempotency-key": "k"})
        assert again.headers["x-run-id"] == posted.headers["x-run-id"]
        assert model.asked == 2


# Gone by its time.


async def test_a_session_expires_with_all_that_is_its(url: str) -> None:
    """Its stream, the keys of its requests and its stored snapshot are deleted. It can begin again."""
    async with serve_chat(script(), url=url, session_ttl_s=3) as chat:  # a busy machine needs the time to look
        body = {"messages": [user("hi")]}
        for _ in range(2):
            answer = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers={"idempotency-key": "k"})
            assert answer.status_code == 200
            await store_snapshot(chat)
            assert {key.partition("/")[0] for key in await records(chat)} == {"chat-s"}
            assert len(await records(chat)) == 3
            await until_nothing_is_left(chat)
            assert (await chat.snapshot("s"))["messages"] == []
        assert len(chat.model.turns) == 2  # type: ignore[attr-defined]


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@asynccontextmanager
async def clocked(model: Any, **settings: Any) -> AsyncIterator[tuple[Chat, Clock, Streams]]:
    clock = Clock()
    async with serve_chat(model, backend=MemoryBackend(), now_ms=clock, **settings) as chat:
        assert isinstance(chat.store.log, Streams)
        yield chat, clock, chat.store.log


async def test_a_silent_run_keeps_its_session() -> None:
    """The session does not expire while a model thinks for longer than its TTL."""
    model = script(go=False)
    async with clocked(model, session_ttl_s=1) as (chat, clock, streams):
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        await chat.until("s", lambda chunks: any(chunk.get("delta") == "Hel" for chunk in chunks))
        entry = streams._entries.held("chat-s")  # noqa: SLF001 - whether the stream was used is seen nowhere else
        assert entry is not None
        for _ in range(3):
            clock.now_ms += 600
            await until(lambda: entry.accessed_ms >= clock.now_ms)
            await streams.expiry.expire_due(100)
            assert await exists(chat)
        model.go.set()
        assert types(await chat.until("s", ended()))[-1] == "RUN_FINISHED"
        clock.now_ms += 1001
        await streams.expiry.expire_due(100)
        assert not await exists(chat)


async def test_a_tab_keeps_its_session() -> None:
    """A session does not expire while a tab watches it. The TTL starts when the tab has left."""
    async with clocked(script(), session_ttl_s=60) as (chat, clock, streams):
        await chat.post("s", user("hi"), mode="await")
        async with tab(chat) as one:
            await one.until(lambda one: ended()(one.chunks))
            for _ in range(3):
                clock.now_ms += 50_000
                await streams.expiry.expire_due(100)
                assert await exists(chat)
        entry = streams._entries.held("chat-s")  # noqa: SLF001 - when the server notices that it has left
        assert entry is not None
        await until(lambda: entry.tail.readers == 0)
        clock.now_ms += 59_000
        await streams.expiry.expire_due(100)
        assert await exists(chat)
        clock.now_ms += 2_000
        await streams.expiry.expire_due(100)
        assert not await exists(chat)


async def test_a_session_that_begins_anew_at_once_keeps_what_is_its() -> None:
    """The leftovers of the old session are deleted in the session's turn, and never what the new one has written."""
    async with clocked(script(), session_ttl_s=60) as (chat, clock, streams):
        for number in range(10):
            body = {"messages": [user("hi", f"u{number}")]}
            headers = {"idempotency-key": f"k{number}"}
            expire = asyncio.create_task(streams.expiry.expire_due(100))
            answer = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers=headers)
            assert answer.status_code == 200
            await expire
            again = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers=headers)
            assert again.headers["x-run-id"] == answer.headers["x-run-id"]
            clock.now_ms += 61_000
        assert len(chat.model.turns) == 10  # type: ignore[attr-defined]


@pytest.mark.parametrize("session_id", ["a", "a/b", "%2F", "ä b", "chat-a", "💬"])
def test_a_path_tells_its_session(session_id: str) -> None:
    """A path converts to its session and back. The path of another stream is no session."""
    assert session_of(session_path(session_id)) == session_id


@pytest.mark.parametrize("path", ["a", "chat-", "chat-a b", "chat-%61", "other/chat-a", "chat-a/b"])
def test_other_paths_are_no_sessions(path: str) -> None:
    """Other clients' streams are left alone."""
    assert session_of(path) is None
