"""
The part of the OpenAPI description about Vercel's AI SDK.
"""

from __future__ import annotations

from durable_chat.api.openapi.terms import (
    KEYS,
    LOCATED,
    NEXT_OFFSET,
    PATH_ID,
    RUN_HEADERS,
    SSE,
    Json,
    errors,
    json_of,
    object_of,
    query,
    ref,
    sent,
    text,
)

SCHEMAS: dict[str, Json] = {
    "AiSdkTurn": object_of(
        {
            "messages": {"type": "array", "items": {"type": "object"}, "description": "The AI SDK's UIMessages."},
            "id": text("The session id."),
            "trigger": {"type": "string", "enum": ["submit-message", "regenerate-message"]},
            "messageId": text("The message to edit, regenerate or continue."),
            "tools": {"type": "array", "items": {"type": "object"}, "description": "The client's own tools."},
        },
        ["messages"],
        "Additional keys are passed to the model as `turn.data`.",
    ),
    "RunStream": object_of({"streamUrl": text("The stream's address, as in `Location`.")}, ["streamUrl"]),
}

PATHS: dict[str, Json] = {
    "/api/ai-sdk": {
        "post": {
            "operationId": "sendFromAiSdk",
            "summary": "Send a message from the AI SDK's `DefaultChatTransport`, and receive the answer.",
            "parameters": [query("id", "The session id, if the body has no `id`."), *KEYS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("AiSdkTurn")}}},
            "responses": {
                "200": {
                    "description": "A UI message stream, version 1.",
                    "headers": {"X-Run-Id": RUN_HEADERS["X-Run-Id"]},
                    "content": SSE,
                },
                **errors(409, 413, 415),
            },
        },
    },
    "/api/ai-sdk/{id}/stream": {
        "get": {
            "operationId": "resumeFromAiSdk",
            "summary": "Receive the running answer from its beginning.",
            "parameters": [PATH_ID, query("runId", "Return this answer, even if it has ended meanwhile.")],
            "responses": {
                "200": {"description": "A UI message stream, version 1.", "content": SSE},
                "204": {"description": "No answer is running."},
                **errors(),
            },
        },
    },
    "/api/ai-sdk/{id}/messages": {
        "get": {
            "operationId": "messagesForAiSdk",
            "summary": "Return a session's messages as the AI SDK's UIMessages, without the answer that is running.",
            "parameters": [PATH_ID],
            "responses": {
                "200": json_of(
                    "An unknown session is empty.", ref("Snapshot"), {"ETag": sent("The value for If-None-Match.")}
                ),
                "304": {"description": "The content matches `If-None-Match`."},
                **errors(),
            },
        },
    },
    "/api/ai-sdk/{id}/stop": {
        "post": {
            "operationId": "stopFromAiSdk",
            "summary": "Stop the running answer and the waiting turns.",
            "parameters": [PATH_ID, query("runId", "Stop only this run.")],
            "responses": {"200": json_of("The runs that were stopped.", ref("Stopped")), **errors()},
        },
    },
    "/api/ai-sdk-durable": {
        "post": {
            "operationId": "sendFromDurableAiSdk",
            "summary": "Send a message from `createDurableChatTransport`.",
            "parameters": [query("id", "The session id, if the body has no `id`."), *KEYS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("AiSdkTurn")}}},
            "responses": {
                "201": json_of("The stream of the answer.", ref("RunStream"), LOCATED),
                **errors(409, 413, 415),
            },
        },
    },
    "/api/ai-sdk-durable/{id}/stream": {
        "get": {
            "operationId": "resumeFromDurableAiSdk",
            "summary": "Find the stream of the running answer.",
            "parameters": [
                PATH_ID,
                query("runId", "Find the stream of this answer, even if it has ended meanwhile. Requires `from`."),
                query("from", "The offset in the session before that answer, from `/api/ai-sdk/{id}/messages`."),
            ],
            "responses": {
                "200": json_of("The stream of the answer.", ref("RunStream"), LOCATED),
                "204": {"description": "No answer is running."},
                **errors(),
            },
        },
    },
    "/api/ai-sdk-durable/{id}/runs/{run}": {
        "get": {
            "operationId": "readRun",
            "summary": "Read an answer as a Durable Stream of UI message chunks, which is closed at its end.",
            "parameters": [
                PATH_ID,
                {
                    "name": "run",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string"},
                    "description": "The run.",
                },
                query("from", "Where the answer begins in the session."),
                query("whole", "`true` rebuilds the message that the answer continues."),
                query("continues", "The id of the message that the answer continues, in a client which has it."),
                query("offset", "An offset from an earlier response, `-1` for the beginning, or `now` for the end."),
                query("live", "Wait for new chunks.", schema={"type": "string", "enum": ["sse", "long-poll"]}),
                query("cursor", "The `Stream-Cursor` of the last long-poll response."),
            ],
            "responses": {
                "200": {
                    "description": "UI message chunks in order.",
                    "headers": NEXT_OFFSET,
                    "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}, **SSE},
                },
                "204": {"description": "The long-poll ended without new chunks.", "headers": NEXT_OFFSET},
                "304": {"description": "The content matches `If-None-Match`."},
                **errors(404),
            },
        },
    },
}
