"""
CopilotKit's runtime (`runtimeUrl="/api/copilotkit"`): its React components without a server of their own in between.

    GET  /api/copilotkit/info                            the agents: one, named `default`
    POST /api/copilotkit/agent/default/run               an AG-UI `RunAgentInput`; the response is the run
    POST /api/copilotkit/agent/default/connect           the messages of a thread, then the answer that runs
    POST /api/copilotkit/agent/default/stop/{threadId}   stop one run, or all of the thread
    POST /api/copilotkit                                 the same as `{"method", "params", "body"}`
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.bodies import ChatBody, check_size, check_utf8, decode_top, parse_body, read_parsed
from durable_chat.api.catch_up import made_of
from durable_chat.api.doors.agui.routes import client_of
from durable_chat.api.doors.agui.wire import AguiWire, Client, messages_event
from durable_chat.api.doors.run_responses import HEADERS, Doors
from durable_chat.api.doors.signposts import DOORS
from durable_chat.api.starting import choose_session_id
from durable_chat.errors import InvalidRequest, NotFound
from durable_chat.http.headers import NO_STORE
from durable_chat.protocol.messages import JSON
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.session import SessionSnapshot
from durable_chat.sessions.sessions import check_session_id
from durable_chat.transcripts.chunks import Chunk, encode_json
from durable_chat.transcripts.interrupts import pending_approvals

PATH = "/api/copilotkit"

AGENT = "default"
"""The only agent: the chat's model. CopilotKit's components use this one if they are not told another."""

INFO = {
    "version": version("durable-chat"),
    "agents": {AGENT: {"name": AGENT, "description": "The chat's model.", "className": "DurableChat"}},
    "audioFileTranscriptionEnabled": False,
    "mode": "sse",
    "telemetryDisabled": True,
}

CONNECTED = "connected"
"""The id of the run that a thread without a running answer is shown as."""

RUN_ID_KEPT_CHARS = 200
"""Characters of a run's id that are part of a longer key, which may have 256. Clients use UUIDs."""

METHODS = ("info", "agent/run", "agent/connect", "agent/stop")


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks, whichever route it came by. `run` is the turn to answer; `run_id` is the run to stop."""

    method: str
    thread_id: str | None = None
    run: ChatBody | None = None
    run_id: str | None = None


class _Envelope(msgspec.Struct):
    method: Any = None
    params: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")
    messages: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    """What connecting and stopping need of a body."""

    thread_id: Any = msgspec.field(name="threadId", default=None)
    run_id: Any = msgspec.field(name="runId", default=None)


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_NAMED = msgspec.json.Decoder(_Named)


def copilotkit_routes(doors: Doors) -> Sequence[BaseRoute]:
    agent = PATH + "/agent/{agent}"
    return [
        Route(PATH + "/info", _info, methods=["GET"]),
        Route(agent + "/run", partial(_post, doors, "agent/run"), methods=["POST"]),
        Route(agent + "/connect", partial(_post, doors, "agent/connect"), methods=["POST"]),
        Route(agent + "/stop/{id:path}", partial(_post, doors, "agent/stop"), methods=["POST"]),
        Route(PATH, partial(_post_envelope, doors), methods=["POST"]),
    ]


async def _info(_request: Request) -> Response:
    return Response(msgspec.json.encode(INFO), headers=NO_STORE, media_type=JSON)


async def _post(doors: Doors, method: str, request: Request) -> Response:
    _check_agent(request.path_params["agent"])
    doors.starter.check_token(request, "stop" if method == "agent/stop" else "read")
    parse = partial(_parse_call, method, request.path_params.get("id"))
    return await _answer(doors, request, parse)


async def _post_envelope(doors: Doors, request: Request) -> Response:
    doors.starter.check_token(request, "read")
    return await _answer(doors, request, _parse_envelope)


async def _answer(doors: Doors, request: Request, parse: Any) -> Response:
    with doors.starter.hold() as held:
        call: Call = await read_parsed(request, doors.settings.body_max_bytes, held, parse)
        if call.method == "info":
            return await _info(request)
        if call.run is not None:
            return await _run(doors, request, call.run)
    session_id = check_session_id(call.thread_id)
    if call.method == "agent/stop":
        return await _stop(doors, request, session_id, call.run_id)
    return await _connect(doors, request, session_id)


async def _run(doors: Doors, request: Request, posted: ChatBody) -> Response:
    taken = await doors.starter.take_parsed(request, choose_session_id(None, posted), posted)
    return await doors.answer(request, taken.session_id, taken.posted, lambda run: AguiWire(client_of(taken, run)))


async def _stop(doors: Doors, request: Request, session_id: str, run_id: str | None) -> Response:
    """Stop the run that the client names by its own id, or all runs of the thread."""
    await doors.starter.allow(request, session_id, "stop")
    runs, named = doors.runs, None
    if run_id is not None:
        named = next((run.id for run in runs.of(session_id) if _is_named(run, run_id)), None)
        if named is None and not doors.settings.remote:  # there, another process may carry it out
            return _stopped([])
    return _stopped(await runs.stop(session_id, named))


def _stopped(run_ids: Sequence[str]) -> Response:
    return Response(msgspec.json.encode({"stopped": bool(run_ids)}), headers=NO_STORE, media_type=JSON)


def _is_named(run: Run, run_id: str) -> bool:
    prefix = _resume_prefix(run_id)
    return run.id == run_id or any(key == run_id or key.startswith(prefix) for key in run.keys)


async def _connect(doors: Doors, request: Request, session_id: str) -> Response:
    """
    Answer with the messages of a thread, and with the run that answers now, to its end. An approval that the thread
    waits for is the outcome, so that a page which was reloaded asks for it again.
    """
    grant = await doors.starter.allow(request, session_id, "read")
    doors.live.check(doors.runs.sessions.path_of(session_id))
    snapshot = await doors.runs.snapshot(session_id)
    wire = await made_of(snapshot.messages, partial(ConnectWire, session_id, snapshot))
    if snapshot.active_run is not None:
        active, offset = snapshot.active_run, snapshot.offset
        return await doors.follow_run(session_id, active, offset, wire, is_new=True, until_s=grant.until_s)
    body = wire.idle(pending_approvals(snapshot.messages)) if snapshot.messages else b""
    return Response(body, headers={**HEADERS, **wire.headers})


class ConnectWire:
    """
    AG-UI's events of a run, with the messages before it right after its start. Creating one takes time proportional to
    the session's size. Mutable state: `_messages`, the event that holds them, until it is sent.
    """

    def __init__(self, session_id: str, snapshot: SessionSnapshot) -> None:
        parts = (part for message in snapshot.messages for part in message["parts"])
        calls = frozenset(part["id"] for part in parts if part.get("type") == "tool-call")
        self._client = Client(session_id, snapshot.active_run or CONNECTED, calls=calls)
        self._wire = AguiWire(self._client)
        self._messages = self._wire.encode([messages_event(snapshot.messages)])
        self.headers = self._wire.headers
        self.ping = self._wire.ping

    def begin(self) -> bytes:
        return self._wire.begin()

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        made = self._wire.chunk(chunk, offset)
        if not self._messages:
            return made
        messages, self._messages = self._messages, b""
        if chunk["type"] == "RUN_STARTED":
            return made + messages
        return self._wire.chunk({"type": "RUN_STARTED"}, "") + messages + made

    def end(self) -> bytes:
        return self._wire.end()

    def idle(self, approvals: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the events of a thread in which nothing runs."""
        asked = [
            {"toolCallId": one["toolCallId"], "toolName": one["metadata"]["toolName"], "approval": {"id": one["id"]}}
            for one in approvals
        ]
        chunks: list[Chunk] = [
            {"type": "RUN_STARTED"},
            *({"type": "CUSTOM", "name": "approval-requested", "value": value} for value in asked),
            {"type": "RUN_FINISHED"},
        ]
        return b"".join(self.chunk(chunk, "") for chunk in chunks)


# Bodies.


def _parse_call(method: str, thread_id: str | None, body: bytes | bytearray) -> Call:
    """Return what a body asks, given the method. Raises InvalidRequest and TooLarge."""
    if method == "agent/run":
        return Call(method, run=_parse_run(body))
    named = decode_top(_NAMED, body, "an object") if bytes(body).strip() else _Named()
    if not isinstance(named.run_id, str | None):
        raise InvalidRequest("`runId` must be a string.", code="bad_run_id")
    thread_id = named.thread_id if thread_id is None else thread_id
    if not isinstance(thread_id, str) or not thread_id:
        raise InvalidRequest("`threadId` is missing: the id of the session.", code="bad_id")
    return Call(method, thread_id, run_id=named.run_id)


def _parse_run(body: bytes | bytearray) -> ChatBody:
    """
    Return the turn of a `RunAgentInput`. CopilotKit answers an interrupt under the id of the run that was interrupted,
    so the answers are part of its key.
    """
    posted = parse_body(body)
    if not posted.session_ids:
        raise InvalidRequest("`threadId` is missing: the id of the session.", code="bad_id")
    if not posted.resume or posted.run_id is None:
        return posted
    answers = [[one.interrupt_id, one.cancelled, one.payload] for one in posted.resume]
    digest = hashlib.sha256(encode_json(answers)).hexdigest()[:32]
    return replace(posted, run_id=_resume_prefix(posted.run_id) + digest)


def _resume_prefix(run_id: str) -> str:
    return f"{run_id[:RUN_ID_KEPT_CHARS]}#"


def _parse_envelope(body: bytes | bytearray) -> Call:
    """Return what the body of the single route asks. Raises InvalidRequest, NotFound and TooLarge."""
    check_utf8(body)
    check_size(body)
    envelope = decode_top(_ENVELOPE, body, "an object")
    if envelope.method is None:
        hint = f"It takes {DOORS[PATH]}."
        if bytes(envelope.messages)[:1] == b"[":
            hint = f"A RunAgentInput is for {PATH}/agent/{AGENT}/run, or for /api/agui."
        raise InvalidRequest(f"The body has no `method`. {hint}", code="no_method")
    if envelope.method not in METHODS:
        listed = ", ".join(METHODS)
        raise InvalidRequest(f"`method` must be one of {listed}, not {_shown(envelope.method)}.", code="unknown_method")
    if envelope.method == "info":
        return Call("info")
    params = envelope.params if isinstance(envelope.params, Mapping) else {}
    _check_agent(params.get("agentId"))
    inner = bytes(envelope.body)
    return _parse_call(envelope.method, params.get("threadId"), b"" if inner == b"null" else inner)


def _check_agent(name: Any) -> None:
    if name != AGENT:
        raise NotFound(f'There is no agent {_shown(name)}. This server has one: "{AGENT}".', code="unknown_agent")


def _shown(value: Any) -> str:
    return f'"{value[:80]}"' if isinstance(value, str) else "without a name" if value is None else "of that kind"
