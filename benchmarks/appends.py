"""Appends: each connection sends its next message as soon as the one before is acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import cast

import httptools
import msgspec

from benchmarks.measures import LoadError, Measure, Stopwatch, Target, now_s, undisturbed
from benchmarks.wire import (
    ANSWER_MAX_S,
    STREAMS,
    Connection,
    Crew,
    create_streams,
    json_request,
    opened,
    read_pages,
)

STREAM_COUNT = 64
MESSAGE_BYTES = 110


class Sent(msgspec.Struct):
    """The part of a message that tells which it is: connection and number."""

    id: str


_SENT = msgspec.json.Decoder(list[Sent])


def message(connection: int, number: int) -> bytes:
    """A JSON message of MESSAGE_BYTES, told apart from every other of this load."""
    head = b'{"id":"%03d-%08d","delta":"' % (connection, number)
    return head + b"x" * (MESSAGE_BYTES - len(head) - 2) + b'"}'


@dataclass(slots=True)
class Load:
    """
    What the connections of one load share.

    Mutable: `stopping`, the latencies, the refusals, and when the last acknowledgement came.
    """

    heads: list[bytes]
    crew: Crew
    stopping: bool = False
    last_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    refusals: Counter[int] = field(default_factory=Counter)


class Appender(asyncio.Protocol):
    """
    One connection: it walks over all streams, so that every load touches them all.

    Mutable: the request in flight (`_number`, `_sent_s`), the numbers acknowledged, and whether it is still at work.
    """

    def __init__(self, load: Load, index: int) -> None:
        self._load = load
        self._index = index
        self._number = -1
        self._sent_s = 0.0
        self._working = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.acknowledged: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        assert self._transport is not None
        self._number += 1
        head = self._load.heads[(self._index + self._number) % len(self._load.heads)]
        self._sent_s = now_s()
        self._transport.write(head + message(self._index, self._number))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        load = self._load
        load.last_s = now_s()
        status = self._parser.get_status_code()
        if 200 <= status < 300:
            load.latencies_s.append(load.last_s - self._sent_s)
            self.acknowledged.append(self._number)
        else:
            load.refusals[status] += 1
        if load.stopping:
            self._leave()
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave(LoadError("connection closed by the server"))

    def _leave(self, error: LoadError | None = None) -> None:
        if self._working:
            self._working = False
            self._load.crew.leave(error)

    def expected(self, streams: int) -> list[tuple[int, str]]:
        """What must be found: for each acknowledged message its stream and its id, in the order sent."""
        return [((self._index + n) % streams, f"{self._index:03d}-{n:08d}") for n in self.acknowledged]


async def run(target: Target, connections: int, warm_s: float, seconds: float) -> Measure:
    """Appends acknowledged per second, and the time from sending to the acknowledgement."""
    paths = [f"{STREAMS}append-{index}" for index in range(STREAM_COUNT)]
    return await run_on(target, paths, connections, warm_s, seconds)


async def run_on(target: Target, paths: list[str], connections: int, warm_s: float, seconds: float) -> Measure:
    """The same on streams that may be there already, and may hold something."""
    begins = await create_streams(target.port, paths)
    heads = [json_request("POST", path, message(0, 0))[:-MESSAGE_BYTES] for path in paths]
    load = Load(heads, Crew(connections))
    indexes = iter(range(connections))
    async with opened(target.port, lambda: Appender(load, next(indexes)), connections) as appenders:
        with undisturbed():
            for appender in appenders:
                appender.send()
            await asyncio.wait([load.crew.finished], timeout=warm_s)
            load.latencies_s.clear()
            watch = Stopwatch(target)
            await _wait(load, seconds)
            measure = watch.measure(load.last_s, len(load.latencies_s), load.latencies_s)
    notes = tuple(f"{count} answered {status}" for status, count in load.refusals.items())
    expected = [entry for appender in appenders for entry in appender.expected(len(paths))]
    found = [await read_ids(target.port, path, begin) for path, begin in zip(paths, begins, strict=True)]
    return replace(measure, notes=notes, faults=faults(expected, found))


async def _wait(load: Load, seconds: float) -> None:
    """Let the load run, then let what is in flight be answered."""
    await asyncio.wait([load.crew.finished], timeout=seconds)
    load.stopping = True
    try:
        async with asyncio.timeout(ANSWER_MAX_S):
            await load.crew.finished
    except TimeoutError:
        raise LoadError(f"{load.crew.working} connections got no answer within {ANSWER_MAX_S:g} s") from None


async def read_ids(port: int, path: str, begin: str) -> list[str]:
    """The ids of all messages of a stream from an offset on, as a reader gets them."""
    async with opened(port, Connection) as (connection,):
        pages = [page.body async for page in read_pages(connection, path, begin)]
    return [sent.id for page in pages for sent in _SENT.decode(page)]


def faults(expected: list[tuple[int, str]], found: list[list[str]]) -> tuple[str, ...]:
    """
    What is wrong with what was read back: every acknowledged message is there once, in the order it was sent.

    `expected` are streams and ids, in order for each connection; `found` the ids of each stream.
    """
    places = [{name: place for place, name in enumerate(ids)} for ids in found]
    lost = sum(name not in places[stream] for stream, name in expected)
    doubled = sum(len(ids) for ids in found) - sum(map(len, places))
    misplaced = 0
    last: dict[tuple[int, str], int] = {}
    for stream, name in expected:
        sender = (stream, name.partition("-")[0])
        place = places[stream].get(name, -1)
        misplaced += 0 <= place < last.get(sender, -1)
        last[sender] = max(place, last.get(sender, -1))
    counts = {"acknowledged and lost": lost, "there twice": doubled, "out of order": misplaced}
    return tuple(f"{count} {what}" for what, count in counts.items() if count)
