"""An invalid part of a posted message is refused with its path. In a log, it costs only that part."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Append, Create
from tests.sessions.serving import ANSWER_MAX_S, Chat, script, serve_chat, texts, user


def answer(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"id": "a1", "role": "assistant", "parts": list(parts), **more}


CALL = {"type": "tool-call", "id": "c1", "name": "look", "arguments": "{}", "state": "input-complete"}
RESULT = {"type": "tool-result", "toolCallId": "c1", "content": "1", "state": "complete"}

MESSAGES: dict[str, tuple[Any, str]] = {
    "a call without an id": (answer({"type": "tool-call"}), "parts[0].id must be a string, not missing"),
    "a call whose id is a list": (answer({**CALL, "id": []}), "parts[0].id must be a string, not a list"),
    "a call whose state is a list": (answer({**CALL, "state": []}), "parts[0].state must be a string, not a list"),
    "a call's approval": (answer({**CALL, "approval": []}), "parts[0].approval must be an object, not a list"),
    "an approval's word": (
        answer({**CALL, "approval": {"approved": "yes"}}),
        "parts[0].approval.approved must be true or false, not 'yes'",
    ),
    "a call's arguments": (answer({**CALL, "arguments": {}}), "parts[0].arguments must be a string, not an object"),
    "a result without a call": (
        answer(CALL, {"type": "tool-result", "content": "1"}),
        "parts[1].toolCallId must be a string, not missing",
    ),
    "a result whose call is a list": (
        answer({**RESULT, "toolCallId": []}),
        "parts[0].toolCallId must be a string, not a list",
    ),
    "a part whose type is a list": (answer({"type": []}), "parts[0].type must be a string, not a list"),
    "a part without a type": (answer({}), "parts[0].type must be a string, not missing"),
    "a part that is a number": (answer(5), "parts[0] must be an object, not a number"),
    "a text that is a number": (
        answer({"type": "text", "content": 5}),
        "parts[0].content must be a string, not a number",
    ),
    "a thought that is a number": (
        answer({"type": "thinking", "content": 5}),
        "parts[0].content must be a string, not a number",
    ),
    "a file without a source": (answer({"type": "image"}), "parts[0].source must be an object, not missing"),
    "a file whose type is a list": (
        answer({"type": "image", "source": {"type": [], "value": "x"}}),
        "parts[0].source.type must be a string, not a list",
    ),
    "a result's call in AG-UI's shape": (
        {"id": "t1", "role": "tool", "toolCallId": [], "content": "1"},
        "toolCallId must be a string, not a list",
    ),
    "a call in AG-UI's shape": (
        {"id": "a1", "role": "assistant", "toolCalls": [{"id": [], "function": {"name": "look"}}]},
        "toolCalls[0].id must be a string, not a list",
    ),
    "content of numbers": (
        {"id": "a1", "role": "assistant", "content": [5]},
        "content[0] must be an object, not a number",
    ),
    "parts that are an object": (
        {"id": "a1", "role": "assistant", "parts": {}},
        "parts must be a list of objects, not an object",
    ),
    "a role that is a list": (
        {"id": "a1", "role": ["assistant"], "parts": []},
        "role must be one of user, system, developer, reasoning, assistant, tool, activity, not a list",
    ),
    "a role that is unknown": (
        {"id": "a1", "role": "root", "parts": []},
        "role must be one of user, system, developer, reasoning, assistant, tool, activity, not 'root'",
    ),
    "an id that is a list": ({"id": [], "role": "assistant", "parts": []}, "id must be a string, not a list"),
}


@pytest.mark.parametrize("place", [0, 1, -1], ids=["first", "in the middle", "last"])
async def test_what_is_posted_is_checked_whole(place: int) -> None:
    """400 names the path, nothing is written, and the session accepts the next turn."""
    async with serve_chat(script()) as chat:
        for session_id, (message, problem) in MESSAGES.items():
            posted = [user("one", "u8"), user("hi", "u9")]
            posted.insert(place if place >= 0 else len(posted), message)
            refused = await chat.post(session_id, *posted)
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_message"), session_id
            assert refused.json()["error"] == f"messages[{posted.index(message)}].{problem}."
            await goes_on(chat, session_id, [])


@pytest.mark.parametrize(
    "part", [{"type": "tool-call"}, {"type": []}, {"type": "tool-result", "toolCallId": {}}], ids=json.dumps
)
async def test_the_users_own_message_is_checked_too(part: dict[str, Any]) -> None:
    """A single invalid message must not make its session unusable."""
    async with serve_chat(script()) as chat:
        refused = await chat.post("s", {"id": "m", "role": "user", "parts": [part]})
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_message")
        assert re.match(r"messages\[0\]\.parts\[0\]\.\w+ must be a string", refused.json()["error"])
        await goes_on(chat, "s", [])


async def append(chat: Chat, session_id: str, *chunks: Any) -> None:
    """Append as a client with the stream's secret does."""
    path, log = chat.runs.sessions.path_of(session_id), chat.store.log
    await log.create(path, Create(JSON))
    await log.append(path, Append(join_messages([json.dumps(chunk).encode() for chunk in chunks]), JSON))


async def goes_on(chat: Chat, session_id: str, before: list[tuple[str, str]]) -> None:
    """Check that the session can be read and that its next turn is answered."""
    assert texts(await chat.snapshot(session_id)) == before
    taken = await chat.post(session_id, user("next", "next"))
    assert taken.status_code == 202, taken.text
    await chat.runs.drain(ANSWER_MAX_S, for_good=False)
    assert texts(await chat.snapshot(session_id)) == [*before, ("user", "next"), ("assistant", "Hello.")]


async def test_what_a_log_holds_costs_the_part_it_is_in() -> None:
    """
    If a snapshot in the log has such a message, the part is shown as unreadable, other messages are shown, and turns
    work.
    """
    whole = {"id": "a0", "role": "assistant", "parts": [{"type": "text", "content": "whole"}]}
    async with serve_chat(script()) as chat:
        for session_id, (message, problem) in MESSAGES.items():
            await append(chat, session_id, {"type": "MESSAGES_SNAPSHOT", "messages": [user("one"), message, whole]})
            shown = (await chat.snapshot(session_id))["messages"]
            assert [shown[0]["id"], shown[-1]["id"]] == ["u1", "a0"]
            wrong = [part for each in shown for part in each["parts"] if part["type"] == "unreadable"]
            if problem.startswith(("parts[", "toolCalls[")):
                assert [" must be " in part["reason"] for part in wrong] == [True], session_id
            await goes_on(chat, session_id, texts({"messages": shown}))


ALONE = {
    "a result whose call is a list": {"type": "TOOL_CALL_RESULT", "toolCallId": [], "content": "1"},
    "a call without an id": {"type": "TOOL_CALL_START", "toolCallName": "look"},
    "an approval without a call": {"type": "CUSTOM", "name": "approval-requested", "value": {"approval": {"id": []}}},
    "a turn in the queue whose message has no parts": {
        "type": "CUSTOM",
        "name": "durable-chat.turn-queued",
        "value": {"runId": "r1", "message": {"id": "q", "parts": 5}},
    },
    "no chunk": [[], 5, None],
    "a time that is none": {"type": "RUN_STARTED", "runId": "r0", "timestamp": 1e308},
    "metadata that is a list": {"type": "TEXT_MESSAGE_START", "messageId": "m", "metadata": [1]},
}


async def test_any_chunk_in_a_log_costs_itself_alone() -> None:
    """A chunk with any value in any field is skipped alone."""
    async with serve_chat(script()) as chat:
        for session_id, chunk in ALONE.items():
            await append(chat, session_id, chunk)
            taken = await chat.post(session_id, user("next", "next"), mode="await")
            assert taken.status_code == 200, taken.text
            assert texts(await chat.snapshot(session_id))[-2:] == [("user", "next"), ("assistant", "Hello.")]


@pytest.mark.parametrize("levels", [150, 260, 900])
async def test_deep_values_are_cut_and_the_rest_is_read(levels: int) -> None:
    """The protocol accepts deeper nesting than the chat. Values that are too deep become null, or text in arguments."""
    nested = "[" * levels + "]" * levels
    call = answer({**CALL, "input": json.loads(nested)}, {"type": "text", "content": "kept"})
    args = {"type": "TOOL_CALL_ARGS", "toolCallId": "c2", "delta": nested}
    chunks = [
        {"type": "MESSAGES_SNAPSHOT", "messages": [user("one"), call]},
        {"type": "TOOL_CALL_START", "toolCallId": "c2", "toolCallName": "look", "parentMessageId": "a1"},
        *(args, {"type": "TOOL_CALL_END", "toolCallId": "c2"}),
        {"type": "TOOL_CALL_RESULT", "toolCallId": "c2", "content": nested},
    ]
    async with serve_chat(script()) as chat:
        await append(chat, "s", *chunks)
        await goes_on(chat, "s", [("user", "one"), ("assistant", "kept")])
        shown = (await chat.snapshot("s"))["messages"][1]["parts"]
        assert [part["type"] for part in shown] == ["tool-call", "text", "tool-call", "tool-result"]
        assert shown[3]["content"] == nested
