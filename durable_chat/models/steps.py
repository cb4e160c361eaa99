"""
The steps of an answer with tools: the calls of one, and all of a run whose process died, read from its log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from durable_chat.transcripts import chunks
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.context_summaries import CONTEXT_SUMMARY

ASKS = ("approval-requested", "tool-input-available")
"""The CUSTOM chunks that ask a person or the client about a call."""

_CONTENT = ("TEXT_MESSAGE_CONTENT", "REASONING_", "TOOL_CALL_", "STEP_", "CUSTOM")
"""How the types of chunks begin that say something. The others only open and close messages."""


@dataclass(slots=True)
class Call:
    """A tool call of a model: its arguments so far, and whether someone has already handled it."""

    name: str
    arguments: str = ""
    settled: bool = False


@dataclass(slots=True)
class Step:
    """One answer of the model: its calls by id, and its end, which is held back. Mutable."""

    calls: dict[str, Call] = field(default_factory=dict)
    end: Chunk | None = None

    def see(self, chunk: Chunk) -> None:
        kind, call_id = chunk["type"], str(chunk.get("toolCallId"))
        if kind == "TOOL_CALL_START" and isinstance(chunk.get("toolCallName"), str):
            self.calls.setdefault(call_id, Call(chunk["toolCallName"]))
        elif kind == "CUSTOM":
            value = chunk.get("value")
            call_id = str(value.get("toolCallId")) if isinstance(value, Mapping) else ""
        call = self.calls.get(call_id)
        if call is None:
            return
        if kind == "TOOL_CALL_ARGS":
            call.arguments += str(chunk.get("delta") or "")
        elif kind == "TOOL_CALL_END":
            given = chunk.get("input", chunks.tanstack_metadata(chunk).get("input"))
            if given is not None:
                call.arguments = chunks.encode_json(given).decode()
        elif kind in ("TOOL_CALL_RESULT", "CUSTOM"):
            call.settled = True  # the model runs the tool or asks for approval itself

    @property
    def open(self) -> dict[str, Call]:
        return {call_id: call for call_id, call in self.calls.items() if not call.settled}


@dataclass(slots=True)
class LoggedSteps:
    """
    What a run has said. The first `finished` chunks are `count` whole steps, in which all calls have results, and
    before them the `results` of calls of earlier runs. `step` is the state of what follows, and `complete` the calls in
    it whose arguments are complete. `asks`: a person or the client was asked about a call.
    """

    said: Sequence[Chunk]
    finished: int = 0
    count: int = 0
    step: Step = field(default_factory=Step)
    complete: set[str] = field(default_factory=set)
    results: list[Chunk] = field(default_factory=list)
    asks: bool = False

    @property
    def rest(self) -> Sequence[Chunk]:
        return self.said[self.finished :]

    @property
    def is_cut(self) -> bool:
        """Whether the run has said something after its last whole step. A summary of earlier messages is not said."""
        said = (chunk for chunk in self.rest if chunk.get("name") != CONTEXT_SUMMARY)
        return any(chunk["type"].startswith(_CONTENT) for chunk in said)


def read_steps(said: Sequence[Chunk], is_ours: Callable[[str], bool]) -> LoggedSteps:
    """
    Return the steps of a run. `is_ours` says of a tool's name whether the loop handles its calls. A model may have
    other tools, which it handles itself, in the middle of a step.
    """
    found = LoggedSteps(said)
    for at, chunk in enumerate(said, 1):
        found.step.see(chunk)
        kind, calls = chunk["type"], found.step.calls
        if kind == "CUSTOM" and chunk.get("name") in ASKS:
            found.asks = True
        elif kind == "TOOL_CALL_END":
            found.complete.add(str(chunk.get("toolCallId")))
        elif kind == "TOOL_CALL_RESULT":
            is_earlier = not calls and not found.count
            if is_earlier:
                found.results.append(chunk)
            if is_earlier or (not found.step.open and any(is_ours(call.name) for call in calls.values())):
                found.finished, found.count = at, found.count + (not is_earlier)
                found.step, found.complete = Step(), set()
    return found
