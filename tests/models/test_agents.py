"""The agent loop writes one valid run, whatever the model calls and whatever happens to the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from durable_chat.models.agents import Agent
from durable_chat.models.anthropic.messages import to_anthropic
from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.tools import Tool, ToolError, Tools, make_tool
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.transcript import Transcript

ASKED = {"id": "u", "role": "user", "parts": [{"type": "text", "content": "go"}]}
TURN = Turn(messages=(ASKED,), session_id="s", run_id="r")


def add(first: int, second: int) -> int:
    if first < 0:
        raise ToolError("No negative numbers.")
    return first + second


def called(call_id: str, name: str, arguments: str) -> list[Chunk]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name},
        {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": arguments[:3]},
        {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": arguments[3:]},
        {"type": "TOOL_CALL_END", "toolCallId": call_id},
    ]


def finished(reason: str, tokens: int = 1) -> Chunk:
    usage = [{"inputTokens": tokens, "outputTokens": tokens, "totalTokens": 2 * tokens}]
    return {"type": "RUN_FINISHED", "usage": usage, "metadata": {"tanstack": {"finishReason": reason}}}


class Steps:
    """A model that yields one list of items after another, and records its input."""

    def __init__(self, *steps: list[Any]) -> None:
        self.steps = list(steps)
        self.turns: list[Turn] = []

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.turns.append(turn)
        for item in self.steps[min(len(self.turns), len(self.steps)) - 1]:
            yield item


TOOLS = (
    make_tool(add),
    make_tool(lambda: "kept", name="keep", needs_approval=True),
    Tool(ToolSpec("locate")),
    Tool(ToolSpec("pay"), needs_approval=True),
)


async def carry(model: Any, turn: Turn = TURN, **options: Any) -> list[Chunk]:
    """Return the written chunks of the run."""
    run = RunChunks("r", "s", iter([f"m{number}" for number in range(100)]).__next__, lambda: 1)
    made = run.start()
    async for item in Agent(model, Tools(TOOLS), **options)(turn):
        made += run.accept(item)
    return made + run.finish()


def kinds(made: list[Chunk]) -> list[str]:
    return [chunk["type"] for chunk in made]


def results(made: list[Chunk]) -> dict[str, str]:
    return {chunk["toolCallId"]: chunk["content"] for chunk in made if chunk["type"] == "TOOL_CALL_RESULT"}


def customs(made: list[Chunk]) -> list[tuple[str, str]]:
    return [(chunk["name"], chunk["value"]["toolCallId"]) for chunk in made if chunk["type"] == "CUSTOM"]


def reason(made: list[Chunk]) -> Any:
    assert kinds(made).count("RUN_FINISHED") == kinds(made).count("RUN_STARTED") == 1
    assert made[-1]["type"] == "RUN_FINISHED"
    return made[-1]["metadata"]["tanstack"]["finishReason"]


async def test_calls_are_carried_out_and_the_model_is_asked_again() -> None:
    """Each of several calls gets its own result. The run has one start, one end, and the usage of every step."""
    calls = called("a", "add", '{"first":1,"second":2}') + called("b", "add", '{"first":-1,"second":2}')
    model = Steps(["Wait.", *calls, finished("tool_calls")], ["It is 3.", finished("stop", 5)])
    made = await carry(model)
    assert results(made) == {"a": "3", "b": '{"error":"No negative numbers."}'}
    assert reason(made) == "stop"
    assert [usage["totalTokens"] for usage in made[-1]["usage"]] == [2, 10]
    first, second = model.turns
    assert {spec.name for spec in first.tools} == {"add", "keep", "locate", "pay"}
    assert first.messages == (ASKED,)
    conversation = to_anthropic(second.messages)
    assert [turn["role"] for turn in conversation] == ["user", "assistant", "user"]
    assert [block.get("content") for block in conversation[-1]["content"]] == ["3", '{"error":"No negative numbers."}']
    assert kinds(made).count("TEXT_MESSAGE_START") == 2, "what comes after the results is a message of its own"


async def test_what_nobody_can_do_is_a_result() -> None:
    """An unknown tool, wrong arguments, and an approval of an impossible call become error results."""
    calls = called("a", "fly", "{}") + called("b", "add", '{"first":"x"}') + called("c", "keep", '{"x":1}')
    made = await carry(Steps([*calls, finished("tool_calls")], ["Sorry."]))
    assert results(made).keys() == {"a", "b", "c"}
    assert customs(made) == []
    assert reason(made) == "stop"


async def test_the_loop_has_an_end() -> None:
    """The calls of the last answer are not executed, but they have results. The run says that it was cut."""
    done: list[int] = []
    tool = make_tool(lambda: done.append(1), name="again")
    model = Steps([*called("a", "again", "{}"), finished("tool_calls")])
    agent_tools = Tools([tool])
    run = RunChunks("r", "s", iter([f"m{number}" for number in range(100)]).__next__, lambda: 1)
    made = run.start()
    numbered = Renamed(model)
    async for item in Agent(numbered, agent_tools, max_steps=3)(TURN):
        made += run.accept(item)
    assert (len(model.turns), len(done)) == (3, 2)
    assert len(results(made)) == 3
    assert "limit" in list(results(made).values())[-1]
    assert reason(made) == "length"


class Renamed:
    """The same model with other call ids in each step."""

    def __init__(self, model: Steps) -> None:
        self.model = model

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        number = len(self.model.turns)
        async for item in self.model(turn):
            yield item | {"toolCallId": f"a{number}"} if isinstance(item, dict) and "toolCallId" in item else item


@pytest.mark.parametrize(
    ("name", "custom"),
    [("keep", "approval-requested"), ("locate", "tool-input-available"), ("pay", "approval-requested")],
)
async def test_what_needs_a_person_or_a_client_ends_the_run(name: str, custom: str) -> None:
    """
    The run ends with `stop`, because clients answer nothing else. The server's calls beside it are executed first.
    """
    calls = called("a", name, "{}") + called("b", "add", '{"first":1,"second":2}')
    model = Steps([*calls, finished("tool_calls")], ["never"])
    made = await carry(model)
    assert (customs(made), results(made), reason(made)) == ([(custom, "a")], {"b": "3"}, "stop")
    assert kinds(made).index("TOOL_CALL_RESULT") < kinds(made).index("CUSTOM")
    assert len(model.turns) == 1
    asked = next(chunk for chunk in made if chunk["type"] == "CUSTOM")["value"]
    assert (asked["toolName"], asked["input"]) == (name, {})


def pending(name: str, call_id: str = "a") -> dict[str, Any]:
    approval = {"id": "p", "needsApproval": True, "approved": True}
    part = {"type": "tool-call", "id": call_id, "name": name, "arguments": "{}", "state": "approval-responded"}
    return {"id": "m", "role": "assistant", "parts": [part | {"approval": approval}]}


async def test_an_approved_call_is_carried_out_once() -> None:
    """Only a call that was just approved is executed. A call approved before a crash is not executed again."""
    model = Steps(["Kept."])
    turn = Turn((ASKED, pending("keep")), "s", "r", approved=("a",))
    made = await carry(model, turn)
    assert results(made) == {"a": "kept"}
    assert to_anthropic(model.turns[0].messages)[-1]["content"][0]["content"] == "kept"
    assert model.turns[0].approved == ()
    assert results(await carry(Steps(["Well."]), Turn((ASKED, pending("keep")), "s", "r"))) == {}


async def test_an_approved_call_of_the_clients_goes_to_the_client() -> None:
    made = await carry(Steps(["never"]), Turn((ASKED, pending("pay")), "s", "r", approved=("a",)))
    assert (customs(made), reason(made)) == ([("tool-input-available", "a")], "stop")


async def test_while_others_wait_the_model_is_not_asked() -> None:
    model = Steps(["never"])
    made = await carry(model, Turn((ASKED, pending("keep")), "s", "r", approved=("a",), waits=True))
    assert (results(made), reason(made), model.turns) == ({"a": "kept"}, "stop", [])


async def test_tools_that_a_client_posted() -> None:
    """
    Tools posted by a client are executed by the client. If the application has a tool of that name, the application's
    is used.
    """
    turn = Turn((ASKED,), "s", "r", tools=(ToolSpec("draw"), ToolSpec("add", "forged")))
    model = Steps([*called("a", "draw", "{}"), *called("b", "add", '{"first":1,"second":1}'), finished("tool_calls")])
    made = await carry(model, turn)
    assert (customs(made), results(made)) == ([("tool-input-available", "a")], {"b": "2"})
    assert {spec.name: spec.description for spec in model.turns[0].tools}["add"] == ""


async def test_a_model_that_does_its_tools_itself_is_left_alone() -> None:
    """
    The loop leaves the results and questions of a model that executes its own tools. A call that the model leaves
    open is for its own client.
    """
    result = {"type": "TOOL_CALL_RESULT", "messageId": "t", "toolCallId": "a", "content": "mine"}
    ask = {"type": "CUSTOM", "name": "approval-requested", "value": {"toolCallId": "b", "approval": {"id": "p"}}}
    said = [*called("a", "add", "{}"), result, *called("b", "keep", "{}"), ask, *called("c", "other", "{}")]
    model = Steps([*said, finished("stop")])
    made = await carry(model)
    assert (results(made), customs(made), len(model.turns)) == ({"a": "mine"}, [("approval-requested", "b")], 1)


async def test_text_and_events_pass_as_they_are() -> None:
    """Text and events pass unchanged, also from an async function that returns an iterator."""
    model = Steps(["Hello", {"type": "RUN_FINISHED", "finishReason": "length"}])

    async def gives(turn: Turn) -> AsyncIterator[Any]:
        return model(turn)

    for one in (model, gives):
        made = await carry(one)
        assert reason(made) == "length"
        assert [chunk["delta"] for chunk in made if chunk["type"] == "TEXT_MESSAGE_CONTENT"] == ["Hello"]


async def test_leaving_cancels_the_tools() -> None:
    """A stop cancels a running tool, and the generator is closed afterwards."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def follow() -> None:
        agent = Agent(Steps([*called("a", "hangs", "{}"), finished("tool_calls")]), Tools([make_tool(hangs)]))
        async for _ in agent(TURN):
            pass

    task = asyncio.create_task(follow())
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    await asyncio.wait([task], timeout=30)
    assert task.cancelled()
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_long_tool_is_not_a_stalled_model() -> None:
    """While a tool runs, the loop yields signs of life that are not written."""
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "done"

    run = RunChunks("r", "s", lambda: "m", lambda: 1)
    model = Steps([*called("a", "slow", "{}"), finished("tool_calls")], ["Well."])
    quiet = 0
    async for item in Agent(model, Tools([make_tool(slow)]))(TURN):
        quiet += not run.accept(item)
        if quiet == 2:
            go.set()
    assert run.ended is False


ARGUMENTS: list[Callable[[str], dict[str, Any]]] = [
    lambda call_id: {"type": "TOOL_CALL_END", "toolCallId": call_id, "input": {"first": 1, "second": 1}},
    lambda call_id: {
        "type": "TOOL_CALL_END",
        "toolCallId": call_id,
        "metadata": {"tanstack": {"input": {"first": 1, "second": 1}}},
    },
]


@pytest.mark.parametrize("end", ARGUMENTS)
async def test_arguments_come_in_every_form(end: Callable[[str], dict[str, Any]]) -> None:
    """A call's arguments may arrive in pieces, complete at the end, or in AG-UI's short form."""
    start = {"type": "TOOL_CALL_START", "toolCallId": "a", "toolCallName": "add"}
    assert results(await carry(Steps([start, end("a"), finished("tool_calls")], ["."]))) == {"a": "2"}
    short = {"type": "TOOL_CALL_CHUNK", "toolCallId": "a", "toolCallName": "add", "delta": '{"first":1,"second":1}'}
    assert results(await carry(Steps([short, finished("tool_calls")], ["."]))) == {"a": "2"}


async def test_every_reader_sees_the_same_calls() -> None:
    """The log of such a run folds to calls with their results, in their messages."""
    made = await carry(Steps([*called("a", "add", '{"first":1,"second":2}'), finished("tool_calls")], ["3."]))
    transcript = Transcript()
    transcript.fold_all(made)
    first, second = transcript.messages()
    assert [part["type"] for part in first["parts"]] == ["tool-call", "tool-result"]
    assert (first["parts"][0]["state"], first["parts"][0]["output"]) == ("complete", 3)
    assert second["parts"] == [{"type": "text", "content": "3."}]
