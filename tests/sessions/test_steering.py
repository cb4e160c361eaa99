"""Steering: a message sent while an answer runs is heard by the model at its next step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from durable_chat.models.agents import Agent
from durable_chat.models.base import Turn
from durable_chat.models.tools import Tools, make_tool
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, serve_chat, texts, types, user
from tests.sessions.test_runs import rules_hold


class Stepping:
    """
    An agent whose model calls the tool `wait` in its first `steps` steps, and then says what it was asked last. The
    tool runs until the test sets `go`. `asked` are the texts of the user's messages at each step.
    """

    def __init__(self, steps: int = 1) -> None:
        self.asked: list[list[str]] = []
        self.running = asyncio.Event()
        self.go = asyncio.Event()
        self.steps = steps

        async def wait() -> str:
            """Wait for the test."""
            self.running.set()
            await self.go.wait()
            return "waited"

        self.agent = Agent(self.step, Tools([make_tool(wait)]))

    async def step(self, turn: Turn) -> AsyncIterator[Any]:
        texts = [part["content"] for m in turn.messages if m["role"] == "user" for part in m["parts"]]
        self.asked.append(texts)
        number = len(self.asked)
        if number <= self.steps:
            yield {"type": "TOOL_CALL_START", "toolCallId": f"c{number}", "toolCallName": "wait"}
            yield {"type": "TOOL_CALL_END", "toolCallId": f"c{number}"}
            yield {"type": "RUN_FINISHED", "finishReason": "tool_calls"}
        else:
            yield f"You said {texts[-1]}."

    async def wait(self) -> None:
        await asyncio.wait_for(self.running.wait(), ANSWER_MAX_S)


def queued(count: int = 1) -> Any:
    return lambda chunks: sum(c.get("name") == "durable-chat.turn-queued" for c in chunks) >= count


async def test_a_message_sent_while_a_tool_runs_is_heard_at_the_next_step() -> None:
    """The model is asked its next step with the message, which the transcript shows between the two answers."""
    model = Stepping()
    async with serve_chat(model.agent) as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        steered = await chat.post("s", user("two", "u2"), turns="steer")
        assert steered.status_code == 202
        model.go.set()
        chunks = await chat.until("s", ended(2))
        assert model.asked == [["one"], ["one", "two"]]
        rules_hold(chunks)
        assert types(chunks).count("RUN_STARTED") == 2
        snapshot = await chat.snapshot("s")
        assert texts(snapshot) == [("user", "one"), ("assistant", ""), ("user", "two"), ("assistant", "You said two.")]
        assert [part["type"] for part in snapshot["messages"][1]["parts"]] == ["tool-call", "tool-result"]
        assert next(c for c in reversed(chunks) if c["type"] == "RUN_FINISHED")["runId"] == steered.headers["x-run-id"]
