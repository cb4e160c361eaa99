"""What a connection parses with, or is told by, beside the plain parser of httptools."""

from __future__ import annotations

from typing import Protocol

from durable_chat.http.server.framing import Headers


class Deaf:
    """Takes what is sent to a connection that has been given its last answer."""

    def feed_data(self, data: bytes) -> None:
        pass


DEAF = Deaf()


class Told(Protocol):
    """The callbacks of httptools."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class Resumed:
    """
    Passes on what a parser finds, without the first head. That head is not the client's: it only says how the body is
    framed that follows (`framed_like`). Mutable state: `_passes`, once that head is over.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._passes = False
        self.on_body = told.on_body
        self.on_message_complete = told.on_message_complete

    def on_message_begin(self) -> None:
        if self._passes:
            self._told.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._passes:
            self._told.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._passes:
            self._told.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._passes:
            self._told.on_headers_complete()
        self._passes = True


def framed_like(headers: Headers) -> bytes:
    """The head of a request whose body is framed as these headers say."""
    framing = [b"%b: %b\r\n" % pair for pair in headers if pair[0] in (b"content-length", b"transfer-encoding")]
    return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing)
