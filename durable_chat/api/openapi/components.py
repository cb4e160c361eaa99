"""
The part of the OpenAPI description about the React components of CopilotKit and assistant-ui.
"""

from __future__ import annotations

from durable_chat.api.openapi.terms import (
    KEYS,
    PATH_ID,
    SSE,
    Json,
    errors,
    json_of,
    object_of,
    or_null,
    query,
    ref,
    text,
)

AGENT: Json = {
    "name": "agent",
    "in": "path",
    "required": True,
    "description": "The agent: `default`.",
    "schema": {"type": "string", "enum": ["default"]},
}

SCHEMAS: dict[str, Json] = {
    "AssistantState": object_of(
        {
            "messages": {
                "type": "array",
                "items": {"type": "object"},
                "description": "assistant-ui's `ThreadMessageLike`.",
            },
            "isRunning": {"type": "boolean"},
            "runId": or_null(text("The run that answers.")),
            "error": or_null({"type": "object", "description": "`message` and `code` of a failed run."}),
        },
        ["messages", "isRunning", "runId", "error"],
        "A session as assistant-ui shows it.",
    ),
    "Commands": object_of(
        {
            "threadId": text("The session id."),
            "commands": {
                "type": "array",
                "items": {"type": "object"},
                "maxItems": 128,
                "description": "`add-message` and `add-tool-result`. Without any, the running answer is followed.",
            },
            "tools": {"type": "object", "description": "The page's own tools, by name."},
            "data": {"type": "object", "description": "Passed to the model as `turn.data`."},
        },
        ["commands"],
        "What `useAssistantTransportRuntime` posts. Additional keys, such as `state`, are ignored.",
    ),
    "Envelope": object_of(
        {
            "method": {"type": "string", "enum": ["info", "agent/run", "agent/connect", "agent/stop"]},
            "params": {"type": "object", "description": "`agentId`, and to stop, `threadId`."},
            "body": {"type": "object", "description": "The body of the method's own route."},
        },
        ["method"],
        "What CopilotKit posts with `useSingleEndpoint`.",
    ),
}

PATHS: dict[str, Json] = {
    "/api/assistant-transport": {
        "get": {
            "operationId": "assistantState",
            "summary": "Return the state of a session for assistant-ui's transport.",
            "parameters": [query("threadId", "The session id. `id` is another name.", required=True)],
            "responses": {
                "200": json_of("While an answer runs, its text comes by a POST.", ref("AssistantState")),
                **errors(),
            },
        },
        "post": {
            "operationId": "sendCommands",
            "summary": "Send assistant-ui's commands, and receive the state until the answer has ended.",
            "parameters": [query("id", "The session id. Alternatively, send `threadId` in the body."), *KEYS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("Commands")}}},
            "responses": {
                "200": {"description": "Events `update-state` and `error`, then `[DONE]`.", "content": SSE},
                **errors(409, 413, 415),
            },
        },
    },
    "/api/copilotkit": {
        "post": {
            "operationId": "copilotkit",
            "summary": "Carry out a request of CopilotKit's single-endpoint transport.",
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("Envelope")}}},
            "responses": {
                "200": {
                    "description": "What the route of the method answers.",
                    "content": {"application/json": {"schema": {"type": "object"}}, **SSE},
                },
                **errors(404, 409, 413, 415),
            },
        },
    },
    "/api/copilotkit/info": {
        "get": {
            "operationId": "copilotkitInfo",
            "summary": "Return the agents for CopilotKit: one, named `default`.",
            "responses": {"200": json_of("The runtime.", {"type": "object"}), **errors()},
        },
    },
    "/api/copilotkit/agent/{agent}/run": {
        "post": {
            "operationId": "copilotkitRun",
            "summary": "Send a message as CopilotKit does, and receive the run.",
            "parameters": [AGENT, *KEYS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("Turn")}}},
            "responses": {"200": {"description": "AG-UI's events.", "content": SSE}, **errors(404, 409, 413, 415)},
        },
    },
    "/api/copilotkit/agent/{agent}/connect": {
        "post": {
            "operationId": "copilotkitConnect",
            "summary": "Receive the messages of a thread, then the answer that runs.",
            "parameters": [AGENT],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": object_of({"threadId": {"type": "string"}}, ["threadId"])}},
            },
            "responses": {
                "200": {"description": "AG-UI's events. None for an unknown thread.", "content": SSE},
                **errors(404, 413, 415),
            },
        },
    },
    "/api/copilotkit/agent/{agent}/stop/{id}": {
        "post": {
            "operationId": "copilotkitStop",
            "summary": "Stop a run of a thread, or all of them.",
            "parameters": [AGENT, PATH_ID],
            "requestBody": {
                "content": {"application/json": {"schema": object_of({"runId": text("The client's own id.")}, [])}},
            },
            "responses": {
                "200": json_of("Whether a run was stopped.", object_of({"stopped": {"type": "boolean"}}, ["stopped"])),
                **errors(404, 413, 415),
            },
        },
    },
}
