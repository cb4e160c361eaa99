"""Subagents' output reaches AG-UI clients whole and is never mixed into the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ag_ui.core import SubagentFinishedEvent, SubagentStartedEvent, TextMessageContentEvent, TextMessageStartEvent

from durable_chat.models.agents import Agent
from durable_chat.models.base import Turn
from durable_chat.models.outputs import open_output
from durable_chat.models.tools import Tools, make_tool
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.answers.subagents import SUBAGENT, subagent_event
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.transcript import Transcript

SUB = {"subagentRunId": "sub-1"}
EVENTS: list[Any] = [
    "Let me ask. ",
    {"type": "SUBAGENT_STARTED", **SUB, "name": "researcher"},
    {"type": "TEXT_MESSAGE_START", "messageId": "s1", "role": "assistant", **SUB},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "s1", "delta": "I look.", **SUB},
    {"type": "TOOL_CALL_START", "toolCallId": "c9", "toolCallName": "search", **SUB},
    {"type": "TOOL_CALL_END", "toolCallId": "c9", **SUB},
    {"type": "TOOL_CALL_RESULT", "messageId": "t9", "toolCallId": "c9", "content": "secret-key found", **SUB},
    {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r9", "delta": "Hm.", **SUB},
    {"type": "TEXT_MESSAGE_CHUNK", "messageId": "s2", "delta": "Found it.", **SUB},
    {"type": "SUBAGENT_FINISHED", **SUB, "result": None},
    "It is blue.",
]


def written(items: list[Any], **options: Any) -> list[Chunk]:
    run = RunChunks("run-1", "session-1", lambda: "m1", lambda: 1, **options)
    return [*(chunk for item in items for chunk in run.accept(item)), *run.finish()]


def folded(made: list[Chunk]) -> list[dict[str, Any]]:
    transcript = Transcript()
    transcript.fold_all(made)
    return [dict(message) for message in transcript.messages()]


def test_the_answer_holds_nothing_of_a_subagent() -> None:
    """In every tab, the answer has only the parent's text, in one piece."""
    (message,) = folded(written(EVENTS))
    assert [part["content"] for part in message["parts"]] == ["Let me ask. It is blue."]


def test_a_client_of_ag_ui_gets_every_event_back() -> None:
    """
    The log holds each event of the subagent in order, with ids that are the run's own; its lifecycle stands there as it
    is.
    """
    made = written(EVENTS)
    ids = ("messageId", "toolCallId")
    expected = [event | {key: f"{event[key]}-run-1" for key in ids if key in event} for event in EVENTS[2:9]]
    assert [event for chunk in made if (event := subagent_event(chunk))] == expected
    lifecycle = [chunk for chunk in made if chunk["type"].startswith("SUBAGENT_")]
    assert lifecycle == [EVENTS[1], EVENTS[9]]


def test_events_of_the_package_are_set_apart() -> None:
    """
    Events of the `ag_ui` package's classes are treated the same. An event without an attribution belongs to the
    parent.
    """
    made = written(
        [
            SubagentStartedEvent(subagent_run_id="sub-1", name="researcher"),
            TextMessageStartEvent(message_id="s1", role="assistant", subagent_run_id="sub-1"),
            TextMessageContentEvent(message_id="s1", delta="I look.", subagent_run_id="sub-1"),
            SubagentFinishedEvent(subagent_run_id="sub-1"),
            TextMessageContentEvent(message_id="p1", delta="Blue."),
        ]
    )
    (message,) = folded(made)
    assert [part["content"] for part in message["parts"]] == ["Blue."]
    assert sum(chunk.get("name") == SUBAGENT for chunk in made) == 2


def test_an_open_short_form_goes_on_after_a_subagent() -> None:
    """A subagent's output in the middle of a parent's call does not end that call."""
    made = written(
        [
            {"type": "TOOL_CALL_CHUNK", "toolCallId": "c1", "toolCallName": "ask", "delta": '{"a"'},
            {"type": "TEXT_MESSAGE_CONTENT", "messageId": "s1", "delta": "I look.", **SUB},
            {"type": "TOOL_CALL_CHUNK", "delta": ":1}"},
        ]
    )
    (message,) = folded(made)
    assert message["parts"][0]["arguments"] == '{"a":1}'


def test_a_subagent_shows_no_secret() -> None:
    """The results of its tools and its errors are redacted like those of the parent."""
    error = {"type": "SUBAGENT_ERROR", **SUB, "message": "GET https://host/?key=1 failed", "code": "529"}
    made = written([*EVENTS, error], secrets=["secret-key"])
    (result,) = [event for chunk in made if (event := subagent_event(chunk)) and event["type"] == "TOOL_CALL_RESULT"]
    assert result["content"] == "*** found"
    (failed,) = [chunk for chunk in made if chunk["type"] == "SUBAGENT_ERROR"]
    assert (failed["message"], failed["code"]) == ("The model failed to answer.", "529")


async def test_the_chat_runs_no_call_of_a_subagent() -> None:
    """The chat does not execute a subagent's call, even if the chat has a tool of that name."""
    called: list[str] = []
    tools = Tools()

    async def model(_turn: Turn) -> AsyncIterator[Any]:
        for event in EVENTS:
            yield event

    def search() -> str:
        """Search."""
        called.append("search")
        return "found"

    tools.add(make_tool(search))
    agent = Agent(model, tools)
    items = [item async for item in await open_output(agent, Turn((), "session-1", "run-1"))]
    assert called == []
    assert folded(written(items))[0]["parts"][0]["content"] == "Let me ask. It is blue."
