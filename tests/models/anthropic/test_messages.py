"""The input for Anthropic is valid, whatever the session contains."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.models.anthropic.messages import (
    CONTINUE,
    OPENING,
    to_anthropic,
    tools_named_in,
)
from durable_chat.models.dialogues import NOT_APPROVED, UNANSWERED

BYTES = base64.b64encode(b"hello").decode()


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": list(parts)}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "role": "assistant", "parts": list(parts)}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def call(call_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "tool-call", "id": call_id, "name": "look", "arguments": "{}", "state": "input-complete", **fields}


def result(call_id: str, content: Any = "there", **fields: Any) -> dict[str, Any]:
    return {"type": "tool-result", "toolCallId": call_id, "content": content, "state": "complete", **fields}


def source(kind: str, media_type: str, value: str = BYTES) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "data", "value": value, "mimeType": media_type}}


def said(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


HI = user(text("hi"))


def test_a_conversation() -> None:
    made = to_anthropic([HI, assistant(text("hello")), user(text("and")), user(text("more"))])
    assert made == [
        {"role": "user", "content": [said("hi")]},
        {"role": "assistant", "content": [said("hello")]},
        {"role": "user", "content": [said("and"), said("more")]},
    ]


def test_what_is_empty_is_left_out() -> None:
    """Blank text, empty messages, unsigned thinking, and roles that clients must not use are left out."""
    empty = [
        assistant(),
        assistant(text(" \n")),
        assistant({"type": "thinking", "content": "hm"}),
        assistant({"type": "thinking", "content": "hm", "signature": "sig"}),
        {"id": "s", "role": "system", "parts": [text("obey")]},
        {"id": "d", "role": "developer", "parts": [text("obey")]},
        {"id": "t", "role": "tool", "content": "x"},
        {"id": "x"},
    ]
    assert to_anthropic([HI, *empty, user(text("you"))]) == [{"role": "user", "content": [said("hi"), said("you")]}]
    assert to_anthropic(empty) == []


def test_thinking_goes_back_with_its_signature() -> None:
    thinking = {"type": "thinking", "content": "hm", "signature": "sig", "stepId": "s"}
    hidden = {"type": "thinking", "content": "", "signature": "redacted:opaque"}
    made = to_anthropic([HI, assistant(thinking, hidden, text("so")), HI])
    assert made[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
        said("so"),
    ]


def test_rounds_of_a_tool_loop_are_taken_apart() -> None:
    """
    Each result is in the user turn right after its call, as Anthropic requires, although one UIMessage holds all
    rounds.
    """
    message = assistant(
        text("one"),
        call("a"),
        call("b"),
        result("a"),
        result("b", '{"n":1}', state="error"),
        text("two"),
        call("c"),
        result("c"),
        text("three"),
    )
    made = to_anthropic([HI, message, user(text("thanks"))])
    use = {"type": "tool_use", "name": "look", "input": {}}
    assert made[1:] == [
        {"role": "assistant", "content": [said("one"), use | {"id": "a"}, use | {"id": "b"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "there"},
                {"type": "tool_result", "tool_use_id": "b", "content": '{"n":1}', "is_error": True},
            ],
        },
        {"role": "assistant", "content": [said("two"), use | {"id": "c"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "there"}]},
        {"role": "assistant", "content": [said("three")]},
        {"role": "user", "content": [said("thanks")]},
    ]


@pytest.mark.parametrize(
    ("part", "content", "failed"),
    [
        (call("a"), UNANSWERED, True),
        (call("a", state="input-streaming", arguments='{"x'), UNANSWERED, True),
        (call("a", approval={"id": "p", "needsApproval": True}), NOT_APPROVED, True),
        (call("a", approval={"id": "p", "needsApproval": True, "approved": False}), NOT_APPROVED, True),
        (call("a", approval={"id": "p", "needsApproval": True, "approved": True}), UNANSWERED, True),
        (call("a", output={"n": 1}, state="complete"), '{"n":1}', False),
        (call("a", output={"error": "no"}, state="error"), '{"error":"no"}', True),
    ],
)
def test_a_call_without_a_result_gets_one(part: dict[str, Any], content: str, failed: bool) -> None:
    """
    After a stop, a crash or a missing approval, a call gets a result. A client's answer is taken from the call
    itself.
    """
    made = to_anthropic([HI, assistant(part)])
    block = {"type": "tool_result", "tool_use_id": "a", "content": content}
    assert made[-1]["content"] == [block | ({"is_error": True} if failed else {})]
    assert made[-2]["content"][0]["input"] == {}


def test_the_ends_are_the_users() -> None:
    made = to_anthropic([assistant(text("Welcome."))])
    assert [turn["content"][0]["text"] for turn in made] == [OPENING, "Welcome.", CONTINUE]


def test_ids_and_names_are_what_anthropic_takes() -> None:
    """Ids and names contain only allowed characters, and a repeated call counts once."""
    made = to_anthropic([HI, assistant(call("call:1/x", name="my tool"), call("call:1/x"), result("call:1/x"))])
    assert made[1]["content"] == [{"type": "tool_use", "id": "call_1_x", "name": "my_tool", "input": {}}]
    assert made[2]["content"] == [{"type": "tool_result", "tool_use_id": "call_1_x", "content": "there"}]
    assert tools_named_in(made) == [{"name": "my_tool", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            source("image", "image/png"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BYTES}},
        ),
        (
            {"type": "image", "source": {"type": "url", "value": "https://host/a.png"}},
            {"type": "image", "source": {"type": "url", "url": "https://host/a.png"}},
        ),
        (
            source("document", "application/pdf"),
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": BYTES}},
        ),
        (
            source("document", "text/csv"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hello"}},
        ),
    ],
)
def test_files_it_can_read(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert to_anthropic([user(part)]) == [{"role": "user", "content": [block]}]


@pytest.mark.parametrize(
    "part",
    [
        source("audio", "audio/mp3"),
        source("video", "video/mp4"),
        source("image", "image/tiff"),
        source("image", "image/png", "not base64!"),
        source("document", "text/plain", "not base64!"),
        source("document", "application/zip"),
        {"type": "image", "source": {"type": "url", "value": "file:///etc/passwd"}},
        {"type": "image", "source": 5},
        {"type": "image"},
    ],
)
def test_files_it_cannot_read_are_told_of(part: dict[str, Any]) -> None:
    """A sentence replaces the file, and the request is not refused."""
    (turn,) = to_anthropic([user(part)])
    assert turn["content"][0]["type"] == "text"


def test_a_tools_pictures_arrive() -> None:
    made = to_anthropic([HI, assistant(call("a"), result("a", [text("see"), source("image", "image/png")]))])
    assert [block["type"] for block in made[-1]["content"][0]["content"]] == ["text", "image"]


IDS = st.sampled_from(["a", "b", "c/d"])
PARTS = st.one_of(
    st.builds(text, st.sampled_from(["", " ", "words"])),
    st.builds(call, IDS, output=st.sampled_from([None, 1, {"a": 1}]), arguments=st.sampled_from(["", "{", "[]", "{}"])),
    st.builds(
        result, IDS, st.sampled_from(["", "x", 5, [], [text("x")]]), state=st.sampled_from(["complete", "error"])
    ),
    st.sampled_from([{"type": "thinking", "content": "hm"}, {"type": "thinking", "content": "hm", "signature": "s"}]),
    st.sampled_from([{"type": "structured-output", "raw": "{}"}, {"type": "new"}, {}, source("image", "image/png")]),
)
MESSAGES = st.builds(
    lambda role, parts: {"id": "m", "role": role, "parts": parts},
    st.sampled_from(["user", "assistant", "assistant", "system"]),
    st.lists(PARTS, max_size=6),
)


@given(messages=st.lists(MESSAGES, max_size=6))
def test_what_anthropic_is_given_is_valid(messages: list[dict[str, Any]]) -> None:
    """Roles alternate, nothing is empty, and every call has its result in the next turn, and only there."""
    made = to_anthropic(messages)
    assert [turn["role"] for turn in made] == (["user", "assistant"] * len(made))[: len(made)]
    assert not made or made[-1]["role"] == "user"
    seen: set[str] = set()
    pending: list[str] = []
    for turn in made:
        assert turn["content"]
        assert all(block.get("text", "x").strip() for block in turn["content"])
        results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
        assert results == pending
        assert [block["type"] for block in turn["content"][: len(results)]] == ["tool_result"] * len(results)
        pending = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        assert not seen & set(pending)
        assert len(set(pending)) == len(pending)
        seen |= set(pending)
    assert not pending
