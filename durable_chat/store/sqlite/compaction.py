"""
Compaction of the SQLite store: a background task that moves the journal's content into the tables, step by step.

Flushes have priority on the writer. A step takes it for a few milliseconds. If there were flushes since the last step,
the task then pauses for several times as long. When the backlog is so large that flushes would have to wait, the steps
are larger and follow each other without a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from durable_chat.errors import StoreFailed
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Piece
from durable_chat.store.sqlite.backlog import FULL, Backlog
from durable_chat.store.sqlite.writer import CompactionJob, SqliteWriter, StreamJob, checkpoint
from durable_chat.store.sqlite.writer_thread import Worker
from durable_chat.store.tables import Accepted, Tables

PASS_S = 1.0
"""Seconds between two passes."""
LOOKED_AT_ONCE = 2_000
"""Streams that are examined before other tasks run: less than a millisecond."""
DROPS_PER_STEP = 256
"""Rows of dropped streams that one step deletes, after their messages were deleted."""
RECORDS_PER_STEP = 64
RECORDS_STEP_BYTES = 512 * 1024
"""Records that one step stores, and their bytes."""


class Pace(NamedTuple):
    """
    How much of the writer's time a pass takes. The first three fields limit a step: its streams, its bytes of messages,
    and the bytes of the journal that it removes. The pause after a step is `pause_ratio` times as long as the step.
    """

    streams: int
    step_bytes: int
    forgotten_bytes: int
    pause_ratio: float


_SMALL = Pace(8, 256 * 1024, 256 * 1024, pause_ratio=8.0)
_LARGE = Pace(64, 512 * 1024, 2 * 1024 * 1024, pause_ratio=2.0)
PACES = (
    (1.0, _SMALL),
    (1.25, _SMALL._replace(pause_ratio=2.0)),
    (1.5, _LARGE),
    (math.inf, _LARGE._replace(pause_ratio=0.0)),
)
"""
Each pace applies up to a pressure (see `Backlog`). Small steps take 2 to 5 ms. Large steps have a higher throughput.
"""
VACUUM_STEPS_MAX = 16
"""The most vacuum steps in one pass, because compaction comes first."""
CHECKPOINT_BYTES = 8 * 1024 * 1024
"""
The write-ahead log is checkpointed when it has grown by this much. A page that changed often is then written once.
"""
CHECKPOINT_LEFT_FRAMES = 256
CHECKPOINT_ROUNDS_MAX = 4
"""
The helper thread repeats the checkpoint until at most this many frames came during the last round, which the writer can
move itself, or until the round limit.
"""

Run = Callable[..., Awaitable[Any]]
"""Run a function with its arguments in the writer's thread."""


class Compaction:
    """
    Mutable state: the `tables` of what is not compacted, and its `backlog`; the task, and the events that the task and
    the flushes wait for; whether it is closed; `step_bytes_max`, the limit for the bytes of a step; `_seen_seq`, the
    newest journal row at the last step.
    """

    def __init__(
        self,
        path: str,
        writer: SqliteWriter,
        run: Run,
        failing: Callable[[], AbstractContextManager[None]],
        tables: Tables,
        backlog: Backlog,
    ) -> None:
        self.tables = tables
        self.backlog = backlog
        self.step_bytes_max = sys.maxsize
        self._seen_seq = 0
        self._path = path
        self._writer = writer
        self._run = run
        self._failing = failing
        self._failed = False
        self._closed = False
        self._helper = Worker("sqlite-checkpoint")
        self._lock = asyncio.Lock()
        self._written = asyncio.Event()
        self._pressed = asyncio.Event()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._written.set()  # for the data that the start found
        self._task = asyncio.create_task(self._compact_forever(), name="compaction")

    async def close(self) -> None:
        """Stop the task. A `compact` call that is running finishes; no new one begins."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        async with self._lock:
            self._closed = True
        self._helper.close()

    # For the flushes.

    @property
    def pressure(self) -> float:
        return self.backlog.pressure(self._writer.journal_bytes)

    @property
    def _pace(self) -> Pace:
        pressure = self.pressure
        return next(pace for up_to, pace in PACES if pressure <= up_to)

    async def room(self) -> None:
        """
        Wait until the backlog is within its limits. Returns at once after a failure, because there will never be room.
        """
        while self.pressure >= FULL and not self._failed:
            self._pressed.set()
            self._moved.clear()
            await self._moved.wait()

    def note(self, writes: Sequence[Accepted], seq: int) -> None:
        """
        Note writes that are in the journal and now also in the tables in memory. Compaction may take them only from
        then on.
        """
        self.backlog.note(writes, seq, time.monotonic())
        self._written.set()
        if self.pressure > 1:
            self._pressed.set()

    def fail(self) -> None:
        """Stop waiting: after a failure nothing is written any more."""
        self._failed = True
        self._moved.set()

    # Passes.

    async def _compact_forever(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._pressed.wait(), PASS_S)
            self._pressed.clear()
            try:
                with self._failing():
                    async with self._lock:
                        again = await self._pass(await self._due())
            except StoreFailed:
                return
            if again:
                self._written.set()

    async def _due(self) -> list[str]:
        """The streams that are worth compacting now. Lets other tasks run during the search."""
        now_s, journal_bytes = time.monotonic(), self._writer.journal_bytes
        old_seq = self.backlog.old_seq(journal_bytes)
        streams = list(self.backlog.streams.items())
        found: list[str] = []
        for at in range(0, len(streams), LOOKED_AT_ONCE):
            found += [path for path, held in streams[at : at + LOOKED_AT_ONCE] if held.is_due(now_s, old_seq)]
            await asyncio.sleep(0)
        return found

    async def compact(self, paths: Iterable[str] | None = None) -> None:
        """
        Move these streams (default: all) into the tables, and remove the journal rows that are then no longer needed.
        """
        async with self._lock:
            if not self._closed:
                with self._failing():
                    await self._pass(list(self.backlog.streams if paths is None else paths))

    async def _pass(self, paths: Sequence[str]) -> bool:
        """Compact these streams, and all records and drops. Returns whether there is more to do."""
        # The writer's own number may already include a flush that is not in the tables in memory yet.
        seq = self.backlog.seq
        tables = self.tables
        streams, records, dropped = deque(paths), iter(list(tables.records)), iter(list(tables.dropped))
        while True:
            drops = tuple(islice(dropped, DROPS_PER_STEP))
            if drops:
                await self._clear(list(drops))
            jobs = self._next_streams(streams, drops)
            rows = tuple((*key, tables.records[key]) for key in self._next_records(records))
            job = CompactionJob(tuple(jobs), rows, drops, tuple(tables.strays))
            if not (job.streams or job.records or job.dropped or job.strays or streams):
                break
            await self._step(job)
        await self._forget(min(seq, self.backlog.floor()))
        vacuuming = await self._vacuum()
        await self._checkpoint()
        return vacuuming or bool(self.backlog.streams)

    def _next_streams(self, paths: deque[str], drops: Sequence[int]) -> Iterator[StreamJob]:
        """
        Yield jobs for the first streams of `paths`. Stops at a path where another stream must first be removed from the
        tables.
        """
        now = set(drops)
        taken = {path for stream_id, path in self.tables.dropped.items() if stream_id not in now}
        size = count = 0
        pace = self._pace
        bytes_max = min(pace.step_bytes, self.step_bytes_max)
        while paths and count < pace.streams and size < bytes_max:
            state = None if paths[0] in taken else self.tables.streams.get(paths[0])
            job = None if state is None else self._stream_job(state, bytes_max)
            if job is None or job.whole:
                paths.popleft()
            if job is not None:
                yield job
                size += job.size
                count += 1
                if not job.whole:  # its rest is only known after this step
                    return

    def _stream_job(self, state: StreamState, bytes_max: int) -> StreamJob:
        """
        A job for all data of a stream, or for its first part when there is too much for one step. The next step takes
        the rest.
        """
        pieces = self.tables.pieces.get(state.id, ())
        producers = tuple(self.tables.producers.get(state.id, {}).items())
        taken: list[Piece] = []
        size = 0
        for piece in pieces:
            if size >= bytes_max or (taken and taken[-1].stop != piece.start):  # a damaged stream may have a hole
                # In the tables the stream's tail is where its blobs end. A start finds the rest in the journal.
                cut = msgspec.structs.replace(state, tail=piece.start, closed=False, closed_by=None)
                return StreamJob(cut, tuple(taken), producers, self.backlog.seq, size, whole=False)
            taken.append(piece)
            size += len(piece.data)
        return StreamJob(state, tuple(taken), producers, self.backlog.seq, size)

    def _next_records(self, keys: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        size = 0
        bytes_max = min(RECORDS_STEP_BYTES, self.step_bytes_max)
        for key in islice(keys, RECORDS_PER_STEP):
            yield key
            record = self.tables.records[key]
            size += 0 if record is None else len(record.value)
            if size >= bytes_max:
                return

    async def _step(self, job: CompactionJob) -> None:
        """
        Carry out a job, then remove from memory what is now in the tables. Cancellation must not separate the two: data
        would be lost, or stored twice.
        """
        started_s = time.monotonic()
        work = asyncio.ensure_future(self._run(self._writer.compact, job))
        cancelled: asyncio.CancelledError | None = None
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
        work.result()
        self._forget_job(job)
        if cancelled is not None:
            raise cancelled
        await self._pause(started_s)

    def _forget_job(self, job: CompactionJob) -> None:
        for stream in job.streams:
            self._forget_stream(stream)
        for kind, key, record in job.records:
            if self.tables.records.get((kind, key)) is record:
                self.tables.records.pop((kind, key), None)
        self.tables.strays.difference_update(job.strays)
        self.tables.forget_dropped(job.dropped)

    async def _pause(self, started_s: float) -> None:
        self._moved.set()
        is_written, self._seen_seq = self.backlog.seq != self._seen_seq, self.backlog.seq
        if is_written and (ratio := self._pace.pause_ratio):
            await asyncio.sleep((time.monotonic() - started_s) * ratio)

    def _forget_stream(self, job: StreamJob) -> None:
        tables, state = self.tables, job.state
        if tables.streams.get(state.path) is state:
            del tables.streams[state.path]
        held = tables.pieces.get(state.id)
        if held is not None:
            del held[: len(job.pieces)]
            tables.size -= job.size
            if not held:
                del tables.pieces[state.id]
        producers = tables.producers.get(state.id, {})
        for name, producer in job.producers:
            if producers.get(name) is producer:
                del producers[name]
        if not producers:
            tables.producers.pop(state.id, None)
        left = state.path in tables.streams
        now_s = time.monotonic()
        self.backlog.moved(state.path, state.id, job.size, job.seq, now_s, left=left, whole=job.whole)

    # Space.

    async def _clear(self, stream_ids: list[int]) -> None:
        """Delete the blobs of dropped streams in several steps, because there may be any number of them."""
        while stream_ids:
            started_s = time.monotonic()
            stream_ids = await self._run(self._writer.clear, stream_ids)
            await self._pause(started_s)

    async def _forget(self, seq: int) -> None:
        more = True
        while more:
            started_s = time.monotonic()
            more = await self._run(self._writer.forget, seq, self.tables.stream_id_max, self._pace.forgotten_bytes)
            await self._pause(started_s)

    async def _vacuum(self) -> bool:
        """Return unused pages to the file system. Returns whether there are more."""
        for _ in range(VACUUM_STEPS_MAX):
            started_s = time.monotonic()
            if not await self._run(self._writer.vacuum):
                return False
            await self._pause(started_s)
        return True

    async def _checkpoint(self) -> None:
        """
        Checkpoint the write-ahead log in the helper thread. What the writer moves itself delays flushes by some
        milliseconds for each megabyte.
        """
        if self._writer.log_bytes >= CHECKPOINT_BYTES or (self._writer.log_bytes and not self.backlog.streams):
            moved = before = 0
            for _ in range(CHECKPOINT_ROUNDS_MAX):
                before, moved = moved, await self._helper.run(checkpoint, self._path)
                if moved - before <= CHECKPOINT_LEFT_FRAMES:
                    break
            await self._run(self._writer.restart_log)
