"""The AG-UI route on a real socket: the format that each client gets, resumes, and invalid bodies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.doors.agui_rules import check_rules
from tests.api.doors.answers import ask, asking, run_input, said, sent
from tests.sessions.serving import ended, script, serve_chat, user

ACCEPT_SSE = {"accept": "text/event-stream"}
NDJSON = {"accept": "application/x-ndjson"}


@pytest.mark.parametrize(
    ("path", "headers", "content_type"),
    [
        ("/api/agui", {}, "text/event-stream"),
        ("/api/agui", NDJSON, "application/x-ndjson"),
        ("/api/chat", ACCEPT_SSE, "text/event-stream"),
    ],
)
async def test_events_of_ag_ui(path: str, headers: dict[str, str], content_type: str) -> None:
    """An AG-UI client gets strict events with its own ids, without offsets as ids."""
    async with serve_chat(script()) as chat:
        async with asking(chat, run_input(said("hi"), run="mine"), path, headers) as answer:
            assert answer.headers["content-type"] == content_type
            assert answer.headers["x-run-id"].startswith("run-")
        events = await ask(chat, run_input(said("hi"), run="mine"), path, headers)
    check_rules([one.chunk for one in events], modern=False)
    assert {one.id for one in events} == {None}
    assert (events[0].chunk["threadId"], events[0].chunk["runId"]) == ("s", "mine")


@pytest.mark.parametrize(
    ("path", "headers", "content_type"),
    [
        ("/api/chat", {}, "text/event-stream"),
        ("/api/chat", NDJSON, "application/x-ndjson"),
        ("/api/chat", {"accept": "text/html, application/x-ndjson;q=0.9"}, "application/x-ndjson"),
        ("/api/chat/ndjson", {}, "application/x-ndjson"),
        ("/api/chat/ndjson", ACCEPT_SSE, "application/x-ndjson"),
    ],
)
async def test_chunks_of_tanstack(path: str, headers: dict[str, str], content_type: str) -> None:
    """A TanStack client gets the chunks of the log, each with its offset."""
    async with serve_chat(script()) as chat:
        async with asking(chat, run_input(said("hi")), path, headers) as answer:
            assert answer.headers["content-type"] == content_type
        chunks = await ask(chat, run_input(said("hi")), path, headers)
        assert all(one.id for one in chunks)
        log = await chat.chunks("s")
        assert [one.chunk for one in chunks[1:]] == log[-len(chunks) + 1 :]


async def test_forwarded_props_are_the_turns_data() -> None:
    """The model gets an AG-UI client's `forwardedProps`, as it gets TanStack's `data`."""
    model = script()
    async with serve_chat(model) as chat:
        await ask(chat, run_input(said("hi"), forwardedProps={"level": 2}), "/api/agui")
    assert model.turns[0].data == {"level": 2}


@pytest.mark.parametrize("path", ["/api/chat", "/api/agui", "/api/chat/ndjson"])
@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({"id": "c", "messages": [user("hi")], "trigger": "submit-message"}, "wrong_door", "/api/ai-sdk"),
        ({"method": "agent/run", "params": {"agentId": "default"}, "body": {}}, "wrong_door", "/api/copilotkit"),
        ({"commands": [], "state": None, "threadId": "t"}, "wrong_door", "/api/assistant-transport"),
        ({"threadId": "t", "runId": "r", "tools": [], "context": []}, "no_messages", "`messages`"),
        ({"prompt": "hi"}, "no_messages", "/api/agui"),
    ],
    ids=["ai sdk", "copilotkit", "assistant transport", "no messages", "no shape"],
)
async def test_bodies_for_other_doors(path: str, body: dict[str, Any], code: str, named: str) -> None:
    """
    The error for a body of another route names the right route, or the missing field and all routes. Nothing is
    written.
    """
    model = script()
    async with serve_chat(model) as chat:
        answer = await chat.client.post(path, json=body, params={"id": "c"})
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert named in answer.json()["error"]
        assert (await chat.chunks("c"), model.turns) == ([], [])


async def test_a_body_without_a_run_id() -> None:
    """The AG-UI door names the field that is missing."""
    async with serve_chat(script()) as chat:
        answer = await chat.client.post("/api/agui", json={"threadId": "t", "messages": [said("hi")]})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
        assert "`runId` is missing" in answer.json()["error"]
        assert await chat.chunks("t") == []


async def test_the_same_request_twice() -> None:
    """A repeated body, as assistant-ui posts it to resume, gives the same run."""
    model = script()
    async with serve_chat(model) as chat:
        first = await ask(chat, run_input(said("hi")), "/api/agui")
        await chat.until("s", ended())
        assert await ask(chat, run_input(said("hi")), "/api/agui") == first
    assert len(model.turns) == 1


async def test_a_stop_by_the_clients_own_run_id() -> None:
    """A client that knows only the id that it sent can stop that run, and no other."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        async with asking(chat, run_input(said("hi"), run="mine"), "/api/agui", ACCEPT_SSE) as answer:
            nothing = await chat.client.post("/api/chat-stop", params={"id": "s", "runId": "another"})
            assert nothing.json() == {"stopped": []}
            stopped = await chat.client.post("/api/chat-stop", params={"id": "s", "runId": "mine"})
            assert stopped.json() == {"stopped": [answer.headers["x-run-id"]]}
            types = [one.chunk["type"] async for one in sent(answer)]
    assert types[-1] == "RUN_FINISHED"
