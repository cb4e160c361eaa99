"""assistant-ui's transport on real sockets: commands, following a running answer, and refusals."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from durable_chat.config.settings import Action
from durable_chat.http.tokens import issue
from tests.api.doors.states import Client
from tests.sessions.serving import ANSWER_MAX_S, Chat, Script, ended, script, serve_chat, user

PATH = "/api/assistant-transport"
SECRET = "a-secret-of-the-tests-long-enough"


def said(text: str, message_id: str = "u1", **more: Any) -> dict[str, Any]:
    """Return the command for a message, as the runtime sends it."""
    message = {"role": "user", "id": message_id, "parts": [{"type": "text", "text": text}]}
    return {"type": "add-message", "message": message, "parentId": None, "sourceId": None, **more}


def body(*commands: Any, **more: Any) -> dict[str, Any]:
    return {"threadId": "s", "commands": list(commands), "state": {"messages": []}, **more}


async def send(chat: Chat, *commands: Any, **more: Any) -> Client:
    """Send commands and return the runtime's state after the answer."""
    client = Client()
    async with chat.client.stream("POST", PATH, json=body(*commands, **more)) as answer:
        assert answer.status_code == 200, await answer.aread()
        rest = b""
        async for data in answer.aiter_bytes():
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                client.take(event + b"\n\n")
    assert client.done
    return client


async def state(chat: Chat, session: str = "s") -> Any:
    answer = await chat.client.get(PATH, params={"threadId": session})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_message(any_store_url: str) -> None:
    """The response to a message carries the state, and a later read gives another page the same state."""
    async with serve_chat(script(), url=any_store_url) as chat:
        client = await send(chat, said("hi"))
        assert client.texts() == ["hi", "Hello."]
        assert not client.state["isRunning"]
        assert await state(chat) == client.state
        again = await send(chat)
        assert again.state == client.state
    assert chat.model.turns[0].messages[-1]["id"] == "u1"  # type: ignore[attr-defined]


async def test_resume(any_store_url: str) -> None:
    """Without commands, the response follows the running answer from beginning to end and starts no other."""
    model = script(go=False)
    async with serve_chat(model, url=any_store_url) as chat:
        sending = asyncio.create_task(send(chat, said("hi")))
        await model.waiting.wait()
        assert (await state(chat))["isRunning"]
        resuming = asyncio.create_task(send(chat))
        model.go.set()
        clients = await asyncio.wait_for(asyncio.gather(sending, resuming), ANSWER_MAX_S)
        assert clients[0].state == clients[1].state
        assert clients[0].texts() == ["hi", "Hello."]
    assert len(model.turns) == 1


async def test_unknown_session() -> None:
    """A session that does not exist yet reads as an empty one, and reading creates nothing."""
    async with serve_chat(script()) as chat:
        empty = {"messages": [], "isRunning": False, "runId": None, "error": None}
        assert await state(chat) == empty
        assert (await send(chat)).state == empty
        assert await chat.chunks("s") == []


async def test_queued(any_store_url: str) -> None:
    """The response to a waiting message shows the running answer too, and ends with its own."""
    model = script(go=False)
    async with serve_chat(model, url=any_store_url) as chat:
        first = asyncio.create_task(send(chat, said("one")))
        await model.waiting.wait()
        second = asyncio.create_task(send(chat, said("two", "u2")))
        await chat.until("s", lambda chunks: any(chunk["type"] == "CUSTOM" for chunk in chunks))
        model.go.set()
        clients = await asyncio.wait_for(asyncio.gather(first, second), ANSWER_MAX_S)
        assert clients[1].texts() == ["one", "Hello.", "two", "Hello."]
        assert clients[1].state == await state(chat)


async def test_failure() -> None:
    """A failed answer is an error for the runtime, even if it fails before the response begins."""
    async with serve_chat(script(error=RuntimeError("a secret"))) as chat:
        client = await send(chat, said("hi"))
        assert client.errors == [client.state["error"]["message"]]
        assert "secret" not in client.errors[0]
        assert not client.state["isRunning"]
        assert client.texts()[1] == "Hel"


async def test_deleted() -> None:
    """A session that is deleted during an answer ends it with an error."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        sending = asyncio.create_task(send(chat, said("hi")))
        await model.waiting.wait()
        await chat.client.delete("/api/chat", params={"id": "s"})
        client = await asyncio.wait_for(sending, ANSWER_MAX_S)
        assert not client.state["isRunning"]


async def test_tool_result() -> None:
    """The model gets the page's tools. A tool's result continues the answer, and the next command may come with it."""

    async def model(turn: Any) -> Any:
        turns.append(turn)
        if len(turns) == 1:
            yield {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "set_color"}
            yield {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": '{"color":"teal"}'}
            yield {"type": "TOOL_CALL_END", "toolCallId": "c1"}
        else:
            yield "Done."

    turns: list[Any] = []
    tool = {"description": "Set it.", "parameters": {"type": "object", "properties": {"color": {"type": "string"}}}}
    async with serve_chat(model) as chat:
        client = await send(chat, said("set it"), tools={"set_color": tool}, data={"a": 1})
        call = client.state["messages"][1]["content"][0]
        assert (call["toolName"], call["argsText"]) == ("set_color", '{"color":"teal"}')
        assert "result" not in call
        result = {"type": "add-tool-result", "toolCallId": "c1", "toolName": "set_color", "result": {"ok": True}}
        client = await send(chat, {**result, "isError": False})
        assert client.texts()[-1] == "Done."
        call = client.state["messages"][1]["content"][0]
        assert (call["result"], call["isError"]) == ({"ok": True}, False)
    assert [spec.name for spec in turns[0].tools] == ["set_color"]
    assert turns[0].data == {"a": 1}


async def test_edit() -> None:
    """`sourceId` names the message to replace. The messages after it are removed in every tab."""
    async with serve_chat(script()) as chat:
        await send(chat, said("one"))
        await send(chat, said("two", "u2"))
        client = await send(chat, said("three", "u3", sourceId="u1"))
        assert client.texts() == ["three", "Hello."]
        assert (await state(chat)) == client.state


async def test_several_messages() -> None:
    """Several messages in one request become one message, because they get one answer."""
    model = script()
    async with serve_chat(model) as chat:
        client = await send(chat, said("one"), said("two", "u2"))
        assert client.texts() == ["onetwo", "Hello."]
    assert len(model.turns) == 1


REFUSED: dict[str, tuple[Any, str]] = {
    "no commands": ({"threadId": "s"}, "no_commands"),
    "commands that are no list": ({"threadId": "s", "commands": {}}, "bad_command"),
    "an unknown command": (body({"type": "dance"}), "bad_command"),
    "a command that is no object": (body(7), "bad_command"),
    "too many commands": (body(*[{"type": "add-tool-result", "toolCallId": "c"}] * 129), "bad_command"),
    "no session": ({"commands": []}, "bad_id"),
    "two sessions": (body(id="other"), "bad_id"),
    "a session of another kind": ({"threadId": 7, "commands": []}, "bad_id"),
    "no message": (body({"type": "add-message"}), "bad_message"),
    "a message of the assistant": (
        body({"type": "add-message", "message": {"role": "assistant", "parts": []}}),
        "bad_message",
    ),
    "a part of another kind": (
        body({"type": "add-message", "message": {"role": "user", "parts": [{"type": "file"}]}}),
        "bad_message",
    ),
    "a part whose type is none": (
        body({"type": "add-message", "message": {"role": "user", "parts": [{"type": {}}]}}),
        "bad_message",
    ),
    "a text that is none": (
        body({"type": "add-message", "message": {"role": "user", "parts": [{"type": "text", "text": 1}]}}),
        "bad_message",
    ),
    "an id that is none": (body(said("hi", "x" * 257)), "bad_message"),
    "a result without its call": (body({"type": "add-tool-result"}), "bad_command"),
    "tools that are a list": (body(tools=[]), "bad_tools"),
    "data that is a list": (body(data=[]), "bad_message"),
    "a picture that is none": (
        body({"type": "add-message", "message": {"role": "user", "parts": [{"type": "image", "image": "data:x"}]}}),
        "bad_data",
    ),
    "no object": ([], "bad_body"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str) -> None:
    """The error names what is missing, and nothing is written."""
    posted, code = REFUSED[name]
    async with serve_chat(script()) as chat:
        answer = await chat.client.post(PATH, json=posted)
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
        assert await chat.chunks("s") == []


@pytest.mark.parametrize(
    ("posted", "door"),
    [({"messages": [user("hi")], "threadId": "s"}, "/api/agui"), ({"method": "info"}, "/api/copilotkit")],
)
async def test_another_door(posted: Any, door: str) -> None:
    """The error for a body of another route names the right route."""
    async with serve_chat(script()) as chat:
        answer = await chat.client.post(PATH, json=posted)
        assert answer.status_code == 400
        assert door in answer.json()["error"]


async def test_half_a_surrogate_pair_for_another_door() -> None:
    """A body with an unpaired surrogate, which JavaScript may send, gets the same error."""
    text = b'{"messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "content": "\\ud83d"}]}]}'
    async with serve_chat(script()) as chat:
        answer = await chat.client.post(PATH, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert "/api/" in answer.json()["error"]


async def test_tokens() -> None:
    """With read permission only, a caller may follow an answer and read the state, but not send."""

    def bearer(session: str, *can: Action) -> dict[str, str]:
        return {"authorization": f"Bearer {issue(SECRET, session, can, now_s=time.time(), ttl_s=60)}"}

    async with serve_chat(script(), token_secret=SECRET) as chat:
        reader, sender = bearer("s", "read"), bearer("s", "read", "send")

        async def posted(headers: dict[str, str], *commands: Any) -> httpx.Response:
            return await chat.client.post(PATH, json=body(*commands), headers=headers)

        assert (await posted({})).status_code == 401
        assert (await chat.client.get(PATH, params={"threadId": "s"})).status_code == 401
        assert (await posted(reader, said("hi"))).status_code == 403
        assert (await posted(reader)).status_code == 200
        assert (await posted(sender, said("hi"))).status_code == 200
        assert (await chat.client.get(PATH, params={"threadId": "s"}, headers=reader)).json()["messages"]
        other = bearer("other", "read", "send")
        assert (await posted(other, said("hi"))).status_code == 403


async def test_stop() -> None:
    """A stop by another page ends the response."""
    model: Script = script(go=False)
    async with serve_chat(model) as chat:
        sending = asyncio.create_task(send(chat, said("hi")))
        await model.waiting.wait()
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        client = await asyncio.wait_for(sending, ANSWER_MAX_S)
        assert client.state["messages"][-1]["status"] == {"type": "incomplete", "reason": "cancelled"}
        await chat.until("s", ended())
