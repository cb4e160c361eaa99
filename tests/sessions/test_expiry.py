"""A live read ends cleanly when its token expires, and a new token resumes it; with an embedded and a remote store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from durable_chat.config.settings import Action
from durable_chat.http.reads import LiveReads
from durable_chat.http.tokens import issue
from durable_chat.protocol.events import EventDecoder
from tests.conftest import Serve
from tests.servers import Server
from tests.sessions.serving import script, serve_chat, user

SECRET = "a-secret-of-the-tests-long-enough"
# An answer of about 4 s, so that a token of 1 s ends in the middle of it.
ANSWER = {"DURABLE_CHAT_DEMO_CHUNKS": "200", "DURABLE_CHAT_DEMO_DELAY_MS": "20"}
# A read that lasts longer than its token has hung.
READ_MAX_S = 30.0


def bearer(*can: Action, ttl_s: int = 600) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(SECRET, 'a', can, now_s=time.time(), ttl_s=ttl_s)}"}


@pytest.fixture(params=["embedded", "remote"])
def guarded(request: pytest.FixtureRequest, serve: Serve) -> Server:
    """A server that requires tokens, with its own store or another server as its store."""
    settings = {**ANSWER, "DURABLE_CHAT_TOKEN_SECRET": SECRET}
    if request.param == "remote":
        settings["DURABLE_CHAT_STORE"] = f"{serve().url}/v1/stream/service"
    return serve(**settings)


@pytest.fixture
def client(guarded: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=READ_MAX_S) as client:
        yield client


def send(client: httpx.Client, message_id: str) -> None:
    answer = client.post("/api/chat?id=a", json={"messages": [user("Hi", message_id)]}, headers=bearer("send"))
    assert answer.status_code == 202, answer.text


class Reader:
    """A client that follows by offset. Mutable state: `offset`, and `chunks`, everything up to it."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.offset = "-1"
        self.chunks: list[dict[str, Any]] = []

    @property
    def ends(self) -> int:
        return sum(chunk["type"] in ("RUN_FINISHED", "RUN_ERROR") for chunk in self.chunks)

    def sse(self, headers: dict[str, str], ends: int | None = None) -> int:
        """Read one response to its end, or until a number of runs have ended. A cut response raises."""
        params = {"id": "a", "offset": self.offset, "live": "sse"}
        with self.client.stream("GET", "/api/chat-stream", params=params, headers=headers) as answer:
            pending: list[dict[str, Any]] = []
            decoder = EventDecoder()
            pieces = answer.iter_bytes() if answer.is_success else iter(())
            for event in (event for piece in pieces for event in decoder.feed(piece)):
                if event.name == "data":
                    pending += json.loads(event.data)
                elif event.name == "control":
                    self.offset = json.loads(event.data)["streamNextOffset"]
                    self.chunks += pending
                    pending = []
                if ends is not None and self.ends >= ends:
                    break
            assert pending == []
            return answer.status_code

    def long_poll(self, headers: dict[str, str]) -> int:
        params = {"id": "a", "offset": self.offset, "live": "long-poll"}
        answer = self.client.get("/api/chat-stream", params=params, headers=headers)
        if answer.is_success:
            self.offset = answer.headers["stream-next-offset"]
            self.chunks += answer.json() if answer.status_code == 200 else []
        return answer.status_code

    def whole(self) -> list[dict[str, Any]]:
        """The whole log, read with a token that does not expire."""
        other = Reader(self.client)
        while other.ends < self.ends:
            assert other.sse(bearer("read"), self.ends) == 200
        return other.chunks


def until_refused(read: Callable[[dict[str, str]], int]) -> set[int]:
    """The responses to a reader with one token until it expires. None if it is already expired."""
    short = bearer("read", ttl_s=1)
    answered = set()
    while (status := read(short)) != 401:
        answered.add(status)
    return answered


def test_sse_in_the_middle_of_an_answer(client: httpx.Client) -> None:
    """The response ends between events, the old token is refused, and with a new one nothing is lost or doubled."""
    reader = Reader(client)
    send(client, "u1")
    while not reader.chunks:
        assert until_refused(reader.sse) <= {200}
    assert reader.ends == 0
    while reader.ends == 0:
        assert reader.sse(bearer("read"), 1) == 200
    assert reader.chunks == reader.whole()


def test_sse_of_a_silent_session(client: httpx.Client) -> None:
    """A response without events ends as well."""
    reader = Reader(client)
    while not (answered := until_refused(reader.sse)):
        continue
    assert answered == {200}
    send(client, "u1")
    while reader.ends == 0:
        assert reader.sse(bearer("read"), 1) == 200
    assert reader.chunks == reader.whole()


def test_long_poll(client: httpx.Client) -> None:
    """A waiting long-poll is answered without data when its token expires, and its offset stays valid."""
    reader = Reader(client)
    send(client, "u1")
    while reader.ends == 0:
        assert reader.long_poll(bearer("read")) in (200, 204)
    offset = reader.offset
    while not (answered := until_refused(reader.long_poll)):
        continue
    assert answered == {204}
    assert reader.offset == offset
    send(client, "u2")
    while reader.ends == 1:
        assert reader.long_poll(bearer("read")) in (200, 204)
    assert reader.chunks == reader.whole()


def test_long_poll_from_now(client: httpx.Client) -> None:
    """A long-poll from `now` ends with the tail at which it waited, or is refused. Its offset never skips data."""
    send(client, "u1")
    reader = Reader(client)
    while reader.ends == 0:
        assert reader.sse(bearer("read"), 1) == 200
    params = {"id": "a", "offset": "now", "live": "long-poll"}
    answer = client.get("/api/chat-stream", params=params, headers=bearer("read", ttl_s=1))
    if answer.status_code == 204:
        assert answer.headers["stream-next-offset"] == reader.offset
    else:
        assert (answer.status_code, answer.json()["code"]) == (401, "expired_token")


async def test_nothing_is_left() -> None:
    """A read that was ended this way is not counted as a reader, and others can read the session."""
    async with serve_chat(script(), token_secret=SECRET, readers_per_session_max=1) as chat:
        params = {"id": "a", "offset": "-1", "live": "sse"}
        async with chat.client.stream(
            "GET", "/api/chat-stream", params=params, headers=bearer("read", ttl_s=1)
        ) as answer:
            assert answer.status_code == 200
            full = await chat.client.get("/api/chat-stream", params=params, headers=bearer("read"))
            assert full.status_code == 429
            async for _ in answer.aiter_bytes():
                continue
        async with chat.client.stream("GET", "/api/chat-stream", params=params, headers=bearer("read")) as answer:
            assert answer.status_code == 200


async def test_until_left_keeps_its_timer_to_itself() -> None:
    """A block that ends in time is not cancelled later. A block that does not is ended without an error."""
    live = LiveReads(1)
    forever = asyncio.Event()

    async def receive() -> Any:
        await forever.wait()

    async with live.until_left("a", receive, 0.0):
        pass
    await asyncio.sleep(0)
    ended = False
    async with live.until_left("a", receive, 0.0):
        try:
            await forever.wait()
        finally:
            ended = True
    assert ended
    assert live.count == 0
