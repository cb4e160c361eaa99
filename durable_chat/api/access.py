"""
Authorization of requests to sessions, by session tokens and by the application's own hook. If both are configured, both
must allow the request. If neither is, every request is allowed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

from durable_chat.api.rate_limits import Rates, site_of
from durable_chat.config.settings import Action, Settings
from durable_chat.errors import DurableChatError, Forbidden, Unavailable
from durable_chat.http.callers import caller_of
from durable_chat.http.tokens import Token, bearer_token, verify

Authorize = Callable[[Request, str, Action], bool | Awaitable[bool]]
"""
The application's hook: decides whether this request may perform the action on the session. Only True allows it. A
DurableChatError or HTTPException that it raises becomes the response. A plain function runs in a thread.
"""

AUTHORIZE_MAX_S = 30.0
"""The time limit of a hook. A slower one is considered hung: no client waits this long for the first byte."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """What was allowed: the caller's identity as far as it is known, and the expiry (Unix time), if any."""

    caller: str
    until_s: float | None = None


class Access:
    """Authorizes every request of the chat routes. Mutable state: that of `_rates`."""

    def __init__(
        self, settings: Settings, authorize: Authorize | None = None, now_s: Callable[[], float] = time.time
    ) -> None:
        self._secret = settings.token_secret
        self._authorize = authorize
        self._now_s = now_s
        self._rates = None if settings.turns_per_minute is None else Rates(settings.turns_per_minute)

    def check_token(self, request: Request, action: Action) -> Token | None:
        """
        Check the token before the session is known. Return None when tokens are not configured. Raises Unauthorized and
        Forbidden.
        """
        if self._secret is None:
            return None
        text = bearer_token(caller_of(request.scope).authorization)
        token = verify(self._secret, text, now_s=self._now_s())
        if action not in token.can:
            raise Forbidden("The token does not allow this action.")
        return token

    async def allow(self, request: Request, session_id: str, action: Action) -> Grant:
        """Authorize an action on the session. Raises Unauthorized, Forbidden, Unavailable, or what the hook raises."""
        token = self.check_token(request, action)
        if token is not None and token.session_id != session_id:
            raise Forbidden("The token is for another chat session.")
        if self._authorize is not None:
            await ask(self._authorize, request, session_id, action)
        if token is not None:
            return Grant(f"token {token.session_id}", token.until_s)
        return Grant(f"peer {site_of(request.client.host) if request.client else ''}")

    def count_turn(self, grant: Grant) -> None:
        """Count a turn of the caller. Raises TooManyRequests when the caller exceeds the configured rate."""
        if self._rates is not None:
            self._rates.take(grant.caller, time.monotonic())


async def ask(
    authorize: Authorize, request: Request, session_id: str, action: Action, max_s: float = AUTHORIZE_MAX_S
) -> None:
    """Call the hook. Every result except True refuses the request."""
    try:
        async with asyncio.timeout(max_s):
            allowed = await _call(authorize, request, session_id, action)
    except (DurableChatError, HTTPException):
        raise
    except TimeoutError as error:
        log.warning("the authorize hook did not return within %g s", max_s)
        raise Unavailable("The permission check timed out. Try again in a moment.", code="authorize_timeout") from error
    except Exception as error:
        log.exception("the authorize hook raised an exception")
        raise refused() from error
    if allowed is not True:
        raise refused()


async def _call(authorize: Authorize, request: Request, session_id: str, action: Action) -> object:
    if _is_async(authorize):
        allowed = authorize(request, session_id, action)
    else:
        allowed = await asyncio.to_thread(authorize, request, session_id, action)
    return await allowed if inspect.isawaitable(allowed) else allowed


def _is_async(function: object) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 (tests whether `__call__` is a coroutine function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def refused() -> Forbidden:
    return Forbidden("You may not do this in this chat.")
