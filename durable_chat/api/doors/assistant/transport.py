"""
assistant-ui's transport (`useAssistantTransportRuntime`): commands in, operations on the state of the session out.

    GET  /api/assistant-transport?threadId=T      the state, for the first picture of a page
    POST /api/assistant-transport                 {"threadId", "commands": [...]}: the state until the answer has ended

A POST without commands changes nothing. It follows the answer that runs, as the runtime's resume expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.bodies import check_size, check_utf8, decode_top, read_parsed, session_ids_of
from durable_chat.api.catch_up import READ_HEADERS, made_of
from durable_chat.api.doors.assistant.messages import to_posted_parts, to_tool_row
from durable_chat.api.doors.assistant.state import StateWire, state_of
from durable_chat.api.doors.hydrate import named_session
from durable_chat.api.doors.run_responses import HEADERS, Doors
from durable_chat.errors import InvalidRequest
from durable_chat.http.bodies import HeldBody
from durable_chat.models.tools import TOOLS_MAX, posted_specs
from durable_chat.protocol.messages import JSON
from durable_chat.sessions.running.posted import Posted, to_ui_message
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.session import SessionSnapshot
from durable_chat.transcripts.schemas import check_messages
from durable_chat.transcripts.tool_answers import answers_in

PATH = "/api/assistant-transport"

COMMANDS_MAX = 128
"""The maximum number of commands in a body. A page sends one, or the results of all tools that an answer called."""

_MESSAGE, _RESULT = "add-message", "add-tool-result"


class _Body(msgspec.Struct):
    """The top level of a body. The copy of the state that the client posts is not read: the log is the truth."""

    commands: Any = None
    id: Any = None
    thread_id: Any = msgspec.field(name="threadId", default=None)
    tools: Any = None
    data: Any = None
    messages: msgspec.Raw = msgspec.Raw(b"null")
    method: Any = None


_BODY = msgspec.json.Decoder(_Body)


def assistant_transport_routes(doors: Doors) -> Sequence[BaseRoute]:
    return [
        Route(PATH, partial(_get, doors), methods=["GET"]),
        Route(PATH, partial(_post, doors), methods=["POST"]),
    ]


async def _get(doors: Doors, request: Request) -> Response:
    session_id = named_session(request.query_params)
    if session_id is None:
        raise InvalidRequest("Name the session: `?threadId=`.", code="bad_id")
    await doors.starter.allow(request, session_id, "read")
    snapshot = await doors.runs.snapshot(session_id)
    body = await made_of(snapshot.messages, partial(_encode_state, snapshot))
    return Response(body, headers=READ_HEADERS, media_type=JSON)


def _encode_state(snapshot: SessionSnapshot) -> bytes:
    return msgspec.json.encode(state_of(snapshot.messages, snapshot.active_run))


async def _post(doors: Doors, request: Request) -> Response:
    starter = doors.starter
    with starter.hold() as held:
        taken = await starter.take_again(request, held, read=read_commands)
        session_id, posted = taken.session_id, taken.posted
        doors.live.check(doors.runs.sessions.path_of(session_id))
        run = None
        if posted.user is not None or posted.answers:
            turn = await starter.take_parsed(request, session_id, posted)
            run = await starter.start(request, session_id, turn.posted)
    return await follow_state(doors, session_id, run, taken.grant.until_s)


async def follow_state(doors: Doors, session_id: str, run: Run | None, until_s: float | None = None) -> Response:
    """Return the state until the run ends, or without one, until the answer that runs now ends."""
    is_live = run is not None and not run.ended.done()
    snapshot = await doors.runs.snapshot(session_id)
    if is_live and run is not None and run.ended.done() and snapshot.active_run != run.id:
        snapshot = await doors.runs.snapshot(session_id)  # its end is in the log now
        is_live = False
    run_id = run.id if run is not None and is_live else snapshot.active_run
    wire = await made_of(snapshot.messages, partial(StateWire, snapshot.messages, run_id))
    if run_id is not None:
        return await doors.follow_run(session_id, run_id, snapshot.offset, wire, with_others=True, until_s=until_s)
    end = snapshot.last_run
    error = end.error if run is not None and end is not None and end.run_id == run.id else None
    body = wire.begin() + (b"" if error is None or end is None else wire.fail(error, end.code)) + wire.end()
    return Response(body, headers={**HEADERS, **wire.headers})


async def read_commands(request: Request, bytes_max: int, held: HeldBody) -> Posted:
    """Read and parse the body of a POST. Raises what `read_parsed` raises."""
    return await read_parsed(request, bytes_max, held, parse_commands)


def parse_commands(body: bytes | bytearray) -> Posted:
    """
    Return what the commands ask: a user message, answers to tool calls, both, or with no commands, nothing. Raises
    InvalidRequest and TooLarge.
    """
    check_utf8(body)
    check_size(body)
    top = decode_top(_BODY, body, "an object with a list of commands")
    user: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = []
    if top.commands is None:
        raise _no_commands(top)
    for at, command in enumerate(_commands(top.commands)):
        path = f"commands[{at}]"
        if command.get("type") == _MESSAGE:
            user = _joined(user, _user_message(command, path))
        else:
            rows.append(_tool_row(command, path))
    session_ids = session_ids_of(top.id, top.thread_id)
    if not isinstance(top.data, Mapping | None):
        raise InvalidRequest("`data` must be an object.", code="bad_message")
    posted = Posted(user, "user" if user is not None else "tool", session_ids=session_ids)
    return replace(posted, answers=answers_in(rows), tools=_tools(top.tools), data=top.data or {})


def _no_commands(top: _Body) -> InvalidRequest:
    hint = "Send a list of them; an empty one follows the running answer."
    if bytes(top.messages) != b"null":
        hint = "A body with `messages` is for /api/chat, an AG-UI one for /api/agui, one of the AI SDK for /api/ai-sdk."
    elif top.method is not None:
        hint = "A body with `method` is for /api/copilotkit."
    return InvalidRequest(f"The body has no `commands`. {hint}", code="no_commands")


def _commands(found: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(found, list) or len(found) > COMMANDS_MAX:
        raise InvalidRequest(f"`commands` must be a list of at most {COMMANDS_MAX} commands.", code="bad_command")
    for at, command in enumerate(found):
        kind = command.get("type") if isinstance(command, Mapping) else None
        if kind not in (_MESSAGE, _RESULT):
            raise InvalidRequest(
                f"`commands[{at}].type` must be {_MESSAGE} or {_RESULT}, not {str(kind)[:80]!r}.", code="bad_command"
            )
    return found


def _user_message(command: Mapping[str, Any], path: str) -> dict[str, Any]:
    """
    Return the user message of a command. An edit has a new id, and `sourceId` is the id of the message that it
    replaces: the server keeps that one, and so knows that what follows it is to go.
    """
    message = command.get("message")
    if not isinstance(message, Mapping) or message.get("role") != "user":
        raise InvalidRequest(f"`{path}.message` must be a message with the role user.", code="bad_message")
    parts = to_posted_parts(message.get("parts"), f"{path}.message.parts")
    source_id = command.get("sourceId")
    made = {"id": message.get("id") if source_id is None else source_id, "role": "user", "parts": parts}
    check_messages([made])
    return to_ui_message(made)


def _joined(before: dict[str, Any] | None, message: dict[str, Any]) -> dict[str, Any]:
    """Return the messages of one request as one message, because one answer is for all of them."""
    return message if before is None else {**message, "parts": [*before["parts"], *message["parts"]]}


def _tool_row(command: Mapping[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(command.get("toolCallId"), str) or not command["toolCallId"]:
        raise InvalidRequest(f"`{path}.toolCallId` must be a string.", code="bad_command")
    return to_tool_row(command)


def _tools(found: Any) -> tuple[Any, ...]:
    """Return the page's own tools, which assistant-ui posts as an object by name. Skip invalid ones."""
    if found is None:
        return ()
    if not isinstance(found, Mapping) or len(found) > TOOLS_MAX:
        raise InvalidRequest(f"`tools` must be an object of at most {TOOLS_MAX} tools.", code="bad_tools")
    listed = ({"name": name, **tool} for name, tool in found.items() if isinstance(tool, Mapping))
    return posted_specs(listed)
