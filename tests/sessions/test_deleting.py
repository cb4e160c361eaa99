"""A session is deleted while it is in use: earlier turns are deleted, and later turns are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from durable_chat.models.base import Turn
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, texts, types, user


class Slow:
    """A model that takes time to clean up. `cancelled` is set when it is cancelled, and `go` lets it end."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.turns.append(turn)
        yield "Hel"
        if len(self.turns) > 1:
            return
        try:
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
            await self.go.wait()


def send(chat: Chat, *messages: dict[str, Any], key: str | None = None) -> asyncio.Task[httpx.Response]:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"messages": list(messages)}
    return asyncio.create_task(chat.client.post("/api/chat", params={"id": "s"}, json=body, headers=headers))


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), ANSWER_MAX_S)


async def test_turns_sent_while_the_session_is_deleted_come_after() -> None:
    """Neither they nor their keys are deleted. They are acknowledged, and answered in the new session."""
    model = Slow()
    async with serve_chat(model) as chat:
        await chat.post("s", user("old", "u1"))
        await wait(model.waiting)
        await chat.post("s", user("older", "u2"))
        deletion = asyncio.create_task(chat.client.delete("/api/chat?id=s"))
        await wait(model.cancelled)
        sent = [send(chat, user(f"new {n}", f"n{n}"), key=f"k{n}") for n in range(3)]
        while len(chat.runs.of("s")) < 5:  # noqa: ASYNC110 - runs tell nobody when they join the line
            await asyncio.sleep(0)
        model.go.set()
        answers = await asyncio.gather(deletion, *sent)
        assert [answer.status_code for answer in answers] == [204, 202, 202, 202]
        chunks = await chat.until("s", ended(3))
        assert types(chunks).count("RUN_ERROR") == 0
        shown = texts(await chat.snapshot("s"))
        assert sorted(text for role, text in shown if role == "user") == ["new 0", "new 1", "new 2"]
        assert not any("old" in str(chunk) for chunk in chunks)
        again = await send(chat, user("new 0", "n0"), key="k0")
        assert again.headers["x-run-id"] == answers[1].headers["x-run-id"]
    assert len(model.turns) == 4


async def test_a_turn_that_waits_when_the_session_is_deleted_goes_with_it() -> None:
    """It was sent before the delete. Its sender gets an end, its model is not called, and its key is forgotten."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("one", "u1"))
        await wait(model.waiting)
        waits = asyncio.create_task(chat.post("s", user("two", "u2"), mode="await"))
        await chat.until("s", lambda chunks: "CUSTOM" in types(chunks))
        assert (await chat.client.delete("/api/chat?id=s")).status_code == 204
        assert (await waits).status_code == 200
        assert await chat.chunks("s") == []
        assert len(model.turns) == 1


async def test_a_key_of_a_deleted_session_is_forgotten() -> None:
    """The request is executed again, because the session that begins again is another one."""
    model = script()
    async with serve_chat(model) as chat:
        first = await send(chat, user("hi"), key="k")
        await chat.until("s", ended())
        assert (await send(chat, user("hi"), key="k")).headers["x-run-id"] == first.headers["x-run-id"]
        await chat.client.delete("/api/chat?id=s")
        again = await send(chat, user("hi"), key="k")
        assert again.headers["x-run-id"] != first.headers["x-run-id"]
        await chat.until("s", ended())
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hello.")]
    assert len(model.turns) == 2
