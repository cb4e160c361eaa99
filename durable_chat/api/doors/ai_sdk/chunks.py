"""
Turn the chunks of one run into UI message chunks of Vercel's AI SDK, strictly ordered. No I/O.

Only chunk types that both SDK 6 and SDK 7 know are used, because nothing in a request tells the two apart, and a client
fails at a type that it does not know. Deltas come only between their start and end, and results only for calls that the
client has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from durable_chat.api.doors.ai_sdk.messages import (
    DONE,
    RESOURCE,
    RESOURCE_FIELDS,
    STRUCTURED,
    own_metadata,
    read_input,
    read_output,
    signed,
)
from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.chunks import string_at as _string
from durable_chat.transcripts.conversions import restored, result_error
from durable_chat.transcripts.runs.ends import UNKNOWN_ERROR, run_end
from durable_chat.transcripts.tool_answers import DENIED_RESULT

UIChunk = dict[str, Any]

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool-calls", "content_filter": "content-filter"}
_UNFINISHED = "Stream ended without structured-output.complete"


@dataclass(frozen=True, slots=True)
class Earlier:
    """
    The message that a run continues: its id, and the ids of its tool calls. `settled` are the results of those that
    have one. `replay` rebuilds the message for a client that does not have it.
    """

    message_id: str
    calls: Collection[str] = ()
    settled: Sequence[UIChunk] = ()
    replay: Sequence[UIChunk] = ()

    @classmethod
    def of(cls, message: Mapping[str, Any], *, replays: bool = False) -> Earlier:
        """Return an assistant's message of the AI SDK as the one to continue."""
        parts = [part for part in message["parts"] if "toolCallId" in part]
        calls = frozenset(str(part["toolCallId"]) for part in parts)
        settled = [_replayed_call(part)[-1] for part in parts if part["state"] in DONE]
        return cls(str(message["id"]), calls, settled, replay_chunks(message) if replays else ())


@dataclass(slots=True)
class _Call:
    """A tool call: its name, arguments and metadata, and how far it is. One of an earlier run is `old`."""

    name: str = ""
    pieces: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] | None = None
    available: bool = False
    settled: bool = False
    old: bool = False


class UIChunks:
    """
    The UI message chunks of one run. Mutable state: whether the message has started; the session's message that is
    being written (`_home`), and whether its step has begun; the open text and the open thought, and its signature; the
    current step of thinking; the calls, those of this step, and the last result; structured output by message; numbers
    of parts.
    """

    def __init__(self, earlier: Earlier | None = None) -> None:
        self._earlier = earlier
        self._started = False
        self._home: str | None = None
        self._wants_step = self._in_step = False
        self._text: str | None = None
        self._thought: str | None = None
        self._signature: str | None = None
        self._step: str | None = None
        self._calls: dict[str, _Call] = {}
        self._step_calls: list[str] = []
        self._structured: dict[str, list[str] | None] = {}
        self._last_result: UIChunk | None = None
        self._count = 0
        if earlier is not None:
            self._calls = {call_id: _Call(available=True, old=True) for call_id in earlier.calls}

    def take(self, chunk: Chunk) -> list[UIChunk]:
        """Return the UI message chunks for the run's next chunk."""
        if chunk["type"] == "TEXT_MESSAGE_CONTENT" and self._text is not None and chunk.get("messageId") == self._home:
            delta = chunk.get("delta")
            if "metadata" not in chunk and isinstance(delta, str) and delta:
                return [{"type": "text-delta", "id": self._text, "delta": delta}]
        handle = self._HANDLERS.get(chunk["type"])
        return [] if handle is None else list(handle(self, restored(chunk)))

    # Messages and steps

    def _run_started(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        if self._earlier is not None:
            yield from self._start(self._earlier.message_id)
            yield from self._earlier.replay

    def _start(self, message_id: str) -> Iterator[UIChunk]:
        if not self._started:
            self._started = True
            yield {"type": "start", "messageId": message_id}

    def _text_start(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        message_id = _string(chunk, "messageId")
        if message_id is None:
            return
        yield from self._start(message_id)
        if message_id != self._home:
            yield from self._leave()
            self._home, self._step, self._wants_step = message_id, None, True
        yield from self._metadata(chunk)

    def _metadata(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        if own := own_metadata(chunk.get("metadata")):
            yield {"type": "message-metadata", "messageMetadata": own}

    def _enter(self) -> Iterator[UIChunk]:
        if self._wants_step:
            self._wants_step, self._in_step = False, True
            self._step_calls = []
            yield {"type": "start-step"}

    def _leave(self) -> Iterator[UIChunk]:
        """Close the step of the current message. A message without content is an empty step."""
        yield from self._enter()
        yield from self._close()
        for call_id in self._step_calls:  # clients find a call only in its step while its input is incomplete
            yield from self._complete(call_id)
        if self._in_step:
            self._in_step = False
            yield {"type": "finish-step"}

    def _close(self) -> Iterator[UIChunk]:
        """Close the open text or thought. They end where another part begins: until then, more may follow."""
        if self._text is not None:
            yield {"type": "text-end", "id": self._text}
            self._text = None
        if self._thought is not None:
            yield {"type": "reasoning-end", "id": self._thought} | signed(self._signature)
            self._thought = self._signature = None

    # Text

    def _text_content(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        yield from self._metadata(chunk)
        delta = _string(chunk, "delta")
        if not delta:
            return
        if self._home in self._structured:
            yield from self._grow_structured(self._home or "", delta)
            return
        yield from self._enter()
        if self._text is None:
            yield from self._close()
            self._count += 1
            self._text = f"text-{self._count}"
            yield {"type": "text-start", "id": self._text}
        yield {"type": "text-delta", "id": self._text, "delta": delta}

    def _text_end(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        return self._metadata(chunk)

    # Thinking

    def _reasoning(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        yield from self._think(self._step or _string(chunk, "messageId") or "")
        if delta := _string(chunk, "delta"):
            yield {"type": "reasoning-delta", "id": self._thought, "delta": delta}

    def _think(self, step: str) -> Iterator[UIChunk]:
        yield from self._enter()
        self._step = step
        if self._thought != step:
            yield from self._close()
            self._thought = step
            yield {"type": "reasoning-start", "id": step}

    def _encrypted(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        signature = _string(chunk, "encryptedValue")
        if signature and chunk.get("subtype") != "tool-call":
            yield from self._think(self._step or _string(chunk, "entityId") or "")
            self._signature = signature

    def _step_started(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        self._step = _string(chunk, "stepName")
        yield from ()

    def _step_finished(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        signature = _string(chunk, "signature")
        if signature and self._thought is not None and self._thought == self._step:
            self._signature = signature
        yield from ()

    # Tool calls

    def _call_start(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        call_id = _string(chunk, "toolCallId")
        if call_id is None:
            return
        if call_id in self._calls:
            if self._calls[call_id].old:  # it is carried out now, and the client knows it; its message is no new step
                self._wants_step = False
            return
        yield from self._enter()
        yield from self._close()
        metadata = chunk.get("metadata")
        call = _Call(_string(chunk, "toolCallName") or "", metadata=metadata if isinstance(metadata, Mapping) else None)
        self._calls[call_id] = call
        self._step_calls.append(call_id)
        yield self._of_call("tool-input-start", call_id, call)

    def _of_call(self, kind: str, call_id: str, call: _Call) -> UIChunk:
        made = {"type": kind, "toolCallId": call_id, "toolName": call.name}
        return made | ({"toolMetadata": dict(call.metadata)} if call.metadata else {})

    def _call_args(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        call_id, delta = _string(chunk, "toolCallId") or "", _string(chunk, "delta")
        call = self._calls.get(call_id)
        if call is not None and not call.available and delta:
            call.pieces.append(delta)
            yield {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": delta}

    def _call_end(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        call_id = _string(chunk, "toolCallId") or ""
        call = self._calls.get(call_id)
        if call is not None and not call.available and "input" in chunk:
            call.available = True
            value = chunk["input"]
            if value is None:  # as in the transcript, where it counts as missing
                value = read_input("".join(call.pieces) or "null")
            yield self._of_call("tool-input-available", call_id, call) | {"input": value}
        yield from self._complete(call_id)

    def _complete(self, call_id: str) -> Iterator[UIChunk]:
        call = self._calls.get(call_id)
        if call is not None and not call.available:
            call.available = True
            yield self._of_call("tool-input-available", call_id, call) | {"input": read_input("".join(call.pieces))}

    def _call_result(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        call_id, content = _string(chunk, "toolCallId") or "", chunk.get("content")
        call = self._calls.get(call_id)
        if call is None:
            return
        yield from self._complete(call_id)
        call.settled = True
        output = read_output(content)
        if chunk.get("state") != "output-error":
            made = {"type": "tool-output-available", "toolCallId": call_id, "output": output}
        elif content == DENIED_RESULT:
            made = {"type": "tool-output-denied", "toolCallId": call_id}
        else:
            made = {"type": "tool-output-error", "toolCallId": call_id, "errorText": result_error(output)}
        self._last_result = made
        yield made

    # Everything else

    def _custom(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        name, value = _string(chunk, "name") or "", chunk.get("value")
        handle = self._CUSTOM.get(name)
        if handle is None:
            # A transcript does not hold them, so a message must not either: tabs that are reloaded would differ.
            yield {"type": f"data-{name}", "data": value, "transient": True}
        elif isinstance(value, Mapping):
            yield from handle(self, value)

    def _approval(self, value: Mapping[str, Any]) -> Iterator[UIChunk]:
        call_id, approval = _string(value, "toolCallId") or "", value.get("approval")
        if call_id in self._calls and isinstance(approval, Mapping):
            yield from self._complete(call_id)
            approval_id = _string(approval, "id") or ""
            yield {"type": "tool-approval-request", "toolCallId": call_id, "approvalId": approval_id}

    def _client_tool(self, value: Mapping[str, Any]) -> Iterator[UIChunk]:
        return self._complete(_string(value, "toolCallId") or "")

    def _resource(self, value: Mapping[str, Any]) -> Iterator[UIChunk]:
        yield from self._enter()
        yield from self._close()
        yield {"type": RESOURCE, "data": {key: value[key] for key in RESOURCE_FIELDS if key in value}}

    def _structured_start(self, value: Mapping[str, Any]) -> Iterator[UIChunk]:
        yield from self._close()  # the text that follows belongs to the output
        self._structured[_string(value, "messageId") or self._home or ""] = None

    def _grow_structured(self, message_id: str, delta: str) -> Iterator[UIChunk]:
        pieces = self._structured[message_id]
        if pieces is None:
            yield from self._enter()
            yield from self._close()
            pieces = self._structured[message_id] = []
            yield self._structured_part(message_id, {"status": "streaming", "raw": delta})
        pieces.append(delta)

    def _structured_part(self, message_id: str, data: Mapping[str, Any]) -> UIChunk:
        return {"type": STRUCTURED, "id": message_id, "data": data}

    def _structured_complete(self, value: Mapping[str, Any]) -> Iterator[UIChunk]:
        message_id = _string(value, "messageId") or self._home or ""
        raw = _string(value, "raw") or "".join(self._structured.pop(message_id, None) or ())
        if not raw and "object" in value:
            raw = javascript.stringify(value["object"])
        data: dict[str, Any] = {"status": "complete", "raw": raw}
        data |= {"data": value["object"]} if "object" in value else {}
        data |= {"reasoning": value["reasoning"]} if isinstance(value.get("reasoning"), str) else {}
        yield from self._enter()
        yield from self._close()
        yield self._structured_part(message_id, data)

    # Ends

    def _run_finished(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        end = run_end(chunk)
        yield from self._end(_UNFINISHED, released=end is None)
        if end is not None and end.status == "stopped":
            yield {"type": "abort", "reason": "stopped"}
            return
        waits = any(not self._calls[call_id].settled for call_id in self._step_calls)
        reason = "tool_calls" if waits else _string(chunk, "finishReason") or "stop"
        yield {"type": "finish", "finishReason": _REASONS.get(reason, "other")}

    def _run_error(self, chunk: Mapping[str, Any]) -> Iterator[UIChunk]:
        error = _string(chunk, "message") or UNKNOWN_ERROR
        yield from self._end(error)
        yield {"type": "error", "errorText": error}

    def _end(self, error: str, *, released: bool = False) -> Iterator[UIChunk]:
        for message_id, pieces in self._structured.items():
            yield self._structured_part(
                message_id, {"status": "error", "raw": "".join(pieces or ()), "errorMessage": error}
            )
        self._structured = {}
        yield from self._leave()
        if self._step_calls and all(self._calls[call_id].settled for call_id in self._step_calls):
            yield from self._settle([self._last_result] if self._last_result else [])
        elif released and self._earlier is not None:
            yield from self._settle(self._earlier.settled)

    def _settle(self, results: Sequence[UIChunk]) -> Iterator[UIChunk]:
        """
        Begin an empty step, which says that the tools are dealt with. Otherwise clients would send their results again,
        endlessly. A client shows a step only with another change, so repeat results, or else metadata that change
        nothing.
        """
        yield {"type": "start-step"}
        yield from results or [{"type": "message-metadata", "messageMetadata": {}}]
        yield {"type": "finish-step"}

    _CUSTOM: ClassVar[dict[str, Callable[[UIChunks, Mapping[str, Any]], Iterator[UIChunk]]]] = {
        "approval-requested": _approval,
        "tool-input-available": _client_tool,
        "ui-resource": _resource,
        "structured-output.start": _structured_start,
        "structured-output.complete": _structured_complete,
    }
    _HANDLERS: ClassVar[dict[str, Callable[[UIChunks, Mapping[str, Any]], Iterator[UIChunk]]]] = {
        "RUN_STARTED": _run_started,
        "TEXT_MESSAGE_START": _text_start,
        "TEXT_MESSAGE_CONTENT": _text_content,
        "TEXT_MESSAGE_END": _text_end,
        "REASONING_MESSAGE_CONTENT": _reasoning,
        "REASONING_ENCRYPTED_VALUE": _encrypted,
        "STEP_STARTED": _step_started,
        "STEP_FINISHED": _step_finished,
        "TOOL_CALL_START": _call_start,
        "TOOL_CALL_ARGS": _call_args,
        "TOOL_CALL_END": _call_end,
        "TOOL_CALL_RESULT": _call_result,
        "CUSTOM": _custom,
        "RUN_FINISHED": _run_finished,
        "RUN_ERROR": _run_error,
    }


def replay_chunks(message: Mapping[str, Any]) -> list[UIChunk]:
    """Return the chunks that rebuild an AI SDK message, after its start."""
    metadata = message.get("metadata")
    made: list[UIChunk] = [{"type": "message-metadata", "messageMetadata": metadata}] if metadata else []
    in_step = False
    for at, part in enumerate(message["parts"]):
        if part["type"] == "step-start":
            made += [{"type": "finish-step"}] if in_step else []
            made.append({"type": "start-step"})
            in_step = True
        else:
            made += _replayed(part, f"earlier-{at + 1}")
    return [*made, *([{"type": "finish-step"}] if in_step else [])]


def _replayed(part: Mapping[str, Any], new_id: str) -> list[UIChunk]:
    kind = part["type"]
    if kind in ("text", "reasoning"):
        named = {"id": part.get("id", new_id)}
        delta = [{"type": f"{kind}-delta", **named, "delta": part["text"]}] if part["text"] else []
        more = {key: part[key] for key in ("providerMetadata",) if key in part}
        return [{"type": f"{kind}-start", **named}, *delta, {"type": f"{kind}-end", **named, **more}]
    if "toolCallId" in part and kind.startswith("tool-"):
        return _replayed_call(part)
    if kind == "file":
        return [{key: part[key] for key in ("type", "url", "mediaType")}]
    return [dict(part)] if kind.startswith(("data-", "source-")) else []


def _replayed_call(part: Mapping[str, Any]) -> list[UIChunk]:
    named = {"toolCallId": part["toolCallId"]}
    approval, state = part.get("approval"), part["state"]
    shared = {"toolName": part["type"].removeprefix("tool-")}
    shared |= {"toolMetadata": part["toolMetadata"]} if "toolMetadata" in part else {}
    made: list[UIChunk] = [{"type": "tool-input-available", **named, **shared, "input": part.get("input")}]
    # No chunk that both SDKs know says that a call was approved. One that is carried out must not ask again.
    if approval is not None and state != "approval-responded":
        made.append({"type": "tool-approval-request", **named, "approvalId": approval["id"]})
    if state == "output-available":
        made.append({"type": "tool-output-available", **named, "output": part["output"]})
    elif state == "output-error":
        made.append({"type": "tool-output-error", **named, "errorText": part["errorText"]})
    elif state == "output-denied":
        made.append({"type": "tool-output-denied", **named})
    return made
