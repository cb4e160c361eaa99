"""
The terms that the OpenAPI description is written in: schemas, parameters, responses and headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str, **more: Any) -> Json:
    return {"type": "string", "description": description, **more}


def object_of(properties: Json, required: list[str], description: str = "") -> Json:
    told = {"description": description} if description else {}
    return {"type": "object", **told, "properties": properties, "required": required}


def or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def query(name: str, description: str, *, required: bool = False, schema: Json | None = None) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def json_of(description: str, schema: Json, headers: Json | None = None) -> Json:
    told = {"headers": headers} if headers else {}
    return {"description": description, **told, "content": {"application/json": {"schema": schema}}}


def sent(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


ID = query("id", "The session id.", required=True, schema={"type": "string", "minLength": 1, "maxLength": 256})
RUN_HEADERS = {
    "X-Run-Id": sent("The id of the run that answers."),
    "Stream-Next-Offset": sent("The offset from which the user's message and the answer can be read."),
}
LOCATED = {"Location": sent("The stream's address."), "X-Run-Id": RUN_HEADERS["X-Run-Id"]}
NEXT_OFFSET = {"Stream-Next-Offset": sent("The offset to continue reading from.")}
ERROR = json_of("The error, as JSON.", ref("Error"))
SSE = {"text/event-stream": {"schema": {"type": "string"}}}
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}}}
KEYS = [
    header("Idempotency-Key", "Identifies the request. Requests with the same key run once within 24 hours."),
    header("X-Run-Id", "Like `Idempotency-Key`."),
    header("X-Api-Key", "The user's own provider API key, for this answer only."),
    query(
        "turns",
        "What to do while an answer is running. Default: what the settings say.",
        schema={"type": "string", "enum": ["queue", "steer", "refuse", "interrupt"]},
    ),
]
LAST_EVENT_ID = header(
    "Last-Event-ID", "The id of the last chunk of the run that arrived. Only the chunks after it follow."
)

PATH_ID = {**ID, "in": "path", "description": "The session id, percent-encoded."}


def errors(*statuses: int) -> dict[str, Json]:
    """Return the error responses of every route, and these."""
    return {str(status): ERROR for status in sorted({400, 401, 403, 429, 503, *statuses})}
