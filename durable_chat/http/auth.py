"""
Access control: the bearer secret of the protocol routes, the loopback rule without a secret, and other origins.

One rule holds for all routes except the page and the probes: if no secret, token or hook guards them, only requests
from this machine are served. The rules are pure functions over a `Caller`. The two gates are ASGI apps around the
routes that they guard.
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import durable_chat.metrics as metrics
from durable_chat.config.addresses import origin_of
from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError, Forbidden, Unauthorized
from durable_chat.http.callers import Caller, caller_of, flaw_of, is_local
from durable_chat.http.errors import Headers, answer, error_response
from durable_chat.http.streams import Answered, RawHeaders, StreamApp

# Methods that change nothing. A browser sends them for any page, and hides the response from a page of another origin.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# How long a browser may cache a preflight response. A change of the settings takes effect after at most ten minutes.
PREFLIGHT_MAX_AGE_S = 600

CHAT_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
CHAT_REQUEST_HEADERS = (
    "Content-Type, Authorization, X-Run-Id, Last-Event-ID, X-Api-Key, Idempotency-Key, If-None-Match, Range, If-Range"
)
CHAT_EXPOSED_HEADERS = (
    "Retry-After, Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, ETag, Location, X-Run-Id, "
    "Accept-Ranges, Content-Range"
)
# The prefix of the headers in which TanStack AI sends a user's own key for each provider.
CHAT_REQUEST_HEADER_PREFIX = "x-byok-"

PROTOCOL_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
PROTOCOL_REQUEST_HEADERS = (
    "Content-Type, Authorization, If-None-Match, Stream-Seq, Stream-TTL, Stream-Expires-At, Stream-Closed, "
    "Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Producer-Id, Producer-Epoch, Producer-Seq"
)
PROTOCOL_EXPOSED_HEADERS = (
    "Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-TTL, Stream-Expires-At, "
    "Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq, "
    "ETag, Location, Retry-After, Content-Type, Content-Encoding, Vary"
)

PROTOCOL_UNGUARDED = (
    "DS_SECRET is not set, so these routes serve only this machine, as localhost or 127.0.0.1 and not through a proxy. "
    "Set DS_SECRET to serve other machines."
)
CHAT_UNGUARDED = (
    "This chat has no access control, so it serves only this machine, as localhost or 127.0.0.1, not through a proxy. "
    "To serve other machines, set DURABLE_CHAT_TOKEN_SECRET, pass authorize= to DurableChat, or set DS_SECRET and send "
    "it as a bearer token. --open (open=True in Python) serves everybody."
)

log = logging.getLogger(__name__)

NOSNIFF: Headers = ((b"x-content-type-options", b"nosniff"),)


def bearer_matches(authorization: bytes | None, secret: str) -> bool:
    """Return whether the header carries the secret. The comparison takes constant time."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), secret.encode())


def is_same_origin(caller: Caller) -> bool:
    """
    Return whether the calling page was served by this server. Behind a proxy that changes the Host header, only the
    browser knows (`Sec-Fetch-Site`), and no page can forge that header.
    """
    if caller.origin is None or caller.fetch_site == b"same-origin":
        return True
    scheme, _, _ = caller.origin.partition(b"://")
    origin = origin_of(caller.origin.decode("latin-1"))
    return origin is not None and origin == origin_of((scheme + b"://" + (caller.host or b"")).decode("latin-1"))


def allowed_origin(origin: bytes | None, allow_origins: Iterable[str]) -> str | None:
    """Return the value of `Access-Control-Allow-Origin` for this origin: itself, `*`, or None for no header."""
    if origin is None:
        return None
    text = origin.decode("latin-1")
    return text if text in allow_origins else "*" if "*" in allow_origins else None


def refuse_metrics(scope: Scope, secret: str | None) -> None:
    """Allow metrics to this machine, or to a caller with the secret. Raises Unauthorized or Forbidden."""
    caller = caller_of(scope)
    if is_local(caller) or (secret and bearer_matches(caller.authorization, secret)):
        return
    raise _unauthorized() if secret else _loopback_only()


def _unauthorized() -> DurableChatError:
    return Unauthorized("The secret is missing or wrong.", headers={"WWW-Authenticate": "Bearer"})


def _loopback_only(message: str = PROTOCOL_UNGUARDED) -> DurableChatError:
    return Forbidden(message, code="loopback_only")


def _forbidden_origin() -> DurableChatError:
    return Forbidden("This origin is not allowed. Add it to DURABLE_CHAT_ALLOW_ORIGINS.", code="forbidden_origin")


def _encode(headers: dict[str, str]) -> Headers:
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())


VARY_ORIGIN: Headers = ((b"vary", b"Origin"),)
PROTOCOL_LOCAL: Headers = (*NOSNIFF, *_encode({"Cross-Origin-Resource-Policy": "same-origin"}))
PROTOCOL_CORS: Headers = (
    *NOSNIFF,
    *_encode(
        {
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": PROTOCOL_EXPOSED_HEADERS,
        }
    ),
)


class ProtocolGate:
    """
    Guards the protocol routes. With a secret, any origin that sends it may use them. Without one, only this machine
    may, and pages of other origins can neither write nor read responses.
    """

    def __init__(self, app: StreamApp, settings: Settings) -> None:
        self.app = app
        self.secret = settings.secret
        self.extra = PROTOCOL_CORS if settings.secret else PROTOCOL_LOCAL

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        app = self._admit(caller, scope)
        await answer(app, scope, receive, send, extra=self.extra, routes="protocol")

    def write_soon(self, scope: Scope, body: bytes, done: Answered) -> bool:
        """See `StreamApp.write_soon`."""
        if self._refusal(caller_of(scope), scope) is not None:
            return False
        method = scope["method"]

        def tell(given: tuple[int, RawHeaders] | None, failure: DurableChatError | None) -> None:
            if given is not None:
                metrics.requests.add("protocol", method, str(given[0]))
                given[1].extend(self.extra)
            done(given, failure)

        return self.app.write_soon(scope, body, tell)

    def _admit(self, caller: Caller, scope: Scope) -> ASGIApp:
        # A browser asks before it sends the secret, so a preflight has none.
        if scope["method"] == "OPTIONS" and (self.secret or is_local(caller)) and flaw_of(caller, scope) is None:
            return preflight_response(PROTOCOL_METHODS, PROTOCOL_REQUEST_HEADERS)
        refusal = self._refusal(caller, scope)
        return error_response(refusal) if refusal else self.app

    def _refusal(self, caller: Caller, scope: Scope) -> DurableChatError | None:
        if (flaw := flaw_of(caller, scope)) is not None:
            return flaw
        if self.secret:
            return None if bearer_matches(caller.authorization, self.secret) else _unauthorized()
        if not is_local(caller):
            return _loopback_only()
        if scope["method"] not in SAFE_METHODS and not is_same_origin(caller):
            return Forbidden("Pages of other origins may write only if DS_SECRET is set.", code="forbidden_origin")
        return None


class ChatGate:
    """
    Guards the `/api` routes. Pages of other origins may use them only if `DURABLE_CHAT_ALLOW_ORIGINS` names them. If
    neither tokens nor a hook decide who may do what, only this machine and callers with the secret are served. Mutable
    state: `_warned`, once a caller was refused for that reason.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, hooked: bool = False) -> None:
        self.app = app
        self.allow_origins = settings.allow_origins
        self.guarded = is_guarded(settings, hooked=hooked)
        self.secret = None if settings.remote else settings.secret
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        origin = allowed_origin(caller.origin, self.allow_origins)
        app = self._admit(caller, scope, origin)
        await answer(app, scope, receive, send, extra=(*NOSNIFF, *_chat_cors(origin)), routes="chat")

    def _admit(self, caller: Caller, scope: Scope, origin: str | None) -> ASGIApp:
        asked = _asked_headers(scope) if scope["method"] == "OPTIONS" else None
        foreign = origin is None and not is_same_origin(caller)
        if (flaw := flaw_of(caller, scope)) is not None:
            return error_response(flaw)
        if not self.guarded and not self._knows(caller, preflight=asked is not None):
            return error_response(self._unguarded(caller))
        if foreign and (asked is not None or scope["method"] not in SAFE_METHODS):
            return error_response(_forbidden_origin())
        return self.app if asked is None else preflight_response(CHAT_METHODS, allowed_chat_headers(asked))

    def _knows(self, caller: Caller, *, preflight: bool) -> bool:
        # A browser asks before it sends the secret, so a preflight has none.
        if is_local(caller) or (preflight and self.secret is not None):
            return True
        return self.secret is not None and bearer_matches(caller.authorization, self.secret)

    def _unguarded(self, caller: Caller) -> DurableChatError:
        if not self._warned:
            self._warned = True
            log.warning("refused a request from %s to /api. %s", caller.peer or "an unknown peer", CHAT_UNGUARDED)
        return _loopback_only(CHAT_UNGUARDED)


def is_guarded(settings: Settings, *, hooked: bool) -> bool:
    """Return whether tokens, a hook or `--open` decide who may use `/api`."""
    return hooked or settings.token_secret is not None or settings.open


def _chat_cors(origin: str | None) -> Headers:
    if origin is None:
        return ()
    headers = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": CHAT_EXPOSED_HEADERS}
    if origin != "*":
        # The authorize hook may identify users by cookies.
        headers["Access-Control-Allow-Credentials"] = "true"
    return (*VARY_ORIGIN, *_encode(headers))


def _asked_headers(scope: Scope) -> str | None:
    """Return the header names that a preflight asks about, or None if this is not a preflight."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if b"access-control-request-method" not in headers:
        return None
    return headers.get(b"access-control-request-headers", b"").decode("latin-1")


def allowed_chat_headers(asked: str) -> str:
    """Return the request headers that a page may send. Of those with the prefix, only the requested ones."""
    own = [name for name in (part.strip().lower() for part in asked.split(",")) if _is_own_key(name)]
    return ", ".join([CHAT_REQUEST_HEADERS, *own])


def _is_own_key(name: str) -> bool:
    return re.fullmatch(rf"{CHAT_REQUEST_HEADER_PREFIX}[a-z0-9-]{{1,64}}", name) is not None


def preflight_response(methods: str, headers: str) -> Response:
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": headers,
            "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
        },
    )
