"""
`GET /api/chat?threadId=T`: what a client or a server-side renderer needs to show a session, in one round trip.

    {"messages", "page", "offset", "activeRun", "lastRun", "interrupts"}

TanStack AI's clients read `messages`, `activeRun`, `interrupts` and `page` when they mount with `persistence: true`. A
loader for the durable connection also needs `offset`. With `limit`, the response has the newest messages only, and
`page.cursor` is the value of `before` for the next older ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from durable_chat.api.catch_up import state_response
from durable_chat.api.doors.run_responses import Doors
from durable_chat.errors import InvalidRequest
from durable_chat.sessions.sessions import check_session_id
from durable_chat.transcripts.message_cache import Kept

LIMIT_MAX = 10_000
"""The maximum number of messages on a page: as many as a chat body may have."""


@dataclass(frozen=True, slots=True)
class Page:
    """A window of a session: at most `limit` messages, the newest or those just before the message `before`."""

    limit: int | None = None
    before: str | None = None

    def of(self, messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the messages of the window, and the `page` of the response. Raises InvalidRequest."""
        end = len(messages) if self.before is None else _place_of(self.before, messages)
        start = 0 if self.limit is None else max(0, end - self.limit)
        shown = list(messages[start:end])
        return shown, {"truncated": True, "cursor": shown[0]["id"]} if start else {"truncated": False}


def _place_of(cursor: str, messages: Sequence[dict[str, Any]]) -> int:
    for at, message in enumerate(messages):
        if message["id"] == cursor:
            return at
    raise InvalidRequest(
        f'`before` names the message "{cursor[:80]}", which the session no longer has. Load the newest page again.',
        code="bad_before",
    )


def read_page(query: Mapping[str, str]) -> Page:
    """Read `limit` and `before`. Raises InvalidRequest."""
    limit, before = query.get("limit"), query.get("before")
    if limit is None:
        return Page(None, before or None)
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:6]) <= LIMIT_MAX and len(limit) <= 6):
        raise InvalidRequest(f'`limit` must be a number from 1 to {LIMIT_MAX}, not "{limit[:80]}".', code="bad_limit")
    return Page(int(limit), before or None)


def named_session(query: Mapping[str, str]) -> str | None:
    """
    Return the session that a query names as `threadId` or `id`, or None. Raises InvalidRequest when the two differ.
    """
    names = {name for name in (query.get("threadId"), query.get("id")) if name}
    if len(names) > 1:
        raise InvalidRequest("`id` and `threadId` name two sessions. Send one of them.", code="bad_id")
    return check_session_id(names.pop()) if names else None


async def hydrate_response(doors: Doors, request: Request) -> Response:
    """Answer with the state of the session that the query names. An unknown session is an empty one."""
    session_id = check_session_id(named_session(request.query_params))
    page = read_page(request.query_params)
    await doors.starter.allow(request, session_id, "read")
    snapshot = await doors.runs.snapshot(session_id)
    doors.starter.run_sessions.note(session_id, snapshot.active_run)  # the client joins it without naming the session
    shown, told = page.of(snapshot.messages)
    if len(shown) < len(snapshot.messages):  # the cache of the encoded messages is for all of them
        snapshot = replace(snapshot, messages=shown, kept=Kept())
    return await state_response(snapshot, request, {"page": told})
