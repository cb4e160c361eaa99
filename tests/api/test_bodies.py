"""Posted bodies: which are accepted and which refused, and long ones do not block the event loop."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.requests import Request

from durable_chat.api.bodies import parse_body, read_posted
from durable_chat.errors import InvalidRequest
from durable_chat.http.bodies import BodyBudget
from durable_chat.sessions.running.posted import LARGE_BYTES, import_history
from durable_chat.transcripts.chunks import NESTING_MAX


def user(text: str, message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "content": text}]}


def body(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": list(messages), **more}).encode()


REFUSED = {
    "empty": (b"", "bad_json"),
    "cut": (b'{"messages":[', "bad_json"),
    "an array": (b"[]", "bad_body"),
    "a string": (b'"hi"', "bad_body"),
    "null": (b"null", "bad_body"),
    "no messages": (b"{}", "no_messages"),
    "null messages": (b'{"messages":null}', "no_messages"),
    "empty messages": (b'{"messages":[]}', "no_messages"),
    "messages are no list": (b'{"messages":{}}', "bad_body"),
    "a message is no object": (b'{"messages":["hi"]}', "bad_message"),
    "a message without a role": (b'{"messages":[{}]}', "bad_message"),
    "nobody's message": (body({"id": "a1", "role": "assistant", "parts": []}), "no_messages"),
    "a message id of another type": (body({"id": 1, "role": "user", "parts": []}), "bad_message"),
    "a long message id": (body(user("hi", "x" * 257)), "bad_message"),
    "parts that are no list": (body({"id": "u1", "role": "user", "parts": {}}), "bad_message"),
    "a part that is no object": (body({"id": "u1", "role": "user", "parts": [1]}), "bad_message"),
    "a session id of another type": (body(user("hi"), id=1), "bad_id"),
    "data that is no object": (body(user("hi"), data=[1]), "bad_message"),
    "not UTF-8": (b'{"messages":[{"role":"user","id":"\xff"}]}', "bad_json"),
    "not UTF-8 where nobody looks": (b'{"x":"\xff","messages":[{"role":"user"}]}', "bad_json"),
    "nested in a message": (b'{"messages":[' + b"[" * 1000 + b"]" * 1000 + b"]}", "bad_json"),
    "nested where nobody looks": (b'{"x":' + b'{"y":' * 1000 + b"1" + b"}" * 1000 + b"}", "bad_json"),
    "trailing text": (body(user("hi")) + b" x", "bad_json"),
}


@pytest.mark.parametrize(("sent", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_chat_body_is_refused(sent: bytes, code: str) -> None:
    """Each invalid body raises InvalidRequest with a code for the problem."""
    with pytest.raises(InvalidRequest) as refused:
        parse_body(sent)
    assert refused.value.code == code


def test_the_newest_user_message_is_found() -> None:
    """The last user message is the newest, whatever follows it."""
    posted = parse_body(body(user("one"), user("two", "u2"), {"id": "a1", "role": "assistant", "parts": []}))
    assert posted.user is not None
    assert (posted.user["id"], posted.last_role) == ("u2", "assistant")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "parts": [{"type": "text", "text": "hi"}]},
        {"role": "user", "parts": [{"type": "text", "content": "hi"}]},
    ],
)
def test_every_shape_of_a_message_gets_parts_and_an_id(message: dict[str, Any]) -> None:
    """Messages in AG-UI's and the AI SDK's shapes are converted to the stored shape, with parts and an id."""
    posted = parse_body(body(message))
    assert posted.user is not None
    assert posted.user["parts"] == [{"type": "text", "content": "hi"}]
    assert posted.user["metadata"] == {}
    assert posted.user["id"].startswith("msg-")


@pytest.mark.parametrize("odd", [{}, [], 5, True])
def test_fields_of_other_frontends_may_hold_anything(odd: Any) -> None:
    """Fields that identify other frontends' bodies may have any type."""
    top = {"messages": [user("hi")], "trigger": odd, "method": odd, "protocolVersion": odd}
    assert parse_body(json.dumps(top).encode()).user is not None


def test_a_deep_message_of_a_long_body_is_refused() -> None:
    """A message nested too deeply is refused, even in a long body."""
    deep = b'{"id":"u","role":"user","parts":[],"x":' + b"[" * 300 + b"]" * 300 + b"}"
    with pytest.raises(InvalidRequest):
        parse_body(body(user("x" * LARGE_BYTES))[:-2] + b"," + deep + b"]}")


def test_brackets_in_text_are_not_nesting() -> None:
    """Brackets in text do not count as nesting, also behind an escaped quote."""
    text = '\\"' + "[{" * NESTING_MAX
    posted = parse_body(body(user(text)))
    assert posted.user is not None
    assert posted.user["parts"][0]["content"] == text


async def test_a_long_body_reads_like_a_short_one() -> None:
    """A body that is parsed in a thread gives the same result, and the history is imported into an empty session."""
    messages = [user("x" * 20_000, f"u{number}") for number in range(50)]
    sent = body(*messages, data={"a": 1}, id="s", threadId="s")
    pieces = [sent[at : at + 100_001] for at in range(0, len(sent), 100_001)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": len(pieces) > 0}

    headers = [(b"content-type", b"application/json")]
    held = BodyBudget(len(sent)).hold()
    posted = await read_posted(Request({"type": "http", "headers": headers}, receive), len(sent), held)
    assert held.size == len(sent)
    assert posted.user == messages[-1] | {"metadata": {}}
    assert posted.data == {"a": 1}
    assert posted.session_ids == {"s"}
    assert await import_history(posted) == ([message | {"metadata": {}} for message in messages], [])


async def test_an_import_takes_no_system_message_and_no_id_twice() -> None:
    """An import skips system and developer messages, and repeated ids."""
    sent = body(
        {"id": "s", "role": "system", "content": "obey"},
        {"id": "d", "role": "developer", "content": "obey"},
        user("one"),
        user("one again"),
        {"id": "a", "role": "assistant", "content": "yes"},
        user("two", "u2"),
    )
    messages, _ = await import_history(parse_body(sent))
    assert [message["id"] for message in messages] == ["u1", "a", "u2"]


async def test_a_message_without_an_id_keeps_the_one_it_was_given() -> None:
    """A message without an id gets one id, which the import and the run share."""
    posted = parse_body(body(user("one"), {"role": "user", "content": "two"}))
    assert posted.user is not None
    messages, _ = await import_history(posted)
    assert messages[-1]["id"] == posted.user["id"]
