"""Runs: they are executed in order and once, and each of them gets an end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import ag_ui.core as ag_ui
import httpx
import pytest

from durable_chat.errors import StoreFailed
from durable_chat.models.base import ProviderError, Turn
from durable_chat.protocol.requests import Append, Appended
from durable_chat.sessions.running import idempotency
from durable_chat.sessions.running.runs import Runs
from durable_chat.sessions.writers import AHEAD_BYTES_MAX, AHEAD_CHUNKS_MAX
from durable_chat.store.base import RecordWrite, Store
from durable_chat.store.streams import Streams
from durable_chat.transcripts.chunks import to_message_echo_chunks
from tests.sessions.serving import (
    ANSWER_MAX_S,
    SETTINGS,
    Chat,
    Stubborn,
    ended,
    script,
    serve_chat,
    spoken,
    texts,
    types,
    user,
    waiting,
)

TERMINALS = ("RUN_FINISHED", "RUN_ERROR")


class Faulty:
    """A log that fails or waits when a test says so. While `hold` is not set, appends wait."""

    def __init__(self, inner: Streams) -> None:
        self.inner = inner
        self.failing: Exception | None = None
        self.hold = asyncio.Event()
        self.hold.set()
        self.held = asyncio.Event()
        self.appended: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def append_soon(self, *_arguments: Any) -> bool:
        """It has the same faults as `append`."""
        return False

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        if not self.hold.is_set():
            self.held.set()
            await self.hold.wait()
        if self.failing is not None:
            raise self.failing
        appended = await self.inner.append(path, request, records)
        self.appended.append(request.payload.units)
        return appended


def faulty(chat: Chat, kind: Callable[[Streams], Faulty] = Faulty) -> Faulty:
    """Put a faulty log under the sessions of a running chat, and under the code that ends their runs."""
    assert isinstance(chat.store.log, Streams)
    log = kind(chat.store.log)
    chat.runs.recovery.dead_runs._log = log  # noqa: SLF001 - the seam a fault is put into
    chat.runs.sessions._log = log  # noqa: SLF001 - the seam a fault is put into
    return log


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), ANSWER_MAX_S)


def rules_hold(chunks: list[dict[str, Any]]) -> None:
    """
    Check rules 1 to 3: runs do not overlap, each has one start and one end, and a message starts before its content.
    """
    running: str | None = None
    started: set[str] = set()
    for chunk in chunks:
        kind = chunk["type"]
        if kind == "RUN_STARTED":
            assert running is None
            running, started = chunk["runId"], set()
        elif kind in TERMINALS:
            assert chunk["runId"] == running
            running = None
        elif kind == "TEXT_MESSAGE_START" and chunk["role"] == "assistant":
            started.add(chunk["messageId"])
        elif kind.startswith(("REASONING", "TOOL_CALL")):
            assert started
        if kind == "RUN_ERROR":
            assert started
            assert chunk["message"]
            assert chunk["code"]
    assert running is None


# What a model gives, and how its run ends.
ANSWERS: dict[str, tuple[list[Any], Exception | None, str]] = {
    "nothing": ([], None, "RUN_FINISHED"),
    "text": (["a", "b"], None, "RUN_FINISHED"),
    "an error before the first word": ([], ProviderError("No.", "refused"), "RUN_ERROR"),
    "an error after some words": (["a"], ProviderError("No.", "refused"), "RUN_ERROR"),
    "another exception": (["a"], OSError("a secret"), "RUN_ERROR"),
    "a bare RUN_ERROR": ([{"type": "RUN_ERROR", "message": "Overloaded.", "code": "529"}], None, "RUN_ERROR"),
    "what is no chunk": (["a", 1], None, "RUN_ERROR"),
    "what is no JSON": ([{"type": "CUSTOM", "name": "x", "value": object()}], None, "RUN_ERROR"),
    "an end that is no JSON": ([{"type": "RUN_FINISHED", "result": object()}], None, "RUN_ERROR"),
    "a tool before any text": (
        [
            {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r", "delta": "hm"},
            {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "t"},
            {"type": "TOOL_CALL_END", "toolCallId": "c"},
            {"type": "RUN_FINISHED", "metadata": {"tanstack": {"finishReason": "tool_calls"}}},
            {"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": "1", "messageId": "m"},
            "done",
            {"type": "RUN_FINISHED"},
        ],
        None,
        "RUN_FINISHED",
    ),
    "words after its end": (["a", {"type": "RUN_FINISHED"}, "b", {"type": "RUN_FINISHED"}], None, "RUN_FINISHED"),
}


@pytest.mark.parametrize(("items", "error", "end"), ANSWERS.values(), ids=ANSWERS)
async def test_every_run_ends_once(items: list[Any], error: Exception | None, end: str) -> None:
    """A run keeps the rules, whatever its model yields. The text of an unknown exception is not shown to clients."""
    model = script(before=items, after=[], error=error)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"), mode="await")
        await chat.post("s", user("more", "u2"), mode="await")
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert [kind for kind in types(chunks) if kind in TERMINALS] == [end, end]
        assert not any("a secret" in str(chunk) for chunk in chunks)
        assert model.closed == 2


async def test_a_foreign_exception_is_logged_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """The log shows what happened, but not the user's key."""

    async def model(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        raise OSError(f"refused {turn.api_key}")

    caplog.set_level(logging.WARNING)
    async with serve_chat(model) as chat:
        answer = await chat.client.post(
            "/api/chat?id=s&mode=await", json={"messages": [user("hi")]}, headers={"x-api-key": "key-12345"}
        )
        assert answer.json()["code"] == "run_failed"
        assert (await chat.chunks("s"))[-1]["code"] == "model_failed"
    assert "OSError: refused ***" in caplog.text
    assert "key-12345" not in caplog.text


async def test_an_error_that_a_model_says_is_logged_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """The same holds when the model catches its failure and yields RUN_ERROR, as pydantic-ai's agents do."""

    async def model(turn: Turn) -> AsyncIterator[ag_ui.BaseEvent]:
        yield ag_ui.RunErrorEvent(message=f"refused {turn.api_key}, at https://host.example")

    caplog.set_level(logging.WARNING)
    async with serve_chat(model) as chat:
        answer = await chat.client.post(
            "/api/chat?id=s&mode=await", json={"messages": [user("hi")]}, headers={"x-api-key": "key-12345"}
        )
        assert answer.json()["code"] == "run_failed"
        assert "refused" not in str(await chat.chunks("s"))
    assert "in session s failed" in caplog.text
    assert "refused ***, at https://host.example" in caplog.text
    assert "key-12345" not in caplog.text


async def test_a_provider_error_that_holds_the_key_is_not_shown() -> None:
    """The message of a ProviderError is checked too: it never shows the user's key."""

    async def model(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        raise ProviderError(f"wrong key {turn.api_key}", "401")

    async with serve_chat(model) as chat:
        answer = await chat.client.post(
            "/api/chat?id=s&mode=await", json={"messages": [user("hi")]}, headers={"x-api-key": "mykey"}
        )
        assert "mykey" not in answer.text
        last = (await chat.chunks("s"))[-1]
        assert "mykey" not in last["message"]
        assert last["code"] == "401"


async def test_two_turns_are_answered_one_after_the_other() -> None:
    """A turn sent during an answer is acknowledged at once. It begins when that answer has ended."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = await chat.post("s", user("one", "u1"))
        await wait(model.waiting)
        await chat.until("s", spoken())
        second = await chat.post("s", user("two", "u2"))
        assert second.status_code == 202
        queued = (await chat.chunks("s"))[-1]
        assert (queued["type"], queued["name"]) == ("CUSTOM", "durable-chat.turn-queued")
        assert queued["value"]["runId"] == second.headers["x-run-id"]
        assert queued["value"]["message"]["id"] == "u2"
        assert len(model.turns) == 1
        model.go.set()
        chunks = await chat.until("s", ended(2))
        rules_hold(chunks)
        starts = [chunk["runId"] for chunk in chunks if chunk["type"] == "RUN_STARTED"]
        assert starts == [first.headers["x-run-id"], second.headers["x-run-id"]]
        assert [message["role"] for message in model.turns[1].messages] == ["user", "assistant", "user"]
        expected = [("user", "one"), ("assistant", "Hello."), ("user", "two"), ("assistant", "Hello.")]
        assert texts(await chat.snapshot("s")) == expected


async def test_turns_at_once_keep_their_order() -> None:
    """Ten turns sent at the same time are each answered once, and no two runs overlap."""
    async with serve_chat(script()) as chat:
        answers = await asyncio.gather(*(chat.post("s", user(f"t{n}", f"u{n}")) for n in range(10)))
        assert {answer.status_code for answer in answers} == {202}
        chunks = await chat.until("s", ended(10))
        rules_hold(chunks)
        started = [chunk["runId"] for chunk in chunks if chunk["type"] == "RUN_STARTED"]
        assert sorted(started) == sorted(answer.headers["x-run-id"] for answer in answers)
        assert sorted(text for role, text in texts(await chat.snapshot("s")) if role == "user") == [
            f"t{n}" for n in range(10)
        ]


async def test_the_queue_is_bounded() -> None:
    """A turn over the limit gets 429 with Retry-After, and nothing is written."""
    model = script(go=False)
    async with serve_chat(model, queue_max=1) as chat:
        await chat.post("s", user("one", "u1"))
        await wait(model.waiting)
        await chat.until("s", spoken())
        await chat.post("s", user("two", "u2"))
        before = await chat.chunks("s")
        answer = await chat.post("s", user("three", "u3"))
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        assert await chat.chunks("s") == before
        assert (await chat.post("other", user("one"))).status_code == 202
        model.go.set()
        await chat.until("s", ended(2))


async def test_a_busy_session_may_refuse() -> None:
    """With `turns=refuse`, a second turn gets 409 and nothing is written."""
    model = script(go=False)
    async with serve_chat(model, turns="refuse") as chat:
        await chat.post("s", user("one", "u1"))
        before = await chat.until("s", spoken())
        answer = await chat.post("s", user("two", "u2"))
        assert (answer.status_code, answer.json()["code"]) == (409, "run_active")
        assert await chat.chunks("s") == before
        model.go.set()
        await chat.until("s", ended())


async def test_a_turn_may_interrupt() -> None:
    """With `turns=interrupt`, a turn stops the run before it. The text written so far is kept."""
    model = script(go=False)
    async with serve_chat(model, turns="interrupt") as chat:
        await chat.post("s", user("one", "u1"))
        await wait(model.waiting)
        await chat.post("s", user("two", "u2"))
        model.go.set()
        chunks = await chat.until("s", ended(2))
        rules_hold(chunks)
        first = next(chunk for chunk in chunks if chunk["type"] == "RUN_FINISHED")
        assert first["metadata"]["tanstack"]["stopped"] is True
        assert texts(await chat.snapshot("s"))[1] == ("assistant", "Hel")


async def test_a_waiting_turn_can_be_stopped() -> None:
    """A stopped turn keeps its message, does not call the model and ends as stopped. The run before it continues."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("one", "u1"))
        await wait(model.waiting)
        run_id = (await chat.post("s", user("two", "u2"))).headers["x-run-id"]
        stopped = await chat.client.post(f"/api/chat-stop?id=s&runId={run_id}")
        assert stopped.json() == {"stopped": [run_id]}
        model.go.set()
        chunks = await chat.until("s", ended(2))
        rules_hold(chunks)
        assert len(model.turns) == 1
        assert texts(await chat.snapshot("s")) == [("user", "one"), ("assistant", "Hello."), ("user", "two")]


async def test_the_same_message_is_the_same_run_while_it_runs() -> None:
    """A repeated message without a key starts no run and is not echoed again."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = await chat.post("s", user("hi"))
        again = await chat.post("s", user("hi"))
        assert again.headers["x-run-id"] == first.headers["x-run-id"]
        model.go.set()
        chunks = await chat.until("s", ended())
        assert len(model.turns) == 1
        assert sum(chunk.get("role") == "user" for chunk in chunks) == 1


async def test_a_known_message_is_answered_anew_without_an_echo() -> None:
    """A message repeated after its run replaces the answer. Its text is not doubled, and later messages are dropped."""
    async with serve_chat(script()) as chat:
        for message in (user("one", "u1"), user("two", "u2"), user("one", "u1")):
            await chat.post("s", message, mode="await")
        chunks = await chat.chunks("s")
        assert [chunk["messageId"] for chunk in chunks if chunk.get("role") == "user"] == ["u1", "u2"]
        assert texts(await chat.snapshot("s")) == [("user", "one"), ("assistant", "Hello.")]


async def test_an_edited_message_takes_the_place_of_the_old_one() -> None:
    """A known id with other parts is an edit."""
    model = script()
    async with serve_chat(model) as chat:
        await chat.post("s", user("one"), mode="await")
        await chat.post("s", user("uno"), mode="await")
        assert texts(await chat.snapshot("s")) == [("user", "uno"), ("assistant", "Hello.")]
        assert [message["parts"] for message in model.turns[1].messages] == [user("uno")["parts"]]


async def test_a_message_that_was_never_answered_is_answered_without_an_echo() -> None:
    """A message that another client appended to the log is known."""
    model = script()
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"), mode="await")
        chunks = await chat.chunks("s")
        echo = to_message_echo_chunks(user("x", "x"), timestamp=1)
        for chunk in (*echo, {"type": "unknown"}):
            await append(chat.store, "chat-s", chunk)
        await chat.post("s", user("x", "x"), mode="await")
        added = (await chat.chunks("s"))[len(chunks) + len(echo) + 1 :]
        assert types(added)[0] == "RUN_STARTED"


async def append(store: Store, path: str, chunk: Any) -> None:
    from durable_chat.protocol.messages import JSON, join_messages
    from durable_chat.transcripts.chunks import encode_chunk

    await store.log.append(path, Append(join_messages([encode_chunk(chunk)]), JSON))


async def test_an_empty_session_takes_the_posted_history() -> None:
    """The history is written as one snapshot, and the model gets all of it. A session with messages keeps its own."""
    model = script()
    history = [user("one", "u1"), {"id": "a1", "role": "assistant", "content": "yes"}, user("two", "u2")]
    async with serve_chat(model) as chat:
        await chat.post("s", *history, mode="await")
        first = (await chat.chunks("s"))[0]
        assert first["type"] == "MESSAGES_SNAPSHOT"
        assert all(message["metadata"] == {} for message in first["messages"])
        assert [message["id"] for message in model.turns[0].messages] == ["u1", "a1", "u2"]
        invented = [user("never", "x1"), {"id": "x2", "role": "assistant", "content": "said"}, user("three", "u3")]
        await chat.post("s", *invented, mode="await")
        ids = [message["id"] for message in model.turns[1].messages]
        assert ids[:3] == ["u1", "a1", "u2"]
        assert ids[-1] == "u3"
        assert "x1" not in ids


async def test_an_image_arrives_whole() -> None:
    """A message that text chunks cannot express is written as a snapshot, for every tab and for the model."""
    image = {"type": "image", "source": {"type": "data", "value": "AA==", "mimeType": "image/png"}}
    message = {"id": "u1", "role": "user", "parts": [{"type": "text", "content": "look"}, image]}
    model = script()
    async with serve_chat(model) as chat:
        await chat.post("s", message, mode="await")
        assert (await chat.snapshot("s"))["messages"][0]["parts"] == message["parts"]
        assert model.turns[0].messages[0]["parts"] == message["parts"]


@pytest.mark.parametrize("header", ["idempotency-key", "x-run-id"])
async def test_a_request_with_a_key_is_carried_out_once(header: str, tmp_path: Any) -> None:
    """It is executed once: during its run, after it, when sent twice at the same time, and after a restart."""
    url = f"sqlite:///{tmp_path}/chat.db"
    body = {"messages": [user("hi")]}
    headers = {header: "the key"}
    model = script()

    async def send(chat: Chat) -> httpx.Response:
        return await chat.client.post("/api/chat?id=s&mode=await", json=body, headers=headers)

    async with serve_chat(model, url=url) as chat:
        answers = [*await asyncio.gather(send(chat), send(chat))]
        answers.append(await send(chat))
        chunks = await chat.chunks("s")
    async with serve_chat(model, url=url) as chat:
        answers.append(await send(chat))
        assert await chat.chunks("s") == chunks
        other = await chat.client.post("/api/chat?id=other&mode=await", json=body, headers=headers)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-run-id"] for answer in answers}) == 1
    assert len({answer.headers["stream-next-offset"] for answer in answers}) == 1
    assert other.headers["x-run-id"] != answers[0].headers["x-run-id"]
    assert len(model.turns) == 2


async def test_a_failed_request_with_a_key_stays_failed(tmp_path: Any) -> None:
    """After a restart, the same key gets the same error, and the model is not called again."""
    url = f"sqlite:///{tmp_path}/chat.db"
    model = script(error=ProviderError("No.", "refused"))
    for _ in range(2):
        async with serve_chat(model, url=url) as chat:
            answer = await chat.client.post(
                "/api/chat?id=s&mode=await", json={"messages": [user("hi")]}, headers={"idempotency-key": "k"}
            )
            assert (answer.status_code, answer.json()["error"]) == (502, "No.")
    assert len(model.turns) == 1


async def test_keys_are_not_kept_for_ever() -> None:
    """Records of old requests are deleted, so that their number stays bounded."""
    async with serve_chat(script()) as chat:
        assert chat.store.records is not None
        await chat.store.records.write_records([RecordWrite(idempotency.KIND, "old", b"{}", due_ms=1)])
        for number in range(idempotency.SWEPT_EVERY):
            headers = {"idempotency-key": f"k{number}"}
            await chat.client.post("/api/chat?id=s", json={"messages": [user("hi")]}, headers=headers)
        assert await chat.store.records.record(idempotency.KIND, "old") is None
        assert len(await chat.store.records.records(idempotency.KIND)) > 0


async def test_an_answers_id_is_no_messages_id() -> None:
    """A user message with the id of an answer is refused. If it waited in the queue, its run ends with an error."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("one"))
        started = [chunk for chunk in await chat.until("s", spoken()) if chunk["type"] == "TEXT_MESSAGE_START"]
        answer_id = started[-1]["messageId"]
        assert (await chat.post("s", user("two", answer_id))).status_code == 202
        model.go.set()
        chunks = await chat.until("s", ended(2))
        rules_hold(chunks)
        assert (chunks[-1]["type"], chunks[-1]["code"]) == ("RUN_ERROR", "bad_message")
        before = await chat.chunks("s")
        assert (await chat.post("s", user("three", answer_id))).status_code == 400
        assert await chat.chunks("s") == before


async def test_a_stalled_model_ends() -> None:
    """A model that sends nothing for the set time is closed, and its run ends with an error."""
    model = script(go=False)
    async with serve_chat(model, stall_s=0.05) as chat:
        answer = await chat.post("s", user("hi"), mode="await")
        assert answer.status_code == 502
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert chunks[-1]["code"] == "stalled"
        assert model.closed == 1


async def test_a_model_that_ignores_its_cancellation_holds_nobody_up() -> None:
    """Its run ends without it, and its later output is not written."""
    model = Stubborn(after="b")
    async with serve_chat(model, cancel_wait_s=0.05) as chat:
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        await chat.client.post("/api/chat-stop?id=s")
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        model.go.set()
        await chat.post("other", user("hi"), mode="await")
        assert await chat.chunks("s") == chunks


async def test_draining_ends_every_run() -> None:
    """After the timeout, running and waiting turns end as interrupted. New turns are refused."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        first = asyncio.create_task(chat.post("s", user("one", "u1"), mode="await"))
        await wait(model.waiting)
        await chat.post("s", user("two", "u2"))
        await chat.runs.drain(0)
        assert (await first).status_code == 502
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert [chunk["code"] for chunk in chunks if chunk["type"] == "RUN_ERROR"] == ["interrupted"] * 2
        assert model.closed == 1
        answer = await chat.post("s", user("three", "u3"))
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert "retry-after" in answer.headers
        assert await chat.chunks("s") == chunks
        assert chat.runs.count == 0


async def test_draining_waits_for_runs_to_end() -> None:
    """A run that ends before the timeout ends normally."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        draining = asyncio.create_task(chat.runs.drain(ANSWER_MAX_S))
        model.go.set()
        await draining
        assert types(await chat.chunks("s"))[-1] == "RUN_FINISHED"


async def test_a_cancelled_run_is_interrupted_in_the_log() -> None:
    """When the event loop's tasks are cancelled, the log still gets the end of the run."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await wait(model.waiting)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("run-"):
                task.cancel()
        chunks = await chat.until("s", ended())
        assert chunks[-1]["code"] == "interrupted"
        assert model.closed == 1


async def test_a_store_that_fails_ends_the_run_for_every_waiter() -> None:
    """The model is closed at once, waiting requests get 503, and the next turn can begin."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        log = faulty(chat)
        async with waiting(chat, model) as task:
            log.failing = StoreFailed("The disk is full.")
        answer = await task
        assert (answer.status_code, answer.json()["code"]) == (503, "store_failed")
        assert (await chat.post("s", user("more", "u2"))).status_code == 503
        assert chat.runs.count == 0
        log.failing = None
        assert (await chat.post("s", user("more", "u2"), mode="await")).status_code == 200
        rules_hold(await chat.chunks("s"))


async def test_a_bug_below_ends_the_run_too(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception becomes 503 for waiting requests, and the server log shows it in full."""
    model = script(go=False)
    async with serve_chat(model) as chat:
        log = faulty(chat)
        async with waiting(chat, model) as task:
            log.failing = ZeroDivisionError("unforeseen")
        assert (await task).status_code == 503
        assert "unforeseen" in caplog.text
        log.failing = None


async def test_a_model_may_be_a_function_that_returns_its_iterator() -> None:
    """A model may be an async function as well as an async generator."""

    async def model(_turn: Turn) -> AsyncIterator[str]:
        async def answer() -> AsyncIterator[str]:
            yield "Hello."

        return answer()

    async with serve_chat(model) as chat:
        assert (await chat.post("s", user("hi"), mode="await")).status_code == 200
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "Hello.")


async def test_a_chunk_that_is_too_large_is_not_written() -> None:
    """A chunk larger than the maximum append ends the run with an error."""

    async def model(_turn: Turn) -> AsyncIterator[str]:
        yield "a"
        yield "x" * 2000

    async with serve_chat(model, append_max_bytes=1000) as chat:
        assert (await chat.post("s", user("hi"), mode="await")).status_code == 502
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert chunks[-1]["code"] == "chunk_too_large"
        assert all(len(str(chunk)) < 1500 for chunk in chunks)


async def test_a_history_that_ends_with_an_answer_releases_the_tab() -> None:
    """The model is not called, and the waiting tab gets the end of a run."""
    model = script()
    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"), mode="await")
        count = len(await chat.chunks("s"))
        messages = (await chat.snapshot("s"))["messages"]
        assert (await chat.post("s", *messages, mode="await")).status_code == 200
        assert types((await chat.chunks("s"))[count:]) == ["RUN_STARTED", "RUN_FINISHED"]
        assert len(model.turns) == 1


async def test_a_turn_that_cannot_be_written_is_not_acknowledged() -> None:
    """With a failed store the response is 503, the log is unchanged, and the model is not called."""
    model = script()
    async with serve_chat(model) as chat:
        faulty(chat).failing = StoreFailed("The disk is full.")
        answer = await chat.post("s", user("hi"))
        assert (answer.status_code, answer.json()["code"]) == (503, "store_failed")
        assert await chat.chunks("s") == []
        assert model.turns == []


@pytest.mark.parametrize("size", [1, 100_000])
async def test_the_model_is_never_far_ahead_of_the_store(size: int) -> None:
    """While an append waits, the model waits too once the buffer is full. Afterwards everything is written."""
    count = 2_000 if size == 1 else 40
    given = 0

    async def model(_turn: Turn) -> AsyncIterator[str]:
        nonlocal given
        for _ in range(count):
            given += 1
            yield "x" * size

    async with serve_chat(model, coalesce="off") as chat:
        await chat.post("s", user("one", "u1"), mode="await")
        given = 0
        log = await held(chat)
        await settled(lambda: given)
        ahead = given - sum(log.appended)
        assert ahead <= AHEAD_CHUNKS_MAX + 1
        assert ahead * size <= AHEAD_BYTES_MAX + size
        log.hold.set()
        await chat.until("s", ended(2))
        assert given == count
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "x" * size * count)
        assert max(log.appended) > 1  # what gathered went as one append


async def held(chat: Chat) -> Faulty:
    """The log of a session that has been used. The first append of its next answer has begun and waits."""
    log = faulty(chat)
    with chat.runs.sessions.hold("s") as session:
        session._log = log  # noqa: SLF001 - the seam a fault is put into
    await chat.post("s", user("two", "u2"))
    log.hold.clear()
    await wait(log.held)
    return log


async def settled(value: Any) -> None:
    """Wait until a value stays the same over many turns of the event loop."""
    last = None
    while last != (last := value()):
        for _ in range(1000):
            await asyncio.sleep(0)


async def test_a_run_that_died_with_its_process_is_ended_before_the_next() -> None:
    """A run without an end in the log gets one before the next run starts, so that no two runs are open."""
    model = script()
    async with serve_chat(model) as chat:
        await chat.post("s", user("one", "u1"), mode="await")
        await append(chat.store, "chat-s", {"type": "RUN_STARTED", "runId": "run-dead", "threadId": "s"})
        message = {"type": "TEXT_MESSAGE_START", "messageId": "m-dead", "role": "assistant"}
        await append(chat.store, "chat-s", message)
        await chat.post("s", user("two", "u2"), mode="await")
        chunks = await chat.chunks("s")
        rules_hold(chunks)
        assert {"type": "RUN_ERROR", "runId": "run-dead", "code": "interrupted"}.items() <= next(
            chunk for chunk in chunks if chunk["type"] == "RUN_ERROR"
        ).items()


async def test_runs_work_without_records() -> None:
    """On a log without records, keys are kept in memory, and RUN_STARTED says where the run begins."""
    model = script()
    async with serve_chat(model) as chat:
        bare = Runs(replace(chat.store, records=None), SETTINGS)
        chat.runs.__dict__.update(bare.__dict__)
        body = {"messages": [user("hi")]}
        for _ in range(2):
            answer = await chat.client.post("/api/chat?id=s&mode=await", json=body, headers={"idempotency-key": "k"})
            assert answer.status_code == 200
        started = next(chunk for chunk in await chat.chunks("s") if chunk["type"] == "RUN_STARTED")
        assert started["metadata"] == {"durableChat": {"offset": answer.headers["stream-next-offset"]}}
        assert len(model.turns) == 1


async def test_a_model_waits_until_its_chunks_are_durable() -> None:
    """After `turn.saved()`, everything that the model yielded is in the log, although the model has not gone on."""
    go, saved = asyncio.Event(), asyncio.Event()

    async def model(turn: Turn) -> AsyncIterator[Any]:
        for number in range(300):
            yield f"{number} "
        await turn.saved()
        saved.set()
        await go.wait()
        yield "end"

    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        await asyncio.wait_for(saved.wait(), ANSWER_MAX_S)
        told = "".join(chunk.get("delta", "") for chunk in await chat.chunks("s"))
        assert told.endswith("".join(f"{number} " for number in range(300)))
        go.set()
        await chat.until("s", ended())
