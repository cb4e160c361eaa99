"""
Lone surrogates (RFC 8259 section 8.2), which JavaScript's strings and JSON may contain. A stream keeps them, a chat
shows U+FFFD, and no accepted input makes a session unreadable.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_chat.app import create_app
from durable_chat.config.settings import Settings
from durable_chat.protocol.messages import JSON, parse_payload, split_array
from durable_chat.protocol.surrogates import mend_halves
from tests.app.test_library import asking
from tests.sessions.serving import Chat, ended, script, serve_chat, texts, user

HALF = "a\ud800b"
MENDED = "a\ufffdb"
TYPE = {"Content-Type": "application/json"}


async def post(chat: Chat, body: dict[str, Any]) -> None:
    """Post as a JavaScript client does, with the lone surrogate as an escape."""
    text = json.dumps(body)
    assert rb"\ud800" in text.encode()
    answer = await chat.client.post("/api/chat?id=s&mode=await", content=text, headers=TYPE)
    assert answer.status_code == 200, answer.text


async def readable(chat: Chat) -> list[tuple[str, str]]:
    """Return the result of every kind of read, none of which fails."""
    snapshot = await chat.snapshot("s")
    (caught_up,) = (await chat.client.get("/api/chat-stream?id=s")).json()
    assert caught_up["messages"] == snapshot["messages"]
    await chat.until("s", ended())
    return texts(snapshot)


async def test_in_a_users_message() -> None:
    """A user's message with a lone surrogate is accepted and shown with U+FFFD."""
    async with serve_chat(script()) as chat:
        await post(chat, {"messages": [user(HALF)]})
        assert (await readable(chat))[0] == ("user", MENDED)


async def test_in_what_is_beside_the_message() -> None:
    """A lone surrogate in the history, the data, the tools or a long body is accepted too."""
    model = script()
    async with serve_chat(model) as chat:
        history = [user(HALF, "u0"), {"id": "a0", "role": "assistant", "parts": [{"type": "text", "content": HALF}]}]
        tools = [{"name": "look", "description": HALF, "parameters": {"type": "object"}}]
        body = {"messages": [*history, user("x" * 300_000)], "data": {"k": HALF}, "tools": tools}
        await post(chat, body)
        assert (await readable(chat))[:2] == [("user", MENDED), ("assistant", MENDED)]
        assert model.turns[0].data == {"k": MENDED}


async def test_from_a_model() -> None:
    """A model's text, and its own chunk, are written with U+FFFD."""
    custom = {"type": "CUSTOM", "name": "x", "value": {"k": HALF}}
    async with serve_chat(script(after=[HALF, custom])) as chat:
        await chat.post("s", user("hi"), mode="await")
        assert (await readable(chat))[1] == ("assistant", "Hel" + MENDED)
        assert {"k": MENDED} in [chunk.get("value") for chunk in await chat.chunks("s")]


async def test_appended_by_others() -> None:
    """The protocol's route accepts it as valid JSON and stores it unchanged. The session reads it with U+FFFD."""
    chat = create_app(Settings(store="memory://", model="demo", demo_delay_ms=0))
    first = rb'{"type":"TEXT_MESSAGE_START","messageId":"m","role":"user"}'
    second = rb'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"a\uD800b \ud83d\ude00 \\ud800"}'
    async with chat.lifespan(), asking(chat.app) as client:
        await client.put("/v1/stream/chat-s", headers=TYPE)
        answer = await client.post("/v1/stream/chat-s", content=b"[ %s , %s ]" % (first, second), headers=TYPE)
        assert answer.status_code == 204, answer.text
        assert (await client.get("/v1/stream/chat-s")).content == b"[%s,%s]" % (first, second)
        snapshot = (await client.get("/api/chat-snapshot?id=s")).json()
        assert texts(snapshot) == [("user", "a\ufffdb \U0001f600 \\ud800")]
        answer = await client.post("/api/chat?id=s&mode=await", json={"messages": [user("hi")]})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("body", [b'["\\ud8"]', b'["\xed\xa0\x80"]', b'["\\ud800]', b'"\\ud800" x', b'{"\\ud800"}'])
async def test_what_is_no_json_is_refused(body: bytes) -> None:
    """An incomplete escape and an encoded surrogate are refused, because they are neither JSON nor UTF-8."""
    chat = create_app(Settings(store="memory://", model="demo"))
    async with chat.lifespan(), asking(chat.app) as client:
        await client.put("/v1/stream/s", headers=TYPE)
        answer = await client.post("/v1/stream/s", content=body, headers=TYPE)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_json")
        answer = await client.post("/api/chat?id=s", content=b'{"messages":%s}' % body, headers=TYPE)
        assert (answer.status_code, answer.json()["code"][:4]) == (400, "bad_")
        assert (await client.get("/v1/stream/s")).content == b"[]"


def test_the_messages_are_those_that_came() -> None:
    """Messages are split as usual: separators are dropped, and both halves of a pair stay together."""
    values = [
        rb'"\ud800"',
        b"1",
        b"1",
        b'[[ 1 ,"1"]]',
        rb'{"\uDFFF":"\ud83d\ude00"}',
        rb'"\\ud800"',
        rb'"\ud800\ud83d\ude00"',
    ]
    payload = parse_payload(JSON, b"[ " + b" ,\n".join(values) + b" ]")
    assert payload.data == b",".join(values)
    assert payload.lengths == tuple(map(len, values))
    assert split_array(payload.data) == values
    assert parse_payload(JSON, rb' "\udc00" ').data == rb'"\udc00"'
    assert mend_halves(rb'"\\ud800 \ud83d\ude00"') is None
    assert mend_halves(rb'"\ud800\ud83d\ude00\udc00"') == rb'"\ufffd\ud83d\ude00\ufffd"'
