"""
Chat: many sessions are answered at once, each at the same pace, and each is followed by two SSE readers, or by one. A
request-scoped load has one reader for each, which reads the answer from the response to its own request.

A reader only notes when bytes came; they are taken apart after the load, so that the generator costs little.
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import msgspec

from benchmarks.heard import Heard, clocks_agree, heard, lateness_ns, text_chunks
from benchmarks.measures import LoadError, Measure, Stopwatch, Target, now_s, percentile, undisturbed
from benchmarks.stamped import Order
from benchmarks.wire import ANSWER_MAX_S, Connection, json_request, opened, read_pages, request

READERS = 2
PER_S = 50
# Turns begin at this pace: a turn's beginning costs more than a chunk, and is not what is measured here.
BEGINNINGS_PER_S = 100
# After the last delta was due.
DRAIN_MAX_S = 20.0
POLL_S = 0.02
# Of the log's chunks to the model's deltas. Below, it is deltas joined into chunks that are measured: another load.
CHUNKS_SHARE_MIN = 0.9
LOGGED = "chunks in log, % of deltas"
# The run's end is within the last bytes of what a reader got, whatever pings come after it.
LAST_BYTES = 4096
ENDED = (b'"RUN_FINISHED"', b'"RUN_ERROR"')
# What HTTP puts between two pieces of a body. The body itself has no carriage return.
FRAMING = re.compile(rb"\r\n[0-9A-Fa-f]+\r\n")
ASKED_ID = "asked"


@dataclass(frozen=True, slots=True)
class Course:
    """When what happens, in seconds from the first turn: turns begin one by one, then a warm-up, then it is measured."""

    sessions: int
    per_s: int
    warm_s: float
    seconds: float
    chunks_share_min: float = CHUNKS_SHARE_MIN
    readers: int = READERS

    @property
    def begins_s(self) -> float:
        """The measured span; by then all sessions are being answered."""
        return self.sessions / BEGINNINGS_PER_S + self.warm_s

    @property
    def ends_s(self) -> float:
        """The first session's answer lasts until then, and the others' longer."""
        return self.begins_s + self.seconds

    @property
    def order(self) -> Order:
        return Order(round(self.ends_s * self.per_s) + 1, self.per_s)

    @property
    def over_s(self) -> float:
        """When the last delta of the last session is due."""
        return self.ends_s + self.sessions / BEGINNINGS_PER_S

    def turn_s(self, index: int) -> float:
        return index / BEGINNINGS_PER_S


class Reader(asyncio.Protocol):
    """A live reader of one session. Mutable: what was read and when, and `cut` (the connection was closed)."""

    _transport: asyncio.Transport

    def __init__(self, session: str, offset: str) -> None:
        self._address = f"/api/chat-stream?id={session}&offset={offset}&live=sse"
        self.session = session
        self.cut = False
        self.times_ns = array("q")
        self.reads: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.begin()

    def begin(self) -> None:
        self._transport.write(request("GET", self._address, headers="Accept: text/event-stream\r\n"))

    def data_received(self, data: bytes) -> None:
        self.times_ns.append(time.monotonic_ns())
        self.reads.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut = True

    @property
    def begun(self) -> bool:
        """Raises LoadError when the read was refused."""
        if self.reads and not self.reads[0].startswith(b"HTTP/1.1 200 "):
            raise LoadError(f"an SSE read was answered {self.reads[0].split(b' ', 2)[1].decode()}")
        return bool(self.reads)

    @property
    def ended(self) -> bool:
        last = b""
        for read in reversed(self.reads):
            last = read + last
            if len(last) >= LAST_BYTES:
                break
        last = FRAMING.sub(b"", last)
        return any(mark in last for mark in ENDED)

    def heard(self) -> Heard:
        return heard(zip(self.times_ns, self.reads, strict=True), ASKED_ID)


class Asker(Reader):
    """A reader whose request is the turn, and its response the answer."""

    def begin(self) -> None:
        """Nothing: it asks when its turn begins."""

    def ask(self, order: Order) -> None:
        message = {"id": ASKED_ID, "role": "user", "content": order.text}
        named = {"threadId": self.session, "runId": f"run-{self.session}"}
        body = {**named, "messages": [message], "tools": [], "context": [], "state": {}, "forwardedProps": {}}
        self._transport.write(json_request("POST", "/api/chat", msgspec.json.encode(body)))


@dataclass(frozen=True, slots=True)
class Span:
    """The measured part of a load, on the monotonic clock, and what the processes used in it."""

    begin_ns: int
    end_ns: int
    used: Measure

    def holds(self, time_ns: int) -> bool:
        return self.begin_ns <= time_ns < self.end_ns


async def run(
    target: Target,
    sessions: int,
    warm_s: float,
    seconds: float,
    per_s: int = PER_S,
    drain_max_s: float = DRAIN_MAX_S,
    chunks_share_min: float = CHUNKS_SHARE_MIN,
    readers_each: int = READERS,
    *,
    is_scoped: bool = False,
) -> Measure:
    """
    Deliveries per second over all readers, and the time from a delta's leaving the model to a reader's socket.

    Readers get `drain_max_s` for what is left when the last delta was due. Raises LoadError when it does not come.
    With less than `chunks_share_min` of the deltas as chunks in the log another load is measured, which is a fault.
    With `is_scoped` each session has one reader, whose request is the turn.
    """
    readers_each = 1 if is_scoped else readers_each
    course = Course(sessions, per_s, warm_s, seconds, chunks_share_min, readers_each)
    names = [f"bench-{index}" for index in range(sessions)]
    offsets = await open_sessions(target.port, names)
    indexes = iter(range(sessions * readers_each))

    def make() -> Reader:
        index = next(indexes) // readers_each
        return (Asker if is_scoped else Reader)(names[index], offsets[index])

    async with opened(target.port, make, sessions * readers_each) as readers:
        if not is_scoped:
            await _all_begun(readers)
        with undisturbed():
            span = await _drive(target, course, names, readers, drain_max_s)
        answers = [reader.heard() for reader in readers]
    logged = [await _log_chunks(target.port, name, offset) for name, offset in zip(names, offsets, strict=True)]
    return judged(course, span, answers, logged)


async def open_sessions(port: int, names: Sequence[str]) -> list[str]:
    """What a page does first: it asks for the messages, and the offset to follow from."""
    offsets = []
    async with opened(port, Connection) as (connection,):
        for name in names:
            answer = await connection.expect(request("GET", f"/api/chat-snapshot?id={name}"))
            offsets.append(str(msgspec.json.decode(answer.body)["offset"]))
    return offsets


async def _all_begun(readers: Sequence[Reader]) -> None:
    until_s = now_s() + ANSWER_MAX_S
    while left := [reader for reader in readers if not reader.begun]:
        if now_s() > until_s:
            raise LoadError(f"{len(left)} of {len(readers)} SSE readers did not begin within {ANSWER_MAX_S:g} s")
        await asyncio.sleep(POLL_S)


async def _drive(
    target: Target, course: Course, names: Sequence[str], readers: Sequence[Reader], drain_max_s: float
) -> Span:
    """All turns from the first to the last, and the span that is measured."""
    start_s = now_s()
    turns = asyncio.gather(
        *(
            _send(target.port, name, course.order, start_s + course.turn_s(at), readers[at])
            for at, name in enumerate(names)
        )
    )
    try:
        await _until(start_s + course.begins_s, turns)
        watch, begin_ns = Stopwatch(target), time.monotonic_ns()
        await _until(start_s + course.ends_s, turns)
        span = Span(begin_ns, time.monotonic_ns(), watch.measure(now_s(), 0, ()))
        await turns
    finally:
        turns.cancel()
    await _all_ended(readers, start_s + course.over_s + drain_max_s)
    return span


async def _send(port: int, name: str, order: Order, at_s: float, reader: Reader) -> None:
    await asyncio.sleep(max(0.0, at_s - now_s()))
    if isinstance(reader, Asker):
        reader.ask(order)
        await _all_begun([reader])
        return
    parts = [{"type": "text", "content": order.text}]
    body = msgspec.json.encode({"messages": [{"id": ASKED_ID, "role": "user", "parts": parts}]})
    async with opened(port, Connection) as (connection,):
        await connection.expect(json_request("POST", f"/api/chat?id={name}", body))


async def _until(at_s: float, turns: asyncio.Future[list[None]]) -> None:
    """Raises LoadError as soon as a turn was not taken."""
    await asyncio.wait([turns], timeout=max(0.0, at_s - now_s()))
    if turns.done():
        turns.result()
        await asyncio.sleep(max(0.0, at_s - now_s()))


async def _all_ended(readers: Sequence[Reader], until_s: float) -> None:
    """Raises LoadError when a reader has not got all of its answer by then, or is cut off before."""
    left = [reader for reader in readers if not reader.ended]
    while left:
        if cut := sum(reader.cut for reader in left):
            raise LoadError(f"{cut} of {len(readers)} SSE readers were cut off before their answer's end")
        if now_s() > until_s:
            raise LoadError(
                f"stalled: {len(left)} of {len(readers)} SSE readers did not get the end of their answer in time"
            )
        await asyncio.sleep(POLL_S)
        left = [reader for reader in left if not reader.ended]


async def _log_chunks(port: int, name: str, offset: str) -> int:
    """The chunks of the answer in the session's log, read back."""
    async with opened(port, Connection) as (connection,):
        pages = [page.body async for page in read_pages(connection, f"/api/chat-stream?id={name}", offset)]
    return text_chunks(pages, ASKED_ID)


def judged(course: Course, span: Span, answers: Sequence[Heard], logged: Sequence[int]) -> Measure:
    """The figures of a load whose readers have all they get, and what is wrong with it."""
    latencies = [one.came_ns - one.left_ns for got in answers for one in got.deliveries if span.holds(one.left_ns)]
    came = sum(span.holds(one.came_ns) for got in answers for one in got.deliveries)
    ordered = sorted(latencies)
    return replace(
        span.used,
        rate=came / span.used.seconds,
        count=came,
        p50_ms=percentile(ordered, 0.50) / 1e6,
        p99_ms=percentile(ordered, 0.99) / 1e6,
        notes=notes(course, span, answers, logged),
        faults=faults(course, answers, logged),
        more={LOGGED: 100 * _share(course, logged)},
    )


def notes(course: Course, span: Span, answers: Sequence[Heard], logged: Sequence[int]) -> tuple[str, ...]:
    """What the model gave, what of it is in the log, and the times counted from when each delta was due."""
    left = sum(span.holds(one.left_ns) for got in answers[:: course.readers] for one in got.deliveries)
    asked = course.sessions * course.per_s * span.used.seconds
    due = sorted(
        late for got in answers for one, late in lateness_ns(got.deliveries, course.per_s) if span.holds(one.left_ns)
    )
    return (
        f"models gave {left / asked:.0%} of what was asked, the log has {_share(course, logged):.0%} of it as chunks",
        f"from when it was due {percentile(due, 0.50) / 1e6:.1f} / {percentile(due, 0.99) / 1e6:.1f} ms",
    )


def _share(course: Course, logged: Iterable[int]) -> float:
    return sum(logged) / (course.sessions * course.order.count)


def faults(course: Course, answers: Sequence[Heard], logged: Sequence[int]) -> tuple[str, ...]:
    """Every reader has the whole answer, in order and once; the log has the model's deltas, not a few joined ones."""
    found = []
    if broken := sum(not got.is_whole(course.order.count) for got in answers):
        found.append(f"{broken} readers got deltas twice, not at all or out of order")
    if astray := sum(not clocks_agree(got.deliveries) for got in answers):
        found.append(f"at {astray} readers deltas came before they left the model")
    if (share := _share(course, logged)) < course.chunks_share_min:
        found.append(f"the log holds {share:.0%} as many chunks as the model gave")
    return tuple(found)
