"""
Convert between the messages of a session (TanStack's UIMessages) and the UIMessages of Vercel's AI SDK. No I/O.

An answer of the AI SDK is one message with steps. A session has one message for each step. So the assistant's messages
between two of a user become one message, with the id of the first, and each of them is a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from durable_chat.transcripts import javascript
from durable_chat.transcripts.attachments import MEDIA_KINDS, split_data_url
from durable_chat.transcripts.chunks import OURS, encode_json
from durable_chat.transcripts.conversions import result_error
from durable_chat.transcripts.file_names import name_of
from durable_chat.transcripts.schemas import part_problem
from durable_chat.transcripts.tool_answers import DENIED_RESULT

Message = dict[str, Any]
Part = dict[str, Any]

STEP: Part = {"type": "step-start"}

STRUCTURED, RESOURCE = "data-structured-output", "data-ui-resource"
"""The data parts that stand for what only TanStack's messages have."""

_STRUCTURED_FIELDS = ("status", "raw", "data", "reasoning", "errorMessage")
RESOURCE_FIELDS = ("resource", "toolCallId", "toolName", "serverId", "meta")
_OF_DATA: Mapping[str, tuple[Part, Sequence[str]]] = {
    STRUCTURED: ({"type": "structured-output", "status": "complete", "raw": ""}, _STRUCTURED_FIELDS),
    RESOURCE: ({"type": "ui-resource"}, RESOURCE_FIELDS),
}
_SERVERS = frozenset({OURS, "tanstack"})
"""The metadata of the log's own writers."""
_SHARED = ("data-", "source-url", "source-document", "custom", "reasoning-file", "steering-message")
"""The beginnings of the part types that a session keeps as the AI SDK sends them."""
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
DONE = frozenset({"output-available", "output-error", "output-denied"})
"""The states of a call that is over."""
_OPEN_STATES = frozenset({"awaiting-input", "input-streaming"})


# From a session to the AI SDK.


def to_ai_sdk_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """
    Return a session's messages as UIMessages of the AI SDK 6 and 7, for `useChat({messages})`.

    An answer that ends with the results of tools gets an empty step at its end. Otherwise
    `lastAssistantMessageIsCompleteWithToolCalls` would send them again.
    """
    made: list[Message] = []
    steps: list[Sequence[Part]] = []
    for message in messages:
        role = _ROLES.get(message.get("role", ""))
        if role is None:
            continue
        if role != "assistant":
            _end_answer(made, steps)
            made.append(_shown(message, role, user_parts(message["parts"])))
            continue
        parts = answer_parts(message)
        if steps:
            made[-1] = _merged(made[-1], message, parts)
        else:
            made.append(_shown(message, role, [STEP, *parts]))
        steps.append(parts)
    _end_answer(made, steps)
    return made


def latest_answers(messages: Sequence[Mapping[str, Any]]) -> Iterator[Message]:
    """Yield a session's answers as messages of the AI SDK, the newest first. Only what is taken is converted."""
    steps: list[Mapping[str, Any]] = []
    for message in reversed(messages):
        if message.get("role") == "assistant":
            steps.append(message)
        elif steps and message.get("role") in _ROLES:
            yield from to_ai_sdk_messages(reversed(steps))
            steps = []
    yield from to_ai_sdk_messages(reversed(steps))


def last_answer(messages: Sequence[Mapping[str, Any]]) -> Message | None:
    """Return the answer at the end of a session, or None if the last message is not the assistant's."""
    is_answered = bool(messages) and messages[-1].get("role") == "assistant"
    return next(latest_answers(messages), None) if is_answered else None


def _end_answer(made: list[Message], steps: list[Sequence[Part]]) -> None:
    if steps and is_settled(steps[-1]):
        made[-1]["parts"].append(STEP)
    steps.clear()


def _merged(answer: Message, message: Mapping[str, Any], parts: Sequence[Part]) -> Message:
    metadata = {**answer.get("metadata", {}), **own_metadata(message.get("metadata"))}
    merged = {**answer, "parts": [*answer["parts"], STEP, *parts]}
    return merged | ({"metadata": metadata} if metadata else {})


def _shown(message: Mapping[str, Any], role: str, parts: list[Part]) -> Message:
    metadata = own_metadata(message.get("metadata"))
    return {"id": message["id"], "role": role, **({"metadata": metadata} if metadata else {}), "parts": parts}


def is_settled(step: Sequence[Part]) -> bool:
    """Whether a step has tool calls, and none of them waits for anything."""
    calls = [part for part in step if "toolCallId" in part and "state" in part]
    return bool(calls) and all(call["state"] in DONE for call in calls)


def own_metadata(metadata: Any) -> dict[str, Any]:
    """Return the metadata that the application or its client set."""
    if not isinstance(metadata, Mapping):
        return {}
    return {key: value for key, value in metadata.items() if key not in _SERVERS}


def user_parts(parts: Iterable[Mapping[str, Any]]) -> list[Part]:
    return [made for part in parts if (made := _simple_part(part)) is not None]


def answer_parts(message: Mapping[str, Any]) -> list[Part]:
    """Return the parts of one assistant's message, without the beginning of the step."""
    parts = message["parts"]
    results = {part["toolCallId"]: part for part in parts if part.get("type") == "tool-result"}
    made = [_answer_part(part, results, message["id"]) for part in parts]
    return [part for part in made if part is not None]


def _answer_part(part: Mapping[str, Any], results: Mapping[Any, Mapping[str, Any]], message_id: str) -> Part | None:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": _text(part), "state": "done"}
    if kind == "thinking":
        return _reasoning(part)
    if kind == "tool-call":
        return _tool_part(part, results.get(part["id"]))
    if kind == "structured-output":
        return {"type": STRUCTURED, "id": message_id, "data": structured_data(part)}
    if kind == "ui-resource":
        return {"type": RESOURCE, "data": {key: part[key] for key in RESOURCE_FIELDS if key in part}}
    return _simple_part(part)


def _simple_part(part: Mapping[str, Any]) -> Part | None:
    kind = str(part.get("type"))
    if kind == "text":
        return {"type": "text", "text": _text(part)}
    if kind in MEDIA_KINDS:
        return _file_part(part)
    return dict(part) if kind.startswith(_SHARED) else None


def _text(part: Mapping[str, Any]) -> str:
    content = part.get("content")
    return content if isinstance(content, str) else str(part.get("text") or "")


def _reasoning(part: Mapping[str, Any]) -> Part:
    made: Part = {"type": "reasoning", "text": part["content"], "state": "done"}
    made |= {"id": part["stepId"]} if "stepId" in part else {}
    return made | signed(part.get("signature"))


def signed(signature: Any) -> Part:
    """Return what carries the signature of a thought in the AI SDK."""
    return {"providerMetadata": {"anthropic": {"signature": signature}}} if signature else {}


def structured_data(part: Mapping[str, Any]) -> Part:
    return {key: part[key] for key in _STRUCTURED_FIELDS if key in part}


def _file_part(part: Mapping[str, Any]) -> Part:
    source = part["source"]
    value, media_type = source.get("value") or "", source.get("mimeType") or _guessed_type(part["type"])
    url = f"data:{media_type};base64,{value}" if source.get("type") == "data" else value
    name = name_of(part)
    return {"type": "file", "mediaType": media_type, "url": url} | ({"filename": name} if name else {})


def _guessed_type(kind: str) -> str:
    return "application/octet-stream" if kind == "document" else f"{kind}/*"


def _tool_part(call: Mapping[str, Any], result: Mapping[str, Any] | None) -> Part:
    made: Part = {"type": f"tool-{call.get('name') or ''}", "toolCallId": call["id"]}
    made |= {"toolMetadata": dict(call["metadata"])} if call.get("metadata") else {}
    approval = call.get("approval")
    if isinstance(approval, Mapping):
        kept = {key: approval[key] for key in ("id", "approved", "reason") if approval.get(key) is not None}
        made["approval"] = {"id": "", **kept}
    outcome = _outcome(call, result)
    if outcome is not None:
        return made | {"input": _input_of(call)} | outcome
    state = call.get("state")
    if state in _OPEN_STATES:
        raw = call.get("arguments") or ""
        value = javascript.parse_partial(raw)
        return made | {"state": "input-streaming"} | ({"input": value, "rawInput": raw} if raw else {})
    waits = state in ("approval-requested", "approval-responded")
    return made | {"state": state if waits else "input-available", "input": _input_of(call)}


def _outcome(call: Mapping[str, Any], result: Mapping[str, Any] | None) -> Part | None:
    """Return the state of a call that has ended, or None."""
    if result is None and "output" not in call and call.get("state") not in ("complete", "error"):
        return None
    if result is not None and result.get("content") == DENIED_RESULT and result.get("state") == "error":
        return {"state": "output-denied"}
    output = call["output"] if "output" in call else read_output((result or {}).get("content"))
    if call.get("state") == "error" or (result or {}).get("state") == "error":
        return {"state": "output-error", "errorText": result_error(output)}
    return {"state": "output-available", "output": output}


def read_output(content: Any) -> Any:
    """Return the value of a result: JSON in a string, or the text itself."""
    known, value = javascript.parse(content) if isinstance(content, str) else (False, None)
    return value if known else content


def _input_of(call: Mapping[str, Any]) -> Any:
    return call["input"] if "input" in call else read_input(call.get("arguments") or "")


def read_input(arguments: str) -> Any:
    """Return the input of a call. Arguments that are not JSON stay text."""
    known, value = javascript.parse(arguments)
    return value if known else arguments or {}


# From the AI SDK to a session.


def from_ai_sdk_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """
    Return UIMessages of the AI SDK as messages of a session: each step is a message. The inverse of
    `to_ai_sdk_messages`, except for the ids of later steps and the metadata that only this server sets.
    """
    return [made for message in messages for made in from_ai_sdk_message(message)]


def from_ai_sdk_message(message: Mapping[str, Any]) -> Iterator[Message]:
    metadata = message.get("metadata")
    told = {"metadata": dict(metadata)} if isinstance(metadata, Mapping) else {}
    shared = {"role": message.get("role"), **told}
    message_id = {"id": message["id"]} if message.get("id") is not None else {}
    if message.get("role") != "assistant":
        yield {**message_id, **shared, "parts": [made for part in message["parts"] for made in _kept_parts(part)]}
        return
    for at, step in enumerate(_steps(message["parts"])):
        step_id = {"id": f"{message['id']}-step-{at + 1}"} if message_id and at else message_id
        yield {**step_id, **shared, "parts": [made for part in step for made in _kept_parts(part)]}


def _steps(parts: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the parts of each step that has any, or one step without parts."""
    steps: list[list[Mapping[str, Any]]] = [[]]
    for part in parts:
        if part.get("type") == "step-start":
            steps.append([])
        else:
            steps[-1].append(part)
    return [step for step in steps if step] or [[]]


def _kept_parts(part: Mapping[str, Any]) -> Iterator[Part]:
    kind = str(part.get("type"))
    if kind == "text":
        yield {"type": "text", "content": part.get("text", part.get("content"))}
    elif kind == "reasoning":
        yield _thinking(part)
    elif kind == "file":
        yield _media_part(part)
    elif kind in _OF_DATA and isinstance(part.get("data"), Mapping):
        made, names = _OF_DATA[kind]
        made = made | {key: part["data"][key] for key in names if key in part["data"]}
        yield made if part_problem(made) is None else dict(part)
    elif kind == "dynamic-tool" or kind.startswith("tool-"):
        yield from _call_parts(part)
    elif kind != "step-start":
        yield dict(part)


def _thinking(part: Mapping[str, Any]) -> Part:
    made: Part = {"type": "thinking", "content": part.get("text")}
    made |= {"stepId": part["id"]} if isinstance(part.get("id"), str) else {}
    metadata = part.get("providerMetadata")
    providers = metadata.values() if isinstance(metadata, Mapping) else ()
    signatures = (each.get("signature") for each in providers if isinstance(each, Mapping))
    signature = next((found for found in signatures if isinstance(found, str)), None)
    return made | ({"signature": signature} if signature else {})


def _media_part(part: Mapping[str, Any]) -> Part:
    url, media_type = part.get("url"), part.get("mediaType")
    family = media_type.partition("/")[0] if isinstance(media_type, str) else ""
    kind = family if family in MEDIA_KINDS else "document"
    source: Part = {"type": "url", "value": url}
    if isinstance(url, str) and url[:5].lower() == "data:":
        own_type, data = split_data_url(url)
        source = {"type": "data", "value": data}
        is_whole = isinstance(media_type, str) and "/" in media_type and not media_type.endswith("/*")
        media_type = media_type if is_whole else own_type
    source |= {"mimeType": media_type} if isinstance(media_type, str) and not media_type.endswith("/*") else {}
    name = part.get("filename")
    return {"type": kind, "source": source} | ({"metadata": {"filename": name}} if isinstance(name, str) else {})


_STATES = {
    "input-streaming": "input-streaming",
    "input-available": "input-complete",
    "approval-requested": "approval-requested",
    "approval-responded": "approval-responded",
    "output-available": "complete",
    "output-error": "error",
    "output-denied": "error",
}


def _call_parts(part: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the call of a tool part, and its result."""
    kind, state, call_id = str(part["type"]), part.get("state"), part.get("toolCallId")
    call: Part = {
        "type": "tool-call",
        "id": call_id,
        "name": part.get("toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-"),
        "arguments": _arguments(part),
        "state": _STATES.get(str(state), "input-complete"),
    }
    call |= {"input": part["input"]} if part.get("input") is not None and state != "input-streaming" else {}
    call |= {"metadata": dict(part["toolMetadata"])} if isinstance(part.get("toolMetadata"), Mapping) else {}
    if isinstance(approval := part.get("approval"), Mapping):
        call["approval"] = {"needsApproval": True, **approval}
        call["approval"] |= {"approved": False} if state == "output-denied" else {}
    result: Part = {"type": "tool-result", "toolCallId": call_id, "state": "complete"}
    if state == "output-available":
        output = part.get("output")
        yield call | {"output": output}
        is_text = isinstance(output, str) and read_output(output) == output
        yield result | {"content": output if is_text else _json(output)}
    elif state in ("output-error", "output-denied"):
        text = str(part.get("errorText") or "The tool failed.")
        content = DENIED_RESULT if state == "output-denied" else _json({"error": text})
        yield call | {"output": read_output(content)}
        yield result | {"content": content, "state": "error", "error": result_error(read_output(content))}
    else:
        yield call


def _arguments(part: Mapping[str, Any]) -> str:
    if part.get("state") == "input-streaming":
        raw = part.get("rawInput")
        return raw if isinstance(raw, str) else ""
    value = part.get("input", part.get("rawInput"))
    return value if isinstance(value, str) else _json({} if value is None else value)


def _json(value: Any) -> str:
    return encode_json(value).decode()
