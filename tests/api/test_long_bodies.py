"""
A long posted history does not stop another session's stream.

The pauses are printed (`pytest -s tests/api/test_long_bodies.py`) and not asserted, because they depend on the
machine. The tests assert that each turn is accepted and that the other stream continues.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from durable_chat.protocol.offsets import decode_offset, encode_offset
from tests.conftest import Serve
from tests.servers import Server
from tests.sessions.serving import ANSWER_MAX_S, user

HISTORY_BYTES = 20 * 1024 * 1024
APPEND_BYTES = 16 * 1024 * 1024
TURNS = 500
PIECE_BYTES = 64 * 1024
TICK_MS = 2
"""How far apart the watched stream's chunks are: fine enough to see a pause of some milliseconds."""
TICKS = 15_000
"""Half a minute of them: longer than the test looks."""


@dataclass
class Pauses:
    """The times at which pieces of the watched stream were read."""

    times: list[float] = field(default_factory=list)
    come: asyncio.Event = field(default_factory=asyncio.Event)

    def longest_ms(self) -> float:
        return 1000 * max(b - a for a, b in zip(self.times, self.times[1:], strict=False))


def history() -> list[dict[str, Any]]:
    """Return 499 turns and the question of turn 500, HISTORY_BYTES in all, with quotes and non-ASCII text."""
    line = 'Größe "quoted" [list] {"key": 1}\n'
    size = len(json.dumps(line, ensure_ascii=False).encode()) - 2
    text = line * (HISTORY_BYTES // (2 * TURNS - 1) // size)
    messages = [user(text, f"u{number // 2}") for number in range(2 * TURNS - 1)]
    for number, message in enumerate(messages):
        if number % 2:
            message |= {"id": f"a{number // 2}", "role": "assistant"}
    return messages


def encode(messages: Sequence[Any]) -> bytes:
    return json.dumps({"messages": messages}, ensure_ascii=False).encode()


async def request(server: Server, method: str, path: str, body: bytes = b"") -> bytes:
    """Send and read in small pieces, so that this process pauses no longer than the server does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        for at in range(0, len(body), PIECE_BYTES):
            writer.write(body[at : at + PIECE_BYTES])
            await writer.drain()
        pieces = []
        while piece := await asyncio.wait_for(reader.read(PIECE_BYTES), ANSWER_MAX_S):
            pieces.append(piece)
    finally:
        writer.close()
    assert pieces[0].split(b" ", 2)[1] in (b"200", b"201", b"202", b"204"), pieces[0]
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Pauses]:
    """Follow another session's answer, from before the block to after it."""
    pauses = Pauses()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /api/chat-stream?id=watched&offset=now&live=sse HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    async def read() -> None:
        while await reader.read(65_536):
            pauses.times.append(time.perf_counter())
            pauses.come.set()

    reading = asyncio.create_task(read())
    try:
        await more(pauses)
        pauses.times.clear()
        yield pauses
        await more(pauses)
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.close()


async def more(pauses: Pauses) -> None:
    """Wait for more of the watched stream."""
    for _ in range(10):
        pauses.come.clear()
        await asyncio.wait_for(pauses.come.wait(), ANSWER_MAX_S)


async def during(server: Server, what: str, method: str, path: str, body: bytes = b"") -> bytes:
    """Send a request, and print the longest pause of the watched stream."""
    async with watching(server) as pauses:
        began = time.perf_counter()
        answer = await request(server, method, path, body)
        took_ms = 1000 * (time.perf_counter() - began)
    size = f"{(len(body) + len(answer)) / 2**20:.1f} MiB"
    sys.stdout.write(f"{what}: {size} in {took_ms:.0f} ms; longest pause elsewhere {pauses.longest_ms():.1f} ms\n")
    return answer


async def test_turn_500_of_20_mib_stops_nobody(serve: Serve) -> None:
    """
    Another session's stream continues while the server imports a posted history of 20 MiB, gets it again with the
    next turn, before and after a restart, and returns its snapshot.
    """
    demo = {"DURABLE_CHAT_DEMO_CHUNKS": str(TICKS), "DURABLE_CHAT_DEMO_DELAY_MS": str(TICK_MS)}
    server = await asyncio.to_thread(serve, **demo)
    messages = history()
    assert len(encode(messages)) > 0.95 * HISTORY_BYTES
    await request(server, "POST", "/api/chat?id=watched", encode([user("go")]))
    await during(server, "nothing", "GET", "/healthz")
    await during(server, "turn 500, imported", "POST", "/api/chat?id=long", encode(messages))
    await request(server, "POST", "/api/chat-stop?id=long")
    messages += [user("and then?", "u501")]
    await during(server, "turn 501", "POST", "/api/chat?id=long", encode(messages))
    await request(server, "POST", "/api/chat-stop?id=long")
    await asyncio.to_thread(server.restart)
    await request(server, "POST", "/api/chat?id=watched", encode([user("go on", "u2")]))
    messages += [user("and now?", "u502")]
    await during(server, "turn 502, after a restart", "POST", "/api/chat?id=long", encode(messages))
    await request(server, "POST", "/api/chat-stop?id=long")
    snapshot = json.loads(await during(server, "snapshot", "GET", "/api/chat-snapshot?id=long"))
    questions = [message["id"] for message in snapshot["messages"] if message["role"] == "user"]
    assert questions == [f"u{number}" for number in range(TURNS)] + ["u501", "u502"]


async def test_a_file_of_20_mb_stops_nobody(serve: Serve) -> None:
    """Another session's stream continues while a file of 20 MB is posted, posted again and read back."""
    demo = {"DURABLE_CHAT_DEMO_CHUNKS": str(TICKS), "DURABLE_CHAT_DEMO_DELAY_MS": str(TICK_MS)}
    server = await asyncio.to_thread(serve, **demo)
    data = random.Random(1).randbytes(20_000_000)
    source = {"type": "data", "value": base64.b64encode(data).decode(), "mimeType": "video/mp4"}
    message = {"id": "u1", "role": "user", "parts": [{"type": "video", "source": source}]}
    await request(server, "POST", "/api/chat?id=watched", encode([user("go")]))
    await during(server, "a file", "POST", "/api/chat?id=film", encode([message]))
    await request(server, "POST", "/api/chat-stop?id=film")
    await during(server, "a file again", "POST", "/api/chat?id=film", encode([message]))
    path = f"/api/chat-artifact?id=film&artifact={hashlib.sha256(data).hexdigest()}"
    assert await during(server, "the file", "GET", path) == data


async def test_appends_of_16_mib_stop_nobody(serve: Serve) -> None:
    """
    Another session's stream continues while 16 MiB are appended by the protocol (many messages, one long message, a
    new stream with this content) and read back.
    """
    demo = {"DURABLE_CHAT_DEMO_CHUNKS": str(TICKS), "DURABLE_CHAT_DEMO_DELAY_MS": str(TICK_MS)}
    server = await asyncio.to_thread(serve, **demo)
    line = json.dumps('Größe "quoted" [list] {"key": 1}' * 5, ensure_ascii=False).encode()
    many = b"[" + b",".join([line] * (APPEND_BYTES // (len(line) + 1) - 1)) + b"]"
    long = b'"' + b"x" * (APPEND_BYTES - 2) + b'"'
    await request(server, "POST", "/api/chat?id=watched", encode([user("go")]))
    await request(server, "PUT", "/v1/stream/large")
    await during(server, "nothing", "GET", "/healthz")
    await during(server, "many messages", "POST", "/v1/stream/large", many)
    await during(server, "one long message", "POST", "/v1/stream/large", long)
    await during(server, "a stream with many", "PUT", "/v1/stream/begun", many)
    first = await during(server, "a read of the first", "GET", "/v1/stream/large?offset=-1")
    assert json.loads(first)[0] == json.loads(line)
    answer = await asyncio.to_thread(httpx.head, f"{server.url}/v1/stream/large")
    life, _ = decode_offset(answer.headers["Stream-Next-Offset"])
    offset = encode_offset(life, len(json.loads(many)))
    last = await during(server, "a read of the long one", "GET", f"/v1/stream/large?offset={offset}")
    assert len(last) == len(long) + 2
