"""Summaries for the model's context in sessions: durable, paid once, and in force only as long as they are true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from durable_chat.models.agents import Agent
from durable_chat.models.base import ProviderError, Turn
from durable_chat.models.context.fitting import TOO_LARGE
from durable_chat.models.context.limits import ContextLimit
from durable_chat.models.context.measuring import tokens_of
from durable_chat.models.tools import Tools, make_tool
from durable_chat.sessions.stored_snapshots import KIND, STORED_EVERY_BYTES
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.context_summaries import CONTEXT_SUMMARY
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, serve_chat, types, user

LIMIT = 600
LONG = "word " * 100
"""A message of 170 tokens: the fourth one exceeds the limit."""


class Talk:
    """
    A model that answers with "Answer N." and summarizes with the text it was given about. `turns` are its turns, and
    `asked` the texts of the requests for a summary. With `holds`, a summary waits until `go`.
    """

    def __init__(self, *, fails: bool = False) -> None:
        self.turns: list[Turn] = []
        self.asked: list[str] = []
        self.fails = fails
        self.holds = False
        self.waiting, self.go = asyncio.Event(), asyncio.Event()
        self.cancelled = False

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.data.get("purpose") != "context-summary":
            self.turns.append(turn)
            yield f"Answer {len(self.turns)}."
            return
        self.asked.append(turn.text)
        if self.fails:
            raise ProviderError("No summaries today.")
        try:
            if self.holds:
                self.waiting.set()
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        yield f"Summary {len(self.asked)}."
        counts = {"provider": "p", "model": "m", "inputTokens": 90, "outputTokens": 9}
        yield {"type": "RUN_FINISHED", "usage": [counts]}


def given_texts(turn: Turn) -> list[str]:
    return [str(part.get("content")) for told in turn.messages for part in told["parts"]]


def summaries(chunks: list[Chunk]) -> list[dict[str, Any]]:
    return [chunk["value"] for chunk in chunks if chunk.get("name") == CONTEXT_SUMMARY]


async def say(chat: Chat, *numbers: int, text: str = LONG) -> None:
    for number in numbers:
        answer = await chat.post("s", user(f"{number}: {text}", f"u{number}"), mode="await")
        assert answer.status_code == 200, answer.text


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/chat.db"


@pytest.mark.parametrize("snapshot_bytes", [0, 64 << 10])
async def test_paid_once_whatever_restarts(url: str, snapshot_bytes: int) -> None:
    """
    The run in which the limit is exceeded writes one summary; later turns use it, also in another process, and whether
    turns begin with echoes or with snapshots. The transcript keeps every message, and the run's usage has the tokens.
    """
    model = Talk()
    limited = ContextLimit(model, LIMIT)
    async with serve_chat(limited, url=url, turn_snapshot_max_bytes=snapshot_bytes) as chat:
        await say(chat, 1, 2, 3, 4)
        chunks = await chat.chunks("s")
        (value,) = summaries(chunks)
        assert (value["text"], value["upTo"] in [m["id"] for m in (await chat.snapshot("s"))["messages"]]) == (
            "Summary 1.",
            True,
        )
        assert [entry["purpose"] for entry in chunks[-1]["usage"]] == ["context-summary"]
    async with serve_chat(limited, url=url, turn_snapshot_max_bytes=snapshot_bytes) as chat:
        await say(chat, 5, text="short")
        assert "Summary 1." in given_texts(model.turns[-1])
        assert not any(text.startswith("1: ") for text in given_texts(model.turns[-1]))
        assert len(model.asked) == 1
        state = await chat.snapshot("s")
        assert [message["id"] for message in state["messages"] if message["role"] == "user"] == [
            "u1",
            "u2",
            "u3",
            "u4",
            "u5",
        ]
        assert state["contextSummary"] == value
    assert all(tokens_of(turn.messages) <= LIMIT for turn in model.turns)


async def test_catch_up_has_the_summary_after_the_messages(url: str) -> None:
    """A compacted read is the snapshot and the summary's chunk, with the same ETag each time."""
    async with serve_chat(ContextLimit(Talk(), LIMIT), url=url) as chat:
        await say(chat, 1, 2, 3)
        whole = await chat.client.get("/api/chat-stream", params={"id": "s"})
        assert types(whole.json()) == ["MESSAGES_SNAPSHOT"]
        await say(chat, 4)
        whole = await chat.client.get("/api/chat-stream", params={"id": "s"})
        assert types(whole.json()) == ["MESSAGES_SNAPSHOT", "CUSTOM"]
        (value,) = summaries(whole.json())
        assert value == (await chat.snapshot("s"))["contextSummary"]
        hydrated = (await chat.client.get("/api/chat", params={"threadId": "s"})).json()
        assert hydrated["contextSummary"] == value
        again = await chat.client.get(
            "/api/chat-stream", params={"id": "s"}, headers={"If-None-Match": whole.headers["etag"]}
        )
        assert again.status_code == 304


async def test_a_stored_snapshot_keeps_it(url: str) -> None:
    """A session that is read from its stored snapshot after a restart has the summary."""
    model = Talk()
    limited = ContextLimit(model, 2 * STORED_EVERY_BYTES // 3)
    async with serve_chat(limited, url=url) as chat:
        await say(chat, 1, 2, 3, text="word " * (STORED_EVERY_BYTES // 5))
        with chat.runs.sessions.hold("s") as session:
            await session.store()
        assert chat.store.records is not None
        assert len(await chat.store.records.records(KIND)) == 1
        asked = len(model.asked)
    async with serve_chat(limited, url=url) as chat:
        await say(chat, 4, text="short")
        assert len(model.asked) == asked
        assert f"Summary {asked}." in given_texts(model.turns[-1])


async def test_an_edit_or_regeneration_before_its_end_ends_it() -> None:
    """The model is given the messages as they are now. After one behind it, the summary stays in force."""
    model = Talk()
    async with serve_chat(ContextLimit(model, LIMIT)) as chat:
        await say(chat, 1, 2, 3, 4)
        await chat.post("s", user(f"4: {LONG}", "u4"), mode="await")  # regenerate the last answer
        assert "Summary 1." in given_texts(model.turns[-1])
        await chat.post("s", user("2: edited", "u2"), mode="await")
        assert given_texts(model.turns[-1]) == [f"1: {LONG}", "Answer 1.", "2: edited"]
        assert "contextSummary" not in await chat.snapshot("s")
        await chat.post("s", user(f"1: {LONG}", "u1"), mode="await")
        assert given_texts(model.turns[-1]) == [f"1: {LONG}"]
        assert len(model.asked) == 1


async def test_a_turn_that_waited_keeps_it() -> None:
    """The snapshot that a waiting turn begins with changes nothing in the messages before."""
    model = Talk()
    async with serve_chat(ContextLimit(model, LIMIT)) as chat:
        await say(chat, 1, 2, 3)
        model.holds = True
        first = asyncio.create_task(chat.post("s", user(f"4: {LONG}", "u4"), mode="await"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        second = asyncio.create_task(chat.post("s", user("5", "u5"), mode="await"))
        await chat.until("s", lambda chunks: any(chunk.get("name") == "durable-chat.turn-queued" for chunk in chunks))
        model.go.set()
        await asyncio.gather(first, second)
        assert "Summary 1." in given_texts(model.turns[-1])
        assert len(model.asked) == 1


async def test_an_imported_history_is_summarized() -> None:
    """A first request with a long history is answered within the limit."""
    model = Talk()
    async with serve_chat(ContextLimit(model, LIMIT)) as chat:
        answers = [{"id": f"a{n}", "role": "assistant", "parts": [{"type": "text", "content": LONG}]} for n in range(9)]
        history = [message for n in range(9) for message in (user(f"{n}: {LONG}", f"u{n}"), answers[n])]
        answer = await chat.post("s", *history, user("and now?", "last"), mode="await")
        assert answer.status_code == 200
        assert tokens_of(model.turns[0].messages) <= LIMIT
        assert len(summaries(await chat.chunks("s"))) == 1


async def test_a_slow_summary_is_no_stall() -> None:
    """A run whose summary takes longer than the stall limit goes on."""
    model = Talk()
    async with serve_chat(ContextLimit(model, LIMIT), stall_s=1.5) as chat:
        await say(chat, 1, 2, 3)
        model.holds = True
        task = asyncio.create_task(chat.post("s", user(f"4: {LONG}", "u4"), mode="await"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        asyncio.get_running_loop().call_later(3.0, model.go.set)
        assert (await task).status_code == 200


async def test_a_stop_ends_a_summary() -> None:
    """The run ends as stopped, the summarizer is cancelled, and the next turn is answered."""
    model = Talk()
    async with serve_chat(ContextLimit(model, LIMIT)) as chat:
        await say(chat, 1, 2, 3)
        model.holds = True
        await chat.post("s", user(f"4: {LONG}", "u4"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        chunks = await chat.until("s", ended(4))
        assert chunks[-1]["metadata"]["tanstack"]["stopped"] is True
        assert (model.cancelled, summaries(chunks)) == (True, [])
        model.go.set()
        await say(chat, 5, text="short")
        assert len(summaries(await chat.chunks("s"))) == 1


async def test_a_failed_summary_is_said() -> None:
    """The turn is answered without the old messages, and the snapshot says why."""
    model = Talk(fails=True)
    async with serve_chat(ContextLimit(model, LIMIT)) as chat:
        await say(chat, 1, 2, 3, 4)
        summary = (await chat.snapshot("s"))["contextSummary"]
        assert (summary["failure"], summary["text"]) == ("No summaries today.", "")
        assert len((await chat.snapshot("s"))["messages"]) == 8


async def test_a_message_over_the_limit_ends_the_run_with_an_error() -> None:
    """The provider is not asked, and the next message is answered."""
    model = Talk()
    async with serve_chat(ContextLimit(model, LIMIT)) as chat:
        answer = await chat.post("s", user("word " * 1000), mode="await")
        assert answer.status_code == 502
        error = (await chat.chunks("s"))[-1]
        assert (error["code"], "600" in error["message"]) == (TOO_LARGE, True)
        assert model.turns == []
        await say(chat, 2, text="short")
        assert given_texts(model.turns[0])[-1] == "2: short"


async def test_every_step_of_an_agent_is_limited() -> None:
    """In a long tool loop older results are shortened, and a summary that one step wrote is used by the next."""
    turns: list[Turn] = []
    asked: list[str] = []

    async def model(turn: Turn) -> AsyncIterator[Any]:
        if turn.data.get("purpose") == "context-summary":
            asked.append(turn.text)
            yield "They talked."
            return
        turns.append(turn)
        step = sum(part["type"] == "tool-call" for message in turn.messages for part in message["parts"])
        if step == 6 or "loop" not in turn.text:
            yield "Done."
            return
        yield {"type": "TOOL_CALL_START", "toolCallId": f"c{step}", "toolCallName": "look"}
        yield {"type": "TOOL_CALL_END", "toolCallId": f"c{step}", "input": {}}
        yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}

    async def look() -> str:
        return "seen " * 300

    agent = Agent(ContextLimit(model, 1500), Tools(), own=[make_tool(look)])
    async with serve_chat(agent) as chat:
        await say(chat, 1, 2, 3, 4)
        await say(chat, 5, text="loop")
        chunks = await chat.chunks("s")
        assert len(summaries(chunks)) == 1
        assert len(asked) == 1
        assert len(turns) == 4 + 7
        assert all(tokens_of(turn.messages) <= 1500 for turn in turns)
        assert all("They talked." in given_texts(turn) for turn in turns[-4:])
        results = [text for text in given_texts(turns[-1]) if text.startswith("seen")]
        assert len(results) == 6
        assert len(results[0]) < len(results[-1])
        messages = (await chat.snapshot("s"))["messages"]
        kept = [p["content"] for m in messages for p in m["parts"] if p["type"] == "tool-result"]
        assert {len(text) for text in kept} == {1500}
