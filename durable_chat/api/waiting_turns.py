"""
The routes of waiting turns: list them, take a message back, and send one now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat.api.catch_up import READ_HEADERS
from durable_chat.api.doors.run_responses import Doors
from durable_chat.errors import InvalidRequest
from durable_chat.http.headers import NO_STORE
from durable_chat.protocol.messages import JSON
from durable_chat.sessions.running.waiting import Sending, WaitingTurn
from durable_chat.sessions.sessions import check_session_id
from durable_chat.transcripts.chunks import MESSAGE_ID_CHARS_MAX

SENDINGS: Mapping[str, Sending] = {"steer": "steer", "interrupt": "interrupt"}


def waiting_turn_routes(doors: Doors) -> Sequence[BaseRoute]:
    return [Route("/api/chat-turns", WaitingTurnRoutes(doors).change, methods=["GET", "POST", "DELETE"])]


class WaitingTurnRoutes:
    """The handlers. Each parses, calls and answers."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._starter = doors.starter

    async def change(self, request: Request) -> Response:
        """Dispatch by method. With a single route, a 405 response lists all methods."""
        handler = {"POST": self.send_now, "DELETE": self.take_back}.get(request.method, self.list)
        return await handler(request, check_session_id(request.query_params.get("id")))

    async def list(self, request: Request, session_id: str) -> Response:
        await self._starter.allow(request, session_id, "read")
        turns = [shown_turn(turn) for turn in self._doors.runs.waiting.listed(session_id)]
        return Response(msgspec.json.encode({"turns": turns}), headers=READ_HEADERS, media_type=JSON)

    async def take_back(self, request: Request, session_id: str) -> Response:
        message_id = _message_id(request)
        await self._starter.allow(request, session_id, "stop")
        run_id = await self._doors.runs.waiting.take_back(session_id, message_id)
        taken = [] if run_id is None else [run_id]
        return Response(msgspec.json.encode({"takenBack": taken}), headers=NO_STORE, media_type=JSON)

    async def send_now(self, request: Request, session_id: str) -> Response:
        message_id = _message_id(request)
        how = SENDINGS.get(request.query_params.get("turns", "steer"))
        if how is None:
            raise InvalidRequest("`turns` must be steer or interrupt.", code="bad_turns")
        await self._starter.allow(request, session_id, "send")
        if how == "interrupt":  # it stops the running answer
            await self._starter.allow(request, session_id, "stop")
        run_id = await self._doors.runs.waiting.send_now(session_id, message_id, how)
        return Response(msgspec.json.encode({"runId": run_id, "turns": how}), headers=NO_STORE, media_type=JSON)


def shown_turn(turn: WaitingTurn) -> dict[str, object]:
    message = None if turn.message is None else dict(turn.message)
    return {
        "runId": turn.run_id,
        "messageId": None if message is None else message["id"],
        "message": message,
        "turns": "steer" if turn.steers else "queue",
    }


def _message_id(request: Request) -> str:
    message_id = request.query_params.get("messageId")
    if not message_id or len(message_id) > MESSAGE_ID_CHARS_MAX:
        raise InvalidRequest(
            f"`messageId` must name a message, in 1 to {MESSAGE_ID_CHARS_MAX} characters.", code="bad_message"
        )
    return message_id
