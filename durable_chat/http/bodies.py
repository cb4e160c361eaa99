"""Reading request bodies within a limit, and answering without Starlette's layers where every microsecond is paid often."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from durable_chat.errors import InvalidRequest, TooLarge

PIECE_BYTES = 64 * 1024
"""What comes in smaller pieces is gathered up to here, so that a body sent byte by byte is no million objects."""

RawHeaders = Iterable[tuple[bytes, bytes]]


async def read_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """The whole body; raises as `read_pieces` does."""
    return b"".join(await read_pieces(scope, receive, bytes_max))


async def read_pieces(scope: Scope, receive: Receive, bytes_max: int) -> list[bytes | bytearray]:
    """
    The body as it came, in pieces of some size: to put a long one together takes a while, which may be spent in a
    thread. Raises TooLarge as soon as it is known to be, before the rest is read, and ClientDisconnect when the caller
    leaves in the middle.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            _check_length(value, bytes_max)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = bytes(message.get("body", b""))
        _check_size(len(body), bytes_max)
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
        if not message.get("more_body"):
            return [*pieces, last]
        message = await receive()
    raise ClientDisconnect


def _check_length(value: bytes, bytes_max: int) -> None:
    if not value.isdigit():
        raise InvalidRequest("Content-Length is malformed.")
    _check_size(int(value) if len(value) <= 18 else 10**18, bytes_max)


def _check_size(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise TooLarge(f"The body is larger than {bytes_max} bytes.")


async def respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    """One whole response."""
    if status != 204 and status != 304:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
