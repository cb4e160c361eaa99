"""Invariants of every session's log, and what readers get from it."""

from __future__ import annotations

from typing import Any

from durable_chat.transcripts.transcript import Transcript

Chunks = list[dict[str, Any]]


def kinds(chunks: Chunks) -> list[str]:
    return [str(chunk["type"]) for chunk in chunks]


def has_ended(chunks: Chunks) -> bool:
    """Whether there is an end of a run."""
    return bool({"RUN_FINISHED", "RUN_ERROR"} & set(kinds(chunks)))


def check_runs(chunks: Chunks) -> Chunks:
    """Check that every run has one start and one end, one run after the other, and none is open. Return the ends."""
    active: str | None = None
    open_texts, messages, calls, results = set[str](), set[str](), set[str](), set[str]()
    ends: Chunks = []
    for chunk in chunks:
        kind = chunk["type"]
        if kind == "RUN_STARTED":
            assert active is None, "two runs at once"
            assert chunk["runId"] not in {end["runId"] for end in ends}, "a run started twice"
            active = chunk["runId"]
            messages.clear()
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            assert chunk["runId"] == active, "an end without its start"
            assert not open_texts, "a text was left open"
            assert calls == results, "a tool call was left open"
            assert kind == "RUN_FINISHED" or messages, "an error would be hung on the answer before it"
            active = None
            ends.append(chunk)
        elif kind == "TEXT_MESSAGE_START":
            assert chunk["role"] == "user" or active is not None
            open_texts.add(chunk["messageId"])
            messages.add(chunk["messageId"])
        elif kind == "TEXT_MESSAGE_END":
            open_texts.discard(chunk["messageId"])
        elif kind == "TOOL_CALL_START":
            calls.add(chunk["toolCallId"])
        elif kind == "TOOL_CALL_RESULT":
            results.add(chunk["toolCallId"])
    assert active is None, "a run without an end"
    return ends


def fold(chunks: Chunks) -> list[dict[str, Any]]:
    transcript = Transcript()
    transcript.fold_all(chunks)
    return transcript.messages()
