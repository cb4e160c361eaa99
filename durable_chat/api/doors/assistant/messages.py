"""
Messages in assistant-ui's form: a transcript's messages as its `ThreadMessageLike`, and its user messages as
UIMessages.

A `ThreadMessageLike` needs no further conversion in the browser. A tool call and its result are one part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from durable_chat.errors import InvalidRequest
from durable_chat.transcripts.chunks import OURS, encode_json
from durable_chat.transcripts.file_names import name_of

Message = dict[str, Any]
Part = dict[str, Any]

_ENDS = {"stopped": "cancelled", "failed": "error", "interrupted": "error"}
"""The reasons of assistant-ui for the ends of a run that left an incomplete answer."""

_INLINE_KINDS = frozenset({"text", "image"})


def to_assistant_message(message: Mapping[str, Any]) -> Message:
    """Return a UIMessage of a transcript as assistant-ui shows it. Unknown parts become its `data` parts."""
    made: Message = {"id": message["id"], "role": message["role"], "content": content_of(message)}
    if made["role"] == "system":
        # assistant-ui accepts exactly one text in a system message.
        made["content"] = [{"type": "text", "text": "\n\n".join(map(_text, message["parts"]))}]
    custom: dict[str, Any] = {}
    if message.get("createdAt"):
        # Its own `createdAt` is a Date, which JSON does not have.
        custom["createdAt"] = message["createdAt"]
    if made["role"] == "assistant":
        interrupts = _interrupts(made["content"])
        status = {"type": "requires-action", "reason": "interrupt"} if interrupts else _incomplete(message)
        made |= {"status": status} if status else {}
        # Where its AG-UI runtime keeps the approvals that it can answer.
        custom |= {"agui": {"interrupts": interrupts}} if interrupts else {}
    return made | ({"metadata": {"custom": custom}} if custom else {})


def _interrupts(content: Sequence[Part]) -> list[Part]:
    """Return the approvals that a message waits for, as AG-UI's interrupts."""
    return [
        {"id": part["approval"].get("id"), "reason": "tool_call", "toolCallId": part["toolCallId"]}
        for part in content
        if "approval" in part and "approved" not in part["approval"] and "result" not in part
    ]


def _incomplete(message: Mapping[str, Any]) -> Part | None:
    """Return the status of an answer that was stopped or has failed."""
    metadata = message.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, Mapping) else None
    run = ours.get("run") if isinstance(ours, Mapping) else None
    reason = _ENDS.get(str(run.get("status"))) if isinstance(run, Mapping) else None
    if reason is None or not isinstance(run, Mapping):
        return None
    error = {"error": run["error"]} if isinstance(run.get("error"), str) else {}
    return {"type": "incomplete", "reason": reason, **error}


def content_of(message: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a UIMessage as assistant-ui's content parts, with results in their calls."""
    return [to_content_part(message, part) for part in message["parts"] if part.get("type") != "tool-result"]


def to_content_part(message: Mapping[str, Any], part: Mapping[str, Any]) -> Part:
    """Return one part, which is not the result of a tool."""
    kind = part.get("type")
    make = _MADE.get(kind) if isinstance(kind, str) else None
    if make is None:
        return {"type": "data", "name": str(kind), "data": dict(part)}
    made = make(part)
    return made | _outcome(message, part) if kind == "tool-call" else made


def _text(part: Mapping[str, Any]) -> str:
    content = part.get("content")
    return content if isinstance(content, str) else ""


def _call(part: Mapping[str, Any]) -> Part:
    arguments = part.get("arguments")
    made: Part = {
        "type": "tool-call",
        "toolCallId": part.get("id"),
        "toolName": part.get("name"),
        "argsText": arguments if isinstance(arguments, str) else "",
    }
    approval = part.get("approval")
    if isinstance(approval, Mapping):
        made["approval"] = {key: approval[key] for key in ("id", "approved") if key in approval}
    return made


def _outcome(message: Mapping[str, Any], call: Mapping[str, Any]) -> Part:
    """Return the output of a call. Without one it still waits, whatever its approval says."""
    if "output" in call:
        return {"result": call["output"], "isError": call.get("state") == "error"}
    results = (part for part in message["parts"] if part.get("type") == "tool-result")
    result = next((part for part in results if part.get("toolCallId") == call.get("id")), None)
    if result is None:
        return {}
    return {"result": result.get("content"), "isError": result.get("state") == "error"}


def _file(part: Mapping[str, Any]) -> Part:
    source = part.get("source")
    source = source if isinstance(source, Mapping) else {}
    media_type, value = str(source.get("mimeType") or "application/octet-stream"), str(source.get("value") or "")
    name = name_of(part)
    named = {"filename": name} if name else {}
    is_url = source.get("type") == "url"
    if part["type"] == "image":
        return {"type": "image", "image": value if is_url else f"data:{media_type};base64,{value}", **named}
    return {"type": "file", "data": value, "mimeType": media_type, **({"sourceType": "url"} if is_url else {}), **named}


def _structured(part: Mapping[str, Any]) -> Part:
    return {"type": "data", "name": "structured-output", "data": part.get("data", part.get("partial"))}


_MADE: Mapping[str, Callable[[Mapping[str, Any]], Part]] = {
    "text": lambda part: {"type": "text", "text": _text(part)},
    "thinking": lambda part: {"type": "reasoning", "text": _text(part)},
    "tool-call": _call,
    "structured-output": _structured,
    **dict.fromkeys(("image", "audio", "video", "document"), _file),
}


def to_posted_parts(parts: Any, path: str) -> list[Part]:
    """
    Return the parts of a posted user message as those of a UIMessage. assistant-ui posts texts, and images as `data:`
    or other URLs. Raises InvalidRequest with the path of what is wrong.
    """
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise InvalidRequest(f"`{path}` must be a list of parts.", code="bad_message")
    return [_posted_part(part, f"{path}[{at}]") for at, part in enumerate(parts)]


def _posted_part(part: Any, path: str) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _INLINE_KINDS:
        raise InvalidRequest(f"`{path}.type` must be text or image.", code="bad_message")
    value = part.get(kind)
    if not isinstance(value, str):
        raise InvalidRequest(f"`{path}.{kind}` must be a string.", code="bad_message")
    if kind == "text":
        return {"type": "text", "content": value}
    named = {"metadata": {"filename": part["filename"]}} if isinstance(part.get("filename"), str) else {}
    return {"type": "image", "source": {"type": "url", "value": value}, **named}


def to_tool_row(command: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a frontend tool as AG-UI posts it."""
    result = command.get("result")
    content = result if isinstance(result, str) else encode_json(result).decode()
    failed = {"error": content} if command.get("isError") is True else {}
    return {"role": "tool", "toolCallId": command.get("toolCallId"), "content": content, **failed}
