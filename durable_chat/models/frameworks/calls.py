"""
The chunks that all adapters yield: tool calls, thinking, approvals, subagents, usage and the end of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from durable_chat.transcripts.chunks import Chunk, InvalidChunk, decode_json, encode_json


def start(call_id: str, name: str) -> Chunk:
    return {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name}


def arguments(call_id: str, delta: str) -> Chunk:
    return {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": delta}


def end(call_id: str) -> Chunk:
    return {"type": "TOOL_CALL_END", "toolCallId": call_id}


def whole(call_id: str, name: str, given: Any) -> list[Chunk]:
    """Return the chunks of a complete call. `given` are its arguments: a JSON value, or JSON text."""
    return [start(call_id, name), arguments(call_id, as_text(given)), end(call_id)]


def result(call_id: str, content: Any, *, failed: bool = False) -> Chunk:
    chunk = {"type": "TOOL_CALL_RESULT", "toolCallId": call_id, "content": as_text(content)}
    return chunk | ({"metadata": {"tanstack": {"state": "output-error"}}} if failed else {})


def approval(call_id: str, name: str, given: Any) -> Chunk:
    """Return the chunk that asks a person whether a call may be executed."""
    try:
        asked = decode_json(given or "{}") if isinstance(given, str) else given
    except InvalidChunk:
        asked = {}
    value = {"toolCallId": call_id, "toolName": name, "input": asked}
    return {
        "type": "CUSTOM",
        "name": "approval-requested",
        "value": value | {"approval": {"id": f"approval_{call_id}", "needsApproval": True}},
    }


def thinking(delta: str) -> Chunk:
    return {"type": "REASONING_MESSAGE_CONTENT", "delta": delta}


def text(delta: str, message_id: str) -> Chunk:
    """Return text of a subagent, in its own message. The text of the answer itself is a str."""
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def of_subagent(chunks: Iterable[Chunk], run_id: str) -> list[Chunk]:
    return [chunk | {"subagentRunId": run_id} for chunk in chunks]


def finished(usage: list[dict[str, Any]]) -> Chunk:
    return {"type": "RUN_FINISHED", "finishReason": "stop", **({"usage": usage} if usage else {})}


def counts(model: Any, given: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Return AG-UI's counts of one model call. `names` maps its names to paths in `given`, an object or a dict."""
    found = {name: at(given, path) for name, path in names.items()}
    told = {name: count for name, count in found.items() if isinstance(count, int)}
    if "totalTokens" not in told and {"inputTokens", "outputTokens"} <= told.keys():
        told["totalTokens"] = told["inputTokens"] + told["outputTokens"]
    return {**({"model": model} if isinstance(model, str) and model else {}), **told} if told else {}


def at(value: Any, path: str) -> Any:
    """Return the value at a path of names separated by dots, in an object or a dict, or None."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def as_text(value: Any) -> str:
    """Return text as it is, and anything else as JSON or, if that fails, as Python prints it."""
    if isinstance(value, str):
        return str.__str__(value)  # some libraries have their own subclasses of str
    try:
        return encode_json(value).decode()
    except InvalidChunk:
        return str(value)
