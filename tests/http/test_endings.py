"""Live responses of `serve` that end by closing the connection: their bytes, and what other responses keep."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser

from tests.conftest import Serve
from tests.servers import Process, Server

ENDLESS = {"DURABLE_CHAT_DEMO_CHUNKS": "100000", "DURABLE_CHAT_DEMO_DELAY_MS": "5"}
LIVE = "/api/chat-stream?id=a&offset=-1&live=sse"
TIMEOUT_S = 20.0
ends_with_connection = pytest.mark.own_http("uvicorn sends a live response in chunks and keeps the connection")


@pytest.fixture
def answering(serve: Serve) -> Server:
    """Run a server that writes an endless response."""
    server = serve(**ENDLESS)
    message = {"id": "u1", "role": "user", "parts": [{"type": "text", "content": "hello"}]}
    with closing(connect(server)) as connection:
        body = json.dumps({"messages": [message]})
        connection.request("POST", "/api/chat?id=a", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 202
    return server


def connect(server: Process) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)


def exchange(server: Process, request: str) -> Iterator[bytes]:
    """Yield what comes back to these bytes, piece by piece, until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        while piece := connection.recv(65536):
            yield piece


@ends_with_connection
def test_live_read(answering: Server) -> None:
    """
    A live read has no Content-Length and no chunks: the events follow the headers, and a killed server closes the
    connection in order.
    """
    with closing(connect(answering)) as connection:
        connection.request("GET", LIVE)
        answer = connection.getresponse()
        assert answer.headers["Connection"] == "close"
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "Transfer-Encoding" not in answer.headers
        assert "Content-Length" not in answer.headers
        assert answer.readline() == b"event: data\n"
        answering.kill()
        rest = answer.read()  # a connection reset would raise
    assert b"event: control\n" in rest


@pytest.mark.parametrize("version", ["1.0", pytest.param("1.1", marks=ends_with_connection)])
def test_live_read_that_ends(serve: Serve, version: str) -> None:
    """A live read that the server ends is complete: its last event is a control event, then the connection ends."""
    # HTTP/1.0 counts as a proxied request, which an unguarded server refuses
    server = serve("--open", DURABLE_CHAT_SSE_S="1")
    whole = b"".join(exchange(server, f"GET {LIVE} HTTP/{version}\nHost: 127.0.0.1\n\n"))
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"chunked" not in head
    assert body.startswith(b"event: control\n") and body.endswith(b"\n\n")


@ends_with_connection
def test_requests_behind_a_live_read(serve: Serve) -> None:
    """A request pipelined behind a live read is not answered, because the response says that the connection closes."""
    server = serve(DURABLE_CHAT_SSE_S="1")
    request = f"GET {LIVE} HTTP/1.1\nHost: 127.0.0.1\n\nGET /healthz HTTP/1.1\nHost: 127.0.0.1\n\n"
    whole = b"".join(exchange(server, request))
    assert whole.count(b"HTTP/1.1 200 OK") == 1
    assert b'"ok"' not in whole


@ends_with_connection
def test_requests_before_a_live_read(serve: Serve) -> None:
    """Pipelined requests before a live read on the same connection are answered as usual."""
    server = serve(DURABLE_CHAT_SSE_S="1")
    request = f"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\nGET {LIVE} HTTP/1.1\nHost: 127.0.0.1\n\n"
    first, *others = b"".join(exchange(server, request)).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"connection: close" not in first and first.endswith(b'{"status":"ok"}')
    assert len(others) == 1 and b"connection: close" in others[0]


def test_other_answers_keep_the_connection(serve: Serve) -> None:
    """Responses that are not event streams (HEAD, errors, long-polls, catch-up) keep the connection open."""
    server = serve(DURABLE_CHAT_LONG_POLL_S="1")
    with closing(connect(server)) as connection:
        connection.connect()
        one = connection.sock
        for method, target, status in (
            ("HEAD", LIVE, 200),
            ("GET", "/api/chat-stream?live=sse", 400),
            ("GET", "/api/chat-stream?id=a&live=sse", 400),
            ("GET", "/v1/stream/none?offset=-1&live=sse", 404),
            ("GET", "/api/chat-stream?id=a&offset=-1&live=long-poll", 204),
            ("GET", "/api/chat-stream?id=a&offset=-1", 200),
            ("GET", "/healthz?live=sse", 200),
        ):
            connection.request(method, target)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, "close" in answer.headers.get("Connection", "")) == (status, False), target
            assert connection.sock is one, target


READ = """
(address) => {
  window.seen = { bytes: 0, end: null }
  fetch(address).then(async ({ body }) => {
    const reader = body.getReader()
    for (let done = false; !done; ) {
      let value
      ;({ done, value } = await reader.read())
      window.seen.bytes += value?.length ?? 0
    }
  }).then(() => (window.seen.end = 'clean'), (error) => (window.seen.end = error.name))
}
"""


@ends_with_connection
def test_killed_under_chromium(answering: Server, chromium: Browser) -> None:
    """Chromium's `fetch` reads the end of a killed server's live response as an end and not as an error."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{answering.url}/healthz")
    page.evaluate(READ, LIVE)
    page.wait_for_function("() => window.seen.bytes > 1000")
    answering.kill()
    page.wait_for_function("() => window.seen.end")
    assert page.evaluate("() => window.seen.end") == "clean"
    context.close()
