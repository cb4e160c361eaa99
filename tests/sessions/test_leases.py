"""Leases: a run is written by its owner until another process takes it over. Runs without an owner are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from durable_chat.errors import RecordConflict, Unavailable
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.offsets import ZERO
from durable_chat.protocol.requests import Append, Create
from durable_chat.sessions.recovering.dead_runs import LoggedRuns
from durable_chat.sessions.recovering.leases import KIND, Claim, read_claim
from durable_chat.sessions.running.runs import Runs
from durable_chat.store.base import Record, RecordWrite
from durable_chat.store.streams import Streams
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, to_message_echo_chunks
from durable_chat.transcripts.codec import encode_chunks
from tests.sessions.serving import ANSWER_MAX_S, SETTINGS, Chat, ended, script, serve_chat, texts, types, user, waiting
from tests.sessions.test_runs import Faulty, faulty, rules_hold, wait

LEASE_MS = 100
POLL_S = 0.01


async def records(chat: Chat) -> list[Record]:
    assert chat.store.records is not None
    return await chat.store.records.records(KIND)


async def until_records(chat: Chat, wanted: Callable[[list[Record]], bool]) -> list[Record]:
    async with asyncio.timeout(ANSWER_MAX_S):
        while True:
            if wanted(found := await records(chat)):
                return found
            await asyncio.sleep(POLL_S)


async def leave_dead(chat: Chat, session_id: str) -> None:
    """Leave in the store what a process leaves that died during an answer while another turn waited."""
    path = f"chat-{session_id}"
    waiting = {"runId": "run-2", "message": user("two", "u2")}
    left: list[Chunk] = [
        *to_message_echo_chunks(user("one", "u1")),
        {"type": "RUN_STARTED", "runId": "run-1", "threadId": session_id},
        {"type": "TEXT_MESSAGE_START", "messageId": "a1", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a1", "delta": "Hel"},
        {"type": "CUSTOM", "name": "durable-chat.turn-queued", "value": waiting},
    ]
    claims = [msgspec.json.encode(Claim(session_id, run_id, ZERO)) for run_id in ("run-1", "run-2")]
    writes = [RecordWrite(KIND, f"{path}/run-{n}", claim, 0) for n, claim in enumerate(claims, 1)]
    await chat.store.log.create(path, Create(JSON))
    await chat.store.log.append(path, Append(join_messages(encode_chunks(left)), JSON), writes)


def another(chat: Chat) -> Runs:
    """The runs of the next process on the same store, while the previous process still lives."""
    return Runs(chat.store, replace(SETTINGS, lease_ms=LEASE_MS))


async def take_over(chat: Chat) -> None:
    """Start another process that considers every run dead."""
    successor = another(chat)
    await successor.recovery.start()
    await chat.until("s", ended())
    await until_records(chat, lambda found: not found)
    assert successor.recovery.done
    await successor.recovery.close()


async def test_a_run_is_a_record_from_its_first_append_to_its_last() -> None:
    """The record exists while the run waits and while it runs. It holds the offset and the owner."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = await chat.post("s", user("one", "u1"))
        await wait(model.waiting)
        second = await chat.post("s", user("two", "u2"))
        claims = {read_claim(record).run_id: read_claim(record) for record in await records(chat)}
        assert claims.keys() == {first.headers["x-run-id"], second.headers["x-run-id"]}
        assert {(claim.session_id, claim.epoch) for claim in claims.values()} == {("s", 1)}
        for run_id, claim in claims.items():
            begun = await chat.chunks("s", claim.offset)
            assert any(chunk.get("runId") == run_id or run_id in str(chunk.get("value")) for chunk in begun)
        model.go.set()
        await chat.until("s", ended(2))
        assert await records(chat) == []


async def test_a_silent_run_keeps_its_lease() -> None:
    """While the model sends nothing, the lease is renewed, and the run then continues to its end."""
    model = script(go=False)
    async with serve_chat(model, lease_ms=LEASE_MS) as chat:
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        (before,) = await records(chat)
        (after,) = await until_records(chat, lambda found: found[0].version >= before.version + 2)
        assert (after.due_ms or 0) > (before.due_ms or 0)
        model.go.set()
        assert types(await chat.until("s", ended()))[-1] == "RUN_FINISHED"
        assert await records(chat) == []


async def test_an_owner_that_was_taken_for_dead_writes_no_more() -> None:
    """Its model is closed, waiting requests are told, and the log stays as the successor ended it."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        async with waiting(chat, model) as task:
            await take_over(chat)
            chunks = await chat.chunks("s")
            rules_hold(chunks)
            assert chunks[-1]["code"] == "interrupted"
        answer = await task
        assert (answer.status_code, answer.json()["code"]) == (503, "fenced")
        assert model.closed == 1
        assert await chat.chunks("s") == chunks
        assert (await chat.post("s", user("more", "u2"), mode="await")).status_code == 200
        rules_hold(await chat.chunks("s"))


async def test_a_silent_owner_that_was_taken_for_dead_hears_of_it() -> None:
    """Its next renewal is refused, which stops its model."""
    model = script(go=False)
    async with serve_chat(model, lease_ms=LEASE_MS) as chat:
        waiting = asyncio.create_task(chat.post("s", user("hi"), mode="await"))
        await wait(model.waiting)
        await take_over(chat)
        assert (await waiting).status_code == 503
        assert model.closed == 1


async def test_two_successors_end_a_run_once() -> None:
    """The first process to take it over ends it. The other one does nothing."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        dead = await records(chat)
        await asyncio.gather(*(another(chat).recovery.recover(dead) for _ in range(3)))
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert len([kind for kind in types(chunks) if kind == "RUN_ERROR"]) == 1


async def test_a_run_whose_end_could_not_be_written_is_ended_later() -> None:
    """It is ended without a restart and without another turn."""
    model = script(go=False)
    async with serve_chat(model, lease_ms=LEASE_MS) as chat:
        await chat.runs.recovery.start()
        log = faulty(chat)
        async with waiting(chat, model) as task:
            log.failing = Unavailable("The disk is behind.", code="overloaded")
        assert (await task).status_code == 503
        log.failing = None
        chunks = await chat.until("s", ended())
        rules_hold(chunks)
        assert chunks[-1]["code"] == "interrupted"
        await until_records(chat, lambda found: not found)
        await chat.runs.recovery.close()


async def test_while_recovering_reads_are_served_and_turns_are_not() -> None:
    """A turn gets 503 with Retry-After, and reads work. When recovery is done, turns are accepted."""
    async with serve_chat(script()) as chat:
        await leave_dead(chat, "s")
        assert isinstance(chat.store.log, Streams)
        log = Faulty(chat.store.log)
        log.hold.clear()
        recovery = chat.runs.recovery
        recovery.dead_runs._log = log  # noqa: SLF001 - the seam a fault is put into
        await recovery.start()
        await wait(log.held)
        answer = await chat.post("s", user("two", "u2"))
        assert (answer.status_code, answer.json()["code"]) == (503, "recovering")
        assert "retry-after" in answer.headers
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "Hel")
        log.hold.set()
        await until_records(chat, lambda found: not found)
        await wait(recovery.ready)
        assert (await chat.post("s", user("two", "u2"), mode="await")).status_code == 200
        rules_hold(await chat.chunks("s"))
        await recovery.close()


async def test_a_deleted_session_leaves_no_record() -> None:
    """The records of a session that another client deleted do not prevent the next start."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        assert (await chat.client.delete("/api/chat?id=s")).status_code == 204
        assert await records(chat) == []
        await chat.post("t", user("hi"))
        await chat.until("t", lambda chunks: "RUN_STARTED" in types(chunks))
        dead = await records(chat)
        await chat.store.log.delete("chat-t")
        await another(chat).recovery.recover(dead)
        assert await records(chat) == []


async def test_a_record_can_be_looked_at_in_the_same_step() -> None:
    """A check writes nothing, and it refuses the whole write if the version differs."""
    async with serve_chat(script()) as chat:
        found = chat.store.records
        assert found is not None
        await found.write_records([RecordWrite("kind", "key", b"1", 0, due_ms=5)])
        check = RecordWrite("kind", "key", b"", 1, check=True)
        await found.write_records([check, RecordWrite("kind", "other", b"2", 0)])
        assert await found.record("kind", "key") == Record("kind", "key", 1, b"1", 5)
        with pytest.raises(RecordConflict):
            await found.write_records([replace(check, expected=2), RecordWrite("kind", "third", b"3", 0)])
        assert await found.record("kind", "third") is None


def test_a_claim_is_compact() -> None:
    """It is written with the first append of every turn, so its size matters."""
    claim = Claim("s", "run-1", "0" * 16)
    assert read_claim(Record(KIND, "k", 1, b'{"session_id":"s","run_id":"run-1","offset":"%s"}' % (b"0" * 16))) == claim


# What is left open, read from the log.


ITEMS: list[Any] = [
    {"type": "TEXT_MESSAGE_START", "messageId": "a", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a", "delta": "Let me see."},
    {"type": "REASONING_MESSAGE_CONTENT", "delta": "Hm."},
    "And so",
    {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "look"},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "{"},
    {"type": "TOOL_CALL_START", "toolCallId": "c2", "toolCallName": "look"},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": "}"},
    {"type": "TOOL_CALL_END", "toolCallId": "c1"},
    {"type": "TOOL_CALL_RESULT", "toolCallId": "c1", "content": "1"},
    {"type": "CUSTOM", "name": "structured-output.start", "value": {"messageId": "b"}},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "b", "delta": '{"x":1'},
    {"type": "TOOL_CALL_RESULT", "toolCallId": "c2", "content": "2"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "c", "delta": "Done."},
    {"type": "TEXT_MESSAGE_END", "messageId": "c"},
    {"type": "TOOL_CALL_START", "toolCallId": "c3", "toolCallName": "look"},
]


def numbered() -> RunChunks:
    numbers = iter(range(1000))
    return RunChunks("run-1", "s", lambda: f"id-{next(numbers)}", lambda: 0)


def bare(chunks: list[Chunk]) -> list[Chunk]:
    drop = {"timestamp", "metadata"}
    return [{key: value for key, value in chunk.items() if key not in drop} for chunk in chunks]


@pytest.mark.parametrize("count", range(len(ITEMS) + 1))
def test_the_log_tells_what_is_open(count: int) -> None:
    """From a log that is cut anywhere, recovery writes the same end as the run itself."""
    run = numbered()
    logged = [*run.start(), *(chunk for item in ITEMS[:count] for chunk in run.accept(item))]
    runs = LoggedRuns("s")
    for chunk in logged:
        runs.take(chunk)
    assert runs.dead(["run-1"]) == ["run-1"]
    made = bare(runs.end("run-1"))
    wanted = bare(run.restate() + run.fail("The answer was interrupted.", "interrupted"))
    if count == 0:  # its one message has an id of its own
        assert [chunk["type"] for chunk in made] == [chunk["type"] for chunk in wanted]
    else:
        assert made == wanted


def test_a_run_with_an_end_is_not_dead() -> None:
    """A run with an end in the log is never ended again."""
    run = numbered()
    runs = LoggedRuns("s")
    for chunk in [*run.start(), *run.accept("hello"), *run.finish()]:
        runs.take(chunk)
    assert runs.dead(["run-1", "run-2"]) == ["run-2"]
