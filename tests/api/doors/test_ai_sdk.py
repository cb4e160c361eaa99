"""The routes of the AI SDK, on real sockets and every store: bodies, resumes, and the streams of single runs."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from durable_chat.http.tokens import issue
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, spoken, user

SECRET = "a-secret-of-the-tests-long-enough"


def said(text: str, message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def body(*messages: dict[str, Any], session: str = "s", **more: Any) -> dict[str, Any]:
    return {"id": session, "messages": list(messages), "trigger": "submit-message", **more}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the chunks of a UI message stream, and check that it is complete."""
    *lines, done = [line for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def started(chat: Chat, **more: Any) -> str:
    """Start an answer and return the address of its stream."""
    answer = await chat.client.post("/api/ai-sdk-durable", json=body(said("hi"), **more))
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == answer.json()["streamUrl"]
    assert answer.headers["access-control-expose-headers"] == "Location"
    return answer.headers["location"]


async def read(chat: Chat, url: str, **query: str) -> httpx.Response:
    return await chat.client.get(url, params={**httpx.URL(url).params, **query})


WRONG = [
    ({"messages": "no"}, "bad_body", "`messages` must be a list"),
    ({"trigger": "submit-message"}, "no_messages", "`messages` must be a list"),
    ([], "bad_body", "`id` and `messages`"),
    (body(), "no_messages", "Send at least one"),
    ({"messages": [said("hi")]}, "bad_id", "id"),
    (body(said("hi"), trigger="again"), "bad_trigger", "submit-message or regenerate-message"),
    (body(said("hi"), messageId=1), "bad_message", "`messageId`"),
    (body({"id": "u1", "role": "tool", "parts": []}), "bad_message", "messages[0].role"),
    (body({"id": "u1", "role": "user"}), "bad_message", "messages[0].parts must be a list"),
    (body({"id": "u1", "role": "user", "parts": [{"type": "text"}]}), "bad_message", "messages[0].parts[0].text"),
    (body({"id": "u1", "role": "user", "parts": [{"type": "file", "url": "data:,"}]}), "bad_message", "mediaType"),
    (body({"id": "u1", "role": "user", "parts": [{"type": "tool-look"}]}), "bad_message", "toolCallId"),
    (body(user("hi")), "wrong_door", "/api/chat"),
    (body({"id": "u1", "role": "user", "content": "hi"}), "wrong_door", "/api/chat"),
    ({"threadId": "s", "runId": "r", "messages": [], "tools": [], "context": []}, "wrong_door", "/api/agui"),
    ({"commands": [], "threadId": "s"}, "wrong_door", "/api/assistant-transport"),
]


@pytest.mark.parametrize("path", ["/api/ai-sdk", "/api/ai-sdk-durable"])
@pytest.mark.parametrize(("wrong", "code", "told"), WRONG)
async def test_a_wrong_body_is_told_what_is_missing(path: str, wrong: Any, code: str, told: str) -> None:
    """
    The error for an invalid body names the missing field or, for another route's body, the right route. Nothing is
    written.
    """
    async with serve_chat(script()) as chat:
        answer = await chat.client.post(path, json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
        assert told in answer.json()["error"]
        assert await chat.chunks("s") == []


async def test_an_answer_is_a_ui_message_stream(any_store_url: str) -> None:
    """
    The response has the SDK's headers and the log's ids, and the model gets the fields that the application added.
    """
    model = script()
    async with serve_chat(model, url=any_store_url) as chat:
        answer = await chat.client.post("/api/ai-sdk", json=body(said("hi"), mood="glad", data={"a": 1}))
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert answer.headers["content-type"] == "text/event-stream"
        chunks = events(answer)
        kinds = ["start", "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"]
        assert list(dict.fromkeys(chunk["type"] for chunk in chunks)) == kinds
        shown = await chat.snapshot("s")
        assert [message["id"] for message in shown["messages"]] == ["u1", chunks[0]["messageId"]]
        assert dict(model.turns[0].data) == {"mood": "glad", "a": 1}
        assert (await chat.client.get("/api/ai-sdk/s/stream")).status_code == 204
        assert (await chat.client.get("/api/ai-sdk-durable/s/stream")).status_code == 204


async def test_the_running_answer_is_resumed(any_store_url: str) -> None:
    """A resume replays the answer from its beginning and follows it; the messages leave it out until it has ended."""
    model = script(go=False)
    async with serve_chat(model, url=any_store_url) as chat:
        url = await started(chat, session="a/b")
        await chat.until("a/b", spoken())
        before = (await chat.client.get("/api/ai-sdk/a%2Fb/messages")).json()
        assert [message["role"] for message in before["messages"]] == ["user"]
        run_id = before["activeRun"]["runId"]
        async with asyncio.timeout(ANSWER_MAX_S):
            resuming = asyncio.create_task(chat.client.get("/api/ai-sdk/a%2Fb/stream"))
            found = await chat.client.get("/api/ai-sdk-durable/a%2Fb/stream")
            assert found.status_code == 200
            assert run_id in found.headers["location"]
            part = await read(chat, url)
            assert part.headers.get("stream-up-to-date") == "true"
            assert "stream-closed" not in part.headers
            model.go.set()
            whole = events(await resuming)
        await chat.until("a/b", ended())
        sent = await read(chat, url)
        assert sent.headers["stream-closed"] == "true"
        assert sent.json() == whole == (await read(chat, found.headers["location"])).json()
        again = await chat.client.get("/api/ai-sdk/a%2Fb/stream", params={"runId": run_id})
        text = "".join(chunk["delta"] for chunk in events(again) if chunk["type"] == "text-delta")
        assert text == "Hello."


@pytest.mark.parametrize("live", [None, "long-poll", "sse"])
async def test_the_stream_of_a_run_has_stable_offsets(any_store_url: str, live: str | None) -> None:
    """Every read of a run's stream, from any of its offsets, gives what comes after it, and says that it is closed."""
    async with serve_chat(script(), url=any_store_url) as chat:
        url = await started(chat)
        await chat.until("s", ended())
        whole = (await read(chat, url, offset="-1")).json()
        more = {"live": live} if live else {}
        for count in range(len(whole) + 1):
            offset = f"0000000000000001_{count:016d}" if count else "-1"
            answer = await read(chat, url, offset=offset, **more)
            if live == "sse":
                blocks = [block.split("\n") for block in answer.text.split("\n\n") if block]
                found = [json.loads(line[5:]) for name, *lines in blocks for line in lines if name == "event: data"]
                assert [one for batch in found for one in batch] == whole[count:]
                assert '"streamClosed":true' in answer.text
            elif count == len(whole) and live:
                assert (answer.status_code, answer.headers["stream-closed"]) == (204, "true")
            else:
                assert (answer.json(), answer.headers["stream-closed"]) == (whole[count:], "true")
        refused = await read(chat, url, offset="0000000000000001_0000000000000999")
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_offset")
        assert (await read(chat, url, offset="now")).headers["stream-closed"] == "true"


async def test_an_unknown_run_has_no_stream() -> None:
    """The stream of an unknown run is not found."""
    async with serve_chat(script()) as chat:
        await started(chat)
        await chat.until("s", ended())
        answer = await read(chat, "/api/ai-sdk-durable/s/runs/run-none", **{"from": "-1"})
        assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")


@pytest.mark.parametrize("by", ["/api/ai-sdk", "/api/ai-sdk-durable"])
async def test_a_refused_decision_ends_the_turn(any_store_url: str, by: str) -> None:
    """A second decision about a call changes nothing. An empty last step keeps the SDK from sending it again."""
    asked = {"toolCallId": "c1", "toolName": "look", "input": {}, "approval": {"id": "a1", "needsApproval": True}}
    call = {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "look"}
    model = script(before=[call, {"type": "CUSTOM", "name": "approval-requested", "value": asked}], after=[])
    async with serve_chat(model, url=any_store_url) as chat:
        await chat.client.post("/api/ai-sdk", json=body(said("hi")))
        _, answer = (await chat.client.get("/api/ai-sdk/s/messages")).json()["messages"]
        part = next(part for part in answer["parts"] if part["type"] == "tool-look")
        assert part["state"] == "approval-requested"
        model.before = ["No."]
        for approved in (False, True):
            decided = part | {"state": "approval-responded", "approval": {"id": "a1", "approved": approved}}
            parts = [decided if one is part else one for one in answer["parts"]]
            posted = body(said("hi"), answer | {"parts": parts}, messageId=answer["id"])
            response = await chat.client.post(by, json=posted)
            if by == "/api/ai-sdk":
                chunks = events(response)
            else:
                await chat.until("s", ended(2 + approved))
                chunks = (await read(chat, response.headers["location"])).json()
            assert chunks[0] == {"type": "start", "messageId": answer["id"]}
            kinds = [chunk["type"] for chunk in chunks]
            assert "tool-output-denied" in kinds
            if approved:
                assert kinds[-4:][::3] == ["start-step", "finish"]
                assert {"type": "tool-output-denied", "toolCallId": "c1"} in chunks
        assert len(model.turns) == 2


@pytest.mark.parametrize("by", ["/api/ai-sdk", "/api/ai-sdk-durable"])
async def test_a_turn_that_waits(any_store_url: str, by: str) -> None:
    """A turn of a second tab waits for the first. Its response holds its own answer only."""
    model = script(go=False)
    async with serve_chat(model, url=any_store_url) as chat, asyncio.timeout(ANSWER_MAX_S):
        first = asyncio.create_task(chat.client.post("/api/ai-sdk", json=body(said("hi"))))
        await chat.until("s", spoken())
        second = asyncio.create_task(chat.client.post(by, json=body(said("hi"), said("you", "u2"))))
        await chat.until("s", lambda chunks: any(chunk.get("name") == "durable-chat.turn-queued" for chunk in chunks))
        model.go.set()
        one, other = events(await first), await second
        await chat.until("s", ended(2))
        two = events(other) if by == "/api/ai-sdk" else (await read(chat, other.headers["location"])).json()
        ids = [message["id"] for message in (await chat.snapshot("s"))["messages"]]
        assert [ids[1], ids[3]] == [one[0]["messageId"], two[0]["messageId"]]
        assert [chunk["type"] for chunk in two].count("start") == 1


@pytest.mark.parametrize("by", ["/api/ai-sdk", "/api/ai-sdk-durable"])
async def test_a_late_decision(any_store_url: str, by: str) -> None:
    """When a call of an older answer is approved, it is executed, and its result goes to that answer."""
    asked = {"toolCallId": "c1", "toolName": "look", "input": {}, "approval": {"id": "a1", "needsApproval": True}}
    call = {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "look"}
    model = script(before=[call, {"type": "CUSTOM", "name": "approval-requested", "value": asked}], after=[])
    async with serve_chat(model, url=any_store_url) as chat:
        await chat.client.post("/api/ai-sdk", json=body(said("hi")))
        model.before = ["Well."]
        await chat.client.post("/api/ai-sdk", json=body(said("never mind", "u2")))
        messages = (await chat.client.get("/api/ai-sdk/s/messages")).json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 2
        decided = {"state": "approval-responded", "approval": {"id": "a1", "approved": True}}
        parts = [part | decided if part["type"] == "tool-look" else part for part in messages[1]["parts"]]
        messages[1] = messages[1] | {"parts": parts}
        model.before = [{"type": "TOOL_CALL_RESULT", "messageId": "r1", "toolCallId": "c1", "content": "5"}]
        response = await chat.client.post(by, json=body(*messages, messageId=messages[1]["id"]))
        await chat.until("s", ended(3))
        chunks = events(response) if by == "/api/ai-sdk" else (await read(chat, response.headers["location"])).json()
        assert {"type": "tool-output-available", "toolCallId": "c1", "output": 5} in chunks
        assert chunks[0] == {"type": "start", "messageId": messages[1]["id"]}
        assert chunks[-1]["type"] == "finish"
        after = (await chat.client.get("/api/ai-sdk/s/messages")).json()["messages"]
        tool = next(part for part in after[1]["parts"] if part["type"] == "tool-look")
        assert (tool["state"], tool["output"]) == ("output-available", 5)


async def test_who_may_read_and_stop() -> None:
    """Each route is guarded like the session: without the permission, a token cannot read, send or stop."""
    async with serve_chat(script(), token_secret=SECRET) as chat:

        def bearer(*can: Any) -> dict[str, str]:
            return {"Authorization": f"Bearer {issue(SECRET, 's', can, now_s=time.time(), ttl_s=60)}"}

        sent = await chat.client.post("/api/ai-sdk-durable", json=body(said("hi")), headers=bearer("send", "read"))
        url = sent.headers["location"]
        routes = [
            ("POST", "/api/ai-sdk", "send", body(said("hi"))),
            ("POST", "/api/ai-sdk-durable", "send", body(said("hi"))),
            ("GET", "/api/ai-sdk/s/stream", "read", None),
            ("GET", "/api/ai-sdk/s/messages", "read", None),
            ("POST", "/api/ai-sdk/s/stop", "stop", None),
            ("GET", "/api/ai-sdk-durable/s/stream", "read", None),
            ("GET", url, "read", None),
        ]
        for method, path, action, posted in routes:
            other = bearer("delete")
            assert (await chat.client.request(method, path, json=posted)).status_code == 401, path
            assert (await chat.client.request(method, path, json=posted, headers=other)).status_code == 403, path
            if action != "send":
                allowed = await chat.client.request(method, path, headers=bearer(action))
                assert allowed.status_code in (200, 204), path
