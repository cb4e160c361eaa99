"""
Request-scoped answers for clients that send AG-UI's `RunAgentInput`: the response to the POST is the run.

AG-UI's clients and TanStack AI's `fetchServerSentEvents` and `fetchHttpStream` send the same body, and expect different
events. On `/api/agui` all clients get AG-UI's. On `/api/chat` the `Accept` header tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.bodies import ChatBody
from durable_chat.api.doors.agui.wire import AguiWire, Client
from durable_chat.api.doors.run_responses import Doors, RunResponse
from durable_chat.api.doors.signposts import check_fields
from durable_chat.api.doors.tanstack import LAST_EVENT_ID, read_chat, resume_run
from durable_chat.api.doors.tanstack_wire import MakeWire, ndjson_wire, sse_wire
from durable_chat.api.doors.wires import Wire
from durable_chat.api.starting import Taken
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.running.run import Run

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"


def agui_routes(doors: Doors) -> Sequence[BaseRoute]:
    return [
        Route("/api/agui", partial(_post_agui, doors), methods=["POST"]),
        Route("/api/chat/ndjson", partial(_ndjson, doors), methods=["GET", "POST"]),
    ]


def tanstack_wire(request: Request) -> MakeWire:
    """Return TanStack's wire that a client of `/api/chat` asks for in its Accept header."""
    return ndjson_wire if NDJSON in request.headers.get("accept", "") else sse_wire


async def answer_run(doors: Doors, request: Request, taken: Taken) -> RunResponse:
    """Answer a `RunAgentInput` to `/api/chat` with its run."""

    def wire(run: Run) -> Wire:
        if request.headers.get("accept", "").strip() == SSE:  # AG-UI's clients; TanStack's send `*/*`
            return AguiWire(client_of(taken, run))
        return tanstack_wire(request)(run.offset, None)

    return await doors.answer(request, taken.session_id, taken.posted, wire)


async def _post_agui(doors: Doors, request: Request) -> Response:
    is_ndjson = NDJSON in request.headers.get("accept", "")
    with doors.starter.hold() as held:
        taken = await doors.starter.take(request, held)
        check_fields({"runId": taken.posted.run_id}, ("runId",))
        make_wire = partial(_agui_wire, taken, is_ndjson)
        return await doors.answer(request, taken.session_id, taken.posted, make_wire)


def _agui_wire(taken: Taken, is_ndjson: bool, run: Run) -> Wire:
    return AguiWire(client_of(taken, run), is_ndjson=is_ndjson)


async def _ndjson(doors: Doors, request: Request) -> Response:
    if request.method != "POST":
        return await read_chat(doors, request, ndjson_wire)
    if request.headers.get(LAST_EVENT_ID):
        return await resume_run(doors, request, ndjson_wire)
    with doors.starter.hold() as held:
        taken = await doors.starter.take(request, held)
        return await doors.answer(request, taken.session_id, taken.posted, lambda run: ndjson_wire(run.offset))


def client_of(taken: Taken, run: Run) -> Client:
    """Return what an AG-UI client has sent and has already."""
    posted: Posted = taken.posted
    body = posted if isinstance(posted, ChatBody) else ChatBody(posted.user, posted.last_role)
    answers = (*posted.answers, *posted.older)
    return Client(
        thread_id=taken.session_id,
        run_id=posted.run_id or run.id,
        is_modern=body.protocol_version is not None,
        calls=body.call_ids,
        results=frozenset((answer.call_id, answer.content) for answer in answers if answer.content is not None),
    )
