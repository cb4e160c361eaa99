"""
Closed connections are freed at once by reference counting: the server runs its garbage collector rarely, and
thousands of clients may come and go in between.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable

import pytest
import uvloop

from benchmarks.measures import undisturbed
from durable_chat.http.followers import Follower
from durable_chat.http.server.connections import Connection
from durable_chat.http.server.exchanges import Exchange
from durable_chat.protocol.messages import JSON
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.readers import StreamReader
from tests.http.test_connections import WAIT_S, connected, seen
from tests.http.test_overload import stream_server
from tests.store.making import json_append

KINDS = (Connection, Exchange, Follower, StreamReader)
GET = b"GET /v1/stream/s HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LIVE = b"GET /v1/stream/s?offset=-1&live=sse HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/stream/s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %b\r\n" % JSON.encode()
# The request, and the bytes to wait for before the client disconnects.
LEAVINGS = {
    "an idle connection": (GET + b"\r\n", b"[]"),
    "one that appended": (POST + b"Content-Length: 1\r\n\r\n1", b"\r\n\r\n"),
    "one that was refused": (b"NONSENSE\r\n\r\n", b"\r\n\r\n"),
    "one that asked for nothing": (b"", b""),
    "an SSE reader": (LIVE, b'upToDate":true}\n\n'),
    "three requests at once": (GET + b"\r\n" + GET + b"\r\n" + GET + b"\r\n", b"[]"),
    "a head that was cut": (GET, b""),
    "a short body that was cut": (POST + b"Content-Length: 9\r\n\r\n[1,", b""),
    "a long body that was cut": (POST + b"Content-Length: 99999\r\n\r\n[1,", b""),
    "a body in chunks that was cut": (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1,", b""),
}


def alive() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in KINDS)


async def leave(sent: bytes, awaited: bytes) -> None:
    async with stream_server(MemoryBackend()) as (server, streams, _):
        before = alive()
        async with connected(server) as (reader, writer):
            writer.write(sent)
            if awaited:
                await asyncio.wait_for(reader.readuntil(awaited), WAIT_S)
            else:
                await seen(lambda: [1] if alive()["Connection"] > before["Connection"] else [])
        await streams.append("s", json_append(b"2"))  # the flush keeps its last writers until the next ones come
        await seen(lambda: [1] if alive() == before else [])


@pytest.mark.parametrize(("sent", "awaited"), LEAVINGS.values(), ids=LEAVINGS)
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_leaves_leaves_nothing(
    new_loop: Callable[[], asyncio.AbstractEventLoop], sent: bytes, awaited: bytes
) -> None:
    """When a client disconnects, its connection, its response and its subscription to the stream are freed."""
    with undisturbed(), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(leave(sent, awaited))
