"""What a model repeats where it goes on with an answer is cut, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from durable_chat.models.base import Turn
from durable_chat.sessions.running.overlaps import (
    OVERLAP_MAX_CHARS,
    OVERLAP_MIN_CHARS,
    Continuing,
    Overlap,
    last_text,
)
from durable_chat.transcripts.chunks import Chunk
from tests.sessions.test_recovery import check_readers
from tests.sessions.test_waiting_after_crash import (
    CONTINUE,
    Gated,
    dialogue,
    ended,
    gated,
    post,
    says,
    shown,
    until,
)
from tests.transcripts.logs import check_runs

__all__ = ["gated"]

SAID = "The quick brown fox jumps"
TEXTS = st.text("ab \n\U0001f600", max_size=60) | st.text(max_size=3 * OVERLAP_MAX_CHARS)

many = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def overlap_of(said: str, following: str) -> int:
    """The length of the longest suffix of one text that is a prefix of the other, within the limits."""
    sizes = range(OVERLAP_MIN_CHARS, min(len(said), len(following), OVERLAP_MAX_CHARS) + 1)
    return max((size for size in sizes if said.endswith(following[:size])), default=0)


def units(text: str) -> list[str]:
    """The characters as JavaScript counts them: halves of surrogate pairs are apart."""
    encoded = text.encode("utf-16-le", "surrogatepass")
    return [encoded[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(encoded), 2)]


def whole(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@many
@given(TEXTS, st.data())
def test_the_result_is_the_text(text: str, data: st.DataObject) -> None:
    """
    For any text, any cut and any repeated tail within the limits, in any deltas, the result is the text. Where a longer
    repetition is possible, nobody could tell.
    """
    at = data.draw(st.integers(0, len(text)))
    sizes = st.integers(OVERLAP_MIN_CHARS, min(at, OVERLAP_MAX_CHARS)) if at >= OVERLAP_MIN_CHARS else st.nothing()
    repeated = data.draw(st.just(0) | sizes)
    said, following = text[:at], text[at - repeated :]
    assume(overlap_of(said, following) == repeated)
    pieces = units(following)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pieces)), max_size=10)))
    overlap = Overlap(said)
    written = said
    for start, end in zip([0, *cuts], [*cuts, len(pieces)], strict=True):
        written += overlap.take(whole("".join(pieces[start:end])))
        assert len(overlap.held) <= OVERLAP_MAX_CHARS
    assert whole(written + overlap.rest()) == text


@many
@given(st.text("ab", max_size=40), st.lists(st.text("ab", max_size=5), max_size=20))
def test_it_cuts_the_longest_overlap(said: str, deltas: list[str]) -> None:
    """Whatever the deltas, the cut is the longest overlap, and text is held only while it could be longer."""
    overlap = Overlap(said)
    written = ""
    for delta in deltas:
        written += overlap.take(delta)
        held = overlap.held
        starts = (said[-size:] for size in range(max(len(held) + 1, OVERLAP_MIN_CHARS), OVERLAP_MAX_CHARS + 1))
        assert not held or any(start.startswith(held) for start in starts)
    following = "".join(deltas)
    assert written + overlap.rest() == following[overlap_of(said, following) :]


def text(delta: str, message_id: str = "m") -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


START: Chunk = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
END: Chunk = {"type": "TEXT_MESSAGE_END", "messageId": "m"}
CALL: Chunk = {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look"}
THOUGHT: Chunk = {"type": "REASONING_MESSAGE_CONTENT", "delta": "hm"}
USED: Chunk = {"type": "USAGE", "usage": {"promptTokens": 1}}

# What the model yields, and what is left of it where the log ends with SAID.
ANSWERS: dict[str, tuple[list[Any], list[Any]]] = {
    "a repetition": ([START, text("brown fox"), text(" jumps over"), END], [START, text(" over"), END]),
    "plain text": (["brown ", "fox jumps", " over"], [" over"]),
    "no repetition": ([text(" over")], [text(" over")]),
    "less than the minimum": ([text(" jumps"), text(" on")], [text(" jumps"), text(" on")]),
    "a repetition and nothing else": ([text("brown fox jumps"), END], [END]),
    "an unfinished repetition": ([text("brown fox")], [text("brown fox")]),
    "an unfinished repetition before a call": ([text("brown fox"), CALL], [text("brown fox"), CALL]),
    "an unfinished repetition before another message": (
        [text("brown fox"), text(" jumps", "n")],
        [text("brown fox"), text(" jumps", "n")],
    ),
    "after thinking": ([THOUGHT, START, text("fox jumps over")], [THOUGHT, START, text(" over")]),
    "after a call": ([CALL, text("fox jumps over")], [CALL, text("fox jumps over")]),
    "with usage": ([USED, text("fox "), USED, text("jumps over")], [USED, USED, text(" over")]),
    "a short form": (
        [{"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": "fox jumps over"}],
        [{"type": "TEXT_MESSAGE_START", "messageId": "m"}, text(" over"), END],
    ),
    "twice": ([text("fox jumps"), text(", fox jumps")], [text(", fox jumps")]),
}


def turn(**more: Any) -> Turn:
    return Turn((), "s", "r", **more)


def model_of(items: Sequence[Any]) -> Any:
    async def model(_turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return model


@pytest.mark.parametrize("name", ANSWERS)
async def test_answers(name: str) -> None:
    """Only the text is cut, and held text comes before any chunk that is not of the same text."""
    items, expected = ANSWERS[name]
    made = [chunk async for chunk in Continuing(model_of(items), [START, text(SAID)])(turn())]
    plain = [item if isinstance(item, dict) else {"type": "TEXT_MESSAGE_CONTENT", "delta": item} for item in expected]
    assert made == plain


async def test_what_is_held_is_not_said_in_another_run() -> None:
    """While text is held, the model hears no message. A whole repetition is cut, so that it can hear one."""
    told: list[bool] = []

    async def hear() -> Turn | None:
        return turn()

    async def model(now: Turn) -> AsyncIterator[str]:
        yield "brown "
        told.append(await now.heard() is not None)
        yield "fox jumps"
        told.append(await now.heard() is not None)
        yield "brown fox"

    made = [chunk["delta"] async for chunk in Continuing(model, [text(SAID)])(turn(heard=hear))]
    assert (told, made) == ([False, True], ["brown fox"])


async def test_a_model_is_closed_with_its_output() -> None:
    """A stop ends the model's work at once."""
    closed = asyncio.Event()

    async def model(_turn: Turn) -> AsyncIterator[str]:
        try:
            while True:
                yield "over "
        finally:
            closed.set()

    output = Continuing(model, [text(SAID)])(turn())
    assert await anext(output)
    await output.aclose()
    assert closed.is_set()


LAST_TEXTS = {
    "text": ([START, text("a"), text("b")], "ab"),
    "an ended text": ([START, text("a"), text("b"), END], "ab"),
    "text after a call": ([text("a"), CALL, text("b")], "b"),
    "a call": ([text("a"), CALL], ""),
    "another message": ([text("a"), text("b", "n")], "b"),
    "long": ([text("a" * OVERLAP_MAX_CHARS), text("b")], "a" * (OVERLAP_MAX_CHARS - 1) + "b"),
    "nothing": ([], ""),
}


@pytest.mark.parametrize("name", LAST_TEXTS)
def test_the_text_in_the_log(name: str) -> None:
    """Only the text at the end of a run can be repeated."""
    said, expected = LAST_TEXTS[name]
    assert last_text(said) == expected


def test_an_answer_across_a_crash(gated: Gated) -> None:
    """The words that a model says again after a crash are in the answer once."""
    process = gated.start()
    assert post(process, "repeat it") == 202
    until(process, says("About repeat it: "))
    process.kill()
    gated.open("repeat it")
    process = gated.start(**CONTINUE)
    chunks = until(process, ended(1))
    check_runs(chunks)
    assert shown(chunks) == dialogue("repeat it")
    check_readers(process, "s", chunks)
