"""Request-scoped answers in tests: a turn as AG-UI's clients post it, and the chunks of the response."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.lines import alines_of
from tests.sessions.serving import Chat


def run_input(*messages: dict[str, Any], thread: str = "s", run: str = "client-run", **more: Any) -> dict[str, Any]:
    """Return the body that AG-UI's and TanStack's clients post."""
    body = {"threadId": thread, "runId": run, "state": {}, "messages": list(messages), "tools": [], "context": []}
    return {**body, "forwardedProps": {}, **more}


def said(text: str, message_id: str = "u1") -> dict[str, Any]:
    """Return a user message in AG-UI's form."""
    return {"id": message_id, "role": "user", "content": text}


@dataclass(frozen=True)
class Sent:
    """A chunk of a response, and its id."""

    id: str | None
    chunk: dict[str, Any]


async def sent(answer: httpx.Response) -> AsyncIterator[Sent]:
    """Yield the chunks of an SSE or NDJSON response as they arrive."""
    lines = alines_of(answer)
    if answer.headers["content-type"] == "application/x-ndjson":
        async for line in lines:
            if line:
                value = json.loads(line)
                yield Sent(value["id"], value["chunk"]) if "chunk" in value else Sent(None, value)
        return
    assert answer.headers["content-type"] == "text/event-stream"
    chunk_id: str | None = None
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            chunk_id = value
        elif name == "data":
            yield Sent(chunk_id, json.loads(value))
            chunk_id = None
        else:
            assert line in ("", ": ping"), line


@asynccontextmanager
async def asking(
    chat: Chat, body: dict[str, Any], path: str = "/api/chat", headers: dict[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    async with chat.client.stream("POST", path, json=body, headers=headers) as answer:
        if answer.status_code != 200:
            await answer.aread()
        yield answer


async def ask(
    chat: Chat, body: dict[str, Any], path: str = "/api/chat", headers: dict[str, str] | None = None
) -> list[Sent]:
    """Post the body and return the whole answer."""
    async with asking(chat, body, path, headers) as answer:
        assert answer.status_code == 200, answer.text
        return [one async for one in sent(answer)]
