"""Failures that keep an answer from the log: its run gets an end where possible, and nobody waits forever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable_chat.errors import InvalidRequest, StoreFailed, Unavailable
from durable_chat.models.base import Turn
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.requests import Append, Appended
from durable_chat.sessions.recovering.leases import KIND
from durable_chat.store.base import RecordWrite, Write
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.sqlite.backend import SqliteBackend
from tests.conftest import Serve
from tests.http.remotes import Heard, Remote, Wire, relay, remote, upstream_at
from tests.sessions.serving import (
    ANSWER_MAX_S,
    Chat,
    ended,
    script,
    serve_chat,
    texts,
    types,
    user,
    waiting,
)
from tests.sessions.test_runs import Faulty, faulty, rules_hold, wait

LEASE_MS = 100
POISON = "poison"


async def answer_of(task: asyncio.Task[httpx.Response]) -> tuple[int, str]:
    answer = await asyncio.wait_for(task, ANSWER_MAX_S)
    return answer.status_code, str(answer.json()["code"])


async def no_run_is_left(chat: Chat) -> None:
    await asyncio.wait_for(chat.runs.drain(ANSWER_MAX_S, for_good=False), ANSWER_MAX_S)
    assert chat.runs.count == 0


# The disk.


class Full:
    """A mixin for a backend whose disk is full when a test says so."""

    full = False

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        if self.full:
            raise StoreFailed("The disk is full.")
        refused: frozenset[int] = await super().commit(writes)  # type: ignore[misc] # the backend's
        return refused


class FullMemory(Full, MemoryBackend): ...


class FullSqlite(Full, SqliteBackend): ...


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    """
    Waiting and later requests are told, the model is closed, and the text stays. After a restart with free space, the
    run gets its end.
    """
    file = tmp_path / "chat.db"
    backend = FullMemory() if kind == "memory" else FullSqlite(str(file))
    model = script(go=False)
    async with serve_chat(model, backend=backend) as chat:
        async with waiting(chat, model) as task:
            backend.full = True
        assert await answer_of(task) == (503, "store_failed")
        later = await chat.post("s", user("more", "u2"), mode="await")
        assert (later.status_code, later.json()["code"]) == (503, "store_failed")
        await no_run_is_left(chat)
        assert model.closed == 1
        chunks = await chat.chunks("s")
        assert [chunk["delta"] for chunk in chunks if "delta" in chunk][-1] == "Hel"
        assert ended()(chunks) is False
    if kind == "memory":
        return
    async with serve_chat(script(), url=f"sqlite:///{file}") as chat:
        await chat.runs.recovery.start()
        await wait(chat.runs.recovery.ready)
        after = await chat.chunks("s")
        rules_hold(after)
        assert after[: len(chunks)] == chunks
        assert after[-1]["code"] == "interrupted"
        await chat.runs.recovery.close()


# What the log refuses.


class Picky(Faulty):
    """A log that refuses appends with a certain word, as a remote store with its own rules may."""

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        if POISON.encode() in request.payload.data:
            raise InvalidRequest("The store does not take that.", code="refused_by_store")
        return await super().append(path, request, records)


async def test_one_append_is_refused() -> None:
    """The run ends with an error at once, and no transcript shows the refused chunks."""
    call = {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "t"}
    model = script(go=False, after=["lo.", call, {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": POISON}, "!"])
    async with serve_chat(model) as chat:
        faulty(chat, Picky)
        async with waiting(chat, model) as task:
            pass
        assert await answer_of(task) == (502, "run_failed")
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "refused_by_store")
        assert POISON not in str(chunks)
        assert texts(await chat.snapshot("s"))[-1][1].startswith("Hel")
        assert chat.store.records is not None
        assert await chat.store.records.records(KIND) == []
        assert (await chat.post("s", user("more", "u2"))).status_code == 202


async def test_a_refused_request_with_a_key_stays_refused() -> None:
    """A retry gets the same response, and no model is called."""
    model = script(after=[POISON])
    async with serve_chat(model) as chat:
        faulty(chat, Picky)
        said = [
            await chat.client.post(
                "/api/chat?id=s&mode=await", json={"messages": [user("hi")]}, headers={"idempotency-key": "k"}
            )
            for _ in range(2)
        ]
        assert {(answer.status_code, answer.json()["error"]) for answer in said} == {
            (502, "The store does not take that.")
        }
        assert len(model.turns) == 1


async def test_the_log_refuses_for_a_while() -> None:
    """The end is written without a request when the log accepts writes again and the lease has expired."""
    model = script(go=False)
    async with serve_chat(model, lease_ms=LEASE_MS) as chat:
        await chat.runs.recovery.start()
        log = faulty(chat)
        async with waiting(chat, model) as task:
            log.failing = Unavailable("The disk is behind.", code="overloaded")
        assert await answer_of(task) == (503, "overloaded")
        log.failing = None
        chunks = await chat.until("s", ended())
        rules_hold(chunks)
        assert chunks[-1]["type"] == "RUN_ERROR"
        await chat.runs.recovery.close()


async def test_the_end_is_refused() -> None:
    """If the last append fails, the run gets another end, and only one."""
    model = script(go=False, after=[{"type": "RUN_FINISHED", "result": POISON}])
    async with serve_chat(model) as chat:
        faulty(chat, Picky)
        async with waiting(chat, model) as task:
            pass
        assert await answer_of(task) == (502, "run_failed")
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert chunks[-1]["code"] == "refused_by_store"


# The stream.


async def test_the_stream_is_deleted_under_the_run() -> None:
    """
    When another client deletes the stream, the model is closed, waiting requests are told, and the session begins
    again.
    """
    model = script(go=False)
    async with serve_chat(model) as chat:
        async with waiting(chat, model) as task:
            await chat.store.log.delete("chat-s")
            assert await answer_of(task) == (502, "session_deleted")
            assert model.closed == 1
        await no_run_is_left(chat)
        assert await chat.chunks("s") == []
        assert (await chat.post("s", user("again", "u2"), mode="await")).status_code == 200
        rules_hold(await chat.chunks("s"))
        assert texts(await chat.snapshot("s")) == [("user", "again"), ("assistant", "Hello.")]
        assert chat.store.records is not None
        assert await chat.store.records.records(KIND) == []


async def test_the_stream_is_closed_under_the_run() -> None:
    """Nothing more can be written. Waiting requests are told so, and further turns are refused."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        async with waiting(chat, model) as task:
            await chat.store.log.append("chat-s", Append(close=True))
        assert await answer_of(task) == (502, "session_closed")
        assert model.closed == 1
        later = await chat.post("s", user("more", "u2"), mode="await")
        assert (later.status_code, later.json()["code"]) == (409, "session_closed")
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hel")]


# A remote store.


class Moody:
    """
    A proxy between the chat and a healthy server. `refuses` gives the response to send instead, by the size of a write.
    """

    def __init__(self, target: str) -> None:
        self.pass_on = relay(target)
        self.away = False
        self.bytes_max: int | None = None

    async def __call__(self, request: Heard, wire: Wire) -> None:
        if self.away:
            await wire.answer(503, {"Retry-After": "3600"})  # nobody waits that long
        elif self.bytes_max is not None and request.method == "POST" and len(request.body) > self.bytes_max:
            await wire.answer(413)
        else:
            await self.pass_on(request, wire)


@asynccontextmanager
async def remote_chat(serve: Serve, model: Any, **settings: Any) -> AsyncIterator[tuple[Chat, Moody, Remote]]:
    moody = Moody(serve().url)
    async with remote(moody) as told, serve_chat(model, url=told.url, **settings) as chat:
        yield chat, moody, told


async def test_a_remote_that_is_away_for_too_long(serve: Serve) -> None:
    """Waiting requests are told. When the remote is back, the run gets its end without another turn."""
    model = script(go=False)
    async with remote_chat(serve, model, lease_ms=LEASE_MS) as (chat, moody, _):
        await chat.runs.recovery.start()
        async with waiting(chat, model) as task:
            moody.away = True
        assert await answer_of(task) == (503, "upstream_down")
        assert model.closed == 1
        moody.away = False
        chunks = await chat.until("s", ended())
        rules_hold(chunks)
        assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "interrupted")
        assert (await chat.post("s", user("more", "u2"), mode="await")).status_code == 200
        rules_hold(await chat.chunks("s"))
        await chat.runs.recovery.close()


async def test_a_remote_that_is_away_until_the_next_turn(serve: Serve) -> None:
    """The turn ends open runs before it begins."""
    model = script(go=False)
    async with remote_chat(serve, model) as (chat, moody, _):
        async with waiting(chat, model) as task:
            moody.away = True
        assert await answer_of(task) == (503, "upstream_down")
        moody.away = False
        assert (await chat.post("s", user("more", "u2"), mode="await")).status_code == 200
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert [kind for kind in types(chunks) if kind.startswith("RUN_")] == [
            *("RUN_STARTED", "RUN_ERROR"),
            *("RUN_STARTED", "RUN_FINISHED"),
        ]


async def test_a_remote_that_takes_less_at_once(serve: Serve) -> None:
    """The gathered chunks are sent in smaller appends, and all of them arrive."""
    words = [f"{number:04} " * 20 for number in range(200)]

    async def model(_turn: Turn) -> AsyncIterator[str]:
        for word in words:
            yield word

    async with remote_chat(serve, model) as (chat, moody, told):
        moody.bytes_max = 2000
        assert (await chat.post("s", user("hi"), mode="await")).status_code == 200
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert "".join(chunk["delta"] for chunk in chunks if "delta" in chunk) == "hi" + "".join(words)
        assert any(len(request.body) > moody.bytes_max for request in told.of("POST"))


async def test_a_chunk_that_a_remote_does_not_take(serve: Serve) -> None:
    """If a single chunk is too large, the run ends with an error, and the earlier text is kept."""
    model = script(go=False, after=["x" * 5000, "y"])
    async with remote_chat(serve, model) as (chat, moody, _):
        moody.bytes_max = 2000
        async with waiting(chat, model) as task:
            pass
        assert await answer_of(task) == (502, "run_failed")
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "too_large")
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "Hel")]


async def test_a_remote_whose_stream_another_process_has_taken(serve: Serve) -> None:
    """
    The other process's epoch fences this one: it writes nothing more, not even an end, and waiting requests are told.
    """
    model = script(go=False)
    async with remote_chat(serve, model) as (chat, _, told):
        async with waiting(chat, model) as task, upstream_at(told.url) as other:
            theirs = b'{"type":"CUSTOM","name":"theirs","value":1}'
            await other.append("chat-s", Append(join_messages([theirs]), JSON))
        assert await answer_of(task) == (503, "fenced")
        assert model.closed == 1
        chunks = await chat.chunks("s")
        assert (chunks[-1]["type"], chunks[-1].get("name")) == ("CUSTOM", "theirs")
