"""
HTTP/1.1 as bytes over a socket. It can send what client libraries refuse, and distinguishes a lost response from a
bad one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.fuzzing.requests import Request

ANSWER_MAX_S = 60.0
"""A request without an answer for so long has none."""

HEAD_BYTES_MAX = 1 << 20
BODILESS = frozenset({204, 304})


class Lost(Exception):
    """The connection ended or stayed silent before the response arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    kept: bool


@dataclass
class Wire:
    """Connections to one server, reused while the server keeps them open. Mutable state: `idle`."""

    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, request: Request) -> Answer:
        """Send a request. Raises Lost. A connection that the server has closed meanwhile is replaced once."""
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                try:
                    return await self._ask(reader, writer, request)
                except Lost as error:
                    if not isinstance(error.__cause__, (ConnectionError, asyncio.IncompleteReadError)):
                        raise
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=HEAD_BYTES_MAX)
        return await self._ask(reader, writer, request)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> Answer:
        kept = False
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                writer.write(encode_request(request, self.port))
                answer = await read_answer(reader, request.method)
            kept = answer.kept
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Lost("the connection was cut without an answer") from error
        except TimeoutError as error:
            raise Lost(f"no answer in {ANSWER_MAX_S:g} s") from error
        finally:
            if kept:
                self.idle.append((reader, writer))
            else:
                writer.close()
        return answer

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()
        self.idle.clear()


def encode_request(request: Request, port: int) -> bytes:
    names = {name.lower() for name, _ in request.headers}
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: 127.0.0.1:{port}")
    lines += [f"{name}: {value}" for name, value in request.headers]
    if request.chunked:
        lines.append("Transfer-Encoding: chunked")
    elif request.body or request.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    if not request.chunked:
        return head + request.body
    half = len(request.body) // 2
    pieces = [piece for piece in (request.body[:half], request.body[half:]) if piece]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        status = int(first.split(" ", 2)[1])
        if status >= 200:
            break
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kept = headers.get("connection", "").lower() != "close"
    if method == "HEAD" or status in BODILESS:
        return Answer(status, headers, b"", kept)
    if "chunked" in headers.get("transfer-encoding", ""):
        return Answer(status, headers, await _read_chunks(reader), kept)
    if "content-length" in headers:
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])), kept)
    return Answer(status, headers, await reader.read(), False)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)
