"""
Unique ids for tool calls. A model may number its calls from one in every answer, but a session identifies calls by id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping
from typing import Any

from durable_chat.transcripts.chunks import Chunk, string_at

MODELS_CHARS_MAX = 20
"""Characters of the model's id that a generated id keeps. Providers accept ids of up to 40 characters."""

SUFFIX_CHARS = 8
"""
Characters of the run id that a generated id contains. This is almost always unique in a session; a counter resolves
collisions.
"""

NAMED = frozenset(
    {
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "TOOL_CALL_RESULT",
        "CUSTOM",
        "REASONING_ENCRYPTED_VALUE",
        "RUN_FINISHED",
    }
)
"""The chunk types that may contain a tool call id, after short forms are expanded."""


class CallNames:
    """
    The ids of one run's tool calls. A call keeps the model's id unless the session already uses that id, or a call of
    this run with that id already has a result. In these cases every use of the model's id is mapped to a new id.

    Mutable state: the id that each of the model's ids maps to; the ids of calls that have results; how many ids were
    generated.
    """

    def __init__(self, known: Container[str], run_id: str) -> None:
        self._known = known
        self._suffix = run_id[-SUFFIX_CHARS:]
        self._names: dict[str, str] = {}
        self._answered: set[str] = set()
        self._made = 0

    def carry(self, call_ids: Iterable[str]) -> None:
        """
        Register calls of an earlier run that this run executes. If the model starts them again, they keep their ids.
        """
        self._names |= {call_id: call_id for call_id in call_ids}

    def answer(self, name: str) -> None:
        """Record that a call has its result, so that the model may reuse its id."""
        self._answered.add(name)

    def rename(self, chunk: Chunk) -> Chunk:
        """Return a chunk of the model with the call ids replaced."""
        kind = chunk["type"]
        if kind == "CUSTOM":
            return self._custom(chunk)
        if kind == "RUN_FINISHED":
            return self._finished(chunk)
        key = "entityId" if kind == "REASONING_ENCRYPTED_VALUE" else "toolCallId"
        given = string_at(chunk, key)
        if given is None or (key == "entityId" and chunk.get("subtype") != "tool-call"):
            return chunk
        name = self._begin(given) if kind == "TOOL_CALL_START" else self._names.get(given, given)
        if kind == "TOOL_CALL_RESULT":
            self.answer(name)
        return chunk if name == given else {**chunk, key: name}

    def _begin(self, given: str) -> str:
        name = self._names.get(given)
        if name is not None and name not in self._answered:  # the model repeats the start of the same call
            return name
        if name is not None or given in self._known:
            name = self._new(given)
        self._names[given] = name = name or given
        return name

    def _new(self, given: str) -> str:
        while True:
            self._made += 1
            name = f"{given[:MODELS_CHARS_MAX]}-{self._suffix}-{self._made}"
            if name not in self._known and name not in self._names:
                return name

    def _custom(self, chunk: Chunk) -> Chunk:
        """Replace the call id. The approval id is derived from it, so it changes too."""
        value = chunk.get("value")
        given = string_at(value, "toolCallId") if isinstance(value, Mapping) else None
        name = None if given is None else self._names.get(given, given)
        if name == given or not isinstance(value, Mapping):
            return chunk
        approval = value.get("approval")
        asked = {"approval": {**approval, "id": f"approval_{name}"}} if isinstance(approval, Mapping) else {}
        return {**chunk, "value": {**value, "toolCallId": name, **asked}}

    def _finished(self, chunk: Chunk) -> Chunk:
        outcome = chunk.get("outcome")
        interrupts = outcome.get("interrupts") if isinstance(outcome, Mapping) else None
        if not isinstance(interrupts, list) or not isinstance(outcome, Mapping):
            return chunk
        return {**chunk, "outcome": {**outcome, "interrupts": list(map(self._interrupt, interrupts))}}

    def _interrupt(self, interrupt: Any) -> Any:
        given = string_at(interrupt, "toolCallId") if isinstance(interrupt, Mapping) else None
        name = None if given is None else self._names.get(given, given)
        return interrupt if name == given else {**interrupt, "toolCallId": name, "id": f"approval_{name}"}


def with_unique_calls(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the messages of a history with a unique id for each tool call. A result belongs to the oldest call with its
    id that has no result, otherwise to the last call with that id.
    """
    names = _HistoryNames()
    return [{**message, "parts": [names.part(part) for part in message["parts"]]} for message in messages]


class _HistoryNames:
    """
    Mutable state: the ids that are taken; for each id, the calls without a result and the last call; a counter for
    generated ids. The counter never decreases, so renaming all calls takes linear time.
    """

    def __init__(self) -> None:
        self._taken: dict[str, None] = {}
        self._open: dict[str, deque[str]] = {}
        self._last: dict[str, str] = {}
        self._made = 0

    def part(self, part: dict[str, Any]) -> dict[str, Any]:
        kind = part.get("type")
        given = string_at(part, "toolCallId" if kind == "tool-result" else "id")
        if given is None or kind not in ("tool-call", "tool-result"):
            return part
        if kind == "tool-result":
            waiting = self._open.get(given)
            name = waiting.popleft() if waiting else self._last.get(given, given)
            return part if name == given else {**part, "toolCallId": name}
        name = given if given not in self._taken else self._new(given)
        self._taken[name] = None
        self._open.setdefault(given, deque()).append(name)
        self._last[given] = name
        if name == given:
            return part
        approval = part.get("approval")
        asked = {"approval": {**approval, "id": f"approval_{name}"}} if isinstance(approval, Mapping) else {}
        return {**part, "id": name, **asked}

    def _new(self, given: str) -> str:
        while True:
            self._made += 1
            name = f"{given[:MODELS_CHARS_MAX]}-{self._made}"
            if name not in self._taken:
                return name
