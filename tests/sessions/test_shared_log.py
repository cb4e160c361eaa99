"""Two processes share a session on one remote store. Each sees, waits for, stops and succeeds the other's runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from durable_chat.app import create_app
from durable_chat.config.settings import Settings
from durable_chat.models.base import Model
from durable_chat.models.context.limits import ContextLimit
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.requests import Append, Create, Producer
from durable_chat.sessions.running.waiting_chunks import TURN_QUEUED
from durable_chat.transcripts.chunks import Chunk, to_message_echo_chunks
from durable_chat.transcripts.codec import encode_chunks
from durable_chat.transcripts.runs.marks import ALIVE
from tests.conftest import Serve, ServeNpm
from tests.lines import alines_of
from tests.sessions.serving import (
    ANSWER_MAX_S,
    Chat,
    ended,
    listening,
    script,
    serve_chat,
    spoken,
    texts,
    types,
    user,
)
from tests.sessions.test_runs import rules_hold, wait
from tests.sessions.test_summaries import LIMIT, Talk, given_texts, say
from tests.transcripts.logs import check_runs

SHORT_MS = 300
"""A lease that a test waits for."""


@pytest.fixture(params=["ours", "npm's"])
async def remote(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of a remote store: this server's protocol routes, and the reference server's."""
    if request.param == "ours":
        other = create_app(Settings(store="memory://"))
        async with other.lifespan(), listening(other.app) as address:
            yield f"{address}/v1/stream/chats"
    else:
        serve_npm: ServeNpm = request.getfixturevalue("serve_npm")
        yield f"{serve_npm(durable=False).url}/v1/stream/chats"


@asynccontextmanager
async def two(
    remote: str, first: Model, second: Model, *, lease_ms: int = 10_000, **settings: Any
) -> AsyncIterator[tuple[Chat, Chat]]:
    """Two processes, each with its own connections. The settings are those of the second one."""
    async with serve_chat(first, url=remote) as one:
        async with serve_chat(second, url=remote, lease_ms=lease_ms, **settings) as other:
            yield one, other


async def append(chat: Chat, *chunks: Chunk) -> None:
    """Append as another application does: in one append, and not as this server's producer."""
    await chat.store.log.create("chat-s", Create(JSON))
    producer = Producer(f"other-{time.monotonic_ns()}", 0, 0)
    await chat.store.log.append("chat-s", Append(join_messages(encode_chunks(chunks)), JSON, producer=producer))


def named(chunks: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [chunk for chunk in chunks if chunk.get("name") == name]


def ends(chunks: list[dict[str, Any]]) -> list[str]:
    return [kind for kind in types(chunks) if kind in ("RUN_FINISHED", "RUN_ERROR")]


async def test_a_run_of_another_process_is_seen_as_active(remote: str) -> None:
    """
    While one process answers, a reload at the other gets the messages before the run, its id, and the whole run from
    there.
    """
    model = script(go=False)
    async with two(remote, model, script()) as (one, other):
        taken = await one.post("s", user("hi"))
        await wait(model.waiting)
        await one.until("s", spoken())
        for _ in range(2):  # the second time it has been read before
            snapshot = await other.snapshot("s")
            assert texts(snapshot) == [("user", "hi")]
            assert snapshot["activeRun"] == {"runId": taken.headers["x-run-id"]}
            assert snapshot == await one.snapshot("s")
        caught_up = await other.client.get("/api/chat-stream?id=s")
        assert caught_up.json() == [{"type": "MESSAGES_SNAPSHOT", "messages": snapshot["messages"]}]
        assert caught_up.headers["stream-next-offset"] == snapshot["offset"]
        assert types(await other.chunks("s", snapshot["offset"]))[0] == "RUN_STARTED"
        model.go.set()
        await other.until("s", ended())
        snapshot = await other.snapshot("s")
        assert (texts(snapshot)[-1], snapshot["activeRun"]) == (("assistant", "Hello."), None)
        assert snapshot["messages"] == (await one.snapshot("s"))["messages"]


async def test_a_turn_waits_for_the_run_of_another_process(remote: str) -> None:
    """It is acknowledged in the log. The running answer ends normally, then the turn is answered."""
    first, second = script(go=False), script(before=["Sec"], after=["ond."])
    async with two(remote, first, second) as (one, other):
        await one.post("s", user("one", "u1"))
        await wait(first.waiting)
        answer = await other.post("s", user("two", "u2"))
        assert answer.status_code == 202
        again = await other.post("s", user("two", "u2"))
        assert again.headers["x-run-id"] == answer.headers["x-run-id"]
        assert len(named(await other.chunks("s"), TURN_QUEUED)) == 1
        assert second.turns == []
        first.go.set()
        chunks = await one.until("s", ended(2))
        assert ends(check_runs(chunks)) == ["RUN_FINISHED", "RUN_FINISHED"]
        expected = [("user", "one"), ("assistant", "Hello."), ("user", "two"), ("assistant", "Second.")]
        assert texts(await one.snapshot("s")) == texts(await other.snapshot("s")) == expected
        assert [message["id"] for message in second.turns[0].messages if message["role"] == "user"] == ["u1", "u2"]


@pytest.mark.parametrize("turns", ["queue", "refuse", "interrupt"])
async def test_a_repeat_is_the_same_run_while_another_process_answers(remote: str, turns: str) -> None:
    """The same message at the other process is the same run, and the model is called once."""
    first, second = script(go=False), script()
    async with serve_chat(first, url=remote, lease_ms=SHORT_MS) as one:
        async with serve_chat(second, url=remote, turns=turns) as other:
            taken = await one.post("s", user("one", "u1"))
            await one.until("s", spoken())
            answer = await other.post("s", user("one", "u1"))
            assert answer.status_code == 202
            assert answer.headers["x-run-id"] == taken.headers["x-run-id"]
            assert answer.headers["stream-next-offset"] == taken.headers["stream-next-offset"]
            waiting = asyncio.create_task(other.post("s", user("one", "u1"), mode="await"))
            await one.until("s", lambda chunks: len(named(chunks, ALIVE)) >= 3)
            first.go.set()
            told = await waiting
            assert (told.status_code, told.headers["x-run-id"]) == (200, taken.headers["x-run-id"])
            assert ends(check_runs(await one.chunks("s"))) == ["RUN_FINISHED"]
            assert second.turns == []


async def test_a_repeat_hears_how_the_run_of_another_process_ends(remote: str) -> None:
    """The repeated request is told that the run failed or was stopped."""
    failing = script(go=False, error=OSError())
    async with serve_chat(failing, url=remote, lease_ms=SHORT_MS) as one, serve_chat(script(), url=remote) as other:
        await one.post("s", user("one", "u1"))
        await one.until("s", spoken())
        waiting = asyncio.create_task(other.post("s", user("one", "u1"), mode="await"))
        await one.until("s", lambda chunks: len(named(chunks, ALIVE)) >= 2)
        failing.go.set()
        told = await waiting
        assert (told.status_code, told.json()["code"]) == (502, "run_failed")
    stopped = script(go=False)
    async with serve_chat(stopped, url=remote, lease_ms=SHORT_MS) as one, serve_chat(script(), url=remote) as other:
        taken = await one.post("t", user("one", "u1"))
        await one.until("t", spoken())
        assert (await other.post("t", user("one", "u1"))).status_code == 202
        answer = await other.client.post("/api/chat-stop?id=t")
        assert answer.json() == {"stopped": [taken.headers["x-run-id"]]}
        (end,) = check_runs(await one.until("t", ended()))
        assert end["metadata"]["tanstack"]["stopped"] is True


async def test_a_repeat_of_what_died_is_answered(remote: str) -> None:
    """A message whose process died is answered again."""
    async with serve_chat(script(), url=remote, lease_ms=SHORT_MS) as chat:
        dead = {"type": "RUN_STARTED", "runId": "run-1", "threadId": "s"}
        await append(chat, *to_message_echo_chunks(user("one", "u1")), dead)
        answer = await chat.post("s", user("one", "u1"), mode="await")
        assert (answer.status_code, answer.headers["x-run-id"] != "run-1") == (200, True)
        assert texts(await chat.snapshot("s")) == [("user", "one"), ("assistant", "Hello.")]


async def test_turns_alternate(remote: str) -> None:
    """Two processes can answer in turn, and none is told that it is too late."""
    async with two(remote, script(), script()) as (one, other):
        for number in range(6):
            chat = (one, other)[number % 2]
            answer = await chat.post("s", user(f"{number}", f"u{number}"), mode="await")
            assert answer.status_code == 200, answer.text
        check_runs(await one.chunks("s"))
        assert [text for role, text in texts(await one.snapshot("s")) if role == "user"] == [*"012345"]


async def test_turns_at_once(remote: str) -> None:
    """
    When two processes answer at the same time, one run is active at a time, no message is lost, and each turn has an
    end.
    """
    async with two(remote, script(), script()) as (one, other):
        posts = [(one, other)[n % 2].post("s", user(f"{n}", f"u{n}"), mode="await") for n in range(8)]
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} <= {200, 503}, [answer.text for answer in answers]
        codes = {answer.json()["code"] for answer in answers if answer.status_code == 503}
        assert codes <= {"fenced"}
        chunks = await one.chunks("s")
        check_runs(chunks)
        snapshot = await one.snapshot("s")
        shown = {text for role, text in texts(snapshot) if role == "user"}
        assert {f"{n}" for n, answer in enumerate(answers) if answer.status_code == 200} <= shown
        assert (await other.snapshot("s"))["messages"] == snapshot["messages"]


async def test_a_busy_session_may_refuse(remote: str) -> None:
    """With `turns=refuse`, a turn gets 409 while another process answers, and nothing is written."""
    first = script(go=False)
    async with two(remote, first, script(), turns="refuse") as (one, other):
        await one.post("s", user("one", "u1"))
        before = await one.until("s", spoken())
        answer = await other.post("s", user("two", "u2"))
        assert (answer.status_code, answer.json()["code"]) == (409, "run_active")
        assert await one.chunks("s") == before


async def test_a_turn_may_interrupt(remote: str) -> None:
    """With `turns=interrupt`, the other process's run ends as stopped, and its waiting request is told so."""
    first = script(go=False)
    async with two(remote, first, script(), turns="interrupt") as (one, other):
        waiting = asyncio.create_task(one.post("s", user("one", "u1"), mode="await"))
        await wait(first.waiting)
        await one.until("s", spoken())
        answer = await other.post("s", user("two", "u2"), mode="await")
        assert answer.status_code == 200
        first.go.set()
        told = await waiting
        assert (told.status_code, told.json()["code"]) == (503, "fenced")
        chunks = await one.chunks("s")
        (stopped, _) = check_runs(chunks)
        assert stopped["metadata"]["tanstack"]["stopped"] is True
        assert texts(await one.snapshot("s"))[1] == ("assistant", "Hel")


async def test_stop_reaches_another_process(remote: str) -> None:
    """A stop at one process ends the other's run in the log and keeps its text. The other's model is cancelled."""
    first = script(go=False)
    async with two(remote, first, script()) as (one, other):
        taken = await one.post("s", user("one", "u1"))
        run_id = taken.headers["x-run-id"]
        await wait(first.waiting)
        await one.until("s", spoken())
        wrong = await other.client.post("/api/chat-stop?id=s&runId=run-x")
        assert wrong.json() == {"stopped": []}
        answer = await other.client.post("/api/chat-stop?id=s")
        assert answer.json() == {"stopped": [run_id]}
        first.go.set()
        (end,) = check_runs(await one.until("s", ended()))
        assert (end["type"], end["metadata"]["tanstack"]["stopped"]) == ("RUN_FINISHED", True)
        await one.runs.drain(ANSWER_MAX_S, for_good=False)
        assert first.closed == 1
        assert texts(await one.snapshot("s")) == [("user", "one"), ("assistant", "Hel")]
        assert (await other.client.post("/api/chat-stop?id=s")).json() == {"stopped": []}


async def leave_dead(chat: Chat, **times: int) -> None:
    """Leave in the log what a process leaves that died during an answer while another turn waited, in one append."""
    waiting = {"runId": "run-2", "message": user("two", "u2")}
    await append(
        chat,
        *to_message_echo_chunks(user("one", "u1")),
        {"type": "RUN_STARTED", "runId": "run-1", "threadId": "s", **times},
        {"type": "TEXT_MESSAGE_START", "messageId": "a1", "role": "assistant", **times},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a1", "delta": "Hel", **times},
        {"type": "CUSTOM", "name": TURN_QUEUED, "value": waiting, **times},
    )


@pytest.mark.parametrize("times", [{}, {"timestamp": 1}], ids=["just now", "long ago"])
async def test_a_dead_run_is_ended_by_the_next_turn(remote: str, times: dict[str, int]) -> None:
    """
    A run that wrote nothing for the length of a lease ends as interrupted, with its waiting turns. Then the next turn
    is answered.
    """
    lease_ms = 3_600_000 if times else SHORT_MS  # of what happened long ago nothing is waited for
    async with serve_chat(script(), url=remote, lease_ms=lease_ms) as chat:
        await leave_dead(chat, **times)
        assert (await chat.snapshot("s"))["activeRun"] == {"runId": "run-1"}
        assert (await chat.post("s", user("three", "u3"), mode="await")).status_code == 200
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert [chunk["runId"] for chunk in chunks if chunk["type"] == "RUN_ERROR"] == ["run-1", "run-2"]
        snapshot = await chat.snapshot("s")
        assert [message["id"] for message in snapshot["messages"] if message["role"] == "user"] == ["u1", "u2", "u3"]
        assert snapshot["activeRun"] is None


async def test_an_offset_inside_an_append(remote: str) -> None:
    """If a run begins inside an append, the snapshot's offset does too, for every way to read on."""
    async with serve_chat(script(), url=remote) as chat:
        await append(chat, *to_message_echo_chunks(user("zero", "u0")))
        await leave_dead(chat)
        snapshot = await chat.snapshot("s")
        assert texts(snapshot) == [("user", "zero"), ("user", "one")]
        expected = (await chat.chunks("s", BEGINNING + "~6"))[:4]
        assert types(expected)[0] == "RUN_STARTED"
        offset = snapshot["offset"]
        for query in ({}, {"live": "long-poll"}):
            answer = await chat.client.get("/api/chat-stream", params={"id": "s", "offset": offset, **query})
            assert answer.json() == expected
            assert "~" not in answer.headers["stream-next-offset"]
        async with chat.client.stream(
            "GET", "/api/chat-stream", params={"id": "s", "offset": offset, "live": "sse"}
        ) as r:
            lines = alines_of(r)
            assert await anext(lines) == "event: data"
            assert (await anext(lines)).startswith('data:[{"type":"RUN_STARTED"')
        bad = await chat.client.get("/api/chat-stream", params={"id": "s", "offset": offset + "00"})
        assert (bad.status_code, bad.json()["code"]) == (400, "bad_offset")


async def test_what_was_taken_for_dead_writes_no_more(remote: str) -> None:
    """A silent process whose run was ended by another is refused at its next write. The run keeps its one end."""
    first = script(go=False)
    async with two(remote, first, script(), lease_ms=SHORT_MS) as (one, other):
        waiting = asyncio.create_task(one.post("s", user("one", "u1"), mode="await"))
        await wait(first.waiting)
        await one.until("s", spoken())
        assert (await other.post("s", user("two", "u2"), mode="await")).status_code == 200
        first.go.set()
        told = await waiting
        assert (told.status_code, told.json()["code"]) == (503, "fenced")
        assert told.headers["retry-after"]
        (interrupted, _) = check_runs(await other.chunks("s"))
        assert interrupted["code"] == "interrupted"
        assert (await one.post("s", user("three", "u3"), mode="await")).status_code == 200
        check_runs(await one.chunks("s"))


async def test_a_silent_model_keeps_its_run(remote: str) -> None:
    """While its model sends nothing, a process writes a sign of life to the log, and the run is not considered dead."""
    first = script(go=False)
    async with serve_chat(first, url=remote, lease_ms=SHORT_MS) as one:
        async with serve_chat(script(), url=remote, lease_ms=5 * SHORT_MS) as other:
            await one.post("s", user("one", "u1"))
            await wait(first.waiting)
            await other.post("s", user("two", "u2"))
            # So many of them that the lease would have been over twice.
            await other.until("s", lambda chunks: len(named(chunks, ALIVE)) >= 10 * 3)
            first.go.set()
            chunks = await other.until("s", ended(2))
            assert ends(check_runs(chunks)) == ["RUN_FINISHED", "RUN_FINISHED"]
            assert [text for _, text in texts(await one.snapshot("s"))] == ["one", "Hello.", "two", "Hello."]


async def test_what_others_append_does_not_harm(remote: str) -> None:
    """
    The session can be read and answered with an unpaired surrogate, an invalid chunk and a run of another application
    in its log.
    """
    async with serve_chat(script(), url=remote, lease_ms=SHORT_MS) as chat:
        await chat.store.log.create("chat-s", Create(JSON))
        data = [rb'{"type":"TEXT_MESSAGE_START","messageId":"m","role":"user"}', b'"no chunk"']
        data += [
            rb'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"x\ud800"}',
            b'{"type":"RUN_STARTED","runId":"r"}',
        ]
        await chat.store.log.append("chat-s", Append(join_messages(data), JSON, producer=Producer("other", 0, 0)))
        assert texts(await chat.snapshot("s")) == [("user", "x\ufffd")]
        found = await chat.chunks("s", BEGINNING + "~3")
        assert types(found) == ["RUN_STARTED"]
        assert (await chat.post("s", user("hi"), mode="await")).status_code == 200


@pytest.fixture
def npm_url(serve_npm: ServeNpm) -> str:
    return f"{serve_npm(durable=False).url}/v1/stream/chats"


def test_a_killed_process_is_succeeded(serve: Serve, npm_url: str) -> None:
    """After kill -9 during an answer, the other process ends that answer, keeps its text, and answers the next turn."""
    settings = {"DURABLE_CHAT_STORE": npm_url, "DURABLE_CHAT_LEASE_MS": "1000"}
    one, other = serve(**settings, DURABLE_CHAT_DEMO_DELAY_MS="50"), serve(**settings)
    with httpx.Client(timeout=ANSWER_MAX_S) as client:
        body = {"messages": [user("long", "u1")]}
        assert client.post(f"{one.url}/api/chat?id=s", json=body).status_code == 202
        offset = BEGINNING
        seen: list[dict[str, Any]] = []
        while types(seen).count("TEXT_MESSAGE_CONTENT") < 3:
            query = {"id": "s", "offset": offset, "live": "long-poll"}
            answer = client.get(f"{other.url}/api/chat-stream", params=query)
            seen += answer.json() if answer.status_code == 200 else []
            offset = answer.headers["stream-next-offset"]
        one.kill()
        body = {"messages": [user("hi", "u2")]}
        assert client.post(f"{other.url}/api/chat?id=s&mode=await", json=body).status_code == 200
        chunks = client.get(f"{other.url}/api/chat-stream", params={"id": "s", "offset": BEGINNING + "~0"}).json()
        assert [end.get("code") for end in check_runs(chunks)] == ["interrupted", None]
        shown = texts(client.get(f"{other.url}/api/chat-snapshot?id=s").json())
        assert [role for role, _ in shown] == ["user", "assistant", "user", "assistant"]
        assert shown[1][1].startswith("".join(c["delta"] for c in seen if c["type"] == "TEXT_MESSAGE_CONTENT"))


async def test_one_process_uses_the_summary_of_another(remote: str) -> None:
    """The summary for the model's context is paid for once, whichever process answers, and each of them shows it."""
    first, second = Talk(), Talk()
    async with two(remote, ContextLimit(first, LIMIT), ContextLimit(second, LIMIT)) as (one, other):
        await say(one, 1, 2, 3, 4)
        await say(other, 5, text="short")
        await say(one, 6, text="short")
        assert (len(first.asked), len(second.asked)) == (1, 0)
        assert all("Summary 1." in given_texts(model.turns[-1]) for model in (first, second))
        assert (await one.snapshot("s"))["contextSummary"] == (await other.snapshot("s"))["contextSummary"]
        await other.post("s", user("1: edited", "u1"), mode="await")
        assert given_texts(second.turns[-1]) == ["1: edited"]
        assert "contextSummary" not in await one.snapshot("s")
