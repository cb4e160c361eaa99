"""The chat's routes on a real socket, with models that a test can watch and steer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import uvicorn
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from durable_chat.api.access import Authorize
from durable_chat.api.routes import chat_routes
from durable_chat.app import open_any_store
from durable_chat.config.settings import Settings
from durable_chat.http.errors import answer
from durable_chat.http.reads import LiveReads
from durable_chat.http.server.connections import connection_class
from durable_chat.models.base import Model, Turn
from durable_chat.protocol.offsets import BEGINNING, ZERO
from durable_chat.sessions.running.runs import Runs
from durable_chat.store.base import Backend, Store
from durable_chat.store.clocks import unix_ms
from durable_chat.store.commit import QUEUE_WRITES_MAX
from durable_chat.store.streams import Streams

ANSWER_MAX_S = 60.0
"""A wait in these tests that lasts longer has failed."""

SETTINGS = Settings(store="memory://", long_poll_s=5.0, sse_s=30.0, stall_s=30.0, turn_snapshot_max_bytes=0)
"""Turns begin with echoes, as in a long session; test_openings.py has the others."""


@dataclass
class Script:
    """
    A model that a test steers. It yields `before`, sets `waiting`, and continues when `go` is set. `turns` are the
    turns it received, and `closed` counts how often it ended.
    """

    before: list[Any] = field(default_factory=lambda: ["Hel"])
    after: list[Any] = field(default_factory=lambda: ["lo."])
    error: Exception | None = None
    turns: list[Turn] = field(default_factory=list)
    closed: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.turns.append(turn)
        try:
            for item in self.before:
                yield item
            self.waiting.set()
            await self.go.wait()
            if self.error is not None:
                raise self.error
            for item in self.after:
                yield item
        finally:
            self.closed += 1


@dataclass
class Stubborn:
    """
    A model that ignores its cancellation until `go` is set: it yields "a", and `after` then. It sets `waiting` after
    the first, and `asked` counts its answers.
    """

    after: str = ""
    asked: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _turn: Turn) -> AsyncIterator[str]:
        self.asked += 1
        yield "a"
        while not self.go.is_set():
            self.waiting.set()
            with suppress(asyncio.CancelledError):
                await self.go.wait()
        yield self.after


def script(*, go: bool = True, **more: Any) -> Script:
    made = Script(**more)
    if go:
        made.go.set()
    return made


def user(text: str, message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}]}


@dataclass
class Chat:
    """A running chat: its address, a client, and the objects behind it."""

    client: httpx.AsyncClient
    store: Store
    runs: Runs
    model: Model
    live: LiveReads

    async def post(self, session_id: str, *messages: dict[str, Any], **query: str) -> httpx.Response:
        return await self.client.post("/api/chat", params={"id": session_id, **query}, json={"messages": messages})

    async def chunks(self, session_id: str, offset: str = ZERO) -> list[dict[str, Any]]:
        """The session's log, from an offset to its end."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.client.get("/api/chat-stream", params={"id": session_id, "offset": offset})
            assert answer.status_code == 200, answer.text
            found += answer.json()
            if answer.headers.get("stream-up-to-date") == "true":
                return found
            offset = answer.headers["stream-next-offset"]

    async def snapshot(self, session_id: str) -> dict[str, Any]:
        answer = await self.client.get("/api/chat-snapshot", params={"id": session_id})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, session_id: str, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Follow the session until its chunks are as wanted. Return all of them."""
        found: list[dict[str, Any]] = []
        offset = BEGINNING
        async with asyncio.timeout(ANSWER_MAX_S):
            while not wanted(found):
                query = {"id": session_id, "offset": offset, "live": "long-poll"}
                answer = await self.client.get("/api/chat-stream", params=query)
                assert answer.status_code in (200, 204), answer.text
                offset = answer.headers["stream-next-offset"]
                found += answer.json() if answer.status_code == 200 else []
        return found


def types(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk["type"] for chunk in chunks]


def ended(count: int = 1) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda chunks: sum(kind in ("RUN_FINISHED", "RUN_ERROR") for kind in types(chunks)) >= count


def spoken(delta: str = "Hel") -> Callable[[list[dict[str, Any]]], bool]:
    """Wait until the output of the model is in the log, which happens a moment later."""
    return lambda chunks: any(chunk.get("delta") == delta for chunk in chunks)


@asynccontextmanager
async def waiting(chat: Chat, model: Script) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A turn that waits for the rest of its answer. The model continues at the end of the block."""
    task = asyncio.create_task(chat.post("s", user("hi"), mode="await"))
    await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
    await chat.until("s", spoken())
    yield task
    model.go.set()


def texts(snapshot: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (message["role"], "".join(part.get("content", "") for part in message["parts"] if part["type"] == "text"))
        for message in snapshot["messages"]
    ]


@asynccontextmanager
async def serve_chat(
    model: Any,
    *,
    url: str = "memory://",
    cancel_wait_s: float = 5.0,
    stop_wait_s: float = 10.0,
    authorize: Authorize | None = None,
    backend: Backend | None = None,
    now_ms: Callable[[], int] = unix_ms,
    queue_writes_max: int = QUEUE_WRITES_MAX,
    own_connections: bool = False,
    **settings: Any,
) -> AsyncIterator[Chat]:
    """
    Serve the routes on a free port of 127.0.0.1 until the context ends. `backend` is a store with the clock of the
    test, in which streams expire only when the test says so. With `own_connections`, the connections are those of
    `serve`.
    """
    configured = replace(SETTINGS, store=url, **settings)
    store = await open_any_store(configured) if backend is None else await open_on(backend, now_ms, queue_writes_max)
    runs = Runs(store, configured, cancel_wait_s=cancel_wait_s, stop_wait_s=stop_wait_s)
    live = LiveReads(configured.readers_per_session_max)
    choose = model if getattr(model, "chooses", False) else lambda api_key: model
    routes = chat_routes(store, runs, configured, live, choose, authorize)
    router = Router(list(routes))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(router, {"app": None, **scope}, receive, send, extra=(), routes="chat")

    try:
        async with listening(app, own_connections=own_connections) as address:
            async with httpx.AsyncClient(base_url=address, timeout=ANSWER_MAX_S) as client:
                yield Chat(client, store, runs, model, live)
            live.close()
            await runs.drain(0)
    finally:
        await store.close()


async def open_on(backend: Backend, now_ms: Callable[[], int], queue_writes_max: int = QUEUE_WRITES_MAX) -> Store:
    streams = Streams(backend, now_ms, queue_writes_max=queue_writes_max)
    await streams.open()
    return Store(streams, streams, streams.close, lambda: streams.failure, streams.on_drop)


@asynccontextmanager
async def listening(app: Any, *, own_connections: bool = False) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    http = connection_class(lambda _scope, _body, _done: False) if own_connections else "auto"
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=5, http=http)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
