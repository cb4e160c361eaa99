"""A reader with an offset from before its session was deleted never skips data silently."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from durable_chat.protocol.events import EventDecoder, decode_control
from durable_chat.protocol.offsets import ZERO
from durable_chat.store.sqlite.backend import SqliteBackend
from tests.conftest import Serve
from tests.sessions.serving import Chat, serve_chat, user

READ_MAX_S = 20.0
TEXT = {"Content-Type": "text/plain"}

both_ways = pytest.mark.parametrize("own_connections", [True, False], ids=["serve", "uvicorn"])


async def echo(_turn: Any) -> Any:
    yield "An answer. "
    yield "It has two parts."


async def turn(chat: Chat, text: str, message_id: str) -> None:
    answer = await chat.client.post("/api/chat?id=s&mode=await", json={"messages": [user(text, message_id)]})
    assert answer.status_code == 200, answer.text


async def live_twice(chat: Chat, turns: int) -> str:
    """Return an offset of the first life of the session. The second life is longer, or has no turns."""
    await turn(chat, "old", "u0")
    offset = (await chat.client.get("/api/chat-stream?id=s")).headers["Stream-Next-Offset"]
    assert (await chat.client.delete("/api/chat?id=s")).status_code == 204
    for n in range(turns):
        await turn(chat, f"new {n}", f"n{n}")
    return str(offset)


def texts(chunks: list[dict[str, Any]]) -> list[str]:
    """The texts of the users' messages in the first snapshot."""
    assert chunks[0]["type"] == "MESSAGES_SNAPSHOT"
    messages = [message for message in chunks[0]["messages"] if message["role"] == "user"]
    return [message["parts"][0]["content"] for message in messages]


async def first_events(chat: Chat, offset: str) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """The events of an SSE read up to the tail: chunks, and the offset after them."""
    decoder, told, chunks = EventDecoder(), [], []
    async with (
        asyncio.timeout(READ_MAX_S),
        chat.client.stream("GET", f"/api/chat-stream?id=s&live=sse&offset={offset}") as answer,
    ):
        async for part in answer.aiter_bytes():
            for event in decoder.feed(part):
                if event.name == "data":
                    chunks = json.loads(event.data)
                    continue
                control = decode_control(event.data)
                told.append((chunks, control.stream_next_offset))
                chunks = []
                if control.up_to_date:
                    return iter(told)
    raise AssertionError(told)


@both_ways
@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_an_sse_read_begins_with_a_snapshot(turns: int, own_connections: bool) -> None:
    """
    It holds the whole session, and the read continues after it. An empty session gets one too, so that the tab is
    cleared.
    """
    async with serve_chat(echo, own_connections=own_connections) as chat:
        offset = await live_twice(chat, turns)
        (chunks, after), *rest = await first_events(chat, offset)
        assert texts(chunks) == [f"new {n}" for n in range(turns)]
        assert after == (await chat.client.get("/api/chat-stream?id=s")).headers["Stream-Next-Offset"]
        assert not any(chunks for chunks, _ in rest)


async def test_a_long_poll_gives_a_snapshot_at_once() -> None:
    """It also gives the offset to continue from."""
    async with serve_chat(echo) as chat:
        offset = await live_twice(chat, 2)
        answer = await chat.client.get(f"/api/chat-stream?id=s&live=long-poll&offset={offset}")
        assert texts(answer.json()) == ["new 0", "new 1"]
        after = answer.headers["Stream-Next-Offset"]
        waiting = asyncio.create_task(chat.client.get(f"/api/chat-stream?id=s&live=long-poll&offset={after}"))
        await turn(chat, "later", "n9")
        assert "later" in (await waiting).text


async def test_a_catch_up_is_a_snapshot() -> None:
    """It is the same as for a reader without an offset."""
    async with serve_chat(echo) as chat:
        offset = await live_twice(chat, 2)
        old = await chat.client.get(f"/api/chat-stream?id=s&offset={offset}")
        new = await chat.client.get("/api/chat-stream?id=s")
        assert texts(old.json()) == ["new 0", "new 1"]
        assert (old.json(), old.headers["Stream-Next-Offset"]) == (new.json(), new.headers["Stream-Next-Offset"])


@both_ways
async def test_a_connection_with_many_sessions_does_so_too(own_connections: bool) -> None:
    """`/api/events` sends the snapshot as the session's first event."""
    async with serve_chat(echo, own_connections=own_connections) as chat:
        offset = await live_twice(chat, 2)
        query = {"session": f"{offset},s"}
        async with asyncio.timeout(READ_MAX_S), chat.client.stream("GET", "/api/events", params=query) as answer:
            decoder = EventDecoder()
            async for part in answer.aiter_bytes():
                if events := [json.loads(event.data) for event in decoder.feed(part) if event.name == "chunks"]:
                    assert texts(events[0]["chunks"]) == ["new 0", "new 1"]
                    return
        raise AssertionError("there was no event")


async def test_a_reload_in_the_middle_of_an_answer_sees_it_whole() -> None:
    """The snapshot ends before the active run, and its chunks follow."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(asked: Any) -> Any:
        yield "begun"
        if any("slow" in str(message) for message in asked.messages):
            begun.set()
            await go.wait()

    async with serve_chat(slow) as chat:
        offset = await live_twice(chat, 1)
        await chat.client.post("/api/chat?id=s", json={"messages": [user("slow", "n1")]})
        await asyncio.wait_for(begun.wait(), READ_MAX_S)
        (chunks, _), *rest = await first_events(chat, offset)
        assert texts(chunks)[-1:] == ["slow"]
        assert "RUN_STARTED" in [chunk["type"] for chunks, _ in rest for chunk in chunks]
        go.set()


def test_the_protocol_route_says_that_the_offset_is_gone(serve: Serve) -> None:
    """Every way of reading gets 410, whatever exists at the path now, also after a restart."""
    server = serve()
    with httpx.Client(base_url=server.url) as client:
        client.put("/v1/stream/log", headers=TEXT, content=b"old")
        offset = client.head("/v1/stream/log").headers["Stream-Next-Offset"]
        client.delete("/v1/stream/log")
        client.put("/v1/stream/log", headers=TEXT, content=b"a longer one")
    server.restart()
    with httpx.Client(base_url=server.url) as client:
        for live in ("", "&live=sse", "&live=long-poll"):
            answer = client.get(f"/v1/stream/log?offset={offset}{live}")
            assert (answer.status_code, answer.json()["code"]) == (410, "offset_gone")
        forked = {"Stream-Forked-From": "/v1/stream/log", "Stream-Fork-Offset": offset}
        assert client.put("/v1/stream/fork", headers=forked).json()["code"] == "bad_fork"
        assert client.get(f"/v1/stream/log?offset={ZERO}").content == b"a longer one"
        newer = client.head("/v1/stream/log").headers["Stream-Next-Offset"]
        assert newer > offset


async def test_a_store_that_is_made_anew_does_not_take_the_old_ones_offsets() -> None:
    """Its streams begin at other numbers than those of the deleted store."""
    offsets = []
    for _ in range(2):
        async with serve_chat(echo) as chat:
            await turn(chat, "hello", "u0")
            offsets.append((await chat.client.get("/api/chat-stream?id=s")).headers["Stream-Next-Offset"])
    assert offsets[0].partition("_")[0] < offsets[1].partition("_")[0]


async def compact(path: str) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    await backend.compact()
    await backend.close()


def test_offsets_of_a_database_of_an_earlier_version_stay_as_they_were(serve: Serve) -> None:
    """Its streams have no life of their own: what was given out is still read exactly."""
    server = serve()
    with httpx.Client(base_url=server.url) as client:
        client.put("/v1/stream/log", headers={"Content-Type": "application/json"}, content=b"[1,2,3]")
    server.terminate()
    asyncio.run(compact(str(server.folder / "durable-chat.db")))
    with sqlite3.connect(server.folder / "durable-chat.db") as database:
        assert database.execute("UPDATE streams SET life = 0").rowcount == 1
    database.close()
    server.start()
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/v1/stream/log?offset=0000000000000000_0000000000000002").json() == [3]
        assert client.head("/v1/stream/log").headers["Stream-Next-Offset"] == "0000000000000000_0000000000000003"
