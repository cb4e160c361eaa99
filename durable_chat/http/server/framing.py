"""
How a request is framed on an HTTP/1.1 connection (RFC 9112): refuses what two readers of the same bytes could take for
different requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus

import httptools
import msgspec

from durable_chat.http.server.waits import BODY_BYTES_PER_S_MIN, BODY_WAIT_S, HEAD_WAIT_S

HEAD_BYTES_MAX = 64 * 1024
"""Of a request's address and headers: room for the largest cookies, and no more than one connection should take."""
HEADERS_MAX = 200
"""Of a request: clients send about twenty, and each proxy adds a few."""
Headers = Sequence[tuple[bytes, bytes]]

WATCHED = frozenset({b"content-length", b"expect", b"transfer-encoding", b"upgrade"})
"""The headers that say how a request is read."""

TRAILERS_REFUSED = frozenset(
    {
        *(b"transfer-encoding", b"content-length", b"content-encoding", b"content-type", b"content-range"),
        *(b"trailer", b"host", b"connection", b"te", b"expect", b"max-forwards", b"upgrade"),
        *(b"authorization", b"proxy-authorization", b"cookie", b"origin", b"forwarded"),
    }
)
"""Trailer fields that frame a message, route it or say who sends it (RFC 9110, 6.5.1). Others are passed over."""


class Refused(Exception):
    """A request that is not read any further: the status and the error of its answer, after which nothing is read."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def refusal(refused: Refused, headers: bytes = b"") -> bytes:
    """The whole response, which is the last one on its connection. `headers` are lines of their own."""
    body = msgspec.json.encode({"error": refused.message, "code": refused.code})
    status = HTTPStatus(refused.status)
    return b"".join(
        (
            b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("latin-1")),
            b"content-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n",
            headers,
            b"content-length: %d\r\n\r\n" % len(body),
            body,
        )
    )


def refused_for(error: BaseException | None) -> Refused:
    """What the parser's complaint is answered with."""
    if isinstance(error, Refused):
        return error
    return Refused(400, "bad_request", "The request is not valid HTTP/1.1.")


def head_too_large() -> Refused:
    message = f"The request's address and headers take more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers."
    return Refused(431, "head_too_large", message)


def request_timeout() -> Refused:
    message = (
        f"The request did not come in time: its headers must be there after {HEAD_WAIT_S:g} s, "
        f"its body after {BODY_WAIT_S:g} s and one more second for each {BODY_BYTES_PER_S_MIN} bytes."
    )
    return Refused(408, "request_timeout", message)


def is_continue_expected(value: bytes) -> bool:
    """Whether `Expect` asks for 100 Continue, which is all that there is to expect (RFC 9110, 10.1.1)."""
    if value.strip().lower() != b"100-continue":
        raise Refused(417, "bad_expectation", "Expect knows only 100-continue.")
    return True


def check_coding(value: bytes) -> None:
    """A transfer coding beside chunked would have to be decoded before the body is what the client meant."""
    if value.strip().lower() != b"chunked":
        raise Refused(501, "bad_transfer_encoding", "Transfer-Encoding may only be chunked; send the body undecoded.")


def check_version(version: str, headers: Headers) -> None:
    """For what is not HTTP/1.1. A chunked body is unknown to HTTP/1.0, whose readers may end it elsewhere (6.1)."""
    if version != "1.0":
        raise Refused(505, "bad_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if any(name == b"transfer-encoding" for name, _ in headers):
        raise Refused(400, "bad_transfer_encoding", "HTTP/1.0 has no Transfer-Encoding; use Content-Length.")


def check_trailers(names: Iterable[bytes]) -> None:
    """Raises Refused."""
    for name in names:
        if name in TRAILERS_REFUSED:
            raise Refused(400, "bad_trailer", f"{name.decode('ascii')} must not be sent as a trailer.")


def split_target(url: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """
    The path and the query of a request's target, a whole URL included. Its host must then be what Host says, since one
    of two readers might go by the other (RFC 9112, 3.2.2). Raises Refused.
    """
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
        return path, query
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError as error:
        raise Refused(400, "bad_target", "The request's target is not a path or a URL.") from error
    authority = url.partition(b"//")[2].partition(b"/")[0].partition(b"?")[0].partition(b"#")[0]
    hosts = [value for name, value in headers if name == b"host"]
    if parsed.schema not in (b"http", b"https") or [authority.lower()] != [host.strip().lower() for host in hosts]:
        raise Refused(400, "bad_target", "The host of the request's target is not the one of its Host header.")
    return parsed.path or b"/", parsed.query or b""


_lines: tuple[object, bytes] = (None, b"")


def lines_of(default_headers: Headers) -> bytes:
    """What uvicorn puts in every response, as it makes it anew each second: the date."""
    global _lines
    if _lines[0] is not default_headers:
        _lines = default_headers, b"".join([b"%b: %b\r\n" % pair for pair in default_headers])
    return _lines[1]
