"""
Compare the store with plain lists, for any number of operations: `scripts/model --operations 1000000 --seed 7`.

Groups of streams live side by side, with one operation of each at a time, so that a flush holds many. Bodies have sizes
on both sides of every threshold of the store. In most lives the thresholds themselves are small, so that staging,
blobs, parts and steps often meet. A life ends with a clean close or with a crash: the files are copied between two
steps of the writer, during appends and a compaction, and the copy is used next.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from types import ModuleType

from durable_chat.errors import Conflict, DurableChatError, Gone, NotFound, SequenceGap, StaleEpoch, StreamClosed
from durable_chat.protocol.messages import BINARY, JSON, Payload, join_messages
from durable_chat.protocol.offsets import ZERO, decode_offset
from durable_chat.protocol.requests import Append, Create, Fork, Producer
from durable_chat.store import readers, streams
from durable_chat.store.base import Backend
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.sqlite import backend, backlog, compaction, writer
from durable_chat.store.sqlite.backend import SqliteBackend
from durable_chat.store.streams import Streams

GROUPS = 64
"""Families of streams, each of which is changed by one operation of a batch."""
NAMES = ("a", "b", "c")
"""Streams of a family, which may be forks of each other."""
TYPES = (BINARY, "text/plain", JSON, JSON)
CACHED_MIN = GROUPS * 2
"""Streams in memory: fewer than there are, and more than are used at once."""
TTL_S = 60
LONG_BYTES = 1_500_000
"""A stream of this size is likely to be deleted: reading all of them takes the time."""
LIFE_BATCHES = 200
"""Batches between two restarts at the most. The gate has few of them, and therefore shorter lives."""
PROGRESS_S = 10.0

REAL = {
    (streams, "STAGED_BYTES_MIN"): streams.STAGED_BYTES_MIN,
    (backend, "PART_BYTES"): backend.PART_BYTES,
    (writer, "BLOB_BYTES"): writer.BLOB_BYTES,
    (backlog, "COMPACT_BYTES"): backlog.COMPACT_BYTES,
    (readers, "READ_BYTES_MAX"): readers.READ_BYTES_MAX,
    (compaction, "RECORDS_STEP_BYTES"): compaction.RECORDS_STEP_BYTES,
}
SMALL_DIVISOR = 512
"""Thresholds of 2 KiB, 1 KiB and 128 bytes, met by bodies that cost nothing."""

ASCII = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz0123456789 -", k=1 << 20)) * 4


class Wrong(AssertionError):
    """The store and the lists differ."""


@dataclass
class Stream:
    """
    What a stream should be. Mutable state: its messages (of bytes: one for each append), and messages that may have
    been appended by an operation without a result.
    """

    content_type: str
    messages: list[bytes]
    ttl: bool = False
    source: Stream | None = None
    closed: bool = False
    deleted: bool = False
    forks: int = 0
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    maybe: tuple[list[bytes], bool, tuple[str, int, int] | None] | None = None

    @property
    def json(self) -> bool:
        return self.content_type == JSON

    @property
    def tail(self) -> int:
        return len(self.messages) if self.json else self.size

    @property
    def size(self) -> int:
        return sum(map(len, self.messages))

    def data(self, position: int = 0) -> bytes:
        if self.json:
            return b",".join(self.messages[position:])
        return b"".join(self.messages)[position:]

    def boundaries(self) -> list[int]:
        """Positions to read from. A position inside an append of bytes is read from the start of that append."""
        if self.json:
            return [0, *range(1, len(self.messages) + 1)]
        if self.source is not None:  # what it has of its source is one piece here
            return [0, self.size]
        return [0, *accumulate(map(len, self.messages))]

    def cut(self, position: int) -> list[bytes]:
        if self.json:
            return self.messages[:position]
        data = self.data()[:position]
        return [data] if data else []

    def append(self, messages: list[bytes], close: bool, producer: tuple[str, int, int] | None) -> None:
        self.messages += messages
        self.closed = self.closed or close
        if producer is not None:
            self.producers[producer[0]] = producer[1:]


class Model:
    """Mutable state: the random numbers, the time, the streams by path, the store of this life, and the counts."""

    def __init__(self, folder: Path, seed: int, store: str, life_batches: int) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.is_memory = store == "memory"
        self.life_batches = life_batches
        self.path = folder / "0" / "a.db"
        self.path.parent.mkdir()
        self.now_ms = 1_000_000
        self.streams: dict[str, Stream] = {}
        self.counts: Counter[str] = Counter()
        self.lives = 0
        self.scale = 1
        self.compactions: list[asyncio.Task[None]] = []
        self.backend: Backend
        self.store: Streams

    @property
    def operations(self) -> int:
        return sum(self.counts.values())

    # Lives.

    async def run(self, operations: int) -> None:
        await self.open()
        shown_s = time.monotonic()
        while self.operations < operations:
            for _ in range(self.chance.randint(1, self.life_batches)):
                await self.batch()
                await self.between()
                if time.monotonic() - shown_s >= PROGRESS_S:
                    shown_s = time.monotonic()
                    print(f"{self.operations} operations, {self.lives} lives", file=sys.stderr, flush=True)
            if self.is_memory:
                await self.check_all()
            else:
                await (self.restart() if self.chance.random() < 0.4 else self.crash())
        await self.compacted()
        await self.check_all()
        await self.store.close()

    async def open(self) -> None:
        self.lives += 1
        self.scale = self.chance.choice((1, SMALL_DIVISOR, SMALL_DIVISOR, SMALL_DIVISOR))
        scale_thresholds(self.scale)
        self.backend = MemoryBackend() if self.is_memory else SqliteBackend(str(self.path))
        self.store = Streams(self.backend, lambda: self.now_ms, cached_max=self.chance.choice((CACHED_MIN, 1000)))
        await self.store.open()

    async def restart(self) -> None:
        self.counts["restart"] += 1
        if self.chance.random() < 0.5:
            await self.compacted()
        await self.store.close()
        await self.compacted()
        await self.open()
        await self.check_all()

    async def crash(self) -> None:
        """
        Copy the files between two steps of the writer, during appends and perhaps a compaction. Acknowledged appends
        are in the copy, others may be.
        """
        self.counts["crash"] += 1
        tasks = []
        for group in range(GROUPS):
            path = self.live_path(group)
            if path is not None and self.chance.random() < 0.5:
                tasks.append(asyncio.create_task(self.unheard(path)))
        if self.chance.random() < 0.6:
            self.compactions.append(asyncio.create_task(self.compact()))
        for _ in range(self.chance.choice((0, 1, 3, 10, 50))):
            await asyncio.sleep(0)
        if self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.random() * 0.02)
        under_way = [(stream, len(stream.messages), stream.maybe) for stream in self.streams.values() if stream.maybe]
        left = self.path.parent
        self.path = await self.copied()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.compacted()
        await self.store.close()
        shutil.rmtree(left)
        for stream, count, maybe in under_way:  # acknowledged or not, it was so only after the crash
            if stream.maybe is None:
                del stream.messages[count:]
                stream.closed, stream.maybe = False, maybe
        await self.open()
        for path in list(self.streams):
            await self.resolve(path)
        await self.check_all()

    async def copied(self) -> Path:
        """Copy the files as a process that is killed now would leave them."""
        to = self.folder / str(self.lives)
        to.mkdir()
        assert isinstance(self.backend, SqliteBackend)

        def copy() -> None:
            for suffix in ("", "-wal"):  # in this order: what is moved meanwhile from one to the other is in both
                file = Path(str(self.path) + suffix)
                if file.exists():
                    shutil.copy(file, to / file.name)

        await self.backend._in_writer(copy)  # noqa: SLF001 - where nothing is half done
        return to / self.path.name

    async def unheard(self, path: str) -> None:
        """An append without a result, if a crash or a cancellation comes first."""
        stream = self.streams[path]
        if stream.closed or stream.deleted or stream.maybe is not None:
            return
        messages, close = self.messages(stream.json), self.chance.random() < 0.02
        stream.maybe = (messages, close, None)
        await self.store.append(path, request(stream, messages, close=close))
        stream.append(messages, close, None)
        stream.maybe = None

    async def resolve(self, path: str) -> None:
        """Find out whether the append was carried out."""
        stream = self.streams[path]
        if stream.maybe is None:
            return
        messages, close, producer = stream.maybe
        stream.maybe = None
        if await self.contents(path) != stream.data():
            stream.append(messages, close, producer)

    # Batches.

    async def batch(self) -> None:
        await asyncio.gather(*(self.operate(group) for group in range(GROUPS)))

    async def operate(self, group: int) -> None:
        path = f"{group}/{self.chance.choice(NAMES)}"
        stream = self.streams.get(path)
        kinds, weights = zip(*self.wanted(stream).items(), strict=True)
        kind = self.chance.choices(kinds, weights)[0]
        self.counts[kind] += 1
        await getattr(self, kind)(path)

    def wanted(self, stream: Stream | None) -> dict[str, float]:
        """Operations that make sense now, and sometimes others."""
        if stream is None:
            return {"create": 10, "fork": 3, "append": 0.3, "read": 0.3, "delete": 0.2}
        long = stream.size > LONG_BYTES
        return {
            "append": 4 if long else 30,
            "produce": 6,
            "read": 6,
            "head": 2,
            "close": 0.3,
            "give_up": 1,
            "delete": 30 if long or stream.closed else 1,
            "create": 0.3,
            "fork": 0.3,
        }

    async def between(self) -> None:
        """Between two batches: complete or cancelled compactions, sweeps, and passing time."""
        chance = self.chance.random()
        if chance < 0.15:
            self.counts["compact"] += 1
            self.compactions.append(asyncio.create_task(self.compact()))
        elif chance < 0.2 and self.compactions:
            self.counts["compaction given up"] += 1
            self.compactions.pop().cancel()
        elif chance < 0.21:
            self.counts["sweep"] += 1
            await self.sweep()

    async def compacted(self) -> None:
        """Wait until no requested compaction runs."""
        compactions, self.compactions = self.compactions, []
        for outcome in await asyncio.gather(*compactions, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def compact(self) -> None:
        if not isinstance(self.backend, SqliteBackend):
            return
        self.backend.compaction.step_bytes_max = self.chance.choice((1, 1000, *[1 << 20] * 4))
        some = None if self.chance.random() < 0.5 else [path for path in self.streams if self.chance.random() < 0.5]
        await self.backend.compact(some)

    async def sweep(self) -> None:
        self.now_ms += (TTL_S + 1) * 1000
        if self.chance.random() < 0.5:
            while await self.store.expiry.expire_due(500):
                pass
        for path in [path for path, stream in self.streams.items() if stream.ttl]:
            del self.streams[path]
            expect(await failure(self.store.head(path)), NotFound)

    # Operations.

    def live_path(self, group: int) -> str | None:
        paths = [path for name in NAMES if (path := f"{group}/{name}") in self.streams]
        return self.chance.choice(paths) if paths else None

    def messages(self, json: bool) -> list[bytes]:
        """Messages of all sizes. Most are short, and many are at a threshold."""
        if json:
            return [b'"%s"' % self.text(max(0, self.size() - 2)) for _ in range(self.chance.choice((1, 1, 1, 2, 7)))]
        return [self.text(self.size())]

    def text(self, size: int) -> bytes:
        start = self.chance.randrange(1 << 20)
        return ASCII[start : start + size]

    def size(self) -> int:
        if self.chance.random() < (0.9 if self.scale > 1 else 0.98):
            return self.chance.randint(1, 300)
        real = self.chance.choice([*REAL.values(), 5 * 1024 * self.scale, 3 * 512 * 1024])
        return max(1, real // self.scale + self.chance.choice((-2, -1, 0, 1, 2)))

    async def create(self, path: str) -> None:
        taken = self.streams.get(path)
        content_type, ttl = self.chance.choice(TYPES), self.chance.random() < 0.1
        stream = Stream(content_type, self.messages(content_type == JSON) if self.chance.random() < 0.5 else [], ttl)
        asked = Create(content_type, TTL_S if ttl else None, payload=payload(stream, stream.messages))
        error = await failure(self.store.create(path, asked))
        if taken is None:
            expect(error)
            self.streams[path] = stream
        elif error is not None:
            expect(error, Conflict)

    async def fork(self, path: str) -> None:
        source = f"{path.partition('/')[0]}/{self.chance.choice(NAMES)}"
        origin, taken = self.streams.get(source), self.streams.get(path)
        if taken is not None or (origin is not None and origin.ttl):
            return
        position = self.chance.choice(origin.boundaries()) if origin else 0
        offset = await self.offset(source, position) if origin is not None and not origin.deleted else ZERO
        error = await failure(self.store.create(path, Create(fork=Fork(source, offset))))
        if origin is None:
            expect(error, NotFound)
        elif origin.deleted:
            expect(error, Conflict)
        else:
            expect(error)
            origin.forks += 1
            self.streams[path] = Stream(origin.content_type, origin.cut(position), source=origin)

    async def append(self, path: str, producer: tuple[str, int, int] | None = None) -> None:
        stream = self.streams.get(path) or Stream(self.chance.choice(TYPES), [])
        messages, close = self.messages(stream.json), self.chance.random() < 0.01
        error = await failure(self.store.append(path, request(stream, messages, close=close, producer=producer)))
        if path not in self.streams:
            expect(error, NotFound)
        elif stream.deleted:
            expect(error, Gone)
        elif stream.closed:
            expect(error, StreamClosed)
        else:
            expect(error)
            stream.append(messages, close, producer)

    async def produce(self, path: str) -> None:
        stream = self.streams[path]
        if stream.closed or stream.deleted:
            return
        name = self.chance.choice("pq")
        epoch, seq = stream.producers.get(name, (0, -1))
        kind = self.chance.random()
        if kind < 0.7:
            await self.append(path, (name, epoch, seq + 1))
        elif kind < 0.8:
            await self.append(path, (name, epoch + 1, 0))
        elif seq >= 0:
            again = (name, epoch, self.chance.randint(0, seq))
            expect(await failure(self.store.append(path, request(stream, self.messages(stream.json), producer=again))))
        else:
            gap = request(stream, self.messages(stream.json), producer=(name, epoch, seq + 2))
            expect(await failure(self.store.append(path, gap)), SequenceGap, StaleEpoch)

    async def give_up(self, path: str) -> None:
        """An append whose caller is cancelled in the middle."""
        task = asyncio.create_task(self.unheard(path))
        for _ in range(self.chance.choice((0, 1, 2, 5))):
            await asyncio.sleep(0)
        if self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.random() * 0.005)
        task.cancel()
        await asyncio.wait([task])
        stream = self.streams[path]
        if stream.maybe is not None:
            # A second append comes after the first one in the flush, whatever became of that.
            await failure(self.store.append(path, Append(payload(stream, []), stream.content_type, close=True)))
            stream.closed = True
            await self.resolve(path)

    async def close(self, path: str) -> None:
        stream = self.streams[path]
        expect(await failure(self.store.append(path, Append(close=True))), *([Gone] if stream.deleted else []))
        stream.closed = stream.closed or not stream.deleted

    async def delete(self, path: str) -> None:
        stream = self.streams.get(path)
        error = await failure(self.store.delete(path))
        if stream is None:
            expect(error, NotFound)
        elif stream.deleted:
            expect(error, Gone)
        elif stream.forks:
            expect(error)
            stream.deleted = True
        else:
            expect(error)
            self.remove(path)

    def remove(self, path: str) -> None:
        source = self.streams.pop(path).source
        while source is not None:
            source.forks -= 1
            if not source.deleted or source.forks:
                return
            name = next(name for name, stream in self.streams.items() if stream is source)
            source = self.streams.pop(name).source

    async def head(self, path: str) -> None:
        stream = self.streams[path]
        if stream.deleted:
            expect(await failure(self.store.head(path)), Gone)
            return
        head = await self.store.head(path)
        if (decode_offset(head.next_offset)[1], head.closed) != (stream.tail, stream.closed):
            raise Wrong(f"{path}: the head is {head}, and should be at {stream.tail}, closed {stream.closed}")

    async def read(self, path: str) -> None:
        stream = self.streams.get(path)
        if stream is None or stream.deleted:
            error = await failure(self.store.read(path, ZERO))
            expect(error, NotFound if stream is None else Gone)
            return
        await self.check(path, self.chance.choice((0, self.chance.choice(stream.boundaries()))))

    async def check(self, path: str, position: int) -> None:
        stream = self.streams[path]
        found, wanted = await self.contents(path, position), stream.data(position)
        if found != wanted:
            at = next((n for n, (one, two) in enumerate(zip(found, wanted, strict=False)) if one != two), -1)
            raise Wrong(f"{path} from {position}: {len(found)} bytes, and not {len(wanted)}; they differ at {at}")

    async def check_all(self) -> None:
        for path, stream in self.streams.items():
            await self.head(path)
            if not stream.deleted:
                await self.check(path, 0)

    async def offset(self, path: str, position: int) -> str:
        if not position:
            return ZERO
        await self.store.head(path)
        entry = self.store._entries.held(path)  # noqa: SLF001 - nobody else gives out each position
        assert entry is not None and entry.durable is not None
        return entry.durable.offset(position)

    async def contents(self, path: str, position: int = 0) -> bytes:
        data = []
        async with await self.store.read(path, await self.offset(path, position)) as reader:
            while part := (await reader.next()).data:
                data.append(part)
        return (b"," if self.streams[path].json else b"").join(data)


def payload(stream: Stream, messages: list[bytes]) -> Payload:
    if not stream.json:
        return Payload(b"".join(messages))
    return join_messages(messages) if messages else Payload(b"", ())


def request(
    stream: Stream, messages: list[bytes], *, close: bool = False, producer: tuple[str, int, int] | None = None
) -> Append:
    producing = None if producer is None else Producer(*producer)
    return Append(payload(stream, messages), stream.content_type, close=close, producer=producing)


async def failure(asked: Awaitable[object]) -> DurableChatError | None:
    try:
        await asked
    except DurableChatError as error:
        return error
    return None


def expect(error: DurableChatError | None, *kinds: type[DurableChatError]) -> None:
    if not (isinstance(error, kinds) if kinds else error is None):
        raise Wrong(f"{error!r}, where {kinds or 'no error'} was expected")


def scale_thresholds(scale: int) -> None:
    for (module, name), value in REAL.items():
        set_threshold(module, name, value // scale)


def set_threshold(module: ModuleType, name: str, value: int) -> None:
    setattr(module, name, value)


@contextmanager
def thresholds_restored() -> Iterator[None]:
    try:
        yield
    finally:
        scale_thresholds(1)


def run(operations: int, seed: int, store: str, life_batches: int = LIFE_BATCHES) -> Model:
    """Raises Wrong, or any other error, with the number of operations so far."""
    with tempfile.TemporaryDirectory() as folder, thresholds_restored():
        model = Model(Path(folder), seed, store, life_batches)
        try:
            asyncio.run(model.run(operations))
        except BaseException as error:
            error.add_note(f"seed {seed}, after {model.operations} operations and {model.lives} lives")
            raise
        return model


def main() -> None:
    parser = argparse.ArgumentParser(description="The store against plain lists.")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=("sqlite", "memory"), default="sqlite")
    options = parser.parse_args()
    begun_s = time.monotonic()
    model = run(options.operations, options.seed, options.store)
    print(f"{model.operations} operations in {model.lives} lives on {options.store}, seed {options.seed}: 0 wrong")
    print(", ".join(f"{kind} {count}" for kind, count in model.counts.most_common()))
    print(f"{time.monotonic() - begun_s:.0f} s")


if __name__ == "__main__":
    main()
