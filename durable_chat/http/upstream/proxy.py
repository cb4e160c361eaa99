"""
The read proxy: a reader's GET passed on to the remote server with our secret, and its answer passed back without it.

Both directions are allowlists. Of the request three headers and three parameters go on; of the answer what a reader
of a stream needs, so that neither the remote's address nor a cookie of it comes back.
"""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from durable_chat.config import Settings
from durable_chat.errors import DurableChatError, InvalidRequest, Unavailable, UpstreamDown, UpstreamFailed
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
"""What of a reader's request goes on; our own Authorization is added."""

CURSOR_CHARACTERS_MAX = 256
"""Cursors are short opaque tokens; the limit is that advised for offsets (PROTOCOL.md 8)."""

GROUP_MAX_S = 5.0
"""
How long a reader whose permission has ended is sent the rest of a group of events, without which it could not resume:
the remote writes a group in one piece.
"""

RESPONSE_HEADERS = (
    *("content-type", "cache-control", "etag", "retry-after", "vary"),
    *("stream-next-offset", "stream-cursor", "stream-up-to-date", "stream-closed", "stream-sse-data-encoding"),
    *("stream-ttl", "stream-expires-at"),
)
"""
What of the remote's answer comes back. Left out are all hop-by-hop headers (RFC 9110 section 7.6.1), the length and
encoding of a body that is decoded here, cookies, CORS, and whatever names the remote: Location, Server, Via, Link.
"""

PASSED = frozenset({200, 204, 304})
"""Answers of a read that are passed on; any other becomes an error of ours, whose text is not the remote's."""

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
    The remote's answer to this read of `path`, whose stream has the content type `absent`: a missing stream reads as
    an empty one, and a live read creates it. With None any type is passed on, and a missing stream is NotFound.

    `headers` replace the remote's; a live read ends when `until_s` (Unix time) is there. Raises InvalidRequest,
    Unauthorized, TooManyRequests, Unavailable, UpstreamAuth, UpstreamDown, UpstreamFailed, Gone, NotFound.
    """
    query = _query(request)
    if split_inside(query.get("offset", "")) is not None:  # which the remote does not know
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
        # The reader has left, or the server goes down; only one of the two hears this.
        raise Unavailable("The read was ended.", code="shutting_down")
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
    """The parameters that go on, checked, so that no other read than a reader's own can be asked for."""
    wanted = parse_read(request.scope["query_string"])
    if wanted.offset is not None and not is_offset_like(wanted.offset):
        raise InvalidRequest("The offset is malformed.", code="bad_offset")
    if wanted.cursor is not None and len(wanted.cursor) > CURSOR_CHARACTERS_MAX:
        raise InvalidRequest("The cursor is too long.", code="bad_cursor")
    # A HEAD has no body to follow.
    live = None if request.method == "HEAD" else wanted.live
    query = {"offset": wanted.offset, "live": live, "cursor": wanted.cursor}
    return {name: value for name, value in query.items() if value is not None}


class _Tags:
    """
    Entity tags without the remote's path, which some servers write into them, as it is or in base64: the path becomes
    a number on the way out and the path again on the way back.
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
        found["accept-encoding"] = "identity"  # compression would hold events back
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
    The remote's answer, not yet read; None when the stream is missing and is not to be created. With `absent`, an
    offset past the end is one of a stream that was there before, and reads from the beginning.
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
    """Offsets of one server are in the order of their characters (PROTOCOL.md 8); one of another length is no offset."""
    if offset in (BEGINNING, NOW):
        return False
    try:
        tail = (await upstream.head(path)).next_offset
    except DurableChatError:
        return False
    return len(offset) == len(tail) and offset > tail


def check_answer(answer: httpx.Response, *, live: str | None, content_type: str | None) -> None:
    """
    Whether the answer is one of a read. A type that was not asked for is refused: a page of the remote, an error page
    of something before it, must not be shown at our origin.
    """
    status = answer.status_code
    if status not in PASSED:
        raise refusal(status, answer.headers)
    if status == 200:
        expected = SSE_TYPE if live == "sse" else content_type
        actual = normalize_content_type(answer.headers.get("content-type", ""))
        if expected is not None and actual != normalize_content_type(expected):
            raise UpstreamFailed("The stream server's answer has another content type than the stream.")


def _empty(query: Mapping[str, str], content_type: str, headers: Mapping[str, str] | None) -> Response:
    """What an empty stream answers to a plain read (PROTOCOL.md 5.6, 9.1.5)."""
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
    The end of a live read whose permission ended before the remote had anything to say. Raises Unauthorized where
    there is no offset to give back: the reader has its own.
    """
    if query["live"] != "long-poll" or query["offset"] == NOW:
        raise expired_token()
    cursor = {"Stream-Cursor": query["cursor"]} if "cursor" in query else {}
    fields = _empty(query, content_type, headers).headers
    kept = {name: value for name, value in fields.items() if name not in ("content-length", "content-type")}
    return Response(status_code=204, headers={**kept, **cursor})


def passed_headers(theirs: httpx.Headers, ours: Mapping[str, str], tags: _Tags) -> list[tuple[bytes, bytes]]:
    """The headers of our answer, by allowlist; what `Connection` names is hop-by-hop whatever its name."""
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
    The remote's body, chunk by chunk as it comes. The connection to the remote is closed when the body ends, when the
    reader leaves, and when the response is cancelled.

    A body that the remote cuts is cut here too, so that no reader takes a part for the whole; an event stream that is
    cut between groups of events is ended, which is how readers are told to come back.
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
                # The server goes down in the middle of a body: whoever runs us cuts what has no end.
                raise Unavailable("A read was cut.", code="shutting_down")
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
        """Until the remote ends it, or its time is up and a group of events is whole; with pings in the pauses."""
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
    Where in an event stream the reader has been left. Mutable state: the decoder's, and whether the last event was a
    `control`: only behind one may a stream end, or a reader who comes back gets the data before it twice.
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
    """The next piece of a body, None at its end. Raises UpstreamDown when it was cut."""
    try:
        return await anext(chunks, None)
    except httpx.HTTPError as error:
        raise foreign(error) from error


async def _end(task: asyncio.Future[bytes | None]) -> None:
    """Cancel a read under way and wait until it has let go of the connection."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # nobody else will ask for it
