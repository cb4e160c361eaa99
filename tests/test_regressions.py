"""
What an append, a delivery and a delta cost, in counts that are the same on every machine: calls, tasks, statements,
writes and bytes. A failure means that a step was added to the hot path. scripts/bench shows its cost.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from benchmarks import tracing
from benchmarks.servers import OURS
from durable_chat import DurableChat
from durable_chat.config.settings import Settings
from durable_chat.http.server.connections import connection_class
from durable_chat.models.base import Turn
from durable_chat.store.sqlite.writer import SqliteWriter

WAIT_S = 30.0
"""A test that waits longer has failed."""

APPENDS = 256
STREAMS = 64
READERS = 200
CREATIONS = 500

# Each about a tenth above what is counted now, in calls of functions, those in C included.
APPEND_CALLS_MAX = 200
DELIVERY_CALLS_MAX = 23
# Of the write-ahead log, for a message of 110 bytes in a flush of many; its stream's new state is in it.
APPEND_BYTES_MAX = 300
# In memory, as Python counts it: a reader with its connection, and a stream with the connection that has made it.
READER_BYTES_MAX = 6 * 1024
STREAM_BYTES_MAX = 5 * 1024


class Wire(asyncio.Transport):
    """A client's end. Mutable state: what was written, how much of it is `wanted`, and the waiter for that."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.wanted: Countdown | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if self.wanted is not None:
            self.wanted.tell()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Countdown:
    """Done after a number of notifications. Waiting for it makes no calls."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set_result(None)


@dataclass
class Costs:
    """
    Mutable state: the counts so far. `calls` and `named` count in the loop's thread, `statements` count in flushes.
    """

    calls: int = 0
    named: Counter[str] = field(default_factory=Counter)
    statements: int = 0
    tasks: int = 0

    def call(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            self.calls += 1
            self.named[frame.f_code.co_name] += 1
        elif event == "c_call":
            self.calls += 1

    def sqlite_call(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and isinstance(getattr(argument, "__self__", None), sqlite3.Connection):
            self.statements += _within(frame, SqliteWriter.commit)

    def task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        # Compaction begins when it is time, on a slow machine in the middle of what is counted.
        self.tasks += coroutine.__qualname__ != "SqliteBackend._in_writer"
        return asyncio.Task(coroutine, loop=loop, **more)


def _within(frame: FrameType | None, function: Callable[..., Any]) -> bool:
    """Whether the function is on the stack."""
    while frame is not None:
        if frame.f_code is function.__code__:
            return True
        frame = frame.f_back
    return False


@dataclass(frozen=True)
class House:
    """A whole server without sockets."""

    chat: DurableChat
    connect: Callable[[], tuple[asyncio.Protocol, Wire]]
    costs: Costs
    database: Path

    @contextmanager
    def counted(self) -> Iterator[Costs]:
        """The costs of the block alone."""
        costs, loop = self.costs, asyncio.get_running_loop()
        costs.calls = costs.statements = costs.tasks = 0
        costs.named.clear()
        loop.set_task_factory(costs.task)
        gc.disable()
        sys.setprofile(costs.call)
        try:
            yield costs
        finally:
            sys.setprofile(None)
            gc.enable()
            loop.set_task_factory(None)

    async def asked(self, *requests: bytes) -> list[Wire]:
        """Send one request on each connection before the loop continues. Return when each has its response."""
        ends = [self.connect() for _ in requests]
        await self.given([wire for _, wire in ends], lambda: _send(ends, requests))
        return [wire for _, wire in ends]

    async def given(self, wires: list[Wire], cause: Callable[[], None]) -> None:
        """Return when each of the wires got one more write."""
        countdown = Countdown(len(wires))
        for wire in wires:
            wire.wanted = countdown
        cause()
        await asyncio.wait_for(countdown.done, WAIT_S)
        for wire in wires:
            wire.wanted = None


def _send(ends: list[tuple[asyncio.Protocol, Wire]], requests: tuple[bytes, ...]) -> None:
    for (connection, _), request in zip(ends, requests, strict=True):
        connection.data_received(request)


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _append(stream: int, size: int = 110) -> bytes:
    return _request("POST", f"/v1/stream/s{stream}", b'{"delta":"' + b"x" * (size - 12) + b'"}')


async def _answer(turn: Turn) -> AsyncIterator[str]:
    """Yield as many deltas as the message says."""
    for _ in range(int(turn.messages[-1]["parts"][0]["content"])):
        yield "word "


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[House]:
    costs, database = Costs(), folder / "chat.db"
    chat = DurableChat(settings=Settings(store=f"sqlite:///{database}"), protocol=True)
    chat.model(_answer)
    config = uvicorn.Config(chat.app, http=connection_class(chat.write_soon), lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    def connect() -> tuple[asyncio.Protocol, Wire]:
        wire = Wire()
        connection = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg] # uvicorn's name for any of them
        connection.connection_made(wire)
        return connection, wire

    threading.setprofile(costs.sqlite_call)
    try:
        lifespan = chat.lifespan()
        await lifespan.__aenter__()
    finally:
        threading.setprofile(None)
    house = House(chat, connect, costs, database)
    try:
        await house.asked(*(_request("PUT", f"/v1/stream/s{stream}") for stream in range(STREAMS)))
        await house.asked(*map(_append, range(STREAMS)))
        yield house
    finally:
        for connection in list(state.connections):
            connection.connection_lost(None)
        await lifespan.__aexit__(None, None, None)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(tmp_path) as house:
        yield house


async def test_what_an_append_costs(house: House) -> None:
    """From the request's bytes to the response's: no task, one flush for all, and a bounded number of calls."""
    requests = [_append(number % STREAMS) for number in range(APPENDS)]
    ends = [house.connect() for _ in requests]
    wires = [wire for _, wire in ends]
    with house.counted() as costs:
        await house.given(wires, lambda: _send(ends, tuple(requests)))
    assert all(wire.written[0].startswith(b"HTTP/1.1 204 ") for wire in wires)
    assert costs.tasks == 0
    assert costs.statements == 1
    assert costs.calls / APPENDS <= APPEND_CALLS_MAX


async def test_an_append_to_a_long_stream_costs_no_more(house: House) -> None:
    """The number of calls is the same for a stream of one message and of 50,000."""

    async def calls_of(stream: int) -> int:
        ends = [house.connect() for _ in range(APPENDS)]
        with house.counted() as costs:
            await house.given([wire for _, wire in ends], lambda: _send(ends, tuple([_append(stream)] * APPENDS)))
        return costs.calls

    many = msgspec.json.encode(["x" * 20] * 10_000)
    for _ in range(5):
        (wire,) = await house.asked(_request("POST", "/v1/stream/s0", many))
        assert wire.written[0].startswith(b"HTTP/1.1 204 ")
    assert await calls_of(0) <= 1.05 * await calls_of(1)


async def test_what_a_flush_costs(house: House) -> None:
    """A flush is one statement, for one append or many. Each append gets one response."""
    for appends in (1, 2, APPENDS):
        with house.counted() as costs:
            wires = await house.asked(*(_append(number % STREAMS) for number in range(appends)))
        assert costs.statements == 1
        assert {len(wire.written) for wire in wires} == {1}


async def test_what_an_append_writes(house: House) -> None:
    """The bytes written to disk for each append of a large flush. Pages are written whole."""
    log = Path(f"{house.database}-wal")
    before = log.stat().st_size
    await house.asked(*(_append(number % STREAMS) for number in range(APPENDS)))
    assert (log.stat().st_size - before) / APPENDS <= APPEND_BYTES_MAX


async def test_what_a_delivery_costs(house: House) -> None:
    """Each reader costs one write and a bounded number of calls. There is no task, and one encoding for all readers."""
    readers = await house.asked(*[_request("GET", "/v1/stream/s0?offset=now&live=sse")] * READERS)
    connection, writer = house.connect()
    with house.counted() as costs:
        await house.given([*readers, writer], lambda: connection.data_received(_append(0)))
    assert costs.tasks == 0
    assert costs.named["encode_data"] == 1
    assert costs.calls / READERS <= DELIVERY_CALLS_MAX


async def test_what_many_messages_at_once_cost_a_reader(house: House) -> None:
    """A flush is one write to each reader, however many appends it holds."""
    readers = await house.asked(*[_request("GET", "/v1/stream/s0?offset=now&live=sse")] * READERS)
    ends = [house.connect() for _ in range(32)]
    before = [len(reader.written) for reader in readers]
    with house.counted() as costs:
        wires = [*readers, *(wire for _, wire in ends)]
        await house.given(wires, lambda: _send(ends, tuple([_append(0)] * len(ends))))
    assert [len(reader.written) for reader in readers] == [count + 1 for count in before]
    assert costs.named["encode_data"] == 1


async def test_what_a_delta_costs(house: House) -> None:
    """A long answer creates as many tasks as a short one: a delta creates none."""

    async def tasks_of(session: str, deltas: int) -> int:
        parts = [{"type": "text", "content": str(deltas)}]
        body = msgspec.json.encode({"messages": [{"id": "m", "role": "user", "parts": parts}]})
        with house.counted() as costs:
            (wire,) = await house.asked(_request("POST", f"/api/chat?id={session}&mode=await", body))
        assert wire.written[0].startswith(b"HTTP/1.1 200 ")
        return costs.tasks

    await tasks_of("first", 1)
    assert await tasks_of("long", 250) <= await tasks_of("short", 50) + 5


async def test_what_a_reader_takes(house: House) -> None:
    """The memory of a waiting reader is bounded."""
    request = _request("GET", "/v1/stream/s0?offset=now&live=sse")
    await house.asked(request)
    with _allocated() as taken:
        wires = await house.asked(*[request] * READERS)
    assert 0 < taken.bytes / len(wires) <= READER_BYTES_MAX


async def test_what_a_stream_takes(house: House) -> None:
    """The memory of a stream with one message that is not compacted yet is bounded."""
    ends = [house.connect() for _ in range(CREATIONS)]
    wires = [wire for _, wire in ends]
    requests = tuple(_request("PUT", f"/v1/stream/t{number}", b'["x"]') for number in range(CREATIONS))
    with _allocated() as taken:
        await house.given(wires, lambda: _send(ends, requests))
    assert all(wire.written[0].startswith(b"HTTP/1.1 201 ") for wire in wires)
    assert 0 < taken.bytes / CREATIONS <= STREAM_BYTES_MAX


@dataclass
class Taken:
    """Mutable state: what was allocated in a block and still exists at its end."""

    bytes: int = 0


@contextmanager
def _allocated() -> Iterator[Taken]:
    taken = Taken()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield taken
        gc.collect()
        taken.bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


async def test_what_a_flush_asks_of_the_disk(tmp_path: Path) -> None:
    """strace shows at least one fsync for each flush, and not many more. The test is skipped without strace."""
    program = tracing.strace()
    if program is None:
        return
    syncs = await tracing.count(OURS, program, tmp_path, seconds=0.3)
    assert syncs.flushes
    assert syncs.flushes <= syncs.calls <= 1.2 * syncs.flushes + 10
    assert syncs.appends >= syncs.flushes / 2
