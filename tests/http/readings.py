"""
How each server reads the same bytes: the protocol classes of this package and of uvicorn on a transport without a
socket, and bare h11.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from durable_chat.http.callers import caller_of, flaw_of
from durable_chat.http.server.connections import connection_class
from durable_chat.http.server.framing import HEAD_BYTES_MAX

H11_BYTES_MAX = 1 << 20
"""What h11 holds of a head: more than any server here, whose limits are their own."""
H11_HOST_ERRORS = ("Missing mandatory Host: header", "Found multiple Host: headers")
"""What h11 says of a request that has no other fault."""
ROUNDS_QUIET = 4
"""Turns of the loop without any change after which nothing more comes of what was sent."""
ROUNDS_MAX = 5_000
"""Turns of the loop after which a connection that still changes is a loop without end."""

Headers = tuple[tuple[bytes, bytes], ...]


class Asked(NamedTuple):
    """A complete request, as the application sees it."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


@dataclass(eq=True)
class Reading:
    """
    The result of reading one connection. Mutable while the connection is read. `seen` holds the complete requests
    that reached the application. `flawed` holds the numbers of those that the application refuses (`flaw_of`), for
    example for a second Host. `end` is `open`, `closed` or `refused`. `written` holds all bytes that were sent.
    `wrong` lists things that a server must never do.
    """

    seen: list[Asked] = field(default_factory=list)
    flawed: set[int] = field(default_factory=set)
    end: str = "open"
    written: bytes = b""
    wrong: list[str] = field(default_factory=list)


class Wire(asyncio.Transport):
    """
    A transport without a socket. Like a real transport, it delivers nothing while reading is paused, and it records
    writes after close. Mutable: `pieces`, the bytes that were sent and not yet delivered, and `eof_sent`.
    """

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        self.protocol: Any = None
        self.pieces: deque[bytes] = deque()
        self.eof_sent = False
        self._closing = self._paused = self._written_eof = self._lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 9)}.get(name, default)

    def write(self, data: Any) -> None:
        if self._closing or self._written_eof:
            self.reading.wrong.append(f"written after the close: {bytes(data)[:60]!r}")
        else:
            self.reading.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._written_eof = True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    @property
    def has_ended(self) -> bool:
        return self._closing or self._written_eof

    def hand_over(self) -> None:
        """Deliver the next piece, or the end of the stream, if the server is reading."""
        if self._paused or self._closing:
            return
        if self.pieces:
            self.protocol.data_received(self.pieces.popleft())
        elif self.eof_sent:
            self.eof_sent = False
            if not self.protocol.eof_received():
                self.close()


def recording(reading: Reading, *, early: bool) -> ASGIApp:
    """Answer with the number of the request. With `early`, answer before the body is read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = tuple(scope["headers"])
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        if early:
            await answer(send, 200, b"early", [])
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        else:
            return
        number = len(reading.seen)
        if flaw_of(caller_of(scope), scope) is not None:
            reading.flawed.add(number)
        reading.seen.append(Asked(scope["method"].encode(), target, headers, body))
        if not early:
            await answer(send, 200, b"%d" % number, [(b"x-number", b"%d" % number)])

    return app


async def answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


SERVERS: dict[str, Callable[[], Any]] = {
    "ours": lambda: connection_class(lambda _scope, _body, _done: False),
    "h11": lambda: H11Protocol,
    "httptools": lambda: HttpToolsProtocol,
}
"""The classes that uvicorn's setting `http` takes."""


async def read_by(server: str, pieces: Sequence[bytes], *, half_close: bool = False, early: bool = False) -> Reading:
    """Return how a server reads bytes that arrive in these pieces, and whether everything that it started has ended."""
    reading = Reading()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: reading.wrong.append(f"in the loop: {context}"))
    config = uvicorn.Config(
        recording(reading, early=early), log_config=None, ws="none", h11_max_incomplete_event_size=HEAD_BYTES_MAX
    )
    config.load()
    state = ServerState()
    wire = Wire(reading)
    wire.protocol = SERVERS[server]()(config, state, {})
    wire.protocol.connection_made(wire)
    try:
        wire.pieces.extend(pieces)
        wire.eof_sent = half_close
        await _settle(wire)
        if wire.has_ended:
            reading.end = "refused" if _last_words(reading.written) else "closed"
    except Exception as error:  # noqa: BLE001 - whatever it is, a real loop would get it
        reading.end = "refused"
        reading.wrong.append(f"raised: {error!r}")
    wire.close()
    for _ in range(ROUNDS_QUIET):
        await asyncio.sleep(0)
    if state.tasks or state.connections:
        reading.wrong.append(f"left behind: {len(state.tasks)} tasks, {len(state.connections)} connections")
    return reading


async def _settle(wire: Wire) -> None:
    """Deliver all sent bytes until nothing changes any more."""
    quiet, before = 0, None
    for _ in range(ROUNDS_MAX + len(wire.pieces)):
        wire.hand_over()
        await asyncio.sleep(0)
        now = (len(wire.pieces), wire.eof_sent, len(wire.reading.written), len(wire.reading.seen), wire.has_ended)
        quiet, before = (quiet + 1, now) if now == before else (0, now)
        if quiet > ROUNDS_QUIET:
            return
    wire.reading.wrong.append("does not come to rest")


def _last_words(written: bytes) -> bool:
    """
    Return whether the server itself wrote the last response. Responses of the application have a number or `early`.
    """
    answers = answers_of(written)
    return bool(answers) and not answers[-1].is_of_app


class Answer(NamedTuple):
    status: int
    number: int | None
    is_of_app: bool


def answers_of(written: bytes) -> list[Answer]:
    """Return the responses in a server's output, without 100 Continue."""
    answers = []
    parts = re.split(rb"HTTP/1\.1 (\d{3}) ", written)
    for status, head in zip(map(int, parts[1::2]), parts[2::2], strict=True):
        if status == 100:
            continue
        number = head.partition(b"x-number: ")[2].partition(b"\r\n")[0]
        of_app = bool(number) or b"content-length: 5\r\n" in head
        answers.append(Answer(status, int(number) if number else None, of_app))
    return answers


def read_by_bare_h11(data: bytes, tidy: Callable[[bytes], bytes]) -> Reading:
    """
    Return how h11 itself reads the bytes, for a server that answers each complete request. Bytes before the first
    request are normalized. The end is `no host` where a request is valid apart from a missing Host.
    """
    reading = Reading()
    while True:
        data = tidy(data)
        connection = h11.Connection(h11.SERVER, H11_BYTES_MAX)
        connection.receive_data(data)
        request, body = None, b""
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    return reading  # h11 needs more
        except h11.RemoteProtocolError as error:
            reading.end = "no host" if str(error) in H11_HOST_ERRORS else "refused"
            return reading
        assert request is not None
        headers = tuple((bytes(name).lower(), bytes(value)) for name, value in request.headers)
        reading.seen.append(Asked(bytes(request.method), bytes(request.target), headers, body))
        if connection.their_state is h11.MUST_CLOSE:
            reading.end = "closed"
            return reading
        data = connection.trailing_data[0]
