"""
Many sessions on one connection: `GET /api/events` on a real socket, on the server's own HTTP connections and on
uvicorn's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from starlette.requests import Request

from benchmarks.measures import undisturbed
from durable_chat.api.events import SESSIONS_MAX, SESSIONS_POSTED_MAX, Events, Part
from durable_chat.http.tokens import LEEWAY_S, issue
from durable_chat.protocol.events import EventDecoder
from durable_chat.protocol.messages import parse_payload
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.requests import Append, Create
from durable_chat.store.readers import StreamReader
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, user

SECRET = "a-secret-of-the-tests-long-enough"

both_ways = pytest.mark.parametrize("own_connections", [True, False], ids=["serve", "uvicorn"])


class Told:
    """The content of an event stream. Mutable state: all of it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.offsets: dict[str, str] = {}
        self.over = False

    def take(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))
        if "offset" in data:
            self.offsets[data["session"]] = data["offset"]

    def chunks(self, session_id: str) -> list[dict[str, Any]]:
        found = [data["chunks"] for name, data in self.events if name == "chunks" and data["session"] == session_id]
        return [chunk for chunks in found for chunk in chunks]

    def refusals(self) -> dict[str, dict[str, Any]]:
        return {data["session"]: data for name, data in self.events if name == "refusal"}


class Stream:
    """An open event stream that a task reads."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.told = Told()
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        decoder = EventDecoder()
        async for part in self.answer.aiter_bytes():
            for event in decoder.feed(part):
                self.told.take(event.name, json.loads(event.data))
            self._news.set()
        self.told.over = True
        self._news.set()

    async def until(self, wanted: Callable[[Told], bool]) -> Told:
        async with asyncio.timeout(ANSWER_MAX_S):
            while not wanted(self.told):
                self._news.clear()
                await self._news.wait()
                if self._task.done():
                    self._task.result()
        return self.told

    async def close(self) -> None:
        self._task.cancel()


def query_of(sessions: dict[str, str]) -> str:
    return urlencode([("session", f"{offset},{session_id}") for session_id, offset in sessions.items()])


@asynccontextmanager
async def following(chat: Chat, headers: dict[str, str] | None = None, **sessions: str) -> AsyncIterator[Stream]:
    async with follow_all(chat, sessions, headers) as stream:
        yield stream


@asynccontextmanager
async def follow_all(
    chat: Chat, sessions: dict[str, str], headers: dict[str, str] | None = None
) -> AsyncIterator[Stream]:
    async with chat.client.stream("GET", f"/api/events?{query_of(sessions)}", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream"
        stream = Stream(answer)
        try:
            yield stream
        finally:
            await stream.close()


async def append(chat: Chat, session_id: str, *texts: str) -> None:
    """Append a program's own chunks to a session."""
    path = chat.runs.sessions.path_of(session_id)
    await chat.store.log.create(path, Create("application/json"))
    body = json.dumps([{"type": "CUSTOM", "name": "said", "value": text} for text in texts]).encode()
    await chat.store.log.append(path, Append(parse_payload("application/json", body), "application/json"))


def values(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk["value"] for chunk in chunks]


@both_ways
async def test_two_sessions_interleaved(own_connections: bool, any_store_url: str) -> None:
    """Two concurrent answers arrive on one response, each complete, in order and with its own offsets."""
    model = script(go=False)
    odd = 'ä, "b"&c=/%2F'
    async with serve_chat(model, url=any_store_url, own_connections=own_connections) as chat:
        async with follow_all(chat, {"a": BEGINNING, odd: BEGINNING}) as stream:
            await stream.until(lambda told: told.offsets.keys() == {"a", odd})
            await asyncio.gather(chat.post("a", user("one")), chat.post(odd, user("two")))
            model.go.set()
            told = await stream.until(lambda told: all(ended()(told.chunks(name)) for name in ("a", odd)))
            for name in ("a", odd):
                assert told.chunks(name) == await chat.chunks(name)
            assert told.chunks("a") != told.chunks(odd)
            last = {data["session"]: data for _, data in told.events}
            assert all(data["upToDate"] for data in last.values())


@both_ways
async def test_resumed_by_offsets(own_connections: bool, any_store_url: str) -> None:
    """A reader that is cut off after any event resumes with its offsets, without missing or doubled events."""
    async with serve_chat(script(), url=any_store_url, own_connections=own_connections) as chat:
        offsets = {"a": BEGINNING, "b": BEGINNING}
        found: dict[str, list[str]] = {"a": [], "b": []}
        for turn in range(6):
            async with follow_all(chat, offsets) as stream:
                await append(chat, "a", f"a{turn}", f"a{turn}+")
                await append(chat, "b", f"b{turn}")
                one = "ab"[turn % 2]
                await stream.until(lambda told, one=one: bool(told.chunks(one)))  # type: ignore[misc]
                told = stream.told
                for name in "ab":
                    found[name] += values(told.chunks(name))
                offsets |= told.offsets
        async with follow_all(chat, offsets) as stream:
            told = await stream.until(
                lambda told: all(data.get("upToDate") for _, data in told.events[-2:]) and len(told.offsets) == 2
            )
            for name in "ab":
                found[name] += values(told.chunks(name))
        assert found["a"] == [f"a{turn}{end}" for turn in range(6) for end in ("", "+")]
        assert found["b"] == [f"b{turn}" for turn in range(6)]


@both_ways
async def test_created_later_and_deleted(own_connections: bool) -> None:
    """
    A session that does not exist yet goes live when it is created. A deleted one begins again, and others notice
    nothing.
    """
    async with serve_chat(script(), own_connections=own_connections) as chat:
        async with following(chat, a=BEGINNING, b=BEGINNING) as stream:
            told = await stream.until(lambda told: len(told.offsets) == 2)
            assert told.chunks("a") == []
            beginning = told.offsets["a"]
            await chat.post("a", user("hi"))
            await stream.until(lambda told: ended()(told.chunks("a")))
            assert told.offsets["a"] > beginning
            before = len(told.events)
            assert (await chat.client.delete("/api/chat", params={"id": "a"})).status_code == 204
            await stream.until(lambda told: len(told.events) > before)
            assert [data["session"] for _, data in told.events[before:]] == ["a"]
            await append(chat, "a", "afresh")
            await append(chat, "b", "as ever")
            await stream.until(lambda told: bool(told.chunks("b")) and "afresh" in str(told.events[before:]))
            assert values(told.chunks("b")) == ["as ever"]
            assert not told.over


@both_ways
async def test_closed(own_connections: bool) -> None:
    """A closed session reports it with its last chunks. The response ends when no session is left to follow."""
    async with serve_chat(script(), own_connections=own_connections) as chat:
        await append(chat, "a", "first")
        async with following(chat, a=BEGINNING) as stream:
            await stream.until(lambda told: bool(told.chunks("a")))
            body = parse_payload("application/json", b'[{"type":"CUSTOM","name":"said","value":"last"}]')
            path = chat.runs.sessions.path_of("a")
            await chat.store.log.append(path, Append(body, "application/json", close=True))
            told = await stream.until(lambda told: told.over)
            assert values(told.chunks("a")) == ["first", "last"]
            assert told.events[-1][1]["closed"] is True


def bearer(session_id: str, ttl_s: int = 60, ago_s: float = 0) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(SECRET, session_id, ['read'], now_s=time.time() - ago_s, ttl_s=ttl_s)}"}


@both_ways
async def test_a_token_for_one(own_connections: bool) -> None:
    """A session that the token does not cover is refused by name and sends nothing. The other one continues."""
    async with serve_chat(script(), own_connections=own_connections, token_secret=SECRET) as chat:
        await append(chat, "b", "not for you")
        async with following(chat, bearer("a"), a=BEGINNING, b=BEGINNING) as stream:
            told = await stream.until(lambda told: "b" in told.refusals() and "a" in told.offsets)
            assert told.refusals()["b"]["status"] == 403
            await append(chat, "a", "for you")
            await stream.until(lambda told: bool(told.chunks("a")))
            assert "not for you" not in str(told.events)
        refused = await chat.client.get("/api/events?session=-1,a")
        assert (refused.status_code, refused.json()["code"]) == (401, "missing_token")


@both_ways
async def test_a_token_ends(own_connections: bool) -> None:
    """When the token expires, the session's part ends with the reason."""
    async with serve_chat(script(), own_connections=own_connections, token_secret=SECRET) as chat:
        async with following(chat, bearer("a", ttl_s=60, ago_s=60 + LEEWAY_S - 2), a=BEGINNING) as stream:
            told = await stream.until(lambda told: told.over)
            assert told.refusals()["a"]["code"] == "expired_token"


async def test_a_hook_for_each() -> None:
    """The application's hook is called for each session and decides each separately."""
    asked = []

    async def authorize(_request: Request, session_id: str, action: str) -> bool:
        asked.append((session_id, action))
        return session_id != "b"

    async with serve_chat(script(), authorize=authorize) as chat:
        async with following(chat, a=BEGINNING, b=BEGINNING, c=BEGINNING) as stream:
            told = await stream.until(lambda told: len(told.offsets) == 2 and bool(told.refusals()))
            assert told.offsets.keys() == {"a", "c"} and told.refusals()["b"]["code"] == "forbidden"
            assert sorted(asked) == [(name, "read") for name in "abc"]


async def test_limits() -> None:
    """A request for too many sessions is refused with the limit. A session with too many readers is refused alone."""
    async with serve_chat(script(), readers_per_session_max=1) as chat:
        many = {f"s{number}": BEGINNING for number in range(SESSIONS_MAX + 1)}
        refused = await chat.client.get(f"/api/events?{query_of(many)}")
        assert (refused.status_code, refused.json()["code"]) == (400, "too_many_sessions")
        del many["s0"]
        async with follow_all(chat, many) as stream:
            told = await stream.until(lambda told: len(told.offsets) == SESSIONS_MAX)
            async with following(chat, s1=BEGINNING, s0=BEGINNING) as second:
                told = await second.until(lambda told: bool(told.refusals()) and "s0" in told.offsets)
                assert told.refusals()["s1"] == {
                    "session": "s1",
                    "status": 429,
                    "code": "too_many_readers",
                    "error": "Too many live readers of one stream.",
                    "retryAfter": 5,
                }


@both_ways
async def test_sessions_in_a_body(own_connections: bool) -> None:
    """
    A POST can name more sessions than an address. Each is guarded separately, the events are the same, and there is a
    limit too.
    """
    async with serve_chat(script(), own_connections=own_connections) as chat:
        many = {f"s{number}": BEGINNING for number in range(SESSIONS_POSTED_MAX + 1)}
        refused = await chat.client.post("/api/events", content=query_of(many))
        assert (refused.status_code, refused.json()["code"]) == (400, "too_many_sessions")
        del many["s0"]
        many["s1"] = "nonsense"
        async with chat.client.stream("POST", "/api/events", content=query_of(many)) as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
            stream = Stream(answer)
            told = await stream.until(lambda told: len(told.offsets) == SESSIONS_POSTED_MAX - 1)
            assert told.refusals().keys() == {"s1"}
            await append(chat, "s1000", "hello")
            told = await stream.until(lambda told: bool(told.chunks("s1000")))
            assert values(told.chunks("s1000")) == ["hello"]
            await stream.close()


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "bad_session"),
        ("session=a", "bad_session"),
        ("session=-1,a&session=now,a", "bad_session"),
        ("session=-1,", "bad_id"),
    ],
)
async def test_bad_queries(query: str, code: str) -> None:
    """A query without a session, or with an invalid one, is refused as a whole."""
    async with serve_chat(script()) as chat:
        refused = await chat.client.get(f"/api/events?{query}")
        assert (refused.status_code, refused.json()["code"]) == (400, code)


async def test_a_bad_offset_is_refused_by_itself() -> None:
    """An invalid offset ends only its session's part."""
    async with serve_chat(script()) as chat:
        async with following(chat, a="nonsense", b=BEGINNING) as stream:
            told = await stream.until(lambda told: bool(told.refusals()) and "b" in told.offsets)
            assert told.refusals()["a"]["status"] == 400


@both_ways
async def test_drained(own_connections: bool) -> None:
    """At shutdown the response ends once, cleanly, and no longer counts as open."""
    async with serve_chat(script(), own_connections=own_connections) as chat:
        live = chat.live
        async with following(chat, a=BEGINNING, b=BEGINNING) as stream:
            await stream.until(lambda told: len(told.offsets) == 2)
            assert live.count == 1
            live.close()
            told = await stream.until(lambda told: told.over)
            assert not told.refusals()
            assert live.count == 0
        refused = await chat.client.get("/api/events?session=-1,a")
        assert refused.status_code == 503


@both_ways
async def test_left(own_connections: bool) -> None:
    """A client that disconnects, while sessions open or later, leaves nothing behind."""
    async with serve_chat(script(), own_connections=own_connections, readers_per_session_max=1) as chat:
        async with following(chat, a=BEGINNING, b=BEGINNING) as stream:
            await stream.until(lambda told: len(told.offsets) == 2)
        async with following(chat, a=BEGINNING):
            pass
        async with asyncio.timeout(ANSWER_MAX_S):
            while chat.live.count:  # noqa: ASYNC110 (nobody tells of it)
                await asyncio.sleep(0.01)
        async with following(chat, a=BEGINNING, b=BEGINNING) as stream:
            told = await stream.until(lambda told: len(told.offsets) == 2)
            assert not told.refusals()


def alive() -> Counter[str]:
    kinds = (Events, Part, StreamReader)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in kinds)


async def test_what_has_left_is_freed() -> None:
    """An ended response is freed by reference counting, because the server runs its garbage collector rarely."""
    async with serve_chat(script(), own_connections=True) as chat:
        await append(chat, "a", "first")
        with undisturbed():
            before = alive()
            async with following(chat, a=BEGINNING, b=BEGINNING) as stream:
                await stream.until(lambda told: len(told.offsets) == 2)
                assert alive()["Part"] == before["Part"] + 2
            async with asyncio.timeout(ANSWER_MAX_S):
                while alive() != before:  # noqa: ASYNC110 (nobody tells of it)
                    await asyncio.sleep(0.01)


@both_ways
async def test_a_slow_reader(own_connections: bool) -> None:
    """
    A client that reads nothing costs bounded memory, and gets every session completely and in order when it reads
    again.
    """
    async with serve_chat(script(), own_connections=own_connections, sse_s=600.0) as chat:
        where = urlsplit(str(chat.client.base_url))
        receiver = socket.socket()
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        receiver.connect((where.hostname, where.port))
        receiver.setblocking(False)
        request = f"GET /api/events?{query_of({'a': BEGINNING, 'b': BEGINNING})} HTTP/1.1\r\nHost: x\r\n\r\n"
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(receiver, request.encode())
        text = "x" * 100_000
        for number in range(120):
            await append(chat, "a", f"{number} {text}")
        await append(chat, "b", "behind it")
        told, decoder = Told(), EventDecoder()
        head, rest = b"", b""
        async with asyncio.timeout(ANSWER_MAX_S):
            while b"\r\n\r\n" not in head:
                head += await loop.sock_recv(receiver, 4096)
            head, _, rest = head.partition(b"\r\n\r\n")
            unchunk = Unchunk(b"chunked" in head.lower())
            while len(told.chunks("a")) < 120 or not told.chunks("b"):
                for event in decoder.feed(unchunk.feed(rest)):
                    told.take(event.name, json.loads(event.data))
                rest = await loop.sock_recv(receiver, 1 << 20)
                assert rest
        receiver.close()
        assert [value.split()[0] for value in values(told.chunks("a"))] == [str(number) for number in range(120)]
        assert values(told.chunks("b")) == ["behind it"]


class Unchunk:
    """A decoder of a chunked body."""

    def __init__(self, chunked: bool) -> None:
        self.chunked = chunked
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        if not self.chunked:
            return data
        self.rest += data
        found = []
        while b"\r\n" in self.rest:
            line, _, body = self.rest.partition(b"\r\n")
            size = int(line, 16)
            if len(body) < size + 2:
                break
            found.append(body[:size])
            self.rest = body[size + 2 :]
        return b"".join(found)


async def test_pings() -> None:
    """A silent response sends comments regularly, so that it does not look dead."""
    async with serve_chat(script(), sse_ping_s=0.05) as chat:
        async with chat.client.stream("GET", "/api/events?session=-1,a") as answer:
            async with asyncio.timeout(ANSWER_MAX_S):
                text = ""
                async for part in answer.aiter_text():
                    text += part
                    if text.count(": ping\n\n") >= 2:
                        break
        assert 'event: control\ndata:{"session":"a"' in text
