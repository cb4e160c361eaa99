"""The read proxy as a real server, between a reader and npm's reference server or a remote that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from durable_chat.config.settings import Settings
from durable_chat.http.upstream.log import Upstream
from durable_chat.protocol.messages import BINARY, JSON, join_messages
from durable_chat.protocol.requests import Append, Create
from tests.http.remotes import (
    SOON_S,
    START,
    Behaviour,
    Heard,
    Proxy,
    Remote,
    Wire,
    control,
    data,
    proxy,
    reader_client,
    remote,
    speaking,
    upstream_at,
)
from tests.servers import NpmServer

PATH = "chat-a"
SECRET = "s3cret"
SETTINGS = Settings(sse_ping_s=5.0)
TAIL = {"Content-Type": JSON, "Stream-Next-Offset": START, "Stream-Up-To-Date": "true"}
LIVE = {"offset": START, "live": "sse"}


@asynccontextmanager
async def between(
    behaviour: Behaviour, settings: Settings = SETTINGS, absent: str | None = JSON
) -> AsyncIterator[tuple[Remote, Proxy, httpx.AsyncClient]]:
    """A remote, the proxy in front of it, and a reader."""
    async with (
        remote(behaviour) as told,
        upstream_at(told.url, SECRET) as upstream,
        proxy(upstream, settings, absent) as before,
        reader_client() as client,
    ):
        yield told, before, client


@asynccontextmanager
async def before_npm(server: NpmServer) -> AsyncIterator[tuple[Upstream, str, httpx.AsyncClient]]:
    async with (
        upstream_at(f"{server.url}/v1/stream/service", SECRET) as upstream,
        proxy(upstream, SETTINGS) as before,
        reader_client() as client,
    ):
        yield upstream, f"{before.url}/{PATH}", client


class Events:
    """A live read's events, one block at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.aiter_bytes()
        self._buffer = b""

    async def next(self) -> bytes:
        while b"\n\n" not in self._buffer:
            self._buffer += await asyncio.wait_for(anext(self._chunks), SOON_S)
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        return block


# Before the reference server.


async def test_plain_read(npm_server: NpmServer) -> None:
    """A reader gets messages, offsets and an ETag, and a repeated read with the ETag gets 304."""
    async with before_npm(npm_server) as (upstream, url, client):
        await upstream.create(PATH, Create(JSON, payload=join_messages([b'{"n":1}', b"2"])))
        answer = await client.get(url)
        assert answer.json() == [{"n": 1}, 2]
        assert answer.headers["stream-next-offset"] == (await upstream.head(PATH)).next_offset
        assert answer.headers["stream-up-to-date"] == "true"
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["vary"] == "Authorization, Cookie, Origin"
        assert base64.b64encode(b"/v1/stream/service").decode()[:20] not in answer.headers["etag"]
        again = await client.get(url, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_large_read_is_decoded(npm_server: NpmServer) -> None:
    """
    A body that the remote compresses arrives complete, without the Content-Encoding and Content-Length of the
    compressed one.
    """
    async with before_npm(npm_server) as (upstream, url, client):
        text = b'"%s"' % (b"x" * 100_000)
        await upstream.create(PATH, Create(JSON, payload=join_messages([text])))
        for encoding in ("gzip", "identity"):
            answer = await client.get(url, headers={"Accept-Encoding": encoding})
            assert answer.content == b"[" + text + b"]"
            assert "content-encoding" not in answer.headers
            assert "content-length" not in answer.headers


async def test_live_read_arrives_while_it_is_open(npm_server: NpmServer) -> None:
    """Each message reaches the reader while the remote's response is still open."""
    async with before_npm(npm_server) as (upstream, url, client):
        await upstream.create(PATH, Create(JSON))
        async with client.stream("GET", url, params=LIVE) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            events = Events(answer)
            assert b"upToDate" in await events.next()
            for n in range(3):
                await upstream.append(PATH, Append(join_messages([b"%d" % n]), JSON))
                assert b"[%d]" % n in await events.next()
                assert b"streamNextOffset" in await events.next()


async def test_long_poll(npm_server: NpmServer) -> None:
    """A long-poll waits for a message and returns the remote's cursor."""
    async with before_npm(npm_server) as (upstream, url, client):
        await upstream.create(PATH, Create(JSON))
        asked = asyncio.ensure_future(client.get(url, params={"offset": "now", "live": "long-poll"}))
        while not asked.done():
            await upstream.append(PATH, Append(join_messages([b"1"]), JSON))
            await asyncio.wait({asked}, timeout=0.1)
        answer = await asked
        assert answer.json()[0] == 1
        assert answer.headers["stream-cursor"].isdigit()


async def test_missing_stream_reads_as_an_empty_one(npm_server: NpmServer) -> None:
    """
    A plain read creates nothing and returns an offset to continue from. A live read from there gets the first
    message.
    """
    async with before_npm(npm_server) as (upstream, url, client):
        for params in ({}, {"offset": "-1"}, {"offset": "now"}, {"offset": START}):
            answer = await client.get(url, params=params)
            assert (answer.status_code, answer.json()) == (200, [])
            assert answer.headers["stream-next-offset"] == START
            assert answer.headers["stream-up-to-date"] == "true"
            assert answer.headers["content-type"] == JSON
            assert answer.headers["cache-control"] == "private, no-cache"
        async with reader_client() as other:
            assert (await other.head(f"{npm_server.url}/v1/stream/service/{PATH}")).status_code == 404
        async with client.stream("GET", url, params=LIVE) as live:
            events = Events(live)
            assert b"control" in await events.next()
            await upstream.append(PATH, Append(join_messages([b'"hello"']), JSON))
            assert b'["hello"]' in await events.next()


async def test_stream_of_another_type_is_no_session(npm_server: NpmServer) -> None:
    """A read of a stream of another type is refused, because a chat did not write its bytes."""
    async with before_npm(npm_server) as (upstream, url, client):
        await upstream.create(PATH, Create(BINARY))
        answer = await client.get(url)
        assert (answer.status_code, answer.json()["code"]) == (502, "upstream_failed")


async def test_server_that_is_killed_ends_a_live_read_cleanly(npm_server: NpmServer) -> None:
    """
    When the remote dies between events, the reader sees a clean end, gets 503 on reconnecting, and later the rest
    once.
    """
    async with before_npm(npm_server) as (upstream, url, client):
        await upstream.create(PATH, Create(JSON, payload=join_messages([b"1"])))
        async with client.stream("GET", url, params=LIVE) as answer:
            events = Events(answer)
            assert b"[1]" in await events.next()
            assert b"upToDate" in await events.next()
            npm_server.kill()
            with pytest.raises(StopAsyncIteration):
                await events.next()
        down = await client.get(url)
        assert (down.status_code, down.json()["code"]) == (503, "upstream_down")
        assert int(down.headers["retry-after"]) >= 1
        await asyncio.to_thread(npm_server.start)
        assert (await client.get(url)).json() == [1]


async def test_head_has_no_body(npm_server: NpmServer) -> None:
    """A HEAD, also of a live read, is answered at once with the headers of a plain read."""
    async with before_npm(npm_server) as (upstream, url, client):
        await upstream.create(PATH, Create(JSON, payload=join_messages([b"1"])))
        for params in ({}, LIVE):
            answer = await client.head(url, params=params)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["stream-next-offset"] == (await upstream.head(PATH)).next_offset


async def test_stream_made_for_its_first_reader_lives_as_long_as_others(npm_server: NpmServer) -> None:
    """A session that a tab opens before its first message has the lifetime from the settings."""
    async with (
        upstream_at(f"{npm_server.url}/v1/stream/service", SECRET) as upstream,
        proxy(upstream, Settings(session_ttl_s=600)) as before,
        reader_client() as client,
        client.stream("GET", f"{before.url}/{PATH}", params=LIVE) as live,
    ):
        assert live.status_code == 200
        assert (await upstream.head(PATH)).ttl_s == 600


# Requests to the remote.


async def test_only_the_allowed_goes_up() -> None:
    """
    The proxy forwards three headers and three parameters of a reader's request, and replaces its token by our secret.
    """

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(200, TAIL, b"[]")

    async with between(behave) as (told, before, client):
        headers = {
            "Accept": "application/json",
            "If-None-Match": '"x"',
            "Authorization": "Bearer readers-token",
            "Cookie": "session=readers-cookie",
            "X-Api-Key": "readers-key",
            "Origin": "http://reader.example",
            "Referer": "http://reader.example/page",
            "X-Forwarded-For": "10.1.2.3",
            "Last-Event-ID": "7",
            "User-Agent": "readers-browser",
        }
        params = {"id": "a", "offset": START, "cursor": "9", "secret": "x", "token": "y"}
        assert (await client.get(f"{before.url}/{PATH}", params=params, headers=headers)).status_code == 200
        (request,) = told.heard
        assert request.target.endswith(f"/{PATH}?cursor=9&offset={START}")
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert request.headers["accept"] == "application/json"
        assert request.headers["if-none-match"] == '"x"'
        allowed = {"host", "connection", "accept", "accept-encoding", "if-none-match", "authorization", "user-agent"}
        assert set(request.headers) == allowed
        assert "reader" not in str(request)


@pytest.mark.parametrize(
    "query",
    [
        "offset=",
        "offset=a%20b",
        "offset=1,2",
        "offset=-1&offset=now",
        "offset=-1&live=tail",
        "live=sse",
        "offset=-1&live=sse&cursor=" + "9" * 300,
        "offset=%0d%0aX-Evil:1",
    ],
)
async def test_bad_queries_do_not_go_up(query: str) -> None:
    """The proxy refuses an invalid read itself, and the remote gets no request."""

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(200, TAIL, b"[]")

    async with between(behave) as (told, before, client):
        answer = await client.get(f"{before.url}/{PATH}?{query}")
        assert answer.status_code == 400
        assert answer.json()["code"].startswith("bad_")
        assert told.heard == []


# Responses of the remote.

HOP_BY_HOP = {
    "Connection": "x-foo, close, Stream-TTL",
    "X-Foo": "hop",
    "Stream-TTL": "7",
    "Keep-Alive": "timeout=5",
    "Proxy-Authenticate": "Basic",
    "Proxy-Authorization": "Basic eDp5",
    "Proxy-Connection": "close",
    "TE": "trailers",
    "Trailer": "X-Sum",
    "Upgrade": "h2c",
}
NAMING = {
    "Set-Cookie": "id=1",
    "Location": "http://secret-host/v1/stream/secret-service",
    "Content-Location": "/v1/stream/secret-service",
    "Server": "secret-server",
    "Via": "1.1 secret-proxy",
    "Link": "<http://secret-host/>; rel=next",
    "Alt-Svc": 'h3=":443"',
    "Report-To": "{}",
    "NEL": "{}",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "X-Foo",
    "WWW-Authenticate": "Bearer realm=secret-realm",
    "X-Request-Id": "1",
    "Stream-Forked-From": "/v1/stream/secret-service/b",
}


async def test_only_the_allowed_comes_back() -> None:
    """
    The proxy forwards no hop-by-hop header, no header that Connection names, no cookie and nothing that names the
    remote.
    """

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(200, {**TAIL, "ETag": '"e"', "Stream-Cursor": "7", **HOP_BY_HOP, **NAMING}, b"[]")
        wire.cut()

    async with between(behave) as (_, before, client):
        answer = await client.get(f"{before.url}/{PATH}")
        assert answer.json() == []
        passed = {"content-type", "cache-control", "vary", "etag", "stream-next-offset", "stream-up-to-date"}
        passed |= {"stream-cursor", "x-content-type-options", "x-accel-buffering"}
        ours = {"date", "server", "transfer-encoding"}
        assert set(answer.headers) - ours == passed
        assert answer.headers["server"] == "uvicorn"
        assert "secret" not in str(answer.headers)
        assert answer.headers["etag"] == '"e"'


async def test_entity_tags_do_not_name_the_remote() -> None:
    """The proxy removes a path from an entity tag, plain or in base64, and restores the tag when a reader sends it."""
    plain = f"/v1/stream/secret-service/{PATH}"
    tags = f'"{plain}:1", "{base64.b64encode(plain.encode()).decode()}:2", "~7", W/"3"'

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(200, {**TAIL, "ETag": tags}, b"[]")

    async with between(behave) as (told, before, client):
        answer = await client.get(f"{before.url}/{PATH}")
        assert "secret" not in answer.headers["etag"]
        assert answer.headers["etag"].endswith(':2", "~7", W/"3"')
        assert base64.b64encode(b"/v1/stream/secret")[:18].decode() not in answer.headers["etag"]
        await client.get(f"{before.url}/{PATH}", headers={"If-None-Match": answer.headers["etag"]})
        assert told.heard[-1].headers["if-none-match"] == tags


@pytest.mark.parametrize(
    ("status", "headers", "expected", "code"),
    [
        (401, {}, 503, "upstream_auth"),
        (403, {}, 503, "upstream_auth"),
        (429, {"Retry-After": "7"}, 503, "upstream_down"),
        (500, {}, 503, "upstream_down"),
        (503, {"Retry-After": "7"}, 503, "upstream_down"),
        (302, {"Location": "http://127.0.0.1:1/secret"}, 502, "upstream_failed"),
        (410, {}, 410, "offset_gone"),
        (400, {}, 400, "bad_request"),
        (206, {}, 502, "upstream_failed"),
        (200, {"Content-Type": "text/html"}, 502, "upstream_failed"),
        (200, {}, 502, "upstream_failed"),
    ],
)
async def test_answers_that_are_not_passed_on(status: int, headers: dict[str, str], expected: int, code: str) -> None:
    """
    Any other response becomes our own error, with our text and headers, and the connection to the remote is closed.
    """

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(status, {**NAMING, **headers}, b"<p>secret-host refused s3cret</p>")

    async with between(behave) as (told, before, client):
        for params in ({}, LIVE):
            answer = await client.get(f"{before.url}/{PATH}", params=params)
            assert (answer.status_code, answer.json()["code"]) == (expected, code)
            assert answer.headers["content-type"] == "application/json"
            assert "secret" not in answer.text + str(answer.headers)
            if expected == 503:
                assert answer.headers["retry-after"] == headers.get("Retry-After", "1")
            reads = [wire for heard, wire in zip(told.heard, told.wires, strict=True) if heard.method == "GET"]
            await asyncio.wait_for(reads[-1].gone.wait(), SOON_S)


async def test_nobody_listens(nobody: str) -> None:
    """When the remote is down, plain and live reads get 503 with Retry-After."""
    async with (
        upstream_at(f"{nobody}/v1/stream", SECRET) as upstream,
        proxy(upstream, SETTINGS) as before,
        reader_client() as client,
    ):
        for params in ({}, LIVE):
            answer = await client.get(f"{before.url}/{PATH}", params=params)
            assert (answer.status_code, answer.json()["code"]) == (503, "upstream_down")
            assert int(answer.headers["retry-after"]) >= 1


async def test_endless_headers() -> None:
    """A remote that sends an endless head counts as down."""

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n")
        while not wire.gone.is_set():
            await wire.send(b"X-Filler: %s\r\n" % (b"x" * 1000))
        wire.cut()

    async with between(behave) as (_, before, client):
        assert (await client.get(f"{before.url}/{PATH}")).status_code == 503


async def test_compressed_body_that_is_not_asked_for() -> None:
    """Compressed events are decoded, even if the proxy did not ask for compression."""
    body = gzip.compress(data("[1]") + control(START))

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.answer(200, {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}, body)

    async with between(behave) as (told, before, client):
        answer = await client.get(f"{before.url}/{PATH}", params=LIVE)
        assert answer.content == data("[1]") + control(START)
        assert "content-encoding" not in answer.headers
        assert told.heard[0].headers["accept-encoding"] == "identity"


async def test_plain_body_that_is_cut_is_cut() -> None:
    """When a body is cut off, the reader sees a broken connection, so it does not take the part for the whole."""

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin(TAIL)
        await wire.chunk(b"[1")
        wire.cut()

    async with between(behave) as (_, before, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{before.url}/{PATH}")


# Live reads.


async def test_events_pass_chunk_by_chunk() -> None:
    """Every piece, even half an event, reaches the reader before the remote sends the next."""
    taken = asyncio.Queue[None]()

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin()
        for piece in (b"event: da", b"ta\ndata: [1]", b"\n\n", control(START)):
            await wire.chunk(piece)
            await taken.get()
        await wire.end()

    async with between(behave) as (_, before, client), client.stream("GET", f"{before.url}/{PATH}", params=LIVE) as got:
        assert "content-length" not in got.headers
        pieces = []
        async for piece in got.aiter_bytes():
            pieces.append(piece)
            taken.put_nowait(None)
        assert pieces == [b"event: da", b"ta\ndata: [1]", b"\n\n", control(START)]


async def test_cut_in_the_middle_of_a_group_is_a_cut() -> None:
    """
    When the remote's response is cut between data and its control event, the reader sees a broken connection. A clean
    end would make it read the data twice.
    """

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin()
        await wire.chunk(data("[1]"))
        wire.cut()

    async with between(behave) as (_, before, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{before.url}/{PATH}", params=LIVE)


async def test_cut_between_groups_is_an_end() -> None:
    """
    When the remote's response is cut behind a control event, the read ends cleanly and the reader resumes by its
    offset.
    """

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin()
        await wire.chunk(data("[1]") + control(START))
        wire.cut()

    async with between(behave) as (_, before, client):
        answer = await client.get(f"{before.url}/{PATH}", params=LIVE)
        assert answer.content == data("[1]") + control(START)


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_remote_is_left_when_the_reader_leaves(live: str) -> None:
    """When a reader disconnects, during events or before a response, the connection to the remote is closed."""
    asked = asyncio.Event()

    async def behave(request: Heard, wire: Wire) -> None:
        if request.query["live"] == "sse":
            await wire.begin()
            await wire.chunk(control(START))
        asked.set()
        await wire.stay()

    async with between(behave) as (told, before, client):
        reading = asyncio.ensure_future(client.get(f"{before.url}/{PATH}", params={"offset": START, "live": live}))
        await asyncio.wait_for(asked.wait(), SOON_S)
        assert not told.wires[0].gone.is_set()
        reading.cancel()
        await asyncio.wait({reading})
        await asyncio.wait_for(told.wires[0].gone.wait(), SOON_S)


async def test_silent_remote_is_covered_by_pings() -> None:
    """While the remote is silent, the reader gets comments, never inside an event."""
    pinged = asyncio.Event()

    async def behave(_: Heard, wire: Wire) -> None:
        await wire.begin()
        await wire.chunk(control(START))
        await pinged.wait()
        await wire.chunk(b"event: control\n")
        await wire.chunk(control(START).removeprefix(b"event: control\n"))
        await wire.end()

    async with between(behave, Settings(sse_ping_s=1.0)) as (_, before, client):
        async with client.stream("GET", f"{before.url}/{PATH}", params=LIVE) as answer:
            events = Events(answer)
            assert await events.next() == control(START).strip()
            assert await events.next() == b": ping"
            pinged.set()
            while (block := await events.next()) == b": ping":
                pass
            assert block == control(START).strip()


async def test_live_reads_end_cleanly_when_the_server_goes_down() -> None:
    """
    At shutdown, each open read ends once and complete, new reads are told to retry, and the connections to the remote
    are closed.
    """
    async with between(speaking(data("[1]") + control(START))) as (told, before, client):
        async with client.stream("GET", f"{before.url}/{PATH}", params=LIVE) as answer:
            events = Events(answer)
            await events.next()
            await events.next()
            before.live.close()
            with pytest.raises(StopAsyncIteration):
                await events.next()
        await asyncio.wait_for(told.wires[0].gone.wait(), SOON_S)
        refused = await client.get(f"{before.url}/{PATH}", params=LIVE)
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert "retry-after" in refused.headers


async def test_live_read_in_the_middle_of_a_group_is_cut_when_the_server_goes_down() -> None:
    """A live read that a shutdown interrupts between data and its control event ends with a broken connection."""
    async with between(speaking(data("[1]"))) as (_, before, client):
        async with client.stream("GET", f"{before.url}/{PATH}", params=LIVE) as answer:
            events = Events(answer)
            await events.next()
            before.live.close()
            with pytest.raises(httpx.RemoteProtocolError):
                await events.next()


async def test_live_read_lasts_no_longer_than_its_time() -> None:
    """A live read ends after the configured time even if the remote never ends it."""
    async with between(speaking(control(START)), Settings(sse_s=1.0)) as (told, before, client):
        answer = await client.get(f"{before.url}/{PATH}", params=LIVE)
        assert answer.content == control(START)
        await asyncio.wait_for(told.wires[0].gone.wait(), SOON_S)


async def test_other_types_pass_where_they_are_asked_for() -> None:
    """Without a configured type, the proxy forwards any type with `nosniff`, and reports a missing stream."""

    async def behave(request: Heard, wire: Wire) -> None:
        if "none" in request.target:
            return await wire.answer(404, {}, b"secret")
        return await wire.answer(200, {**TAIL, "Content-Type": "text/plain"}, b"<p>")

    async with between(behave, absent=None) as (_, before, client):
        answer = await client.get(f"{before.url}/{PATH}")
        assert (answer.text, answer.headers["x-content-type-options"]) == ("<p>", "nosniff")
        missing = await client.get(f"{before.url}/none")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
