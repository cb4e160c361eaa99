"""
Convert the messages of a MESSAGES_SNAPSHOT, in AG-UI's or TanStack's form, to UIMessages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import normalize_time, tanstack_metadata
from durable_chat.transcripts.schemas import SHOWN_ROLES, readable_part

Message = dict[str, Any]
Part = dict[str, Any]

_CONTENT_PARTS = frozenset({"text", "image", "audio", "video", "document"})
_STRUCTURED_FIELDS = ("partial", "data", "reasoning", "errorMessage")
_KEPT_OF_CALL = ("state", "output", "approval", "metadata")
# Metadata that clients keep on the run and not on the chunk.
_NOT_RESTORED = frozenset({"usage", "interruptErrors"})
_OPEN_STATES = frozenset({"input-complete", "input-streaming", "awaiting-input"})


def snapshot_messages(messages: Iterable[Any], previous: Iterable[Message], new_id: Callable[[], str]) -> list[Message]:
    """
    Return the messages that a client has after the snapshot, given the `previous` messages. Reasoning messages are
    merged into their answer, and tool messages are placed beside their call. Details of known calls and messages that
    AG-UI's form omits are kept. Input messages may be anything; the returned ones satisfy the rules of `schemas`.
    """
    previous = list(previous)
    shaped = [to_ui_message(message, new_id) for message in messages if isinstance(message, Mapping)]
    merged = _merge_reasoning(shaped)
    known_calls = {part["id"]: part for message in previous for part in _calls(message)}
    anchored = _anchor_results(merged, known_calls)
    _complete_calls(anchored, known_calls)
    known = {message["id"]: message for message in previous}
    for message in anchored:
        kept = known.get(message["id"], {}).get("metadata")
        if message.get("metadata") is None and kept is not None:
            message["metadata"] = kept
    return anchored


def to_ui_message(message: Mapping[str, Any], new_id: Callable[[], str]) -> Message:
    """Convert one message of a snapshot. A role without a counterpart becomes an empty assistant message."""
    message_id = _id_of(message) or new_id()
    role = message.get("role")
    if "parts" in message:
        parts = message["parts"] if isinstance(message["parts"], list) else []
        role = role if isinstance(role, str) and role in SHOWN_ROLES else "assistant"
        return _with_metadata(message, {**message, "id": message_id, "role": role, "parts": parts})
    if role == "tool":
        message = _owned_tool_result(message)
        message_id = _id_of(message) or message_id
        return _with_metadata(message, _tool_message(message, message_id))
    shown = role if role in ("user", "system") else "system" if role == "developer" else "assistant"
    shape = _PARTS.get(role) if isinstance(role, str) else None
    parts = [] if shape is None else shape(message)
    return _with_metadata(message, {"id": message_id, "role": shown, "parts": parts})


def _id_of(message: Mapping[str, Any]) -> str | None:
    found = message.get("id")
    return found if isinstance(found, str) and found else None


def tanstack_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `tanstack` of the metadata in `value`, or of `value` itself if it is metadata."""
    nested = value.get("metadata")
    tanstack = (nested if isinstance(nested, Mapping) else value).get("tanstack")
    return tanstack if isinstance(tanstack, Mapping) else {}


def restored(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the chunk with the fields in `metadata.tanstack` copied to its top level, as clients do on arrival."""
    tanstack = tanstack_of(chunk) if "metadata" in chunk else {}
    more = {key: value for key, value in tanstack.items() if key not in chunk and key not in _NOT_RESTORED}
    return {**chunk, **more} if more else chunk


def _user_parts(message: Mapping[str, Any]) -> list[Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "content": content}] if content else []
    if not isinstance(content, list):
        return []
    parts = (part for part in content if isinstance(part, Mapping) and part.get("type") != "binary")
    return [
        {"type": "text", "content": part.get("text")} if part.get("type") == "text" else dict(part) for part in parts
    ]


def _system_parts(message: Mapping[str, Any]) -> list[Part]:
    return [{"type": "text", "content": message["content"]}] if message.get("content") else []


def _reasoning_parts(message: Mapping[str, Any]) -> list[Part]:
    content = message.get("content") if isinstance(message.get("content"), str) else ""
    signature = _encrypted_value(message)
    if not content and signature is None:
        return []
    return [{"type": "thinking", "content": content} | ({"signature": signature} if signature else {})]


def _encrypted_value(value: Mapping[str, Any]) -> str | None:
    for found in (value.get("encryptedValue"), tanstack_of(value).get("signature")):
        if isinstance(found, str) and found:
            return found
    return None


def _assistant_parts(message: Mapping[str, Any]) -> list[Part]:
    tanstack = tanstack_of(message)
    parts = _answer_parts(message.get("content"), _structured_part(tanstack.get("structuredOutput")))
    bags = tanstack.get("toolCallMetadata")
    calls = message.get("toolCalls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            call_id = call.get("id")
            bag = bags.get(call_id) if isinstance(bags, Mapping) and isinstance(call_id, str) else None
            parts.append(_call_part(call, function, call.get("metadata") if bag is None else bag))
    return parts


def _answer_parts(content: Any, structured: Part | None) -> list[Part]:
    """Return the text of an answer, or its structured output and the text before it."""
    if structured is not None:
        raw = structured["raw"]
        if not isinstance(content, str) or not content or content == raw:
            return [structured]
        text = content[: -len(raw)] if raw and content.endswith(raw) else content
        return ([{"type": "text", "content": text}] if text else []) + [structured]
    if isinstance(content, list):
        return [dict(part) for part in content if isinstance(part, Mapping)]
    return [{"type": "text", "content": content}] if isinstance(content, str) and content else []


def _structured_part(value: Any) -> Part | None:
    if not isinstance(value, Mapping) or value.get("status") not in ("streaming", "complete", "error"):
        return None
    if not isinstance(value.get("raw"), str):
        return None
    made: Part = {"type": "structured-output", "status": value["status"], "raw": value["raw"]}
    return made | {key: value[key] for key in _STRUCTURED_FIELDS if key in value and (key != "reasoning" or value[key])}


def _call_part(call: Mapping[str, Any], function: Mapping[str, Any], metadata: Any) -> Part:
    arguments = function.get("arguments")
    known, value = javascript.parse(arguments) if isinstance(arguments, str) else (False, None)
    made: Part = {
        "type": "tool-call",
        "id": call.get("id"),
        "name": function.get("name"),
        "arguments": arguments,
        "state": "input-complete",
    }
    made |= {"input": value} if known else {}
    return made | ({"metadata": metadata} if isinstance(metadata, Mapping) else {})


_PARTS: dict[str, Callable[[Mapping[str, Any]], list[Part]]] = {
    "user": _user_parts,
    "assistant": _assistant_parts,
    "system": _system_parts,
    "developer": _system_parts,
    "reasoning": _reasoning_parts,
}


def _owned_tool_result(message: Mapping[str, Any]) -> Message:
    """Return a tool message with the fields in `metadata.tanstack.toolResult` restored and that entry removed."""
    made = dict(message)
    owned = tanstack_metadata(message).get("toolResult")
    if not isinstance(owned, Mapping) or ("content" in owned and not _are_content_parts(owned["content"])):
        return made
    for key in ("id", "createdAt"):
        if key not in owned:
            made.pop(key, None)
        elif isinstance(owned[key], str) and (key == "id" or normalize_time(owned[key])):
            made[key] = owned[key]
    if "content" in owned:
        made["content"] = owned["content"]
    metadata = dict(message["metadata"])
    metadata["tanstack"] = {key: value for key, value in metadata["tanstack"].items() if key != "toolResult"}
    metadata = {key: value for key, value in metadata.items() if key != "tanstack" or value}
    made.pop("metadata")
    return made | ({"metadata": metadata} if metadata else {})


def _are_content_parts(value: Any) -> bool:
    """Whether the value is a list of content parts of a tool result, and not any other list."""
    return isinstance(value, list) and bool(value) and all(map(_is_content_part, value))


def _is_content_part(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _CONTENT_PARTS:
        return False
    if kind == "text":
        return isinstance(part.get("content"), str)
    source = part.get("source")
    if not isinstance(source, Mapping) or not isinstance(source.get("value"), str):
        return False
    return source.get("type") == "url" or (source.get("type") == "data" and isinstance(source.get("mimeType"), str))


def _tool_message(message: Mapping[str, Any], message_id: str) -> Message:
    """Convert a tool message to an assistant message that contains only the result."""
    content = message.get("content")
    created_at = normalize_time(message.get("createdAt")) or normalize_time(tanstack_of(message).get("createdAt"))
    times = {"createdAt": created_at} if created_at else {}
    made: Message = {"id": message_id, "role": "assistant", "parts": [], **times}
    if not message.get("toolCallId"):
        return made | {"parts": _answer_parts(content, None)}
    part: Part = {
        "type": "tool-result",
        "toolCallId": message["toolCallId"],
        "content": content if isinstance(content, str | list) else "",
        "state": "complete" if message.get("error") is None else "error",
    }
    part |= {key: message[key] for key in ("id", "name") if isinstance(message.get(key), str)}
    part |= {key: message[key] for key in ("metadata", "error") if message.get(key) is not None}
    return made | {"parts": [part | times]}


def _with_metadata(source: Mapping[str, Any], message: Message) -> Message:
    """
    Return the message with the source's name and metadata, normalized times, and the UI resources stored in metadata.
    Unreadable parts are replaced.
    """
    made = {**message, "parts": [_timed(readable_part(part)) for part in message["parts"]]}
    kinds = {"name": str, "metadata": Mapping}
    for key, kind in kinds.items():
        made.pop(key, None)
        if isinstance(source.get(key), kind):
            made[key] = source[key]
    metadata = made.get("metadata", {})
    created_at = normalize_time(made.pop("createdAt", None)) or normalize_time(tanstack_of(metadata).get("createdAt"))
    if created_at:
        made["createdAt"] = created_at
    resources = tanstack_of(metadata).get("uiResources")
    known = {_resource_key(part) for part in made["parts"] if _is_resource(part)}
    for resource in resources if isinstance(resources, list) else []:
        if _is_resource(resource) and _resource_key(resource) not in known:
            made["parts"].append(dict(resource))
    return made


def _timed(part: Mapping[str, Any]) -> Part:
    made = dict(part)
    if made.get("type") == "tool-result" and "createdAt" in made:
        created_at = normalize_time(made.pop("createdAt"))
        made |= {"createdAt": created_at} if created_at else {}
    return made


def _is_resource(part: Any) -> bool:
    if not isinstance(part, Mapping) or part.get("type") != "ui-resource":
        return False
    resource = part.get("resource")
    texts = (part.get("toolCallId"), part.get("toolName"))
    if not isinstance(resource, Mapping) or not all(isinstance(text, str) for text in texts):
        return False
    return isinstance(resource.get("uri"), str) and isinstance(resource.get("mimeType"), str)


def _resource_key(part: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return part["toolCallId"], part["toolName"], part["resource"]["uri"]


def _calls(message: Message) -> Iterable[Part]:
    return (part for part in message["parts"] if part.get("type") == "tool-call")


def _is_only(message: Message, *kinds: str) -> bool:
    parts = message["parts"]
    return message.get("role") == "assistant" and bool(parts) and all(part.get("type") in kinds for part in parts)


def _result_of(message: Message) -> Part | None:
    """Return the result if the message contains only one tool result (and its resources)."""
    results = [part for part in message["parts"] if part.get("type") == "tool-result"]
    return results[0] if len(results) == 1 and _is_only(message, "tool-result", "ui-resource") else None


def _merge_reasoning(messages: list[Message]) -> list[Message]:
    """Merge messages that contain only thinking into the answer that follows."""
    made: list[Message] = []
    waiting: list[Message] = []
    for message in messages:
        if _is_only(message, "thinking"):
            waiting.append(message)
            continue
        answer = message.get("role") == "assistant" and not (
            _is_only(message, "tool-result", "ui-resource")
            and any(part.get("type") == "tool-result" for part in message["parts"])
        )
        if waiting and answer:
            thinking = [part for held in waiting for part in held["parts"]]
            message = {**message, "parts": thinking + message["parts"]}
        else:
            made += waiting
        waiting = []
        made.append(message)
    return made + waiting


def _anchor_results(messages: list[Message], known_calls: Mapping[Any, Part]) -> list[Message]:
    """Move messages that contain only a tool result to their call. Restore a call that the snapshot left out."""
    there = {part["id"] for message in messages for part in _calls(message)}
    homes = _Homes()
    made: list[Message] = []
    for message in messages:
        result = _result_of(message)
        target = None if result is None else homes.of(result["toolCallId"])
        if result is None or target is None:
            made.append(message)
            homes.add(message)
            continue
        call_id = result["toolCallId"]
        if call_id not in there and call_id in known_calls:
            target["parts"].append(dict(known_calls[call_id]))
            there.add(call_id)
            homes.put(call_id, target)
        target["parts"].extend(message["parts"])
    return made


class _Homes:
    """
    Find the message for a tool result: the last message with its call, otherwise the last answer that contains more
    than a result. Mutable state: the messages by call, and the answers.
    """

    def __init__(self) -> None:
        self._calling: dict[str, Message] = {}
        self._answers: list[Message] = []

    def add(self, message: Message) -> None:
        """Add the next message."""
        for part in _calls(message):
            self.put(part["id"], message)
        if message.get("role") == "assistant":
            self._answers.append(message)

    def put(self, call_id: str, message: Message) -> None:
        """Record that a call is in this message."""
        self._calling[call_id] = message

    def of(self, call_id: str) -> Message | None:
        if call_id in self._calling:
            return self._calling[call_id]
        while self._answers and _is_lone_result(self._answers[-1]):  # it stays a lone result
            self._answers.pop()
        return self._answers[-1] if self._answers else None


def _is_lone_result(message: Message) -> bool:
    return len(message["parts"]) == 1 and message["parts"][0].get("type") == "tool-result"


def _complete_calls(messages: list[Message], known_calls: Mapping[Any, Part]) -> None:
    """Complete calls with what was known about them before and with their results."""
    results = {part["toolCallId"]: part for m in messages for part in m["parts"] if part.get("type") == "tool-result"}
    for message in messages:
        for part in _calls(message):
            before = known_calls.get(part["id"])
            if before is not None and _is_richer(before, part):
                part.update({key: before[key] for key in _KEPT_OF_CALL if key in before})
            result = results.get(part["id"])
            if result is not None and "output" not in part:
                part.update(_outcome(result))


def _is_richer(before: Part, part: Part) -> bool:
    done = "output" in before or before.get("state") in ("complete", "error")
    return done and ("output" not in part or part.get("state") in _OPEN_STATES)


def _outcome(result: Part) -> Part:
    content, failed = result.get("content"), result.get("state") == "error"
    known, value = javascript.parse(content) if isinstance(content, str) else (False, content)
    output = value if known else content
    error = result_error(output) if failed else ""
    if error:
        output = {"error": error}
    return {"output": output, "state": "error" if failed else "complete"}


def result_error(output: Any) -> str:
    """Return the error message of a failed tool."""
    if isinstance(output, Mapping) and isinstance(output.get("error"), str):
        return str(output["error"])
    return output if isinstance(output, str) else "Tool execution failed"
