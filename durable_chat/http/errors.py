"""Errors as responses: one JSON shape for every one of them, whether raised on purpose, by routing or by a bug."""

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

# What routing refuses by itself: status to (code, sentence).
ROUTING: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request is not understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not answer that method."),
}


def error_response(error: DurableChatError) -> Response:
    """The answer to an error: its status, its headers, and a body for a person and for a program."""
    if error.status in (429, 503):
        metrics.refused.add(error.code)
    return json_error(error.status, error.code, error.message, error.headers)


async def answer_error(_request: Request, error: Exception) -> Response:
    """
    The same for applications: `app.add_exception_handler(DurableChatError, answer_error)`. Without it their own shape
    of an HTTPException is the answer.
    """
    if not isinstance(error, DurableChatError):
        raise error
    return error_response(error)


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


class Answer:
    """
    A `send` that adds headers to the response where it does not have them. Mutable state: `status`, 0 until the
    response has begun.
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
            # A second Vary line adds to the first; any other header is said once.
            missing = [
                (name, value)
                for name, value in self._extra
                if (value not in varies if name == b"vary" else name not in names)
            ]
            message = {**message, "headers": [*headers, *missing]}
        await self._send(message)


async def answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, extra: Headers, routes: str) -> None:
    """
    Run an ASGI app, answer what it raises, and count it under `routes`. Once a response has begun there is no answer
    left to give: the exception goes on to the server, which cuts the connection, so that a torn body is not taken for
    a whole one.
    """
    given = Answer(send, extra)
    metrics.responses_open.value += 1
    try:
        await app(scope, receive, given)
    except ClientDisconnect:
        # Nobody is there to answer.
        return
    except Exception as error:
        if given.status:
            raise
        await response_to(error, scope)(scope, receive, given)
    finally:
        metrics.responses_open.value -= 1
        metrics.requests.add(routes, method_of(scope), str(given.status))


def method_of(scope: Scope) -> str:
    """The method as a metric's label: a caller's inventions are one."""
    method: str = scope["method"]
    return method if method in METHODS else "other"


def response_to(error: Exception, scope: Scope) -> Response:
    """The response to any exception; one that nobody raised on purpose is logged."""
    if isinstance(error, DurableChatError):
        return error_response(error)
    if isinstance(error, HTTPException):
        return http_error_response(error)
    # The query is left out: it may hold what is not for a log.
    log.error("unexpected error at %s %s", scope["method"], scope["path"], exc_info=error)
    return unexpected_response()
