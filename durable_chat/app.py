"""
The application: one object that opens the store, serves the routes and shuts down gracefully, mounted or standalone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, overload

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

import durable_chat.api.openapi.document as openapi
import durable_chat.metrics as metrics
from durable_chat.api.access import Authorize
from durable_chat.api.draining import Drained, path_of
from durable_chat.api.generations.choosing import choose_adapters
from durable_chat.api.generations.models import GenerationModel
from durable_chat.api.generations.responses import GenerationSlot
from durable_chat.api.routes import chat_routes
from durable_chat.api.targets import ChatSession, Servers, servers_here
from durable_chat.config.settings import Action, Settings
from durable_chat.errors import StartError, Unavailable
from durable_chat.generations.adapters import Activity, Adapter
from durable_chat.generations.videos import Polling
from durable_chat.http.access_log import logged, logged_soon
from durable_chat.http.auth import NOSNIFF, ChatGate, ProtocolGate, refuse_metrics
from durable_chat.http.bodies import BodyBudget
from durable_chat.http.callers import caller_of, flaw_of
from durable_chat.http.errors import answer, error_response
from durable_chat.http.headers import NO_STORE
from durable_chat.http.reads import LiveReads
from durable_chat.http.streams import Answered, stream_app
from durable_chat.http.tokens import issue
from durable_chat.models.agents import STEPS_MAX
from durable_chat.models.base import Model, ToolSpec
from durable_chat.models.choosing import check_key, choose_model, close_model, summary_model, with_context, with_tools
from durable_chat.models.tools import TIMEOUT_S, Tool, Tools, make_tool
from durable_chat.notices import unguarded_notice
from durable_chat.sessions.running.runs import Runs
from durable_chat.sessions.sessions import Sessions, check_session_id
from durable_chat.sessions.slots import session_of_slot
from durable_chat.signals import on_signals, will_reload
from durable_chat.store.base import Figures, Store
from durable_chat.web.pages import page_routes
from durable_chat.web.templates import Page

log = logging.getLogger(__name__)

PROTOCOL_PREFIXES = ("/v1/stream/", "/streams/", "/v1/streams/")
CHAT_PREFIX = "/api/"
AnyModel = TypeVar("AnyModel", bound=Model)
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
# RFC 6455: the endpoint cannot accept this type of data.
WEBSOCKET_REFUSED = 1003


@dataclass(slots=True)
class Life:
    """
    One opening of the store, from start to shutdown. `others` holds the remote servers that the application's own
    routes write to. Mutable state: `ready`, false once the shutdown begins; `drains`, the tasks that carry it out.
    """

    store: Store
    live: LiveReads
    runs: Runs
    protocol: ProtocolGate | None
    chat: ASGIApp
    grace_s: float
    others: Servers
    generating: GenerationModel
    ready: bool = True
    drains: list[asyncio.Task[None]] = field(default_factory=list)

    def begin_end(self) -> asyncio.Task[None]:
        """
        Begin the shutdown. End live responses cleanly, so that their clients resume by offset elsewhere or later;
        refuse new turns and reads; give the runs `grace_s` to finish. A second call ends the runs immediately. Return
        a task that is done when the runs have ended.
        """
        self.ready = False
        self.live.close()
        self.runs.draining = True
        grace_s = 0.0 if self.drains else self.grace_s
        if self.runs.count and grace_s:
            log.warning(
                "Shutting down: running answers (%d) have %g s to finish. A second signal stops them immediately.",
                self.runs.count,
                grace_s,
            )
        self.drains.append(asyncio.create_task(self._drain(grace_s), name="drain"))
        return self.drains[-1]

    async def _drain(self, grace_s: float) -> None:
        others = [self.others.drain(grace_s)] if self.others.lives == 1 else []
        await asyncio.gather(self.runs.drain(grace_s), *others)

    async def end(self) -> None:
        if not self.drains:
            self.begin_end()
        try:
            await asyncio.gather(*self.drains)
        finally:
            self.others.lives -= 1
            await self.runs.recovery.close()
            await self.generating.aclose()
            await self.store.close()


class DurableChat:
    """
    A durable chat, to mount in an application or to serve alone.

    - `store`: an address as in DURABLE_CHAT_STORE. Settings that are not given come from the environment.
    - `model`: a name as in DURABLE_CHAT_MODEL, or a function that answers. `@chat.model` sets it as well.
    - `authorize`: a function of the request, the session and the action (read, send, stop, delete), plain or async.
      The request is allowed only if it returns True.
    - `open`: serve everybody if nothing else says who may do what. Without it, only this machine is served then.
    - `protocol`: whether to serve the protocol routes. Default: only if DS_SECRET guards them.
    - `page`: whether to serve the chat page. A `Page` sets its texts.
    - `max_steps`: how many times a model with tools may be called in one turn.
    - `generations`: adapters of your own or their names, by activity (image, speech, transcription, summary, video).
      The others are those of DURABLE_CHAT_GENERATE.

    Raises StartError for invalid settings. Mutable state: `_life`, while the lifespan runs; `_model` and `_tools`
    until then.
    """

    def __init__(
        self,
        store: str | None = None,
        *,
        settings: Settings | None = None,
        model: Model | str | None = None,
        authorize: Authorize | None = None,
        protocol: bool | None = None,
        page: bool | Page = True,
        max_steps: int = STEPS_MAX,
        open: bool | None = None,  # noqa: A002 - it is the flag's name
        generations: Mapping[Activity, Adapter | str] | None = None,
    ) -> None:
        if settings is None:
            settings = Settings.from_env(os.environ, store=store)
        elif store is not None:
            settings = replace(settings, store=store)
        if open is not None:
            settings = replace(settings, open=open)
        if isinstance(model, str):
            settings, model = replace(settings, model=model), None
        self.settings = settings
        self._protocol = settings.secret is not None if protocol is None else protocol
        self._model: Model | None = model
        self._authorize = authorize
        self._adapters = dict(generations or {})
        self._logs_access = settings.access_log == "on"
        self._tools = Tools()
        self._max_steps = max_steps
        self.is_embedded = True
        self._life: Life | None = None
        self._plain = Plain(
            [*probe_routes(self), *page_routes(settings, page=Page() if page is True else page or None)]
        )

    @property
    def app(self) -> ASGIApp:
        """The ASGI app, to mount or to serve."""
        return self

    def model(self, function: AnyModel) -> AnyModel:
        """
        Set the function that answers turns: `@chat.model` above an async generator of chunks, which takes a `Turn`. It
        takes precedence over DURABLE_CHAT_MODEL.
        """
        self._model = function
        return function

    @overload
    def tool(self, function: AnyFunction, /) -> AnyFunction: ...

    @overload
    def tool(
        self,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        needs_approval: bool = False,
        timeout_s: float = TIMEOUT_S,
        idempotent: bool = False,
    ) -> Callable[[AnyFunction], AnyFunction]: ...

    def tool(self, function: AnyFunction | None = None, /, **options: Any) -> Any:
        """
        Add a function that the model may call: `@chat.tool`, or `@chat.tool(needs_approval=True)`. Its name, docstring
        and type hints describe it to the model; `parameters`, a JSON schema, replaces the type hints. A parameter
        annotated as `Turn` receives the turn, and one annotated as `IdempotencyKey` the key of the call. An
        `idempotent` tool is called again with the same key if the server died during the call. An exception becomes the
        call's result; the model sees the message of a ToolError only.
        """

        def add(function: AnyFunction) -> AnyFunction:
            self._tools.add(make_tool(function, **options))
            return function

        return add if function is None else add(function)

    def client_tool(
        self,
        name: str,
        *,
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
        needs_approval: bool = False,
    ) -> None:
        """Add a tool that runs in the client. Every tab is asked, and the first answer counts."""
        spec = ToolSpec(name, description, parameters) if parameters is not None else ToolSpec(name, description)
        self._tools.add(Tool(spec, needs_approval=needs_approval))

    def session(self, session_id: str, *, root_path: str = "") -> ChatSession:
        """
        Return a session for the library functions. `root_path` is where the chat is mounted: the addresses of files in
        its messages begin with it. Raises Unavailable if the chat is not open.
        """
        life = self._life
        if life is None:
            raise not_open()
        session_id = check_session_id(session_id)
        return ChatSession(session_id, life.runs, life.store, self.settings, life.live, root_path)

    def generation(self, slot: str, *, root_path: str = "") -> GenerationSlot:
        """
        Return a slot for `to_generation_response`. `root_path` is as in `session`. Raises Unavailable if the chat is
        not open, and InvalidRequest for an invalid name.
        """
        session = self.session(session_of_slot(slot), root_path=root_path)
        assert self._life is not None, "the session is open"
        return GenerationSlot(slot, session, self._life.generating)

    def token(self, session_id: str, *, can: Iterable[Action], ttl_s: int) -> str:
        """
        Return a token that allows these actions on a session for `ttl_s` seconds. Raises StartError if no token secret
        is set, and InvalidRequest for an invalid session id.
        """
        if self.settings.token_secret is None:
            raise StartError("DURABLE_CHAT_TOKEN_SECRET is not set. Tokens are signed with it: set it and restart.")
        session_id = check_session_id(session_id)
        return issue(self.settings.token_secret, session_id, can, now_s=time.time(), ttl_s=ttl_s)

    # From start to shutdown.

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """
        Open the store, and close it at the end. Use `FastAPI(lifespan=chat.lifespan)`, or
        `async with chat.lifespan(app): …` inside your own lifespan. Raises StartError.
        """
        model = self._model or choose_model(self.settings)
        summarizer = summary_model(self.settings)
        life = await self._begin(with_context(model, self.settings, summarizer))
        if self.is_embedded and self._authorize is None and (notice := unguarded_notice(self.settings)) is not None:
            log.warning("%s", notice)
        if will_reload():  # a developer waits for the new code, not for answers of the old code
            life.grace_s = 0
        try:
            with on_signals(life.begin_end):
                yield
        finally:
            try:
                await life.end()
            finally:
                self._life = None
                if self._model is None:
                    await close_model(model)
                await close_model(summarizer)

    async def _begin(self, model: Model) -> Life:
        if self._life is not None:
            raise StartError("This DurableChat is already open. Enter its lifespan only once.")
        settings = self.settings
        store = await open_any_store(settings)
        live = LiveReads(settings.readers_per_session_max)
        bodies = BodyBudget(settings.bodies_max_bytes)
        served = self._protocol and not settings.remote
        protocol = ProtocolGate(stream_app(store.log, settings, live, bodies), settings) if served else None
        runs = Runs(store, settings)
        answering = with_tools(model, self._tools, self._max_steps)
        polling = Polling(settings.video_poll_s, settings.video_max_s)
        generating = GenerationModel(choose_adapters(settings, self._adapters), polling=polling)
        runs.go_on_with(lambda activity: answering if activity is None else generating)
        keyed = partial(keyed_model, answering)
        routes = chat_routes(store, runs, settings, live, keyed, self._authorize, bodies, generating)
        hooked = self._authorize is not None
        chat = ChatGate(Drained(Router(routes, redirect_slashes=False), live), settings, hooked=hooked)
        await runs.recovery.start()
        runs.sessions.artifacts.start()
        self._life = Life(store, live, runs, protocol, chat, settings.grace_s, servers_here(), generating)
        self._life.others.lives += 1
        return self._life

    # Requests.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        elif scope["type"] == "http":
            # Starlette's routing raises its 404 and 405 only inside an application, and the handlers of an outer
            # application must not answer them. Headers are copied because a server may add trailers to the list while
            # it reads the body; trailers are not headers (RFC 9110, 6.5.1).
            scope = {"app": self, **scope, "headers": list(scope["headers"])}
            scope.pop("starlette.exception_handlers", None)
            app = self._find(scope)
            await (logged(app, scope, receive, send) if self._logs_access else app(scope, receive, send))
        else:
            await send({"type": "websocket.close", "code": WEBSOCKET_REFUSED})

    def write_soon(self, scope: Scope, body: bytes, done: Answered) -> bool:
        """Answer a POST or PUT to a stream whose body has been read. See `StreamApp.write_soon`."""
        life = self._life
        if life is None or life.protocol is None or not path_of(scope).startswith(PROTOCOL_PREFIXES):
            return False
        return life.protocol.write_soon(scope, body, logged_soon(scope, done) if self._logs_access else done)

    def _find(self, scope: Scope) -> ASGIApp:
        path = path_of(scope)
        life = self._life
        if path.startswith(PROTOCOL_PREFIXES):
            if life is not None:
                return life.protocol or self._plain
        elif path.startswith(CHAT_PREFIX):
            if life is not None:
                return life.chat
        else:
            return self._plain
        return error_response(not_open())

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        """Run the lifespan for a server that runs `chat.app` itself. A start that fails is reported in one sentence."""
        await receive()
        phase = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except StartError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        except Exception as error:
            # Without a message, the server would assume that lifespans are not supported and every request would fail.
            await send({"type": f"lifespan.{phase}.failed", "message": repr(error)})
            raise
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def healthz(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=NO_STORE)

    async def readyz(self, _request: Request) -> Response:
        if self._life is None or not self._life.ready:
            raise not_open()
        if not self._life.runs.recovery.done:
            raise Unavailable("The server is starting: it is ending interrupted answers.", code="recovering")
        if (failure := self._life.store.failure()) is not None:
            raise failure
        return JSONResponse({"status": "ready"}, headers=NO_STORE)

    async def openapi(self, _request: Request) -> Response:
        return Response(openapi.encoded(), headers=OPENAPI_HEADERS, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        refuse_metrics(request.scope, self.settings.secret)
        if self._life is not None:
            metrics.live_reads.value = self._life.live.count
            metrics.runs_active.value = self._life.runs.count
            note_figures(self._life.store.figures())
            note_sessions(self._life.runs.sessions)
        return Response(metrics.render(), headers={**NO_STORE, "Content-Type": metrics.CONTENT_TYPE})


def note_figures(figures: Figures) -> None:
    """Copy the store's figures into the metrics."""
    metrics.queue_writes.value = figures.queue_writes
    metrics.streams_cached.value = figures.streams_cached
    metrics.stream_lookups.values = {("hit",): figures.cache_hits, ("miss",): figures.cache_misses}
    metrics.journal_bytes.value = figures.journal_bytes
    metrics.uncompacted_bytes.value = figures.uncompacted_bytes
    metrics.database_bytes.value = figures.database_bytes


def note_sessions(sessions: Sessions) -> None:
    metrics.sessions_cached.value = sessions.count
    metrics.sessions_cached_bytes.value = sessions.idle_bytes
    metrics.session_lookups.values = {("hit",): sessions.hits, ("miss",): sessions.misses}


def probe_routes(chat: DurableChat) -> list[BaseRoute]:
    """Return the routes for operators, and `/openapi.json` for tools."""
    return [
        Route("/healthz", chat.healthz),
        Route("/readyz", chat.readyz),
        Route("/metrics", chat.metrics),
        Route("/openapi.json", chat.openapi),
    ]


def create_app(settings: Settings) -> DurableChat:
    """Return the application for `serve`: all routes, including those of the protocol. Raises StartError."""
    chat = DurableChat(settings=settings, protocol=True)
    chat.is_embedded = False  # `serve` prints who is served
    return chat


OPENAPI_HEADERS = {"Cache-Control": "no-cache", "Access-Control-Allow-Origin": "*"}
"""The description contains no private data, so tools on other origins may read it."""


class Plain:
    """The routes without access control: the probes, the page, and 404 for any other path."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        flaw = flaw_of(caller_of(scope), scope)
        app = self.router if flaw is None else error_response(flaw)
        await answer(app, scope, receive, send, extra=NOSNIFF, routes="other")


async def open_any_store(settings: Settings) -> Store:
    """Open the embedded or the remote store. Raises StartError."""
    if settings.remote:
        from durable_chat.http.upstream.log import open_upstream

        return await open_upstream(settings.store, settings.secret)
    from durable_chat.store.opening import open_store

    return await open_store(settings.store, settings.streams_cached_max)


def keyed_model(model: Model, api_key: str | None) -> Model:
    """Return the model if it has the key it needs. Raises Unauthorized otherwise."""
    check_key(model, api_key)
    return model


def not_open() -> Unavailable:
    return Unavailable(
        "The chat is not open: it is starting or shutting down, or the application does not run its lifespan.",
        code="not_open",
    )
