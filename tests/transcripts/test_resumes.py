"""AG-UI's `resume`, which answers an interrupt, and the `runId` of a body, which identifies a request."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.sessions.serving import Chat, script, serve_chat, user
from tests.sessions.test_approvals import Calls, asked, parts_of, runs_in


async def resume(chat: Chat, *answers: Any, messages: list[Any] | None = None, **more: Any) -> httpx.Response:
    body = {"messages": [user("go")] if messages is None else messages, "resume": list(answers), **more}
    return await chat.client.post("/api/chat", params={"id": "s", "mode": "await"}, json=body)


def resolved(interrupt_id: str, payload: Any) -> dict[str, Any]:
    return {"interruptId": interrupt_id, "status": "resolved", "payload": payload}


YES, NO = resolved("approval_c-save", {"approved": True}), resolved("approval_c-save", {"approved": False})
CANCELLED = {"interruptId": "approval_c-save", "status": "cancelled"}


@pytest.mark.parametrize("history", ["the question", "all", "nothing"])
@pytest.mark.parametrize(
    ("word", "saved"),
    [(YES, 1), (resolved("c-save", True), 1), (NO, 0), (CANCELLED, 0), (resolved("approval_c-save", "yes"), 0)],
    ids=["yes", "yes by the call's id", "no", "cancelled", "no plain yes"],
)
async def test_an_approval(word: dict[str, Any], saved: int, history: str) -> None:
    """The call is executed or denied, and the model continues without a new answer to the question."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        before = (await asked(chat))["messages"]
        messages = {"the question": None, "all": before, "nothing": []}[history]
        assert (await resume(chat, word, messages=messages, runId="r2", parentRunId="r1")).status_code == 200
        after = await chat.snapshot("s")
        assert [message["role"] for message in after["messages"]] == ["user", "assistant", "assistant"]
        assert after["messages"][1]["id"] == before[1]["id"]
        (call,) = parts_of(after, "tool-call")
        assert (call["state"], call["approval"]["approved"]) == ("complete" if saved else "error", bool(saved))
        started = [chunk for chunk in await chat.chunks("s") if chunk["type"] == "RUN_STARTED"][-1]
        assert started["parentRunId"] == "r1"
    assert (model.saved, len(model.turns)) == (saved, 2)


async def test_a_clients_tool() -> None:
    """A client tool's payload is the call's result. A payload that is not text is encoded as JSON."""
    model = Calls("locate")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await resume(chat, resolved("client_tool_c-locate", {"at": "home"}))
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert call["output"] == {"at": "home"}
    assert len(model.turns) == 2


async def test_a_clients_tool_that_was_cancelled() -> None:
    async with serve_chat(Calls("locate").agent()) as chat:
        await asked(chat)
        await resume(chat, {"interruptId": "client_tool_c-locate", "status": "cancelled"})
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert call["state"] == "error"


async def test_an_interrupt_with_an_id_of_its_own() -> None:
    """An agent's interrupt keeps its id, and the answer refers to it."""
    interrupt = {"id": "my-own", "reason": "tool_call", "toolCallId": "c", "metadata": {"kind": "approval"}}
    model = script(
        before=[
            {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look"},
            {"type": "TOOL_CALL_END", "toolCallId": "c"},
            {"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": [interrupt]}},
        ]
    )
    async with serve_chat(model) as chat:
        await chat.post("s", user("go"), mode="await")
        await resume(chat, resolved("my-own", {"approved": True}))
    assert model.turns[1].approved == ("c",)


@pytest.mark.parametrize("again", [YES, resolved("nobody", True)], ids=["answered already", "never asked"])
async def test_an_answer_to_nothing(again: dict[str, Any]) -> None:
    """A repeated or unknown answer releases the tab, and the model does not run again."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await resume(chat, YES)
        before = await chat.snapshot("s")
        assert (await resume(chat, again)).status_code == 200
        assert (await chat.snapshot("s"))["messages"] == before["messages"]
    assert len(model.turns) == 2


async def test_an_answer_and_a_new_message() -> None:
    """An answer and a new message in one request both count: the call is executed, and the message is answered."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await resume(chat, YES, messages=[user("go"), user("and?", "u2")])
        after = await chat.snapshot("s")
        assert [message["role"] for message in after["messages"]] == ["user", "assistant", "user", "assistant"]
    assert (model.saved, len(model.turns)) == (1, 2)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"resume": {}}, "bad_resume"),
        ({"resume": [5]}, "bad_resume"),
        ({"resume": [{"status": "resolved"}]}, "bad_resume"),
        ({"resume": [{"interruptId": [], "status": "resolved"}]}, "bad_resume"),
        ({"resume": [{"interruptId": "a", "status": "maybe"}]}, "bad_resume"),
        ({"resume": [{"interruptId": "a", "status": []}]}, "bad_resume"),
        ({"resume": [{"interruptId": "a", "status": "resolved"}] * 129}, "bad_resume"),
        ({"runId": 5}, "bad_run_id"),
        ({"runId": ""}, "bad_run_id"),
        ({"runId": "r" * 257}, "bad_run_id"),
        ({"parentRunId": {}}, "bad_run_id"),
        ({"messages": [], "resume": []}, "no_messages"),
    ],
)
async def test_what_is_refused(body: dict[str, Any], code: str) -> None:
    """An invalid `resume` gets 400 with a code, and nothing is written."""
    async with serve_chat(script()) as chat:
        answer = await chat.client.post("/api/chat", params={"id": "s"}, json={"messages": [user("hi")], **body})
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert await chat.chunks("s") == []


async def test_a_bodys_run_id_is_its_key() -> None:
    """The same request with the same `runId` is the same run, even after its end."""
    async with serve_chat(script()) as chat:
        first = await said(chat, "r1")
        again = await said(chat, "r1")
        assert first.headers["x-run-id"] == again.headers["x-run-id"]
        other = await said(chat, "r2")
        assert other.headers["x-run-id"] != first.headers["x-run-id"]
        assert runs_in(await chat.chunks("s")) == 2


async def test_a_header_wins_over_a_bodys_run_id() -> None:
    async with serve_chat(script()) as chat:
        first = await said(chat, "r1", **{"x-run-id": "k1"})
        assert (await said(chat, "r2", **{"x-run-id": "k1"})).headers["x-run-id"] == first.headers["x-run-id"]
        assert (await said(chat, "r1")).headers["x-run-id"] != first.headers["x-run-id"]


async def said(chat: Chat, run_id: str, **headers: str) -> httpx.Response:
    body = {"messages": [user("hi")], "runId": run_id}
    return await chat.client.post("/api/chat", params={"id": "s", "mode": "await"}, json=body, headers=headers)
