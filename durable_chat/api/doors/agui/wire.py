"""
AG-UI's wire format of one run: strict events from the chunks of the log, which are in TanStack AI's order.

AG-UI's clients fail a run at an event that breaks a rule of its lifecycle. Every message, call, step and subagent
starts once, and ends before the run does. Reasoning comes before the message that follows it. An approval is an
interrupt in the run's outcome. Only fields of the specification are sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from durable_chat.api.doors.agui.messages import to_agui_messages
from durable_chat.protocol.sse import PING
from durable_chat.transcripts.answers.subagents import is_apart, subagent_event
from durable_chat.transcripts.chunks import Chunk, encode_chunk, string_at, tanstack_metadata
from durable_chat.transcripts.transcript import Transcript

Events = list[Chunk]

APPROVAL_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}
"""What an answer to an approval holds. Clients show their own buttons for exactly this schema."""

_SHARED = ("type", "timestamp", "metadata", "subagentRunId")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "TEXT_MESSAGE_START": ("messageId", "role", "name"),
    "TEXT_MESSAGE_CONTENT": ("messageId", "delta"),
    "TEXT_MESSAGE_END": ("messageId",),
    "TOOL_CALL_START": ("toolCallId", "toolCallName", "parentMessageId"),
    "TOOL_CALL_ARGS": ("toolCallId", "delta"),
    "TOOL_CALL_END": ("toolCallId",),
    "TOOL_CALL_RESULT": ("messageId", "toolCallId", "content", "role"),
    "REASONING_START": ("messageId",),
    "REASONING_MESSAGE_START": ("messageId",),
    "REASONING_MESSAGE_CONTENT": ("messageId", "delta"),
    "REASONING_MESSAGE_END": ("messageId",),
    "REASONING_END": ("messageId",),
    "REASONING_ENCRYPTED_VALUE": ("subtype", "entityId", "encryptedValue"),
    "STEP_STARTED": ("stepName",),
    "STEP_FINISHED": ("stepName",),
    "STATE_SNAPSHOT": ("snapshot",),
    "STATE_DELTA": ("delta",),
    "ACTIVITY_SNAPSHOT": ("messageId", "activityType", "content", "replace"),
    "ACTIVITY_DELTA": ("messageId", "activityType", "patch"),
    "CUSTOM": ("name",),
    "RUN_STARTED": ("parentRunId",),
    "RUN_FINISHED": ("result", "usage"),
    "RUN_ERROR": ("message", "code", "usage"),
    "SUBAGENT_STARTED": ("name", "description", "parentSubagentRunId", "parentToolCallId", "parentMessageId"),
    "SUBAGENT_FINISHED": ("result", "outcome"),
    "SUBAGENT_ERROR": ("message", "code"),
}
"""The fields of each event type in the specification. A client that checks strictly warns of others or refuses them."""

_STRINGS = frozenset(
    {name for fields in FIELDS.values() for name in fields}
    - {"delta", "content", "snapshot", "patch", "replace", "result", "usage", "outcome"}
) | {"runId", "threadId", "subagentRunId"}
"""The fields that are strings in all events that have them."""

_NEEDED: Mapping[str, str] = {
    **dict.fromkeys((kind for kind, fields in FIELDS.items() if fields[0] == "messageId"), "messageId"),
    **dict.fromkeys((kind for kind in FIELDS if kind.startswith("TOOL_CALL_")), "toolCallId"),
    **dict.fromkeys(("STEP_STARTED", "STEP_FINISHED"), "stepName"),
    "CUSTOM": "name",
}
"""The field without which an event says nothing."""

_DELTAS = ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS")
"""The events whose `delta` is text. That of a state is a list of changes."""


@dataclass(frozen=True, slots=True)
class Client:
    """
    What the wire knows of its client: the ids that it sent, the tool calls that it has, the results that it posted,
    and whether it speaks AG-UI 1.0. Older clients fail at what is new in 1.0.
    """

    thread_id: str
    run_id: str
    is_modern: bool = False
    calls: Collection[str] = ()
    results: Collection[tuple[str, str]] = ()


@dataclass(slots=True)
class Open:
    """
    What has started and not ended, each with the subagent that it belongs to. `held` are the starts of messages without
    text so far.
    """

    held: dict[str, Chunk] = field(default_factory=dict)
    texts: dict[str, str | None] = field(default_factory=dict)
    spans: dict[str, str | None] = field(default_factory=dict)
    thoughts: dict[str, str | None] = field(default_factory=dict)
    calls: dict[str, str | None] = field(default_factory=dict)
    steps: dict[tuple[str | None, str], None] = field(default_factory=dict)
    subagents: dict[str, None] = field(default_factory=dict)

    def end_reasoning(self, owner: str | None) -> Events:
        """End the reasoning of the answer or of one subagent."""
        made = [_end("REASONING_MESSAGE_END", name, whose) for name, whose in self.thoughts.items() if whose == owner]
        made += [_end("REASONING_END", name, whose) for name, whose in self.spans.items() if whose == owner]
        self.thoughts = {name: whose for name, whose in self.thoughts.items() if whose != owner}
        self.spans = {name: whose for name, whose in self.spans.items() if whose != owner}
        return made

    def end_all(self, *, suspended: bool) -> Events:
        """End everything, because the run ends."""
        made = [_end("TEXT_MESSAGE_END", name, owner) for name, owner in self.texts.items()]
        for owner in dict.fromkeys((*self.thoughts.values(), *self.spans.values())):
            made += self.end_reasoning(owner)
        made += [_end("TOOL_CALL_END", name, owner, "toolCallId") for name, owner in self.calls.items()]
        made += [_end("STEP_FINISHED", name, owner, "stepName") for owner, name in self.steps]
        outcome = {"outcome": {"type": "suspended"}} if suspended else {}
        made += [{"type": "SUBAGENT_FINISHED", "subagentRunId": name} | outcome for name in reversed(self.subagents)]
        for started in (self.texts, self.calls, self.steps, self.subagents):
            started.clear()
        return made


def _end(kind: str, name: str, owner: str | None, key: str = "messageId") -> Chunk:
    return {"type": kind, key: name} | ({} if owner is None else {"subagentRunId": owner})


class AguiEvents:
    """
    Turns chunks into events. Mutable state: `_open`; the messages that are not the assistant's; the calls and subagents
    that have started and that the client has; the interrupts of calls that wait for approval.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open = Open()
        self._others: set[str] = set()
        self._calls: set[str] = set(client.calls)
        self._subagents: set[str] = set()
        self._asked: dict[str, Chunk] = {}

    def of(self, chunk: Chunk) -> Events:
        """Return the events of a chunk. Chunks of unknown types have none: older clients fail at them."""
        event: Chunk | None = chunk
        if is_apart(chunk):
            event = subagent_event(chunk) if self._client.is_modern else None
        handle = None if event is None else self._HANDLERS.get(event["type"])
        if handle is None or event is None:
            return []
        event = _typed(event)
        needed = _NEEDED.get(event["type"])
        return handle(self, event) if needed is None or needed in event else []

    # Messages.

    def _text_start(self, chunk: Chunk) -> Events:
        """Hold the start until there is text, so that reasoning comes first and no message is empty."""
        message_id = str(chunk.get("messageId"))
        if chunk.get("role", "assistant") != "assistant":
            self._others.add(message_id)  # the sender has it
        elif message_id not in self._open.texts:
            self._open.held[message_id] = chunk
        return []

    def _text_content(self, chunk: Chunk) -> Events:
        message_id = str(chunk.get("messageId"))
        if not chunk.get("delta") or message_id in self._others:
            return []
        if message_id in self._open.texts:
            return [_spec(chunk)]
        owner = _owner(chunk)
        start = self._open.held.pop(message_id, None) or _end("TEXT_MESSAGE_START", message_id, owner)
        self._open.texts[message_id] = owner
        return [*self._open.end_reasoning(owner), _spec({"role": "assistant", **start}), _spec(chunk)]

    def _text_end(self, chunk: Chunk) -> Events:
        message_id = str(chunk.get("messageId"))
        self._open.held.pop(message_id, None)
        if message_id not in self._open.texts:
            return []
        del self._open.texts[message_id]
        return [_spec(chunk)]

    # Reasoning.

    def _span_start(self, chunk: Chunk) -> Events:
        return self._begin_span(str(chunk.get("messageId")), chunk)

    def _begin_span(self, name: str, chunk: Chunk) -> Events:
        if name in self._open.spans:
            return []
        self._open.spans[name] = _owner(chunk)
        return [_spec(chunk | {"type": "REASONING_START", "messageId": name})]

    def _thought_start(self, chunk: Chunk) -> Events:
        message_id, owner = str(chunk.get("messageId")), _owner(chunk)
        if message_id in self._open.thoughts:
            return []
        made = [] if owner in self._open.spans.values() else self._begin_span(message_id, chunk)
        self._open.thoughts[message_id] = owner
        start = _end("REASONING_MESSAGE_START", message_id, owner) | {"role": "reasoning"}
        return [*made, start | ({"timestamp": chunk["timestamp"]} if _has_time(chunk) else {})]

    def _thought(self, chunk: Chunk) -> Events:
        return [*self._thought_start(chunk), _spec(chunk)] if chunk.get("delta") else []

    def _thought_end(self, chunk: Chunk) -> Events:
        message_id = str(chunk.get("messageId"))
        if message_id not in self._open.thoughts:
            return []
        del self._open.thoughts[message_id]
        return [_spec(chunk)]

    def _span_end(self, chunk: Chunk) -> Events:
        if str(chunk.get("messageId")) not in self._open.spans:
            return []
        return self._open.end_reasoning(_owner(chunk))

    def _encrypted(self, chunk: Chunk) -> Events:
        is_whole = chunk.get("subtype") in ("message", "tool-call") and isinstance(chunk.get("entityId"), str)
        return [_spec(chunk)] if is_whole and chunk.get("encryptedValue") else []

    # Tools.

    def _call_start(self, chunk: Chunk) -> Events:
        """A call that the client has, because an earlier run made it, is not made again: only its result is news."""
        call_id, owner = str(chunk.get("toolCallId")), _owner(chunk)
        if call_id in self._calls:
            return []
        self._calls.add(call_id)
        self._open.calls[call_id] = owner
        return [*self._open.end_reasoning(owner), _spec(chunk)]

    def _call_args(self, chunk: Chunk) -> Events:
        return [_spec(chunk)] if chunk.get("toolCallId") in self._open.calls and chunk.get("delta") else []

    def _call_end(self, chunk: Chunk) -> Events:
        if chunk.get("toolCallId") not in self._open.calls:
            return []
        del self._open.calls[chunk["toolCallId"]]
        return [_spec(chunk)]

    def _call_result(self, chunk: Chunk) -> Events:
        call_id = str(chunk.get("toolCallId"))
        made = self._call_end(_end("TOOL_CALL_END", call_id, self._open.calls.get(call_id), "toolCallId"))
        self._asked.pop(call_id, None)
        content = string_at(chunk, "content")
        if (call_id, content) in self._client.results:  # the client has posted it
            return made
        return [*made, _spec({"messageId": f"tool-{call_id}", "role": "tool", "content": "", **chunk})]

    def _custom(self, chunk: Chunk) -> Events:
        value = chunk.get("value")
        if chunk.get("name") == "approval-requested" and isinstance(value, Mapping):
            self._ask(value)
            return []
        if chunk.get("name") == "tool-input-available":  # clients execute the calls that have no result
            return []
        return [_spec(chunk) | {"value": value}]

    def _ask(self, value: Mapping[str, Any]) -> None:
        call_id, approval = string_at(value, "toolCallId"), value.get("approval")
        interrupt_id = string_at(approval, "id") if isinstance(approval, Mapping) else None
        if call_id is None:
            return
        name = string_at(value, "toolName") or "the tool"
        self._asked[call_id] = {
            "id": interrupt_id or call_id,
            "reason": "tool_call",
            "message": f"Approve the call of {name}?",
            "toolCallId": call_id,
            "responseSchema": APPROVAL_SCHEMA,
        }

    # Steps and subagents.

    def _step_start(self, chunk: Chunk) -> Events:
        step = (_owner(chunk), str(chunk.get("stepName")))
        if step in self._open.steps:
            return []
        self._open.steps[step] = None
        return [_spec(chunk)]

    def _step_end(self, chunk: Chunk) -> Events:
        step = (_owner(chunk), str(chunk.get("stepName")))
        if step not in self._open.steps:
            return []
        del self._open.steps[step]
        return [_spec(chunk)]

    def _subagent_start(self, chunk: Chunk) -> Events:
        name = _owner(chunk)
        if not self._client.is_modern or name is None or name in self._subagents:
            return []
        self._subagents.add(name)
        self._open.subagents[name] = None
        return [_spec({"name": name, **chunk})]

    def _subagent_end(self, chunk: Chunk) -> Events:
        name = _owner(chunk)
        if name is None or name not in self._open.subagents:
            return []
        del self._open.subagents[name]
        return [_spec(chunk)]

    # The run, and what is about all of it.

    def _run_start(self, chunk: Chunk) -> Events:
        return [_spec({**chunk, "metadata": None}) | self._ids()]

    def _run_end(self, chunk: Chunk) -> Events:
        outcome = self._outcome(chunk)
        made = self._open.end_all(suspended=outcome.get("type") == "interrupt")
        return [*made, _spec(chunk) | self._ids() | ({"outcome": outcome} if outcome else {})]

    def _outcome(self, chunk: Chunk) -> Chunk:
        given = chunk.get("outcome")
        kind = given.get("type") if isinstance(given, Mapping) else None
        if tanstack_metadata(chunk).get("stopped") is True or kind == "cancelled":
            return {"type": "cancelled"} if self._client.is_modern else {}
        interrupts = [*self._asked.values()]
        listed = given.get("interrupts") if isinstance(given, Mapping) and kind == "interrupt" else None
        interrupts += [dict(one) for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
        return {"type": "interrupt", "interrupts": interrupts} if interrupts else {"type": "success"}

    def _run_error(self, chunk: Chunk) -> Events:
        return [*self._open.end_all(suspended=False), _spec(chunk)]

    def _snapshot(self, chunk: Chunk) -> Events:
        """The fold reads messages of any shape, and repairs them."""
        transcript = Transcript()
        transcript.fold(chunk)
        messages = transcript.messages()
        parts = (part for message in messages for part in message["parts"])
        self._calls = {part["id"] for part in parts if part.get("type") == "tool-call"}
        return [messages_event(messages)]

    def _pass(self, chunk: Chunk) -> Events:
        return [_spec(chunk)]

    def _state(self, chunk: Chunk) -> Events:
        """A state may be null, and the nulls in it are values."""
        return [_spec(chunk) | {"snapshot": chunk.get("snapshot")}]

    def _ids(self) -> Chunk:
        return {"threadId": self._client.thread_id, "runId": self._client.run_id}

    _HANDLERS: ClassVar[dict[str, Callable[[AguiEvents, Chunk], Events]]] = {
        "RUN_STARTED": _run_start,
        "RUN_FINISHED": _run_end,
        "RUN_ERROR": _run_error,
        "TEXT_MESSAGE_START": _text_start,
        "TEXT_MESSAGE_CONTENT": _text_content,
        "TEXT_MESSAGE_END": _text_end,
        "REASONING_START": _span_start,
        "REASONING_MESSAGE_START": _thought_start,
        "REASONING_MESSAGE_CONTENT": _thought,
        "REASONING_MESSAGE_END": _thought_end,
        "REASONING_END": _span_end,
        "REASONING_ENCRYPTED_VALUE": _encrypted,
        "TOOL_CALL_START": _call_start,
        "TOOL_CALL_ARGS": _call_args,
        "TOOL_CALL_END": _call_end,
        "TOOL_CALL_RESULT": _call_result,
        "CUSTOM": _custom,
        "STEP_STARTED": _step_start,
        "STEP_FINISHED": _step_end,
        "STATE_SNAPSHOT": _state,
        "STATE_DELTA": _pass,
        "ACTIVITY_SNAPSHOT": _pass,
        "ACTIVITY_DELTA": _pass,
        "MESSAGES_SNAPSHOT": _snapshot,
        "SUBAGENT_STARTED": _subagent_start,
        "SUBAGENT_FINISHED": _subagent_end,
        "SUBAGENT_ERROR": _subagent_end,
    }


def messages_event(messages: Iterable[Mapping[str, Any]]) -> Chunk:
    """Return the event that replaces all messages of a client by those of a transcript."""
    return {"type": "MESSAGES_SNAPSHOT", "messages": to_agui_messages(messages)}


def _typed(chunk: Chunk) -> Chunk:
    """
    Return a chunk without the fields that have another type than in the specification. Anyone who may append to the
    stream can put such values into the log.
    """
    wrong = {name for name in chunk if name in _STRINGS and not isinstance(chunk[name], str)}
    if chunk["type"] in _DELTAS and not isinstance(chunk.get("delta"), str):
        wrong.add("delta")
    if "timestamp" in chunk and not _has_time(chunk):
        wrong.add("timestamp")
    return {name: value for name, value in chunk.items() if name not in wrong} if wrong else chunk


def _owner(chunk: Chunk) -> str | None:
    return string_at(chunk, "subagentRunId")


def _has_time(chunk: Chunk) -> bool:
    time = chunk.get("timestamp")
    return isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time)


def _spec(chunk: Chunk) -> Chunk:
    """Return the fields of the specification that have a value. An optional field is omitted, and never null."""
    fields = (*_SHARED, *FIELDS[chunk["type"]])
    kept = {name: chunk[name] for name in fields if chunk.get(name) is not None}
    if "timestamp" in kept:
        kept["timestamp"] = int(kept["timestamp"])
    return kept


class AguiWire:
    """The events of one run, as SSE, or as NDJSON with `is_ndjson`."""

    __slots__ = ("_events", "_is_ndjson", "headers", "ping")

    def __init__(self, client: Client, *, is_ndjson: bool = False) -> None:
        self._events = AguiEvents(client)
        self._is_ndjson = is_ndjson
        self.headers = {"Content-Type": "application/x-ndjson" if is_ndjson else "text/event-stream"}
        self.ping = b"\n" if is_ndjson else PING

    def begin(self) -> bytes:
        """Nothing may come before the run's start. A ping shows the client that the turn was accepted."""
        return self.ping

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        return self.encode(self._events.of(chunk))

    def encode(self, events: Events) -> bytes:
        frame = b"%b\n" if self._is_ndjson else b"data: %b\n\n"
        return b"".join([frame % encode_chunk(event) for event in events])

    def end(self) -> bytes:
        return b""
