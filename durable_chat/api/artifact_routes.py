"""
The response to a read of an artifact: the whole file or a range, with headers that keep browsers from running it.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from durable_chat.api.catch_up import READ_HEADERS
from durable_chat.errors import NotFound
from durable_chat.http.errors import json_error
from durable_chat.http.headers import etag_matches
from durable_chat.http.ranges import Unsatisfiable, parse_range
from durable_chat.protocol.messages import normalize_content_type
from durable_chat.sessions.artifacts import SHOWN_TYPES, Artifacts, Found
from durable_chat.transcripts.attachments import check_artifact_id
from durable_chat.transcripts.file_names import clean_name, disposition

GUARDED = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
"""These headers keep a user's file from running anything with the rights of this origin."""


async def artifact_response(artifacts: Artifacts, path: str, request: Request) -> Response:
    """Return the response to a GET or HEAD of an artifact of the session at `path`. Raises NotFound."""
    artifact_id = check_artifact_id(request.query_params.get("artifact"))
    if artifact_id is None:
        raise NotFound("This chat has no such file.", code="no_artifact")
    etag = f'"{artifact_id}"'
    headers = {**READ_HEADERS, **GUARDED, "ETag": etag, "Accept-Ranges": "bytes"}
    if etag_matches(request.headers.get("if-none-match"), etag):
        await artifacts.check(path, artifact_id)
        return Response(status_code=304, headers=headers)
    found = await artifacts.find(path, artifact_id)
    headers |= _content_headers(found, artifact_id, clean_name(request.query_params.get("name")))
    try:
        wanted = parse_range(_range_of(request, etag), found.size)
    except Unsatisfiable:
        refused = {**READ_HEADERS, **GUARDED, "Content-Range": f"bytes */{found.size}"}
        return json_error(416, "bad_range", "The requested range begins after the end of the file.", refused)
    if wanted is None:
        return _send(artifacts, found, (0, found.size), request, 200, headers)
    start, stop = wanted
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    return _send(artifacts, found, wanted, request, 206, headers)


def _range_of(request: Request, etag: str) -> str | None:
    """Return the requested range. With `If-Range`, return it only if the client has a part of the same file."""
    condition = request.headers.get("if-range")
    if request.method != "GET" or (condition is not None and condition.strip() != etag):
        return None
    return request.headers.get("range")


def _send(
    artifacts: Artifacts, found: Found, wanted: tuple[int, int], request: Request, status: int, headers: dict[str, str]
) -> Response:
    headers["Content-Length"] = str(wanted[1] - wanted[0])
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(artifacts.read(found, *wanted), status_code=status, headers=headers)


def _content_headers(found: Found, artifact_id: str, name: str | None) -> Mapping[str, str]:
    """The headers for the file's type and name, and whether browsers display or download it."""
    kind = normalize_content_type(found.media_type)
    headers = {"Content-Type": found.media_type}
    if kind not in SHOWN_TYPES:
        headers["Content-Disposition"] = disposition("attachment", name or _file_name(kind, artifact_id))
    elif name:
        headers["Content-Disposition"] = disposition("inline", name)
    return headers


def _file_name(kind: str, artifact_id: str) -> str:
    return f"{artifact_id[:12]}{mimetypes.guess_extension(kind) or '.bin'}"
