"""Errors as responses: one JSON shape for every one of them, whether raised on purpose, by routing or by a bug."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from durable_chat.errors import DurableChatError

log = logging.getLogger(__name__)

# What routing refuses by itself: status to (code, sentence).
ROUTING: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request is not understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not answer that method."),
}


def error_response(error: DurableChatError) -> Response:
    """The answer to an error: its status, its headers, and a body for a person and for a program."""
    return json_error(error.status, error.code, error.message, error.headers)


def json_error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"error": message, "code": code})
    # No cache may keep an error: the next request may fare better.
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def http_error_response(error: HTTPException) -> Response:
    code, message = ROUTING.get(error.status_code, ("http_error", str(error.detail)))
    return json_error(error.status_code, code, message, error.headers)


def unexpected_response() -> Response:
    """What is said of a bug: nothing that could hold a secret."""
    return json_error(500, "internal", "Something went wrong on the server.")


async def on_error(_request: Request, error: Exception) -> Response:
    """Starlette's form of a handler, for the errors that are raised on purpose."""
    if isinstance(error, DurableChatError):
        return error_response(error)
    assert isinstance(error, HTTPException)
    return http_error_response(error)


# For `Starlette(exception_handlers=…)`. Other exceptions are left to `ErrorBoundary`.
exception_handlers: dict[Any, Any] = {DurableChatError: on_error, HTTPException: on_error}


class ErrorBoundary:
    """
    Answers what an ASGI app raises. Once a response has begun there is no answer left to give: the exception goes on
    to the server, which cuts the connection, so that a torn body is not taken for a whole one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await response_to(error, scope)(scope, receive, send)


def response_to(error: Exception, scope: Scope) -> Response:
    """The response to any exception; one that nobody raised on purpose is logged."""
    if isinstance(error, DurableChatError):
        return error_response(error)
    if isinstance(error, HTTPException):
        return http_error_response(error)
    # The query is left out: it may hold what is not for a log.
    log.error("unexpected error at %s %s", scope["method"], scope["path"], exc_info=error)
    return unexpected_response()
