"""Errors as responses: one JSON shape for all errors, from our code, from routing and from bugs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import durable_chat.metrics as metrics
from durable_chat.errors import DurableChatError

log = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})

# The errors of Starlette's routing: status to (code, message).
ROUTING: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request is malformed."),
    404: ("not_found", "There is no route at this path."),
    405: ("method_not_allowed", "This path does not support the method."),
}


def error_response(error: DurableChatError) -> Response:
    """Return the response for an error: its status, its headers, and a body with a message and a code."""
    if error.status in (429, 503):
        metrics.refused.add(error.code)
    return json_error(error.status, error.code, error.message, error.headers)


async def answer_error(_request: Request, error: Exception) -> Response:
    """
    Return the same response in an application: `app.add_exception_handler(DurableChatError, answer_error)`. Without
    it, the application responds as for any HTTPException.
    """
    if not isinstance(error, DurableChatError):
        raise error
    return error_response(error)


def json_error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"error": message, "code": code})
    # Caches must not store an error: the next request may succeed.
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def http_error_response(error: HTTPException) -> Response:
    code, message = ROUTING.get(error.status_code, ("http_error", str(error.detail)))
    return json_error(error.status_code, code, message, error.headers)


def unexpected_response() -> Response:
    """Return the response for a bug. Its message contains no details, because they could contain a secret."""
    return json_error(500, "internal", "Something went wrong on the server.")


class Answer:
    """
    A `send` that adds missing headers to the response. Mutable state: `status`, 0 until the response has begun.
    """

    __slots__ = ("_extra", "_send", "status")

    def __init__(self, send: Send, extra: Headers) -> None:
        self._send = send
        self._extra = extra
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            names = {name.lower() for name, _ in headers}
            varies = b",".join(value for name, value in headers if name.lower() == b"vary")
            # A second Vary line adds to the first. Any other header may occur only once.
            missing = [
                (name, value)
                for name, value in self._extra
                if (value not in varies if name == b"vary" else name not in names)
            ]
            message = {**message, "headers": [*headers, *missing]}
        await self._send(message)


async def answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, extra: Headers, routes: str) -> None:
    """
    Run an ASGI app, turn its exceptions into responses, and count the request under `routes`. An exception after the
    start of the response is re-raised: the server then closes the connection, so that no client takes the partial body
    for a complete one.
    """
    given = Answer(send, extra)
    metrics.responses_open.value += 1
    try:
        await app(scope, receive, given)
    except ClientDisconnect:
        # The client is gone.
        return
    except Exception as error:
        if given.status:
            raise
        await response_to(error, scope)(scope, receive, given)
    finally:
        metrics.responses_open.value -= 1
        metrics.requests.add(routes, method_of(scope), str(given.status))


def method_of(scope: Scope) -> str:
    """Return the method as a metric's label. All unknown methods share one, so callers cannot create many labels."""
    method: str = scope["method"]
    return method if method in METHODS else "other"


def response_to(error: Exception, scope: Scope) -> Response:
    """Return the response to any exception. Unexpected exceptions are logged."""
    if isinstance(error, DurableChatError):
        return error_response(error)
    if isinstance(error, HTTPException):
        return http_error_response(error)
    # Without the query, which may contain secrets.
    log.error("unexpected error in %s %s", scope["method"], scope["path"], exc_info=error)
    return unexpected_response()
