"""
Request-scoped answers for clients that send AG-UI's `RunAgentInput`: the response to the POST is the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.doors.run_responses import Doors, RunResponse
from durable_chat.api.doors.tanstack_wire import ndjson_wire, sse_wire
from durable_chat.api.starting import Taken

NDJSON = "application/x-ndjson"


def agui_routes(doors: Doors) -> Sequence[BaseRoute]:
    return [Route("/api/chat/ndjson", partial(_post_ndjson, doors), methods=["POST"])]


async def answer_run(doors: Doors, request: Request, taken: Taken) -> RunResponse:
    """Answer a request to `/api/chat` with its run, as the client's Accept header asks for it."""
    wire = ndjson_wire if NDJSON in request.headers.get("accept", "") else sse_wire
    return await doors.answer(request, taken.session_id, taken.posted, lambda run: wire(run.offset or ""))


async def _post_ndjson(doors: Doors, request: Request) -> Response:
    with doors.starter.hold() as held:
        taken = await doors.starter.take(request, held)
        return await doors.answer(request, taken.session_id, taken.posted, lambda run: ndjson_wire(run.offset or ""))
