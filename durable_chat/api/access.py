"""
Who may do what to a session: whoever holds a token for it, and whom the application's own hook lets through. Where
both are set both are asked; where neither is, everybody may.
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
from durable_chat.config import Action, Settings
from durable_chat.errors import DurableChatError, Forbidden, Unavailable
from durable_chat.http.callers import caller_of
from durable_chat.http.tokens import Token, bearer_token, verify

Authorize = Callable[[Request, str, Action], bool | Awaitable[bool]]
"""
The application's hook: whether this request may do that to the session. Only True lets it through; it may raise a
DurableChatError or an HTTPException, which is then the answer. A plain function runs in a thread.
"""

AUTHORIZE_MAX_S = 30.0
"""A hook that takes longer hangs: no reader waits so long for the first byte."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """What was allowed: to whom, as far as it is known, and until when (Unix time), where it ends."""

    caller: str
    until_s: float | None = None


class Access:
    """Decides over every request of the chat routes. Mutable state: that of `_rates`."""

    def __init__(
        self, settings: Settings, authorize: Authorize | None = None, now_s: Callable[[], float] = time.time
    ) -> None:
        self._secret = settings.token_secret
        self._authorize = authorize
        self._now_s = now_s
        self._rates = None if settings.turns_per_minute is None else Rates(settings.turns_per_minute)

    def check_token(self, request: Request, action: Action) -> Token | None:
        """
        What can be decided before the session is known. None where no tokens are asked for. Raises Unauthorized and
        Forbidden.
        """
        if self._secret is None:
            return None
        text = bearer_token(caller_of(request.scope).authorization)
        token = verify(self._secret, text, now_s=self._now_s())
        if action not in token.can:
            raise Forbidden("The token does not allow that.")
        return token

    async def allow(self, request: Request, session_id: str, action: Action) -> Grant:
        """Raises Unauthorized, Forbidden, Unavailable, or what the hook raises."""
        token = self.check_token(request, action)
        if token is not None and token.session_id != session_id:
            raise Forbidden("The token is for another chat.")
        if self._authorize is not None:
            await ask(self._authorize, request, session_id, action)
        if token is not None:
            return Grant(f"token {token.session_id}", token.until_s)
        return Grant(f"peer {site_of(request.client.host) if request.client else ''}")

    def count_turn(self, grant: Grant) -> None:
        """Raises TooManyRequests for a caller who sends turns faster than the setting allows."""
        if self._rates is not None:
            self._rates.take(grant.caller, time.monotonic())


async def ask(
    authorize: Authorize, request: Request, session_id: str, action: Action, max_s: float = AUTHORIZE_MAX_S
) -> None:
    """Whatever a hook does but answering True, it does not let the request through."""
    try:
        async with asyncio.timeout(max_s):
            allowed = await _call(authorize, request, session_id, action)
    except (DurableChatError, HTTPException):
        raise
    except TimeoutError as error:
        log.warning("the authorize hook did not answer in %g s", max_s)
        raise Unavailable("Permission could not be checked.", code="authorize_timeout") from error
    except Exception as error:
        log.exception("the authorize hook failed")
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
    call = getattr(function, "__call__", None)  # noqa: B004 (what is asked is whether that one is a coroutine function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def refused() -> Forbidden:
    return Forbidden("You may not do this in this chat.")
