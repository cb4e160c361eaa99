"""AG-UI's short forms are expanded by the rules of @ag-ui/client."""

from __future__ import annotations

from typing import Any

import pytest

from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.answers.shorthands import Shorthands
from durable_chat.transcripts.chunks import Chunk, InvalidChunk


def short(kind: str, name: str | None = None, delta: str | None = None, **more: Any) -> Chunk:
    key = "toolCallId" if kind == "TOOL_CALL" else "messageId"
    given = {key: name, "delta": delta, **more}
    return {"type": f"{kind}_CHUNK"} | {field: value for field, value in given.items() if value is not None}


def expanded(*chunks: Chunk) -> list[tuple[str, str | None, str | None]]:
    """Types, ids and deltas of the expanded chunks."""
    shorthands = Shorthands()
    made = [each for chunk in chunks for each in shorthands.expand(chunk)] + shorthands.rest()
    return [(chunk["type"], chunk.get("toolCallId", chunk.get("messageId")), chunk.get("delta")) for chunk in made]


@pytest.mark.parametrize("kind", ["TEXT_MESSAGE", "REASONING_MESSAGE"])
def test_messages(kind: str) -> None:
    """Chunks without an id continue the message. Another id or the end of the run ends it."""
    chunks = [short(kind, "m1", "a"), short(kind, None, "b"), short(kind, "m1", "c"), short(kind, "m2", "d")]
    assert expanded(*chunks) == [
        (f"{kind}_START", "m1", None),
        *((f"{kind}_CONTENT", "m1", delta) for delta in "abc"),
        (f"{kind}_END", "m1", None),
        (f"{kind}_START", "m2", None),
        (f"{kind}_CONTENT", "m2", "d"),
        (f"{kind}_END", "m2", None),
    ]


def test_tool_calls() -> None:
    """A call ends when another call, text or another event begins. Events that may come in between end nothing."""
    first = short("TOOL_CALL", "c1", '{"a"', toolCallName="look", parentMessageId="m1", metadata={"x": 1})
    aside = {"type": "RAW", "event": {}}
    second = short("TOOL_CALL", "c2", toolCallName="find")
    custom = {"type": "CUSTOM", "name": "x", "value": 1}
    made = expanded(first, aside, short("TOOL_CALL", None, ":1}"), second, short("TEXT_MESSAGE", "m1", "a"), custom)
    assert made == [
        ("TOOL_CALL_START", "c1", None),
        ("TOOL_CALL_ARGS", "c1", '{"a"'),
        ("RAW", None, None),
        ("TOOL_CALL_ARGS", "c1", ":1}"),
        ("TOOL_CALL_END", "c1", None),
        ("TOOL_CALL_START", "c2", None),
        ("TOOL_CALL_END", "c2", None),
        ("TEXT_MESSAGE_START", "m1", None),
        ("TEXT_MESSAGE_CONTENT", "m1", "a"),
        ("TEXT_MESSAGE_END", "m1", None),
        ("CUSTOM", None, None),
    ]
    (start, _) = Shorthands().expand(first)
    assert start == {
        "type": "TOOL_CALL_START",
        "metadata": {"x": 1},
        "toolCallId": "c1",
        "toolCallName": "look",
        "parentMessageId": "m1",
    }


@pytest.mark.parametrize(
    "chunks",
    [
        [short("TOOL_CALL", None, "{}")],
        [short("TOOL_CALL", "c1", "{}")],
        [
            short("TOOL_CALL", "c1", toolCallName="look"),
            short("TOOL_CALL", "c2", toolCallName="look"),
            short("TOOL_CALL", "c1", "{}", toolCallName="look"),
        ],
    ],
)
def test_calls_that_cannot_go_on(chunks: list[Chunk]) -> None:
    """Arguments without an open call are an error, because they would be lost."""
    with pytest.raises(InvalidChunk):
        expanded(*chunks)


def test_former_names() -> None:
    """The THINKING events of AG-UI's first versions are reasoning."""
    assert expanded({"type": "THINKING_TEXT_MESSAGE_CONTENT", "delta": "hm"}) == [
        ("REASONING_MESSAGE_CONTENT", None, "hm")
    ]


def test_a_run_of_short_forms() -> None:
    """A run writes them like the long forms: reasoning, text and a call in one message."""
    run = RunChunks("run-1", "s", lambda: "new", lambda: 1)
    made = run.start()
    for chunk in (
        short("REASONING_MESSAGE", "r1", "hm"),
        short("TEXT_MESSAGE", None, "a"),
        short("TOOL_CALL", "c1", "{", toolCallName="look"),
        short("TOOL_CALL", None, "}"),
    ):
        made += run.accept(chunk)
    made += run.finish()
    assert [chunk["type"] for chunk in made] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "RUN_FINISHED",
    ]
