"""
The parts of messages as chunks change them. An update applies to all messages with the id, as in a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import string_at as _string
from durable_chat.transcripts.conversions import result_error
from durable_chat.transcripts.parts import Call, Messages, Part, Progress, Rope, Span, Streaming
from durable_chat.transcripts.schemas import readable_part


def show_thinking(messages: Messages, message_id: str, streaming: Streaming, step: str) -> None:
    rope, signature = streaming.steps[step], streaming.signatures.get(step)
    for message in messages.named(message_id):
        part: Part = {"type": "thinking", "content": Span(rope, rope.chars), "stepId": step}
        message.put(message.steps.get(step), part | ({"signature": signature} if signature else {}))


def show_call(
    messages: Messages, message_id: str, call_id: str, call: Call, metadata: Mapping[str, Any] | None, value: Any = None
) -> None:
    """Show the current state of the call. Approval, output, input and metadata stay unless there are new values."""
    for message in messages.named(message_id):
        before = message.calls.get(call_id, {})
        part: Part = {"type": "tool-call", "id": call_id, "name": call.name}
        part |= {"arguments": Span(call.arguments, call.arguments.chars), "state": call.state}
        part |= {key: before[key] for key in ("approval", "output") if key in before}
        news = {"input": value, "metadata": metadata}
        shown = {key: before.get(key) if new is None else new for key, new in news.items()}
        part |= {key: new for key, new in shown.items() if new is not None}
        messages.put_call(message, call_id, part)


def show_result(messages: Messages, message_id: str, call_id: str, content: Any, *, failed: bool) -> None:
    """Show the result of a call in this message, and the output wherever the call is."""
    known, value = javascript.parse(content) if isinstance(content, str) else (False, None)
    output = value if known else content
    for message in messages.calling(call_id):
        message.calls[call_id].update(output=output, state="error" if failed else "complete")
        message.shown = None
    state = "error" if failed else "complete"
    part: Part = {"type": "tool-result", "toolCallId": call_id, "content": content, "state": state}
    error = result_error(output) if failed else ""
    for message in messages.named(message_id):
        message.put(message.results.get(call_id), part | ({"error": error} if error else {}))


def request_approval(messages: Messages, message_id: str | None, call_id: str, approval_id: str | None) -> None:
    for message in messages.named(message_id):
        part = message.calls.get(call_id)
        if part is not None:
            approval = {"id": approval_id, "needsApproval": True}
            message.put(part, {**part, "state": "approval-requested", "approval": approval})


def add_resource(messages: Messages, message_id: str | None, value: Mapping[str, Any]) -> None:
    keys = ("resource", "toolCallId", "toolName", "serverId", "meta")
    part = {"type": "ui-resource"} | {key: value[key] for key in keys if key in value}
    for message in messages.named(message_id):
        message.add(dict(readable_part(part)))


def grow_structured(messages: Messages, message_id: str, delta: str) -> None:
    for message in messages.named(message_id):
        old = message.structured or {}
        raw, partial = old.get("raw"), old.get("partial")
        if not isinstance(raw, Rope):
            raw = Rope(raw if isinstance(raw, str) else "")
        if not isinstance(partial, Progress):
            partial = Progress(raw, partial, [])
        raw.append(delta)
        partial.ends.append(raw.chars)
        part: Part = {"type": "structured-output", "status": "streaming", "raw": raw, "partial": partial}
        part |= {"reasoning": old["reasoning"]} if "reasoning" in old else {}
        message.put(message.structured, part)


def complete_structured(messages: Messages, message_id: str, value: Mapping[str, Any]) -> None:
    data = value.get("object")
    for message in messages.named(message_id):
        before = (message.structured or {}).get("raw", "")
        raw = _string(value, "raw") or (before.text() if isinstance(before, Rope) else before)
        if not raw and "object" in value:
            raw = javascript.stringify(data)
        part: Part = {"type": "structured-output", "status": "complete", "raw": raw}
        part |= {"data": data, "partial": data} if "object" in value else {}
        part |= {"reasoning": value["reasoning"]} if isinstance(value.get("reasoning"), str) else {}
        message.put(message.structured, part)


def fail_structured(messages: Messages, message_id: str, error: str) -> None:
    for message in messages.named(message_id):
        old = message.structured or {"type": "structured-output", "raw": ""}
        if old.get("status") != "complete":
            message.put(message.structured, {**old, "status": "error", "errorMessage": error})
