"""
The routes of generations: generate, follow and restore a generation, read a video job or a file, and stop.

    POST /api/generate/{image,speech,transcription,summary,video}[/ndjson]    the generation as SSE (or NDJSON), or with
                                                                              `Accept: application/json` its result
    GET  the same, or /api/generate                                           join by `offset` and `runId`, or restore by
                                                                              `threadId`
    GET  /api/generate/video/{jobId}                                          the state of a video job
    GET  /api/generate/artifact                                               a file of a result
    POST /api/generate/stop                                                   stop

A generation is a run of the session of its slot, so everything that holds for the runs of a chat holds for it, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.artifact_routes import artifact_response
from durable_chat.api.catch_up import READ_HEADERS
from durable_chat.api.doors.run_responses import Doors
from durable_chat.api.doors.tanstack import (
    LAST_EVENT_ID,
    Found,
    find_run,
    follow_found,
    grant_of,
    offset_in,
    resume_run,
)
from durable_chat.api.doors.tanstack_wire import MakeWire, ndjson_wire, sse_wire
from durable_chat.api.generations.bodies import GenerationBody, read_generation
from durable_chat.api.generations.files import ARTIFACT_ROUTE, shown, speech_artifact
from durable_chat.api.generations.models import GenerationModel
from durable_chat.api.generations.responses import Asked, prepare
from durable_chat.api.generations.slots import Slots
from durable_chat.api.generations.wire import GenerationWire, plain_wire
from durable_chat.api.starting import api_key_of, request_key
from durable_chat.errors import Forbidden, InvalidRequest, NotFound
from durable_chat.generations.adapters import INPUTS, Activity
from durable_chat.generations.videos import cancel
from durable_chat.http.errors import json_error
from durable_chat.http.headers import NO_STORE
from durable_chat.protocol.messages import JSON
from durable_chat.sessions.running.idempotency import check_key
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.slots import session_of_slot, slot_of_session
from durable_chat.transcripts.runs.generations import GenerationRun, GenerationRuns, job_state, resume_snapshot

ROUTE = "/api/generate"

CANCEL_MAX_S = 30.0
"""How long a provider may take to cancel a video job whose generation was stopped. The stop does not wait for it."""

log = logging.getLogger(__name__)


def generation_routes(doors: Doors, model: GenerationModel) -> Sequence[BaseRoute]:
    model.note_job = doors.starter.run_sessions.note
    made = GenerationRoutes(doors, model)
    routes: list[BaseRoute] = [
        Route(ROUTE, partial(made.read, None, sse_wire), methods=["GET"]),
        Route(f"{ROUTE}/stop", made.stop, methods=["POST"]),
        Route(ARTIFACT_ROUTE, made.artifact, methods=["GET"]),
    ]
    for activity in INPUTS:
        for path, make_wire in (("", sse_wire), ("/ndjson", ndjson_wire)):
            change = partial(made.change, activity, make_wire)
            routes.append(Route(f"{ROUTE}/{activity}{path}", change, methods=["GET", "POST"]))
    routes.append(Route(f"{ROUTE}/video/{{job_id}}", made.job, methods=["GET"]))
    return routes


class GenerationRoutes:
    """The handlers. Mutable state: `_cancels`, the tasks that cancel video jobs at their providers."""

    def __init__(self, doors: Doors, model: GenerationModel) -> None:
        self._doors = doors
        self._starter = doors.starter
        self._model = model
        self._speech = model.speech
        self._slots = Slots(doors.store)
        self._cancels: set[asyncio.Task[None]] = set()

    # Generating.

    async def change(self, activity: Activity, make_wire: MakeWire, request: Request) -> Response:
        if request.method != "POST":
            return await self.read(activity, make_wire, request)
        read = partial(read_generation, activity)
        if request.headers.get(LAST_EVENT_ID):
            return await resume_run(self._doors, request, self._wire(request, make_wire), read=read)
        with self._starter.hold() as held:
            taken = await self._starter.take(request, held, read=read)
            posted = taken.posted
            assert isinstance(posted, GenerationBody)
            if _wants_result(request):
                run = await self._begin(request, posted)
                return await self._result(request, posted, run)
            if make_wire is sse_wire and request_key(request, posted) is None:
                make_wire = plain_wire
            made = self._wire(request, make_wire)
            start = partial(self._begin, request, posted)
            session_id = session_of_slot(posted.slot)
            return await self._doors.answer_started(request, session_id, start, lambda run: made(run.offset, None))

    async def _begin(self, request: Request, posted: GenerationBody) -> Run:
        """Check the input and start the run. Nothing is written when the input is refused."""
        assert posted.input is not None
        asked = Asked(
            session_of_slot(posted.slot),
            posted.activity,
            posted.input,
            api_key_of(request),
            request_key(request, posted),
            posted.data,
        )
        return await self._starter.begin(*await prepare(self._model, asked))

    async def _result(self, request: Request, posted: GenerationBody, run: Run) -> Response:
        """Wait for the result, and answer with it alone."""
        headers = {**NO_STORE, "X-Run-Id": run.id}
        ended = await self._doors.runs.wait(run, self._doors.settings.await_max_s)
        found = (await self._runs(posted.slot)).runs.get(run.id)
        if not ended or found is None or found.end is None:
            told = job_state(found) if found is not None and found.job is not None else {}
            body = {"threadId": posted.slot, "runId": run.id, **told}
            return Response(msgspec.json.encode(body), 202, headers, JSON)
        if found.error is not None:
            return json_error(502, "run_failed", found.error[0], headers)
        await self._load_speech(posted.slot, found)
        told = self._speech.fill(shown(found.result, _root_path(request)))
        return Response(msgspec.json.encode(told), 200, headers, JSON)

    # Following and restoring.

    async def read(self, activity: Activity | None, make_wire: MakeWire, request: Request) -> Response:
        if request.query_params.keys() & {"runId", "offset"}:
            return await self._join(make_wire, request)
        return await self._restore(activity, request)

    async def _join(self, make_wire: MakeWire, request: Request) -> Response:
        await self._doors.settled()
        found = await self._find(request, "read")
        slot = slot_of_session(found.known.session_id)
        if slot is not None:
            run = (await self._runs(slot)).runs.get(found.known.run_id)
            if run is not None:
                await self._load_speech(slot, run)
        return await follow_found(self._doors, found, offset_in(request), self._wire(request, make_wire))

    async def _find(self, request: Request, action: Any) -> Found:
        run_id = check_key(request.query_params.get("runId"))
        if run_id is None:
            raise InvalidRequest("Name the run in `runId`.", code="missing_run_id")
        return await find_run(self._doors, request, run_id, named=named_slot, action=action)

    async def _restore(self, activity: Activity | None, request: Request) -> Response:
        """Answer with the last generation of the slot. A slot that nobody has used yet is no error."""
        slot = request.query_params.get("threadId")
        session_id = session_of_slot(slot)
        await self._starter.allow(request, session_id, "read")
        await self._doors.settled()
        runs = await self._runs(str(slot))
        run = runs.last(activity)
        if run is not None and run.end is None:
            self._starter.run_sessions.note(session_id, run.run_id)  # the client joins it without naming the slot
        told = shown(resume_snapshot(run, str(slot)), _root_path(request))
        return Response(msgspec.json.encode(told), 200, READ_HEADERS, JSON)

    async def job(self, request: Request) -> Response:
        """Answer with the state of a video job. It is read from the log: asking does not poll the provider."""
        job_id = request.path_params["job_id"]
        for session_id in await self._sessions_of_job(request, job_id):
            run = (await self._runs(slot_of_session(session_id) or "")).of_job(job_id)
            if run is not None:
                told = shown(job_state(run), _root_path(request))
                return Response(msgspec.json.encode(told), 200, READ_HEADERS, JSON)
        raise NotFound("There is no video job of this id here. Name its slot in `threadId`.", code="unknown_job")

    async def _sessions_of_job(self, request: Request, job_id: str) -> Sequence[str]:
        """Return the sessions that may have ordered the job, and that the caller may read."""
        self._starter.check_token(request, "read")
        named = named_slot(request.query_params)
        sessions = [named] if named is not None else self._starter.run_sessions.of(job_id)
        return [session_id for session_id in sessions if await grant_of(self._doors, request, session_id) is not None]

    async def artifact(self, request: Request) -> Response:
        """Answer with a file. What the caller may not read is not found: an address must not tell what exists."""
        session_id = session_of_slot(request.query_params.get("threadId"))
        try:
            await self._starter.allow(request, session_id, "read")
        except Forbidden:
            raise NotFound("This slot has no such file.", code="no_artifact") from None
        sessions = self._doors.runs.sessions
        return await artifact_response(sessions.artifacts, sessions.path_of(session_id), request)

    # Stopping.

    async def stop(self, request: Request) -> Response:
        """Stop the run that the query names as `runId`, or all of the slot. Return the ids of those stopped."""
        named = named_slot(request.query_params)
        session_id = named if named is not None else (await self._find(request, "stop")).known.session_id
        response = await self._doors.stop(request, session_id)
        stopped = msgspec.json.decode(bytes(response.body))["stopped"]
        runs = (await self._runs(slot_of_session(session_id) or "")).runs
        for run in (runs.get(run_id) for run_id in stopped):
            if run is not None and run.job is not None and run.result is None:
                task = asyncio.create_task(self._cancel(str(run.job.get("jobId"))), name="cancel a video job")
                self._cancels.add(task)
                task.add_done_callback(self._cancels.discard)
        return response

    async def _cancel(self, job_id: str) -> None:
        """Cancel a job at its provider, so that nobody pays for a video that nobody waits for."""
        adapter: Any = self._model.adapters["video"]
        try:
            async with asyncio.timeout(CANCEL_MAX_S):
                await cancel(adapter, job_id)
        except Exception as error:  # noqa: BLE001 - the generation is stopped, whatever the provider says
            log.warning("a stopped video job was not cancelled at its provider: %s", type(error).__name__)

    # Shared.

    async def _runs(self, slot: str) -> GenerationRuns:
        return await self._slots.runs(self._doors.runs.sessions.path_of(session_of_slot(slot)))

    def _wire(self, request: Request, make_wire: MakeWire) -> MakeWire:
        root_path = _root_path(request)
        return lambda offset, shown: GenerationWire(make_wire(offset, shown), root_path, self._speech)

    async def _load_speech(self, slot: str, run: GenerationRun) -> None:
        """Have the audio of a finished speech at hand, for a client that is about to be shown it."""
        artifact_id = None if run.result is None else speech_artifact(run.result)
        if artifact_id is None or artifact_id in self._speech:
            return
        sessions = self._doors.runs.sessions
        try:
            data = await sessions.artifacts.load(sessions.path_of(session_of_slot(slot)), artifact_id)
        except NotFound:
            return
        await self._speech.keep(artifact_id, data)


def named_slot(query: Mapping[str, str]) -> str | None:
    """Return the session of the slot that a query names, or None."""
    slot = query.get("threadId")
    return session_of_slot(slot) if slot else None


def _wants_result(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return JSON in accept and "text/event-stream" not in accept


def _root_path(request: Request) -> str:
    path: str = request.scope.get("root_path", "")
    return path.rstrip("/")
