"""
The chat's routes under /api: post a turn, follow sessions, read their state or a file, stop, delete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.access import Access, Authorize, Grant
from durable_chat.api.artifact_routes import artifact_response
from durable_chat.api.bodies import read_posted
from durable_chat.api.catch_up import open_session, session_read_response, snapshot_response
from durable_chat.api.doors.hydrate import hydrate_response, named_session
from durable_chat.api.events import EventsResponse, Opened, parse_sessions
from durable_chat.config import Action, Settings
from durable_chat.errors import InvalidRequest
from durable_chat.http.bodies import BodyBudget, HeldBody
from durable_chat.http.errors import json_error
from durable_chat.http.reads import LiveReads
from durable_chat.models.base import Model
from durable_chat.protocol.messages import JSON
from durable_chat.sessions.idempotency import check_key
from durable_chat.sessions.posted import Posted, detach_files
from durable_chat.sessions.run import Job, Run
from durable_chat.sessions.runs import Runs
from durable_chat.sessions.sessions import check_session_id
from durable_chat.sessions.turns import PostedAsk
from durable_chat.store.base import Store
from durable_chat.transcripts.attachments import ARTIFACT_ROUTE, Detacher

NO_STORE = {"Cache-Control": "no-store"}

API_KEY_CHARS_MAX = 1024
"""The maximum length of a user's own key. No real key is longer, and it is held in memory until its run ends."""

ChooseModel = Callable[[str | None], Model]
"""Returns the model for a turn, given the user's own key or None. Raises Unauthorized `missing_api_key`."""


def chat_routes(
    store: Store,
    runs: Runs,
    settings: Settings,
    live: LiveReads,
    choose_model: ChooseModel,
    authorize: Authorize | None = None,
    bodies: BodyBudget | None = None,
) -> Sequence[BaseRoute]:
    bodies = bodies or BodyBudget(settings.bodies_max_bytes)
    chat = ChatRoutes(store, runs, settings, live, choose_model, Access(settings, authorize), bodies)
    return [
        Route("/api/chat", chat.change, methods=["GET", "POST", "DELETE"]),
        Route("/api/chat-stream", chat.stream, methods=["GET"]),
        Route("/api/events", chat.events, methods=["GET"]),
        Route("/api/chat-snapshot", chat.snapshot, methods=["GET"]),
        Route(ARTIFACT_ROUTE, chat.artifact, methods=["GET"]),
        Route("/api/chat-stop", chat.stop, methods=["POST"]),
    ]


class ChatRoutes:
    """The handlers. Each parses, calls and answers."""

    def __init__(
        self,
        store: Store,
        runs: Runs,
        settings: Settings,
        live: LiveReads,
        choose_model: ChooseModel,
        access: Access,
        bodies: BodyBudget,
    ) -> None:
        self._bodies = bodies
        self._store = store
        self._runs = runs
        self._settings = settings
        self._live = live
        self._choose_model = choose_model
        self._access = access

    async def allow(self, request: Request, session_id: str, action: Action) -> Grant:
        """
        Authorize the caller for an action on the session. Every route calls this. Raises what `Access.allow` raises.
        """
        return await self._access.allow(request, session_id, action)

    async def change(self, request: Request) -> Response:
        """Dispatch by method. With a single route, a 405 response lists all methods."""
        handler = {"POST": self.post, "DELETE": self.delete}.get(request.method, self.hydrate)
        return await handler(request)

    async def hydrate(self, request: Request) -> Response:
        session_id = check_session_id(named_session(request.query_params))
        await self.allow(request, session_id, "read")
        return await hydrate_response(self._runs, session_id, request)

    async def post(self, request: Request) -> Response:
        mode = request.query_params.get("mode", "immediate")
        if mode not in ("immediate", "await"):
            raise InvalidRequest("`mode` must be immediate or await.", code="bad_mode")
        run = await self._start(request)
        return await run_response(self._runs, run, self._settings.await_max_s if mode == "await" else None)

    async def _start(self, request: Request) -> Run:
        with self._bodies.hold() as held:
            return await self._start_posted(request, *await self._read(request, held))

    async def _start_posted(self, request: Request, session_id: str, posted: Posted) -> Run:
        key = request_key(request, posted)
        api_key = request.headers.get("x-api-key") or None
        if api_key is not None and len(api_key) > API_KEY_CHARS_MAX:
            raise InvalidRequest("The API key in X-Api-Key is too long.", code="bad_api_key")
        model = self._choose_model(api_key)
        parent_run_id = posted.parent_run_id if posted.resume else None
        job = Job(session_id, model, posted.data, api_key, key, posted.tools, parent_run_id)
        return await self._runs.start(job, PostedAsk(posted, getattr(model, "server_tools", frozenset())))

    async def _read(self, request: Request, held: HeldBody) -> tuple[str, Posted]:
        """Return the session and the body of an allowed request. Read as little as possible before authorization."""
        named = request.query_params.get("id")
        if named is not None:
            self._access.count_turn(await self.allow(request, check_session_id(named), "send"))
        else:
            self._access.check_token(request, "send")
        posted = await read_posted(request, self._settings.body_max_bytes, held)
        session_id = choose_session_id(named, posted)
        if named is None:
            self._access.count_turn(await self.allow(request, session_id, "send"))
        detacher = Detacher.of(self._settings, session_id, request.scope.get("root_path", ""))
        return session_id, await detach_files(posted, detacher)

    async def stream(self, request: Request) -> Response:
        session_id = _session_id(request)
        grant = await self.allow(request, session_id, "read")
        return await session_read_response(
            self._runs, self._store.log, session_id, request, self._settings, self._live, until_s=grant.until_s
        )

    async def events(self, request: Request) -> Response:
        self._live.check_open()
        sessions = parse_sessions(request.scope["query_string"])
        self._access.check_token(request, "read")

        async def open_one(session_id: str, offset: str) -> Opened:
            grant = await self.allow(request, session_id, "read")
            reader, opening = await open_session(self._runs, self._store.log, session_id, offset, self._live)
            return Opened(self._runs.sessions.path_of(session_id), reader, grant.until_s, opening)

        opened = {}
        if len(sessions) == 1:  # a refusal of the only session is the response
            opened = {session_id: await open_one(session_id, offset) for session_id, offset in sessions.items()}
        return EventsResponse(sessions, opened, open_one, self._settings, self._live)

    async def snapshot(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self.allow(request, session_id, "read")
        return await snapshot_response(self._runs, session_id, request)

    async def artifact(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self.allow(request, session_id, "read")
        sessions = self._runs.sessions
        return await artifact_response(sessions.artifacts, sessions.path_of(session_id), request)

    async def stop(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self.allow(request, session_id, "stop")
        stopped = await self._runs.stop(session_id, request.query_params.get("runId"))
        return Response(msgspec.json.encode({"stopped": stopped}), headers=NO_STORE, media_type=JSON)

    async def delete(self, request: Request) -> Response:
        session_id = _session_id(request)
        await self.allow(request, session_id, "delete")
        await self._runs.delete(session_id)
        return Response(status_code=204, headers=NO_STORE)


def _session_id(request: Request) -> str:
    return check_session_id(request.query_params.get("id"))


def request_key(request: Request, posted: Posted) -> str | None:
    """
    Return the key that identifies a repetition: a header, otherwise the body's `runId`. A header wins, because it
    exists for this purpose and may come from a layer below the author of the body. Raises InvalidRequest.
    """
    headers = (request.headers.get("idempotency-key"), request.headers.get("x-run-id"))
    return check_key(headers[0] or headers[1] or posted.run_id)


def choose_session_id(named: str | None, posted: Posted) -> str:
    """
    Return the session of a POST: `?id=`, otherwise the body's `id` or `threadId`. Raises InvalidRequest when they
    differ.
    """
    names = posted.session_ids if named is None else posted.session_ids | {named}
    if len(names) > 1:
        raise InvalidRequest("The request names two sessions. Send one session id.", code="bad_id")
    return check_session_id(next(iter(names), None))


async def run_response(runs: Runs, run: Run, wait_s: float | None) -> Response:
    """Answer a turn: 202 at once, or with `wait_s` the outcome within that time."""
    assert run.offset is not None
    headers = {**NO_STORE, "X-Run-Id": run.id, "Stream-Next-Offset": run.offset}
    if wait_s is None or not await runs.wait(run, wait_s):
        return Response(status_code=202, headers=headers)
    if run.error is not None:
        return json_error(502, "run_failed", run.error, headers)
    return Response(status_code=200, headers=headers)
