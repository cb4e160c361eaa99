"""The operations that assistant-ui's transport gets build the session's state when its runtime applies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings

from durable_chat.api.doors.assistant.messages import to_assistant_message
from durable_chat.api.doors.assistant.state import DONE, StateWire, state_of
from durable_chat.transcripts.transcript import Transcript
from tests.api.doors.states import Client
from tests.transcripts import wild_logs
from tests.transcripts.wild_logs import Log

RUN = "run-followed"
END = {"type": "RUN_FINISHED", "threadId": "s", "runId": RUN, "timestamp": 1}

many = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def folded(messages: Sequence[dict[str, Any]], log: Log) -> Transcript:
    made = Transcript()
    made.fold({"type": "MESSAGES_SNAPSHOT", "messages": list(messages)})
    made.fold_all(log)
    return made


def as_json(value: Any) -> Any:
    """Return the value as it arrives. JSON has no infinity, which unfinished JSON may temporarily have."""
    return msgspec.json.decode(msgspec.json.encode(value))


@given(log=wild_logs.written_logs())
@many
def test_every_step(log: Log) -> None:
    """After each chunk of a log from the session writer, the client has the log's messages."""
    wire, client, transcript = StateWire([], RUN), Client(), Transcript()
    client.take(wire.begin())
    for chunk in log:
        client.take(wire.chunk(chunk, ""))
        transcript.fold(chunk)
        assert client.state["messages"] == as_json(state_of(transcript.messages(), RUN))["messages"]
        assert client.state["isRunning"]


@given(log=wild_logs.damaged_logs())
@many
def test_damaged_logs(log: Log) -> None:
    """For a damaged log, the client has the log's messages at the end of a run, and knows that no run is active."""
    wire, client = StateWire([], RUN), Client()
    client.take(wire.begin())
    for chunk in [*log, END]:
        client.take(wire.chunk(chunk, ""))
    told = as_json(state_of(folded([], [*log, END]).messages(), None))
    assert {**client.state, "error": None} == told  # an error without a run id ends any run


def test_growing_text() -> None:
    """A long answer is sent once, in pieces to append: no chunk makes the client copy the text so far."""
    start: dict[str, Any] = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
    deltas: Log = [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": f" word{at}"} for at in range(1000)]
    end: dict[str, Any] = {"type": "TEXT_MESSAGE_END", "messageId": "m", "metadata": {"a": 1}}
    user = {"id": "u", "role": "user", "parts": [{"type": "text", "content": "hi"}]}
    wire, client = StateWire([user], RUN), Client()
    client.take(wire.begin())
    sizes = []
    for chunk in [start, *deltas, end, END]:
        data = wire.chunk(chunk, "")
        sizes.append(len(data))
        client.take(data)
    assert client.kinds.count("append-text") == len(deltas) - 1
    assert max(sizes) < 400
    assert client.state["messages"][1]["content"][0]["text"] == "".join(str(delta["delta"]) for delta in deltas)


def test_failure() -> None:
    """A failed run is in the state and also an error for the runtime, which reports it to the application."""
    wire, client = StateWire([], RUN), Client()
    client.take(wire.begin())
    client.take(wire.chunk({"type": "RUN_ERROR", "message": "It broke.", "code": "broken", "runId": RUN}, ""))
    assert client.state["error"] == {"message": "It broke.", "code": "broken"}
    assert not client.state["isRunning"]
    assert client.errors == ["It broke."]
    assert wire.end() == DONE


def test_another_run_before() -> None:
    """The end of an earlier run does not end the response while the followed answer waits."""
    wire, client = StateWire([], RUN), Client()
    client.take(wire.begin())
    client.take(wire.chunk({**END, "runId": "run-before"}, ""))
    assert client.state["isRunning"]
    assert client.state["runId"] == RUN


def test_messages() -> None:
    """The parts of a UIMessage have the names and shapes of assistant-ui's content."""
    approval = {"id": "approval_c1", "needsApproval": True}
    source = {"type": "data", "mimeType": "image/png", "value": "QQ=="}
    user = {
        "id": "u",
        "role": "user",
        "parts": [{"type": "text", "content": "hi"}, {"type": "image", "source": source}],
    }
    assert to_assistant_message(user)["content"] == [
        {"type": "text", "text": "hi"},
        {"type": "image", "image": "data:image/png;base64,QQ=="},
    ]
    answer = {
        "id": "a",
        "role": "assistant",
        "createdAt": "2026-01-02T03:04:05Z",
        "parts": [
            {"type": "thinking", "content": "hm"},
            {"type": "tool-call", "id": "c0", "name": "look", "arguments": "{}", "state": "complete", "output": 1},
            {"type": "tool-result", "toolCallId": "c0", "content": "1", "state": "complete"},
            {"type": "tool-call", "id": "c1", "name": "note", "arguments": "{}", "approval": approval},
            {"type": "document", "source": {"type": "url", "value": "/f", "mimeType": "text/plain"}},
            {"type": "new", "x": 1},
        ],
    }
    made = to_assistant_message(answer)
    assert made["content"] == [
        {"type": "reasoning", "text": "hm"},
        {"type": "tool-call", "toolCallId": "c0", "toolName": "look", "argsText": "{}", "result": 1, "isError": False},
        {
            "type": "tool-call",
            "toolCallId": "c1",
            "toolName": "note",
            "argsText": "{}",
            "approval": {"id": "approval_c1"},
        },
        {"type": "file", "data": "/f", "mimeType": "text/plain", "sourceType": "url"},
        {"type": "data", "name": "new", "data": {"type": "new", "x": 1}},
    ]
    assert made["status"] == {"type": "requires-action", "reason": "interrupt"}
    interrupt = {"id": "approval_c1", "reason": "tool_call", "toolCallId": "c1"}
    assert made["metadata"]["custom"] == {"createdAt": "2026-01-02T03:04:05Z", "agui": {"interrupts": [interrupt]}}
    run = {"runId": "r", "status": "failed", "error": "It broke."}
    failed = {"id": "a", "role": "assistant", "parts": [], "metadata": {"durableChat": {"run": run}}}
    assert to_assistant_message(failed)["status"] == {"type": "incomplete", "reason": "error", "error": "It broke."}
