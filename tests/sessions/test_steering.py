"""Steering: a message sent while an answer runs is heard by the model at its next step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from durable_chat.models.agents import Agent
from durable_chat.models.base import Turn
from durable_chat.models.demo import DemoModel
from durable_chat.models.tools import Tools, make_tool
from tests.sessions.serving import ANSWER_MAX_S, ended, script, serve_chat, texts, types, user
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


async def test_several_messages_are_heard_at_once() -> None:
    """The next step is given all of them. Each has a run, and the last run has the answer."""
    model = Stepping()
    async with serve_chat(model.agent, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("two", "u2"))
        await chat.post("s", user("three", "u3"))
        model.go.set()
        chunks = await chat.until("s", ended(3))
        assert model.asked == [["one"], ["one", "two", "three"]]
        rules_hold(chunks)
        assert texts(await chat.snapshot("s"))[2:] == [
            ("user", "two"),
            ("user", "three"),
            ("assistant", "You said three."),
        ]


async def test_a_steering_message_passes_one_that_waits_for_the_end() -> None:
    """A message in queue mode keeps waiting, and is answered after the answer that heard the other one."""
    model = Stepping()
    async with serve_chat(model.agent) as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("later", "u2"), turns="queue")
        await chat.post("s", user("now", "u3"), turns="steer")
        model.go.set()
        rules_hold(await chat.until("s", ended(3)))
        assert model.asked == [["one"], ["one", "now"], ["one", "now", "later"]]


async def test_a_message_becomes_a_turn_of_its_own_if_the_answer_takes_no_other_step() -> None:
    """A model that never asks for messages leaves them in the queue."""
    model = script(go=False)
    async with serve_chat(model, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        await chat.post("s", user("two", "u2"))
        model.go.set()
        rules_hold(await chat.until("s", ended(2)))
        assert [role for role, _ in texts(await chat.snapshot("s"))] == ["user", "assistant", "user", "assistant"]


async def test_a_plain_generator_can_ask_what_was_said() -> None:
    """What it yields after `heard` answers the new message; what it yielded before stays where it was."""
    said, go = asyncio.Event(), asyncio.Event()
    given: list[list[Any]] = []

    async def model(turn: Turn) -> AsyncIterator[str]:
        assert await turn.heard() is None
        yield "First half."
        said.set()
        await go.wait()
        heard = await turn.heard()
        assert heard is not None
        given.append([part.get("content") for message in heard.messages for part in message["parts"]])
        yield f"Now about {heard.text}."
        assert await heard.heard() is None

    async with serve_chat(model, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await asyncio.wait_for(said.wait(), ANSWER_MAX_S)
        await chat.post("s", user("two", "u2"))
        go.set()
        rules_hold(await chat.until("s", ended(2)))
        assert given == [["one", "First half.", "two"]]
        assert texts(await chat.snapshot("s")) == [
            ("user", "one"),
            ("assistant", "First half."),
            ("user", "two"),
            ("assistant", "Now about two."),
        ]


async def test_a_stopped_answer_hears_nothing() -> None:
    """The message of a stopped answer is answered in a turn of its own; a stopped message is not heard."""
    model = Stepping()
    async with serve_chat(model.agent, turns="steer") as chat:
        first = await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("two", "u2"))
        stopped = await chat.client.post("/api/chat-stop", params={"id": "s", "runId": first.headers["x-run-id"]})
        assert stopped.json() == {"stopped": [first.headers["x-run-id"]]}
        rules_hold(await chat.until("s", ended(2)))
        assert model.asked == [["one"], ["one", "two"]]


async def test_the_answer_that_heard_a_message_is_stopped_as_the_run_of_the_message() -> None:
    """The model is closed, and the run of the message ends as stopped."""
    model = Stepping(steps=2)
    async with serve_chat(model.agent, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        second = await chat.post("s", user("two", "u2"))
        model.running.clear()
        model.go.set()
        await chat.until("s", ended(1))
        model.go.clear()
        await chat.client.post("/api/chat-stop", params={"id": "s", "runId": second.headers["x-run-id"]})
        chunks = await chat.until("s", ended(2))
        rules_hold(chunks)
        assert chat.runs.count == 0


async def test_a_message_with_another_key_is_not_paid_by_the_running_answer() -> None:
    """The running model goes on with its own sender's key, so another sender's message waits for the end."""
    model = Stepping()
    async with serve_chat(model.agent, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        headers = {"x-api-key": "another"}
        body = {"messages": [user("two", "u2")]}
        await chat.client.post("/api/chat", params={"id": "s"}, json=body, headers=headers)
        model.go.set()
        rules_hold(await chat.until("s", ended(2)))
        assert model.asked == [["one"], ["one"], ["one", "two"]]


async def test_a_repeated_message_is_heard_once() -> None:
    """A message that is sent again while it waits, or while the answer that heard it runs, is the same run."""
    model = Stepping()
    async with serve_chat(model.agent, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        headers, body = {"idempotency-key": "k"}, {"messages": [user("two", "u2")]}
        sent = [
            await chat.client.post("/api/chat", params={"id": "s"}, json=body, headers=headers if with_key else {})
            for with_key in (True, True, False)
        ]
        model.go.set()
        chunks = await chat.until("s", ended(2))
        sent.append(await chat.client.post("/api/chat", params={"id": "s"}, json=body, headers=headers))
        assert len({response.headers["x-run-id"] for response in sent}) == 1
        rules_hold(chunks)
        assert model.asked == [["one"], ["one", "two"]]


async def test_an_unknown_mode_is_refused() -> None:
    """Nothing is written."""
    async with serve_chat(script()) as chat:
        response = await chat.post("s", user("one", "u1"), turns="shout")
        assert (response.status_code, response.json()["code"]) == (400, "bad_turns")
        assert (await chat.snapshot("s"))["messages"] == []


async def test_the_server_shuts_down_while_a_message_is_heard() -> None:
    """Every run has an end, and the model is closed."""
    model = Stepping(steps=3)
    async with serve_chat(model.agent, turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await model.wait()
        await chat.post("s", user("two", "u2"))
        model.go.set()
        await chat.runs.drain(0)
        rules_hold(await chat.chunks("s"))


async def test_a_model_with_tools_hears_in_the_middle_of_a_step() -> None:
    """Its later steps know the message as well, and a call that waits for its result keeps the message waiting."""
    told, go = asyncio.Event(), asyncio.Event()
    given: list[list[str]] = []

    def note() -> str:
        """Take a note."""
        return "noted"

    async def model(turn: Turn) -> AsyncIterator[Any]:
        given.append([part.get("content", part["type"]) for message in turn.messages for part in message["parts"]])
        if len(given) > 1:
            yield "Done."
            return
        yield "Half. "
        told.set()
        await go.wait()
        heard = await turn.heard()
        assert heard is not None
        yield f"Heard {heard.text}. "
        yield {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "note"}
        assert await heard.heard() is None
        yield {"type": "TOOL_CALL_END", "toolCallId": "c1"}

    async with serve_chat(Agent(model, Tools([make_tool(note)])), turns="steer") as chat:
        await chat.post("s", user("one", "u1"))
        await asyncio.wait_for(told.wait(), ANSWER_MAX_S)
        await chat.post("s", user("two", "u2"))
        go.set()
        rules_hold(await chat.until("s", ended(2)))
        assert given == [["one"], ["one", "Half. ", "two", "Heard two. ", "tool-call", "noted"]]
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "Done.")


async def test_the_demo_hears_at_the_end_of_a_paragraph() -> None:
    """A long answer is steered to the new message."""
    async with serve_chat(DemoModel(delay_ms=5), turns="steer") as chat:
        await chat.post("s", user("a long one", "u1"))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks))
        await chat.post("s", user("something else", "u2"))
        rules_hold(await chat.until("s", ended(2)))
        answers = texts(await chat.snapshot("s"))
        assert [role for role, _ in answers] == ["user", "assistant", "user", "assistant"]
        assert "something else" in answers[3][1]
        assert len(answers[1][1]) < 1500
