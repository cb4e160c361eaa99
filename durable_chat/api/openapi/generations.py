"""
The part of the OpenAPI description about generations.
"""

from __future__ import annotations

from durable_chat.api.openapi.terms import (
    KEYS,
    LAST_EVENT_ID,
    NDJSON,
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

SLOT = query("threadId", "The slot: the application's name for what the generations fill.", required=True)

SCHEMAS: dict[str, Json] = {
    "GenerationState": object_of(
        {
            "resumeSnapshot": or_null(
                {"type": "object", "description": "`schemaVersion`, `status`, `resumeState`, `result` and `error`."}
            ),
            "activeRun": or_null({"type": "object", "description": "`runId` of the generation that runs."}),
        },
        ["resumeSnapshot", "activeRun"],
        "The last generation of a slot, as TanStack AI's hooks restore it. Both are null for an unused slot.",
    ),
    "VideoJobState": object_of(
        {
            "jobId": text("The provider's id of the job."),
            "status": {"type": "string", "enum": ["pending", "processing", "completed", "failed"]},
            "progress": {"type": "number", "description": "0 to 100."},
            "url": text("The address of the video, at this server."),
            "expiresAt": text("Until when the address holds, if it expires."),
            "error": text("Why the job failed."),
        },
        ["jobId", "status"],
    ),
}

_INPUTS = {
    "image": "`{prompt, numberOfImages?, size?, modelOptions?}`",
    "speech": "`{text | turns, voice?, format?, speed?, modelOptions?}`",
    "transcription": "`{audio, language?, prompt?, responseFormat?, modelOptions?}`. `audio` is base64 or a `data:` URL",
    "summary": "`{text, maxLength?, style?, focus?, modelOptions?}`",
    "video": "`{prompt, size?, duration?, modelOptions?}`",
}

_FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}


def _follow(activity: str, suffix: str, stream: Json) -> Json:
    name = f"{activity.capitalize()}{suffix}"
    return {
        "get": {
            "operationId": f"restore{name}",
            "summary": "Return the last generation of a slot, or join one that runs.",
            "parameters": [
                query("threadId", "The slot."),
                query("runId", "Join this run. Requires `offset`."),
                query("offset", "`-1` for the whole run, or the id of a chunk."),
                LAST_EVENT_ID,
            ],
            "responses": {
                "200": {
                    "description": "The state of the slot as JSON, or with `runId` the chunks of the run.",
                    "content": {"application/json": {"schema": ref("GenerationState")}, **stream},
                },
                **errors(404, 409),
            },
        },
    }


def _generate(activity: str, suffix: str, stream: Json) -> Json:
    name = f"{activity.capitalize()}{suffix}"
    return {
        "post": {
            "operationId": f"generate{name}",
            "summary": f"Generate: {activity}. The input is {_INPUTS[activity]}, alone or in `data` of a RunAgentInput.",
            "parameters": [query("threadId", "The slot, if the body has no `threadId`."), *KEYS, LAST_EVENT_ID],
            "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
            "responses": {
                "200": {
                    "description": "The chunks of the run, or with `Accept: application/json` the result.",
                    "headers": {"X-Run-Id": RUN_HEADERS["X-Run-Id"]},
                    "content": {**stream, "application/json": {"schema": {"type": "object"}}},
                },
                "202": json_of("The result is not there within the server's limit.", {"type": "object"}),
                "502": json_of("The generation failed.", ref("Error")),
                **errors(404, 409, 413, 415),
            },
        },
    }


def _of_activity(activity: str) -> dict[str, Json]:
    path = f"/api/generate/{activity}"
    return {
        path: {**_follow(activity, "", SSE), **_generate(activity, "", SSE)},
        f"{path}/ndjson": {**_follow(activity, "Ndjson", NDJSON), **_generate(activity, "Ndjson", NDJSON)},
    }


PATHS: dict[str, Json] = {
    "/api/generate": _follow("generation", "", SSE),
    **{path: operations for activity in _INPUTS for path, operations in _of_activity(activity).items()},
    "/api/generate/video/{job_id}": {
        "get": {
            "operationId": "videoJob",
            "summary": "Return the state of a video job.",
            "parameters": [
                {
                    "name": "job_id",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string"},
                    "description": "The provider's id of the job.",
                },
                query("threadId", "The slot. Not needed on the server that ordered the job, while it runs."),
            ],
            "responses": {"200": json_of("The job.", ref("VideoJobState")), **errors(404)},
        },
    },
    "/api/generate/artifact": {
        "get": {
            "operationId": "generatedFile",
            "summary": "Return a file of a result.",
            "parameters": [SLOT, query("artifact", "The file's id, from its address.", required=True)],
            "responses": {
                "200": {"description": "The whole file.", "content": _FILE},
                "206": {"description": "A range of the file.", "content": _FILE},
                "304": {"description": "The content matches `If-None-Match`.", "headers": {"ETag": sent("The id.")}},
                **errors(404, 416),
            },
        },
    },
    "/api/generate/stop": {
        "post": {
            "operationId": "stopGeneration",
            "summary": "Stop a generation, and cancel its video job at the provider if that is possible.",
            "parameters": [
                query("threadId", "The slot. Without it, `runId` is required."),
                query("runId", "Stop only this run."),
            ],
            "responses": {"200": json_of("The runs that were stopped.", ref("Stopped")), **errors(404)},
        },
    },
}
