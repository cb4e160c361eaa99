"""
More requests than the disk, and more data than a reader, can take, over real sockets.

The speed is printed (`pytest -s`) and not asserted. The tests assert what is stored and how much waits.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError, Overloaded
from durable_chat.http.reads import LiveReads
from durable_chat.http.server.waits import Waits
from durable_chat.http.streams import stream_app
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.requests import Appended, Create
from durable_chat.store.memory import MemoryBackend, SlowBackend
from durable_chat.store.streams import Streams
from tests.conftest import Serve
from tests.http.test_connections import WAIT_S, Server, connected, seen, serving
from tests.servers import Server as Process
from tests.store.making import json_append

QUEUE_MAX = 32
FLUSH_S = 0.02
ACKED_EACH = 3
BACK_OFF_S = 0.01


@asynccontextmanager
async def stream_server(backend: MemoryBackend, **terms: Any) -> AsyncIterator[tuple[Server, Streams, LiveReads]]:
    streams = Streams(backend, queue_writes_max=QUEUE_MAX)
    await streams.open()
    await streams.create("s", Create(JSON))
    live = LiveReads(1000)
    app = stream_app(streams, Settings(store="memory://"), live)
    async with serving(app, write_soon=app.write_soon, **terms) as server:
        yield server, streams, live
        live.close()
    await streams.close()


@dataclass
class Client:
    """A writer. Mutable: the messages that the server has confirmed, and the number of refusals."""

    name: int
    acked: list[str] = field(default_factory=list)
    refused: int = 0

    async def run(self, server: Server) -> None:
        """Append until this many messages are confirmed. Retry those that were refused."""
        async with connected(server) as (reader, writer):
            while len(self.acked) < ACKED_EACH:
                message = f"{self.name}/{len(self.acked)}"
                body = json.dumps(message).encode()
                head = f"POST /v1/stream/s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                status, headers = await answer_of(reader)
                if status == 503:
                    assert int(headers["retry-after"]) > 0
                    self.refused += 1
                    await asyncio.sleep(BACK_OFF_S)
                else:
                    assert status in (200, 204)
                    self.acked.append(message)


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)).decode()
    status, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    await reader.readexactly(int(headers.get("content-length", 0)))
    return int(status.split()[1]), headers


@pytest.mark.parametrize("clients", [16, 100, 200])
async def test_appends_to_a_slow_disk(clients: int) -> None:
    """
    Appends over the queue's limit get 503 and Retry-After. Each confirmed append is in the stream once. No flush
    holds more than the queue's limit.
    """
    backend = SlowBackend(FLUSH_S)
    async with stream_server(backend) as (server, streams, _):
        several = [Client(n) for n in range(clients)]
        began_s = time.perf_counter()
        await asyncio.gather(*(client.run(server) for client in several))
        took_s = time.perf_counter() - began_s
        async with await streams.read("s", "-1") as reader:
            found = json.loads(b"[" + (await reader.next()).data + b"]")
    acked = [message for client in several for message in client.acked]
    refused = sum(client.refused for client in several)
    rate = len(acked) / took_s
    sys.stdout.write(
        f"{clients} clients: {rate:.0f} appends/s, {refused} refused, largest flush {max(backend.flushes)}\n"
    )
    assert sorted(found) == sorted(acked)
    assert max(backend.flushes) <= QUEUE_MAX
    assert (refused > 0) is (clients > 2 * QUEUE_MAX)


async def test_what_is_admitted_waits_for_two_flushes_at_the_most() -> None:
    """An admitted append waits for at most two flushes: the current one and its own."""
    backend = SlowBackend(0.0)
    streams = Streams(backend, queue_writes_max=QUEUE_MAX)
    await streams.open()
    await streams.create("s", Create(JSON))
    waited: list[int] = []
    refused = 0

    async def append() -> None:
        nonlocal refused
        before = len(backend.flushes)
        try:
            await streams.append("s", json_append(b"1"))
        except Overloaded:
            refused += 1
        else:
            waited.append(len(backend.flushes) - before)

    for _ in range(50):
        await asyncio.gather(*(append() for _ in range(3 * QUEUE_MAX)))
    assert refused > 0
    assert max(waited) <= 2
    await streams.close()


async def test_a_prompt_append_finds_the_queue_full() -> None:
    """With a full queue, `append_soon` returns False and `append` raises Overloaded."""
    streams = Streams(SlowBackend(0.0), queue_writes_max=2)
    await streams.open()
    await streams.create("s", Create(JSON))
    done: list[Appended | None] = []

    def tell(appended: Appended | None, _failure: DurableChatError | None) -> None:
        done.append(appended)

    assert [streams.append_soon("s", json_append(b"1"), tell) for _ in range(3)] == [True, True, False]
    with pytest.raises(Overloaded):
        await streams.append("s", json_append(b"1"))
    await streams.close()
    assert len([appended for appended in done if appended is not None]) == 2


READ = b"GET /v1/stream/s?offset=-1&live=sse HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LONG = 100_000


async def test_a_reader_that_does_not_read_is_cut_off() -> None:
    """A reader that takes nothing for some time is disconnected. Other readers and the stream continue."""
    async with stream_server(MemoryBackend(), waits=Waits(write_s=0.3)) as (server, streams, live):
        async with connected(server) as (quick, writer), connected(server) as (_, idle):
            writer.write(READ)
            idle.write(READ)
            await seen(lambda: [1] if live.count == 2 else [])
            received = 0
            appended = 0
            while live.count == 2:
                await streams.append("s", json_append(b'"%s"' % (b"x" * LONG)))
                appended += 1
                received += len(await asyncio.wait_for(quick.read(1 << 20), WAIT_S))
            while received < appended * LONG:
                received += len(await asyncio.wait_for(quick.read(1 << 20), WAIT_S))
            assert live.count == 1
            assert len(server.server_state.connections) == 1


SLOW_READERS = 40
MESSAGES = 160
GROWTH_MAX_BYTES = 250 * 1024 * 1024
"""Of the server: far less than the 640 MB that it would hold if it kept for each reader what that has not read."""


def memory_of(server: Process) -> int:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return 1024 * int(line.split()[1])


async def test_readers_that_do_not_read_cost_no_memory(serve: Serve) -> None:
    """
    Forty readers stand still while 16 MB are appended. The server does not buffer the data for each of them. One
    reader that reads, and one that resumes later, get all of it.
    """
    server = await asyncio.to_thread(serve)
    quick, writer = await asyncio.open_connection("127.0.0.1", server.port)
    create = f"PUT /v1/stream/s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\n\r\n"
    writer.write(create.encode())
    assert (await answer_of(quick))[0] == 201
    slow = [await standing_still(server) for _ in range(SLOW_READERS)]
    before = memory_of(server)
    reader, other = await asyncio.open_connection("127.0.0.1", server.port)
    other.write(READ)
    reading = asyncio.create_task(read_bytes(reader, MESSAGES * LONG))
    body = b'"%s"' % (b"x" * LONG)
    head = (
        f"POST /v1/stream/s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(MESSAGES):
        writer.write(head.encode() + body)
        assert (await answer_of(quick))[0] in (200, 204)
    await asyncio.wait_for(reading, WAIT_S)
    growth = memory_of(server) - before
    sys.stdout.write(f"{SLOW_READERS} readers that stand still: {growth / 2**20:.0f} MiB more\n")
    assert growth < GROWTH_MAX_BYTES
    late, closing = await asyncio.open_connection(sock=slow.pop())
    await asyncio.wait_for(read_bytes(late, MESSAGES * LONG), WAIT_S)
    for one in (writer, other, closing):
        one.close()
    for still in slow:
        still.close()


async def standing_still(server: Process) -> socket.socket:
    """A live reader that has sent its request and reads nothing."""
    still = socket.socket()
    still.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    still.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(still, ("127.0.0.1", server.port))
    await loop.sock_sendall(still, READ)
    return still


async def read_bytes(reader: asyncio.StreamReader, wanted: int) -> None:
    """Read until this many bytes of messages have arrived."""
    found = 0
    while found < wanted:
        part = await reader.read(1 << 18)
        assert part, "it was cut off"
        found += part.count(b"x")
