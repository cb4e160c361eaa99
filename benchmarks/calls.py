"""Connections that work off one list of requests together: each takes the next when its last one is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import httptools

from benchmarks.measures import LoadError, now_s
from benchmarks.wire import ANSWER_MAX_S, Crew, opened

# Between two looks at whether anything was answered.
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a series, and which of the series it is part of. `kept` says whether its body is wanted."""

    series: int
    step: int
    message: bytes
    kept: bool = False


@dataclass(slots=True)
class Calls:
    """
    What the connections share: `series`, each a list of calls that one connection makes in their order.

    Mutable: what is left of `series`, and what came: the latencies of each step, the series that were answered whole, the
    bodies kept, step and status of what was no success, and when the last answer came.
    """

    series: Iterator[list[Call]]
    crew: Crew
    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    whole: list[int] = field(default_factory=list)
    bodies: dict[int, bytes] = field(default_factory=dict)
    refused: list[tuple[int, int]] = field(default_factory=list)
    last_s: float = 0.0


class Caller(asyncio.Protocol):
    """Mutable: the calls left of the series it is at, the one in flight and when it was sent, and that one's body."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._left: list[Call] = []
        self._call: Call | None = None
        self._sent_s = 0.0
        self._body = b""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        assert self._transport is not None
        if not self._left:
            self._left = next(self._calls.series, [])
        if not self._left:
            self._call = None
            self._calls.crew.leave()
            return
        self._call, self._body = self._left.pop(0), b""
        self._sent_s = now_s()
        self._transport.write(self._call.message)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        if self._call is not None and self._call.kept:
            self._body += piece

    def on_message_complete(self) -> None:
        calls, call = self._calls, self._call
        if call is None:
            return
        calls.last_s = now_s()
        status = self._parser.get_status_code()
        if not 200 <= status < 300:
            calls.refused.append((call.step, status))
            self._left = []
        else:
            calls.latencies_s.setdefault(call.step, []).append(calls.last_s - self._sent_s)
            if call.kept:
                calls.bodies[call.series] = self._body
            if not self._left:
                calls.whole.append(call.series)
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._call is not None:
            self._call = None
            self._calls.crew.leave(LoadError("connection closed by the server"))


async def carry(port: int, series: Iterator[list[Call]], connections: int) -> Calls:
    """All calls, over so many connections. Raises LoadError when nothing is answered for a while."""
    crew = Crew(connections)
    calls = Calls(series, crew)
    async with opened(port, lambda: Caller(calls), connections) as callers:
        calls.last_s = now_s()
        for caller in callers:
            caller.send()
        while not crew.finished.done():
            await asyncio.wait([crew.finished], timeout=LOOK_S)
            if not crew.finished.done() and now_s() - calls.last_s > ANSWER_MAX_S:
                raise LoadError(f"{crew.working} connections got no answer within {ANSWER_MAX_S:g} s")
        crew.finished.result()
    return calls
