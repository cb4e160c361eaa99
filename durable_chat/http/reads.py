"""
Reads of a stream over HTTP. Catch-up, long-poll and SSE are three renderings of the same reader.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import methodcaller
from typing import Literal
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from durable_chat.config.settings import Settings
from durable_chat.errors import Conflict, InvalidRequest, NotFound, TooManyRequests, Unavailable
from durable_chat.http.followers import LINE, Follower
from durable_chat.http.headers import NO_STORE, etag_matches
from durable_chat.http.lines import disconnected
from durable_chat.protocol.cursors import JITTER_MAX_S, current_cursor, next_cursor
from durable_chat.protocol.messages import is_json, is_text, normalize_content_type
from durable_chat.protocol.offsets import BEGINNING, NOW
from durable_chat.protocol.sse import PING, encode_control, encode_data
from durable_chat.store.base import Batch, FollowingReader, Log, Reader

SSE_SPREAD = 0.1
"""How much the duration of an SSE response varies, so that readers do not all reconnect at the same time."""
CACHED = "private, max-age=60, stale-while-revalidate=300"
"""For a response that ends before the tail, which never changes (PROTOCOL.md 10.1)."""
REVALIDATED = "private, no-cache"
"""For a response that ends at the tail, which grows."""

MANY = ""
"""The path of a live read of many streams. No stream has this path."""

Live = Literal["long-poll", "sse"]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The query of a read. If `offset` is None, it was not sent; the read starts at the beginning."""

    offset: str | None
    live: Live | None
    cursor: str | None


def parse_read(query: bytes) -> ReadRequest:
    """Parse the query of a read. Other parameters are ignored. Raises InvalidRequest."""
    values: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidRequest("The query is malformed.") from error
    for name, value in pairs:
        if name in ("offset", "live", "cursor"):
            if name in values:
                raise InvalidRequest(f"{name} is given twice.", code=f"bad_{name}")
            values[name] = value
    offset, live = values.get("offset"), values.get("live")
    if offset == "":
        raise InvalidRequest("The offset is empty.", code="bad_offset")
    if live is None:
        return ReadRequest(offset, None, values.get("cursor"))
    if offset is None:
        raise InvalidRequest("A live read requires an offset.", code="bad_offset")
    if live == "sse":
        return ReadRequest(offset, "sse", values.get("cursor"))
    if live == "long-poll":
        return ReadRequest(offset, "long-poll", values.get("cursor"))
    raise InvalidRequest("live must be sse or long-poll.", code="bad_live")


class LiveReads:
    """
    The live reads in progress. Mutable state: `_endings`, the functions that end them, by stream; `count`, the number
    of responses; `closing`, true once the server shuts down: live reads then end cleanly and new ones are refused.
    """

    def __init__(self, per_stream_max: int) -> None:
        self.closing = False
        self._per_stream_max = per_stream_max
        self._endings: dict[str, set[Callable[[], None]]] = {}
        self.count = 0

    def close(self) -> None:
        self.closing = True
        for endings in list(self._endings.values()):
            for end in list(endings):
                end()

    def check_open(self) -> None:
        """Raise Unavailable if the server is shutting down."""
        if self.closing:
            raise Unavailable("The server is shutting down. Retry in a moment.", code="shutting_down")

    def check(self, path: str) -> None:
        """Raise Unavailable or TooManyRequests if a new live read of the stream is refused."""
        self.check_open()
        self.check_room(path)

    def check_room(self, path: str) -> None:
        """Raise TooManyRequests if the stream has too many live reads."""
        if len(self._endings.get(path, ())) >= self._per_stream_max:
            raise TooManyRequests("Too many live readers of one stream.", code="too_many_readers", retry_after_s=5)

    def join(self, path: str, end: Callable[[], None], *, counted: bool = True) -> None:
        """Add a live read, which `end` ends. A read that is a part of another response is not `counted`."""
        self._endings.setdefault(path, set()).add(end)
        self.count += counted

    def leave(self, path: str, end: Callable[[], None], *, counted: bool = True) -> None:
        self.count -= counted
        endings = self._endings[path]
        endings.discard(end)
        if not endings:
            del self._endings[path]

    def join_response(self, end: Callable[[], None]) -> None:
        """Add a response of many streams. Each stream's read joins by itself."""
        self.join(MANY, end)

    def leave_response(self, end: Callable[[], None]) -> None:
        self.leave(MANY, end)

    @asynccontextmanager
    async def until_left(self, path: str, receive: Receive, max_s: float | None = None) -> AsyncIterator[None]:
        """
        Run the block. It is cancelled if the client disconnects, the server shuts down, or `max_s` seconds are over;
        the caller then continues after the block.
        """
        task = asyncio.current_task()
        assert task is not None
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                task.cancel()

        leaving = asyncio.ensure_future(disconnected(receive))
        leaving.add_done_callback(lambda _: end())
        self.join(path, end)
        timer = None if max_s is None else asyncio.get_running_loop().call_later(max_s, end)
        try:
            yield
        except asyncio.CancelledError:
            if not ended:
                raise
            task.uncancel()
        finally:
            ended = True
            self.leave(path, end)
            if timer is not None:
                timer.cancel()
            leaving.cancel()


def remaining_s(until_s: float | None) -> float | None:
    """Return the seconds until a reader's permission expires at `until_s` (Unix time), or None if it does not."""
    return None if until_s is None else max(0.0, until_s - time.time())


async def open_live(log: Log, path: str, offset: str, live: LiveReads, *, absent: str) -> Reader:
    """
    Return a reader for a live read. Raises InvalidRequest, NotFound, Gone, TooManyRequests, Unavailable, and Conflict
    if the content type of the stream is not `absent`.
    """
    live.check(path)
    return await read_typed(log, path, offset, absent)


async def read_typed(log: Log, path: str, offset: str, wanted: str) -> Reader:
    """
    Return a reader of a stream with the content type `wanted`, which is also that of a stream that does not exist yet.
    Raises what `Log.read` raises, and Conflict if the stream has another content type.
    """
    reader = await log.read(path, offset, absent=wanted)
    if normalize_content_type(reader.head.content_type) != normalize_content_type(wanted):
        await reader.aclose()  # a browser would interpret the content at our origin, for example as HTML
        raise Conflict("The stream has another content type.", code="not_a_session")
    return reader


async def read_response(
    log: Log,
    path: str,
    request: Request,
    settings: Settings,
    live: LiveReads,
    *,
    absent: str | None = None,
    headers: Mapping[str, str] | None = None,
    until_s: float | None = None,
) -> Response:
    """
    Return the response to a GET of a stream (PROTOCOL.md 5.6 to 5.8). `headers` override those of the response;
    `absent` is as in `Log.read`; a live read ends at `until_s` (Unix time). Raises InvalidRequest, NotFound, Gone,
    TooManyRequests, Unavailable, and Conflict if the content type of the stream is not `absent`.
    """
    wanted = parse_read(request.scope["query_string"])
    if wanted.live is not None and request.method != "HEAD":  # a HEAD does not follow the stream
        live.check(path)
    offset = wanted.offset or BEGINNING
    reader = await (log.read(path, offset) if absent is None else read_typed(log, path, offset, absent))
    return await reader_response(reader, wanted, request, settings, live, path, headers=headers, until_s=until_s)


async def reader_response(
    reader: Reader,
    wanted: ReadRequest,
    request: Request,
    settings: Settings,
    live: LiveReads,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    until_s: float | None = None,
) -> Response:
    """Return the response to a read with a reader at its offset. A live read is counted as one of the `path`."""
    if wanted.live == "sse":
        return SseResponse(reader, wanted, settings, live, path, headers or {}, until_s)
    try:
        if wanted.live == "long-poll":
            return await _long_poll(reader, wanted, request, settings, live, path, headers or {}, until_s)
        return await _catch_up(reader, wanted, request, headers or {})
    finally:
        await reader.aclose()


async def _catch_up(reader: Reader, wanted: ReadRequest, request: Request, extra: Mapping[str, str]) -> Response:
    if wanted.offset == NOW:
        tail_headers = _headers(reader.head.next_offset, up_to_date=True, closed=reader.head.closed)
        tail_headers |= {**NO_STORE, **extra}
        return _response(200, reader, b"", tail_headers)
    return _found(reader, await reader.next(), request, {}, extra)


async def _long_poll(
    reader: Reader,
    wanted: ReadRequest,
    request: Request,
    settings: Settings,
    live: LiveReads,
    path: str,
    extra: Mapping[str, str],
    until_s: float | None,
) -> Response:
    batch = await reader.next()
    if not batch.data and not batch.closed and request.method != "HEAD":
        async with live.until_left(path, request.receive, remaining_s(until_s)):
            batch = await reader.next(settings.long_poll_s)
    cursor = {} if batch.closed else {"Stream-Cursor": str(first_cursor(wanted))}
    if batch.data:
        return _found(reader, batch, request, cursor, extra)
    headers = _headers(batch.next_offset, up_to_date=True, closed=batch.closed)
    return Response(status_code=204, headers={**headers, **cursor, **NO_STORE, **extra})


def _found(
    reader: Reader,
    batch: Batch,
    request: Request,
    cursor: Mapping[str, str],
    extra: Mapping[str, str],
) -> Response:
    """Return a batch as a whole response, or 304 if the client already has it."""
    headers = _headers(batch.next_offset, up_to_date=batch.up_to_date, closed=batch.closed)
    headers["ETag"] = f'"{reader.head.id}:{batch.offset}:{batch.next_offset}{":c" if batch.closed else ""}"'
    headers |= {"Cache-Control": REVALIDATED if batch.up_to_date else CACHED, **cursor, **extra}
    if etag_matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _response(200, reader, batch.data, headers)


def _response(status: int, reader: Reader, data: bytes, headers: dict[str, str]) -> Response:
    content_type = reader.head.content_type
    body = b"[" + data + b"]" if is_json(content_type) else data
    return Response(body, status, {**headers, "Content-Type": content_type})


def _headers(next_offset: str, *, up_to_date: bool, closed: bool) -> dict[str, str]:
    headers = {"Stream-Next-Offset": next_offset}
    if up_to_date:
        headers["Stream-Up-To-Date"] = "true"
    if closed:
        headers["Stream-Closed"] = "true"
    return headers


def first_cursor(wanted: ReadRequest) -> int:
    return next_cursor(wanted.cursor, time.time_ns() // 1_000_000, random.randint(1, JITTER_MAX_S))


class UnsizedResponse(Response):
    """A response whose body is sent in parts, so that its length is unknown."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers(headers)
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]


class SseResponse(UnsizedResponse):
    """
    A live read that lasts `sse_s`, or until the stream is closed or deleted, the client disconnects, its permission
    expires, or the server shuts down. It ends cleanly, so that clients reconnect by offset.
    """

    def __init__(
        self,
        reader: Reader,
        wanted: ReadRequest,
        settings: Settings,
        live: LiveReads,
        path: str,
        headers: Mapping[str, str],
        until_s: float | None = None,
        opening: bytes = b"",
    ) -> None:
        """Create the response. `opening` contains events that are sent first."""
        self.reader = reader
        self.opening = opening
        self.until_s = until_s
        self.live = live
        self.path = path
        self.ping_s = settings.sse_ping_s
        self.lasts_s = settings.sse_s * random.uniform(1 - SSE_SPREAD, 1 + SSE_SPREAD)
        self.cursor = first_cursor(wanted)
        super().__init__(status_code=200, headers={**self._stream_headers(), **headers})

    def _stream_headers(self) -> dict[str, str]:
        # Given here, because a `media_type` of text would get a charset, which this one does not have.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Content-Type": "text/event-stream"}
        if not is_text(self.reader.head.content_type):
            headers["Stream-SSE-Data-Encoding"] = "base64"
        return headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader, line = self.reader, scope.get("extensions", {}).get(LINE, {}).get("line")
        handed_over = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # A HEAD ends with its headers, so that the next request on the connection need not wait.
            if scope["method"] != "HEAD":
                if self.opening:
                    await self._send(send, self.opening)
                if line is not None and isinstance(reader, FollowingReader):
                    left_s = remaining_s(self.until_s)
                    lasts_s = self.lasts_s if left_s is None else min(left_s, self.lasts_s)
                    frame = methodcaller("sse", self.cursor)
                    follower = Follower(reader, line, frame, self.live, self.path, self.ping_s)
                    handed_over = True
                    return follower.begin(lasts_s)
                async with self.live.until_left(self.path, receive, remaining_s(self.until_s)):
                    await self._render(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if not handed_over:
                await reader.aclose()

    async def _render(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        ends_s = clock() + self.lasts_s
        try:
            batch = await self.reader.next()
            await self._send(send, self._frame(batch))
            while not batch.closed and (left_s := ends_s - clock()) > 0:
                before = batch.next_offset
                batch = await self.reader.next(min(self.ping_s, left_s))
                if batch.next_offset < before and isinstance(self.reader, FollowingReader):
                    return  # deleted, as in `Follower`
                if batch.data or batch.closed or batch.next_offset != before:  # another offset: it starts over
                    await self._send(send, self._frame(batch))
                elif clock() < ends_s:
                    await self._send(send, PING)
        except NotFound:
            return

    async def _send(self, send: Send, frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    def _frame(self, batch: Batch) -> bytes:
        shared = getattr(batch, "sse", None)
        if shared is not None:
            frame: bytes = shared(self.cursor)
            return frame
        cursor = max(self.cursor, current_cursor(time.time_ns() // 1_000_000))
        data = encode_data(self.reader.head.content_type, batch.data) if batch.data else b""
        return data + encode_control(batch.next_offset, cursor, up_to_date=batch.up_to_date, closed=batch.closed)
