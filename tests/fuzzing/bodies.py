"""
Request bodies: chats and chunks as clients send them, the same with values replaced, arbitrary JSON, and invalid
JSON.
"""

from __future__ import annotations

import json
import random
from typing import Any

from tests.fuzzing.values import MESSAGE_TEXTS, arbitrary, costly, damaged, encode, mutated, scalar

COSTLY_SHARE = 0.015
"""Of the bodies: they take long to send, and a parser that is quadratic is found by few."""

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def chat_body(rng: random.Random, session_id: str | None) -> bytes:
    """A body of POST /api/chat."""
    kind = rng.random()
    if kind < COSTLY_SHARE:
        return costly(rng)
    if kind < 0.08:
        return encode(rng, arbitrary(rng))
    value = _posted(rng)
    if session_id is not None:
        value[rng.choice(("id", "threadId"))] = session_id
    if kind < 0.13:
        return damaged(rng, encode(rng, value))
    if kind < 0.65:
        value = mutated(rng, value, rng.choice((1, 1, 1, 2, 3)))
    return encode(rng, value)


def run_body(rng: random.Random, session_id: str) -> bytes:
    """A body of POST /api/agui: AG-UI's `RunAgentInput`."""
    named = {"threadId": session_id, "runId": f"r{rng.randrange(1_000_000)}"}
    sent: dict[str, Any] = {"tools": [], "context": [], "state": None, "forwardedProps": {}}
    return _door_body(rng, {**sent, **_posted(rng), **named})


_CALL: dict[str, Any] = {"type": "tool-look", "toolCallId": "@CALL@", "input": {"a": 1}}
AI_SDK_PARTS: list[dict[str, Any]] = [
    {"type": "step-start"},
    {"type": "text", "text": "a", "state": "done"},
    {"type": "reasoning", "text": "a", "id": "s1", "providerMetadata": {"anthropic": {"signature": "x"}}},
    {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{PICTURE}", "filename": "a.png"},
    {"type": "data-a", "id": "d1", "data": {"b": None}},
    {"type": "data-structured-output", "data": {"raw": "{}", "status": "complete"}},
    {"type": "source-url", "sourceId": "s", "url": "https://example.com"},
    {"type": "dynamic-tool", "toolName": "look", "toolCallId": "c1", "state": "input-streaming", "rawInput": "{"},
    {**_CALL, "state": "output-available", "output": [1]},
    {**_CALL, "state": "output-error", "errorText": "no"},
    {**_CALL, "state": "approval-responded", "approval": {"id": "approval_@CALL@", "approved": True}},
]


def ai_sdk_body(rng: random.Random, session_id: str) -> bytes:
    """A body of the AI SDK's transports."""
    trigger = rng.choice(("submit-message", "submit-message", "regenerate-message"))
    message = {"id": _id(rng), "role": "user", "parts": [{"type": "text", "text": rng.choice(MESSAGE_TEXTS)}]}
    history = [{"id": "@MESSAGE@", "role": "assistant", "parts": rng.sample(AI_SDK_PARTS, rng.randrange(1, 5))}]
    messages = [*(history if rng.random() < 0.3 else []), message]
    return _door_body(rng, {"id": session_id, "messages": messages, "trigger": trigger, "messageId": _id(rng)})


def envelope_body(rng: random.Random, session_id: str) -> bytes:
    """A body of CopilotKit's single route."""
    method = rng.choice(("agent/run", "agent/run", "agent/connect", "agent/stop", "info", "x"))
    params = {"agentId": rng.choice(("default", "default", "x")), "threadId": session_id}
    try:
        body = json.loads(run_body(rng, session_id))
    except (ValueError, RecursionError):
        body = {}
    return _door_body(rng, {"method": method, "params": params, "body": body})


def commands_body(rng: random.Random, session_id: str) -> bytes:
    """A body of assistant-ui's transport."""
    parts = [{"type": "text", "text": rng.choice(MESSAGE_TEXTS)}]
    message = {"type": "add-message", "message": {"id": _id(rng), "role": "user", "parts": parts}}
    result = {"type": "add-tool-result", "toolCallId": _call_id(rng), "toolName": "look", "result": {"a": None}}
    commands = rng.choice(([message], [message], [result], [message, result], []))
    return _door_body(rng, {"threadId": session_id, "commands": commands, "state": None})


def generation_body(rng: random.Random, session_id: str) -> bytes:
    """A body of the routes of generations: a bare input, or one in an envelope."""
    asked: dict[str, Any] = {rng.choice(("prompt", "text", "audio", "texts", "x")): rng.choice(MESSAGE_TEXTS)}
    if rng.random() < 0.5:
        asked[rng.choice(("size", "seconds", "voice", "format", "count"))] = rng.choice(("1024x1024", 4, "x", None, -1))
    if rng.random() < 0.3:
        asked = {"threadId": session_id, "runId": f"r{rng.randrange(1_000_000)}", "messages": [], "data": asked}
    return _door_body(rng, asked)


def _door_body(rng: random.Random, value: dict[str, Any]) -> bytes:
    kind = rng.random()
    if kind < 0.1:
        return chat_body(rng, None)
    return encode(rng, mutated(rng, value, rng.choice((1, 1, 2))) if kind < 0.5 else value)


def _posted(rng: random.Random) -> dict[str, Any]:
    count = rng.choice((1, 1, 1, 2, 3, 5))
    messages = [_message(rng) for _ in range(count - 1)]
    messages.append(_user(rng) if rng.random() < 0.75 else _message(rng))
    optional = {
        "data": {"a": 1},
        "state": rng.choice(({}, {"x": [1, None]}, None, [], "x")),
        "tools": [{"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}],
        "context": [{"description": "d", "value": "v"}],
        "forwardedProps": {"command": {"resume": True}},
        "resume": [{"interruptId": "approval_@CALL@", "status": "resolved", "payload": {"approved": True}}],
        "runId": rng.choice(("@RUN@", "run-1")),
        "protocolVersion": "1.0",
    }
    return {"messages": messages} | {name: given for name, given in optional.items() if rng.random() < 0.12}


def _id(rng: random.Random) -> str:
    return rng.choice((f"m{rng.randrange(4)}", f"m{rng.randrange(10_000)}", "@MESSAGE@"))


def _call_id(rng: random.Random) -> str:
    return rng.choice(("c0", "c1", "@CALL@", "@CALL@"))


def _user(rng: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"id": _id(rng), "role": "user"}
    text = rng.choice(MESSAGE_TEXTS)
    if rng.random() < 0.25:
        message["content"] = text
        return message
    parts: list[dict[str, Any]] = [{"type": "text", "content": text}]
    if rng.random() < 0.15:
        parts.append(_file(rng))
    message["parts"] = parts
    if rng.random() < 0.2:
        message |= {"metadata": {"a": {"b": 1}}, "createdAt": "2026-01-02T03:04:05Z"}
    return message


def _file(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(("image", "audio", "video", "document"))
    data = PICTURE * rng.choice((1, 1, 2000))
    sources: tuple[dict[str, Any], ...] = (
        {"type": "data", "value": data, "mimeType": "image/png"},
        {"type": "url", "value": "https://host.example/x.png"},
        {"type": "url", "value": "/api/chat-artifact?id=x&artifact=@ARTIFACT@"},
        {"type": "file", "value": "f"},
    )
    return {"type": kind, "source": rng.choice(sources)}


def _message(rng: random.Random) -> dict[str, Any]:
    kind = rng.random()
    if kind < 0.3:
        return _user(rng)
    if kind < 0.45:
        return {"id": _id(rng), "role": "tool", "toolCallId": _call_id(rng), "content": '{"approved": true}'}
    if kind < 0.5:
        return {"id": _id(rng), "role": rng.choice(("system", "developer", "reasoning")), "content": "x"}
    if kind < 0.6:
        function = {"name": "look", "arguments": "{}"}
        calls = [{"id": _call_id(rng), "type": "function", "function": function}]
        return {"id": _id(rng), "role": "assistant", "content": "x", "toolCalls": calls}
    parts = [_part(rng) for _ in range(rng.choice((0, 1, 2, 4)))]
    return {"id": _id(rng), "role": "assistant", "parts": parts, "metadata": {"tanstack": {"model": "x"}}}


def _part(rng: random.Random) -> dict[str, Any]:
    approval = {"id": "@APPROVAL@", "needsApproval": True, "approved": rng.choice((True, False))}
    states = ("awaiting-input", "input-complete", "approval-requested", "approval-responded", "complete", "error")
    call: dict[str, Any] = {
        "type": "tool-call",
        "id": _call_id(rng),
        "name": rng.choice(("look", "save_note")),
        "arguments": "{}",
        "state": rng.choice(states),
    }
    if rng.random() < 0.5:
        call["approval"] = approval
    if rng.random() < 0.3:
        call["output"] = scalar(rng)
    return rng.choice(
        (
            {"type": "text", "content": "hello"},
            call,
            call,
            {"type": "tool-result", "toolCallId": _call_id(rng), "content": "1", "state": "complete"},
            {"type": "thinking", "content": "hm", "signature": "s", "stepId": "x"},
            {"type": "structured-output", "status": "complete", "raw": "{}", "data": {}},
            {"type": "ui-resource", "resource": {"uri": "ui://x"}},
        )
    )


def stream_body(rng: random.Random) -> bytes:
    """Return the body of an append to a session's stream, usually chunks."""
    kind = rng.random()
    if kind < COSTLY_SHARE:
        return costly(rng)
    if kind < 0.1:
        return encode(rng, arbitrary(rng))
    made: Any = [chunk(rng) for _ in range(rng.choice((1, 1, 2, 4, 8)))]
    if kind < 0.13:
        return damaged(rng, encode(rng, made))
    if kind < 0.7:
        made = mutated(rng, made, rng.choice((1, 1, 2, 3)))
    alone = isinstance(made, list) and made and rng.random() < 0.1
    return encode(rng, made[0] if alone else made)


def chunk(rng: random.Random) -> dict[str, Any]:
    """Return any known chunk, with ids from small sets so that chunks share ids."""
    message, call, run = _id(rng), _call_id(rng), rng.choice(("r1", "r2", "@RUN@"))
    resource = {"resource": {"uri": "ui://a"}, "toolCallId": call}
    approval = {"toolCallId": call, "toolName": "look", "input": {}, "approval": {"id": "a", "needsApproval": True}}
    interrupt = {"id": f"approval_{call}", "reason": "tool_call", "toolCallId": call, "metadata": {"kind": "approval"}}
    fields: dict[str, dict[str, Any]] = {
        "RUN_STARTED": {"threadId": "t", "runId": run},
        "RUN_FINISHED": {"threadId": "t", "runId": run, "metadata": {"tanstack": {"finishReason": "stop"}}},
        "RUN_ERROR": {"message": "bad", "runId": run, "code": "x"},
        "TEXT_MESSAGE_START": {"messageId": message, "role": rng.choice(("user", "assistant"))},
        "TEXT_MESSAGE_CONTENT": {"messageId": message, "delta": "hello"},
        "TEXT_MESSAGE_END": {"messageId": message},
        "TEXT_MESSAGE_CHUNK": {"messageId": message, "delta": "hello"},
        "TOOL_CALL_START": {"toolCallId": call, "toolCallName": "look", "parentMessageId": message},
        "TOOL_CALL_ARGS": {"toolCallId": call, "delta": '{"a":'},
        "TOOL_CALL_END": {"toolCallId": call, "input": {"a": 1}},
        "TOOL_CALL_RESULT": {"messageId": message, "toolCallId": call, "content": "1"},
        "REASONING_MESSAGE_START": {"messageId": message, "role": "reasoning"},
        "REASONING_MESSAGE_CONTENT": {"messageId": message, "delta": "hm"},
        "REASONING_ENCRYPTED_VALUE": {"subtype": "message", "entityId": message, "encryptedValue": "x"},
        "STEP_STARTED": {"stepName": "s"},
        "STEP_FINISHED": {"stepName": "s", "metadata": {"tanstack": {"signature": "x", "stepId": "s"}}},
        "STATE_SNAPSHOT": {"snapshot": {"a": 1}},
        "STATE_DELTA": {"delta": [{"op": "replace", "path": "/a", "value": None}]},
        "RAW": {"event": {"a": 1}, "source": "x"},
    }
    customs: dict[str, Any] = {
        "structured-output.start": {"messageId": message},
        "structured-output.complete": {"object": {"a": 1}, "raw": "{}", "messageId": message},
        "tool-input-available": {"toolCallId": call, "toolName": "look", "input": {}},
        "approval-requested": approval,
        "ui-resource": resource,
        "durable-chat.turn-queued": {"runId": run, "message": _user(rng)},
        "run.accepted": {},
    }
    kind = rng.choice((*fields, "CUSTOM", "CUSTOM", "MESSAGES_SNAPSHOT", "MESSAGES_SNAPSHOT", "NO_SUCH_TYPE"))
    made: dict[str, Any] = {"type": kind, "timestamp": 1_763_700_000_000, **fields.get(kind, {})}
    if kind == "CUSTOM":
        made["name"] = rng.choice([*customs])
        made["value"] = customs[made["name"]]
    elif kind == "MESSAGES_SNAPSHOT":
        made["messages"] = [_message(rng) for _ in range(rng.choice((0, 1, 3)))]
    elif kind == "RUN_FINISHED" and rng.random() < 0.3:
        made["outcome"] = {"type": "interrupt", "interrupts": [interrupt]}
    return made
