"""
A process that is suspended for a while, and a clock that is set back: timeouts count only the time in which the process
runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import httpx
import pytest

from durable_chat.errors import NotFound
from durable_chat.models.timeouts import LOOKS, AwakeTimeout
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.requests import Create
from durable_chat.store.clocks import SteadyClock
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.streams import Streams
from tests.conftest import Serve
from tests.sessions.serving import user
from tests.store.making import json_append

STALL_S = 1
SESSIONS = 4


def test_a_process_that_was_stopped_ends_no_answer(serve: Serve) -> None:
    """After a suspension longer than the stall timeout, the data that arrived meanwhile is read first."""
    settings = {"DURABLE_CHAT_STALL_S": str(STALL_S), "DURABLE_CHAT_DEMO_DELAY_MS": "400"}
    server = serve(**settings, DURABLE_CHAT_DEMO_CHUNKS="12")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for n in range(SESSIONS):
            assert client.post(f"/api/chat?id=s{n}", json={"messages": [user("hello")]}).status_code == 202
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(2 * STALL_S)
        os.kill(server.pid, signal.SIGCONT)
        for n in range(SESSIONS):
            with client.stream("GET", f"/api/chat-stream?id=s{n}&offset=-1&live=sse") as answer:
                for line in answer.iter_lines():
                    assert "RUN_ERROR" not in line, line
                    if "RUN_FINISHED" in line:
                        break


async def test_a_limit_counts_the_looks_and_not_the_clock() -> None:
    """An event loop that stops for longer than the limit counts as one silent check."""
    async with AwakeTimeout(0.2) as limit:
        time.sleep(0.5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not limit.expired
    with pytest.raises(TimeoutError):
        async with AwakeTimeout(0.2) as limit:
            await asyncio.sleep(30)
    assert limit.expired
    async with AwakeTimeout(0.2) as limit:
        for _ in range(2 * LOOKS):
            limit.heard = True
            await asyncio.sleep(0.2 / LOOKS)


class Machine:
    """A wall clock that can be set, and a monotonic clock. In nanoseconds."""

    def __init__(self) -> None:
        self.wall_ns = 1_000_000 * 10**9
        self.monotonic_ns = 0

    def pass_s(self, seconds: float, *, set_by_s: float = 0) -> None:
        self.monotonic_ns += round(seconds * 10**9)
        self.wall_ns += round((seconds + set_by_s) * 10**9)

    def wall(self) -> int:
        return self.wall_ns

    def monotonic(self) -> int:
        return self.monotonic_ns


async def test_a_sliding_ttl_ends_in_time_when_the_clock_is_set_back() -> None:
    """The clock is set back by an hour within the TTL. A fixed time of day, in contrast, follows the clock."""
    machine = Machine()
    streams = Streams(MemoryBackend(), SteadyClock(machine.wall, machine.monotonic), lambda: machine.wall_ns // 10**6)
    await streams.open()
    ends_ms = machine.wall_ns // 10**6 + 60_000
    await streams.create("sliding", Create(JSON, ttl_s=60))
    await streams.create("fixed", Create(JSON, expires_at="at that time", expires_at_ms=ends_ms))
    machine.pass_s(59, set_by_s=-3600)
    await streams.append("fixed", json_append(b"1"))
    assert (await streams.head("sliding")).ttl_s == 60
    machine.pass_s(2)
    with pytest.raises(NotFound):
        await streams.head("sliding")
    assert (await streams.head("fixed")).expires_at is not None
    machine.pass_s(3600)
    with pytest.raises(NotFound):
        await streams.head("fixed")
    await streams.close()


def test_the_steady_clock_follows_a_clock_that_is_put_forward() -> None:
    """It never goes back. The clock of a suspended machine also jumps forward."""
    machine = Machine()
    clock = SteadyClock(machine.wall, machine.monotonic)
    first = clock()
    machine.pass_s(1, set_by_s=-10)
    assert clock() == first + 1_000
    machine.pass_s(1, set_by_s=100)
    assert clock() == machine.wall_ns // 10**6
