"""
Start a turn from a request: authorization, limits, the body, and the key that identifies a repetition. Every route that
accepts a turn does this in the same order, whichever frontend it serves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from starlette.requests import Request

from durable_chat.api.access import Access, Grant
from durable_chat.api.bodies import read_posted
from durable_chat.api.run_places import RunSessions
from durable_chat.config.kinds import TURN_MODES
from durable_chat.config.settings import Action, Settings
from durable_chat.errors import InvalidRequest
from durable_chat.http.bodies import BodyBudget, HeldBody
from durable_chat.models.base import Model
from durable_chat.sessions.running.idempotency import check_key
from durable_chat.sessions.running.posted import Posted, detach_files
from durable_chat.sessions.running.run import Job, Run
from durable_chat.sessions.running.runs import Runs
from durable_chat.sessions.running.turns import Ask, PostedAsk
from durable_chat.sessions.sessions import check_session_id
from durable_chat.sessions.slots import PREFIX, authorized_as, slot_of_session
from durable_chat.transcripts.attachments import Detacher

API_KEY_CHARS_MAX = 1024
"""The maximum length of a user's own key. No real key is longer, and it is held in memory until its run ends."""

ChooseModel = Callable[[str | None], Model]
"""Returns the model for a turn, given the user's own key or None. Raises Unauthorized `missing_api_key`."""

ReadBody = Callable[[Request, int, HeldBody], Awaitable[Posted]]
"""Reads a body within a number of bytes, and returns what it asks. `read_posted` reads those of TanStack and AG-UI."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A turn that its sender may start: its session, what it asks, and the sender's permission."""

    session_id: str
    posted: Posted
    grant: Grant


class Starter:
    """
    Takes turns from requests and starts them.

        with starter.hold() as held:
            taken = await starter.take(request, held)
            run = await starter.start(request, taken.session_id, taken.posted)
    """

    def __init__(
        self, runs: Runs, settings: Settings, choose_model: ChooseModel, access: Access, bodies: BodyBudget
    ) -> None:
        self.runs = runs
        self.settings = settings
        self._choose_model = choose_model
        self._access = access
        self._bodies = bodies
        self.run_sessions = RunSessions()

    async def allow(self, request: Request, session_id: str, action: Action) -> Grant:
        """
        Authorize the caller for an action on the session. Every route calls this. The session of a generation belongs
        to whoever may use its slot. Raises what `Access.allow` raises.
        """
        return await self._access.allow(request, authorized_as(session_id), action)

    def check_token(self, request: Request, action: Action) -> None:
        """Check the token before the session is known. Raises Unauthorized and Forbidden."""
        self._access.check_token(request, action)

    def hold(self) -> HeldBody:
        """Return a context for one body, which counts toward the limit of all bodies. Keep it open until the start."""
        return self._bodies.hold()

    async def take(self, request: Request, held: HeldBody, *, read: ReadBody = read_posted) -> Taken:
        """
        Return the turn of an allowed request, with its long files detached. Raises what `allow` and `read` raise,
        TooManyRequests, and InvalidRequest.
        """
        taken = await self._read(request, held, read, "send")
        return replace(taken, posted=await self._detached(request, taken.session_id, taken.posted))

    async def take_again(self, request: Request, held: HeldBody, *, read: ReadBody = read_posted) -> Taken:
        """
        Return the turn of a request that starts nothing, for example because it was sent before. Its sender only needs
        to read the session. Raises what `take` raises, except TooManyRequests.
        """
        return await self._read(request, held, read, "read")

    async def take_parsed(self, request: Request, session_id: str, posted: Posted) -> Taken:
        """
        Return the turn of a request whose body was read before it was known that it starts one. Raises what `take`
        raises.
        """
        grant = await self._permit(request, session_id, "send")
        return Taken(session_id, await self._detached(request, session_id, posted), grant)

    async def _read(self, request: Request, held: HeldBody, read: ReadBody, action: Action) -> Taken:
        """Read a body. Read as little of it as possible before the authorization, which is asked once."""
        named = request.query_params.get("id")
        grant: Grant | None = None
        if named is None:
            self.check_token(request, action)
        else:
            grant = await self._permit(request, check_session_id(named), action)
        posted = await read(request, self.settings.body_max_bytes, held)
        session_id = choose_session_id(named, posted)
        return Taken(session_id, posted, grant or await self._permit(request, session_id, action))

    async def _permit(self, request: Request, session_id: str, action: Action) -> Grant:
        """Authorize the caller. A turn counts toward the limit of turns."""
        grant = await self.allow(request, session_id, action)
        if action == "send":
            self._access.count_turn(grant)
        return grant

    async def _detached(self, request: Request, session_id: str, posted: Posted) -> Posted:
        return await detach_files(posted, Detacher.of(self.settings, session_id, request.scope.get("root_path", "")))

    async def start(self, request: Request, session_id: str, posted: Posted) -> Run:
        """
        Start the turn, or find the run that the request repeats. Raises what `Runs.start` raises, and InvalidRequest
        for an invalid key.
        """
        if slot_of_session(session_id) is not None:
            raise InvalidRequest(
                f'Ids that begin with "{PREFIX}" are those of generations. Use another session id.', code="bad_id"
            )
        key, api_key, turns = request_key(request, posted), api_key_of(request), asked_turns(request)
        model = self._choose_model(api_key)
        parent_run_id = posted.parent_run_id if posted.resume else None
        job = Job(session_id, model, posted.data, api_key, key, posted.tools, parent_run_id, turns=turns)
        return await self.begin(job, PostedAsk(posted, getattr(model, "server_tools", frozenset())))

    async def begin(self, job: Job, ask: Ask) -> Run:
        """Start a run, and remember its session. Raises what `Runs.start` raises."""
        self.run_sessions.note(job.session_id, job.key)
        run = await self.runs.start(replace(job, is_applications=True), ask)
        self.run_sessions.note_start(job.session_id, run.id)
        return run


def api_key_of(request: Request) -> str | None:
    """Return the user's own key, or None. Raises InvalidRequest."""
    api_key = request.headers.get("x-api-key") or None
    if api_key is not None and len(api_key) > API_KEY_CHARS_MAX:
        raise InvalidRequest("The API key in X-Api-Key is too long.", code="bad_api_key")
    return api_key


def request_key(request: Request, posted: Posted) -> str | None:
    """
    Return the key that identifies a repetition: a header, otherwise the body's `runId`. A header wins, because it
    exists for this purpose and may come from a layer below the author of the body. Raises InvalidRequest.
    """
    headers = (request.headers.get("idempotency-key"), request.headers.get("x-run-id"))
    return check_key(headers[0] or headers[1] or posted.run_id)


def asked_turns(request: Request) -> str | None:
    """
    Return what a turn is to do while an answer is running, if its request says so in the query. Raises InvalidRequest.
    """
    turns = request.query_params.get("turns")
    if turns is not None and turns not in TURN_MODES:
        raise InvalidRequest(f"`turns` must be {', '.join(TURN_MODES[:-1])} or {TURN_MODES[-1]}.", code="bad_turns")
    return turns


def choose_session_id(named: str | None, posted: Posted) -> str:
    """
    Return the session of a POST: its id outside the body, otherwise the body's `id` or `threadId`. Raises
    InvalidRequest when they differ.
    """
    names = posted.session_ids if named is None else posted.session_ids | {named}
    if len(names) > 1:
        raise InvalidRequest("The request names two sessions. Send one session id.", code="bad_id")
    return check_session_id(next(iter(names), None))
