"""Answers while the store is overloaded: a run waits for the store, because its model can wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import durable_chat.metrics as metrics
from durable_chat.errors import Overloaded
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.requests import Create
from durable_chat.sessions.writers import patiently
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, texts, types, user
from tests.store.making import GatedBackend, json_append

QUEUE_MAX = 8


@asynccontextmanager
async def filled(chat: Chat, backend: GatedBackend) -> AsyncIterator[None]:
    """In this block the disk does not respond, and its queue is full."""
    await chat.store.log.create("other", Create(JSON))
    backend.hold()
    waiting: list[asyncio.Task[Any]] = []
    for _ in range(2):  # what the flush under way takes, and what fills the queue behind it
        appends = (chat.store.log.append("other", json_append(b"1")) for _ in range(QUEUE_MAX))
        waiting += [asyncio.create_task(append) for append in appends]
        for _ in range(5):
            await asyncio.sleep(0)
    try:
        with pytest.raises(Overloaded):
            await chat.store.log.append("other", json_append(b"1"))
        yield
    finally:
        backend.gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)


async def until_delayed(before: float) -> None:
    async with asyncio.timeout(ANSWER_MAX_S):
        while delayed() < before + 2:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)


def delayed() -> float:
    return metrics.writes_delayed.values[()]


async def test_an_answer_outlives_an_overload() -> None:
    """The model's output waits, and all of it is in the log when the overload is over."""
    backend = GatedBackend()
    model = script(go=False, after=[f"word{n} " for n in range(100)])
    async with serve_chat(model, backend=backend, queue_writes_max=QUEUE_MAX) as chat:
        assert (await chat.post("s", user("hi"))).status_code == 202
        await model.waiting.wait()
        before = delayed()
        async with filled(chat, backend):
            model.go.set()
            await until_delayed(before)
        chunks = await chat.until("s", ended())
        assert types(chunks)[-1] == "RUN_FINISHED"
        said = "".join(f"word{n} " for n in range(100))
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "Hel" + said)


async def test_a_turn_that_waits_outlives_an_overload() -> None:
    """An acknowledged turn is answered. Other turns are refused with 503, and nothing of them is written."""
    backend = GatedBackend()
    model = script(go=False)
    async with serve_chat(model, backend=backend, queue_writes_max=QUEUE_MAX) as chat:
        assert (await chat.post("s", user("hi"))).status_code == 202
        await model.waiting.wait()
        assert (await chat.post("s", user("and?", "u2"))).status_code == 202
        before = delayed()
        async with filled(chat, backend):
            model.go.set()
            refused = await chat.post("new", user("hello"))
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) > 0
            await until_delayed(before)
        chunks = await chat.until("s", ended(2))
        assert [kind for kind in types(chunks) if kind.startswith("RUN_")] == ["RUN_STARTED", "RUN_FINISHED"] * 2
        assert await chat.chunks("new") == []


async def test_an_overload_that_does_not_pass() -> None:
    """It ends the run after the stall timeout. When the overload is over, the log gets the end."""
    backend = GatedBackend()
    model = script(go=False)
    async with serve_chat(model, backend=backend, queue_writes_max=QUEUE_MAX, stall_s=0.3, lease_ms=200) as chat:
        await chat.runs.recovery.start()
        waiting = asyncio.create_task(chat.post("s", user("hi"), mode="await"))
        await model.waiting.wait()
        async with filled(chat, backend):
            model.go.set()
            answer = await waiting
            assert answer.status_code >= 500
        chunks = await chat.until("s", ended())
        assert types(chunks)[-1] == "RUN_ERROR"
        await chat.runs.recovery.close()


async def test_patience() -> None:
    """Other errors are not retried, and nothing is retried after the timeout."""
    tried = 0

    async def attempt() -> None:
        nonlocal tried
        tried += 1
        raise Overloaded("The disk is behind.") if tried < 3 else ValueError

    with pytest.raises(ValueError):
        await patiently(attempt, 60)
    assert tried == 3
    tried = 0
    with pytest.raises(Overloaded):
        await patiently(attempt, 0)
    assert tried == 1
