"""
The OpenAPI 3.1 description of `/api/*`, served at `/openapi.json` and rendered in the reference documentation.

It is written by hand, because the routes parse and answer by hand. A test compares it with the routes.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from durable_chat.api.openapi import ai_sdk, components, generations
from durable_chat.api.openapi.terms import (
    ID,
    KEYS,
    LAST_EVENT_ID,
    NDJSON,
    NEXT_OFFSET,
    RUN_HEADERS,
    SSE,
    Json,
    errors,
    json_of,
    object_of,
    or_null,
    query,
    ref,
    sent,
    text,
)

INFO = {
    "title": "durable-chat",
    "summary": "Durable, resumable, multi-device AI chat",
    "description": (
        "`POST /api/chat` responds at once. The model's answer is written to the session's stream, that all tabs read. "
        "An error response is JSON with a message for people and a stable code for programs."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}


MESSAGE_ID = query(
    "messageId", "The message's id.", required=True, schema={"type": "string", "minLength": 1, "maxLength": 256}
)

SCHEMAS: dict[str, Json] = {
    "Error": object_of(
        {"error": text("A message for people."), "code": text("A stable code for programs.")}, ["error", "code"]
    ),
    "Part": {
        "type": "object",
        "description": "A part of a message. Additional keys are kept.",
        "properties": {
            "type": text("text, thinking, tool-call, tool-result, image, audio, video, document, or another kind."),
        },
        "required": ["type"],
        "additionalProperties": True,
    },
    "Message": {
        "type": "object",
        "description": "A TanStack AI UIMessage. AG-UI messages, with `content` instead of `parts`, are accepted, too.",
        "properties": {
            "id": text("Unique in its session. Generated if missing.", minLength=1, maxLength=256),
            "role": text("The author's role.", examples=["user", "assistant"]),
            "parts": {"type": "array", "items": ref("Part")},
            "content": {"description": "A text, or a list of parts."},
            "metadata": {"type": "object"},
            "createdAt": text("The creation time.", format="date-time"),
        },
        "required": ["role"],
        "additionalProperties": True,
    },
    "Turn": object_of(
        {
            "messages": {"type": "array", "items": ref("Message"), "minItems": 1},
            "id": text("The session id, if the query has none."),
            "threadId": text("The session id, as AG-UI clients send it."),
            "runId": text("The request's idempotency key, if no header has one."),
            "data": {"type": "object", "description": "Passed to the model as `turn.data`."},
            "tools": {"type": "array", "items": {"type": "object"}, "description": "The client's own tools."},
            "context": {"type": "array", "items": {"type": "object"}, "description": "Sent by AG-UI clients."},
            "resume": {
                "type": "array",
                "items": {"type": "object"},
                "description": "Answers to interrupts, in AG-UI's format.",
            },
        },
        ["messages"],
        "The newest user message or the answers to tool calls at the end are used. Additional keys are ignored.",
    ),
    "Snapshot": object_of(
        {
            "messages": {"type": "array", "items": ref("Message")},
            "offset": text("The offset to continue reading from."),
            "activeRun": or_null(object_of({"runId": {"type": "string"}}, ["runId"])),
            "lastRun": or_null(ref("LastRun")),
            "interrupts": or_null(ref("Interrupts")),
            "contextSummary": {
                "type": "object",
                "description": "The summary that the model is given instead of the messages up to `upTo`, if there is one.",
            },
            "page": object_of(
                {"truncated": {"type": "boolean"}, "cursor": text("The value of `before` for the next older page.")},
                ["truncated"],
                "Only in `GET /api/chat`.",
            ),
        },
        ["messages", "offset", "activeRun", "lastRun", "interrupts"],
    ),
    "Interrupts": object_of(
        {
            "runId": text("The run that asked."),
            "pending": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": text("The `interruptId` of the answer in `resume`."),
                        "toolCallId": {"type": "string"},
                        "message": {"type": "string"},
                        "metadata": {"type": "object", "description": "`kind`, `toolName` and `input`."},
                    },
                    "required": ["id", "toolCallId"],
                    "additionalProperties": True,
                },
            },
        },
        ["runId", "pending"],
        "The approvals that the session waits for. Null while an answer runs.",
    ),
    "LastRun": object_of(
        {
            "runId": {"type": "string"},
            "status": {"type": "string", "enum": ["finished", "stopped", "failed", "interrupted"]},
            "finishReason": {"type": "string"},
            "error": text("A message that is safe to show to users."),
            "code": {"type": "string"},
        },
        ["runId", "status"],
        "How the last run ended.",
    ),
    "WaitingTurns": object_of({"turns": {"type": "array", "items": ref("WaitingTurn")}}, ["turns"]),
    "WaitingTurn": object_of(
        {
            "runId": {"type": "string"},
            "messageId": or_null({"type": "string"}),
            "message": or_null(ref("Message")),
            "turns": {"type": "string", "enum": ["queue", "steer"]},
        },
        ["runId", "messageId", "message", "turns"],
        "A turn that waits. `message` is null if it answers tool calls. With `steer`, the running answer hears it.",
    ),
    "TakenBack": object_of({"takenBack": {"type": "array", "items": text("The id of a run.")}}, ["takenBack"]),
    "SentNow": object_of(
        {"runId": {"type": "string"}, "turns": {"type": "string", "enum": ["steer", "interrupt"]}}, ["runId", "turns"]
    ),
    "Stopped": object_of({"stopped": {"type": "array", "items": text("The id of a run.")}}, ["stopped"]),
    "Chunk": {
        "type": "object",
        "description": "An AG-UI event, in TanStack AI's wire format.",
        "properties": {"type": {"type": "string"}},
        "required": ["type"],
        "additionalProperties": True,
    },
}


def _hydrate(operation: str, run: Json) -> Json:
    """Describe a GET of the chat, which returns the state of a session, or with `runId` a run as `run`."""
    state = json_of(
        "The session's state. An unknown session is empty. With `runId`: the run's chunks.", ref("Snapshot")
    )
    return {
        "operationId": operation,
        "summary": "Return what a client needs to show a session, or follow a run from its beginning.",
        "parameters": [
            query("threadId", "The session id. `id` is another name. Not required with `runId`."),
            query("limit", "Return the newest messages only, at most this many."),
            query("before", "Return the messages before this one: the `page.cursor` of an earlier response."),
            query("runId", "Follow this run: the server's id, or the client's own."),
            query("offset", "With `runId`: `-1` for the whole run, or the id of the last chunk that arrived."),
            LAST_EVENT_ID,
        ],
        "responses": {
            "200": {**state, "headers": {"ETag": sent("The value for If-None-Match.")}}
            | {"content": {**state["content"], **run}},
            "304": {"description": "The content matches `If-None-Match`."},
            **errors(404, 409, 410),
        },
    }


PATHS: dict[str, Json] = {
    "/api/chat": {
        "get": _hydrate("hydrate", SSE),
        "post": {
            "operationId": "send",
            "summary": "Send a message, regenerate, edit, or answer tool calls.",
            "parameters": [
                query("id", "The session id. Alternatively, send `id` or `threadId` in the body."),
                query(
                    "mode",
                    "`await` waits for the end of the answer.",
                    schema={"type": "string", "enum": ["immediate", "await"]},
                ),
                *KEYS,
                LAST_EVENT_ID,
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("Turn")}}},
            "responses": {
                "200": {
                    "description": "With `mode=await`: the answer has ended. For a `RunAgentInput`: the run's chunks.",
                    "headers": RUN_HEADERS,
                    "content": {**SSE, **NDJSON},
                },
                "202": {"description": "The user's message is durable and will be answered.", "headers": RUN_HEADERS},
                **errors(404, 409, 410, 413, 415, 502),
            },
        },
        "delete": {
            "operationId": "delete",
            "summary": "Delete a session with its runs, its stream and its files.",
            "parameters": [ID],
            "responses": {"204": {"description": "The session is deleted."}, **errors()},
        },
    },
    "/api/chat/ndjson": {
        "get": _hydrate("hydrateForNdjson", NDJSON),
        "post": {
            "operationId": "sendForNdjson",
            "summary": "Send a message, and receive the run as NDJSON.",
            "parameters": [
                query("id", "The session id. Alternatively, send `threadId` in the body."),
                *KEYS,
                LAST_EVENT_ID,
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("Turn")}}},
            "responses": {
                "200": {
                    "description": "The run's chunks, as TanStack AI's `fetchHttpStream` reads them.",
                    "headers": {"X-Run-Id": RUN_HEADERS["X-Run-Id"]},
                    "content": NDJSON,
                },
                **errors(404, 409, 410, 413, 415),
            },
        },
    },
    "/api/agui": {
        "post": {
            "operationId": "runAgent",
            "summary": "Run an AG-UI agent: send a `RunAgentInput`, and receive its events.",
            "parameters": [query("id", "The session id. Alternatively, send `threadId` in the body."), *KEYS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("Turn")}}},
            "responses": {
                "200": {
                    "description": "The events of the run. NDJSON if `Accept` contains `application/x-ndjson`.",
                    "headers": {"X-Run-Id": RUN_HEADERS["X-Run-Id"]},
                    "content": {**SSE, **NDJSON},
                },
                **errors(409, 413, 415),
            },
        },
    },
    "/api/chat-stream": {
        "get": {
            "operationId": "read",
            "summary": "Read a session's chunks: all as one snapshot, from an offset, or live.",
            "parameters": [
                ID,
                query("offset", "An offset from an earlier response, `-1` for the beginning, or `now` for the end."),
                query("live", "Wait for new chunks.", schema={"type": "string", "enum": ["sse", "long-poll"]}),
                query("cursor", "The `Stream-Cursor` of the last long-poll response."),
            ],
            "responses": {
                "200": {
                    "description": "Without `live` and `offset`: one MESSAGES_SNAPSHOT. Otherwise: chunks in order.",
                    "headers": NEXT_OFFSET,
                    "content": {"application/json": {"schema": {"type": "array", "items": ref("Chunk")}}, **SSE},
                },
                "204": {"description": "The long-poll ended without new chunks.", "headers": NEXT_OFFSET},
                "304": {"description": "The content matches `If-None-Match`."},
                **errors(),
            },
        },
    },
    "/api/events": {
        "get": {
            "operationId": "follow",
            "summary": "Follow many sessions over one SSE response.",
            "parameters": [
                {
                    **query("session", "An offset, a comma, and the session id. Repeat it for up to 200 sessions."),
                    "required": True,
                    "schema": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 200},
                    "style": "form",
                    "explode": True,
                }
            ],
            "responses": {
                "200": {"description": "Events `chunks`, `control` and `refusal`.", "content": SSE},
                **errors(),
            },
        },
        "post": {
            "operationId": "followPosted",
            "summary": "Follow up to 1,000 sessions over one SSE response. The body has the same pairs as the query of a GET.",
            "requestBody": {
                "required": True,
                "content": {
                    "application/x-www-form-urlencoded": {
                        "schema": {
                            "type": "object",
                            "required": ["session"],
                            "properties": {
                                "session": {
                                    "type": "array",
                                    "items": {"type": "string"},
                                    "minItems": 1,
                                    "maxItems": 1000,
                                }
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": {"description": "Events `chunks`, `control` and `refusal`.", "content": SSE},
                **errors(),
            },
        },
    },
    "/api/chat-snapshot": {
        "get": {
            "operationId": "snapshot",
            "summary": "Return a session's messages, and the offset to continue reading from.",
            "parameters": [ID],
            "responses": {
                "200": json_of(
                    "An unknown session is empty.", ref("Snapshot"), {"ETag": sent("The value for If-None-Match.")}
                ),
                "304": {"description": "The content matches `If-None-Match`."},
                **errors(),
            },
        },
    },
    "/api/chat-artifact": {
        "get": {
            "operationId": "artifact",
            "summary": "Return a file of a session's messages.",
            "parameters": [ID, query("artifact", "The file's id, from its URL in the message.", required=True)],
            "responses": {
                "200": {
                    "description": "The whole file.",
                    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
                },
                "206": {
                    "description": "A range of the file.",
                    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
                },
                "304": {"description": "The content matches `If-None-Match`."},
                **errors(404, 416),
            },
        },
    },
    "/api/chat-turns": {
        "get": {
            "operationId": "listWaitingTurns",
            "summary": "List the turns that wait, in the order in which they will begin.",
            "parameters": [ID],
            "responses": {"200": json_of("The turns that wait.", ref("WaitingTurns")), **errors()},
        },
        "post": {
            "operationId": "sendNow",
            "summary": "Make a waiting message the next one.",
            "parameters": [
                ID,
                MESSAGE_ID,
                query(
                    "turns",
                    "`steer` (default): the running answer hears the message at its next step. `interrupt`: it stops.",
                    schema={"type": "string", "enum": ["steer", "interrupt"]},
                ),
            ],
            "responses": {"200": json_of("The message is next.", ref("SentNow")), **errors(404, 409)},
        },
        "delete": {
            "operationId": "takeBack",
            "summary": "Take a waiting message back.",
            "parameters": [ID, MESSAGE_ID],
            "responses": {
                "200": json_of("The turns that were taken back. An unknown message is not an error.", ref("TakenBack")),
                **errors(409),
            },
        },
    },
    "/api/chat-stop": {
        "post": {
            "operationId": "stop",
            "summary": "Stop the running answer and the waiting turns.",
            "parameters": [ID, query("runId", "Stop only this run.")],
            "responses": {
                "200": json_of("The runs that were stopped. Stopping an ended run is not an error.", ref("Stopped")),
                **errors(),
            },
        },
    },
}


def description() -> dict[str, Any]:
    """Return the whole document."""
    bearer = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A session token."}
    return {
        "openapi": "3.1.0",
        "info": {**INFO, "version": version("durable-chat")},
        "paths": PATHS | ai_sdk.PATHS | components.PATHS | generations.PATHS,
        "components": {
            "schemas": SCHEMAS | ai_sdk.SCHEMAS | components.SCHEMAS | generations.SCHEMAS,
            "securitySchemes": {"token": bearer},
        },
        "security": [{}, {"token": []}],
    }


@cache
def encoded() -> bytes:
    return msgspec.json.encode(description())
