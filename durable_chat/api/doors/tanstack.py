"""
TanStack AI's resumable streams: a client continues a run after a lost connection, or joins a run after a reload.

A chunk's id is the offset after it in the session's log. Nothing else is stored for this, and every client of a run
reads the same log.

    POST, with X-Run-Id and Last-Event-ID    the same request again: the run's chunks after that id. It starts nothing.
    GET ?offset=-1&runId=R                   the whole run, from its first chunk. R is the client's id or the server's.

The stock client does not name the session when it joins. Then the session is found by the run's id, and the caller must
be allowed to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from durable_chat.api.access import Grant
from durable_chat.api.bodies import read_posted
from durable_chat.api.doors.hydrate import hydrate_response, named_session
from durable_chat.api.doors.run_responses import HEADERS, Doors
from durable_chat.api.doors.tanstack_wire import MakeWire
from durable_chat.api.run_places import Place, place_in, run_at, snapshot_before, start_of
from durable_chat.api.starting import ReadBody, request_key
from durable_chat.config.settings import Action
from durable_chat.errors import Conflict, DurableChatError, InvalidRequest, NotFound
from durable_chat.protocol.events import is_offset_like
from durable_chat.protocol.offsets import BEGINNING, NOW, ZERO
from durable_chat.protocol.sub_offsets import split_inside
from durable_chat.sessions.running.idempotency import check_key
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.chunks import Chunk, messages_snapshot

LAST_EVENT_ID = "last-event-id"

LEFT_TRIED_MAX = 256
"""The maximum number of sessions in which a run of the last process is looked for by its client's id."""

NamedSession = Callable[[Mapping[str, str]], str | None]
"""Returns the session that a query names, or None."""


@dataclass(frozen=True, slots=True)
class Known:
    """A run. Its chunks begin at `offset` or later."""

    session_id: str
    run_id: str
    offset: str


@dataclass(frozen=True, slots=True)
class Found:
    """A run that the caller may read."""

    known: Known
    grant: Grant


def follows_run(scope: Scope) -> bool:
    """Return whether a request to the chat continues or joins a run."""
    if scope["method"] == "POST":
        return any(name == b"last-event-id" and value for name, value in scope["headers"])
    return b"runId=" in scope["query_string"]


async def read_chat(doors: Doors, request: Request, make_wire: MakeWire) -> Response:
    """Answer a GET: join a run if the query names one, otherwise return the state of a session."""
    if request.query_params.keys() & {"runId", "offset"}:
        return await join_run(doors, request, make_wire)
    return await hydrate_response(doors, request)


async def resume_run(doors: Doors, request: Request, make_wire: MakeWire, *, read: ReadBody = read_posted) -> Response:
    """Continue the run of an earlier POST after its Last-Event-ID. Raises NotFound, Conflict and InvalidRequest."""
    await doors.settled()
    with doors.starter.hold() as held:
        taken = await doors.starter.take_again(request, held, read=read)
    key = request_key(request, taken.posted)
    if key is None:
        raise InvalidRequest("Name the run to continue in X-Run-Id.", code="missing_run_id")
    offset = request.headers[LAST_EVENT_ID]
    known = await _known(doors, taken.session_id, key)
    if known is None and doors.settings.remote:
        known = await _known_by_place(doors, taken.session_id, offset)
    if known is None:
        raise _unknown(key)
    return await follow_found(doors, Found(known, taken.grant), offset, make_wire)


async def join_run(doors: Doors, request: Request, make_wire: MakeWire) -> Response:
    """Follow a run by its id. Raises NotFound, Conflict and InvalidRequest."""
    await doors.settled()
    run_id = check_key(request.query_params.get("runId"))
    if run_id is None:
        raise InvalidRequest("Name the run to follow in `runId`.", code="missing_run_id")
    found = await find_run(doors, request, run_id)
    return await follow_found(doors, found, offset_in(request), make_wire)


def offset_in(request: Request) -> str:
    """Return where a joined run is followed from."""
    return request.headers.get(LAST_EVENT_ID) or request.query_params.get("offset") or BEGINNING


# Finding the run.


async def find_run(
    doors: Doors, request: Request, run_id: str, *, named: NamedSession = named_session, action: Action = "read"
) -> Found:
    """
    Return the run with this id, in the session that the request names or in the only one that the caller may read.
    """
    doors.starter.check_token(request, action)
    session_id = named(request.query_params)
    if session_id is not None:
        allowed = await doors.starter.allow(request, session_id, action)
        only = await _known(doors, session_id, run_id)
        if only is None:
            raise _unknown(run_id)
        return Found(only, allowed)
    candidates = await _candidates(doors, run_id)
    asked = [(known, await grant_of(doors, request, known.session_id, action)) for known in candidates]
    readable = [Found(known, grant) for known, grant in asked if grant is not None]
    # An id that this server made is unique. A client can give another run the same id, but cannot hide it.
    readable = [found for found in readable if found.known.run_id == run_id] or readable
    if len(readable) > 1:
        raise Conflict("Several sessions have a run of this id. Add `threadId` to the query.", code="ambiguous_run")
    if not readable:
        raise _unknown(run_id)
    return readable[0]


async def _candidates(doors: Doors, run_id: str) -> list[Known]:
    """Return the runs with this id, or with this id of their client, whoever may read them."""
    left = doors.runs.recovery.left
    sessions = doors.starter.run_sessions.of(run_id) or ([left[run_id]] if run_id in left else [])
    if sessions:
        found = [await _known(doors, session_id, run_id) for session_id in sessions]
    else:  # a run of the last process, by its client's id
        tried = list(dict.fromkeys(left.values()))[:LEFT_TRIED_MAX]
        found = [await _known(doors, session_id, run_id, logged=False) for session_id in tried]
    return [known for known in found if known is not None]


async def _known(doors: Doors, session_id: str, run_id: str, *, logged: bool = True) -> Known | None:
    """Return a run of the session by the key of its request or by its id. With `logged`, look into the log, too."""
    run = await doors.runs.find(session_id, run_id)
    if run is not None:
        return Known(session_id, run.id, run.offset or ZERO)
    path = doors.runs.sessions.path_of(session_id)
    start = await start_of(doors.store.log, path, run_id, remote=doors.settings.remote) if logged else None
    return None if start is None else Known(session_id, run_id, start)


async def _known_by_place(doors: Doors, session_id: str, offset: str) -> Known | None:
    """
    Return the run that an offset is in. A remote store keeps no keys of requests, so a run that another process has
    started is only known by the place of its chunks.
    """
    _check_form(offset)
    path = doors.runs.sessions.path_of(session_id)
    run_id = await run_at(doors.store.log, path, offset)
    run_id = run_id or (await doors.runs.snapshot(session_id)).active_run
    if run_id is None or doors.starter.run_sessions.was_started(run_id):  # then its key would be known
        return None
    return await _known(doors, session_id, run_id)


async def grant_of(doors: Doors, request: Request, session_id: str, action: Action = "read") -> Grant | None:
    """
    Authorize the caller for a session that it did not name. A refusal is None: the caller must not learn that there is
    such a run.
    """
    try:
        return await doors.starter.allow(request, session_id, action)
    except DurableChatError as error:
        if error.status >= 500:
            raise
    except HTTPException as error:
        if error.status_code >= 500:
            raise
    return None


def _unknown(run_id: str) -> NotFound:
    message = f'There is no run "{run_id[:80]}" to follow here. Load the session instead.'
    return NotFound(message, code="unknown_run")


# Following it.


async def follow_found(doors: Doors, found: Found, offset: str, make_wire: MakeWire) -> Response:
    known, until_s = found.known, found.grant.until_s
    if offset == BEGINNING:
        wire = make_wire(known.offset, await _shown_before(doors, known))
        return await doors.follow_run(known.session_id, known.run_id, known.offset, wire, until_s=until_s)
    wire = make_wire(None, None)
    if offset == known.offset:
        return await doors.follow_run(known.session_id, known.run_id, offset, wire, until_s=until_s)
    path = doors.runs.sessions.path_of(known.session_id)
    if offset == NOW:
        offset = (await doors.store.log.head(path)).next_offset
    _check_form(offset)
    is_written = await _is_written(doors, known)  # asked first: what it writes before its end is then read below
    place = await place_in(
        doors.store.log, path, known.run_id, offset, is_written=is_written, remote=doors.settings.remote
    )
    if place is None:
        raise _not_in_run(known, offset)
    if place is Place.END:
        return Response(b"", headers={**HEADERS, **wire.headers, "X-Run-Id": known.run_id})
    return await doors.follow_run(known.session_id, known.run_id, offset, wire, inside=True, until_s=until_s)


def _check_form(offset: str) -> None:
    if not is_offset_like((split_inside(offset) or (offset, 0))[0]):
        raise InvalidRequest(f'"{offset[:80]}" is not an id that this server has sent.', code="bad_offset")


def _not_in_run(known: Known, offset: str) -> Conflict:
    message = f'The id "{offset[:80]}" is not one of the run "{known.run_id}". Follow the run from its beginning.'
    return Conflict(message, code="not_in_run")


async def _is_written(doors: Doors, known: Known) -> bool:
    """Return whether the run is being written, here or on a remote store by another process."""
    here = doors.runs.unfinished(known.session_id, known.run_id)
    if here is not None and not here.joined:
        return here.writing and not here.ended.done()
    if not doors.settings.remote:
        return False
    return (await doors.runs.snapshot(known.session_id)).active_run == known.run_id


async def _shown_before(doors: Doors, known: Known) -> Chunk | None:
    """
    Return a snapshot of the messages before a run that continues an answer, after an approval for example. A client
    that joins drops the answer at the end of what it shows, and takes the rest of it from the run.
    """
    if doors.settings.remote:
        snapshot = await doors.runs.snapshot(known.session_id)
        if snapshot.active_run != known.run_id:
            return None
        shown = messages_snapshot(snapshot.messages, timestamp=unix_ms())
    else:
        path = doors.runs.sessions.path_of(known.session_id)
        logged = await snapshot_before(doors.store.log, path, known.run_id, known.offset)
        if logged is None:
            return None
        shown = logged
    messages = shown["messages"]
    continues = isinstance(messages, list) and messages and messages[-1].get("role") == "assistant"
    return shown if continues else None
