"""An agent's interrupts become chunks that every tab can answer. Other interrupts stay unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.interrupts import split_interrupts


def finished(*interrupts: Any) -> dict[str, Any]:
    outcome = {"type": "interrupt", "interrupts": list(interrupts)}
    return {
        "type": "RUN_FINISHED",
        "timestamp": 5,
        "metadata": {"tanstack": {"finishReason": "tool_calls"}},
        "outcome": outcome,
    }


def asked(kind: str, reason: str, **fields: Any) -> dict[str, Any]:
    metadata = {"kind": kind, "toolName": "look", "input": {"a": 1}}
    return {"id": f"i-{kind}", "reason": reason, "toolCallId": "c", "metadata": metadata, **fields}


@pytest.mark.parametrize(("kind", "reason"), [("approval", "tool_call"), ("x", "approval_required")])
def test_an_approval(kind: str, reason: str) -> None:
    (chunk,), rest = split_interrupts(finished(asked(kind, reason)))
    assert (chunk["type"], chunk["name"], chunk["timestamp"]) == ("CUSTOM", "approval-requested", 5)
    approval = {"id": f"i-{kind}", "needsApproval": True}
    assert chunk["value"] == {"toolCallId": "c", "toolName": "look", "input": {"a": 1}, "approval": approval}
    assert "outcome" not in rest


@pytest.mark.parametrize(
    ("kind", "reason"), [("client_tool", "tanstack:client_tool_execution"), ("x", "client_tool_input")]
)
def test_a_tool_of_the_client(kind: str, reason: str) -> None:
    (chunk,), rest = split_interrupts(finished(asked(kind, reason)))
    assert (chunk["name"], chunk["value"]) == (
        "tool-input-available",
        {"toolCallId": "c", "toolName": "look", "input": {"a": 1}},
    )
    assert "outcome" not in rest


PLAIN = {"id": "i-1", "reason": "tool_call", "toolCallId": "c"}


@pytest.mark.parametrize("schema", [None, {"type": "object", "properties": {"approved": {"type": "boolean"}}}])
def test_an_approval_of_ag_ui(schema: Any) -> None:
    """An interrupt without TanStack's metadata, as of pydantic-ai, is an approval if its answer is a yes or a no."""
    (chunk,), rest = split_interrupts(finished(PLAIN | ({"responseSchema": schema} if schema else {})))
    assert (chunk["name"], chunk["value"]["approval"]["id"]) == ("approval-requested", "i-1")
    assert "outcome" not in rest
    other = PLAIN | {"responseSchema": {"type": "object", "properties": {"colour": {"type": "string"}}}}
    assert split_interrupts(finished(other)) == ([], finished(other))


@pytest.mark.parametrize("other", [asked("generic", "question"), asked("approval", "x", toolCallId=None), 5, {}])
def test_what_is_neither_stays(other: Any) -> None:
    """Any other interrupt stays, both alone and beside an approval."""
    alone = finished(other)
    assert split_interrupts(alone) == ([], alone)
    (chunk,), rest = split_interrupts(finished(asked("approval", "tool_call"), other))
    assert (chunk["name"], rest["outcome"]["interrupts"]) == ("approval-requested", [other])


@pytest.mark.parametrize("outcome", [None, 5, {"type": "success"}, {"type": "interrupt", "interrupts": 5}])
def test_what_is_no_interrupt(outcome: Any) -> None:
    chunk = {"type": "RUN_FINISHED", "outcome": outcome}
    assert split_interrupts(chunk) == ([], chunk)


def test_the_run_ends_as_one_that_stopped() -> None:
    """
    The run ends with `stop`. With another reason, the sending tab would wait for the model, which waits for the tab.
    """
    run = RunChunks("r", "s", lambda: "new", lambda: 0)
    run.accept({"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look"})
    made = run.accept(finished(asked("approval", "tool_call")))
    assert [chunk["type"] for chunk in made] == ["CUSTOM", "TOOL_CALL_END", "TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert made[-1]["metadata"]["tanstack"]["finishReason"] == made[-1]["finishReason"] == "stop"
    assert "outcome" not in made[-1]
