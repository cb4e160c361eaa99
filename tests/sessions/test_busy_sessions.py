"""What every kind of request means to a busy session, with each of the three settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from durable_chat.models.agents import Agent
from durable_chat.models.base import ToolSpec, Turn, last_user_text
from durable_chat.models.tools import Tool, Tools, make_tool
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Append
from durable_chat.transcripts.chunks import encode_chunk
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, serve_chat, types, user
from tests.sessions.test_approvals import parts_of, with_output, with_word

Message = dict[str, Any]


class Holding:
    """
    A model that calls the tools its user names, and waits when the user says `hold`. Mutable state: `turns`, the turns
    it received; `held`, whether it waits; `go`, which lets it continue; `saved`, how often its tool ran.
    """

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        self.saved = 0

    async def save(self) -> str:
        self.saved += 1
        return "saved"

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.turns.append(turn)
        words = last_user_text(turn).split() if turn.messages[-1]["role"] == "user" else []
        yield "Well."
        for name in [word for word in words if word in ("save", "locate")]:
            yield {"type": "TOOL_CALL_START", "toolCallId": f"c-{name}", "toolCallName": name}
            yield {"type": "TOOL_CALL_END", "toolCallId": f"c-{name}"}
            if "hold" in words:  # it asks by itself, and goes on
                approval = {"id": f"approval_c-{name}", "needsApproval": True}
                value = {"toolCallId": f"c-{name}", "toolName": name, "input": {}, "approval": approval}
                yield {"type": "CUSTOM", "name": "approval-requested", "value": value}
        if "hold" in words:
            self.held.set()
            await self.go.wait()
        elif "save" in words or "locate" in words:
            yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}

    def agent(self) -> Agent:
        return Agent(self, Tools([make_tool(self.save, needs_approval=True), Tool(ToolSpec("locate"))]))


ONE, TWO = user("save and locate", "u1"), user("hold", "u2")
SAME, WAITS, REFUSED, INTERRUPTS = "the run that is active", "waits", "refused", "interrupts"
TURN = {"queue": WAITS, "refuse": REFUSED, "interrupt": INTERRUPTS}
REQUESTS: dict[str, dict[str, str]] = {
    "the same message": dict.fromkeys(TURN, SAME),
    "the same message, edited": dict.fromkeys(TURN, SAME),
    "its key": dict.fromkeys(TURN, SAME),
    "a late answer": dict.fromkeys(TURN, SAME),
    "nothing new": dict.fromkeys(TURN, SAME),
    "an answer": dict.fromkeys(TURN, WAITS),
    "a new message": TURN,
    "an answer with a new message": TURN,
    "an older message again": TURN,
    "an older message, edited": TURN,
}


def request(kind: str, before: Message) -> list[Message]:
    """The body of a tab that shows the messages `before`."""
    bodies: dict[str, Callable[[], list[Message]]] = {
        "the same message": lambda: [TWO],
        "the same message, edited": lambda: [user("hold on", "u2")],
        "its key": lambda: [user("something else", "u9")],
        "a late answer": lambda: with_output(before, "c-locate", "elsewhere"),
        "nothing new": lambda: list(before["messages"]),
        "an answer": lambda: with_word(before, "c-save", True),
        "a new message": lambda: [user("three", "u3")],
        "an answer with a new message": lambda: [*with_word(before, "c-save", True), user("three", "u3")],
        "an older message again": lambda: [ONE],
        "an older message, edited": lambda: [user("never mind", "u1")],
    }
    return bodies[kind]()


@asynccontextmanager
async def busy(turns: str) -> AsyncIterator[tuple[Chat, Holding, Message, str]]:
    """
    A session with an open question and an answered one, whose second message is being answered. Return the id of that
    run.
    """
    model = Holding()
    async with serve_chat(model.agent(), turns=turns) as chat:
        await chat.post("s", ONE, mode="await")
        await chat.post("s", *with_output(await chat.snapshot("s"), "c-locate", "here"), mode="await")
        before = await chat.snapshot("s")
        body = {"messages": [TWO]}
        answer = await chat.client.post("/api/chat?id=s", json=body, headers={"Idempotency-Key": "k"})
        await asyncio.wait_for(model.held.wait(), ANSWER_MAX_S)
        await chat.until("s", lambda chunks: chunks[-1:] != [] and chunks[-1].get("delta") == "Well.")
        yield chat, model, before, answer.headers["x-run-id"]


@pytest.mark.parametrize("turns", TURN)
@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_to_a_busy_session(kind: str, turns: str) -> None:
    """
    A repeated message is the same run, and answers wait, with every setting. New turns wait, are refused, or interrupt.
    """
    expected = REQUESTS[kind][turns]
    async with busy(turns) as (chat, model, before, active):
        headers = {"Idempotency-Key": "k"} if kind == "its key" else {}
        log = await chat.chunks("s")
        body = {"messages": request(kind, before)}
        answer = await chat.client.post("/api/chat?id=s", json=body, headers=headers)
        if expected is REFUSED:
            assert (answer.status_code, answer.json()["code"]) == (409, "run_active")
        else:
            assert answer.status_code == 202
            assert (answer.headers["x-run-id"] == active) == (expected is SAME)
        if expected in (SAME, REFUSED):
            assert await chat.chunks("s") == log, "nothing is written"
        model.go.set()
        chunks = await chat.until("s", ended(3 if expected in (SAME, REFUSED) else 4))
        first = next(c for c in chunks if c["type"] == "RUN_FINISHED" and c["runId"] == active)
        assert bool(first["metadata"]["tanstack"].get("stopped")) == (expected is INTERRUPTS)
        users = [message["id"] for message in (await chat.snapshot("s"))["messages"] if message["role"] == "user"]
        wanted = ["u1", "u2", "u3"] if "new message" in kind else ["u1"] if "older" in kind else ["u1", "u2"]
        assert users == (["u1", "u2"] if expected is REFUSED else wanted)
        assert model.saved == (1 if "an answer" in kind and expected is not REFUSED else 0)


async def test_two_questions_answered_by_two_tabs_at_once() -> None:
    """Both answers count in either order, and the model continues once, after both."""
    model = Holding()
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", ONE, mode="await")
        yes = with_word(await chat.snapshot("s"), "c-save", True)
        here = with_output(await chat.snapshot("s"), "c-locate", "here")
        both = await asyncio.gather(chat.post("s", *yes, mode="await"), chat.post("s", *here, mode="await"))
        assert [answer.status_code for answer in both] == [200, 200]
        assert {part["content"] for part in parts_of(await chat.snapshot("s"), "tool-result")} == {"saved", "here"}
    assert (model.saved, len(model.turns)) == (1, 2)


async def test_an_approval_while_the_run_that_asks_still_writes() -> None:
    """It waits for the end of that run, and the call is then executed once."""
    model = Holding()
    async with serve_chat(model.agent()) as chat:
        asks = user("hold save", "u1")
        await chat.post("s", asks)
        await asyncio.wait_for(model.held.wait(), ANSWER_MAX_S)
        part: Message = {"type": "tool-call", "id": "c-save", "name": "save", "state": "approval-responded"}
        part["approval"] = {"id": "approval_c-save", "needsApproval": True, "approved": True}
        word = [asks, {"id": "m", "role": "assistant", "parts": [part]}]
        runs = {(await chat.post("s", *word)).headers["x-run-id"] for _ in range(2)}
        assert len(runs) == 1
        model.go.set()
        await chat.until("s", ended(2))
        assert parts_of(await chat.snapshot("s"), "tool-call")[0]["output"] == "saved"
    assert (model.saved, len(model.turns)) == (1, 2)


async def test_an_answer_to_a_run_that_died() -> None:
    """The call got an error as its result when the run was ended, so the answer comes too late and starts nothing."""
    model = Holding()
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", user("hello", "u1"), mode="await")
        value = {"toolCallId": "c", "toolName": "locate", "input": {}}
        dead: list[Message] = [
            {"type": "RUN_STARTED", "runId": "run-dead", "threadId": "s"},
            {"type": "TEXT_MESSAGE_START", "messageId": "m-dead", "role": "assistant"},
            {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "locate", "parentMessageId": "m-dead"},
            {"type": "TOOL_CALL_END", "toolCallId": "c"},
            {"type": "CUSTOM", "name": "tool-input-available", "value": value},
        ]
        await chat.store.log.append("chat-s", Append(join_messages([encode_chunk(chunk) for chunk in dead]), JSON))
        part = {"type": "tool-call", "id": "c", "name": "locate", "state": "complete", "output": "here"}
        given = {"id": "m-dead", "role": "assistant", "parts": [part]}
        assert (await chat.post("s", user("hello", "u1"), given, mode="await")).status_code == 200
        chunks = await chat.chunks("s")
        assert [chunk["code"] for chunk in chunks if chunk["type"] == "RUN_ERROR"] == ["interrupted"]
        assert types(chunks)[-3:] == ["MESSAGES_SNAPSHOT", "RUN_STARTED", "RUN_FINISHED"]
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert call["state"] == "error"
    assert len(model.turns) == 1


async def test_an_answer_that_comes_while_the_server_drains(tmp_path: Path) -> None:
    """It is refused, nothing is written, and the next process accepts it."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    model = Holding()
    async with serve_chat(model.agent(), url=url) as chat:
        await chat.post("s", ONE, mode="await")
        snapshot, log = await chat.snapshot("s"), await chat.chunks("s")
        await chat.runs.drain(0)
        refused = await chat.post("s", *with_output(snapshot, "c-locate", "here"))
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        assert await chat.chunks("s") == log
    async with serve_chat(model.agent(), url=url) as chat:
        given = with_output(await chat.snapshot("s"), "c-locate", "here")
        assert (await chat.post("s", *given, mode="await")).status_code == 200
        assert {part["content"] for part in parts_of(await chat.snapshot("s"), "tool-result")} == {"here"}


async def test_a_late_answer_to_a_session_with_turns_that_wait() -> None:
    """The waiting turns release its tab, so no empty run is added."""
    model = Holding()
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", user("locate", "u1"), mode="await")
        given = with_output(await chat.snapshot("s"), "c-locate", "here")
        await chat.post("s", *given, mode="await")
        await chat.post("s", TWO)
        await asyncio.wait_for(model.held.wait(), ANSWER_MAX_S)
        waits = await chat.post("s", user("three", "u3"))
        late = await chat.post("s", *given)
        assert late.headers["x-run-id"] == waits.headers["x-run-id"]
        model.go.set()
        assert types(await chat.until("s", ended(4))).count("RUN_STARTED") == 4


async def test_a_message_again_while_it_waits_behind_another() -> None:
    """It is the waiting turn, also with other text, and the model is called once."""
    model = Holding()
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", user("hold", "u1"))
        await asyncio.wait_for(model.held.wait(), ANSWER_MAX_S)
        runs = {(await chat.post("s", user(text, "u2"))).headers["x-run-id"] for text in ("two", "two", "deux")}
        assert len(runs) == 1
        model.go.set()
        chunks = await chat.until("s", ended(2))
        assert types(chunks).count("RUN_STARTED") == 2
    assert [last_user_text(turn) for turn in model.turns] == ["hold", "two"]


async def test_an_older_message_again_while_others_wait() -> None:
    """The turns are taken in order. What follows the older message is dropped, and later turns stay."""
    model = Holding()
    async with serve_chat(model.agent()) as chat:
        await chat.post("s", user("one", "u1"), mode="await")
        await chat.post("s", TWO)
        await asyncio.wait_for(model.held.wait(), ANSWER_MAX_S)
        for message in (user("three", "u3"), user("uno", "u1"), user("four", "u4")):
            assert (await chat.post("s", message)).status_code == 202
        model.go.set()
        await chat.until("s", ended(5))
        users = [message for message in (await chat.snapshot("s"))["messages"] if message["role"] == "user"]
        assert [(message["id"], message["parts"][0]["content"]) for message in users] == [("u1", "uno"), ("u4", "four")]
    assert [len([m for m in turn.messages if m["role"] == "user"]) for turn in model.turns] == [1, 2, 3, 1, 2]
