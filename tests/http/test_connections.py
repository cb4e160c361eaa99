"""The HTTP/1.1 connection, byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from durable_chat.http.followers import LINE
from durable_chat.http.limits import CONNECTIONS_DEFAULT, connections_for
from durable_chat.http.server.connections import connection_class
from durable_chat.http.server.framing import HEAD_BYTES_MAX, HEADERS_MAX
from durable_chat.http.server.waits import Waits

WAIT_S = 20.0
"""A test that waits longer has failed."""


class Server(uvicorn.Server):
    """uvicorn inside a test, with the address that it listens on."""

    def __init__(self, app: ASGIApp, **terms: Any) -> None:
        factory = connection_class(terms.pop("write_soon", lambda scope, body, done: False), **terms)
        super().__init__(
            uvicorn.Config(app, port=0, http=factory, ws="none", lifespan="off", log_config=None, timeout_keep_alive=30)
        )
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


@asynccontextmanager
async def serving(app: ASGIApp, **terms: Any) -> AsyncIterator[Server]:
    server = Server(app, **terms)
    task = asyncio.create_task(server.serve())
    await asyncio.wait_for(server.listening.wait(), WAIT_S)
    try:
        yield server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, WAIT_S)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def all_of(server: Server, request: bytes) -> bytes:
    """Return all bytes until the server closes."""
    async with connected(server) as (reader, writer):
        writer.write(request)
        return await asyncio.wait_for(reader.read(), WAIT_S)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's method, path, query and body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    asked = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} ".encode() + body
    headers = [(b"content-length", b"%d" % len(asked))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": asked})


def bodies(answers: bytes) -> list[bytes]:
    """Return the bodies of responses that have a Content-Length."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        (length,) = lengths
        found.append(rest[:length])
        answers = rest[length:]
    return found


CLOSE = b"Connection: close\r\n\r\n"


async def test_requests_sent_at_once_are_answered_in_order() -> None:
    """Pipelined requests are answered in order (RFC 9112, 9.3.2)."""
    requests = (
        b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /3?q=%20 HTTP/1.1\r\n" + CLOSE
    )
    async with serving(echo) as server:
        assert bodies(await all_of(server, requests)) == [b"GET /1? ", b"POST /2? abc", b"GET /3?q=%20 "]


async def test_a_request_byte_by_byte() -> None:
    """A request is read the same way however it is split."""
    request = b"POST /a%20b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving(echo) as server, connected(server) as (reader, writer):
        for at in range(len(request)):
            writer.write(request[at : at + 1])
            await writer.drain()
        assert bodies(await asyncio.wait_for(reader.read(), WAIT_S)) == [b"POST /a b? abcde"]


async def test_a_long_body_is_read_as_it_is_asked_for() -> None:
    """A body many times larger than the read buffer arrives complete."""
    body = bytes(range(256)) * 8192
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n" % len(body) + CLOSE + body
    async with serving(echo) as server:
        assert bodies(await all_of(server, request)) == [b"POST /? " + body]


async def test_expecting_to_go_on() -> None:
    """`Expect: 100-continue` is answered when the application asks for the body (RFC 9110, 10.1.1)."""
    async with serving(echo) as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n" + CLOSE)
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert bodies(await asyncio.wait_for(reader.read(), WAIT_S)) == [b"POST /? abc"]


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response of unknown length."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one", b"", b"two"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("request_line", "body"),
    [
        (b"GET / HTTP/1.1", b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        (b"GET / HTTP/1.0", b"onetwo"),
        (b"HEAD / HTTP/1.1", b""),
    ],
)
async def test_how_a_body_ends(request_line: bytes, body: bytes) -> None:
    """A body ends by chunks, for HTTP/1.0 clients by closing the connection; a HEAD response has none."""
    async with serving(stream) as server:
        answer = await all_of(server, request_line + b"\r\n" + CLOSE)
        assert answer.partition(b"\r\n\r\n")[2] == body
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nBad header: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * HEAD_BYTES_MAX, b"431"),
    ],
)
async def test_what_is_no_request(request_head: bytes, status: bytes) -> None:
    """An invalid request is refused, and the connection is closed."""
    async with serving(echo) as server:
        assert (await all_of(server, request_head)).startswith(b"HTTP/1.1 " + status)


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 1\r\n\r\na", b"501"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\na", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\na", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\nHost: a\n\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.2\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"505"),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n", b"417"),
        (CHUNKED + b"\r\nx\r\n", b"400"),
        (CHUNKED + b"\r\n1\na\n0\n\n", b"400"),
        (CHUNKED + b"\r\n-1\r\na\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"\r\nffffffffffffffffff\r\na", b"400"),
        (CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n", b"400"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n", b"400"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nhOST: b\r\n\r\n", b"400"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nOrigin: http://a\r\n\r\n", b"400"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\n" + b"A: b\r\n" * HEAD_BYTES_MAX, b"431"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nA: " + b"b" * 4 * HEAD_BYTES_MAX, b"431"),
        (CHUNKED + b"\r\n1;" + b"b" * 4 * HEAD_BYTES_MAX, b"431"),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 4 * HEAD_BYTES_MAX, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (HEADERS_MAX + 1) + b"\r\n", b"431"),
        (b"\r\n" * 2 * HEAD_BYTES_MAX, b"431"),
    ],
)
async def test_what_two_could_read_in_two_ways_is_refused(request_head: bytes, status: bytes) -> None:
    """
    An ambiguous request, which a server in between might delimit or route differently, does not reach the
    application.
    """
    asked: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        if message["type"] == "http.request":
            asked.append(scope["path"])

    async with serving(app) as server:
        answer = await all_of(server, request_head + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"content-length: ") == 1
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert asked == []


async def test_trailers_are_no_headers() -> None:
    """Trailers say nothing about their request, and do not become headers of another one."""
    heads: list[list[tuple[bytes, bytes]]] = []

    def post_soon(scope: Scope, body: bytes, done: Callable[..., None]) -> bool:
        heads.append(list(scope["headers"]))
        return False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        heads.append(list(scope["headers"]))

    chunked = CHUNKED + b"\r\n1\r\na\r\n0\r\nStream-Closed: true\r\nProducer-Id: p\r\n\r\n"
    posted = b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n" + CLOSE + b"b"
    async with serving(app, write_soon=post_soon) as server:
        assert bodies(await all_of(server, chunked + posted)) == [b"POST /? a", b"POST /2? b"]
    first = [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    second = [(b"host", b"a"), (b"content-length", b"1"), (b"connection", b"close")]
    assert heads == [first, second]


@pytest.mark.parametrize("bad", [b"NONSENSE\r\n\r\n", CHUNKED + b"\r\nx\r\n", b"GET / HTTP/1.2\r\n\r\n"])
async def test_a_refusal_waits_for_its_turn(bad: bytes) -> None:
    """The refusal of a pipelined request comes after the responses to the requests before it."""
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with serving(app) as server, connected(server) as (reader, writer):
        writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n" + bad)
        await writer.drain()
        asyncio.get_running_loop().call_later(0.1, go.set)
        answers = await asyncio.wait_for(reader.read(), WAIT_S)
        assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]


async def test_other_forms_of_an_address() -> None:
    """A complete URL, as sent to a proxy, is accepted; an upgrade to an unsupported protocol is ignored."""
    async with serving(echo) as server:
        whole = b"GET http://Here/x?y HTTP/1.1\r\nHost: here\r\n"
        assert bodies(await all_of(server, whole + CLOSE)) == [b"GET /x?y "]
        upgrade = b" /x HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        behind = b"GET" + upgrade + b"\r\n" + b"PUT" + upgrade + b"Content-Length: 0\r\n\r\nGET /2 HTTP/1.1\r\n" + CLOSE
        assert bodies(await all_of(server, behind)) == [b"GET /x? ", b"PUT /x? ", b"GET /2? "]
        tunnel = b"CONNECT http://here/ HTTP/1.1\r\nHost: here\r\n\r\n\x00\x01 something else"
        assert bodies(await all_of(server, tunnel)) == [b"CONNECT /? "]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
async def test_a_body_behind_a_request_for_an_upgrade(framing: bytes) -> None:
    """A request that asks for an upgrade to HTTP/2, as Java's client and `curl --http2` send it, keeps its body."""
    post = b"POST /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + framing
    soon: list[bytes] = []

    def post_soon(scope: Scope, body: bytes, done: Callable[..., None]) -> bool:
        soon.append(body)
        return False

    async with serving(echo, write_soon=post_soon) as server, connected(server) as (reader, writer):
        for at in range(len(post)):
            writer.write(post[at : at + 1])
            await writer.drain()
        assert await asyncio.wait_for(reader.readuntil(b"POST /x? abc"), WAIT_S)
        writer.write(post * 2 + b"GET /2 HTTP/1.1\r\n" + CLOSE)
        assert bodies(await asyncio.wait_for(reader.read(), WAIT_S)) == [*2 * [b"POST /x? abc"], b"GET /2? "]
    assert all(body == b"abc" for body in soon)


async def test_spaces_around_a_value_are_no_part_of_it() -> None:
    """
    Spaces around a header's value are ignored (RFC 9110, 5.5): `Stream-Closed: true ` closes like `Stream-Closed:
    true`.
    """
    values: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        values.extend(value for name, value in scope["headers"] if name == b"a")
        await echo(scope, receive, send)

    async with serving(app) as server:
        head = b"POST / HTTP/1.1\r\nA: \t b c \t \r\nA: \r\nA:\r\nContent-Length: 1\t\r\n"
        assert bodies(await all_of(server, head + CLOSE + b"x")) == [b"POST /? x"]
    assert values == [b"b c", b"", b""]


async def test_an_app_that_fails() -> None:
    """
    An application that fails before its response gives 500. One that fails during it cuts the connection, so that the
    client does not take the part for a complete response.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("a secret")

    async with serving(app) as server:
        early = await all_of(server, b"GET /early HTTP/1.1\r\n\r\n")
        late = await all_of(server, b"GET /late HTTP/1.1\r\n\r\n")
        assert early.startswith(b"HTTP/1.1 500") and b"secret" not in early
        assert late.endswith(b"4\r\nhalf\r\n")


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\0b", b"a\rb"])
async def test_a_header_is_one_line(value: bytes) -> None:
    """A line end in a header that the application sets does not create another header."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-name", value)]})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app) as server:
        answer = await all_of(server, b"GET / HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500") and b"x-name" not in answer


async def test_the_client_leaves() -> None:
    """The application learns that its client has disconnected."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        told.set_result(message["type"])

    async with serving(app) as server:
        async with connected(server) as (_, writer):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\nabc")
            await writer.drain()
        assert await asyncio.wait_for(told, WAIT_S) == "http.disconnect"


def pouring(done: asyncio.Future[None]) -> ASGIApp:
    """An application that sends without end, as fast as its client reads."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
        for _ in range(2000):
            await send(part)
        done.set_result(None)

    return app


async def test_a_client_that_does_not_read_is_waited_for() -> None:
    """The application waits while its client does not read, and continues when it does."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with serving(pouring(done)) as server, connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        (connection,) = await seen(lambda: [item for item in server.server_state.connections if paused(item)])
        assert not done.done()
        while not done.done():
            await reader.read(1 << 20)
        assert not paused(connection) or done.done()


async def test_a_client_that_never_reads_is_cut_off() -> None:
    """A client that never reads is disconnected, which frees its connection. The store still has the data."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with serving(pouring(done), waits=Waits(write_s=0.1)) as server, connected(server) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(done, WAIT_S)
        assert not server.server_state.connections


async def test_a_connection_that_asks_nothing_is_closed() -> None:
    """An idle connection is closed without a response."""
    async with serving(echo, waits=Waits(idle_s=0.1)) as server:
        assert await all_of(server, b"") == b""


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"])
async def test_a_request_that_stops_in_the_middle_is_given_up(sent: bytes) -> None:
    """An incomplete request times out, and its client is told why."""
    async with serving(echo, waits=Waits(read_s=0.1)) as server:
        assert (await all_of(server, sent)).startswith(b"HTTP/1.1 408 ")


async def drip(server: Server, begin: bytes, drop: bytes) -> bytes:
    """Return what comes back to a client that sends a few bytes again and again and never pauses for long."""
    async with connected(server) as (reader, writer):
        writer.write(begin)
        answer = asyncio.create_task(reader.read())
        async with asyncio.timeout(WAIT_S):
            while not answer.done():
                writer.write(drop)
                await asyncio.wait([answer], timeout=0.02)
        return await answer


@pytest.mark.parametrize(
    ("waits", "begin", "drop"),
    [
        (Waits(head_s=0.3), b"GET / HTTP/1.1\r\n", b"A: b\r\n"),
        (Waits(head_s=0.3), b"GET / HTTP/1.1\r\nA: ", b"b"),
        (Waits(head_s=0.3), b"GET /", b"a"),
        (Waits(body_s=0.3), b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n", b"x"),
        (Waits(body_s=0.3), b"POST / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n", b"x"),
        (Waits(body_s=0.3), b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (Waits(body_s=0.3), b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (Waits(body_s=0.3), b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
    ],
)
async def test_a_request_that_drips_is_cut_off(waits: Waits, begin: bytes, drop: bytes) -> None:
    """A request whose head or body takes too long is refused with an error, even if bytes keep arriving."""
    async with serving(echo, waits=waits) as server:
        answer = await drip(server, begin, drop)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"


async def test_a_second_request_that_drips_is_cut_off() -> None:
    """Each request has its own time limit, also on a connection that was used before and was idle."""
    async with serving(echo, waits=Waits(head_s=0.3)) as server:
        answer = await drip(server, b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n", b"A: b\r\n")
        assert b"GET /1? " in answer and b"HTTP/1.1 408 " in answer


async def test_a_slow_line_has_the_time_that_a_long_body_needs() -> None:
    """A long body gets more time than a short one: each byte that arrives extends the limit."""
    waits = Waits(body_s=0.1, body_bytes_per_s_min=1000)
    async with serving(echo, waits=waits) as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 4000\r\n" + CLOSE)
        for _ in range(40):
            writer.write(b"x" * 100)
            await asyncio.sleep(0.02)
        assert bodies(await asyncio.wait_for(reader.read(), WAIT_S)) == [b"POST /? " + b"x" * 4000]


async def test_an_app_that_reads_slowly_takes_none_of_the_clients_time() -> None:
    """The time limit of a body is suspended while the application does not read it, and applies again afterwards."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await echo(scope, receive, send)

    body = b"x" * 3_000_000
    waits = Waits(body_s=0.3, read_s=0.3, body_bytes_per_s_min=1e12)
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n" % len(body) + CLOSE
    async with serving(app, waits=waits) as server:
        assert bodies(await all_of(server, head + body)) == [b"POST /? " + body]
        assert (await all_of(server, head + body[:-1])).startswith(b"HTTP/1.1 408 ")


async def test_one_connection_too_many() -> None:
    """A connection over the limit is refused; the others continue. When one closes, a new one is accepted."""
    ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving(echo, connections_max=2) as server:
        async with connected(server) as (reader, writer):
            writer.write(ask)
            await asyncio.wait_for(reader.readuntil(b"GET /? "), WAIT_S)
            async with connected(server):
                await seen(lambda: [1] if len(server.server_state.connections) == 2 else [])
                refused = await all_of(server, b"")
                head, _, body = refused.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in head
                assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"
                assert json.loads(body)["code"] == "too_many_connections"
                writer.write(ask)
                await asyncio.wait_for(reader.readuntil(b"GET /? "), WAIT_S)
            await seen(lambda: [1] if len(server.server_state.connections) == 1 else [])
            assert bodies(await all_of(server, b"GET / HTTP/1.1\r\n" + CLOSE)) == [b"GET /? "]


def test_how_many_connections_there_may_be() -> None:
    """The limit of connections follows from the limit of open files, and leaves some files for other uses."""
    assert connections_for(1_048_576) == 917_504
    assert connections_for(256) == 192
    assert connections_for(10) == 1
    assert connections_for(None) == CONNECTIONS_DEFAULT


def lines(found: asyncio.Future[Any]) -> ASGIApp:
    """An application that leaves its response open and hands over its connection."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        line = scope["extensions"][LINE]["line"]
        line.detach(lambda: left.set_result(None))
        found.set_result(line)

    left: asyncio.Future[None] = found.get_loop().create_future()
    app.left = left  # type: ignore[attr-defined]
    return app


async def test_a_response_that_goes_on_without_the_app() -> None:
    """
    After the application returns, its response can be written to until it is finished. Then the connection takes
    another request.
    """
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    async with serving(lines(found)) as server, connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        line = await asyncio.wait_for(found, WAIT_S)
        assert line.push(b"one") and line.push(b"two")
        line.finish()
        assert not line.push(b"three")
        answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), WAIT_S)
        assert answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_a_live_response_in_chunks() -> None:
    """
    An application whose clients must notice a killed server uses chunks. The connection then takes another request.
    """
    lines: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        headers = [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        line = scope["extensions"][LINE]["line"]
        line.detach(lambda: None)
        line.push(b"one")
        line.finish()
        lines.append(line)

    async with serving(app) as server, connected(server) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi")
            answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), WAIT_S)
            assert answer.lower().count(b"transfer-encoding: chunked\r\n") == 1
            assert answer.endswith(b"\r\n\r\n3\r\none\r\n0\r\n\r\n")
    assert len(lines) == 2


async def test_whoever_writes_hears_that_the_client_left() -> None:
    """The writer learns that the client has disconnected, even long after the application has returned."""
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    app = lines(found)
    async with serving(app) as server:
        async with connected(server) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            line = await asyncio.wait_for(found, WAIT_S)
        await asyncio.wait_for(app.left, WAIT_S)  # type: ignore[attr-defined]
        assert not line.push(b"late")


async def test_whoever_writes_hears_that_the_client_had_left() -> None:
    """The writer learns of a client that disconnected before the application handed over its response."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["extensions"][LINE]["line"].detach(lambda: told.set_result(None))

    async with serving(app) as server:
        async with connected(server) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await writer.drain()
        await asyncio.wait_for(told, WAIT_S)


class Losing(asyncio.Transport):
    """A writer that learns during a write that the client has disconnected, and reports it at once."""

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self.connection = connection
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data
        self.connection.connection_lost(None)

    def is_closing(self) -> bool:
        return bool(self.written)


async def test_a_client_that_leaves_amid_what_it_sent() -> None:
    """Requests that a client sent before it disconnected are parsed to their end and not answered."""
    asked: list[bytes] = []

    def post_soon(scope: Scope, body: bytes, done: Callable[..., None]) -> bool:
        asked.append(body)
        done((204, []), None)
        return True

    config = uvicorn.Config(echo, log_config=None)
    config.load()
    state = ServerState()
    connection = connection_class(post_soon)(config, state, {})
    transport = Losing(connection)
    connection.connection_made(transport)
    post = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n"
    connection.data_received(post + b"1" + post + b"2" + b"GET / HTTP/1.1\r\n\r\n")
    assert asked == [b"1"]
    assert transport.written.count(b"HTTP/1.1") == 1
    assert not state.tasks and not state.connections


def paused(connection: Any) -> bool:
    return bool(connection.write_paused)


async def seen(look: Callable[[], list[Any]]) -> list[Any]:
    """Poll until there is a result, and return it."""
    async with asyncio.timeout(WAIT_S):
        while not (found := look()):  # noqa: ASYNC110 - a connection has no event for this
            await asyncio.sleep(0.01)
    return found
