"""AG-UI's events from chunks of the log: they keep its clients' rules, and nothing is lost or doubled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from durable_chat.api.doors.agui.messages import to_agui_messages
from durable_chat.api.doors.agui.wire import AguiEvents, AguiWire, Client
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk
from tests.api.doors.agui_rules import check_rules
from tests.transcripts.wild_logs import written_logs

MODERN = Client("t", "r", is_modern=True)
OLD = Client("t", "r")
SUB = {"subagentRunId": "sub-1"}

both = pytest.mark.parametrize("client", [MODERN, OLD], ids=["1.0", "0.0.59"])


def events_of(log: list[Chunk], client: Client = MODERN) -> list[dict[str, Any]]:
    events = AguiEvents(client)
    return [event for chunk in log for event in events.of(chunk)]


def answered(*items: Any, end: str = "finish") -> list[Chunk]:
    """The chunks of a run whose model yields these items."""
    run = RunChunks("run-1", "s", iter(["m1", "m2", "m3", "m4"]).__next__, lambda: 1)
    made = [*run.start(), *(chunk for item in items for chunk in run.accept(item))]
    return [*made, *(run.stop() if end == "stop" else run.finish())]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def runs_of(log: list[Chunk]) -> list[list[Chunk]]:
    found: list[list[Chunk]] = []
    for chunk in log:
        if chunk["type"] == "RUN_STARTED":
            found.append([])
        if found and (not found[-1] or found[-1][-1]["type"] not in ("RUN_FINISHED", "RUN_ERROR")):
            found[-1].append(chunk)
    return found


@given(written_logs())
def test_every_run_keeps_the_rules(log: list[Chunk]) -> None:
    """For any items of a model, no client fails the run, and it gets all of the text."""
    for run in runs_of(log):
        for client in (MODERN, OLD):
            events = events_of(run, client)
            check_rules(events, modern=client.is_modern)
            texts = [c["delta"] for c in run if c["type"] == "TEXT_MESSAGE_CONTENT" and c["delta"]]
            assert [e["delta"] for e in events if e["type"] == "TEXT_MESSAGE_CONTENT"] == texts


@both
def test_reasoning_comes_before_the_message(client: Client) -> None:
    """In the log the message starts first. Clients list messages in the order of their starts."""
    events = events_of(answered({"type": "REASONING_MESSAGE_CONTENT", "delta": "Hm."}, "Yes."), client)
    check_rules(events, modern=client.is_modern)
    assert types(events) == [
        *("RUN_STARTED", "REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT"),
        *("REASONING_MESSAGE_END", "REASONING_END", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"),
        *("TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]


def test_nulls_are_values() -> None:
    """A null in a state, or as a custom value, is kept."""
    delta = [{"op": "replace", "path": "/a", "value": None}]
    events = events_of(
        answered(
            {"type": "STATE_SNAPSHOT", "snapshot": None},
            {"type": "STATE_DELTA", "delta": delta},
            {"type": "CUSTOM", "name": "said", "value": None},
        )
    )
    assert events[1]["snapshot"] is None
    assert events[2]["delta"] == delta
    assert events[3] == {"type": "CUSTOM", "name": "said", "value": None}


def test_types_that_a_client_does_not_know() -> None:
    """Chunks of unknown types are left out, because older clients fail at them."""
    run = answered("hi")
    odd: list[Chunk] = [{"type": "FROM_THE_FUTURE", "x": 1}, {"type": "RAW", "event": {}}, {"type": "THINKING_START"}]
    assert events_of([run[0], *odd, *run[1:]]) == events_of(run)


def test_fields_of_the_log_alone() -> None:
    """Clients get the ids that they sent, and no field that the specification does not have."""
    started, *_, finished = events_of(answered("hi"))
    assert started == {"type": "RUN_STARTED", "threadId": "t", "runId": "r", "timestamp": 1}
    assert (finished["threadId"], finished["runId"], finished["outcome"]) == ("t", "r", {"type": "success"})
    assert "finishReason" not in finished
    assert finished["metadata"]["tanstack"]["finishReason"] == "stop"


@pytest.mark.parametrize(("client", "outcome"), [(MODERN, {"type": "cancelled"}), (OLD, None)])
def test_a_stop(client: Client, outcome: dict[str, str] | None) -> None:
    """AG-UI 1.0 gets a stop as its own outcome, which older clients would refuse."""
    call = {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "look"}
    events = events_of(answered("hi", call, end="stop"), client)
    check_rules(events, modern=client.is_modern)
    assert events[-1].get("outcome") == outcome


def test_an_approval_is_an_interrupt() -> None:
    """A pending approval is in the outcome, and its CUSTOM chunk is left out."""
    value = {
        "toolCallId": "c1",
        "toolName": "pay",
        "input": {},
        "approval": {"id": "approval_c1", "needsApproval": True},
    }
    call = {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "pay"}
    events = events_of(
        answered(
            call,
            {"type": "TOOL_CALL_END", "toolCallId": "c1"},
            {"type": "CUSTOM", "name": "approval-requested", "value": value},
        )
    )
    assert "CUSTOM" not in types(events)
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    assert (interrupt["id"], interrupt["reason"], interrupt["toolCallId"]) == ("approval_c1", "tool_call", "c1")


def test_a_call_that_the_client_has() -> None:
    """A call that a later run executes is not sent again, and neither is a result that the client posted."""
    call = [
        {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "pay"},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "{}"},
        {"type": "TOOL_CALL_END", "toolCallId": "c1"},
    ]
    result = {"type": "TOOL_CALL_RESULT", "messageId": "tool-c1", "toolCallId": "c1", "content": "paid"}
    run = [*answered()[:1], *call, result, *answered("Done.")[1:]]
    assert types(events_of(run, Client("t", "r", calls={"c1"})))[:2] == ["RUN_STARTED", "TOOL_CALL_RESULT"]
    posted = Client("t", "r", calls={"c1"}, results={("c1", "paid")})
    assert types(events_of(run, posted))[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]


def test_subagents() -> None:
    """An AG-UI 1.0 client gets a subagent's events with their attribution; other clients get none of them."""
    run = answered(
        {"type": "SUBAGENT_STARTED", "name": "researcher", **SUB},
        {"type": "TEXT_MESSAGE_START", "messageId": "s1", "role": "assistant", **SUB},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "s1", "delta": "I look.", **SUB},
        "It is blue.",
    )
    modern = events_of(run)
    check_rules(modern, modern=True)
    assert [event["delta"] for event in modern if event.get("subagentRunId") and "delta" in event] == ["I look."]
    assert types(modern).count("SUBAGENT_FINISHED") == 1, "a subagent that never ended ends with the run"
    old = events_of(run, OLD)
    check_rules(old, modern=False)
    assert [event["delta"] for event in old if "delta" in event] == ["It is blue."]


def test_a_snapshot_has_messages_of_ag_ui() -> None:
    """A snapshot has AG-UI's messages, because one with parts would end the run."""
    image = {"type": "image", "source": {"type": "url", "value": "https://example.org/a.png"}}
    messages = [
        {"id": "u1", "role": "user", "parts": [{"type": "text", "content": "look"}, image]},
        {
            "id": "a1",
            "role": "assistant",
            "parts": [
                {"type": "thinking", "content": "Hm.", "stepId": "th"},
                {"type": "text", "content": "Wait."},
                {"type": "tool-call", "id": "c1", "name": "find", "arguments": "{}", "state": "complete"},
                {"type": "tool-result", "toolCallId": "c1", "content": "here", "state": "complete"},
            ],
        },
    ]
    (event,) = events_of([{"type": "MESSAGES_SNAPSHOT", "messages": messages}])
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    assert event["messages"] == [
        {"id": "u1", "role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"id": "th", "role": "reasoning", "content": "Hm."},
        {"id": "a1", "role": "assistant", "content": "Wait.", "toolCalls": [call]},
        {"id": "tool-c1", "role": "tool", "toolCallId": "c1", "content": "here"},
    ]
    assert to_agui_messages([]) == []


def test_framing() -> None:
    """SSE has one event with LF line ends for each chunk, and NDJSON has one line."""
    run = answered("hi\r\nthere")
    sse, ndjson = AguiWire(MODERN), AguiWire(MODERN, is_ndjson=True)
    events = events_of(run)
    sent = b"".join(sse.chunk(chunk, "0") for chunk in run)
    assert b"\r" not in sent
    assert [json.loads(part.removeprefix("data: ")) for part in sent.decode().split("\n\n") if part] == events
    lines = b"".join(ndjson.chunk(chunk, "0") for chunk in run).splitlines()
    assert [json.loads(line) for line in lines] == events
