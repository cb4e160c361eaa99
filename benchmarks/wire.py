"""A light HTTP/1.1 client on asyncio.Protocol: the load generator shares the machine with the server it measures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import httptools

from benchmarks.measures import LoadError

HOST = "127.0.0.1"
STREAMS = "/v1/stream/"
# No server needs this long for one request on a working machine; what takes longer is reported as stuck.
ANSWER_MAX_S = 20.0
# Connections opened at once: below the usual backlog of 128 to 511, so that none waits for a repeated SYN.
OPENING_MAX = 64

P = TypeVar("P", bound=asyncio.Protocol)


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """A whole request as bytes; `headers` are further lines, each with its CRLF."""
    length = f"Content-Length: {len(body)}\r\n" if body or method in {"POST", "PUT"} else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}{length}\r\n".encode() + body


def json_request(method: str, path: str, body: bytes = b"") -> bytes:
    return request(method, path, body, "Content-Type: application/json\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class Connection(asyncio.Protocol):
    """
    A keep-alive connection for one request after the other.

    Mutable: `_answer` (who waits for the answer in flight), `_headers` and `_pieces` (of that answer), `_parser`.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    async def ask(self, message: bytes, wait_s: float = ANSWER_MAX_S) -> Answer:
        """Send a request and wait for its answer. Raises LoadError when none comes."""
        if self._transport is None or self._transport.is_closing():
            raise LoadError("connection closed by the server")
        self._headers, self._pieces = {}, []
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        try:
            async with asyncio.timeout(wait_s):
                return await self._answer
        except TimeoutError:
            raise LoadError(f"no answer within {wait_s:g} s") from None

    async def expect(self, message: bytes, wait_s: float = ANSWER_MAX_S) -> Answer:
        """The same, where anything but success ends the load."""
        answer = await self.ask(message, wait_s)
        if not 200 <= answer.status < 300:
            raise LoadError(f"answered {answer.status}")
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadError("connection closed by the server"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), self._headers, self._pieces))


@dataclass(slots=True)
class Crew:
    """
    The connections that carry a load together.

    Mutable: how many are still `working`, and `finished`, once none is; with an exception once one has failed.
    """

    working: int
    finished: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def leave(self, error: LoadError | None = None) -> None:
        self.working -= 1
        if self.finished.done():
            return
        if error is not None:
            self.finished.set_exception(error)
        elif self.working == 0:
            self.finished.set_result(None)


@asynccontextmanager
async def opened(port: int, make: Callable[[], P], count: int = 1) -> AsyncIterator[list[P]]:
    """`count` connections, each with its own protocol, closed at the end. Raises LoadError."""
    pairs: list[tuple[asyncio.Transport, P]] = []
    try:
        await _open(port, make, count, pairs)
        yield [protocol for _, protocol in pairs]
    finally:
        for transport, _ in pairs:
            transport.close()
        # A turn of the loop, in which the sockets are closed.
        await asyncio.sleep(0)


async def _open(port: int, make: Callable[[], P], count: int, pairs: list[tuple[asyncio.Transport, P]]) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER_MAX_S):
            while len(pairs) < count:
                batch = min(OPENING_MAX, count - len(pairs))
                pairs += await asyncio.gather(*(loop.create_connection(make, HOST, port) for _ in range(batch)))
    except OSError as error:
        # TimeoutError is one of them.
        raise LoadError(f"only {len(pairs)} of {count} connections opened: {type(error).__name__}") from error


async def create_streams(port: int, paths: list[str]) -> list[str]:
    """Streams of JSON, where they are not there yet, and the offsets of their ends."""
    async with opened(port, Connection) as (connection,):
        answers = [await connection.expect(json_request("PUT", path)) for path in paths]
    return [answer.headers.get("stream-next-offset", "-1") for answer in answers]


async def read_pages(connection: Connection, address: str, offset: str = "-1") -> AsyncIterator[Answer]:
    """Catch-up reads from an offset, each from where the one before it ended, until the server says it is all."""
    mark = "&" if "?" in address else "?"
    while True:
        page = await connection.expect(request("GET", f"{address}{mark}offset={offset}"))
        yield page
        following = page.headers.get("stream-next-offset", offset)
        if page.headers.get("stream-up-to-date") == "true":
            return
        if following == offset:
            raise LoadError("a catch-up read got no further")
        offset = following
