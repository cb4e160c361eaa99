"""Every kind of function and item of a model is an answer, or an error that names what is accepted."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ag_ui.core as ag_ui
import pytest
from langchain_core.messages import AIMessageChunk
from openai.types.chat import ChatCompletionChunk

from durable_chat.models import threads
from durable_chat.models.base import Turn
from durable_chat.transcripts.answers.items import as_chunk, dump_event
from tests.sessions.serving import Chat, serve_chat, texts, user


async def async_generator(_turn: Turn) -> AsyncIterator[str]:
    yield "hel"
    yield "lo"


async def async_function(_turn: Turn) -> str:
    return "hello"


async def function_of_an_iterator(turn: Turn) -> AsyncIterator[str]:
    return async_generator(turn)


async def function_of_a_plain_iterator(_turn: Turn) -> Iterator[str]:
    return iter(["hel", "lo"])


def generator(_turn: Turn) -> Iterator[str]:
    yield "hel"
    yield "lo"


def function(_turn: Turn) -> str:
    return "hello"


def function_of_async(turn: Turn) -> AsyncIterator[str]:
    asyncio.get_running_loop()  # called where it may start tasks
    return async_generator(turn)


def function_of_a_list(_turn: Turn) -> list[str]:
    return ["hel", "lo"]


def function_of_one_chunk(_turn: Turn) -> dict[str, Any]:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "hello"}


def function_of_one_event(_turn: Turn) -> ag_ui.TextMessageChunkEvent:
    return ag_ui.TextMessageChunkEvent(message_id="m", delta="hello")


async def with_nothing(_turn: Turn) -> AsyncIterator[Any]:
    """Yield deltas like OpenAI's, of which the first and the last have no content."""
    for item in ("", "hel", None, "lo", {"type": "TEXT_MESSAGE_CONTENT", "delta": None}, None):
        yield item


async def words_of_langchain(_turn: Turn) -> AsyncIterator[Any]:
    """LangChain's `text` is an instance of a subclass of str."""
    yield AIMessageChunk(content="hel").text
    yield {"type": "TEXT_MESSAGE_CONTENT", "delta": AIMessageChunk(content="lo").text}
    yield {"type": "CUSTOM", "name": "more", "value": {"in": [AIMessageChunk(content="depth").text]}}


class Plain:
    def __call__(self, _turn: Turn) -> Iterator[str]:
        return iter(("hel", "lo"))


def with_options(greeting: str, _turn: Turn) -> str:
    return greeting


SHAPES = [
    *(async_generator, async_function, function_of_an_iterator, function_of_a_plain_iterator, generator, function),
    *(function_of_async, function_of_a_list, function_of_one_chunk, function_of_one_event, with_nothing, Plain()),
    words_of_langchain,
    *(functools.partial(with_options, "hello"), lambda turn: async_generator(turn), lambda turn: async_function(turn)),
]


@pytest.mark.parametrize("model", SHAPES)
async def test_every_shape_of_a_model_answers(model: Any) -> None:
    async with serve_chat(model) as chat:
        answer = await chat.post("s", user("hi"), mode="await")
        assert answer.status_code == 200, answer.text
        assert texts(await chat.snapshot("s")) == [("user", "hi"), ("assistant", "hello")]


async def failed(chat: Chat) -> dict[str, Any]:
    """Return the RUN_ERROR of a turn."""
    answer = await chat.post("s", user("hi"), mode="await")
    assert answer.status_code == 502, answer.text
    return (await chat.chunks("s"))[-1]


COMPLETION = ChatCompletionChunk.model_validate(
    {"id": "x", "choices": [], "created": 1, "model": "m", "object": "chat.completion.chunk"}
)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        (AIMessageChunk(content="hello"), "AIMessageChunk"),
        ({"type": "text", "text": "hello"}, "'text'"),
        (COMPLETION, "ChatCompletionChunk"),
        ({"text": "hello"}, "dict"),
        (5, "int"),
        (b"hello", "bytes"),
        ({"type": "x" * 5000}, "xxx"),
    ],
    ids=str,
)
async def test_what_is_not_understood_is_an_error(item: Any, named: str, caplog: pytest.LogCaptureFixture) -> None:
    """The run fails with the invalid item and what is accepted, and the log names the session."""

    async def model(_turn: Turn) -> AsyncIterator[Any]:
        yield item

    with caplog.at_level(logging.WARNING):
        async with serve_chat(model) as chat:
            error = await failed(chat)
    assert (error["type"], error["code"]) == ("RUN_ERROR", "invalid_chunk")
    assert named in error["message"]
    assert "AG-UI" in error["message"]
    assert len(error["message"]) < 300
    assert "in session s" in caplog.text


async def test_nothing_returned_is_an_error() -> None:
    """A function that returns None fails the run."""
    async with serve_chat(lambda turn: None) as chat:
        error = await failed(chat)
    assert error["code"] == "invalid_chunk"
    assert "None" in error["message"]


async def test_plain_models_leave_the_loop_alone() -> None:
    """While a plain generator or function waits, the server answers other requests. Its exception fails the run."""
    free = threading.Event()
    where: list[str] = []

    def model(turn: Turn) -> Iterator[str]:
        where.append(threading.current_thread().name)
        yield "a"
        assert free.wait(20)
        if "fail" in str(turn.messages):
            raise ValueError("secret")

    async with serve_chat(model) as chat:
        for text, status in (("go", 200), ("fail", 502)):
            free.clear()
            turn = asyncio.create_task(chat.post(text, user(text), mode="await"))
            await chat.until(text, lambda chunks: any(chunk.get("delta") == "a" for chunk in chunks))
            free.set()
            assert (await turn).status_code == status
    assert set(where) == {"plain model"}


async def test_a_stopped_plain_model_is_closed() -> None:
    """A stop ends the answer at once. The generator is closed when its current call returns, and its thread ends."""
    free, closed = threading.Event(), threading.Event()

    def model(_turn: Turn) -> Iterator[str]:
        try:
            yield "a"
            assert free.wait(20)
            yield "b"
        finally:
            closed.set()

    async with serve_chat(model) as chat:
        turn = asyncio.create_task(chat.post("s", user("hi"), mode="await"))
        await chat.until("s", lambda chunks: any(chunk.get("delta") == "a" for chunk in chunks))
        await chat.client.post("/api/chat-stop", params={"id": "s"})
        assert (await turn).status_code == 200
        free.set()
        assert await asyncio.to_thread(closed.wait, 20)
        assert texts(await chat.snapshot("s"))[-1] == ("assistant", "a")
        async with asyncio.timeout(20):
            while threads.PlainThread.running:  # noqa: ASYNC110 - a thread tells nobody that it has ended
                await asyncio.sleep(0)


async def test_a_function_that_does_not_return_has_stalled() -> None:
    """A function that does not return times out like any other model."""

    async def model(_turn: Turn) -> str:
        await asyncio.Event().wait()
        return "never"

    async with serve_chat(model, stall_s=0.1) as chat:
        assert (await failed(chat))["code"] == "stalled"


async def test_too_many_plain_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are limited, and a run over the limit gets an error."""
    monkeypatch.setattr(threads, "THREADS_MAX", 0)
    async with serve_chat(generator) as chat:
        error = await failed(chat)
    assert (error["code"], error["message"]) == ("busy", "Too many answers are being written. Try again in a moment.")


NULLS = [
    (ag_ui.CustomEvent(name="x", value=None), {"type": "CUSTOM", "name": "x", "value": None}),
    (
        ag_ui.StateDeltaEvent.model_validate({"delta": [{"op": "replace", "path": "/a", "value": None}]}),
        {"type": "STATE_DELTA", "delta": [{"op": "replace", "path": "/a", "value": None}]},
    ),
    (
        ag_ui.StateSnapshotEvent(snapshot={"a": None, "b": [None]}),
        {"type": "STATE_SNAPSHOT", "snapshot": {"a": None, "b": [None]}},
    ),
    (
        ag_ui.TextMessageStartEvent(message_id="m", role="assistant", raw_event=None, timestamp=None),
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    ),
    (
        ag_ui.ToolCallStartEvent(tool_call_id="c", tool_call_name="look", parent_message_id=None),
        {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look"},
    ),
]


@pytest.mark.parametrize(("event", "chunk"), NULLS)
def test_nulls_of_events(event: Any, chunk: dict[str, Any]) -> None:
    """A null that is a value is kept. A null in an optional field is left out."""
    assert as_chunk(event) == chunk
    assert type((as_chunk(event) or {})["type"]) is str
    assert dump_event(event, mode="json") == chunk


async def test_nulls_reach_the_log() -> None:
    """Nulls in events and in plain dicts reach the log."""
    expected = [chunk for _, chunk in NULLS[:3]]

    async def model(_turn: Turn) -> AsyncIterator[Any]:
        for event, chunk in NULLS[:3]:
            yield event
            yield chunk

    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"), mode="await")
        kinds = {"CUSTOM", "STATE_DELTA", "STATE_SNAPSHOT"}
        found = [chunk for chunk in await chat.chunks("s") if chunk["type"] in kinds]
    assert found == [each for chunk in expected for each in (chunk, chunk)]
