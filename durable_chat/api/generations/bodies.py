"""
Bodies of generations: an input alone, or AG-UI's `RunAgentInput` with the input in `data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request

from durable_chat.api.bodies import check_size, check_utf8, read_parsed
from durable_chat.errors import InvalidRequest
from durable_chat.generations.adapters import Activity, parse_input
from durable_chat.generations.inputs import Input
from durable_chat.http.bodies import HeldBody
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.slots import new_slot, session_of_slot
from durable_chat.transcripts.chunks import MESSAGE_ID_CHARS_MAX, InvalidChunk, decode_json, is_id

OWN_KEYS: Mapping[Activity, tuple[str, ...]] = {
    "image": ("prompt",),
    "speech": ("text", "turns"),
    "transcription": ("audio",),
    "summary": ("text",),
    "video": ("prompt",),
}
"""The fields by one of which a body is an input alone. They win over an envelope's `data`, as in TanStack AI."""


@dataclass(frozen=True, slots=True)
class GenerationBody(Posted):
    """What a client of a generation posted. The slot has a name of its own if the client gave none."""

    activity: Activity = "image"
    input: Input | None = None
    slot: str = ""


async def read_generation(activity: Activity, request: Request, bytes_max: int, held: HeldBody) -> GenerationBody:
    """Read the body of a POST. Raises what `read_parsed` raises."""
    named = request.query_params.get("threadId") or None
    return await read_parsed(request, bytes_max, held, partial(parse_generation, activity, named))


def parse_generation(activity: Activity, named: str | None, body: bytes | bytearray) -> GenerationBody:
    """Check a whole body. `named` is the slot in the query. Raises InvalidRequest and TooLarge."""
    check_utf8(body)
    check_size(body)
    try:
        top = decode_json(bytes(body))
    except InvalidChunk as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error
    if not isinstance(top, dict):
        raise InvalidRequest("The body must be a JSON object.", code="bad_body")
    told, data = _input_of(activity, top)
    slot = _slot(named, top.get("threadId"))
    return GenerationBody(
        user=None,
        last_role="",
        data=data,
        session_ids=frozenset({session_of_slot(slot)}),
        run_id=_run_id(top.get("runId")),
        activity=activity,
        input=parse_input(activity, told),
        slot=slot,
    )


def _input_of(activity: Activity, top: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the input, and what else the application sent. Raises InvalidRequest."""
    if any(key in top for key in OWN_KEYS[activity]):
        return top, {}
    if "data" not in top:
        if "forwardedProps" in top:
            raise InvalidRequest("The body has no `data`. Send the input there.", code="missing_data")
        return top, {}
    data, props = top["data"], top.get("forwardedProps")
    if not isinstance(data, dict):
        raise InvalidRequest("`data` must be an object with the input.", code="bad_body")
    if not isinstance(props, dict | None):
        raise InvalidRequest("`forwardedProps` must be an object.", code="bad_body")
    return data, {}


def _slot(named: str | None, posted: Any) -> str:
    if posted is not None and not isinstance(posted, str):
        raise InvalidRequest("`threadId` must be a string.", code="bad_id")
    if named and posted and named != posted:
        raise InvalidRequest("The query and the body name two threads. Send one `threadId`.", code="bad_id")
    return named or posted or new_slot()


def _run_id(value: Any) -> str | None:
    if value is None:
        return None
    if is_id(value):
        return str(value)
    raise InvalidRequest(f"`runId` must be a string of 1 to {MESSAGE_ID_CHARS_MAX} characters.", code="bad_run_id")
