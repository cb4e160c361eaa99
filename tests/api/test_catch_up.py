"""Compacted catch-up: the first read of a new tab, on every store."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from durable_chat.protocol.offsets import BEGINNING, ZERO
from durable_chat.transcripts.codec import LARGE_BYTES
from durable_chat.transcripts.message_cache import BLOCK_BYTES
from tests.sessions.serving import Chat, ended, script, serve_chat, texts, types, user


async def catch_up(chat: Chat, offset: str | None = BEGINNING, **headers: str) -> httpx.Response:
    query = {"id": "s"} | ({} if offset is None else {"offset": offset})
    return await chat.client.get("/api/chat-stream", params=query, headers=headers)


async def assert_same_pair(chat: Chat, answer: httpx.Response) -> list[dict[str, Any]]:
    """Check that the read has the messages and the offset of /api/chat-snapshot, and return the messages."""
    (chunk,) = answer.json()
    snapshot = await chat.snapshot("s")
    assert chunk == {"type": "MESSAGES_SNAPSHOT", "messages": snapshot["messages"]}
    assert answer.headers["stream-next-offset"] == snapshot["offset"]
    assert answer.headers["stream-up-to-date"] == "true"
    assert all(isinstance(message["metadata"], dict) for message in snapshot["messages"])
    messages: list[dict[str, Any]] = snapshot["messages"]
    return messages


async def test_a_session_is_one_snapshot(any_store_url: str) -> None:
    """
    Without an offset, or from -1, a read returns the messages and the offset to continue from, not cacheable by
    shared caches.
    """
    async with serve_chat(script(), url=any_store_url) as chat:
        await chat.post("s", user("hi"), mode="await")
        for offset in (None, BEGINNING):
            answer = await catch_up(chat, offset)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "private, no-cache"
            assert answer.headers["vary"] == "Authorization, Cookie, Origin"
            assert [message["role"] for message in await assert_same_pair(chat, answer)] == ["user", "assistant"]
        rest = await catch_up(chat, answer.headers["stream-next-offset"])
        assert (rest.json(), rest.headers["stream-up-to-date"]) == ([], "true")


async def test_with_live_and_from_elsewhere_it_is_chunks(any_store_url: str) -> None:
    """A live read from the beginning, and a read from any other offset, return the log's chunks."""
    async with serve_chat(script(), url=any_store_url) as chat:
        await chat.post("s", user("hi"), mode="await")
        query = {"id": "s", "offset": BEGINNING, "live": "long-poll"}
        raw = (await chat.client.get("/api/chat-stream", params=query)).json()
        assert types(raw)[:4] == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_STARTED"]
        now = await catch_up(chat, "now")
        assert (now.json(), now.headers["stream-up-to-date"]) == ([], "true")
        if any_store_url.startswith(("memory", "sqlite")):  # a remote has its own offsets
            assert await chat.chunks("s", ZERO) == raw


async def test_in_the_middle_of_a_run_it_ends_before_it(any_store_url: str) -> None:
    """While a run is active, the offset is just before its RUN_STARTED, so that the whole run is replayed."""
    model = script(go=False)
    async with serve_chat(model, url=any_store_url) as chat:
        await chat.post("s", user("hi"))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
        answer = await catch_up(chat)
        assert [message["role"] for message in await assert_same_pair(chat, answer)] == ["user"]
        rest = await catch_up(chat, answer.headers["stream-next-offset"])
        assert types(rest.json())[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
        model.go.set()
        await chat.until("s", ended())
        assert texts({"messages": (await catch_up(chat)).json()[0]["messages"]})[-1] == ("assistant", "Hello.")


async def test_an_empty_session_has_no_snapshot(any_store_url: str) -> None:
    """A missing or deleted session is an empty list at the first offset, and a read creates nothing."""
    async with serve_chat(script(), url=any_store_url) as chat:
        for _ in range(2):
            answer = await catch_up(chat)
            assert (answer.status_code, answer.json()) == (200, [])
            assert answer.headers["stream-up-to-date"] == "true"
            assert answer.headers["stream-next-offset"] == ZERO
            await chat.post("s", user("hi"), mode="await")
            assert (await catch_up(chat)).json() != []
            await chat.client.delete("/api/chat?id=s")


async def test_what_has_not_changed_is_not_sent_again(any_store_url: str) -> None:
    """The entity tag stays valid until something is appended, and then changes even if the messages do not."""
    async with serve_chat(script(), url=any_store_url) as chat:
        await chat.post("s", user("hi"), mode="await")
        first = await catch_up(chat)
        same = await catch_up(chat, **{"if-none-match": first.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["stream-next-offset"] == first.headers["stream-next-offset"]
        assistant = {**user("Hello.", "a1"), "role": "assistant"}
        await chat.post("s", user("hi"), assistant, mode="await")  # an empty run: the same messages at a later offset
        later = await catch_up(chat, **{"if-none-match": first.headers["etag"]})
        assert (later.status_code, later.json()) == (200, first.json())
        assert later.headers["stream-next-offset"] > first.headers["stream-next-offset"]


async def test_a_long_session_goes_out_in_blocks() -> None:
    """A body of many blocks is the same JSON, and has a Content-Length."""
    text = "x" * (BLOCK_BYTES // 2)
    count = 2 * LARGE_BYTES // len(text)
    history = [{**user(text, f"m{n}"), "role": ("user", "assistant")[n % 2]} for n in range(count)]
    async with serve_chat(script()) as chat:
        await chat.post("s", *history, user("hi"), mode="await")
        answer = await catch_up(chat)
        assert len(await assert_same_pair(chat, answer)) == count + 2
        assert int(answer.headers["content-length"]) == len(answer.content)


async def test_what_is_kept_of_a_long_session_is_what_it_holds_now() -> None:
    """
    A cached long session gives the same body and tag on each read, and the current messages after a turn or a
    deletion.
    """
    history = [{**user("x" * LARGE_BYTES, f"m{n}"), "role": ("user", "assistant")[n % 2]} for n in range(2)]
    async with serve_chat(script()) as chat:
        for _ in range(2):
            await chat.post("s", *history, user("hi"), mode="await")
            first, again = await catch_up(chat), await catch_up(chat)
            assert (first.content, first.headers["etag"]) == (again.content, again.headers["etag"])
            assert len(await assert_same_pair(chat, first)) == 4
            await chat.post("s", user("and now?", "m9"), mode="await")
            later = await catch_up(chat)
            assert later.headers["etag"] != first.headers["etag"]
            assert [message["id"] for message in await assert_same_pair(chat, later)][4] == "m9"
            await chat.client.delete("/api/chat?id=s")
            assert (await catch_up(chat)).json() == []


@pytest.mark.parametrize(
    ("query", "code"),
    [("offset=-1&offset=-1", "bad_offset"), ("offset=", "bad_offset"), ("offset=-1&live=no", "bad_live")],
)
async def test_what_is_no_read_is_refused(any_store_url: str, query: str, code: str) -> None:
    """An invalid query is refused as for every other read."""
    async with serve_chat(script(), url=any_store_url) as chat:
        answer = await chat.client.get(f"/api/chat-stream?id=s&{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, code)
