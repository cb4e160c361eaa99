"""The chat's routes, on a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from durable_chat.errors import Unauthorized
from durable_chat.models.base import ProviderError, Turn
from durable_chat.protocol.offsets import ZERO
from tests.lines import alines_of
from tests.sessions.serving import ANSWER_MAX_S, ended, script, serve_chat, texts, types, user

STORES = ["memory://", "sqlite"]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path}/chat.db" if request.param == "sqlite" else str(request.param)


async def test_a_turn_is_taken_at_once_and_answered_in_the_log(url: str) -> None:
    """The 202 with an empty body comes while the model still runs. The log holds the message, and then the answer."""
    model = script(go=False)
    async with serve_chat(model, url=url) as chat:
        answer = await chat.post("s", user("hi"))
        assert (answer.status_code, answer.content) == (202, b"")
        assert answer.headers["cache-control"] == "no-store"
        before = await chat.chunks("s")
        assert types(before)[:3] == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"]
        assert {chunk["messageId"] for chunk in before[:3]} == {"u1"}
        model.go.set()
        found = await chat.until("s", ended())
        assert types(found)[3:] == [
            "RUN_STARTED",
            "TEXT_MESSAGE_START",
            "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_END",
            "RUN_FINISHED",
        ]
        assert {found[3]["runId"], found[-1]["runId"]} == {answer.headers["x-run-id"]}
        after = await chat.chunks("s", answer.headers["stream-next-offset"])
        assert types(after)[0] == "RUN_STARTED"
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hello.")]


async def test_await_answers_when_the_run_has_ended(url: str) -> None:
    """With await, the 200 comes when the log has the run's end, and the snapshot shows no active run."""
    async with serve_chat(script(), url=url) as chat:
        answer = await chat.post("s", user("hi"), mode="await")
        assert (answer.status_code, answer.content) == (200, b"")
        assert types(await chat.chunks("s"))[-1] == "RUN_FINISHED"
        assert (await chat.snapshot("s"))["activeRun"] is None


async def test_await_says_that_the_run_failed() -> None:
    """
    With await, a failed model gives 502 with a safe message. The run ends in the log with the same message and a
    code.
    """
    model = script(error=ProviderError("The model is busy.", "529"))
    async with serve_chat(model) as chat:
        answer = await chat.post("s", user("hi"), mode="await")
        assert answer.status_code == 502
        assert answer.json() == {"error": "The model is busy.", "code": "run_failed"}
        last = (await chat.chunks("s"))[-1]
        assert (last["type"], last["message"], last["code"]) == ("RUN_ERROR", "The model is busy.", "529")
        assert last["runId"] == answer.headers["x-run-id"]


async def test_await_has_an_end() -> None:
    """With await, the response is 202 after the longest wait, and the run continues."""
    model = script(go=False)
    async with serve_chat(model, await_max_s=0.05) as chat:
        answer = await chat.post("s", user("hi"), mode="await")
        assert answer.status_code == 202
        model.go.set()
        assert types(await chat.until("s", ended()))[-1] == "RUN_FINISHED"


@pytest.mark.parametrize("mode", ["immediate", "await"])
async def test_leaving_cancels_nothing(mode: str) -> None:
    """When a client disconnects, its answer is still written to the end."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        leaving = asyncio.create_task(chat.post("s", user("hi"), mode=mode))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        leaving.cancel()
        await asyncio.wait([leaving])
        model.go.set()
        await chat.until("s", ended())
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "Hello.")


BAD_IDS = {"missing": None, "empty": "", "long": "x" * 257, "a control character": "a\x07b", "a line end": "a\nb"}
ROUTES = [("POST", "chat"), ("GET", "chat-stream"), ("GET", "chat-snapshot"), ("POST", "chat-stop"), ("DELETE", "chat")]


@pytest.mark.parametrize("session_id", BAD_IDS.values(), ids=BAD_IDS)
@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_a_bad_id_is_refused(method: str, route: str, session_id: str | None) -> None:
    """Every route answers 400 `bad_id` to an invalid session id, and writes nothing."""
    async with serve_chat(script()) as chat:
        query = {} if session_id is None else {"id": session_id}
        body = {"messages": [user("hi")]} if route == "chat" and method == "POST" else None
        answer = await chat.client.request(method, f"/api/{route}", params=query, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_id")
        assert chat.runs.count == 0


BAD_BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "no JSON": (b"hello", {}, 400),
    "no object": (b"[1]", {}, 400),
    "no messages": (b"{}", {}, 400),
    "empty messages": (b'{"messages":[]}', {}, 400),
    "nested deep": (b'{"messages":' + b"[" * 1000 + b"]" * 1000 + b"}", {}, 400),
    "too long": (b'{"messages":[{"role":"user","content":"' + b"x" * 5000 + b'"}]}', {}, 413),
    "another type": (b'{"messages":[{"role":"user","content":"x"}]}', {"content-type": "text/plain"}, 415),
    "a long key": (b'{"messages":[{"role":"user","content":"x"}]}', {"idempotency-key": "k" * 257}, 400),
    "two sessions": (b'{"messages":[{"role":"user","content":"x"}],"id":"other"}', {}, 400),
}


@pytest.mark.parametrize(("body", "headers", "status"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_refused_and_nothing_is_written(body: bytes, headers: dict[str, str], status: int) -> None:
    """An invalid body is refused, the session's log does not change, and the model is not called."""
    model = script()
    async with serve_chat(model, body_max_bytes=4096) as chat:
        await chat.post("s", user("hi"), mode="await")
        before = await chat.chunks("s")
        sent = {"content-type": "application/json", **headers}
        answer = await chat.client.post("/api/chat?id=s", content=body, headers=sent)
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "code"}
        assert await chat.chunks("s") == before
        assert len(model.turns) == 1


async def test_a_long_body_is_refused_before_it_has_come() -> None:
    """A body over the limit gets 413 by its Content-Length, or without one as soon as it exceeds the limit."""
    async with serve_chat(script(), body_max_bytes=4096) as chat:
        host, port = chat.client.base_url.host, chat.client.base_url.port
        for framing in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
            reader, writer = await asyncio.open_connection(host, port)
            head = f"POST /api/chat?id=s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
            writer.write(head.encode())
            if "chunked" in framing:
                writer.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            status = await asyncio.wait_for(reader.readline(), ANSWER_MAX_S)
            assert b" 413 " in status
            writer.close()


async def test_the_model_is_not_asked_without_a_key() -> None:
    """
    Without its key, a model's turn gets 401 before anything is written. With a key, the model gets it, and the log
    does not.
    """
    model = script()

    def choose(api_key: str | None) -> Any:
        if api_key is None:
            raise Unauthorized("An API key is missing.", code="missing_api_key")
        return model

    choose.chooses = True  # type: ignore[attr-defined]
    async with serve_chat(choose) as chat:
        answer = await chat.post("s", user("hi"))
        assert (answer.status_code, answer.json()["code"]) == (401, "missing_api_key")
        assert await chat.chunks("s") == []
        body = {"messages": [user("hi")], "data": {"tone": "kind"}}
        await chat.client.post("/api/chat?id=s&mode=await", json=body, headers={"x-api-key": "sk-secret-1"})
        assert (model.turns[0].api_key, model.turns[0].data) == ("sk-secret-1", {"tone": "kind"})
        assert "sk-secret-1" not in json.dumps(await chat.chunks("s"))


async def test_the_body_may_name_the_session() -> None:
    """The body's id or threadId names the session if the query does not. Two different ids are refused."""
    async with serve_chat(script()) as chat:
        for names in ({"id": "a"}, {"threadId": "b"}, {"id": "c", "threadId": "c"}):
            body = {"messages": [user("hi")], **names}
            answer = await chat.client.post("/api/chat?mode=await", json=body)
            assert answer.status_code == 200, answer.text
            assert await chat.chunks(next(iter(names.values())))
        body = {"messages": [user("hi")], "id": "a", "threadId": "b"}
        assert (await chat.client.post("/api/chat", json=body)).status_code == 400


async def test_a_session_that_does_not_exist_reads_as_empty_and_goes_live() -> None:
    """A tab may subscribe before the first message, and a read creates nothing."""
    async with serve_chat(script()) as chat:
        assert await chat.chunks("s") == []
        assert (await chat.snapshot("s"))["messages"] == []
        offset = (await chat.snapshot("s"))["offset"]
        query = {"id": "s", "offset": offset, "live": "sse"}
        async with chat.client.stream("GET", "/api/chat-stream", params=query) as answer:
            assert answer.status_code == 200
            await chat.post("s", user("hi"))
            async with asyncio.timeout(ANSWER_MAX_S):
                async for line in alines_of(answer):
                    if "RUN_FINISHED" in line:
                        break


@pytest.mark.parametrize("query", [{"offset": "x"}, {"offset": "-1", "live": "sometimes"}, {"live": "sse"}])
async def test_a_bad_read_is_refused(query: dict[str, str]) -> None:
    """An invalid offset and an unknown live mode get 400, also for a session that does not exist."""
    async with serve_chat(script()) as chat:
        answer = await chat.client.get("/api/chat-stream", params={"id": "s", **query})
        assert answer.status_code == 400
        assert set(answer.json()) == {"error", "code"}


async def test_reads_are_kept_by_no_shared_cache() -> None:
    """Catch-up and snapshot forbid shared caching, and an unchanged snapshot gets 304."""
    async with serve_chat(script()) as chat:
        await chat.post("s", user("hi"), mode="await")
        for route in ("chat-stream", "chat-snapshot"):
            answer = await chat.client.get(f"/api/{route}?id=s")
            assert answer.headers["cache-control"] == "private, no-cache"
            assert answer.headers["vary"] == "Authorization, Cookie, Origin"
        same = await chat.client.get("/api/chat-snapshot?id=s", headers={"if-none-match": answer.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        await chat.post("s", user("more", "u2"), mode="await")
        changed = await chat.client.get("/api/chat-snapshot?id=s", headers={"if-none-match": answer.headers["etag"]})
        assert changed.status_code == 200


async def test_a_reload_in_the_middle_gets_the_run_whole(url: str) -> None:
    """While a run is active, the snapshot holds the messages before it, and its offset is the run's beginning."""
    model = script(go=False)
    async with serve_chat(model, url=url) as chat:
        posted = await chat.post("s", user("hi"))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
        snapshot = await chat.snapshot("s")
        assert texts(snapshot) == [("user", "hi")]
        assert snapshot["activeRun"] == {"runId": posted.headers["x-run-id"]}
        assert snapshot["offset"] == posted.headers["stream-next-offset"]
        assert types(await chat.chunks("s", snapshot["offset"]))[0] == "RUN_STARTED"
        model.go.set()
        await chat.until("s", ended())
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hello.")]


async def test_stop_keeps_what_was_shown(url: str) -> None:
    """A stop closes the model at once, and the run ends as finished, with `stopped` in its metadata."""
    model = script(go=False)
    async with serve_chat(model, url=url) as chat:
        waiting = asyncio.create_task(chat.post("s", user("hi"), mode="await"))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        answer = await chat.client.post("/api/chat-stop?id=s")
        last = (await chat.chunks("s"))[-1]
        assert answer.json() == {"stopped": [last["runId"]]}
        assert last["type"] == "RUN_FINISHED"
        assert last["metadata"]["tanstack"] == {"finishReason": "stop", "stopped": True}
        assert model.closed == 1
        assert (await waiting).status_code == 200
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hel")]


async def test_stopping_what_does_not_run_is_no_error() -> None:
    """Stopping an unknown session, an ended run or another session's run succeeds and stops nothing."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        run_id = (await chat.post("s", user("hi"))).headers["x-run-id"]
        for query in ("id=other", f"id=other&runId={run_id}", "id=s&runId=run-unknown"):
            answer = await chat.client.post(f"/api/chat-stop?{query}")
            assert (answer.status_code, answer.json()) == (200, {"stopped": []})
        model.go.set()
        await chat.until("s", ended())
        assert (await chat.client.post("/api/chat-stop?id=s")).json() == {"stopped": []}


async def test_delete_removes_the_session(url: str) -> None:
    """Delete stops the run, removes the stream and forgets its keys. The session reads as empty and can begin again."""
    model = script(go=False)
    async with serve_chat(model, url=url) as chat:
        body = {"messages": [user("hi")]}
        await chat.client.post("/api/chat?id=s", json=body, headers={"idempotency-key": "k"})
        answer = await chat.client.delete("/api/chat?id=s")
        assert (answer.status_code, answer.content) == (204, b"")
        assert await chat.chunks("s") == []
        assert (await chat.snapshot("s")) == {
            "messages": [],
            "offset": ZERO,
            "activeRun": None,
            "lastRun": None,
            "interrupts": None,
        }
        assert chat.store.records is not None
        assert await chat.store.records.records("request") == []
        assert (await chat.client.delete("/api/chat?id=s")).status_code == 204
        model.go.set()
        again = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers={"idempotency-key": "k"})
        assert again.status_code == 200
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hello.")]


async def test_no_id_reaches_another_session() -> None:
    """Ids that look like paths, or like another encoded id, name their own sessions."""
    ids = ["a", "../a", "a/b", "a%2Fb", "%61", "..", "chat-a", "a b", "ä", "💬", "a\\b", "?id=a"]

    async def echo(turn: Turn) -> Any:
        yield turn.session_id

    async with serve_chat(echo) as chat:
        for session_id in ids:
            assert (await chat.post(session_id, user(session_id), mode="await")).status_code == 200
        for session_id in ids:
            expected = [("user", session_id), ("assistant", session_id)]
            assert texts(await chat.snapshot(session_id)) == expected


async def test_a_closed_session_takes_no_more() -> None:
    """A turn to a closed stream gets 409, and the stream stays readable."""
    from durable_chat.protocol.requests import Append

    async with serve_chat(script()) as chat:
        await chat.post("s", user("hi"), mode="await")
        await chat.store.log.append("chat-s", Append(close=True))
        answer = await chat.post("s", user("more", "u2"))
        assert (answer.status_code, answer.json()["code"]) == (409, "session_closed")
        assert len(texts(await chat.snapshot("s"))) == 2


async def test_a_client_that_goes_away_in_the_middle_of_its_body_leaves_nothing() -> None:
    """A client that disconnects in the middle of its body starts no run."""
    model = script()
    async with serve_chat(model) as chat:

        async def cut() -> Any:
            yield b'{"messages":'
            raise OSError

        with pytest.raises((OSError, httpx.HTTPError)):
            await chat.client.post("/api/chat?id=s", content=cut(), headers={"content-type": "application/json"})
        assert await chat.chunks("s") == []
        assert model.turns == []


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_head_of_a_live_read_is_answered_at_once(live: str) -> None:
    """
    A HEAD of a live read returns the headers at once and opens no live read, even in a session with the maximum of
    readers.
    """
    async with serve_chat(script(), readers_per_session_max=1) as chat:
        await chat.post("s", user("hi"), mode="await")
        query = {"id": "s", "offset": "now", "live": live}
        async with chat.client.stream("GET", "/api/chat-stream", params={**query, "live": "sse"}):
            full = await chat.client.get("/api/chat-stream", params=query)
            assert full.status_code == 429
            answer = await chat.client.head("/api/chat-stream", params=query)
        assert answer.content == b""
        if live == "sse":
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        else:
            assert (answer.status_code, "stream-next-offset" in answer.headers) == (204, True)
        assert answer.headers["cache-control"] == "private, no-cache"
