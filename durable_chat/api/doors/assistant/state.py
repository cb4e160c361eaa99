"""
The state of a session for assistant-ui's transport, and the operations that keep a client's copy of it current.

    {"messages": [...], "isRunning": bool, "runId": string | null, "error": {"message", "code"} | null}

The first event sets the whole state. Each later one sets what has changed, or appends to a text that has grown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from durable_chat.api.doors.assistant.messages import Message, to_assistant_message
from durable_chat.protocol.sse import PING
from durable_chat.transcripts.chunks import Chunk, messages_snapshot, string_at
from durable_chat.transcripts.parts import Message as FoldedMessage
from durable_chat.transcripts.parts import Rope, Span
from durable_chat.transcripts.runs.ends import ENDS
from durable_chat.transcripts.transcript import Transcript

DONE = b"data: [DONE]\n\n"

_GROWING = {
    "TEXT_MESSAGE_CONTENT": ("text", "content", "text"),
    "REASONING_MESSAGE_CONTENT": ("thinking", "content", "text"),
    "TOOL_CALL_ARGS": ("tool-call", "arguments", "argsText"),
}
"""
Chunks that only make a text longer: the type of its part, its field in the transcript, and its field in the state.
"""

Operation = dict[str, Any]
State = dict[str, Any]


def state_of(messages: Sequence[Mapping[str, Any]], run_id: str | None) -> State:
    """Return the whole state of a session, with the run that answers, if any."""
    shown = [to_assistant_message(message) for message in messages]
    return {"messages": shown, "isRunning": run_id is not None, "runId": run_id, "error": None}


@dataclass(slots=True)
class _Growing:
    """The last part of the last message: how much of its text the client has."""

    message: FoldedMessage
    parts: int
    rope: Rope
    chars: int
    field: str


class _Watched(Transcript):
    """A transcript whose last message can be watched while it grows."""

    def last_message(self) -> FoldedMessage | None:
        return self._messages.first(self.last_id)


class StateWire:
    """
    A session's state on assistant-ui's wire until one run ends. Unlike other wires, it is given the chunks of earlier
    runs as well, because they change the state, too. Creating one takes time proportional to the session's size.

    Mutable state: `_fold`, the transcript; `_shown` and `_made`, its messages as they were last sent, in both forms;
    `_growing`, the text that grows; `_begin`, the first event, until it is sent.
    """

    headers: Mapping[str, str] = {"Content-Type": "text/event-stream"}
    ping = PING

    def __init__(self, messages: Sequence[Mapping[str, Any]], run_id: str | None) -> None:
        """`messages` are those before the first chunk. Without a run, the state is all there is to send."""
        self._run_id = run_id
        self._fold = _Watched()
        self._fold.fold(messages_snapshot([dict(message) for message in messages], timestamp=0))
        self._shown: list[Mapping[str, Any]] = [*self._fold.messages()]
        state = state_of(self._shown, run_id)
        self._made: list[Message] = state["messages"]
        self._growing: _Growing | None = None
        self._begin = _update([_set([], state)])

    def begin(self) -> bytes:
        begin, self._begin = self._begin, b""
        return begin

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        self._fold.fold(chunk)
        grown = self._grown(chunk)
        operations = [grown] if grown is not None else self._changed()
        is_end = chunk["type"] in ENDS and chunk.get("runId") in (None, self._run_id)
        if is_end:
            operations += [_set(["isRunning"], False), _set(["runId"], None)]
        event = _update(operations) if operations else b""
        if is_end and chunk["type"] == "RUN_ERROR":
            event += self.fail(string_at(chunk, "message"), string_at(chunk, "code"))
        return event

    def fail(self, message: str | None, code: str | None) -> bytes:
        """Return the events of a failed run: in the state, and for the runtime's `onError`."""
        error = {"message": message, "code": code}
        return _update([_set(["error"], error)]) + _event({"type": "error", "path": [], "error": message, "code": code})

    def end(self) -> bytes:
        return DONE

    def _grown(self, chunk: Chunk) -> Operation | None:
        """Return the operation of a chunk that only makes the last text longer, or None."""
        kinds, delta, growing = _GROWING.get(chunk["type"]), chunk.get("delta"), self._growing
        if kinds is None or growing is None or not isinstance(delta, str) or not delta:
            return None
        if chunk.get("metadata"):  # it may change the message's time
            return None
        message = self._fold.last_message()
        if message is not growing.message or message.shown is not None or len(message.parts) != growing.parts:
            return None
        kind, source, field = kinds
        part = message.parts[-1]
        span = part.get(source)
        if part.get("type") != kind or not isinstance(span, Span) or span.rope is not growing.rope:
            return None
        if span.chars != growing.chars + len(delta):
            return None
        growing.chars = span.chars
        at = len(self._made) - 1
        path = ["messages", str(at), "content", str(len(self._made[at]["content"]) - 1), field]
        return {"type": "append-text", "path": path, "value": delta}

    def _changed(self) -> list[Operation]:
        """Return the operations for all messages that differ from what the client has."""
        self._note_grown()
        shown = self._fold.messages()
        operations: list[Operation] = []
        if len(shown) < len(self._shown):
            self._made = [to_assistant_message(message) for message in shown]
            operations = [_set(["messages"], self._made)]
        else:
            for at, message in enumerate(shown):
                if at < len(self._shown) and message is self._shown[at]:
                    continue
                made = to_assistant_message(message)
                if at < len(self._made):
                    operations += _differences(["messages", str(at)], self._made[at], made)
                    self._made[at] = made
                else:
                    operations.append(_set(["messages", str(at)], made))
                    self._made.append(made)
        self._shown = [*shown]
        self._watch()
        return operations

    def _note_grown(self) -> None:
        """Put the text that the client has by now into the last message that was sent."""
        growing = self._growing
        if growing is not None:
            self._made[-1]["content"][-1][growing.field] = Span(growing.rope, growing.chars).text()

    def _watch(self) -> None:
        """Watch the last part of the last message, if its text can grow."""
        self._growing = None
        message = self._fold.last_message()
        if message is None or not message.parts or not self._made or self._made[-1]["id"] != message.id:
            return
        part = message.parts[-1]
        for kind, source, field in _GROWING.values():
            span = part.get(source)
            if part.get("type") == kind and isinstance(span, Span):
                self._growing = _Growing(message, len(message.parts), span.rope, span.chars, field)


def _differences(path: list[str], old: Message, new: Message) -> list[Operation]:
    """Return the operations that change one message into another."""
    if old["id"] != new["id"] or old.keys() - new.keys() or len(old["content"]) > len(new["content"]):
        return [_set(path, new)]
    changed = [key for key in new if key != "content" and new[key] != old.get(key)]
    operations = [_set([*path, key], new[key]) for key in changed]
    for at, part in enumerate(new["content"]):
        if at >= len(old["content"]) or part != old["content"][at]:
            operations.append(_set([*path, "content", str(at)], part))
    return operations


def _set(path: list[str], value: Any) -> Operation:
    return {"type": "set", "path": path, "value": value}


def _update(operations: list[Operation]) -> bytes:
    return _event({"type": "update-state", "path": [], "operations": operations})


_encoder = msgspec.json.Encoder()


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encoder.encode(value)
