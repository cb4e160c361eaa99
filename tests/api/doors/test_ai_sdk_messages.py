"""Conversion between the AI SDK's messages and a session's, in both directions."""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.api.doors.ai_sdk.messages import (
    from_ai_sdk_messages,
    last_answer,
    latest_answers,
    to_ai_sdk_messages,
)
from durable_chat.transcripts.schemas import message_problem
from durable_chat.transcripts.tool_answers import DENIED_RESULT

Message = dict[str, Any]

STEP: dict[str, Any] = {"type": "step-start"}


def tool(state: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool-look", "toolCallId": "c1", "state": state, "input": {"a": 1}, **more}


def answer(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a1", "role": "assistant", "parts": list(parts)}


APPROVED, DENIED = {"id": "q1", "approved": True}, {"id": "q1", "approved": False}

PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "Hi.", "state": "done"},
    {"type": "reasoning", "text": "Hm.", "state": "done", "id": "s1"},
    {
        "type": "reasoning",
        "text": "",
        "state": "done",
        "id": "s1",
        "providerMetadata": {"anthropic": {"signature": "sig"}},
    },
    tool("input-available"),
    tool("input-available", toolMetadata={"thoughtSignature": "sig"}),
    {"type": "tool-look", "toolCallId": "c1", "state": "input-streaming", "input": {"a": 1}, "rawInput": '{"a":1'},
    tool("approval-requested", approval={"id": "q1"}),
    tool("approval-responded", approval=APPROVED),
    tool("approval-responded", approval=DENIED),
    {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA", "filename": "a.png"},
    {"type": "file", "mediaType": "application/pdf", "url": "https://example.com/a.pdf"},
    {"type": "data-weather", "id": "w1", "data": {"sun": True}},
    {"type": "data-structured-output", "id": "a1", "data": {"status": "complete", "raw": "{}", "data": {}}},
    {"type": "data-ui-resource", "data": {"resource": {"uri": "ui://a"}, "toolCallId": "c1", "toolName": "look"}},
    {"type": "source-url", "sourceId": "s", "url": "https://example.com", "title": "A"},
    {"type": "source-document", "sourceId": "s", "mediaType": "text/plain", "title": "A"},
]
SETTLED = [
    tool("output-available", output={"b": 2}),
    tool("output-available", output="1"),
    tool("output-available", output=None),
    tool("output-available", output={"b": 2}, approval=APPROVED),
    tool("output-error", errorText="No net."),
    tool("output-denied", approval=DENIED),
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_survives(part: dict[str, Any]) -> None:
    """A part of the AI SDK is valid in a session and converts back unchanged."""
    message = answer(STEP, part)
    (kept,) = from_ai_sdk_messages([message])
    assert message_problem(kept) is None
    assert to_ai_sdk_messages([kept]) == [message]


@pytest.mark.parametrize("part", SETTLED)
def test_a_settled_call_survives(part: dict[str, Any]) -> None:
    """A settled call converts back with an empty step behind it, which keeps the SDK from sending it again."""
    (kept,) = from_ai_sdk_messages([answer(STEP, part)])
    assert message_problem(kept) is None
    assert to_ai_sdk_messages([kept]) == [answer(STEP, part, STEP)]


def test_each_step_is_a_message() -> None:
    """
    An answer with steps becomes one message for each step, and these become one answer again with the id of the
    first.
    """
    question = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}], "metadata": {"mood": "glad"}}
    whole = answer(STEP, tool("output-available", output=1), STEP, PARTS[0])
    kept = from_ai_sdk_messages([question, whole])
    assert [message["id"] for message in kept] == ["u1", "a1", "a1-step-2"]
    assert to_ai_sdk_messages(kept) == [question, whole]


def test_the_latest_answers() -> None:
    """
    The search for the latest answers starts at the end and gives the same answers as the whole session. A question at
    the end has none yet.
    """
    question: Message = {"role": "user", "parts": [{"type": "text", "content": "hi"}], "metadata": {}}
    steps: list[Message] = [{"id": f"a{at}", "role": "assistant", "parts": [], "metadata": {}} for at in range(5)]
    messages: list[Message] = [steps[0], question | {"id": "u1"}, *steps[1:3], question | {"id": "u2"}, *steps[3:]]
    whole = [message for message in to_ai_sdk_messages(messages) if message["role"] == "assistant"]
    assert [*latest_answers(messages)] == whole[::-1]
    assert last_answer(messages) == whole[-1]
    assert last_answer(messages[:-2]) is last_answer([]) is None


def test_a_dynamic_tool_is_read() -> None:
    """A call of a dynamic tool is read like any other."""
    part = {"type": "dynamic-tool", "toolName": "look", "toolCallId": "c1", "state": "input-available", "input": {}}
    (kept,) = from_ai_sdk_messages([answer(part)])
    assert (kept["parts"][0]["name"], kept["parts"][0]["state"]) == ("look", "input-complete")


@pytest.mark.parametrize("media_type", ["image", "image/*"])
def test_a_type_of_a_family(media_type: str) -> None:
    """SDK 7 may give only the family of a file's type. The type then comes from the data."""
    part = {"type": "file", "mediaType": media_type, "url": "data:image/png;base64,AAAA"}
    (kept,) = from_ai_sdk_messages([{"id": "u1", "role": "user", "parts": [part]}])
    assert kept["parts"] == [{"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}}]


@pytest.mark.parametrize("kind", ["data-structured-output", "data-ui-resource"])
def test_data_of_another_shape_is_kept(kind: str) -> None:
    """A data part with one of our names but another shape is kept as ordinary data."""
    part = {"type": kind, "data": {"type": "text", "raw": 5}}
    (kept,) = from_ai_sdk_messages([answer(part)])
    assert message_problem(kept) is None
    assert kept["parts"] == [part]


def test_a_denied_call_has_the_result_of_one() -> None:
    """A denied call gets a result that tells the model of the denial, as with other frontends."""
    (kept,) = from_ai_sdk_messages([answer(SETTLED[-1])])
    assert [part["type"] for part in kept["parts"]] == ["tool-call", "tool-result"]
    assert kept["parts"][1]["content"] == DENIED_RESULT


def test_the_servers_own_metadata_stays() -> None:
    """AI SDK clients do not get the server's own metadata of a message."""
    message = {"id": "u1", "role": "user", "parts": [], "metadata": {"tanstack": {}, "durableChat": {}, "mood": "glad"}}
    assert to_ai_sdk_messages([message])[0]["metadata"] == {"mood": "glad"}
