"""Fan-out: one writer appends, at a pace or as fast as it is acknowledged, many SSE readers follow the one stream."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field, replace
from itertools import count
from typing import cast

import httptools

from benchmarks.measures import LoadError, Measure, Stopwatch, Target, now_s, undisturbed
from benchmarks.wire import (
    ANSWER_MAX_S,
    STREAMS,
    Connection,
    create_streams,
    json_request,
    opened,
    request,
)

MESSAGE_BYTES = 110
MARK = b'"n":"'
CUT_OFF = "readers cut off"
# The slowest server measured takes 2 s for all it has promised 1,000 readers.
DRAIN_MAX_S = 20.0
# Of so many readers, spread evenly, each delivery is timed; of the others it is only counted.
TIMED_READERS_MAX = 100


def key(number: int) -> bytes:
    """What tells one message from all others in the bytes of the stream."""
    return b'"n":"%08d"' % number


def message(number: int) -> bytes:
    head = b'{%b,"delta":"' % key(number)
    return head + b"x" * (MESSAGE_BYTES - len(head) - 2) + b'"}'


@dataclass(frozen=True, slots=True)
class Position:
    """How far a load has come: events acknowledged, deliveries made."""

    events: int
    delivered: int


@dataclass(slots=True)
class Load:
    """
    What the writer and the readers share.

    Mutable: `keys` and `sent_s` of each message, written just before it is sent; the readers that have begun or were
    cut off; when the last delivery came. While the readers are waited for, `total` is what each is to get, `behind`
    are those that have not got it, and `drained` ends the wait.
    """

    readers: int
    begun: asyncio.Future[None]
    keys: list[bytes] = field(default_factory=lambda: [key(0)])
    sent_s: list[float] = field(default_factory=list)
    begun_count: int = 0
    cut_count: int = 0
    last_s: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    total: int | None = None
    behind: set[Reader] = field(default_factory=set)
    drained: asyncio.Future[None] | None = None

    def begin(self) -> None:
        self.begun_count += 1
        if self.begun_count == self.readers and not self.begun.done():
            self.begun.set_result(None)

    def catch_up(self, reader: Reader) -> None:
        """A reader has everything, or nothing more will come to it."""
        self.behind.discard(reader)
        if not self.behind and self.drained is not None and not self.drained.done():
            self.drained.set_result(None)

    def fail(self, error: LoadError) -> None:
        if not self.begun.done():
            self.begun.set_exception(error)


class Reader(asyncio.Protocol):
    """
    An SSE reader that looks for the next message in the bytes as they come.

    Mutable: `seen` (messages received in order), `marks` (messages received at all), `_rest` (an unfinished line),
    `_begun`, and `cut` (the server ended the read).
    """

    def __init__(self, load: Load, path: str, timed: bool) -> None:
        self._load = load
        self._path = path
        self._timed = timed
        self._rest = b""
        self._begun = False
        self.cut = False
        self._parser = httptools.HttpResponseParser(self)
        self.seen = 0
        self.marks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        path = f"{self._path}?offset=-1&live=sse"
        cast(asyncio.Transport, transport).write(request("GET", path, headers="Accept: text/event-stream\r\n"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._load.fail(LoadError(f"an SSE read was answered {status}"))

    def on_body(self, piece: bytes) -> None:
        if self._rest:
            piece = self._rest + piece
            self._rest = b""
        if not piece.endswith(b"\n"):
            end = piece.rfind(b"\n") + 1
            self._rest, piece = piece[end:], piece[:end]
        if not self._begun:
            # The first event says where the tail is: from here on the reader is live.
            self._begun = True
            self._load.begin()
        marks = piece.count(MARK)
        if marks:
            self.marks += marks
            self._follow(piece)

    def _follow(self, piece: bytes) -> None:
        load, seen, place = self._load, self.seen, -1
        while seen < len(load.keys) and (place := piece.find(load.keys[seen], place + 1)) >= 0:
            seen += 1
        load.last_s = now_s()
        if self._timed:
            load.latencies_s.extend([load.last_s - sent for sent in load.sent_s[self.seen : seen]])
        self.seen = seen
        if load.total is not None and seen >= load.total:
            load.catch_up(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut = True
        self._load.cut_count += 1
        self._load.fail(LoadError("an SSE read was cut off before it began"))
        self._load.catch_up(self)


async def run(
    target: Target,
    subscribers: int,
    warm_s: float,
    seconds: float,
    drain_max_s: float = DRAIN_MAX_S,
    per_s: int | None = None,
) -> Measure:
    """
    Deliveries per second over all readers, and the time from just before the POST to a reader; with a pace, from when
    it was due if the acknowledgement of the one before came later than that.

    Readers get `drain_max_s` to receive what was acknowledged, after the writer has stopped.
    """
    path = f"{STREAMS}fanout"
    await create_streams(target.port, [path])
    load = Load(subscribers, asyncio.get_running_loop().create_future())
    every = -(-subscribers // TIMED_READERS_MAX)
    indexes = iter(range(subscribers))
    async with opened(target.port, lambda: Reader(load, path, next(indexes) % every == 0), subscribers) as readers:
        await _begin(load)
        with undisturbed():
            await _write(load, target.port, path, warm_s, per_s)
            await _drain(load, readers, drain_max_s)
            load.latencies_s = array("d")
            before = Position(len(load.sent_s), sum(reader.seen for reader in readers))
            watch = Stopwatch(target)
            await _write(load, target.port, path, seconds, per_s)
            drained = await _drain(load, readers, drain_max_s)
            delivered = sum(reader.seen for reader in readers) - before.delivered
            measure = watch.measure(load.last_s if drained else now_s(), delivered, load.latencies_s)
        events = len(load.sent_s) - before.events
        notes = _notes(events, events * subscribers - delivered, load.cut_count)
        return replace(measure, notes=notes, faults=faults(readers), more={CUT_OFF: load.cut_count})


async def _begin(load: Load) -> None:
    try:
        async with asyncio.timeout(ANSWER_MAX_S):
            await load.begun
    except TimeoutError:
        raise LoadError(f"{load.begun_count} of {load.readers} SSE readers began within {ANSWER_MAX_S:g} s") from None


async def _write(load: Load, port: int, path: str, seconds: float, per_s: int | None) -> None:
    """
    Append one after the other for `seconds`, and at least one; on a connection of its own, since readers that are far
    behind may be waited for longer than a server keeps an idle one.
    """
    async with opened(port, Connection) as (writer,):
        begun_s = now_s()
        for index in count():
            number = len(load.sent_s)
            append = json_request("POST", path, message(number))
            load.keys.append(key(number + 1))
            load.sent_s.append(now_s() if per_s is None else await _due(begun_s + index / per_s))
            await writer.expect(append)
            if now_s() >= begun_s + seconds:
                return


async def _due(at_s: float) -> float:
    """Waits until then; the time from which a delivery counts. A timer may be late, which is not the server's fault."""
    if (left_s := at_s - now_s()) <= 0:
        return at_s
    await asyncio.sleep(left_s)
    return now_s()


async def _drain(load: Load, readers: list[Reader], drain_max_s: float) -> bool:
    """Whether in time every reader got all that was acknowledged, or was cut off."""
    load.behind = {reader for reader in readers if not reader.cut and reader.seen < len(load.sent_s)}
    if not load.behind:
        return True
    load.drained = asyncio.get_running_loop().create_future()
    load.total = len(load.sent_s)
    await asyncio.wait([load.drained], timeout=drain_max_s)
    load.total = None
    return not load.behind


def _notes(events: int, missing: int, cut: int) -> tuple[str, ...]:
    notes = [f"{events} events"]
    if missing:
        notes.append(f"{missing} deliveries missing when the wait after the last append ended")
    if cut:
        notes.append(f"{cut} readers cut off")
    return tuple(notes)


def faults(readers: list[Reader]) -> tuple[str, ...]:
    """A reader gets messages in order and once: what it counted is then what it followed."""
    wrong = sum(reader.marks != reader.seen for reader in readers)
    return (f"{wrong} readers got messages twice, not at all or out of order",) if wrong else ()
