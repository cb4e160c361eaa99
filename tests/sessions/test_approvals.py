"""Questions to people and to clients: they are asked in the log, answered once from anywhere, and block nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.messages import to_anthropic
from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.tools import Tool, Tools, make_tool
from durable_chat.transcripts.tool_answers import DENIED_RESULT
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, serve_chat, types, user

Message = dict[str, Any]


class Calls:
    """
    A model that calls tools once, and then answers with the results. Mutable state: `turns`, the turns it received;
    `saved`, how often its tool ran; `go`, without which the tool waits.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.turns: list[Turn] = []
        self.saved = 0
        self.go = asyncio.Event()
        self.go.set()
        self.saving = asyncio.Event()

    async def save(self) -> str:
        self.saving.set()
        await self.go.wait()
        self.saved += 1
        return "saved"

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.turns.append(turn)
        last = turn.messages[-1]
        if last["role"] == "user" and len(self.turns) == 1:
            yield "Well."
            for name in self.names:
                yield {"type": "TOOL_CALL_START", "toolCallId": f"c-{name}", "toolCallName": name}
                yield {"type": "TOOL_CALL_ARGS", "toolCallId": f"c-{name}", "delta": "{}"}
                yield {"type": "TOOL_CALL_END", "toolCallId": f"c-{name}"}
            yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}
        else:
            yield "Done."

    def agent(self) -> Agent:
        save = make_tool(self.save, needs_approval=True)
        return Agent(self, Tools([save, Tool(ToolSpec("locate")), Tool(ToolSpec("pay"), needs_approval=True)]))


def parts_of(snapshot: dict[str, Any], kind: str) -> list[Message]:
    return [part for message in snapshot["messages"] for part in message["parts"] if part["type"] == kind]


def with_word(snapshot: dict[str, Any], call_id: str, approved: bool) -> list[Message]:
    """All messages as a tab posts them after a person has approved or denied."""
    for part in parts_of(snapshot, "tool-call"):
        if part["id"] == call_id:
            part.update(state="approval-responded", approval={**part["approval"], "approved": approved})
    return list(snapshot["messages"])


def with_output(snapshot: dict[str, Any], call_id: str, output: str) -> list[Message]:
    """All messages as a tab posts them after it has executed the call."""
    for message in snapshot["messages"]:
        for part in list(message["parts"]):
            if part["type"] == "tool-call" and part["id"] == call_id:
                part.update(state="complete", output=output)
                result = {"type": "tool-result", "toolCallId": call_id, "content": output, "state": "complete"}
                message["parts"].append(result)
    return list(snapshot["messages"])


async def asked(chat: Chat, session_id: str = "s") -> dict[str, Any]:
    answer = await chat.post(session_id, user("go"), mode="await")
    assert answer.status_code == 200
    return await chat.snapshot(session_id)


def runs_in(chunks: list[Message]) -> int:
    return types(chunks).count("RUN_STARTED")


async def test_an_approved_call_is_carried_out_in_the_next_run() -> None:
    """Every tab shows the approval, the call gets its result, and the model continues in a message of its own."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        snapshot = await asked(chat)
        (call,) = parts_of(snapshot, "tool-call")
        assert (call["state"], call["approval"]["needsApproval"]) == ("approval-requested", True)
        assert snapshot["activeRun"] is None
        before = len(await chat.chunks("s"))

        answer = await chat.post("s", *with_word(snapshot, "c-save", True), mode="await")
        assert answer.status_code == 200
        added = (await chat.chunks("s"))[before:]
        kinds = [kind for kind in types(added) if kind != "MESSAGES_SNAPSHOT"]
        again = ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"]
        assert kinds[:6] == ["RUN_STARTED", *again, "TOOL_CALL_RESULT", "TEXT_MESSAGE_START"]
        assert kinds[-1] == "RUN_FINISHED"
        after = await chat.snapshot("s")
        (call,) = parts_of(after, "tool-call")
        assert (call["state"], call["output"], call["approval"]["approved"]) == ("complete", "saved", True)
        assert [message["role"] for message in after["messages"]] == ["user", "assistant", "assistant"]
    assert (model.saved, len(model.turns)) == (1, 2)
    assert to_anthropic(model.turns[1].messages)[-1]["content"][0]["content"] == "saved"


async def test_a_denied_call_is_not_carried_out_and_the_model_is_told() -> None:
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        snapshot = await asked(chat)
        await chat.post("s", *with_word(snapshot, "c-save", False), mode="await")
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert (call["state"], call["approval"]["approved"]) == ("error", False)
    assert (model.saved, len(model.turns)) == (0, 2)
    block = to_anthropic(model.turns[1].messages)[-1]["content"][0]
    assert (block["content"], block["is_error"]) == (DENIED_RESULT, True)


async def test_the_first_word_counts() -> None:
    """Later answers of other devices change nothing, and each of these devices gets the end of a run."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        yes = with_word(await chat.snapshot("s"), "c-save", True)
        no = with_word(await chat.snapshot("s"), "c-save", False)
        both = await asyncio.gather(chat.post("s", *yes, mode="await"), chat.post("s", *no, mode="await"))
        assert [answer.status_code for answer in both] == [200, 200]
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        taken = call["approval"]["approved"]
        before = await chat.chunks("s")

        late = await chat.post("s", *(no if taken else yes), mode="await")
        assert late.status_code == 200
        added = (await chat.chunks("s"))[len(before) :]
        assert types(added) == ["MESSAGES_SNAPSHOT", "RUN_STARTED", "RUN_FINISHED"], "the late tab is put right"
        same = await chat.post("s", *(yes if taken else no), mode="await")
        assert same.status_code == 200
        added = (await chat.chunks("s"))[len(before) + 3 :]
        assert types(added) == ["RUN_STARTED", "RUN_FINISHED"]
        assert added[-1]["metadata"]["tanstack"]["finishReason"] == "stop"
    assert model.saved == int(taken)
    assert len(model.turns) == 2


async def test_a_clients_tool_carried_out_in_two_tabs_goes_on_once() -> None:
    """The first result is in the log, and the other tab is released."""
    model = Calls("locate")
    async with serve_chat(model.agent()) as chat:
        snapshot = await asked(chat)
        chunks = await chat.chunks("s")
        (custom,) = (chunk for chunk in chunks if chunk["type"] == "CUSTOM")
        assert custom["name"] == "tool-input-available"
        assert custom["value"] == {"toolCallId": "c-locate", "toolName": "locate", "input": {}}
        first = with_output(snapshot, "c-locate", "here")
        second = with_output(await chat.snapshot("s"), "c-locate", "there")
        assert (await chat.post("s", *first, mode="await")).status_code == 200
        assert (await chat.post("s", *second, mode="await")).status_code == 200
        after = await chat.snapshot("s")
        assert parts_of(after, "tool-result")[0]["content"] == "here"
        assert runs_in(await chat.chunks("s")) == 3
    assert len(model.turns) == 2


async def test_an_answer_while_the_run_that_asked_still_runs() -> None:
    """A watching tab may execute a call at once. Its answer waits, and no setting refuses it."""
    for turns in ("queue", "refuse", "interrupt"):
        model = Asks()
        async with serve_chat(model, turns=turns) as chat:
            await chat.post("s", user("go"))
            await chat.until("s", lambda chunks: "CUSTOM" in types(chunks))
            part = {"type": "tool-call", "id": "c", "name": "locate", "state": "complete", "output": "here"}
            early = [user("go"), {"id": "m", "role": "assistant", "parts": [part]}]
            first, second = await chat.post("s", *early), await chat.post("s", *early)
            assert (first.status_code, second.status_code) == (202, 202)
            assert first.headers["x-run-id"] == second.headers["x-run-id"]
            model.go.set()
            chunks = await chat.until("s", ended(2))
            assert runs_in(chunks) == 2
            assert parts_of(await chat.snapshot("s"), "tool-call")[0]["output"] == "here"


class Asks:
    """A model that asks the client, and continues for a while before its run ends."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        if len(turn.messages) > 1:
            yield "Thanks."
            return
        yield {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "locate"}
        yield {"type": "TOOL_CALL_END", "toolCallId": "c"}
        value = {"toolCallId": "c", "toolName": "locate", "input": {}}
        yield {"type": "CUSTOM", "name": "tool-input-available", "value": value}
        await self.go.wait()


async def test_a_question_survives_a_restart(tmp_path: Path) -> None:
    """It is in the log, and another device can answer it after the restart."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with serve_chat(Calls("save").agent(), url=url) as chat:
        await asked(chat)
    model = Calls("save")
    model.turns.append(Turn((), "", ""))  # this life of the model has nothing to ask any more
    async with serve_chat(model.agent(), url=url) as chat:
        snapshot = await chat.snapshot("s")
        assert parts_of(snapshot, "tool-call")[0]["state"] == "approval-requested"
        (message,) = [message for message in with_word(snapshot, "c-save", True) if message["role"] == "assistant"]
        assert (await chat.post("s", message, mode="await")).status_code == 200
        assert parts_of(await chat.snapshot("s"), "tool-call")[0]["output"] == "saved"
    assert model.saved == 1


async def test_of_two_questions_each_is_answered_by_itself() -> None:
    """The first approved call is executed. The model continues after the second answer."""
    model = Calls("save", "locate")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await chat.post("s", *with_word(await chat.snapshot("s"), "c-save", True), mode="await")
        assert (model.saved, len(model.turns)) == (1, 1)
        halfway = await chat.snapshot("s")
        assert halfway["messages"][-1]["parts"], "no message is begun that has nothing to say"
        await chat.post("s", *with_output(halfway, "c-locate", "here"), mode="await")
        assert {part["content"] for part in parts_of(await chat.snapshot("s"), "tool-result")} == {"saved", "here"}
    assert (model.saved, len(model.turns)) == (1, 2)


async def test_a_clients_tool_that_needs_approval() -> None:
    """After the approval the client is asked to execute the call, and then the model continues."""
    model = Calls("pay")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await chat.post("s", *with_word(await chat.snapshot("s"), "c-pay", True), mode="await")
        customs = [chunk["name"] for chunk in await chat.chunks("s") if chunk["type"] == "CUSTOM"]
        assert customs == ["approval-requested", "tool-input-available"]
        halfway = await chat.snapshot("s")
        assert len(halfway["messages"]) == 2, "a client answers only the last message"
        await chat.post("s", *with_output(halfway, "c-pay", "paid"), mode="await")
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert (call["output"], call["approval"]["approved"]) == ("paid", True)
    assert len(model.turns) == 2


async def test_a_stop_while_an_approved_call_is_carried_out() -> None:
    """The call has an error as its result. A repeated approval does not execute it again."""
    model = Calls("save")
    model.go.clear()
    async with serve_chat(model.agent()) as chat:
        yes = with_word(await asked(chat), "c-save", True)
        await chat.post("s", *yes)
        await asyncio.wait_for(model.saving.wait(), ANSWER_MAX_S)
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        (call,) = parts_of(await chat.snapshot("s"), "tool-call")
        assert call["state"] == "error"
        assert (await chat.snapshot("s"))["messages"][-1]["parts"] == []
        await chat.post("s", *yes, mode="await")
        assert types(await chat.chunks("s"))[-2:] == ["RUN_STARTED", "RUN_FINISHED"]
    assert (model.saved, len(model.turns)) == (0, 1)


async def test_a_new_message_instead_of_an_answer() -> None:
    """The model is told that the call was not approved. The question can still be answered."""
    model = Calls("save")
    async with serve_chat(model.agent()) as chat:
        await asked(chat)
        await chat.post("s", user("never mind", "u2"), mode="await")
        assert to_anthropic(model.turns[1].messages)[-1]["content"][0]["is_error"]
        snapshot = await chat.snapshot("s")
        await chat.post("s", *[m for m in with_word(snapshot, "c-save", True) if m["id"] != "u2"][:2], mode="await")
        assert parts_of(await chat.snapshot("s"), "tool-call")[0]["output"] == "saved"


async def test_an_answer_and_a_new_message_in_one_request() -> None:
    """A tab posts its whole history: the result of its tool is not lost when the person writes a new message."""
    model = Calls("locate")
    async with serve_chat(model.agent()) as chat:
        given = with_output(await asked(chat), "c-locate", "here")
        await chat.post("s", *given, user("and?", "u2"), mode="await")
        snapshot = await chat.snapshot("s")
        assert [message["role"] for message in snapshot["messages"]] == ["user", "assistant", "user", "assistant"]
        assert parts_of(snapshot, "tool-result")[0]["content"] == "here"
    (result, text) = to_anthropic(model.turns[1].messages)[-1]["content"]
    assert (result["content"], text["text"]) == ("here", "and?")


async def test_answers_to_what_was_never_asked() -> None:
    """They change nothing, whether the session exists or not."""
    async with serve_chat(Calls("save").agent()) as chat:
        part = {"type": "tool-call", "id": "x", "name": "locate", "state": "complete", "output": "here"}
        strange = {"id": "m", "role": "assistant", "parts": [part]}
        assert (await chat.post("none", strange, mode="await")).status_code == 200
        assert (await chat.snapshot("none"))["messages"] == []
        before = await asked(chat)
        assert (await chat.post("s", user("go"), strange, mode="await")).status_code == 200
        assert (await chat.snapshot("s"))["messages"] == before["messages"]


@pytest.mark.parametrize("tools", [1, {"a": 1}, [{}] * 129])
async def test_posted_tools_are_checked(tools: Any) -> None:
    async with serve_chat(Calls().agent()) as chat:
        answer = await chat.client.post("/api/chat?id=s", json={"messages": [user("go")], "tools": tools})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_tools")


async def test_posted_tools_reach_the_model() -> None:
    """Calls of the tools that a client posts are sent to that client."""
    model = Calls("draw")
    async with serve_chat(model.agent()) as chat:
        tools = [{"name": "draw", "description": "Draws.", "parameters": {"type": "object"}}]
        body = {"messages": [user("go")], "tools": tools}
        answer = await chat.client.post("/api/chat?id=s&mode=await", json=body)
        assert answer.status_code == httpx.codes.OK
        assert "draw" in {spec.name for spec in model.turns[0].tools}
        customs = [chunk["value"]["toolName"] for chunk in await chat.chunks("s") if chunk["type"] == "CUSTOM"]
        assert customs == ["draw"]
