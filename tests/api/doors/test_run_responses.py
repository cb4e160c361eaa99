"""A response that streams one run: its content, its lifetime and its end, on real sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from durable_chat.api.doors.run_responses import RunFollower
from durable_chat.http.tokens import LEEWAY_S, issue
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.readers import StreamReader
from tests.api.doors.answers import ask, asking, run_input, said, sent
from tests.conftest import Serve
from tests.lines import lines_of
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, types, user
from tests.sessions.test_failures import Full

SECRET = "a-secret-of-the-tests-long-enough"
NARROW_BYTES = 128 * 1024
"""What the socket of a slow reader holds, so that a long answer does not fit between it and the server."""

both_ways = pytest.mark.parametrize("own_connections", [True, False], ids=["serve", "uvicorn"])


def run_of(chunks: list[dict[str, Any]], number: int = 0) -> list[dict[str, Any]]:
    """Return the chunks of one run of a log, from its start to its end."""
    starts = [at for at, chunk in enumerate(chunks) if chunk["type"] == "RUN_STARTED"]
    rest = chunks[starts[number] :]
    end = next(at for at, chunk in enumerate(rest) if chunk["type"] in ("RUN_FINISHED", "RUN_ERROR"))
    return rest[: end + 1]


async def until_idle(chat: Chat) -> None:
    async with asyncio.timeout(ANSWER_MAX_S):
        while chat.runs.count or chat.live.count:  # noqa: ASYNC110 (nobody tells of it)
            await asyncio.sleep(0.01)


@both_ways
@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/ndjson"])
async def test_the_response_is_the_run(own_connections: bool, path: str, any_store_url: str) -> None:
    """The response holds the run's chunks as the log has them, each with the offset after it, and nothing else."""
    async with serve_chat(script(), url=any_store_url, own_connections=own_connections) as chat:
        first, *rest = await ask(chat, run_input(said("hi")), path)
        log = await chat.chunks("s")
        assert first.chunk["name"] == "run.accepted"
        assert [one.chunk for one in rest] == run_of(log)
        for one in [first, *rest]:
            assert one.id is not None
            after = await chat.chunks("s", one.id)
            assert after == log[len(log) - len(after) :]
        assert [len(await chat.chunks("s", one.id or "")) for one in rest] == [*reversed(range(len(rest)))]
        await until_idle(chat)


@both_ways
async def test_a_turn_that_waits(own_connections: bool) -> None:
    """The response of a waiting turn holds its own run only, and the other turn's response holds nothing of it."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections) as chat:
        one = asyncio.create_task(ask(chat, run_input(said("one"), run="r1")))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
        two = asyncio.create_task(ask(chat, run_input(said("two", "u2"), run="r2")))
        await chat.until("s", lambda chunks: any(c.get("name") == "durable-chat.turn-queued" for c in chunks))
        model.go.set()
        answers = [await asyncio.wait_for(task, ANSWER_MAX_S) for task in (one, two)]
        log = await chat.chunks("s")
        assert any(chunk.get("name") == "durable-chat.turn-queued" for chunk in log)
        for number, answer in enumerate(answers):
            run = [chunk for chunk in run_of(log, number) if chunk.get("name") != "durable-chat.turn-queued"]
            assert [one.chunk for one in answer[1:]] == run


@both_ways
async def test_the_same_request_again_is_the_same_run(own_connections: bool) -> None:
    """A repeated request, during the run or after it, gets the whole run and starts no other."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections) as chat:
        one = asyncio.create_task(ask(chat, run_input(said("hi"))))
        await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
        two = asyncio.create_task(ask(chat, run_input(said("hi"))))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
        model.go.set()
        first = await asyncio.wait_for(one, ANSWER_MAX_S)
        assert [again.chunk for again in (await two)[1:]] == [once.chunk for once in first[1:]]
        assert (await ask(chat, run_input(said("hi"))))[1:] == first[1:]
        assert len(model.turns) == 1


@both_ways
async def test_leaving_cancels_nothing(own_connections: bool) -> None:
    """When the client disconnects, the run continues to its end, and the response's memory is freed."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections) as chat:
        async with asking(chat, run_input(said("hi"))) as answer:
            async for one in sent(answer):
                if one.chunk["type"] == "TEXT_MESSAGE_CONTENT":
                    break
        model.go.set()
        log = await chat.until("s", ended())
        assert log[-1]["type"] == "RUN_FINISHED"
        await until_idle(chat)


@both_ways
async def test_a_slow_reader(own_connections: bool, any_store_url: str) -> None:
    """A client that does not read while a long answer is written gets every chunk once, and in order, later."""
    words = [f"{number} " + "x" * 4000 for number in range(2000)]
    model = script(before=["first"], after=words, go=False)
    async with serve_chat(model, url=any_store_url, own_connections=own_connections, coalesce="off") as chat:
        narrow = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)])
        async with httpx.AsyncClient(transport=narrow, base_url=chat.client.base_url, timeout=ANSWER_MAX_S) as client:
            async with asking(replace(chat, client=client), run_input(said("hi")), "/api/chat/ndjson") as answer:
                await asyncio.wait_for(model.waiting.wait(), ANSWER_MAX_S)
                model.go.set()
                await chat.until("s", ended())
                chunks = [one.chunk async for one in sent(answer)]
        assert chunks[1:] == run_of(await chat.chunks("s"))


@both_ways
async def test_a_stopped_run(own_connections: bool) -> None:
    """A stop by another client ends the response with the run's own end."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections) as chat:
        answer = asyncio.create_task(ask(chat, run_input(said("hi"))))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        chunks = [one.chunk for one in await asyncio.wait_for(answer, ANSWER_MAX_S)]
        assert chunks[-1]["metadata"]["tanstack"]["stopped"] is True
        assert chunks[1:] == run_of(await chat.chunks("s"))


@both_ways
async def test_a_deleted_session(own_connections: bool) -> None:
    """A session that is deleted ends the response."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections) as chat:
        answer = asyncio.create_task(ask(chat, run_input(said("hi"))))
        await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
        assert (await chat.client.delete("/api/chat", params={"id": "s"})).status_code == 204
        chunks = [one.chunk for one in await asyncio.wait_for(answer, ANSWER_MAX_S)]
        assert chunks[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR")
        await until_idle(chat)


@both_ways
async def test_a_permission_that_expires(own_connections: bool) -> None:
    """When the token expires, the response ends with an error that is not in the log, and the run goes on."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections, token_secret=SECRET) as chat:
        token = issue(SECRET, "s", ["send", "read"], now_s=time.time() - LEEWAY_S, ttl_s=2)
        headers = {"authorization": f"Bearer {token}"}
        answer = await asyncio.wait_for(ask(chat, run_input(said("hi")), headers=headers), ANSWER_MAX_S)
        assert (answer[-1].chunk["type"], answer[-1].chunk["code"]) == ("RUN_ERROR", "expired_token")
        assert answer[-1].id is None
        assert chat.runs.count == 1
        model.go.set()
        await until_idle(chat)


async def test_who_may_send_and_not_read(any_store_url: str) -> None:
    """The response shows the session, so a caller who may not read it is refused, and nothing is written."""
    async with serve_chat(script(), url=any_store_url, token_secret=SECRET) as chat:
        token = issue(SECRET, "s", ["send"], now_s=time.time(), ttl_s=60)
        async with asking(chat, run_input(said("hi")), headers={"authorization": f"Bearer {token}"}) as answer:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert chat.runs.count == 0


class FullMemory(Full, MemoryBackend):
    """A store in memory whose disk can be full."""


@both_ways
async def test_a_run_that_cannot_be_written(own_connections: bool) -> None:
    """When the store fails, the response ends with an error, because the run's end will never be written."""
    backend = FullMemory()
    model = script(go=False)
    async with serve_chat(model, backend=backend, own_connections=own_connections) as chat:
        async with asking(chat, run_input(said("hi"))) as answer:
            chunks = []
            async for one in sent(answer):
                chunks.append(one.chunk)
                if one.chunk["type"] == "TEXT_MESSAGE_CONTENT":
                    backend.full = True
                    model.go.set()
        assert chunks[-1]["type"] == "RUN_ERROR"
        assert types(chunks).count("RUN_STARTED") == 1
        await until_idle(chat)


@both_ways
async def test_a_shutdown(own_connections: bool) -> None:
    """A shutdown leaves the response open at first. A run that it interrupts ends with its own error."""
    model = script(go=False)
    async with serve_chat(model, own_connections=own_connections, sse_s=0.05) as chat:
        async with asking(chat, run_input(said("hi"))) as answer:
            chunks = []
            async for one in sent(answer):
                chunks.append(one.chunk)
                if one.chunk["type"] == "TEXT_MESSAGE_CONTENT":
                    chat.live.close()
                    await asyncio.sleep(0.1)
                    draining = asyncio.create_task(chat.runs.drain(0.1))
            await draining
        assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "interrupted")


async def test_pings(any_store_url: str) -> None:
    """
    While the model is silent, the response sends pings, which clients ignore, so that proxies keep the connection.
    """
    model = script(go=False)
    async with serve_chat(model, url=any_store_url, sse_ping_s=0.05, own_connections=True) as chat:
        async with asking(chat, run_input(said("hi"))) as answer:
            found = b""
            async with asyncio.timeout(ANSWER_MAX_S):
                async for piece in answer.aiter_bytes():
                    found += piece
                    if found.count(b": ping\n\n") > 2:
                        model.go.set()
            assert found.count(b"RUN_FINISHED") == 1


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    """A response that has ended, or whose client has left, is freed at once."""
    model = script(go=False)
    async with serve_chat(model, own_connections=True) as chat:
        gc.collect()
        gc.disable()
        try:
            answer = asyncio.create_task(ask(chat, run_input(said("hi"))))
            async with asking(chat, run_input(said("hi"))):
                await chat.until("s", lambda chunks: "TEXT_MESSAGE_CONTENT" in types(chunks)[3:])
            model.go.set()
            await answer
            await until_idle(chat)
            left = [type(one) for one in gc.get_objects() if isinstance(one, RunFollower | StreamReader)]
            assert left == []
        finally:
            gc.enable()


async def test_the_durable_transport_is_unchanged(any_store_url: str) -> None:
    """A body without AG-UI's fields, or a request with `mode`, is answered as before."""
    async with serve_chat(script(), url=any_store_url) as chat:
        assert (await chat.post("s", user("hi"))).status_code == 202
        answer = await chat.client.post("/api/chat", params={"mode": "await"}, json=run_input(said("hi"), thread="t"))
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_killed_server_is_noticed(serve: Serve) -> None:
    """A response that a killed server cuts off is an error for its client, not the end of the answer."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="30")
    with httpx.stream("POST", f"{server.url}/api/agui", json=run_input(said("write a long story"))) as answer:
        pieces = answer.iter_bytes()
        while b"TEXT_MESSAGE_CONTENT" not in next(pieces):
            pass
        server.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)


@pytest.mark.parametrize(
    ("grace_s", "last"), [("30", ("RUN_FINISHED", None)), ("0.5", ("RUN_ERROR", "interrupted"))], ids=["time", "none"]
)
def test_a_server_that_is_stopped(serve: Serve, grace_s: str, last: tuple[str, str | None]) -> None:
    """When the server is stopped, the response lasts until its run ends or the grace period is over."""
    settings = {"DURABLE_CHAT_DEMO_DELAY_MS": "40", "DURABLE_CHAT_DEMO_CHUNKS": "60"}
    server = serve(DURABLE_CHAT_GRACE_S=grace_s, **settings)
    lines: list[str] = []
    with httpx.stream("POST", f"{server.url}/api/chat", json=run_input(said("hello")), timeout=ANSWER_MAX_S) as answer:
        for line in lines_of(answer):
            lines.append(line)
            if "TEXT_MESSAGE_CONTENT" in line and sum("TEXT_MESSAGE_CONTENT" in one for one in lines) == 3:
                os.kill(server.pid, signal.SIGTERM)
    chunk = json.loads(next(line for line in reversed(lines) if line.startswith("data: "))[6:])
    assert (chunk["type"], chunk.get("code")) == last
    assert server.wait() == 0
