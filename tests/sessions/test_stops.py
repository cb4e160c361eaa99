"""Stopping works at once and from any tab, keeps the text, and is recorded in the log. A disconnect stops nothing."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.client import AnthropicModel
from durable_chat.models.base import Turn
from durable_chat.models.tools import Tools, make_tool
from tests.models.anthropic.test_client import BEGIN, BLOCK, MODEL, WORD, Rude, rude
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, spoken, texts, types, user
from tests.sessions.test_runs import faulty, rules_hold, wait
from tests.transcripts.logs import check_runs

STALL_S = 3.0
"""Long enough for a busy machine to connect to the provider first."""

USED = {"provider": "anthropic", "model": MODEL, "inputTokens": 1, "outputTokens": 1, "totalTokens": 2}


async def stop(chat: Chat, session_id: str = "s", **query: str) -> list[str]:
    answer = await chat.client.post("/api/chat-stop", params={"id": session_id, **query})
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["stopped"]
    return found


def tanstack(chunk: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = chunk["metadata"]["tanstack"]
    return found


def tool_call(name: str, call_id: str = "c") -> list[Any]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name},
        {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": "{}"},
        {"type": "TOOL_CALL_END", "toolCallId": call_id},
    ]


# The provider.


@pytest.fixture
async def claude(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AnthropicModel]:
    await asyncio.to_thread(importlib.import_module, "anthropic")  # takes seconds on a busy machine
    made = AnthropicModel(MODEL, key="test-key-ABCDEF", max_retries=0)
    yield made
    await made.aclose()


@pytest.mark.parametrize("agent", [False, True])
async def test_the_providers_connection_is_closed(
    claude: AnthropicModel, monkeypatch: pytest.MonkeyPatch, agent: bool
) -> None:
    """
    The connection to the provider is closed. The log has the text and the usage that the provider reported so far.
    """
    provider = Rude(BEGIN, BLOCK, WORD, end=False)
    async with rude(monkeypatch, provider), serve_chat(Agent(claude, Tools()) if agent else claude) as chat:
        run_id = (await chat.post("s", user("talk"))).headers["x-run-id"]
        await chat.until("s", spoken("Hi"))
        assert await stop(chat) == [run_id]
        await wait(provider.left)
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert (chunks[-1]["type"], chunks[-1]["runId"]) == ("RUN_FINISHED", run_id)
        assert tanstack(chunks[-1]) == {"finishReason": "stop", "stopped": True, "usage": [USED]}
        assert chunks[-1]["usage"] == [USED]
        assert texts(await chat.snapshot("s")) == [("user", "talk"), ("assistant", "Hi")]


async def test_a_stalled_providers_connection_is_closed(
    claude: AnthropicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that sends nothing more is disconnected, and the error has the usage so far."""
    provider = Rude(BEGIN, BLOCK, WORD, end=False)
    async with rude(monkeypatch, provider), serve_chat(claude, stall_s=STALL_S) as chat:
        answer = await chat.post("s", user("talk"), mode="await")
        assert (answer.status_code, answer.json()["code"]) == (502, "run_failed")
        await wait(provider.left)
        last = (await chat.chunks("s"))[-1]
        assert (last["type"], last["code"], last["usage"]) == ("RUN_ERROR", "stalled", [USED])
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "Hi")


async def test_what_the_last_event_told_counts(claude: AnthropicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anthropic's running count replaces the first one."""
    running = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 7}}
    provider = Rude(BEGIN, BLOCK, WORD, running, {**WORD, "delta": {"type": "text_delta", "text": "!"}}, end=False)
    async with rude(monkeypatch, provider), serve_chat(claude) as chat:
        await chat.post("s", user("talk"))
        await chat.until("s", lambda chunks: "!" in "".join(str(chunk.get("delta", "")) for chunk in chunks))
        await stop(chat)
        assert tanstack((await chat.chunks("s"))[-1])["usage"] == [USED | {"outputTokens": 7, "totalTokens": 8}]


async def test_the_cost_of_every_step_counts() -> None:
    """The usage of all steps counts when a model with tool results is stopped."""
    asked = asyncio.Event()

    async def model(turn: Turn) -> AsyncIterator[Any]:
        if len(turn.messages) == 1:
            for chunk in tool_call("look"):
                yield chunk
            yield {"type": "RUN_FINISHED", "finishReason": "tool_calls", "usage": [{"inputTokens": 1}]}
            return
        yield {"type": "USAGE", "usage": {"promptTokens": 2}}
        yield {"type": "USAGE", "usage": {"promptTokens": 3}}
        asked.set()
        await asyncio.Event().wait()

    tools = Tools()
    tools.add(make_tool(lambda: "here", name="look", parameters={"type": "object", "properties": {}}))
    async with serve_chat(Agent(model, tools)) as chat:
        await chat.post("s", user("hi"))
        await wait(asked)
        await stop(chat)
        assert tanstack((await chat.chunks("s"))[-1])["usage"] == [{"inputTokens": 1}, {"inputTokens": 3}]


# Tools.


@asynccontextmanager
async def stopped_at(dig: Callable[[], Any], running: asyncio.Event) -> AsyncIterator[Chat]:
    """A run that was stopped while its tool was `running`."""
    tools = Tools()
    tools.add(make_tool(dig, name="dig"))
    async with serve_chat(Agent(script(before=tool_call("dig"), after=[]), tools)) as chat:
        await chat.post("s", user("hi"))
        await wait(running)
        await stop(chat)
        yield chat


async def test_a_tool_that_runs_is_cancelled() -> None:
    """Its task ends at once, and its call has an error as its result."""
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def dig() -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    async with stopped_at(dig, running) as chat:
        assert cancelled.is_set()
        await check_stopped_call(chat)


async def test_a_tool_in_a_thread_is_left_alone() -> None:
    """It cannot be cancelled. The run ends without it at once, and its result is ignored."""
    running, go, done = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def dig() -> str:
        loop.call_soon_threadsafe(running.set)
        go.wait(ANSWER_MAX_S)
        done.set()
        return "too late"

    async with stopped_at(dig, running) as chat:
        assert not done.is_set()
        chunks = await check_stopped_call(chat)
        go.set()
        await asyncio.to_thread(done.wait, ANSWER_MAX_S)
        await chat.post("other", user("hi"))
        assert await chat.chunks("s") == chunks
        await stop(chat, "other")


async def check_stopped_call(chat: Chat) -> list[dict[str, Any]]:
    chunks = await chat.chunks("s")
    assert [end["type"] for end in check_runs(chunks)] == ["RUN_FINISHED"]
    result = next(chunk for chunk in chunks if chunk["type"] == "TOOL_CALL_RESULT")
    assert tanstack(result) == {"state": "output-error"}
    parts = (await chat.snapshot("s"))["messages"][-1]["parts"]
    assert [part["state"] for part in parts] == ["error", "error"]
    return chunks


# Turns that wait, and several stops.


async def test_all_turns_can_be_stopped() -> None:
    """Waiting turns are stopped too. Each has an end in the log and keeps its message."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        run_ids = [(await chat.post("s", user(f"t{n}", f"u{n}"))).headers["x-run-id"] for n in range(4)]
        await wait(model.waiting)
        assert await stop(chat) == run_ids
        chunks = await chat.chunks("s")
        ends = check_runs(chunks)
        assert [end["runId"] for end in ends] == run_ids
        assert all(tanstack(end) == {"finishReason": "stop", "stopped": True} for end in ends)
        assert len(model.turns) == 1
        users = [text for role, text in texts(await chat.snapshot("s")) if role == "user"]
        assert users == ["t0", "t1", "t2", "t3"]


async def test_stops_at_once() -> None:
    """When two tabs stop the same run, both get its id, and it ends once."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        run_id = (await chat.post("s", user("hi"))).headers["x-run-id"]
        await wait(model.waiting)
        answers = await asyncio.gather(*(stop(chat) for _ in range(3)), stop(chat, runId=run_id))
        assert [run_id] in answers
        assert all(answer in ([run_id], []) for answer in answers)
        assert [tanstack(end)["stopped"] for end in check_runs(await chat.chunks("s"))] == [True]


async def test_a_stop_that_races_the_end() -> None:
    """The run ends once, and the response to the stop agrees with the log."""
    async with serve_chat(script()) as chat:
        for number in range(30):
            posted = await chat.post(f"s{number}", user("hi"))
            for _ in range(number % 6):
                await asyncio.sleep(0)
            stopped = await stop(chat, f"s{number}")
            (end,) = check_runs(await chat.until(f"s{number}", ended()))
            if end["type"] == "RUN_FINISHED" and tanstack(end).get("stopped"):
                assert stopped == [posted.headers["x-run-id"]]


async def test_a_stop_that_the_store_holds_up() -> None:
    """The response comes after a limited wait, and the end is written when the store continues."""
    model = script(go=False)
    async with serve_chat(model, stop_wait_s=0.05) as chat:
        log = faulty(chat)
        run_id = (await chat.post("s", user("hi"))).headers["x-run-id"]
        await chat.until("s", spoken("Hel"))
        log.hold.clear()
        assert await stop(chat) == [run_id]
        assert not ended()(await chat.chunks("s"))
        assert model.closed == 1
        log.hold.set()
        assert tanstack((await chat.until("s", ended()))[-1])["stopped"] is True


# Leaving.


async def test_closing_every_tab_stops_nothing() -> None:
    """The sender and all readers disconnect, and the answer is written to its end."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        sender = await leave_by_hand(
            chat,
            "POST /api/chat?id=s&mode=await",
            json.dumps({"messages": [user("hi")]}).encode(),
        )
        await wait(model.waiting)
        await chat.until("s", spoken("Hel"))
        tabs = [await leave_by_hand(chat, "GET /api/chat-stream?id=s&offset=-1&live=sse") for _ in range(3)]
        for reader, _ in tabs:
            assert b"200" in await asyncio.wait_for(reader.readline(), ANSWER_MAX_S)
        for _, writer in (sender, *tabs):
            writer.transport.abort()
        await chat.client.get("/api/chat-snapshot?id=s")
        assert chat.runs.count == 1
        assert model.closed == 0
        model.go.set()
        chunks = await chat.until("s", ended())
        assert types(chunks)[-1] == "RUN_FINISHED"
        assert "stopped" not in tanstack(chunks[-1])
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hello.")]


async def leave_by_hand(chat: Chat, line: str, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request on its own socket, which can be cut in the middle."""
    address = httpx.URL(str(chat.client.base_url))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = f"{line} HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer
