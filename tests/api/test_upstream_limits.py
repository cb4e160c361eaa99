"""
This server's routes keep what the upstream transport loses on a reload. docs/explanation/upstream-limits.md has the
whole list.
"""

from __future__ import annotations

from typing import Any

from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Append, Create
from durable_chat.transcripts.codec import encode_chunks
from tests.sessions.serving import Chat, script, serve_chat, texts, user


async def shown(chat: Chat) -> list[dict[str, Any]]:
    """Return the messages that a new tab begins with."""
    (chunk,) = (await chat.client.get("/api/chat-stream?id=s")).json()
    messages: list[dict[str, Any]] = chunk["messages"]
    assert messages == (await chat.snapshot("s"))["messages"]
    return messages


async def test_text_and_tools_keep_their_order() -> None:
    """
    After a reload, text, a tool's call with its result and later text keep their order, and the texts are separate.
    """
    call = {"toolCallId": "c1"}
    answer = [
        "Let me look. ",
        {"type": "TOOL_CALL_START", **call, "toolCallName": "look"},
        {"type": "TOOL_CALL_ARGS", **call, "delta": '{"at":1}'},
        {"type": "TOOL_CALL_END", **call},
        {"type": "TOOL_CALL_RESULT", **call, "messageId": "r1", "content": '{"seen":2}'},
        "It is two.",
    ]
    async with serve_chat(script(before=answer, after=[])) as chat:
        await chat.post("s", user("look"), mode="await")
        parts = [part for message in (await shown(chat))[1:] for part in message["parts"]]
        assert [part["type"] for part in parts] == ["text", "tool-call", "tool-result", "text"]
        assert [part.get("content") for part in parts] == ["Let me look. ", None, '{"seen":2}', "It is two."]
        assert parts[1]["output"] == {"seen": 2}


async def test_a_snapshot_of_ag_ui_blanks_nothing() -> None:
    """A snapshot with AG-UI's messages instead of parts, which a framework may write, is shown completely."""
    messages = [
        {"id": "u1", "role": "user", "content": "look"},
        {"id": "a1", "role": "assistant", "content": "Let me look.", "toolCalls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
        ]},
        {"id": "t1", "role": "tool", "toolCallId": "c1", "content": "2"},
        {"id": "a2", "role": "assistant", "content": "It is two."},
    ]  # fmt: skip
    async with serve_chat(script()) as chat:
        await chat.store.log.create("chat-s", Create(JSON))
        chunks = encode_chunks([{"type": "MESSAGES_SNAPSHOT", "messages": messages}])
        await chat.store.log.append("chat-s", Append(join_messages(chunks), JSON))
        assert texts(await chat.snapshot("s")) == [
            ("user", "look"),
            ("assistant", "Let me look."),
            ("assistant", "It is two."),
        ]
        kinds = [part["type"] for part in (await shown(chat))[1]["parts"]]
        assert kinds == ["text", "tool-call", "tool-result"]


async def test_a_reload_reads_as_much_as_the_session_shows() -> None:
    """A new tab gets the messages instead of their chunks, and nothing if it has them already."""
    async with serve_chat(script(after=["x"] * 2000), coalesce="off") as chat:
        await chat.post("s", user("hi"), mode="await")
        compacted = await chat.client.get("/api/chat-stream?id=s")
        chunks = await chat.chunks("s")
        assert len(compacted.content) < 5_000 < len(str(chunks))
        again = await chat.client.get("/api/chat-stream?id=s", headers={"if-none-match": compacted.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert await chat.chunks("s", compacted.headers["stream-next-offset"]) == []


async def test_a_session_lives_as_long_as_it_is_set_to() -> None:
    """With a session TTL, the session's stream has it too."""
    async with serve_chat(script(), session_ttl_s=3600) as chat:
        await chat.post("s", user("hi"), mode="await")
        assert (await chat.store.log.head("chat-s")).ttl_s == 3600
