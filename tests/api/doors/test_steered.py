"""Steered and withdrawn turns as every door answers them: each response is one run, whole and valid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_chat.models.base import Turn
from tests.api.doors.agui_rules import check_rules
from tests.api.doors.answers import ask, run_input, said
from tests.api.doors.test_ai_sdk import body, events
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, serve_chat, texts


class Hearing:
    """It says "First.", and once `go` is set, it hears what was sent and says "Second."."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        yield "First."
        await self.go.wait()
        if await turn.heard() is not None:
            yield "Second."


async def first_said(chat: Chat) -> None:
    await chat.until("s", lambda chunks: any(chunk.get("delta") == "First." for chunk in chunks))


async def waits(chat: Chat) -> None:
    await chat.until("s", lambda chunks: any(chunk.get("name") == "durable-chat.turn-queued" for chunk in chunks))


def deltas(chunks: list[dict[str, Any]]) -> str:
    return "".join(str(chunk.get("delta", "")) for chunk in chunks)


@pytest.mark.parametrize("path", ["/api/agui", "/api/chat", "/api/chat/ndjson"])
async def test_request_scoped_answers(any_store_url: str, path: str) -> None:
    """The response of the answer ends where it hears the message, and that of the message has the rest."""
    model = Hearing()
    async with serve_chat(model, url=any_store_url, turns="steer") as chat:
        one = asyncio.create_task(ask(chat, run_input(said("one"), run="r1"), path))
        await first_said(chat)
        two = asyncio.create_task(ask(chat, run_input(said("two", "u2"), run="r2"), path))
        await waits(chat)
        model.go.set()
        answers = [[one.chunk for one in await asyncio.wait_for(task, ANSWER_MAX_S)] for task in (one, two)]
        assert [deltas(answer) for answer in answers] == ["First.", "Second."]
        for answer in answers:
            if path == "/api/agui":
                check_rules(answer, modern=False)
            assert answer[-1]["type"] == "RUN_FINISHED"
        assert texts(await chat.snapshot("s")) == [
            ("user", "one"),
            ("assistant", "First."),
            ("user", "two"),
            ("assistant", "Second."),
        ]


async def test_the_ai_sdk(any_store_url: str) -> None:
    """Each of its messages is the one that the snapshot has."""
    model = Hearing()
    async with serve_chat(model, url=any_store_url, turns="steer") as chat:
        one = asyncio.create_task(chat.client.post("/api/ai-sdk", json=body(said_by_sdk("one", "u1"))))
        await first_said(chat)
        two = asyncio.create_task(chat.client.post("/api/ai-sdk", json=body(said_by_sdk("two", "u2"))))
        await waits(chat)
        model.go.set()
        answers = [events(await asyncio.wait_for(task, ANSWER_MAX_S)) for task in (one, two)]
        assert [deltas(answer) for answer in answers] == ["First.", "Second."]
        ids = [message["id"] for message in (await chat.snapshot("s"))["messages"]]
        assert [answer[0]["messageId"] for answer in answers] == [ids[1], ids[3]]
        assert [answer[-1]["type"] for answer in answers] == ["finish", "finish"]


@pytest.mark.parametrize("path", ["/api/agui", "/api/chat", "/api/ai-sdk"])
async def test_the_response_of_a_message_that_is_taken_back(any_store_url: str, path: str) -> None:
    """It ends at once, as a run that was stopped; the one of the running answer goes on."""
    model = Hearing()
    async with serve_chat(model, url=any_store_url) as chat:
        one = asyncio.create_task(ask(chat, run_input(said("one"), run="r1"), "/api/agui"))
        await first_said(chat)
        if path == "/api/ai-sdk":
            waiting = asyncio.create_task(chat.client.post(path, json=body(said_by_sdk("two", "u2"))))
        else:
            asked = asyncio.create_task(ask(chat, run_input(said("two", "u2"), run="r2"), path))
        await waits(chat)
        taken = await chat.client.delete("/api/chat-turns", params={"id": "s", "messageId": "u2"})
        assert len(taken.json()["takenBack"]) == 1
        if path == "/api/ai-sdk":
            response = await asyncio.wait_for(waiting, ANSWER_MAX_S)
            assert [chunk["type"] for chunk in events(response)][-1] in ("finish", "abort")
        else:
            chunks = [one.chunk for one in await asyncio.wait_for(asked, ANSWER_MAX_S)]
            kinds = [chunk["type"] for chunk in chunks if chunk["type"] != "CUSTOM"]
            assert kinds == ["RUN_STARTED", "RUN_FINISHED"]
            if path == "/api/agui":
                check_rules(chunks, modern=False)
        model.go.set()
        assert deltas([sent.chunk for sent in await asyncio.wait_for(one, ANSWER_MAX_S)]) == "First."
        await chat.until("s", ended())
        assert texts(await chat.snapshot("s")) == [("user", "one"), ("assistant", "First.")]


def said_by_sdk(text: str, message_id: str) -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}
