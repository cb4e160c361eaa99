"""
Answers in a frontend's format without a session: begin, end, failure, waiting, and stop when the client disconnects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from ag_ui.core import EventType, TextMessageContentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from durable_chat import (
    DurableChat,
    DurableStreamTarget,
    ProviderError,
    Settings,
    Turn,
    to_http_response,
    to_server_sent_events_response,
)
from durable_chat.api import wire_responses
from tests.sessions.serving import listening, user

SECRET = "sk-0123456789abcdef"
Answer = Callable[[Request], Any]

both_ways = pytest.mark.parametrize("own_connections", [True, False], ids=["serve", "uvicorn"])


@asynccontextmanager
async def served(answer: Answer, *, own_connections: bool = False) -> AsyncIterator[str]:
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with listening(app, own_connections=own_connections) as address:
        yield address


async def lines_of(source: Any, **options: Any) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """Return the response and its chunks, as NDJSON."""

    async def answer(_request: Request) -> Response:
        return await to_http_response(source(), **options)

    async with served(answer) as address, httpx.AsyncClient() as client:
        response = await client.get(address)
    return response, [json.loads(line) for line in response.text.splitlines() if line]


def kinds(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk["type"] for chunk in chunks]


async def test_text_is_a_whole_run() -> None:
    """A source of text gives a complete run that clients fold to a message, with the given names."""

    async def source() -> AsyncIterator[Any]:
        yield "Hel"
        yield TextMessageContentEvent(type=EventType.TEXT_MESSAGE_CONTENT, message_id="m", delta="lo")
        yield {"type": "CUSTOM", "name": "mine", "value": None}

    response, chunks = await lines_of(source, run_id="r1", thread_id="t1")
    assert response.headers["content-type"] == "application/x-ndjson"
    assert kinds(chunks) == [
        *("RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "CUSTOM"),
        *("TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]
    assert (chunks[0]["runId"], chunks[0]["threadId"], chunks[-1]["runId"]) == ("r1", "t1", "r1")
    assert chunks[4]["value"] is None
    assert len({chunk["messageId"] for chunk in chunks if "messageId" in chunk}) == 1


async def test_events() -> None:
    """The same chunks come as server-sent events, one line each, with the application's headers."""

    async def answer(_request: Request) -> Response:
        return await to_server_sent_events_response(["Hi"], headers={"cache-control": "no-store", "X-Own": "1"})

    async with served(answer) as address, httpx.AsyncClient() as client:
        response = await client.get(address)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["cache-control"], response.headers["x-own"]) == ("no-store", "1")
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: {") and "\n" not in event for event in events)
    assert kinds([json.loads(event[6:]) for event in events])[-1] == "RUN_FINISHED"


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (OSError(f"GET https://host/?key={SECRET}"), "The model failed to answer.", "model_failed"),
        (ProviderError("The provider is busy.", "busy"), "The provider is busy.", "busy"),
        (ProviderError(f"{SECRET} is wrong", "key"), "The model failed to answer.", "key"),
        (asyncio.CancelledError(), "The model failed to answer.", "model_failed"),
    ],
)
async def test_a_source_that_fails(
    error: BaseException, message: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    When a source fails, the earlier chunks stay, the last chunk has a safe message, and the log has the details
    without the secret.
    """

    async def source() -> AsyncIterator[Any]:
        yield "Hel"
        yield {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look"}
        yield {"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": f"found {SECRET}"}
        raise error

    response, chunks = await lines_of(source, secrets=[SECRET])
    assert response.status_code == 200
    assert "".join(chunk.get("delta", "") for chunk in chunks) == "Hel"
    assert (chunks[-1]["type"], chunks[-1]["message"], chunks[-1]["code"]) == ("RUN_ERROR", message, code)
    assert SECRET not in response.text + caplog.text
    assert "the source of a response failed" in caplog.text


async def test_what_is_no_chunk_fails() -> None:
    """
    An invalid item is an error that tells the developer what is wrong, and a source that is not iterable is refused
    at once.
    """
    _, chunks = await lines_of(lambda: ["a", object()])
    assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "invalid_chunk")
    with pytest.raises(TypeError, match="returned None"):
        await to_http_response(None)  # type: ignore[arg-type]


@both_ways
async def test_a_client_that_leaves(own_connections: bool, caplog: pytest.LogCaptureFixture) -> None:
    """When the client disconnects, the source is closed at once, and nothing is logged."""
    closed = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        try:
            yield "Hel"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def answer(_request: Request) -> Response:
        return await to_server_sent_events_response(source())

    async with (
        served(answer, own_connections=own_connections) as address,
        httpx.AsyncClient() as client,
        client.stream("GET", address) as response,
    ):
        async for line in response.aiter_lines():
            if "Hel" in line:
                break
        await response.aclose()
        await asyncio.wait_for(closed.wait(), 20)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@both_ways
async def test_a_slow_client(own_connections: bool) -> None:
    """The source waits while its client does not read, and continues when it does."""
    made = 0

    async def source() -> AsyncIterator[str]:
        nonlocal made
        while made < 2000:
            made += 1
            yield "x" * 10_000

    async def answer(_request: Request) -> Response:
        return await to_http_response(source())

    async with served(answer, own_connections=own_connections) as address:
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port)) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            before = -1
            while before != made or made == 0:  # the source is waiting
                before = made
                await asyncio.sleep(0.5)
            assert made < 2000
            while await loop.sock_recv(sock, 1 << 20):
                pass
    assert made == 2000


async def test_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the source is silent, the response sends what clients ignore."""
    monkeypatch.setattr(wire_responses, "PING_S", 0.05)
    pinged = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        await pinged.wait()
        yield "Hi"

    async def answer(request: Request) -> Response:
        wire = to_http_response if "lines" in request.url.path else to_server_sent_events_response
        return await wire(source())

    async with served(answer) as address, httpx.AsyncClient() as client:
        for path, ping in (("/lines", "\n"), ("/events", ": ping\n\n")):
            pinged.clear()
            async with client.stream("GET", address + path) as response:
                text = ""
                async for piece in response.aiter_text():
                    text += piece
                    if text.count(ping) > 3:
                        pinged.set()
            assert "RUN_FINISHED" in text
            assert text.replace(ping, "").count(ping.strip() or "\n\n") == 0


async def test_head_asks_for_nothing() -> None:
    """A HEAD request gets the headers, and the source is closed without being read."""
    asked: list[str] = []

    async def source() -> AsyncIterator[str]:
        asked.append("asked")
        yield "Hi"

    async def answer(_request: Request) -> Response:
        return await to_http_response(source())

    async with served(answer) as address, httpx.AsyncClient() as client:
        response = await client.head(address)
    assert (response.status_code, response.content, asked) == (200, b"", [])


@pytest.mark.parametrize("path", ["/own", "/remote"])
async def test_a_session_gives_its_answer(path: str) -> None:
    """A running answer, here or on another server, comes from beginning to end. Without one the response is empty."""
    going = asyncio.Event()
    chat = DurableChat("memory://", settings=Settings(), protocol=True)

    @chat.model
    async def model(_turn: Turn) -> AsyncIterator[str]:
        yield "Hel"
        await going.wait()
        yield "lo"

    async def answer(request: Request) -> Response:
        target = DurableStreamTarget(f"{chats}/v1/stream/chat-s")
        return await to_http_response(target if request.url.path == "/remote" else chat.session("s"))

    async with chat.lifespan(), listening(chat.app) as chats, served(answer) as address, httpx.AsyncClient() as client:
        assert (await client.get(address + path)).status_code == 204
        sent = await client.post(f"{chats}/api/chat?id=s", json={"messages": [user("hi", "u1")]})
        assert sent.status_code == 202
        text = ""
        async with client.stream("GET", address + path) as response:
            async for piece in response.aiter_text():
                text += piece
                if "Hel" in text:
                    going.set()
        chunks = [json.loads(line) for line in text.splitlines() if line]
        assert (chunks[0]["type"], chunks[-1]["type"]) == ("RUN_STARTED", "RUN_FINISHED")
        assert "".join(chunk.get("delta", "") for chunk in chunks) == "Hello"
        assert (await client.get(address + path)).status_code == 204


async def test_a_bad_target_is_answered() -> None:
    """An invalid target gets an error response, as from the other functions."""
    response = await to_http_response(DurableStreamTarget("ftp://host/stream"))
    assert response.status_code == 400
    assert json.loads(bytes(response.body))["code"] == "bad_stream_url"
