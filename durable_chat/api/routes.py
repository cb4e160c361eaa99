"""
The chat's routes under /api: post a turn, follow sessions, read their state or a file, stop, delete.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.access import Access, Authorize
from durable_chat.api.artifact_routes import artifact_response
from durable_chat.api.bodies import ChatBody
from durable_chat.api.catch_up import open_session, session_read_response, snapshot_response
from durable_chat.api.doors.agui.routes import agui_routes, answer_run, tanstack_wire
from durable_chat.api.doors.ai_sdk.routes import ai_sdk_routes
from durable_chat.api.doors.assistant.transport import assistant_transport_routes
from durable_chat.api.doors.copilotkit import copilotkit_routes
from durable_chat.api.doors.run_responses import Doors
from durable_chat.api.doors.tanstack import LAST_EVENT_ID, read_chat, resume_run
from durable_chat.api.events import (
    POSTED_BYTES_MAX,
    SESSIONS_POSTED_MAX,
    EventsResponse,
    Opened,
    parse_sessions,
)
from durable_chat.api.generations.models import GenerationModel
from durable_chat.api.generations.routes import generation_routes
from durable_chat.api.starting import ChooseModel, Starter
from durable_chat.api.waiting_turns import waiting_turn_routes
from durable_chat.config.settings import Settings
from durable_chat.errors import InvalidRequest
from durable_chat.http.bodies import BodyBudget, read_body
from durable_chat.http.errors import json_error
from durable_chat.http.headers import NO_STORE
from durable_chat.http.reads import LiveReads
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.running.runs import Runs
from durable_chat.sessions.sessions import check_session_id
from durable_chat.store.base import Store
from durable_chat.transcripts.attachments import ARTIFACT_ROUTE


def chat_routes(
    store: Store,
    runs: Runs,
    settings: Settings,
    live: LiveReads,
    choose_model: ChooseModel,
    authorize: Authorize | None = None,
    bodies: BodyBudget | None = None,
    generations: GenerationModel | None = None,
) -> Sequence[BaseRoute]:
    access = Access(settings, authorize)
    starter = Starter(runs, settings, choose_model, access, bodies or BodyBudget(settings.bodies_max_bytes))
    doors = Doors(starter, store, live)
    chat = ChatRoutes(doors)
    return [
        Route("/api/chat", chat.change, methods=["GET", "POST", "DELETE"]),
        Route("/api/chat-stream", chat.stream, methods=["GET"]),
        Route("/api/events", chat.events, methods=["GET", "POST"]),
        Route("/api/chat-snapshot", chat.snapshot, methods=["GET"]),
        Route(ARTIFACT_ROUTE, chat.artifact, methods=["GET"]),
        Route("/api/chat-stop", chat.stop, methods=["POST"]),
        *waiting_turn_routes(doors),
        *agui_routes(doors),
        *assistant_transport_routes(doors),
        *ai_sdk_routes(doors),
        *copilotkit_routes(doors),
        *generation_routes(doors, generations or GenerationModel({})),
    ]


class ChatRoutes:
    """The handlers. Each parses, calls and answers."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._starter = doors.starter
        self._store = doors.store
        self._settings = doors.settings
        self._live = doors.live
        self._runs = doors.runs

    async def change(self, request: Request) -> Response:
        """Dispatch by method. With a single route, a 405 response lists all methods."""
        handler = {"POST": self.post, "DELETE": self.delete}.get(request.method, self.read)
        return await handler(request)

    async def read(self, request: Request) -> Response:
        return await read_chat(self._doors, request, tanstack_wire(request))

    async def post(self, request: Request) -> Response:
        """Answer an AG-UI request with its run, and others, or those with `mode`, as the durable transport expects."""
        mode = request.query_params.get("mode")
        if mode not in (None, "immediate", "await"):
            raise InvalidRequest("`mode` must be immediate or await.", code="bad_mode")
        if request.headers.get(LAST_EVENT_ID):
            return await resume_run(self._doors, request, tanstack_wire(request))
        with self._starter.hold() as held:
            taken = await self._starter.take(request, held)
            if mode is None and isinstance(taken.posted, ChatBody) and taken.posted.is_run_input:
                return await answer_run(self._doors, request, taken)
            run = await self._starter.start(request, taken.session_id, taken.posted)
        return await run_response(self._runs, run, self._settings.await_max_s if mode == "await" else None)

    async def stream(self, request: Request) -> Response:
        session_id = _session_id(request)
        grant = await self._starter.allow(request, session_id, "read")
        return await session_read_response(
            self._runs, self._store.log, session_id, request, self._settings, self._live, until_s=grant.until_s
        )

    async def events(self, request: Request) -> Response:
        self._live.check_open()
        self._starter.check_token(request, "read")
        sessions = await self._asked_sessions(request)

        async def open_one(session_id: str, offset: str) -> Opened:
            grant = await self._starter.allow(request, session_id, "read")
            reader, opening = await open_session(self._runs, self._store.log, session_id, offset, self._live)
            return Opened(self._runs.sessions.path_of(session_id), reader, grant.until_s, opening)

        opened = {}
        if len(sessions) == 1:  # a refusal of the only session is the response
            opened = {session_id: await open_one(session_id, offset) for session_id, offset in sessions.items()}
        return EventsResponse(sessions, opened, open_one, self._settings, self._live)

    async def _asked_sessions(self, request: Request) -> dict[str, str]:
        if request.method != "POST":
            return parse_sessions(request.scope["query_string"])
        with self._starter.hold() as held:
            form = await read_body(request.scope, request.receive, POSTED_BYTES_MAX, held)
            return parse_sessions(form, SESSIONS_POSTED_MAX)

    async def snapshot(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self._starter.allow(request, session_id, "read")
        return await snapshot_response(self._runs, session_id, request)

    async def artifact(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self._starter.allow(request, session_id, "read")
        sessions = self._runs.sessions
        return await artifact_response(sessions.artifacts, sessions.path_of(session_id), request)

    async def stop(self, request: Request) -> Response:
        return await self._doors.stop(request, _session_id(request))

    async def delete(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self._starter.allow(request, session_id, "delete")
        await self._runs.delete(session_id)
        return Response(status_code=204, headers=NO_STORE)


def _session_id(request: Request) -> str:
    return check_session_id(request.query_params.get("id"))


async def run_response(runs: Runs, run: Run, wait_s: float | None) -> Response:
    """Answer a turn: 202 at once, or with `wait_s` the outcome within that time."""
    assert run.offset is not None
    headers = {**NO_STORE, "X-Run-Id": run.id, "Stream-Next-Offset": run.offset}
    if wait_s is None or not await runs.wait(run, wait_s):
        return Response(status_code=202, headers=headers)
    if run.error is not None:
        return json_error(502, "run_failed", run.error, headers)
    return Response(status_code=200, headers=headers)
