"""The state of a session in one request, for clients that mount and for loaders of server-rendered pages."""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.models.base import Turn
from tests.sessions.serving import Chat, ended, script, serve_chat, user

APPROVAL = {
    "type": "CUSTOM",
    "name": "approval-requested",
    "value": {
        "toolCallId": "c1",
        "toolName": "save",
        "input": {"text": "hi"},
        "approval": {"id": "approval_c1", "needsApproval": True},
    },
}
CALL = [
    {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "save"},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": '{"text":"hi"}'},
    {"type": "TOOL_CALL_END", "toolCallId": "c1"},
]


async def hydrate(chat: Chat, session_id: str, **query: str) -> dict[str, Any]:
    answer = await chat.client.get("/api/chat", params={"threadId": session_id, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(state: dict[str, Any]) -> list[str]:
    return [message["id"] for message in state["messages"]]


async def talk(chat: Chat, session_id: str, turns: int) -> None:
    for number in range(1, turns + 1):
        assert (await chat.post(session_id, user("hi", f"u{number}"), mode="await")).status_code == 200


async def test_an_unknown_session_is_empty() -> None:
    """An unknown session reads as empty, and a read does not create it."""
    async with serve_chat(script()) as chat:
        assert await hydrate(chat, "new") == {
            "messages": [],
            "offset": "0000000000000000_0000000000000000",
            "activeRun": None,
            "lastRun": None,
            "interrupts": None,
            "page": {"truncated": False},
        }


async def test_the_state_agrees_with_the_snapshot() -> None:
    """Both routes show the same session, under either parameter name."""
    async with serve_chat(script()) as chat:
        await talk(chat, "s", 2)
        state = await hydrate(chat, "s")
        assert len(state["messages"]) == 4
        assert state.pop("page") == {"truncated": False}
        assert state == await chat.snapshot("s")
        answer = await chat.client.get("/api/chat", params={"id": "s", "threadId": "s"})
        assert answer.json()["messages"] == state["messages"]


async def test_pages_hold_every_message_once_and_in_order() -> None:
    """
    The cursors lead from the newest page to the first message, with every message once and in order. The last page is
    marked as last.
    """
    async with serve_chat(script()) as chat:
        await talk(chat, "s", 4)
        whole = ids(await hydrate(chat, "s"))
        assert len(whole) == 8
        found: list[str] = []
        query: dict[str, str] = {}
        for wanted in (3, 3, 2):
            state = await hydrate(chat, "s", limit="3", **query)
            assert len(state["messages"]) == wanted
            found = ids(state) + found
            query = {"before": state["page"].get("cursor", "")}
        assert found == whole
        assert state["page"] == {"truncated": False}
        older = await hydrate(chat, "s", before=whole[6])
        assert (ids(older), older["page"]) == (whole[:6], {"truncated": False})


async def test_the_active_run_and_where_it_begins() -> None:
    """While an answer runs, the messages end before it, and the run's id and offset lead to the complete answer."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        posted = await chat.post("s", user("hi"))
        await model.waiting.wait()
        state = await hydrate(chat, "s", limit="10")
        assert ids(state) == ["u1"]
        assert state["activeRun"] == {"runId": posted.headers["x-run-id"]}
        assert state["offset"] == posted.headers["stream-next-offset"]
        model.go.set()
        await chat.until("s", ended())
        assert (await hydrate(chat, "s"))["activeRun"] is None


async def approving(turn: Turn) -> Any:
    asks = turn.text.startswith("save") and not any(part["type"] == "tool-call" for part in turn.messages[-1]["parts"])
    for item in ["Let me save that.", *CALL, APPROVAL] if asks else ["Very well."]:
        yield item


async def test_pending_approvals() -> None:
    """A pending approval is an interrupt of the run that asked, until it is given."""
    async with serve_chat(approving) as chat:
        posted = await chat.post("s", user("save hi"), mode="await")
        for state in (await hydrate(chat, "s"), await chat.snapshot("s")):
            assert state["interrupts"] == {
                "runId": posted.headers["x-run-id"],
                "pending": [
                    {
                        "id": "approval_c1",
                        "reason": "approval_required",
                        "message": 'Approve the call of the tool "save"?',
                        "toolCallId": "c1",
                        "metadata": {"kind": "approval", "toolName": "save", "input": {"text": "hi"}},
                    }
                ],
            }
        row = {"role": "tool", "id": "tool-c1", "toolCallId": "c1", "content": '{"approved":false}'}
        assert (await chat.post("s", user("save hi"), row, mode="await")).status_code == 200
        assert (await hydrate(chat, "s"))["interrupts"] is None


async def test_an_approval_of_an_older_turn_blocks_nothing() -> None:
    """When the person has written another message instead, no approval is pending."""
    async with serve_chat(approving) as chat:
        await chat.post("s", user("save hi"), mode="await")
        assert (await hydrate(chat, "s"))["interrupts"] is not None
        await chat.post("s", user("never mind", "u2"), mode="await")
        assert (await hydrate(chat, "s"))["interrupts"] is None


async def test_an_etag_for_each_page() -> None:
    """An unchanged page gets 304. Another page and a changed session have other tags."""
    async with serve_chat(script()) as chat:
        await talk(chat, "s", 2)
        tags = {}
        for query in ({}, {"limit": "1"}, {"limit": "2"}):
            answer = await chat.client.get("/api/chat", params={"threadId": "s", **query})
            assert answer.headers["cache-control"] == "private, no-cache"
            tags[answer.headers["etag"]] = query
        assert len(tags) == 3
        for tag, query in tags.items():
            headers = {"if-none-match": tag}
            answer = await chat.client.get("/api/chat", params={"threadId": "s", **query}, headers=headers)
            assert (answer.status_code, answer.content) == (304, b"")
        await chat.post("s", user("more", "u9"), mode="await")
        answer = await chat.client.get("/api/chat", params={"threadId": "s", "limit": "1"}, headers=headers)
        assert answer.status_code == 200


REFUSED = {
    "no session": ({}, "bad_id"),
    "two sessions": ({"threadId": "a", "id": "b"}, "bad_id"),
    "no number": ({"threadId": "s", "limit": "many"}, "bad_limit"),
    "a fraction": ({"threadId": "s", "limit": "1.5"}, "bad_limit"),
    "nothing": ({"threadId": "s", "limit": "0"}, "bad_limit"),
    "negative": ({"threadId": "s", "limit": "-1"}, "bad_limit"),
    "too many": ({"threadId": "s", "limit": "10001"}, "bad_limit"),
    "far too many": ({"threadId": "s", "limit": "9" * 5000}, "bad_limit"),
    "other digits": ({"threadId": "s", "limit": "\u0663"}, "bad_limit"),
    "a message that is not there": ({"threadId": "s", "before": "m0"}, "bad_before"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str) -> None:
    """An invalid query gets 400 and a clear error."""
    query, code = REFUSED[name]
    async with serve_chat(script()) as chat:
        answer = await chat.client.get("/api/chat", params=query)
        assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_only_for_those_who_may_read() -> None:
    """The hook decides on the session that the query names, under either parameter name."""

    async def authorize(_request: Any, session_id: str, action: str) -> bool:
        return (session_id, action) == ("mine", "read")

    async with serve_chat(script(), authorize=authorize) as chat:
        for query, status in (({"threadId": "mine"}, 200), ({"id": "mine"}, 200), ({"threadId": "theirs"}, 403)):
            assert (await chat.client.get("/api/chat", params=query)).status_code == status
