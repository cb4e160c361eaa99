"""The public names as a typed application uses them. mypy checks this file in strict mode."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount

from durable_chat import (
    DurableChat,
    DurableStreamTarget,
    Settings,
    Snapshot,
    ToolError,
    Turn,
    durable_stream_proxy,
    materialize_snapshot_from_durable_stream,
    to_durable_chat_session_response,
)

chat = DurableChat("memory://", settings=Settings(model="demo"), page=False)


@chat.model
async def answer(turn: Turn) -> AsyncIterator[str | dict[str, str]]:
    yield turn.session_id
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": turn.run_id, "delta": "!"}


@chat.tool
async def add(first: int, second: int = 1) -> int:
    """Adds two numbers."""
    if first > 100:
        raise ToolError("That is too much.")
    return first + second


@chat.tool(name="who_asks", needs_approval=True, timeout_s=5)
def tell_session(turn: Turn) -> dict[str, str]:
    return {"session": turn.session_id}


chat.client_tool("locate", description="Where the user is.", parameters={"type": "object", "properties": {}})


async def send(request: Request) -> Response:
    target = DurableStreamTarget("https://ds.example/v1/stream/chat-a", headers={"Authorization": "Bearer s"})
    return await to_durable_chat_session_response(
        stream=target, new_messages=[], response_stream=answer(Turn((), "a", "r")), mode="await"
    )


async def follow(request: Request) -> Response:
    return await durable_stream_proxy(request, stream=chat.session("a"))


async def test_snapshot_of_a_session() -> None:
    """A session that does not exist has no messages, and an offset to read from."""
    async with chat.lifespan():
        snapshot: Snapshot = await materialize_snapshot_from_durable_stream(chat.session("a"))
    assert snapshot.messages == []
    assert snapshot.offset


def test_mounts() -> None:
    """Both frameworks accept the chat's lifespan and app."""
    FastAPI(lifespan=chat.lifespan).mount("/", chat.app)
    Starlette(lifespan=chat.lifespan, routes=[Mount("/chat", chat.app)])
    assert chat.model(answer) is answer


async def test_a_tool_is_still_a_function() -> None:
    """A decorated function can still be called. A tool's name is used once."""
    assert await add(1, 2) == 3
    with pytest.raises(ValueError, match="add"):
        chat.tool(add)
