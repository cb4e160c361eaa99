"""
The read proxy: it forwards a reader's GET to the remote server with our secret, and returns the response without it.

Both directions have allowlists. Of the request, it forwards two headers and three parameters. Of the response, it
returns only what a reader of a stream needs, so neither the remote server's address nor its cookies leak.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError, InvalidRequest, OffsetGone, Unavailable, UpstreamDown, UpstreamFailed
from durable_chat.http.reads import SSE_SPREAD, LiveReads, parse_read, read_response, remaining_s
from durable_chat.http.tokens import expired_token
from durable_chat.http.upstream.log import Upstream
from durable_chat.http.upstream.wire import foreign, refusal
from durable_chat.protocol.events import EventDecoder, is_offset_like
from durable_chat.protocol.messages import JSON, is_json, normalize_content_type
from durable_chat.protocol.offsets import BEGINNING, NOW, ZERO
from durable_chat.protocol.sse import PING
from durable_chat.protocol.sub_offsets import split_inside

REQUEST_HEADERS = (b"accept", b"if-none-match")
"""Headers of a reader's request that are forwarded. Our own Authorization is added."""

CURSOR_CHARACTERS_MAX = 256
"""Cursors are short opaque tokens. This is the limit that PROTOCOL.md 8 recommends for offsets."""

GROUP_MAX_S = 5.0
"""
How long a reader whose permission has expired still gets the rest of a group of events. It could not resume without
that rest. The remote server writes a group in one piece.
"""

RESPONSE_HEADERS = (
    *("content-type", "cache-control", "etag", "retry-after", "vary"),
    *("stream-next-offset", "stream-cursor", "stream-up-to-date", "stream-closed", "stream-sse-data-encoding"),
    *("stream-ttl", "stream-expires-at"),
)
"""
Headers of the remote server's response that are returned. Omitted are all hop-by-hop headers (RFC 9110 section 7.6.1),
the length and encoding of the body, which is decoded here, cookies, CORS headers, and headers that reveal the remote
server: Location, Server, Via, Link.
"""

PASSED = frozenset({200, 204, 304})
"""Statuses of a read that are returned as they are. Any other becomes one of our errors, with our own message."""

Headers = Sequence[tuple[bytes, bytes]]

SSE_TYPE = "text/event-stream"


async def proxy_response(
    upstream: Upstream,
    path: str,
    request: Request,
    settings: Settings,
    live: LiveReads,
    *,
    absent: str | None = JSON,
    headers: Mapping[str, str] | None = None,
    until_s: float | None = None,
) -> Response:
    """
    Return the remote server's response to this read of `path`, whose stream has the content type `absent`. A missing
    stream reads as an empty one, and a live read creates it. If `absent` is None, any content type is allowed, and a
    missing stream raises NotFound.

    `headers` override those of the remote server. A live read ends at `until_s` (Unix time). Raises InvalidRequest,
    Unauthorized, TooManyRequests, Unavailable, UpstreamAuth, UpstreamDown, UpstreamFailed, Gone, NotFound.
    """
    query = _query(request)
    if split_inside(query.get("offset", "")) is not None:  # the remote server does not know offsets inside an append
        return await read_response(
            upstream, path, request, settings, live, absent=absent, headers=headers, until_s=until_s
        )
    tags = _Tags(upstream.wire.stream_path(path))
    if "live" in query:
        live.check(path)
    opened: list[httpx.Response | None] = []
    max_s = remaining_s(until_s) if "live" in query else None
    async with live.until_left(path, request.receive, max_s):
        sent = _request_headers(request, tags)
        opened.append(await _open(upstream, path, query, sent, absent, settings.session_ttl_s))
    if not opened and max_s is not None and not live.closing:
        return _nothing_yet(query, absent or JSON, headers)
    if not opened:
        # The client has disconnected, or the server is shutting down. In the first case nobody gets this response.
        raise Unavailable("The server is shutting down. Retry in a moment.", code="shutting_down")
    answer = opened[0]
    if answer is None:
        return _empty(query, absent or JSON, headers)
    try:
        check_answer(answer, live=query.get("live"), content_type=absent)
    except DurableChatError:
        await answer.aclose()
        raise
    return ProxyResponse(answer, path, settings, live, passed_headers(answer.headers, headers or {}, tags), until_s)


def _query(request: Request) -> dict[str, str]:
    """Return the checked query parameters to forward, so that a reader cannot request anything but its own read."""
    wanted = parse_read(request.scope["query_string"])
    if wanted.offset is not None and not is_offset_like(wanted.offset):
        raise InvalidRequest("The offset is malformed.", code="bad_offset")
    if wanted.cursor is not None and len(wanted.cursor) > CURSOR_CHARACTERS_MAX:
        raise InvalidRequest("The cursor is too long.", code="bad_cursor")
    # A HEAD has no body, so it does not follow the stream.
    live = None if request.method == "HEAD" else wanted.live
    query = {"offset": wanted.offset, "live": live, "cursor": wanted.cursor}
    return {name: value for name, value in query.items() if value is not None}


class _Tags:
    """
    Hides the remote server's path in entity tags. Some servers write it into them, plainly or in base64. The path is
    replaced by a number in responses, and the number by the path in requests.
    """

    def __init__(self, stream_path: str) -> None:
        plain = stream_path.encode()
        names = (plain, b64encode(plain).rstrip(b"="), urlsafe_b64encode(plain).rstrip(b"="))
        self._pairs = [(name, b"~%d~" % number) for number, name in enumerate(names)]

    def hide(self, tag: bytes) -> bytes:
        for name, alias in self._pairs:
            tag = tag.replace(name, alias)
        return tag

    def restore(self, tags: bytes) -> bytes:
        for name, alias in self._pairs:
            tags = tags.replace(alias, name)
        return tags


def _request_headers(request: Request, tags: _Tags) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for name in REQUEST_HEADERS:
        values = [value for key, value in request.scope["headers"] if key == name]
        if values:
            joined = b", ".join(values)
            found[name.decode()] = tags.restore(joined) if name == b"if-none-match" else joined
    if request.query_params.get("live") == "sse":
        found["accept-encoding"] = "identity"  # compression would delay events
    return found


async def _open(
    upstream: Upstream,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str | bytes],
    absent: str | None,
    ttl_s: int | None,
) -> httpx.Response | None:
    """
    Return the remote server's response before its body is read, or None if the stream is missing and must not be
    created. With `absent`, an offset past the end belongs to an earlier stream, so the read starts at the beginning.
    """
    answer = await upstream.wire.open_live(path, query, headers)
    if absent is None:
        return answer
    if answer.status_code == 404:
        await answer.aclose()
        if "live" not in query:
            return None
        await upstream.wire.ensure_stream(path, absent, ttl_s)
        answer = await upstream.wire.open_live(path, query, headers)
    if answer.status_code == 400 and await _is_past_the_end(upstream, path, query.get("offset", BEGINNING)):
        await answer.aclose()
        answer = await upstream.wire.open_live(path, {**query, "offset": BEGINNING}, headers)
    return answer


async def _is_past_the_end(upstream: Upstream, path: str, offset: str) -> bool:
    """
    Return whether an offset is after the tail. Offsets of one server are ordered by their characters (PROTOCOL.md 8).
    An offset of another length does not count.
    """
    if offset in (BEGINNING, NOW):
        return False
    try:
        tail = (await upstream.head(path)).next_offset
    except DurableChatError:
        return False
    return len(offset) == len(tail) and offset > tail


def check_answer(answer: httpx.Response, *, live: str | None, content_type: str | None) -> None:
    """
    Raise an error unless this is the response of a read. An unexpected content type is refused: a page of the remote
    server, or an error page of a proxy, must not be shown at our origin.
    """
    status = answer.status_code
    if status == HTTPStatus.GONE:  # the remote no longer has what the reader's offset names
        raise OffsetGone
    if status not in PASSED:
        raise refusal(status, answer.headers)
    if status == 200:
        expected = SSE_TYPE if live == "sse" else content_type
        actual = normalize_content_type(answer.headers.get("content-type", ""))
        if expected is not None and actual != normalize_content_type(expected):
            raise UpstreamFailed("The content type of the stream server's response is not that of the stream.")


def _empty(query: Mapping[str, str], content_type: str, headers: Mapping[str, str] | None) -> Response:
    """Return the response of an empty stream to a plain read (PROTOCOL.md 5.6, 9.1.5)."""
    offset = query.get("offset", BEGINNING)
    fields = {
        "Cache-Control": "no-store",
        **(headers or {}),
        "Stream-Next-Offset": ZERO if offset in (BEGINNING, NOW) else offset,
        "Stream-Up-To-Date": "true",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(b"[]" if is_json(content_type) else b"", 200, fields, content_type)


def _nothing_yet(query: Mapping[str, str], content_type: str, headers: Mapping[str, str] | None) -> Response:
    """
    Return the response to a live read whose permission expired before the remote server responded. Raises Unauthorized
    if there is no offset to return; the reader then keeps its own.
    """
    if query["live"] != "long-poll" or query["offset"] == NOW:
        raise expired_token()
    cursor = {"Stream-Cursor": query["cursor"]} if "cursor" in query else {}
    fields = _empty(query, content_type, headers).headers
    kept = {name: value for name, value in fields.items() if name not in ("content-length", "content-type")}
    return Response(status_code=204, headers={**kept, **cursor})


def passed_headers(theirs: httpx.Headers, ours: Mapping[str, str], tags: _Tags) -> list[tuple[bytes, bytes]]:
    """Return the allowed headers of our response. Headers that `Connection` names are hop-by-hop and omitted."""
    connection = {name.strip().lower() for name in theirs.get("connection", "").split(",")}
    names = [name for name in RESPONSE_HEADERS if name in theirs and name not in connection]
    passed = {name: theirs[name].encode(theirs.encoding) for name in names}
    if "etag" in passed:
        passed["etag"] = tags.hide(passed["etag"])
    passed |= {"x-content-type-options": b"nosniff", "x-accel-buffering": b"no"}
    passed |= {name.lower(): value.encode("latin-1") for name, value in ours.items()}
    return [(name.encode(), value) for name, value in passed.items()]


class ProxyResponse(Response):
    """
    The remote server's body, chunk by chunk as it arrives. The connection to the remote server is closed when the body
    ends, when the client disconnects, and when the response is cancelled.

    If the remote server cuts a body, it is cut here too, so that no client takes a partial body for a complete one. An
    event stream that is cut between groups of events ends cleanly instead; its clients reconnect.
    """

    def __init__(
        self,
        answer: httpx.Response,
        path: str,
        settings: Settings,
        live: LiveReads,
        headers: Headers,
        until_s: float | None = None,
    ) -> None:
        self.status_code = answer.status_code
        self.background = None
        self.body = b""
        self.raw_headers = list(headers)
        self._answer = answer
        self._path = path
        self._live = live
        self._ping_s = settings.sse_ping_s
        self._lasts_s = settings.sse_s * random.uniform(1 - SSE_SPREAD, 1 + SSE_SPREAD)
        self._until_s = until_s
        self._events = normalize_content_type(answer.headers.get("content-type", "")) == SSE_TYPE
        self._track = _Track()
        self._whole = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = False

        async def watched() -> Message:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                self._whole = True
                return await send({"type": "http.response.body", "body": b"", "more_body": False})
            async with self._live.until_left(self._path, watched, self._max_s()):
                await (self._pass_events(send) if self._events else self._pass_body(send))
            if self._whole or (self._events and self._track.whole):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif not left:
                # The server shuts down in the middle of a body. The ASGI server closes the connection.
                raise Unavailable("The server is shutting down. Retry in a moment.", code="shutting_down")
        finally:
            await self._answer.aclose()

    def _max_s(self) -> float | None:
        allowed_s = remaining_s(self._until_s) if self._events else None
        return None if allowed_s is None else allowed_s + GROUP_MAX_S

    async def _pass_body(self, send: Send) -> None:
        chunks = self._answer.aiter_bytes()
        while (chunk := await _next_chunk(chunks)) is not None:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._whole = True

    async def _pass_events(self, send: Send) -> None:
        """
        Forward events, with pings in the pauses, until the remote server ends the stream, or the time is over and the
        last group of events is complete.
        """
        clock = asyncio.get_running_loop().time
        allowed_s = remaining_s(self._until_s)
        ends_s = clock() + (self._lasts_s if allowed_s is None else min(allowed_s, self._lasts_s))
        chunks = self._answer.aiter_bytes()
        arriving = asyncio.ensure_future(_next_chunk(chunks))
        try:
            while (left_s := ends_s - clock()) > 0 or not self._track.whole:
                await asyncio.wait({arriving}, timeout=min(self._ping_s, left_s) if left_s > 0 else self._ping_s)
                if arriving.done():
                    if (chunk := arriving.result()) is None:
                        self._whole = True
                        return
                    arriving = asyncio.ensure_future(_next_chunk(chunks))
                    self._track.feed(chunk)
                elif self._track.between_events and clock() < ends_s:
                    chunk = PING
                else:
                    continue
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except UpstreamDown:
            if not self._track.whole:
                raise
        finally:
            await _end(arriving)


class _Track:
    """
    The position in an event stream. A stream may end only after a `control` event, or a reader that reconnects gets the
    data before it twice. Mutable state: the decoder; `_controlled`, whether the last event was a `control`.
    """

    def __init__(self) -> None:
        self._decoder = EventDecoder()
        self._controlled = True

    @property
    def between_events(self) -> bool:
        return self._decoder.between_events

    @property
    def whole(self) -> bool:
        return self._controlled and self._decoder.between_events

    def feed(self, chunk: bytes) -> None:
        for event in self._decoder.feed(chunk):
            self._controlled = event.name == "control"


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes | None:
    """Return the next piece of a body, or None at its end. Raises UpstreamDown if it was cut."""
    try:
        return await anext(chunks, None)
    except httpx.HTTPError as error:
        raise foreign(error) from error


async def _end(task: asyncio.Future[bytes | None]) -> None:
    """Cancel a read and wait until it has released the connection."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # mark it as retrieved, or asyncio logs it
