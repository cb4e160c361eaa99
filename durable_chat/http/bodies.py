"""Reading request bodies within a limit, and answering without Starlette's layers where every microsecond is paid often."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from durable_chat.errors import InvalidRequest, TooLarge

RawHeaders = Iterable[tuple[bytes, bytes]]


async def read_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """
    The whole body. Raises TooLarge as soon as it is known to be, before the rest is read, and ClientDisconnect when
    the caller leaves in the middle.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            _check_length(value, bytes_max)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = bytes(message.get("body", b""))
        _check_size(len(body), bytes_max)
        return body
    gathered = bytearray()
    while message["type"] == "http.request":
        gathered += message.get("body", b"")
        _check_size(len(gathered), bytes_max)
        if not message.get("more_body"):
            return bytes(gathered)
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
