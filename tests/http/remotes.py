"""
A remote server whose every byte a test controls, and the read proxy as a real server in front of any remote.

Both run in the test's own event loop, on sockets of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError
from durable_chat.http.errors import error_response
from durable_chat.http.reads import LiveReads
from durable_chat.http.upstream.log import Upstream
from durable_chat.http.upstream.proxy import proxy_response
from durable_chat.protocol.messages import JSON

# The timeout of every wait. The traceback names the line that waited.
SOON_S = 20.0

START = "0000000000000000_0000000000000000"
EVENTS = {"Content-Type": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as the remote received it, with header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return dict(httpx.QueryParams(urlsplit(self.target).query))

    @property
    def numbers(self) -> tuple[int, int]:
        """Return the producer's epoch and sequence number."""
        return int(self.headers["producer-epoch"]), int(self.headers["producer-seq"])


class Wire:
    """The remote's side of one connection. `gone` is set when the other side has closed it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, Watched)
        self.gone = protocol.gone
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        length = {} if status in (204, 304) else {"Content-Length": str(len(body))}
        await self.send(head(status, {**length, **(headers or {})}) + body)

    async def begin(self, headers: Mapping[str, str] = EVENTS) -> None:
        """Send the head of a chunked response."""
        await self.send(head(200, {"Transfer-Encoding": "chunked", **headers}))

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """Close the connection without ending the response. Bytes that were sent still arrive."""
        self._writer.close()

    async def stay(self) -> None:
        """Wait until the other side has closed, then close as well."""
        await self.gone.wait()
        self.cut()


def head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


Behaviour = Callable[[Heard, Wire], Awaitable[None]]


class Remote:
    """
    Answer each request with the test's function. Mutable state: `heard`, every request so far, and `wires`, the
    connection of each.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.heard: list[Heard] = []
        self.wires: list[Wire] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/stream/secret-service"

    def of(self, method: str) -> list[Heard]:
        return [request for request in self.heard if request.method == method]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(writer)
        try:
            while not writer.is_closing():
                request = await read_request(reader)
                self.heard.append(request)
                self.wires.append(wire)
                await self.behaviour(request, wire)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Watched(asyncio.StreamReaderProtocol):
    """A protocol that reports a closed connection at once, even while nobody reads."""

    def __init__(self, reader: asyncio.StreamReader, connected: Callable[..., None]) -> None:
        super().__init__(reader, connected)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool:
        self.gone.set()
        return bool(super().eof_received())

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(error)


async def read_request(reader: asyncio.StreamReader) -> Heard:
    """Read one request. Raises IncompleteReadError when there is none."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method, target, headers, body)


@asynccontextmanager
async def remote(behaviour: Behaviour) -> AsyncIterator[Remote]:
    """Run a remote, and close its open connections at the end."""
    told = Remote(behaviour)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(told.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Watched(asyncio.StreamReader(), connected), "127.0.0.1", 0)
    told.port = server.sockets[0].getsockname()[1]
    try:
        yield told
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def silent(_: Heard, wire: Wire) -> None:
    """Accept a request and send nothing until the client disconnects."""
    await wire.stay()


def speaking(said: bytes) -> Behaviour:
    """Send these bytes and then nothing more, without an end, until the client disconnects."""

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin()
        await wire.chunk(said)
        await wire.stay()

    return behave


def relay(target: str) -> Behaviour:
    """Forward every request to the server at that address, and its complete response back."""

    async def behave(request: Heard, wire: Wire) -> None:
        answer = await ask(target, request)
        kept = {
            k: v for k, v in answer.headers.items() if k not in ("content-length", "transfer-encoding", "connection")
        }
        await wire.answer(answer.status_code, kept, answer.content)

    return behave


async def ask(target: str, request: Heard) -> httpx.Response:
    """Send the request to another server, for a remote that applies it and then misbehaves."""
    skipped = ("host", "connection", "content-length")
    headers = {name: value for name, value in request.headers.items() if name not in skipped}
    async with httpx.AsyncClient(trust_env=False, timeout=SOON_S) as client:
        return await client.request(request.method, target + request.target, headers=headers, content=request.body)


@dataclass(slots=True)
class Proxy:
    """The read proxy as a server. The stream's path is the request's path without its first slash."""

    url: str
    live: LiveReads


@asynccontextmanager
async def proxy(
    upstream: Upstream, settings: Settings, absent: str | None = JSON, allowed_s: float | None = None
) -> AsyncIterator[Proxy]:
    """Run the read proxy. With `allowed_s`, a reader's permission expires that many seconds after the request."""
    live = LiveReads(per_stream_max=100)
    private = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie, Origin"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            path = scope["path"][1:]
            until_s = None if allowed_s is None else time.time() + allowed_s
            response = await proxy_response(
                upstream, path, request, settings, live, absent=absent, headers=private, until_s=until_s
            )
        except DurableChatError as error:
            response = error_response(error)
        await response(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", live)
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def upstream_at(url: str, secret: str | None = "s3cret") -> AsyncIterator[Upstream]:
    upstream = Upstream(url, secret)
    try:
        yield upstream
    finally:
        await upstream.aclose()


@asynccontextmanager
async def reader_client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=SOON_S) as client:
        yield client


def control(offset: str, **fields: str) -> bytes:
    """Return a `control` event. `fields` is JSON."""
    more = "".join(f',"{name}":{value}' for name, value in fields.items())
    return f'event: control\ndata: {{"streamNextOffset":"{offset}","streamCursor":"7"{more}}}\n\n'.encode()


def data(text: str) -> bytes:
    return f"event: data\ndata: {text}\n\n".encode()
