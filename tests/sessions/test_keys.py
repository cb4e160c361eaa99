"""Requests with keys: the model is called once for each key, in whatever order and whenever they are repeated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from durable_chat.sessions.running.idempotency import KEYS_PER_RUN_MAX
from tests.sessions.serving import ANSWER_MAX_S, Chat, ended, script, serve_chat, texts, types, user


async def send(chat: Chat, message: dict[str, Any], key: str | None = None, session_id: str = "s") -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await chat.client.post("/api/chat", params={"id": session_id}, json={"messages": [message]}, headers=headers)


def run_of(answer: httpx.Response) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.headers["x-run-id"])


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), ANSWER_MAX_S)


async def test_a_repetition_under_its_own_key_is_remembered_by_it(tmp_path: Path) -> None:
    """If a tab repeats a message under a new key during its run, a later retry with that key starts nothing."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    model = script(go=False)
    async with serve_chat(model, url=url) as chat:
        first = run_of(await send(chat, user("hi"), "k1"))
        await wait(model.waiting)
        assert run_of(await send(chat, user("hi"), "k2")) == first
        assert run_of(await send(chat, user("hi"))) == first
        model.go.set()
        await chat.until("s", ended())
        assert run_of(await send(chat, user("hi"), "k2")) == first
    async with serve_chat(model, url=url) as chat:
        for key in ("k1", "k2"):
            assert run_of(await send(chat, user("hi"), key)) == first
    assert len(model.turns) == 1


async def test_a_key_of_a_run_that_began_without_one() -> None:
    """The same holds for a run without a key, and for a run that waits for its turn."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = run_of(await send(chat, user("one", "u1")))
        second = run_of(await send(chat, user("two", "u2")))
        assert run_of(await send(chat, user("one", "u1"), "k1")) == first
        assert run_of(await send(chat, user("two", "u2"), "k2")) == second
        model.go.set()
        await chat.until("s", ended(2))
        assert run_of(await send(chat, user("one", "u1"), "k1")) == first
        assert run_of(await send(chat, user("two", "u2"), "k2")) == second
    assert len(model.turns) == 2


async def test_a_late_retry_is_not_the_regenerate_that_runs() -> None:
    """The key is checked first: the run of that key has ended, even if the message is being answered again."""
    model = script()
    async with serve_chat(model) as chat:
        first = run_of(await send(chat, user("hi"), "k1"))
        await chat.until("s", ended())
        model.go.clear()
        model.waiting.clear()
        again = run_of(await send(chat, user("hi"), "k2"))
        await wait(model.waiting)
        assert run_of(await send(chat, user("hi"), "k1")) == first != again
        assert run_of(await send(chat, user("hi"))) == again
        model.go.set()
        await chat.until("s", ended(2))
    assert len(model.turns) == 2


async def test_a_key_wins_over_the_body() -> None:
    """A request with a known key and another message is not a new turn."""
    model = script()
    async with serve_chat(model) as chat:
        first = run_of(await send(chat, user("one", "u1"), "k"))
        await chat.until("s", ended())
        assert run_of(await send(chat, user("two", "u2"), "k")) == first
        assert [text for role, text in texts(await chat.snapshot("s")) if role == "user"] == ["one"]
    assert len(model.turns) == 1


async def test_a_key_is_of_one_session() -> None:
    model = script()
    async with serve_chat(model) as chat:
        runs = {run_of(await send(chat, user("hi"), "k", session_id)) for session_id in ("a", "b", "a", "b")}
        for session_id in ("a", "b"):
            await chat.until(session_id, ended())
    assert (len(runs), len(model.turns)) == (2, 2)


async def test_one_key_sent_many_times_at_once() -> None:
    """One run answers all of them, and none is told of an end too early."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        answers = await asyncio.gather(*(send(chat, user("hi"), "k") for _ in range(20)))
        assert len(set(map(run_of, answers))) == 1
        waits = [
            asyncio.create_task(
                chat.client.post(
                    "/api/chat?id=s&mode=await", json={"messages": [user("hi")]}, headers={"Idempotency-Key": "k"}
                )
            )
            for _ in range(5)
        ]
        await wait(model.waiting)
        model.go.set()
        assert {answer.status_code for answer in await asyncio.gather(*waits)} == {200}
    assert len(model.turns) == 1


async def test_the_keys_of_a_run_are_bounded() -> None:
    """Too many repetitions under new keys are refused. Repetitions without a key or with a known one are accepted."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = run_of(await send(chat, user("hi"), "k0"))
        for number in range(1, KEYS_PER_RUN_MAX):
            assert run_of(await send(chat, user("hi"), f"k{number}")) == first
        refused = await send(chat, user("hi"), "one more")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_repeats")
        assert int(refused.headers["retry-after"]) > 0
        assert run_of(await send(chat, user("hi"), "k1")) == first
        assert run_of(await send(chat, user("hi"))) == first
        model.go.set()
        assert types(await chat.until("s", ended())).count("RUN_STARTED") == 1
