"""Characters that a model splits between two deltas arrive complete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_chat.models.base import Turn
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, decode_chunk, encode_chunk
from durable_chat.transcripts.surrogates import Halves
from tests.sessions.serving import serve_chat, texts, user

HIGH, LOW = "\ud83d", "\udcac"  # of 💬
LOST = "\ufffd"


def text(delta: str, message_id: str = "a") -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def args(delta: str) -> Chunk:
    return {"type": "TOOL_CALL_ARGS", "toolCallId": "a", "delta": delta}


def written(chunks: list[Chunk]) -> list[Chunk]:
    """Return the text in the log."""
    halves = Halves()
    made = [whole for chunk in chunks for whole in halves.take(chunk)] + halves.rest()
    return [decode_chunk(encode_chunk(chunk)) for chunk in made]


TABLE: dict[str, tuple[list[Chunk], list[Chunk]]] = {
    "whole": ([text("a💬"), text("b")], [text("a💬"), text("b")]),
    "in two": ([text("a" + HIGH), text(LOW + "b")], [text("a"), text("💬b")]),
    "alone in its delta": ([text(HIGH), text(LOW)], [text("💬")]),
    "with nothing between": ([text(HIGH), text(""), text(LOW)], [text("💬")]),
    "two in a row": ([text(HIGH), text(LOW + HIGH), text(LOW)], [text("💬"), text("💬")]),
    "in one delta": ([text(HIGH + LOW)], [text("💬")]),
    "another character follows": ([text(HIGH), text("b")], [text(LOST + "b")]),
    "another message follows": ([text(HIGH), text(LOW, "b")], [text(LOST), text(LOST, "b")]),
    "another kind follows": ([text(HIGH), args(LOW)], [text(LOST), args(LOST)]),
    "nothing follows": ([text("a" + HIGH)], [text("a"), text(LOST)]),
    "only the second half": ([text(LOW + "b")], [text(LOST + "b")]),
    "in arguments": ([args('"' + HIGH), args(LOW + '"')], [args('"'), args('💬"')]),
}


@pytest.mark.parametrize(("chunks", "wanted"), TABLE.values(), ids=TABLE)
def test_halves(chunks: list[Chunk], wanted: list[Chunk]) -> None:
    """Two halves are joined in their place. A lone half becomes U+FFFD in its place."""
    assert written(chunks) == wanted


@given(st.text(max_size=12), st.lists(st.integers(1, 4), max_size=12))
def test_any_cut(whole: str, lengths: list[int]) -> None:
    """Text that is split at any of JavaScript's indexes arrives unchanged."""
    units = whole.encode("utf-16-le", "surrogatepass")
    cuts, at = [0], 0
    for length in lengths:
        at = min(at + 2 * length, len(units))
        cuts.append(at)
    ends = [*cuts[1:], len(units)]
    deltas = [units[begin:end].decode("utf-16-le", "surrogatepass") for begin, end in zip(cuts, ends, strict=True)]
    expected = units.decode("utf-16-le", "replace")
    assert "".join(chunk["delta"] for chunk in written([text(delta) for delta in deltas])) == expected


async def test_in_a_running_chat() -> None:
    """The tabs and the model's next turn have the character."""
    turns: list[Turn] = []

    async def model(turn: Turn) -> AsyncIterator[Any]:
        turns.append(turn)
        yield "so: " + HIGH
        yield LOW + " and " + HIGH

    async with serve_chat(model) as chat:
        for number in range(2):
            assert (await chat.post("s", user("hi", f"u{number}"), mode="await")).status_code == 200
        assert texts(await chat.snapshot("s"))[1] == ("assistant", f"so: 💬 and {LOST}")
        assert turns[1].messages[1]["parts"][0]["content"] == f"so: 💬 and {LOST}"


def test_half_a_character_at_a_cut_is_dropped() -> None:
    """At an interruption, a lone half is dropped, because no tab has shown it."""
    for end in ("stop", "fail"):
        run = RunChunks("run-1", "s", lambda: "new", lambda: 0)
        made = run.start() + run.accept("a" + HIGH)
        made += run.stop() if end == "stop" else run.fail("No.", "refused")
        assert [chunk["delta"] for chunk in made if "delta" in chunk] == ["a"]
