"""Deltas that wait for the store are joined, and the fold of the log stays the same."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from durable_chat.models.base import Turn
from durable_chat.transcripts.answers.coalescing import JOINED_BYTES_MAX, coalesce
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, decode_chunk, encode_chunk
from durable_chat.transcripts.javascript import parse_partial
from durable_chat.transcripts.transcript import Transcript
from tests.sessions.serving import Chat, ended, serve_chat, texts, user
from tests.sessions.test_runs import held, rules_hold, settled, wait
from tests.transcripts.folding import Folder, node_folder, normal

DELTAS = ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS")


def joined(chunks: list[Chunk]) -> list[Chunk]:
    return [decode_chunk(message) for message in coalesce([encode_chunk(chunk) for chunk in chunks])]


def text(delta: str, message_id: str = "a", **fields: Any) -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta, **fields}


def thought(delta: str, message_id: str = "a") -> Chunk:
    return {"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def args(delta: str, call_id: str = "c") -> Chunk:
    return {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": delta}


END: Chunk = {"type": "TEXT_MESSAGE_END", "messageId": "a"}
MODEL: Chunk = {"metadata": {"tanstack": {"model": "m"}}}

TABLE: dict[str, tuple[list[Chunk], list[Chunk]]] = {
    "nothing": ([], []),
    "one": ([text("x")], [text("x")]),
    "text": ([text("x"), text("y"), text("z")], [text("xyz")]),
    "thinking": ([thought("x"), thought("y")], [thought("xy")]),
    "arguments": ([args('{"a":'), args('"\\n"}')], [args('{"a":"\\n"}')]),
    "characters of all kinds": ([text('é"\\'), text("💬\n"), text("\u2028")], [text('é"\\💬\n\u2028')]),
    "the oldest time": ([text("x", timestamp=1), text("y", timestamp=2)], [text("xy", timestamp=1)]),
    "one with a time and one without": ([text("x", timestamp=1), text("y")], [text("x", timestamp=1), text("y")]),
    "equal metadata": ([text("x", **MODEL), text("y", **MODEL)], [text("xy", **MODEL)]),
    "other metadata": ([text("x", **MODEL), text("y")], [text("x", **MODEL), text("y")]),
    "values that Python takes for equal": ([text("x", n=1), text("y", n=True)], [text("x", n=1), text("y", n=True)]),
    "two messages": ([text("x"), text("y", "b"), text("z")], [text("x"), text("y", "b"), text("z")]),
    "two thoughts": ([thought("x"), thought("y", "b")], [thought("x"), thought("y", "b")]),
    "two calls": ([args("x"), args("y", "d")], [args("x"), args("y", "d")]),
    "two kinds": ([text("x"), thought("y"), text("z")], [text("x"), thought("y"), text("z")]),
    "what comes between": ([text("x"), END, text("y")], [text("x"), END, text("y")]),
    "what adds nothing": ([END, END], [END, END]),
    "a delta that is no text": ([text("x"), args(1)], [text("x"), args(1)]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("chunks", "wanted"), TABLE.values(), ids=TABLE)
def test_what_is_joined(chunks: list[Chunk], wanted: list[Chunk]) -> None:
    """
    Adjacent deltas of one kind with equal fields are joined, whatever their time. The joined delta has the first
    one's time.
    """
    made = joined(chunks)
    # Compared as text, because 1 equals True in Python.
    assert [json.dumps(chunk, sort_keys=True) for chunk in made] == [
        json.dumps(chunk, sort_keys=True) for chunk in wanted
    ]


def test_one_without_neighbours_stays_as_it_was_written() -> None:
    """A delta that is not joined keeps the order of its fields."""
    odd = encode_chunk({"type": "TEXT_MESSAGE_CONTENT", "delta": "x", "timestamp": 1, "messageId": "a"})
    assert coalesce([odd, encode_chunk(END)]) == [odd, encode_chunk(END)]


def test_a_joined_chunk_is_bounded() -> None:
    """The size of a joined chunk is limited, however much waits. A longer single delta stays as it is."""
    made = coalesce([encode_chunk(text("x" * 1000)) for _ in range(100)])
    assert max(map(len, made)) <= JOINED_BYTES_MAX
    assert 1 < len(made) < 10
    assert "".join(decode_chunk(message)["delta"] for message in made) == "x" * 100_000
    long = encode_chunk(text("x" * 2 * JOINED_BYTES_MAX))
    assert coalesce([long, long]) == [long, long]


# A model's output. There are few ids, so that they repeat.
_ids = st.sampled_from(["m1", "m2"])
_words = st.text(st.sampled_from('ab{}":,1 é💬\\\n'), max_size=4)
_calls = st.sampled_from(["c1", "c2"])
_metadata = st.sampled_from([None, {"tanstack": {"model": "x"}}, {"own": 1}])


def _made(kind: str, metadata: Any = None, **fields: Any) -> Chunk:
    return {"type": kind, **fields} | ({} if metadata is None else {"metadata": metadata})


_items = st.one_of(
    st.builds(_made, st.just("TEXT_MESSAGE_CONTENT"), _metadata, messageId=_ids, delta=_words),
    st.builds(_made, st.just("TEXT_MESSAGE_CONTENT"), messageId=_ids, delta=_words, timestamp=st.integers(1, 9)),
    st.builds(_made, st.just("REASONING_MESSAGE_CONTENT"), messageId=_ids, delta=_words),
    st.builds(_made, st.just("TOOL_CALL_ARGS"), toolCallId=_calls, delta=_words),
    st.builds(_made, st.just("TOOL_CALL_START"), toolCallId=_calls, toolCallName=st.just("look")),
    st.builds(_made, st.just("TOOL_CALL_END"), toolCallId=_calls),
    st.builds(_made, st.just("TOOL_CALL_RESULT"), toolCallId=_calls, content=st.just("1")),
    st.builds(_made, st.just("TEXT_MESSAGE_START"), _metadata, messageId=_ids, role=st.just("assistant")),
    st.builds(_made, st.just("TEXT_MESSAGE_END"), messageId=_ids),
    st.builds(_made, st.just("STEP_STARTED"), stepName=_ids),
    st.builds(
        _made,
        st.just("CUSTOM"),
        name=st.sampled_from(["structured-output.start", "structured-output.complete"]),
        value=st.fixed_dictionaries({"messageId": _ids, "object": st.just({}), "raw": st.just("{}")}),
    ),
)
_bursts = st.builds(
    lambda chunk, deltas: [chunk | {"delta": delta} for delta in deltas] if "delta" in chunk else [chunk],
    _items,
    st.lists(_words, min_size=1, max_size=5),
)
_many = st.lists(_bursts, max_size=15).map(lambda bursts: list(itertools.chain(*bursts)))


def written(items: list[Chunk]) -> list[Chunk]:
    """The output of the session writer."""
    numbers = iter(range(1000))
    run = RunChunks("run-1", "s", lambda: f"new-{next(numbers)}", lambda: 0)
    return [*run.start(), *(chunk for item in items for chunk in run.accept(item)), *run.finish()]


def pieces(chunks: list[Chunk], cuts: list[int]) -> Iterator[list[Chunk]]:
    """The chunks of each append."""
    bounds = [0, *sorted(cut for cut in cuts if cut < len(chunks)), len(chunks)]
    yield from (chunks[begin:end] for begin, end in itertools.pairwise(bounds))


def folded(chunks: list[Chunk]) -> list[dict[str, Any]]:
    """The messages, without the partial value of an unfinished or invalid output, which depends on where it was cut."""
    transcript = Transcript()
    transcript.fold_all(chunks)
    messages = transcript.messages()
    for part in (part for message in messages for part in message["parts"]):
        if part["type"] == "structured-output" and (part["status"] == "error" or parse_partial(part["raw"]) is None):
            part.pop("partial", None)
    return messages


# `"1"` is JSON, and what follows it is not.
_NO_JSON = [
    _made("CUSTOM", name="structured-output.start", value={"messageId": "m1", "object": {}, "raw": "{}"}),
    *(_made("TEXT_MESSAGE_CONTENT", messageId="m1", delta=delta) for delta in "1:"),
]


@given(_many, st.lists(st.integers(0, 60), max_size=4), st.booleans())
@example(_NO_JSON, [], True)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_fold_is_the_same(items: list[Chunk], cuts: list[int], raw: bool) -> None:
    """
    The joined chunks fold to the same messages with all text, for the writer's output and any other log, however it
    is divided into appends.
    """
    chunks = items if raw else written(items)
    made = [chunk for piece in pieces(chunks, cuts) for chunk in joined(piece)]
    assert len(made) <= len(chunks)
    assert folded(made) == folded(chunks)
    for kind in DELTAS:
        assert said(made, kind) == said(chunks, kind)
    assert joined(joined(chunks)) == joined(chunks)


def said(chunks: list[Chunk], kind: str) -> str:
    return "".join(chunk["delta"] for chunk in chunks if chunk["type"] == kind)


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with node_folder() as made:
        yield made


@given(_many)
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
)
def test_the_fold_of_tanstacks_client_is_the_same(folder: Folder, items: list[Chunk]) -> None:
    """TanStack's own client has the same messages after the joined chunks as after the single ones."""
    chunks = written(items)
    one, other = (folder.fold(made)[-1]["messages"] for made in (chunks, joined(chunks)))
    assert bare(one) == bare(other)


def bare(messages: list[dict[str, Any]]) -> Any:
    """
    The messages without their times, and without the last value that the client could read of structured output that
    is no JSON: it depends on the steps in which the text arrived.
    """
    return normal(
        {key: value for key, value in message.items() if key != "createdAt"}
        | {"parts": [without_partial(part) for part in message["parts"]]}
        for message in messages
    )


def without_partial(part: dict[str, Any]) -> dict[str, Any]:
    is_unread = part["type"] == "structured-output" and part.get("status") == "error"
    return {key: value for key, value in part.items() if not (is_unread and key == "partial")}


# In a running chat.


async def burst(_turn: Turn) -> AsyncIterator[Any]:
    """More deltas than the store accepts one by one."""
    for number in range(500):
        yield f"{number} "
        if number % 50 == 49:
            yield thought("hm ")


async def held_answer(chat: Chat) -> list[Chunk]:
    """The chunks of an answer that arrived during an append."""
    await chat.post("s", user("one", "u1"), mode="await")
    before = await chat.chunks("s")
    log = await held(chat)
    await settled(lambda: chat.runs.count)
    log.hold.set()
    chunks = await chat.until("s", ended(2))
    rules_hold(chunks)
    return chunks[len(before) :]


async def test_what_gathers_is_joined() -> None:
    """A model that is faster than the store leaves few chunks with all of its text."""
    async with serve_chat(burst) as chat:
        chunks = await held_answer(chat)
        assert sum(chunk["type"] == "TEXT_MESSAGE_CONTENT" for chunk in chunks) < 250
        wanted = "".join(f"{number} " for number in range(500))
        assert "".join(t for role, t in texts(await chat.snapshot("s"))[-10:] if role == "assistant") == wanted


async def test_it_can_be_left_off() -> None:
    """With the setting off, each delta is one chunk."""
    async with serve_chat(burst, coalesce="off") as chat:
        chunks = await held_answer(chat)
        deltas = [chunk["delta"] for chunk in chunks if chunk["type"] == "TEXT_MESSAGE_CONTENT"]
        assert deltas[1:] == [f"{number} " for number in range(500)]


async def test_a_delta_that_waits_for_nothing_goes_at_once() -> None:
    """If a model pauses after each word, each word is in the log before the next one, as its own chunk."""
    shown = asyncio.Event()

    async def model(_turn: Turn) -> AsyncIterator[str]:
        for number in range(20):
            shown.clear()
            yield f"{number} "
            await wait(shown)

    async with serve_chat(model) as chat:
        await chat.post("s", user("hi"))
        for number in range(20):
            await chat.until("s", lambda chunks, last=f"{number} ": any(c.get("delta") == last for c in chunks))  # type: ignore[misc]
            shown.set()
        chunks = await chat.until("s", ended())
        assert [chunk["delta"] for chunk in chunks if "delta" in chunk][1:] == [f"{number} " for number in range(20)]
