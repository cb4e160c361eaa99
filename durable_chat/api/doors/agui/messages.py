"""Messages of a session in AG-UI's shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from durable_chat.transcripts.chunks import encode_json

_MEDIA = frozenset({"image", "audio", "video", "document"})


def to_agui_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return UIMessages in AG-UI's shape: the thinking of an answer is a message before it, and the results of its tool
    calls are messages after it. The ids are those that a client has seen in the events of the runs.
    """
    return [row for message in messages for row in _rows(message)]


def _rows(message: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    parts = [part for part in message.get("parts") or () if isinstance(part, Mapping)]
    if message.get("role") != "assistant":
        yield {"id": message["id"], "role": message.get("role", "user"), "content": _content(parts)}
        return
    thought = "".join(str(part.get("content") or "") for part in parts if part.get("type") == "thinking")
    if thought:
        step = next((part["stepId"] for part in parts if part.get("stepId")), f"{message['id']}-reasoning")
        yield {"id": step, "role": "reasoning", "content": thought}
    yield _answer(message["id"], parts)
    yield from _results(parts)


def _answer(message_id: str, parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": message_id, "role": "assistant"}
    text = "".join(str(part.get("content") or "") for part in parts if part.get("type") == "text")
    calls = [_call(part) for part in parts if part.get("type") == "tool-call"]
    if text or not calls:
        answer["content"] = text
    return answer | ({"toolCalls": calls} if calls else {})


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": str(part.get("name")), "arguments": part.get("arguments") or "{}"}
    return {"id": part["id"], "type": "function", "function": function}


def _results(parts: list[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for part in parts:
        if part.get("type") != "tool-result":
            continue
        content = part.get("content")
        text = content if isinstance(content, str) else encode_json(content).decode()
        row = {"id": f"tool-{part['toolCallId']}", "role": "tool", "toolCallId": part["toolCallId"], "content": text}
        yield row | ({"error": str(part["error"])} if part.get("error") else {})


def _content(parts: list[Mapping[str, Any]]) -> Any:
    """Return a text, or a list of parts if there are files."""
    if not any(part.get("type") in _MEDIA for part in parts):
        return "".join(str(part.get("content") or "") for part in parts if part.get("type") == "text")
    return [made for part in parts if (made := _input(part)) is not None]


def _input(part: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part.get("content") or ""}
    return {"type": kind, "source": part["source"]} if kind in _MEDIA and "source" in part else None
