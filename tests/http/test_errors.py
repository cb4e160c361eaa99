"""An exception of the application becomes one error response. Headers that a response has already are kept."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import durable_chat.metrics as metrics
from durable_chat.errors import Conflict, TooManyRequests
from durable_chat.http.errors import answer

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}


async def run(app: ASGIApp, scope: Scope = SCOPE) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    extra = ((b"vary", b"Origin"), (b"x-content-type-options", b"nosniff"))
    await answer(app, scope, receive, send, extra=extra, routes="test")
    return sent


def raising(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "body", "header"),
    [
        (Conflict("Busy.", code="run_active"), 409, {"error": "Busy.", "code": "run_active"}, None),
        (TooManyRequests("Slower.", retry_after_s=7), 429, {"error": "Slower."}, (b"retry-after", b"7")),
        (HTTPException(404), 404, {"code": "not_found"}, None),
        (HTTPException(405, headers={"Allow": "GET"}), 405, {"code": "method_not_allowed"}, (b"allow", b"GET")),
        (HTTPException(418, "A teapot."), 418, {"error": "A teapot.", "code": "http_error"}, None),
        (RuntimeError("hunter2"), 500, {"code": "internal"}, None),
    ],
)
async def test_raised(error: Exception, status: int, body: dict[str, str], header: tuple[bytes, bytes] | None) -> None:
    """Every exception has its status, one shape of body and its headers. The text of a bug is not in the body."""
    start, rest = await run(raising(error))
    assert start["status"] == status
    told = json.loads(rest["body"])
    assert set(told) == {"error", "code"}
    assert body.items() <= told.items()
    assert "hunter2" not in told["error"]
    assert header is None or header in start["headers"]
    assert (b"x-content-type-options", b"nosniff") in start["headers"]


async def test_bug_is_logged_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the place of a bug, without the query of the request."""
    scope = {**SCOPE, "query_string": b"id=private"}
    with caplog.at_level(logging.ERROR):
        await run(raising(RuntimeError("a bug")), scope)
    assert "a bug" in caplog.text
    assert "/x" in caplog.text
    assert "private" not in caplog.text


async def test_torn_body_is_not_a_whole_one() -> None:
    """An exception after the response has begun reaches the server, which cuts the connection."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise Conflict("Too late.")

    with pytest.raises(Conflict):
        await run(app)


async def test_nobody_to_answer() -> None:
    """A client that disconnects in the middle of its body gets no response, and this is not an error."""
    assert await run(raising(ClientDisconnect())) == []


async def test_headers_are_said_once() -> None:
    """Headers that a response sets itself are kept, and another Vary is added to it."""
    headers = {"Vary": "Cookie", "X-Content-Type-Options": "nosniff"}
    start, _ = await run(Response(b"", headers=headers))
    names = [name for name, _ in start["headers"]]
    assert names.count(b"x-content-type-options") == 1
    assert [value for name, value in start["headers"] if name == b"vary"] == [b"Cookie", b"Origin"]


async def test_counted() -> None:
    """Every response is counted by its status. An unknown method gets no label of its own."""
    label = ("test", "other", "409")
    before = metrics.requests.values.get(label, 0)
    await run(raising(Conflict("Busy.")), {**SCOPE, "method": "BREW"})
    assert metrics.requests.values[label] == before + 1
    assert metrics.responses_open.value == 0
