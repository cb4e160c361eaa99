"""The Durable Streams protocol over HTTP: one ASGI app for every method of a stream's URL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError, InvalidRequest
from durable_chat.http.bodies import BodyBudget, read_body, respond
from durable_chat.http.errors import error_response, json_error
from durable_chat.http.headers import (
    Headers,
    is_closing,
    parse_append,
    parse_content_type,
    parse_create,
    single_headers,
)
from durable_chat.http.paths import raw_path, stream_path
from durable_chat.http.reads import LiveReads, read_response
from durable_chat.protocol.messages import BINARY, EMPTY, Payload, parse_payload
from durable_chat.protocol.requests import Append, Appended, Created
from durable_chat.store.base import Log, PromptLog

PARSED_INLINE_BYTES_MAX = 256 * 1024
"""A larger body is parsed in a thread, so that other requests do not wait noticeably."""

Handler = Callable[["StreamApp", Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]
Answered = Callable[[tuple[int, RawHeaders] | None, DurableChatError | None], None]
"""
Called once, with a status and headers, or with the error to answer with, or with neither if the request must be handled
again by the app.
"""


class StreamApp:
    """
    The routes under `/v1/stream/` and its other prefixes. It is a plain ASGI app because appends are the most frequent
    requests, and Starlette's request and response objects cost as much as the append itself.
    """

    def __init__(self, log: Log, settings: Settings, live: LiveReads, bodies: BodyBudget) -> None:
        self.log = log
        self.bodies = bodies
        self.settings = settings
        self.live = live
        self._prompt = log if isinstance(log, PromptLog) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = _HANDLERS.get(scope["method"])
        try:
            if handle is None:
                allow = {"Allow": ", ".join(sorted(_HANDLERS))}
                response = json_error(405, "method_not_allowed", "Streams do not support this method.", allow)
                await response(scope, receive, send)
            else:
                await handle(self, scope, receive, send)
        except DurableChatError as error:
            await error_response(error)(scope, receive, send)
        except ClientDisconnect:
            return

    async def put(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = stream_path(raw_path(scope))
        headers = single_headers(scope)
        content_type = parse_content_type(headers)
        with self.bodies.hold() as held:
            body = await read_body(scope, receive, self.settings.append_max_bytes, held)
            forked = b"stream-forked-from" in headers
            if body and content_type is None and forked:
                # A fork has its source's type, which determines how the body is split into messages.
                raise InvalidRequest("A fork with a body requires a Content-Type.", code="bad_content_type")
            payload = await _parse(content_type or BINARY, body) if body else EMPTY
            created = await self.log.create(path, parse_create(headers, payload, content_type))
        await respond(send, *_create_answer(scope, headers, created))

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = stream_path(raw_path(scope))
        headers = single_headers(scope)
        content_type = parse_content_type(headers)
        with self.bodies.hold() as held:
            body = await read_body(scope, receive, self.settings.append_max_bytes, held)
            payload = EMPTY
            if body and content_type is not None:
                payload = await _parse(content_type, body)
            request = _append_request(headers, content_type, body, payload)
            appended = await self.log.append(path, request)
        await respond(send, *_append_answer(request, appended))

    def write_soon(self, scope: Scope, body: bytes, done: Answered) -> bool:
        """
        Do the same as `put` or `post` for a short body that has been read, without a task that waits for the disk.
        Return False if `put` or `post` must handle the request.
        """
        if self._prompt is None:
            return False
        write = self._put_soon if scope["method"] == "PUT" else self._post_soon
        try:
            headers = single_headers(scope)
            path = stream_path(raw_path(scope))
            return write(self._prompt, path, scope, headers, body, done)
        except DurableChatError:
            return False

    def _put_soon(self, log: PromptLog, path: str, scope: Scope, headers: Headers, body: bytes, done: Answered) -> bool:
        content_type = parse_content_type(headers)
        payload = parse_payload(content_type or BINARY, body) if body else EMPTY

        def tell(created: Created | None, failure: DurableChatError | None) -> None:
            done(None if created is None else _create_answer(scope, headers, created), failure)

        return log.create_soon(path, parse_create(headers, payload, content_type), tell)

    def _post_soon(
        self, log: PromptLog, path: str, _scope: Scope, headers: Headers, body: bytes, done: Answered
    ) -> bool:
        content_type = parse_content_type(headers)
        payload = parse_payload(content_type, body) if body and content_type is not None else EMPTY
        request = _append_request(headers, content_type, body, payload)

        def tell(appended: Appended | None, failure: DurableChatError | None) -> None:
            done(None if appended is None else _append_answer(request, appended), failure)

        return log.append_soon(path, request, tell)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.log.delete(stream_path(raw_path(scope)))
        await respond(send, 204, [])

    async def head(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = await self.log.head(stream_path(raw_path(scope)))
        headers = [
            (b"content-type", head.content_type.encode("latin-1")),
            (b"stream-next-offset", head.next_offset.encode()),
            (b"cache-control", b"no-store"),
        ]
        if head.closed:
            headers.append((b"stream-closed", b"true"))
        if head.ttl_s is not None:
            headers.append((b"stream-ttl", b"%d" % head.ttl_s))
        if head.expires_at is not None:
            headers.append((b"stream-expires-at", head.expires_at.encode("latin-1")))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = stream_path(raw_path(scope))
        response = await read_response(self.log, path, Request(scope, receive), self.settings, self.live)
        await response(scope, receive, send)

    async def options(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 204, [(b"allow", b", ".join(name.encode() for name in sorted(_HANDLERS)))])


_HANDLERS: dict[str, Handler] = {
    "PUT": StreamApp.put,
    "POST": StreamApp.post,
    "DELETE": StreamApp.delete,
    "HEAD": StreamApp.head,
    "GET": StreamApp.get,
    "OPTIONS": StreamApp.options,
}


def stream_app(log: Log, settings: Settings, live: LiveReads, bodies: BodyBudget | None = None) -> StreamApp:
    """Return the protocol's routes for a log. They have no access control (see `http.auth`)."""
    return StreamApp(log, settings, live, bodies or BodyBudget(settings.bodies_max_bytes))


async def _parse(content_type: str, body: bytes) -> Payload:
    if len(body) <= PARSED_INLINE_BYTES_MAX:
        return parse_payload(content_type, body)
    return await asyncio.to_thread(parse_payload, content_type, body)


def _append_request(headers: Headers, content_type: str | None, body: bytes, payload: Payload) -> Append:
    """Return the append of a request. Raises InvalidRequest."""
    if body and content_type is None:
        raise InvalidRequest("A request with a body requires a Content-Type.", code="bad_content_type")
    if body and not payload.units:
        raise InvalidRequest("The array is empty: an append requires at least one message.", code="empty_body")
    if not body and not is_closing(headers):
        raise InvalidRequest("The body is empty. Only a request that closes the stream may omit it.", code="empty_body")
    return parse_append(headers, payload, content_type)


def _append_answer(request: Append, appended: Appended) -> tuple[int, RawHeaders]:
    plain = appended.producer is None or appended.duplicate or not request.payload.units
    return 204 if plain else 200, _appended_headers(appended)


def _create_answer(scope: Scope, headers: Headers, created: Created) -> tuple[int, RawHeaders]:
    return 200 if created.existed else 201, _created_headers(scope, headers, created)


def _created_headers(scope: Scope, headers: Headers, created: Created) -> RawHeaders:
    answer = [
        (b"content-type", created.content_type.encode("latin-1")),
        (b"stream-next-offset", created.next_offset.encode()),
    ]
    if created.closed:
        answer.append((b"stream-closed", b"true"))
    if not created.existed:
        host = headers.get(b"host", b"localhost")
        answer.append((b"location", scope["scheme"].encode() + b"://" + host + raw_path(scope)))
    return answer


def _appended_headers(appended: Appended) -> RawHeaders:
    answer = [(b"stream-next-offset", appended.next_offset.encode())]
    if appended.closed:
        answer.append((b"stream-closed", b"true"))
    if appended.producer is not None:
        answer.append((b"producer-epoch", b"%d" % appended.producer.epoch))
        answer.append((b"producer-seq", b"%d" % appended.producer.seq))
    return answer
