"""
Reads request bodies within a limit for each and a limit for all of them, and sends responses without Starlette's layers
where they would cost too much.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from durable_chat.errors import InvalidRequest, TooLarge, Unavailable

PIECE_BYTES = 64 * 1024
"""Smaller pieces are joined up to this size, so that a body sent byte by byte does not become a million objects."""

RawHeaders = Iterable[tuple[bytes, bytes]]


class BodyBudget:
    """
    The memory for all bodies that are being read or processed. Short appends do not count: a connection has only one at
    a time, of at most 32 KiB. Mutable state: `held_bytes`.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0

    def hold(self) -> HeldBody:
        """Return a context for one body. Keep it open while the body is in memory."""
        return HeldBody(self)


class HeldBody:
    """The share of one body in the budget. Mutable state: `size`, in bytes."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def __enter__(self) -> HeldBody:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.held_bytes -= self.size
        self.size = 0

    def grow(self, size: int) -> None:
        """
        Reserve memory for a body of `size` bytes in all. A body that is alone always gets it. Raises Unavailable.
        """
        more = size - self.size
        if more <= 0:
            return
        budget = self._budget
        others = budget.held_bytes - self.size
        if others and budget.held_bytes + more > budget.bytes_max:
            message = f"Bodies of other requests take {others} bytes of memory: no room for {size} bytes now. Retry."
            raise Unavailable(message, code="too_many_bodies")
        budget.held_bytes += more
        self.size = size


async def read_body(scope: Scope, receive: Receive, bytes_max: int, held: HeldBody) -> bytes:
    """Return the whole body. Raises like `read_pieces`."""
    return b"".join(await read_pieces(scope, receive, bytes_max, held))


async def read_pieces(scope: Scope, receive: Receive, bytes_max: int, held: HeldBody) -> list[bytes | bytearray]:
    """
    Return the body in pieces. Joining a large body takes time, which the caller may spend in a thread. Raises TooLarge
    and Unavailable as early as possible, before the rest is read, and ClientDisconnect if the client disconnects
    before the end of the body.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            held.grow(_check_length(value, bytes_max))
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = bytes(message.get("body", b""))
        _check_size(len(body), bytes_max)
        held.grow(len(body))
        return [body]
    pieces: list[bytes | bytearray] = []
    last = bytearray()
    size = 0
    while message["type"] == "http.request":
        last += message.get("body", b"")
        if len(last) >= PIECE_BYTES:
            size += len(last)
            pieces.append(last)
            last = bytearray()
        _check_size(size + len(last), bytes_max)
        held.grow(size + len(last))
        if not message.get("more_body"):
            return [*pieces, last]
        message = await receive()
    raise ClientDisconnect


def _check_length(value: bytes, bytes_max: int) -> int:
    if not value.isdigit():
        raise InvalidRequest("Content-Length is malformed.")
    length = int(value) if len(value) <= 18 else 10**18
    _check_size(length, bytes_max)
    return length


def _check_size(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise TooLarge(f"The body is larger than {bytes_max} bytes.")


async def respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    """Send one whole response."""
    if status != 204 and status != 304:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
