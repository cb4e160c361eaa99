"""
CopilotKit's runtime on real sockets: run, connect and stop, by separate routes and by the single route, and refusals.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from durable_chat.config.settings import Action
from durable_chat.http.tokens import issue
from tests.api.doors.answers import run_input, said, sent
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat

PATH = "/api/copilotkit"
SECRET = "a-secret-of-the-tests-long-enough"
Event = dict[str, Any]

both_ways = pytest.mark.parametrize("single", [False, True], ids=["routes", "envelope"])


async def ask(chat: Chat, method: str, body: Any, *, single: bool = False, thread: str = "s") -> list[Event]:
    """Return the events of a run or a connection."""
    if single:
        posted = {"method": f"agent/{method}", "params": {"agentId": "default"}, "body": body}
        stream = chat.client.stream("POST", PATH, json=posted)
    else:
        stream = chat.client.stream("POST", f"{PATH}/agent/default/{method}", json=body)
    async with stream as answer:
        assert answer.status_code == 200, await answer.aread()
        return [one.chunk async for one in sent(answer)]


async def stop(chat: Chat, run_id: str | None = None, *, single: bool = False) -> bool:
    body = None if run_id is None else {"runId": run_id}
    if single:
        params = {"agentId": "default", "threadId": "s"}
        answer = await chat.client.post(PATH, json={"method": "agent/stop", "params": params, "body": body})
    else:
        headers = {"content-type": "application/json"}
        answer = await chat.client.post(f"{PATH}/agent/default/stop/s", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    stopped: bool = answer.json()["stopped"]
    return stopped


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def text(events: list[Event]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


async def asking(turn: Any) -> Any:
    """A model that asks for approval and then names the decision."""
    call = next((part for part in turn.messages[-1]["parts"] if part["type"] == "tool-call"), None)
    if call is not None:
        yield "Yes." if call["approval"]["approved"] else "No."
        return
    yield {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "note"}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "{}"}
    yield {"type": "TOOL_CALL_END", "toolCallId": "c1"}
    value = {"toolCallId": "c1", "toolName": "note", "input": {}, "approval": {"id": "a1", "needsApproval": True}}
    yield {"type": "CUSTOM", "name": "approval-requested", "value": value}


async def test_info() -> None:
    """Both ways describe one agent and a runtime without further requirements."""
    async with serve_chat(script()) as chat:
        told = (await chat.client.get(f"{PATH}/info")).json()
        assert list(told["agents"]) == ["default"]
        assert told["mode"] == "sse"
        assert (await chat.client.post(PATH, json={"method": "info"})).json() == told


@both_ways
async def test_run_and_connect(any_store_url: str, *, single: bool) -> None:
    """A run is answered with its events. A page that connects later gets the same messages and starts no run."""
    model = script()
    async with serve_chat(model, url=any_store_url) as chat:
        events = await ask(chat, "run", run_input(said("hi")), single=single)
        assert kinds(events)[0] == "RUN_STARTED"
        assert kinds(events)[-1] == "RUN_FINISHED"
        assert text(events) == "Hello."
        events = await ask(chat, "connect", run_input(run="other"), single=single)
        assert kinds(events) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
        assert [message["role"] for message in events[1]["messages"]] == ["user", "assistant"]
        assert events[1]["messages"][1]["content"] == "Hello."
    assert len(model.turns) == 1


@both_ways
async def test_connect_midway(any_store_url: str, *, single: bool) -> None:
    """A page that connects during an answer gets the messages before it and the complete answer."""
    model = script(go=False)
    async with serve_chat(model, url=any_store_url) as chat:
        running = asyncio.create_task(ask(chat, "run", run_input(said("hi"))))
        await model.waiting.wait()
        connected = asyncio.create_task(ask(chat, "connect", run_input(run="other"), single=single))
        await asyncio.sleep(0)
        model.go.set()
        events = (await asyncio.wait_for(asyncio.gather(running, connected), ANSWER_MAX_S))[1]
        assert kinds(events)[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
        assert events[1]["messages"][0]["role"] == "user"
        assert kinds(events)[-1] == "RUN_FINISHED"
        answers = [message.get("content", "") for message in events[1]["messages"][1:]]
        assert "".join(answers) + text(events) == "Hello."


async def test_unknown_thread() -> None:
    """A thread that does not exist reads as an empty stream, and reading does not create it."""
    async with serve_chat(script()) as chat:
        assert await ask(chat, "connect", run_input()) == []
        assert await chat.chunks("s") == []


@both_ways
async def test_stop(*, single: bool) -> None:
    """A run is stopped by the client's own run id, or by stopping the thread. Another id stops nothing."""
    for run_id in ("client-run", None):
        model = script(go=False)
        async with serve_chat(model) as chat:
            running = asyncio.create_task(ask(chat, "run", run_input(said("hi"), run="client-run")))
            await model.waiting.wait()
            assert not await stop(chat, "another", single=single)
            assert await stop(chat, run_id, single=single)
            events = await asyncio.wait_for(running, ANSWER_MAX_S)
            assert kinds(events)[-1] == "RUN_FINISHED"
            assert not await stop(chat, run_id, single=single)


@pytest.mark.parametrize("approved", [True, False])
async def test_approval(*, approved: bool) -> None:
    """
    An approval's answer has the id of the run that asked, as CopilotKit sends it, and still starts a new run.
    Repeating the answer does not.
    """
    async with serve_chat(asking) as chat:
        events = await ask(chat, "run", run_input(said("do it"), run="r1"))
        [interrupt] = events[-1]["outcome"]["interrupts"]
        restored = await ask(chat, "connect", run_input(run="other"))
        assert restored[-1]["outcome"]["interrupts"] == [interrupt]
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": approved}}]
        body = run_input(said("do it"), run="r1", resume=resume)
        for _ in range(2):
            events = await ask(chat, "run", body)
            assert text(events) == ("Yes." if approved else "No.")
        await chat.until("s", ended(2))
        assert len([chunk for chunk in await chat.chunks("s") if chunk["type"] == "RUN_STARTED"]) == 2


async def test_stop_of_a_resumed_run() -> None:
    """
    The id of the run that asked also stops the run that continues after the approval, because the client has no other
    id.
    """
    waiting, go = asyncio.Event(), asyncio.Event()

    async def model(turn: Any) -> Any:
        async for item in asking(turn):
            yield item
        if turn.approved:
            waiting.set()
            await go.wait()

    async with serve_chat(model) as chat:
        events = await ask(chat, "run", run_input(said("do it"), run="r1"))
        resume = [{"interruptId": events[-1]["outcome"]["interrupts"][0]["id"], "status": "resolved"}]
        resume[0]["payload"] = {"approved": True}
        running = asyncio.create_task(ask(chat, "run", run_input(said("do it"), run="r1", resume=resume)))
        await asyncio.wait_for(waiting.wait(), ANSWER_MAX_S)
        assert await stop(chat, "r1")
        await asyncio.wait_for(running, ANSWER_MAX_S)
        go.set()


RUN = f"{PATH}/agent/default/run"
REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "another agent": (f"{PATH}/agent/other/run", run_input(said("hi")), 404, "unknown_agent"),
    "another agent to connect": (f"{PATH}/agent/other/connect", run_input(), 404, "unknown_agent"),
    "another agent to stop": (f"{PATH}/agent/other/stop/s", {}, 404, "unknown_agent"),
    "another agent in the envelope": (PATH, {"method": "agent/run", "params": {"agentId": "x"}}, 404, "unknown_agent"),
    "no agent": (PATH, {"method": "agent/run"}, 404, "unknown_agent"),
    "no method": (PATH, {}, 400, "no_method"),
    "an unknown method": (PATH, {"method": "agent/dance"}, 400, "unknown_method"),
    "a method of another kind": (PATH, {"method": 7}, 400, "unknown_method"),
    "no object": (PATH, [], 400, "bad_body"),
    "an empty run": (PATH, {"method": "agent/run", "params": {"agentId": "default"}}, 400, "bad_json"),
    "a run without messages": (RUN, run_input(), 400, "no_messages"),
    "a run without a thread": (RUN, {"runId": "r", "messages": [said("hi")]}, 400, "bad_id"),
    "a connection without a thread": (f"{PATH}/agent/default/connect", {"messages": []}, 400, "bad_id"),
    "a run's id that is none": (f"{PATH}/agent/default/stop/s", {"runId": 7}, 400, "bad_run_id"),
    "a thread that is none": (f"{PATH}/agent/default/connect", {"threadId": 7}, 400, "bad_id"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str) -> None:
    """The error names the problem, and nothing is written."""
    path, posted, status, code = REFUSED[name]
    async with serve_chat(script()) as chat:
        answer = await chat.client.post(path, json=posted)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert await chat.chunks("s") == []


async def test_another_door() -> None:
    """The error for a body of another route names the right route."""
    async with serve_chat(script()) as chat:
        answer = await chat.client.post(PATH, json=run_input(said("hi")))
        assert answer.status_code == 400
        assert "/api/agui" in answer.json()["error"]


async def test_tokens() -> None:
    """Each method needs its own permission."""

    def bearer(session: str, *can: Action) -> dict[str, str]:
        return {"authorization": f"Bearer {issue(SECRET, session, can, now_s=time.time(), ttl_s=60)}"}

    async with serve_chat(script(), token_secret=SECRET) as chat:

        async def posted(path: str, headers: dict[str, str], body: Any) -> httpx.Response:
            return await chat.client.post(f"{PATH}/agent/default/{path}", json=body, headers=headers)

        reader, sender = bearer("s", "read"), bearer("s", "read", "send")
        assert (await posted("run", {}, run_input(said("hi")))).status_code == 401
        assert (await posted("connect", {}, run_input())).status_code == 401
        assert (await posted("run", reader, run_input(said("hi")))).status_code == 403
        assert (await posted("run", bearer("other", "read", "send"), run_input(said("hi")))).status_code == 403
        assert (await posted("run", sender, run_input(said("hi")))).status_code == 200
        assert (await posted("connect", reader, run_input())).status_code == 200
        assert (await posted("stop/s", sender, {})).status_code == 403
        assert (await posted("stop/s", bearer("s", "stop"), {})).status_code == 200
