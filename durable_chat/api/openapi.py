"""
The OpenAPI 3.1 description of `/api/*`, served at `/openapi.json` and rendered in the reference of the documentation.

Written by hand: what routes take and give is decided by hand as well, and a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

Json = Mapping[str, Any]

INFO = {
    "title": "durable-chat",
    "summary": "Durable, resumable, multi-device AI chat",
    "description": (
        "`POST /api/chat` answers at once. The model's answer is written into the session's stream, which every tab reads. "
        "An error is JSON with a sentence for a person and a stable code."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str, **more: Any) -> Json:
    return {"type": "string", "description": description, **more}


def _object(properties: Json, required: list[str], description: str = "") -> Json:
    told = {"description": description} if description else {}
    return {"type": "object", **told, "properties": properties, "required": required}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


SCHEMAS: Json = {
    "Error": _object(
        {"error": _text("A sentence for a person."), "code": _text("A stable name for programs.")}, ["error", "code"]
    ),
    "Part": {
        "type": "object",
        "description": "A part of a message; further keys are kept.",
        "properties": {
            "type": _text("text, thinking, tool-call, tool-result, image, audio, video, document, or another kind."),
        },
        "required": ["type"],
        "additionalProperties": True,
    },
    "Message": {
        "type": "object",
        "description": "A UIMessage of TanStack AI. AG-UI's messages with `content` in place of `parts` are taken as well.",
        "properties": {
            "id": _text("Unique in its session. One is made where it is missing.", minLength=1, maxLength=256),
            "role": _text("Who speaks.", examples=["user", "assistant"]),
            "parts": {"type": "array", "items": _ref("Part")},
            "content": {"description": "A text, or a list of parts."},
            "metadata": {"type": "object"},
            "createdAt": _text("When it was written.", format="date-time"),
        },
        "required": ["role"],
        "additionalProperties": True,
    },
    "Turn": _object(
        {
            "messages": {"type": "array", "items": _ref("Message"), "minItems": 1},
            "id": _text("The session, where the query does not name it."),
            "threadId": _text("The same, as AG-UI clients name it."),
            "runId": _text("The request's key, where no header gives one."),
            "data": {"type": "object", "description": "For the model, as `turn.data`."},
            "tools": {"type": "array", "items": {"type": "object"}, "description": "The client's own tools."},
            "resume": {
                "type": "array",
                "items": {"type": "object"},
                "description": "Answers to interrupts, as AG-UI has them.",
            },
        },
        ["messages"],
        "The newest user message counts, or the answers to tool calls at the end. Further keys are ignored.",
    ),
    "Snapshot": _object(
        {
            "messages": {"type": "array", "items": _ref("Message")},
            "offset": _text("Where to read on from."),
            "activeRun": _or_null(_object({"runId": {"type": "string"}}, ["runId"])),
            "lastRun": _or_null(_ref("LastRun")),
        },
        ["messages", "offset", "activeRun", "lastRun"],
    ),
    "LastRun": _object(
        {
            "runId": {"type": "string"},
            "status": {"type": "string", "enum": ["finished", "stopped", "failed", "interrupted"]},
            "finishReason": {"type": "string"},
            "error": _text("A sentence that is safe to show."),
            "code": {"type": "string"},
        },
        ["runId", "status"],
        "How the last run ended.",
    ),
    "Stopped": _object({"stopped": {"type": "array", "items": _text("The id of a run.")}}, ["stopped"]),
    "Chunk": {
        "type": "object",
        "description": "An AG-UI event, as TanStack AI sends it.",
        "properties": {"type": {"type": "string"}},
        "required": ["type"],
        "additionalProperties": True,
    },
}


def _query(name: str, description: str, *, required: bool = False, schema: Json | None = None) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def _header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _json(description: str, schema: Json, headers: Json | None = None) -> Json:
    told = {"headers": headers} if headers else {}
    return {"description": description, **told, "content": {"application/json": {"schema": schema}}}


def _sent(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


ID = _query("id", "The session.", required=True, schema={"type": "string", "minLength": 1, "maxLength": 256})
RUN_HEADERS = {
    "X-Run-Id": _sent("The run that answers."),
    "Stream-Next-Offset": _sent("From here the user's message and the answer can be read."),
}
NEXT_OFFSET = {"Stream-Next-Offset": _sent("Where to read on from.")}
ERROR = _json("What is wrong, as JSON.", _ref("Error"))
SSE = {"text/event-stream": {"schema": {"type": "string"}}}


def _errors(*statuses: int) -> dict[str, Json]:
    """What every route may answer, and these."""
    return {str(status): ERROR for status in sorted({400, 401, 403, 429, 503, *statuses})}


PATHS: Json = {
    "/api/chat": {
        "post": {
            "operationId": "send",
            "summary": "Send a message, regenerate, edit, or answer tool calls.",
            "parameters": [
                _query("id", "The session; or `id` or `threadId` in the body."),
                _query("mode", "`await` waits for the end.", schema={"type": "string", "enum": ["immediate", "await"]}),
                _header("Idempotency-Key", "Names the request: the same key is carried out once, for 24 hours."),
                _header("X-Run-Id", "The same; the run gets this id where it is free."),
                _header("X-Api-Key", "The user's own key for the provider, for this answer only."),
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Turn")}}},
            "responses": {
                "200": {"description": "With `mode=await`: the answer has ended.", "headers": RUN_HEADERS},
                "202": {"description": "The user's message is durable, and is being answered.", "headers": RUN_HEADERS},
                **_errors(409, 413, 415, 502),
            },
        },
        "delete": {
            "operationId": "delete",
            "summary": "Delete a session: its runs, its stream, its files.",
            "parameters": [ID],
            "responses": {"204": {"description": "It is gone."}, **_errors()},
        },
    },
    "/api/chat-stream": {
        "get": {
            "operationId": "read",
            "summary": "Read a session's chunks: all of them as one snapshot, from an offset, or live.",
            "parameters": [
                ID,
                _query("offset", "An offset given out before, `-1` for the beginning, `now` for the end."),
                _query("live", "Wait for what comes.", schema={"type": "string", "enum": ["sse", "long-poll"]}),
                _query("cursor", "What the last long-poll gave as `Stream-Cursor`."),
            ],
            "responses": {
                "200": {
                    "description": "Without `live` and `offset` one MESSAGES_SNAPSHOT, else chunks in order.",
                    "headers": NEXT_OFFSET,
                    "content": {"application/json": {"schema": {"type": "array", "items": _ref("Chunk")}}, **SSE},
                },
                "204": {"description": "The long-poll ended without news.", "headers": NEXT_OFFSET},
                "304": {"description": "It is what `If-None-Match` names."},
                **_errors(),
            },
        },
    },
    "/api/events": {
        "get": {
            "operationId": "follow",
            "summary": "Follow many sessions over one SSE response.",
            "parameters": [
                {
                    **_query(
                        "session", "An offset, a comma, the session's id; once for each session, 200 at the most."
                    ),
                    "required": True,
                    "schema": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 200},
                    "style": "form",
                    "explode": True,
                }
            ],
            "responses": {
                "200": {"description": "Events `chunks`, `control` and `refusal`.", "content": SSE},
                **_errors(),
            },
        },
    },
    "/api/chat-snapshot": {
        "get": {
            "operationId": "snapshot",
            "summary": "A session's messages, and the offset to read on from.",
            "parameters": [ID],
            "responses": {
                "200": _json(
                    "An unknown session is an empty one.", _ref("Snapshot"), {"ETag": _sent("For If-None-Match.")}
                ),
                "304": {"description": "It is what `If-None-Match` names."},
                **_errors(),
            },
        },
    },
    "/api/chat-artifact": {
        "get": {
            "operationId": "artifact",
            "summary": "A file of a session's messages.",
            "parameters": [ID, _query("artifact", "The file, as the message's address names it.", required=True)],
            "responses": {
                "200": {
                    "description": "The file.",
                    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
                },
                "206": {
                    "description": "A range of it.",
                    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
                },
                "304": {"description": "It is what `If-None-Match` names."},
                **_errors(404, 416),
            },
        },
    },
    "/api/chat-stop": {
        "post": {
            "operationId": "stop",
            "summary": "Stop the answer, and the turns that wait.",
            "parameters": [ID, _query("runId", "Only this run.")],
            "responses": {"200": _json("Stopping what has ended is no error.", _ref("Stopped")), **_errors()},
        },
    },
}


def description() -> dict[str, Any]:
    """The whole document."""
    bearer = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A token of the session."}
    return {
        "openapi": "3.1.0",
        "info": {**INFO, "version": version("durable-chat")},
        "paths": PATHS,
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": bearer}},
        "security": [{}, {"token": []}],
    }


@cache
def encoded() -> bytes:
    return msgspec.json.encode(description())
