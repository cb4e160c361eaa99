"""Clients continue a run after a lost connection, or join it after a reload, as TanStack AI's clients do."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from durable_chat.models.base import Turn
from durable_chat.protocol.messages import Payload
from durable_chat.protocol.requests import Create
from tests.api.doors.answers import Sent, ask, asking, run_input, said, sent
from tests.conftest import ServeNpm
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, types, user

PATHS = ["/api/chat", "/api/chat/ndjson"]


@pytest.fixture
def url(any_store_url: str) -> str:
    return any_store_url


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def chunks_of(answer: list[Sent]) -> list[dict[str, Any]]:
    return [one.chunk for one in answer]


def told(answer: list[Sent], url: str) -> list[Any]:
    """Return what each response must repeat. A remote server has several offsets for one position."""
    return chunks_of(answer) if url.startswith("http") else list(answer)


async def resume(chat: Chat, body: dict[str, Any], path: str, last_id: str, key: str = "client-run") -> list[Sent]:
    return await ask(chat, body, path, {"last-event-id": last_id, "x-run-id": key})


async def join(chat: Chat, path: str, query: dict[str, str], headers: dict[str, str] | None = None) -> list[Sent]:
    async with chat.client.stream("GET", path, params=query, headers=headers) as answer:
        if answer.status_code != 200:
            await answer.aread()
        assert answer.status_code == 200, answer.text
        return [one async for one in sent(answer)]


async def test_from_every_chunk(url: str, path: str) -> None:
    """After each id come exactly the later chunks, and the model runs once however often a client reconnects."""
    model = script(before=["one ", "two ", "three "], after=["four"])
    async with serve_chat(model, url=url) as chat:
        body = run_input(said("hi"))
        whole = await ask(chat, body, path, {"x-run-id": "client-run"})
        ids = [one.id for one in whole]
        assert None not in ids and len(set(ids)) == len(ids)
        assert whole[0].chunk["name"] == "run.accepted"
        for at, one in enumerate(whole):
            assert one.id is not None
            assert told(await resume(chat, body, path, one.id), url) == told(whole[at + 1 :], url)
        assert len(model.turns) == 1
        assert types(await chat.chunks("s")).count("RUN_STARTED") == 1


async def test_ids_are_offsets_of_the_log(path: str) -> None:
    """An id of a run's stream works as an offset of the durable transport, and the other way round."""
    async with serve_chat(script()) as chat:
        whole = await ask(chat, run_input(said("hi")), path)
        for at, one in enumerate(whole):
            assert one.id is not None
            assert await chat.chunks("s", one.id) == chunks_of(whole[at + 1 :])


async def until_text(chat: Chat, body: Any, path: str) -> list[Sent]:
    """Read until the first text of the answer, disconnect, and return the chunks so far."""
    before: list[Sent] = []
    async with asyncio.timeout(ANSWER_MAX_S), asking(chat, body, path) as answer:
        async for one in sent(answer):
            before.append(one)
            if one.chunk["type"] == "TEXT_MESSAGE_CONTENT":
                break
    return before


async def test_while_the_answer_runs(url: str, path: str) -> None:
    """After a lost connection during an answer, the next connection gets the rest live."""
    model = script(go=False, before=["one "], after=["two"])
    async with serve_chat(model, url=url) as chat:
        body = run_input(said("hi"))
        before = await until_text(chat, body, path)
        resuming = asyncio.create_task(resume(chat, body, path, str(before[-1].id)))
        await model.waiting.wait()
        model.go.set()
        after = await resuming
        assert told(before + after, url) == told(await resume(chat, body, path, "-1"), url)
        assert [one.chunk.get("delta") for one in before + after if "delta" in one.chunk] == ["one ", "two"]
        assert len(model.turns) == 1


@pytest.mark.parametrize("names", [{}, {"threadId": "s"}, {"id": "s"}], ids=["unnamed", "threadId", "id"])
@pytest.mark.parametrize("by", ["client", "server"])
async def test_join(url: str, path: str, names: dict[str, str], by: str) -> None:
    """
    A run can be joined by the client's or the server's id, with or without the session's name, live and after its
    end.
    """
    model = script(go=False)
    async with serve_chat(model, url=url) as chat:
        asked = asyncio.create_task(ask(chat, run_input(said("hi")), path))
        await model.waiting.wait()
        (run,) = chat.runs.of("s")
        query = {"offset": "-1", "runId": "client-run" if by == "client" else run.id, **names}
        joined = asyncio.create_task(join(chat, path, query))
        model.go.set()
        whole = await asked
        assert chunks_of(await joined)[1:] == chunks_of(whole)[1:]
        late = await join(chat, path, query)
        assert told(late, url)[1:] == told(whole, url)[1:]
        rest = await join(chat, path, query, {"last-event-id": str(late[3].id)})
        assert told(rest, url) == told(whole[4:], url)


async def test_join_a_run_of_the_durable_transport(path: str) -> None:
    """A run that a client of the durable transport started can be joined by the id in the session's state."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await model.waiting.wait()
        state = (await chat.client.get(path, params={"threadId": "s"})).json()
        joined = asyncio.create_task(join(chat, path, {"offset": "-1", "runId": state["activeRun"]["runId"]}))
        model.go.set()
        logged = await chat.until("s", ended())
        assert chunks_of(await joined)[1:] == logged[3:]


async def test_stop_by_the_id_that_the_client_gave(path: str) -> None:
    """A client can stop a run by its own run id before it knows the server's."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        asked = asyncio.create_task(ask(chat, run_input(said("hi")), path))
        await model.waiting.wait()
        other = await chat.client.post("/api/chat-stop", params={"id": "s", "runId": "another-run"})
        assert other.json() == {"stopped": []}
        stopped = await chat.client.post("/api/chat-stop", params={"id": "s", "runId": "client-run"})
        whole = await asked
        assert stopped.json() == {"stopped": [whole[-1].chunk["runId"]]}
        assert whole[-1].chunk["metadata"]["tanstack"]["stopped"] is True


async def test_a_turn_that_waits(path: str) -> None:
    """A client that loses its connection while its turn waits gets nothing of the turn before."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = asyncio.create_task(ask(chat, run_input(said("hi")), path))
        await model.waiting.wait()
        body = run_input(said("more", "u2"), run="second")
        async with asyncio.timeout(ANSWER_MAX_S), asking(chat, body, path) as answer:
            accepted = await anext(aiter(sent(answer)))
        resuming = asyncio.create_task(resume(chat, body, path, str(accepted.id), "second"))
        model.go.set()
        before, after = await first, await resuming
        assert types(chunks_of(after))[0] == "RUN_STARTED"
        assert types(chunks_of(after))[-1] == "RUN_FINISHED"
        assert not {one.id for one in before} & {one.id for one in after}
        assert len(model.turns) == 2


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def refusal(chat: Chat, path: str, last_id: str, key: str = "client-run") -> tuple[int, str]:
    headers = {"last-event-id": last_id, "x-run-id": key}
    return code_of(await chat.client.post(path, json=run_input(said("hi"), run=key), headers=headers))


async def test_a_foreign_id_is_refused(url: str, path: str) -> None:
    """An id of another run, an invalid id, and an id of an unknown run are errors, and start nothing."""
    model = script()
    async with serve_chat(model, url=url) as chat:
        first = await ask(chat, run_input(said("hi"), run="first"), path)
        second = await ask(chat, run_input(said("more", "u2"), run="second"), path)
        assert await refusal(chat, path, "what?", "first") == (400, "bad_offset")
        assert await refusal(chat, path, str(first[2].id), "third") == (404, "unknown_run")
        for one in first:
            assert await refusal(chat, path, str(one.id), "second") == (409, "not_in_run")
        for one in second[1:] if not url.startswith("http") else second[1:-1]:
            assert await refusal(chat, path, str(one.id), "first") == (409, "not_in_run")
        beyond = f"{str(second[-1].id)[:-4]}9999"
        status, _ = await refusal(chat, path, beyond, "second")
        assert 400 <= status < 500
        assert len(model.turns) == 2


async def test_an_id_of_a_deleted_session_is_refused(path: str) -> None:
    """After a session is deleted, its runs are unknown, and the same request without an id starts a new run."""
    model = script()
    async with serve_chat(model) as chat:
        whole = await ask(chat, run_input(said("hi")), path)
        await chat.client.delete("/api/chat", params={"id": "s"})
        assert await refusal(chat, path, str(whole[2].id)) == (404, "unknown_run")
        answer = await chat.client.get(path, params={"offset": "-1", "runId": "client-run"})
        assert code_of(answer) == (404, "unknown_run")
        assert len(model.turns) == 1


async def test_a_join_that_names_no_run_is_refused(path: str) -> None:
    """A join without a valid run gets 400 or 404."""
    async with serve_chat(script()) as chat:
        for query, expected in (
            ({"offset": "-1"}, (400, "missing_run_id")),
            ({"offset": "-1", "runId": ""}, (400, "missing_run_id")),
            ({"offset": "-1", "runId": "run-1"}, (404, "unknown_run")),
            ({"offset": "-1", "runId": "run-1", "threadId": "s"}, (404, "unknown_run")),
            ({"offset": "-1", "runId": "run-1", "threadId": "s", "id": "t"}, (400, "bad_id")),
        ):
            assert code_of(await chat.client.get(path, params=query)) == expected


async def test_a_client_id_in_two_sessions(path: str) -> None:
    """
    A client's run id that exists in two sessions means the one that the caller may read. If the caller may read both,
    it is refused as ambiguous.
    """
    readable = {"a", "b"}

    async def authorize(_request: Any, session_id: str, action: str) -> bool:
        return action == "send" or session_id in readable

    async with serve_chat(script(), authorize=authorize) as chat:
        of_a = await ask(chat, run_input(said("hi"), thread="a"), path)
        await ask(chat, run_input(said("hi"), thread="b"), path)
        query = {"offset": "-1", "runId": "client-run"}
        assert code_of(await chat.client.get(path, params=query)) == (409, "ambiguous_run")
        assert chunks_of(await join(chat, path, {**query, "threadId": "a"}))[1:] == chunks_of(of_a)[1:]
        readable.remove("b")
        assert chunks_of(await join(chat, path, query))[1:] == chunks_of(of_a)[1:]
        readable.clear()
        assert code_of(await chat.client.get(path, params=query)) == (404, "unknown_run")


async def test_nobody_joins_a_session_of_others(path: str) -> None:
    """A run that the caller may not join looks like a missing one, unless the caller names the session."""
    allowed = True

    async def authorize(_request: Any, _session_id: str, _action: str) -> bool:
        return allowed

    async with serve_chat(script(), authorize=authorize) as chat:
        whole = await ask(chat, run_input(said("hi")), path)
        allowed = False
        query = {"offset": "-1", "runId": "client-run"}
        assert code_of(await chat.client.get(path, params=query)) == (404, "unknown_run")
        assert (await chat.client.get(path, params={**query, "threadId": "s"})).status_code == 403
        headers = {"last-event-id": str(whole[0].id), "x-run-id": "client-run"}
        assert (await chat.client.post(path, json=run_input(said("hi")), headers=headers)).status_code == 403


async def test_held_while_the_server_recovers(path: str) -> None:
    """
    A client takes an error status for the end of its run, so its requests wait until the runs of a crash have ended. A
    request of the durable transport, which retries, is refused as before.
    """
    async with serve_chat(script()) as chat:
        whole = await ask(chat, run_input(said("hi"), run="first"), path)
        chat.runs.recovery.ready.clear()
        assert (await chat.post("t", user("hi"))).status_code == 503
        body = run_input(said("more", "u2"), run="second")
        held = [
            asyncio.create_task(ask(chat, body, path)),
            asyncio.create_task(resume(chat, run_input(said("hi")), path, str(whole[2].id), "first")),
            asyncio.create_task(join(chat, path, {"offset": "-1", "runId": "first"})),
        ]
        assert (await chat.client.get(path, params={"threadId": "s"})).status_code == 200
        assert not any(task.done() for task in held)
        chat.runs.recovery.ready.set()
        new, rest, joined = await asyncio.gather(*held)
        assert types(chunks_of(new))[-1] == "RUN_FINISHED"
        assert rest == whole[3:]
        assert joined == whole


CALL = [
    {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "save"},
    {"type": "TOOL_CALL_END", "toolCallId": "c1"},
]
APPROVAL = {"toolCallId": "c1", "toolName": "save", "input": {}, "approval": {"id": "a1", "needsApproval": True}}


async def test_join_an_answer_that_continues_after_an_approval(path: str) -> None:
    """
    A client that joins replaces the answer at the end of what it shows. The part of it from before the approval is not in
    the run, so it gets all messages first.
    """
    model = script(go=False, before=["Wait."])

    async def asks_first(turn: Turn) -> Any:
        if len(turn.messages) == 1:
            for item in ["May I?", *CALL, {"type": "CUSTOM", "name": "approval-requested", "value": APPROVAL}]:
                yield item
            return
        async for item in model(turn):
            yield item

    async with serve_chat(asks_first) as chat:
        await ask(chat, run_input(said("save it"), run="first"), path)
        row = {"role": "tool", "id": "tool-c1", "toolCallId": "c1", "content": '{"approved":false}'}
        body = run_input(said("save it"), row, run="second")
        asked = asyncio.create_task(ask(chat, body, path))
        await model.waiting.wait()
        state = (await chat.client.get(path, params={"threadId": "s"})).json()
        assert [message["role"] for message in state["messages"]] == ["user", "assistant"]
        joined = asyncio.create_task(join(chat, path, {"offset": "-1", "runId": state["activeRun"]["runId"]}))
        model.go.set()
        whole, seen = await asked, await joined
        assert [one.chunk["type"] for one in seen[:3]] == ["CUSTOM", "RUN_STARTED", "MESSAGES_SNAPSHOT"]
        assert (seen[2].id, seen[2].chunk["messages"]) == (None, state["messages"])
        assert [*seen[:2], *seen[3:]] == whole


async def test_another_process_continues_an_answer(serve_npm: ServeNpm, path: str) -> None:
    """
    On a remote store a client may come back to another process, or after a restart of this one. That process knows the
    run by the place of its chunks.
    """
    url = f"{serve_npm(durable=False).url}/v1/stream/chats"
    model = script(go=False, before=["one "], after=["two"])
    async with serve_chat(model, url=url) as chat, serve_chat(script(), url=url) as other:
        body = run_input(said("hi"))
        before = await until_text(chat, body, path)
        resuming = asyncio.create_task(resume(other, body, path, str(before[-1].id)))
        await model.waiting.wait()
        model.go.set()
        after = await resuming
        assert chunks_of(before + after)[1:] == (await other.chunks("s"))[3:]
        assert chunks_of(await resume(other, body, path, str(before[-1].id))) == chunks_of(after)
        state = (await other.client.get(path, params={"threadId": "s"})).json()
        assert [message["role"] for message in state["messages"]] == ["user", "assistant"]


async def test_a_stream_that_is_no_session() -> None:
    """Every read of a run is a conflict if a stream of another type has the session's path."""
    async with serve_chat(script()) as chat:
        await chat.store.log.create("chat-s", Create("text/plain", payload=Payload(b"run-1 {")))
        for path in ("/api/ai-sdk-durable/s/runs/run-1?offset=-1", "/api/chat?threadId=s&runId=run-1&offset=-1"):
            answer = await chat.client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (409, "not_a_session"), answer.text
