"""Waiting turns: they can be listed, taken back, and sent now."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from durable_chat.errors import Overloaded
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, texts, types, user
from tests.sessions.test_runs import faulty, rules_hold
from tests.sessions.test_steering import Stepping

TAKEN_BACK = "durable-chat.turn-taken-back"


async def listed(chat: Chat) -> list[tuple[str, str]]:
    response = await chat.client.get("/api/chat-turns", params={"id": "s"})
    assert response.status_code == 200, response.text
    return [(turn["messageId"], turn["turns"]) for turn in response.json()["turns"]]


async def take_back(chat: Chat, message_id: str) -> httpx.Response:
    return await chat.client.delete("/api/chat-turns", params={"id": "s", "messageId": message_id})


async def send_now(chat: Chat, message_id: str, **query: str) -> httpx.Response:
    return await chat.client.post("/api/chat-turns", params={"id": "s", "messageId": message_id, **query})


async def test_waiting_turns_are_listed_in_order() -> None:
    """The running turn is none of them."""
    model = Stepping()
    async with serve_chat(model.agent) as chat:
        assert await listed(chat) == []
        await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("two", "u2"))
        await chat.post("s", user("three", "u3"), turns="steer")
        assert await listed(chat) == [("u2", "queue"), ("u3", "steer")]
        model.go.set()
        await chat.until("s", ended(3))
        assert await listed(chat) == []


@pytest.mark.parametrize("turns", ["queue", "steer"])
async def test_a_message_that_is_taken_back_is_in_no_transcript(turns: str) -> None:
    """Every tab sees it go, the model never gets it, and the request that waits for its answer ends."""
    model = Stepping()
    async with serve_chat(model.agent, turns=turns) as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        waits = asyncio.create_task(chat.post("s", user("two", "u2"), mode="await"))
        await chat.until("s", lambda chunks: any(c.get("name") == "durable-chat.turn-queued" for c in chunks))
        [run_id] = (await take_back(chat, "u2")).json()["takenBack"]
        assert (await asyncio.wait_for(waits, ANSWER_MAX_S)).json()["code"] == "run_failed"
        assert (await take_back(chat, "u2")).json() == {"takenBack": []}
        assert await listed(chat) == []
        model.go.set()
        chunks = await chat.until("s", lambda chunks: types(chunks)[-1:] == ["MESSAGES_SNAPSHOT"] and ended()(chunks))
        rules_hold(chunks)
        gone = [chunk["value"] for chunk in chunks if chunk.get("name") == TAKEN_BACK]
        assert gone == [{"runId": run_id, "messageId": "u2"}]
        assert model.asked == [["one"], ["one"]]
        assert [role for role, _ in texts(await chat.snapshot("s"))] == ["user", "assistant", "assistant"]


async def test_a_message_that_was_taken_back_can_be_sent_again() -> None:
    """It is a new turn then. A repetition of the first request, by its key, is not."""
    model = Stepping()
    async with serve_chat(model.agent) as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        body, headers = {"messages": [user("two", "u2")]}, {"idempotency-key": "k"}
        first = await chat.client.post("/api/chat", params={"id": "s"}, json=body, headers=headers)
        await take_back(chat, "u2")
        again = await chat.client.post("/api/chat", params={"id": "s"}, json=body, headers=headers)
        assert again.headers["x-run-id"] == first.headers["x-run-id"]
        assert await listed(chat) == []
        await chat.post("s", user("two", "u2"))
        assert await listed(chat) == [("u2", "queue")]
        model.go.set()
        rules_hold(await chat.until("s", ended(2)))
        assert model.asked == [["one"], ["one"], ["one", "two"]]


async def test_a_turn_that_has_begun_cannot_be_taken_back() -> None:
    """Neither while its answer is written nor after it."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("one", "u1"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        for response in (await take_back(chat, "u1"), await send_now(chat, "u1")):
            assert (response.status_code, response.json()["code"]) == (409, "turn_begun")
        model.go.set()
        await chat.until("s", ended())
        assert (await take_back(chat, "u1")).status_code == 409
        assert (await take_back(chat, "never")).json() == {"takenBack": []}
        unknown = await send_now(chat, "never")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_turn")


async def test_a_message_stays_when_it_could_not_be_taken_back() -> None:
    """A log that refuses the change keeps the turn, which is answered."""
    model = Stepping()
    async with serve_chat(model.agent) as chat:
        log = faulty(chat)
        await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("two", "u2"))
        with chat.runs.sessions.hold("s") as session:
            session._stream._log = log  # noqa: SLF001 - the seam a fault is put into
            log.failing = Overloaded("Full.")
            assert (await take_back(chat, "u2")).status_code == 503
            log.failing = None
        assert await listed(chat) == [("u2", "queue")]
        model.go.set()
        rules_hold(await chat.until("s", ended(2)))
        assert model.asked[-1] == ["one", "two"]


async def test_a_message_sent_now_is_heard_at_the_next_step() -> None:
    """It passes the messages before it. Sent twice, it is said once."""
    model = Stepping()
    async with serve_chat(model.agent) as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("two", "u2"))
        third = await chat.post("s", user("three", "u3"))
        for _ in range(2):
            sent = await send_now(chat, "u3")
            assert sent.json() == {"runId": third.headers["x-run-id"], "turns": "steer"}
        assert await listed(chat) == [("u3", "steer"), ("u2", "queue")]
        model.go.set()
        chunks = await chat.until("s", ended(3))
        rules_hold(chunks)
        assert sum(chunk.get("name") == "durable-chat.turn-advanced" for chunk in chunks) == 1
        assert model.asked == [["one"], ["one", "three"], ["one", "three", "two"]]


async def test_a_message_sent_now_interrupts_if_asked_to() -> None:
    """The running answer is stopped, and the message is answered next."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = await chat.post("s", user("one", "u1"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        await chat.post("s", user("two", "u2"))
        third = await chat.post("s", user("three", "u3"))
        model.go.set()
        model.go = asyncio.Event()
        sent = await send_now(chat, "u3", turns="interrupt")
        assert sent.json()["runId"] == third.headers["x-run-id"]
        chunks = await chat.until("s", lambda chunks: types(chunks).count("RUN_STARTED") == 2)
        started = [chunk["runId"] for chunk in chunks if chunk["type"] == "RUN_STARTED"]
        assert started == [first.headers["x-run-id"], third.headers["x-run-id"]]
        model.go.set()
        rules_hold(await chat.until("s", ended(3)))


REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "no session": ("GET", {}, "bad_id"),
    "no message": ("DELETE", {"id": "s"}, "bad_message"),
    "an empty message": ("POST", {"id": "s", "messageId": ""}, "bad_message"),
    "a message id that is too long": ("DELETE", {"id": "s", "messageId": "x" * 1000}, "bad_message"),
    "another mode": ("POST", {"id": "s", "messageId": "m", "turns": "queue"}, "bad_turns"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_invalid_requests(name: str) -> None:
    """They are refused with a code."""
    method, query, code = REFUSED[name]
    async with serve_chat(script()) as chat:
        response = await chat.client.request(method, "/api/chat-turns", params=query)
        assert (response.status_code, response.json()["code"]) == (400, code)


async def test_each_route_asks_for_its_action() -> None:
    """Listing is reading, taking back is stopping, sending now is sending, and interrupting is both."""
    asked: list[Any] = []

    def authorize(request: Any, session_id: str, action: str) -> bool:
        asked.append(action)
        return True

    async with serve_chat(script(), authorize=authorize) as chat:
        await listed(chat)
        await take_back(chat, "m")
        await send_now(chat, "m")
        await send_now(chat, "m", turns="interrupt")
        assert asked == ["read", "stop", "send", "send", "stop"]
