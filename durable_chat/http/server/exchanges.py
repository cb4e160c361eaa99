"""
One request and its response on an HTTP/1.1 connection, as ASGI sees them (RFC 9112 for how they are framed).
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from durable_chat.http.followers import LINE

BODY_AHEAD_BYTES_MAX = 64 * 1024
"""Of a request's body that nobody has asked for yet; beyond it the connection is not read from."""
JOINED_BYTES_MAX = 16 * 1024
"""A shorter body is written in one piece with its head; a longer one is not copied for that."""

RawHeaders = Iterable[tuple[bytes, bytes]]
TAKEN: Scope = {}
"""The scope of a request that the app has."""
DISCONNECTED: Message = {"type": "http.disconnect"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LIVE = b"text/event-stream"
LAST_CHUNK = b"0\r\n\r\n"
LINE_METHODS = frozenset({"GET", "POST"})
"""The methods of requests whose responses may go on without the app."""
STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("latin-1")) for status in http.HTTPStatus
}

log = logging.getLogger(__name__)


class Wire(Protocol):
    """What an exchange needs of its connection."""

    write_paused: bool

    @property
    def write(self) -> Callable[[bytes], None]: ...

    def close(self) -> None:
        """Close once what was written has gone out."""
        ...

    def read_on(self) -> None:
        """More of the request's body is wanted."""
        ...

    async def drain(self) -> None:
        """Until the client reads, or has left."""
        ...

    def default_head(self) -> bytes:
        """Header lines that every response has."""
        ...

    def exchanged(self) -> None:
        """The response is complete."""
        ...


class Exchange:
    """
    Mutable state: `scope`, until the app has it; `_body`, what has come and was not asked for, whether there `has_more`
    and whether that `is_news`; `_waiting`, whoever asked; `gone`, once the client has left; of the response whether it
    has `started` and is `complete`, its `_head` until that is written with the body's first part, and how its body is
    framed: `_chunked`, or by its length, of which `_left_bytes` are to come, or (both None) by the connection's end;
    `_left`, once it goes on without the app.
    """

    __slots__ = (
        *(
            "_body",
            "_chunked",
            "_head",
            "_left",
            "_left_bytes",
            "_method",
            "_version",
            "_waiting",
            "_wire",
            "complete",
            "expects_continue",
            "gone",
        ),
        *("has_more", "is_news", "keep_alive", "scope", "started"),
    )

    def __init__(self, wire: Wire, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self._method: str = scope["method"]
        self._version: str = scope["http_version"]
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.has_more = True
        self.is_news = False
        self.gone = False
        self.started = False
        self.complete = False
        self._wire = wire
        self._body = b""
        self._waiting: asyncio.Future[None] | None = None
        self._head = b""
        self._chunked: bool | None = None
        self._left_bytes: int | None = None
        self._left: Callable[[], None] | None = None

    # From the connection.

    @property
    def body(self) -> bytes:
        return self._body

    @property
    def is_flooded(self) -> bool:
        """Whether so much of the body waits that no more should be read."""
        return len(self._body) > BODY_AHEAD_BYTES_MAX

    def take_body(self, data: bytes) -> None:
        self._body = self._body + data if self._body else data
        self.is_news = True
        if self._waiting is not None:
            self._tell()

    def end_body(self) -> None:
        self.has_more = False
        self.is_news = True
        if self._waiting is not None:
            self._tell()

    def leave(self) -> None:
        """The client has left."""
        self.gone = not self.complete
        self._tell()
        left, self._left = self._left, None
        if self.gone and left is not None:
            left()

    def _tell(self) -> None:
        self.is_news = True
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # From the app.

    async def run(self, app: ASGIApp) -> None:
        """The app's answer; where it gives none, or half of one, the client is told so."""
        # It knows this exchange: were it kept here, neither would be freed without the garbage collector.
        scope, self.scope = self.scope, TAKEN
        if self._method in LINE_METHODS:
            scope["extensions"] = {LINE: {"line": self}}
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                log.error("an exception came out of the app", exc_info=error)
            await self._give_up()
            if not isinstance(error, Exception):
                raise
        else:
            if not self.complete and not self.gone and self._left is None:
                log.error("the app ended without a whole response")
                await self._give_up()

    async def _give_up(self) -> None:
        if self.started or self.gone:
            self._wire.close()
            return
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    async def receive(self) -> Message:
        if self.expects_continue and not self.started and not self.gone:
            self.expects_continue = False
            self._wire.write(CONTINUE)
        if not self.is_news and not self.gone and not self.complete:
            self._wire.read_on()
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if self.gone or self.complete:
            return DISCONNECTED
        body, self._body, self.is_news = self._body, b"", False
        return {"type": "http.request", "body": body, "more_body": self.has_more}

    async def send(self, message: Message) -> None:
        if self._wire.write_paused and not self.gone:
            await self._wire.drain()
        if self.gone:
            return
        if message["type"] == "http.response.start" and not self.started:
            self.start(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.started and not self.complete:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} does not come now.")

    def start(self, status: int, headers: RawHeaders) -> None:
        """The head of the response, which goes out with the first part of its body."""
        lines: list[bytes] = []
        length: int | None = None
        is_live = is_chunked = False
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type":
                is_live = is_live or value == LIVE
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                is_live = True
                continue
            elif name == b"transfer-encoding":  # that is for this side to write
                is_chunked = True
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        given = b"".join(lines)
        # What holds the end of a line is another header, and somebody else's words perhaps.
        if not given.count(b"\n") == given.count(b"\r") == len(lines) or given.find(b"\0") >= 0:
            raise RuntimeError("A header holds what ends it.")
        status_line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        framing = self._framing(status, length, is_live=is_live and not is_chunked)
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self._head = b"".join((status_line, self._wire.default_head(), given, framing, end))
        self.started = True

    def _framing(self, status: int, length: int | None, *, is_live: bool) -> bytes:
        """
        The header that says where the body ends, unless it was given, and how that is kept. A live response ends with
        its connection (RFC 9112, 6.3): the kernel of a killed process ends that in order, which clients take for an
        end of the response and come back, while they give up at chunks that are cut off. An app that sends
        `connection: close` asks for the same. One that sends `transfer-encoding: chunked` has clients that must notice
        such an end.
        """
        if self._method == "HEAD" or status in (204, 304):
            self._left_bytes = 0
        elif length is not None:
            self._left_bytes = length
        elif self._version == "1.1" and not is_live:
            self._chunked = True
            return b"transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False
        return b""

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self._method == "HEAD":
            body = b""
        if self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = body + LAST_CHUNK if is_last else body
        elif self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (is_last and self._left_bytes and self._method != "HEAD"):
                raise RuntimeError("The body is not as long as its Content-Length.")
        self._write(body)
        if is_last:
            self._end()

    def _write(self, body: bytes) -> None:
        head, self._head = self._head, b""
        if head and len(body) <= JOINED_BYTES_MAX:
            self._wire.write(head + body)
            return
        if head:
            self._wire.write(head)
        if body:
            self._wire.write(body)

    def answer(self, status: int, headers: RawHeaders) -> None:
        """A whole response without a body, at once."""
        self.start(status, headers if status == 204 else [*headers, (b"content-length", b"0")])
        self._send_body(b"", is_last=True)

    # A `Line`, for what goes on when the app has returned.

    def detach(self, left: Callable[[], None]) -> None:
        """See `Line`."""
        if self.gone:
            left()
        else:
            self._left = left

    def cut(self) -> None:
        self._wire.close()

    def finish(self) -> None:
        if not self.gone and not self.complete:
            self._send_body(b"", is_last=True)

    def push(self, body: bytes) -> bool:
        if self._wire.write_paused or self.gone or self.complete or not self.started:
            return False
        if self._head or self._chunked:
            self._write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
        else:
            self._wire.write(body)
        return True

    def _end(self) -> None:
        self.complete = True
        self._left = None
        self.is_news = True
        if self._waiting is not None:
            self._tell()
        if not self.keep_alive:
            self._wire.close()
        self._wire.exchanged()
