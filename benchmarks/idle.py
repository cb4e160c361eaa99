"""Idle readers: how much memory a server needs for each SSE reader that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from benchmarks.chat import open_sessions
from benchmarks.measures import LoadError, Measure, Memory, Stopwatch, Target, now_s
from benchmarks.wire import ANSWER_MAX_S, STREAMS, create_streams, opened, request

# Readers of one stream or session: what a chat of many tabs has, and far below any limit.
PER_STREAM = 100
# Opened and closed before, so that what a server makes once is there.
WARM_READERS = 20
# What a server still does when all have begun is done by then.
SETTLE_S = 0.5
POLL_S = 0.02


class Reader(asyncio.Protocol):
    """An SSE reader. Mutable: the beginning of what it got, and `cut` (the server ended the read)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.head = b""
        self.cut = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sent = request("GET", self._address, headers="Accept: text/event-stream\r\n")
        cast(asyncio.Transport, transport).write(sent)

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            self.head += data

    @property
    def begun(self) -> bool:
        """Its first event is there. Raises LoadError when the read was refused."""
        if self.head and not self.head.startswith(b"HTTP/1.1 200 "):
            raise LoadError(f"an SSE read was answered {self.head.split(b' ', 2)[1].decode()}")
        return b"event:" in self.head

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut = True


async def of_streams(target: Target, readers: int, _warm_s: float, _seconds: float) -> Measure:
    """KiB of the server's memory for each reader of the protocol route."""
    paths = [f"{STREAMS}idle-{index}" for index in range(-(-readers // PER_STREAM))]
    await create_streams(target.port, paths)
    return await _measured(target, readers, lambda index: f"{paths[index]}?offset=-1&live=sse")


async def of_sessions(target: Target, readers: int, _warm_s: float, _seconds: float) -> Measure:
    """The same on the chat route, of sessions that a page has asked for and nobody has written to."""
    names = [f"idle-{index}" for index in range(-(-readers // PER_STREAM))]
    offsets = await open_sessions(target.port, names)
    addresses = [
        f"/api/chat-stream?id={name}&offset={offset}&live=sse" for name, offset in zip(names, offsets, strict=True)
    ]
    return await _measured(target, readers, addresses.__getitem__)


async def _measured(target: Target, readers: int, address: Callable[[int], str]) -> Measure:
    warm, _ = await _with_readers(target, WARM_READERS, address)
    watch = Stopwatch(target)
    _, during = await _with_readers(target, readers, address)
    grown = during.now_bytes - warm.now_bytes
    measure = watch.measure(now_s(), readers, ())
    return replace(measure, rate=max(0, grown) / 1024 / readers, notes=(f"{warm.now_bytes / 1e6:.0f} MB without",))


async def _with_readers(target: Target, count: int, address: Callable[[int], str]) -> tuple[Memory, Memory]:
    """The server's memory after so many readers have left, and what it was with them."""
    indexes = iter(range(count))
    async with opened(target.port, lambda: Reader(address(next(indexes) // PER_STREAM)), count) as readers:
        await _all_begun(readers)
        await asyncio.sleep(SETTLE_S)
        if cut := sum(reader.cut for reader in readers):
            raise LoadError(f"{cut} of {count} SSE readers were cut off")
        during = target.memory()
    await asyncio.sleep(SETTLE_S)
    return target.memory(), during


async def _all_begun(readers: Sequence[Reader]) -> None:
    until_s = now_s() + ANSWER_MAX_S
    while left := sum(not reader.begun for reader in readers):
        if now_s() > until_s:
            raise LoadError(f"{left} of {len(readers)} SSE readers did not begin within {ANSWER_MAX_S:g} s")
        await asyncio.sleep(POLL_S)
