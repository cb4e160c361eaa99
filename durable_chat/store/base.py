"""
Interfaces of a store: the log that everything above reads and writes, and the backend that keeps its bytes.

`Log` is the interface that the rest of the product uses. `Streams` implements it on a backend, and the remote client
over HTTP. `Backend` is the interface of a storage engine. It has physical methods only and makes no policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import msgspec

from durable_chat.errors import DurableChatError, StoreFailed
from durable_chat.protocol.requests import Append, Appended, Create, Created
from durable_chat.protocol.states import ProducerState, StreamState


@dataclass(frozen=True, slots=True)
class Head:
    """
    What a reader may know of a stream. `next_offset` is the durable tail. Times are in the units that their names
    state. `id` tells the stream from an earlier one at the same path; it is 0 when the log does not know it.
    """

    content_type: str
    next_offset: str
    closed: bool = False
    ttl_s: int | None = None
    expires_at: str | None = None
    id: int = 0


class Batch(Protocol):
    """
    A run of messages for a reader, in order and without gaps, from `offset` to `next_offset`. `data` is as on the wire:
    comma-joined JSON without brackets for a JSON stream, otherwise the bytes. An empty batch means that nothing
    arrived. `up_to_date` means that the batch reaches the tail, `closed` that nothing will follow.
    """

    @property
    def offset(self) -> str: ...
    @property
    def next_offset(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def up_to_date(self) -> bool: ...
    @property
    def closed(self) -> bool: ...


class Reader(Protocol):
    """A reader's position in a stream. Close it with `aclose` or use `async with`."""

    @property
    def head(self) -> Head:
        """The stream as it was when the reader was opened."""
        ...

    async def next(self, wait_s: float = 0.0) -> Batch:
        """
        Return the next batch. At the tail of an open stream, wait for at most `wait_s` seconds, then return an empty
        batch. Raises NotFound when the stream was deleted in the meantime. A reader with `absent` instead returns an
        empty batch at the beginning and continues when a stream exists again.
        """
        ...

    async def aclose(self) -> None: ...


class ClosedOnExit(ABC):
    """A base class that makes an object with `aclose` an async context manager."""

    __slots__ = ()

    @abstractmethod
    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


@dataclass(frozen=True, slots=True)
class Record:
    """A small versioned value. `version` counts its writes from 1. `due_ms` (Unix time) lets a sweep find it."""

    kind: str
    key: str
    version: int
    value: bytes
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RecordWrite:
    """
    One change to a record. `expected` is the version that the record must have now (0: must not exist; None: any). A
    `value` of None deletes the record. With `check`, only the version is checked and the record stays as it is.
    """

    kind: str
    key: str
    value: bytes | None
    expected: int | None = None
    due_ms: int | None = None
    check: bool = False


class FramedBatch(Batch, Protocol):
    """A batch that is encoded once for all of its readers."""

    def sse(self, cursor_min: int) -> bytes:
        """
        The batch as SSE: its `data` event, if it has data, and its `control` event. The cursor is the current one or
        `cursor_min`, whichever is later.
        """
        ...


@runtime_checkable
class FollowingReader(Reader, Protocol):
    """A reader of a log in this process. It can push committed batches without a task that waits for them."""

    @property
    def offset(self) -> str:
        """The offset of the next message to read."""
        ...

    async def next(self, wait_s: float = 0.0) -> FramedBatch: ...

    def follow(self, push: Callable[[FramedBatch], bool], left: Callable[[], None]) -> bool:
        """
        Pass each committed batch from here on to `push`, as long as `push` returns True. When it returns False, or when
        the stream is closed or deleted, following ends and `left` is called; `next` then continues from the same
        position. Returns False when the reader is not at the tail: call `next` first.
        """
        ...

    def close(self) -> None:
        """Do what `aclose` does, without waiting."""
        ...


class Log(Protocol):
    """Streams by path. A path is the decoded segments joined by `/`, without a leading slash."""

    async def create(self, path: str, request: Create) -> Created:
        """
        Create a stream, or find one with the same configuration. Raises Conflict, NotFound (a fork's source) or
        InvalidRequest.
        """
        ...

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        """
        Append and/or close, and write the records in the same atomic step. Durable on return. A log without records
        (`Store.records` is None) accepts no record writes. Raises NotFound, Gone, StreamClosed, Conflict, StaleEpoch,
        SequenceGap, RecordConflict, InvalidRequest, StoreFailed.
        """
        ...

    async def delete(self, path: str) -> None:
        """Delete a stream. A stream that forks still read becomes Gone. Raises NotFound or Gone."""
        ...

    async def head(self, path: str) -> Head:
        """Describe a stream. Does not count as a read for a sliding TTL. Raises NotFound or Gone."""
        ...

    async def read(self, path: str, offset: str, *, absent: str | None = None) -> Reader:
        """
        Open a reader at `offset`: `-1`, `now`, or an offset that the log returned. Raises NotFound, Gone or
        InvalidRequest; OffsetGone for an offset of an earlier stream at the path. `absent` is a content type: with it,
        a stream that does not exist reads as an empty stream of that type, and the reader follows it once it is
        created. With `absent`, an offset past the end also raises OffsetGone.
        """
        ...


Done = Callable[[Appended | None, DurableChatError | None], None]
"""
Called once for an append: with the result when it is durable, with the error when it was lost, or with neither when it
must be retried.
"""
CreateDone = Callable[[Created | None, DurableChatError | None], None]
"""The same for a creation."""


@runtime_checkable
class PromptLog(Protocol):
    """A log in this process that decides most appends and creations without waiting."""

    def append_soon(self, path: str, request: Append, done: Done, records: Sequence[RecordWrite] = ()) -> bool:
        """
        Do what `Log.append` does without a task that waits; `done` is called on the event loop. Returns False when
        nothing was done: call `append`, which does it or raises the error.
        """
        ...

    def create_soon(self, path: str, request: Create, done: CreateDone) -> bool:
        """Do what `Log.create` does, in the same way as `append_soon`, for a stream that probably does not exist."""
        ...


class Records(Protocol):
    """Small values beside the log. A write may change them atomically together with an append."""

    async def record(self, kind: str, key: str) -> Record | None: ...

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]:
        """The records of one kind, sorted by key. With `due_before_ms`, only those due by then."""
        ...

    async def write_records(self, writes: Sequence[RecordWrite]) -> None:
        """
        Carry out all of the writes or none. Durable on return. Raises RecordConflict when a record does not have its
        expected version.
        """
        ...


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a store in this process: counts since its start, and current sizes."""

    queue_writes: int = 0
    streams_cached: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    journal_bytes: int = 0
    uncompacted_bytes: int = 0
    database_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Store:
    """
    An open store: its log, and its records (None for a remote store). `failure` returns the error after which the store
    accepts no more writes, or None. Functions in `on_drop` are called with the path of each stream that was deleted or
    has expired; a remote store does not call them.
    """

    log: Log
    records: Records | None
    close: Callable[[], Awaitable[None]]
    failure: Callable[[], DurableChatError | None] = lambda: None
    on_drop: list[Callable[[str], None]] = field(default_factory=list)
    figures: Callable[[], Figures] = Figures


CUT_BYTES = 512 * 1024
"""
A long append to a byte stream is read in parts. Each part ends at a multiple of this from the beginning of the append.
So the store knows which positions inside the append readers may have received. Staged bytes are written in parts of the
same size.
"""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """
    Bytes at a position, as on the wire. For a JSON stream, `data` is the messages joined by commas and `lengths` are
    the lengths of the messages. For any other stream, `lengths` is None. `staged` is the number under which the backend
    wrote the bytes ahead of the commit. Without messages, `appends` are the lengths of the appends in the piece: None
    for a single append, empty when they are not known, as in data of earlier versions.
    """

    start: int
    data: bytes
    lengths: tuple[int, ...] | None
    staged: int | None = None
    appends: tuple[int, ...] | None = None

    @property
    def stop(self) -> int:
        return self.start + (len(self.data) if self.lengths is None else len(self.lengths))


class StreamChange(msgspec.Struct, frozen=True, gc=False):
    """
    One stream's part in a write: its new state, the appended piece and the producers that changed. The stream must now
    have the version before `state.version`. With `drop`, the stream and its bytes are deleted.
    """

    state: StreamState
    piece: Piece | None = None
    producers: Mapping[str, ProducerState] | None = None
    drop: bool = False


class Write(msgspec.Struct, frozen=True, gc=False):
    """The changes that one decision makes durable, all of them or none."""

    streams: tuple[StreamChange, ...] = ()
    records: tuple[RecordWrite, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stream as the backend holds it: its state, all of its producers, and whether bytes are known to be lost."""

    state: StreamState
    producers: dict[str, ProducerState]
    damaged: bool = False


@runtime_checkable
class Journaled(Protocol):
    """A backend with a journal: the size of the journal, and how much of it is also in memory."""

    @property
    def journal_bytes(self) -> int: ...
    @property
    def uncompacted_bytes(self) -> int: ...


class Backend(Protocol):
    """
    A storage engine: it keeps bytes and knows no rule of the protocol. All errors of the engine are raised as
    StoreFailed. After one from `commit` nothing more is written: a failed fsync must never look like a success later.
    """

    @property
    def failure(self) -> StoreFailed | None:
        """The error after which nothing more is written, or None."""
        ...

    async def open(self) -> None:
        """Lock the store for this process and recover it. Raises StartError when that is not possible."""
        ...

    async def close(self) -> None: ...

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        """
        Make the writes durable (fsync, or the engine's quorum) before returning. Each write is all or nothing. Returns
        the indexes of the refused writes, where a stream or record had another version than expected.
        """
        ...

    async def stage(self, data: bytes) -> int | None:
        """
        Write the bytes of a large piece ahead of its commit, in steps that let other flushes run in between. Returns
        the number for `Piece.staged`, or None when a flush gains nothing from it. What is never committed is deleted at
        the next open.
        """
        ...

    async def load(self, path: str) -> Loaded | None: ...

    async def read(self, stream_id: int, start: int, stop: int, bytes_max: int) -> list[Piece]:
        """
        Return pieces from exactly `start`, in order and without gaps, up to `stop` or until they hold `bytes_max`
        bytes. They hold at least one message; of a byte stream, at least one append, or its part up to the next
        CUT_BYTES. They end before missing or damaged bytes. An empty list means such bytes, or that the stream was
        dropped in the meantime.
        """
        ...

    async def append_start(self, stream_id: int, position: int) -> int:
        """
        The beginning of the append that holds a position of a byte stream, or the position itself if that is not known.
        """
        ...

    async def expired(self, now_ms: int, limit: int) -> list[str]:
        """Paths of streams that have expired by `now_ms`, including soft-deleted ones, at most `limit`."""
        ...

    async def next_stream_id(self) -> int:
        """A number that no stream has or had. Called once at open; the caller counts on from it."""
        ...

    async def record(self, kind: str, key: str) -> Record | None: ...

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]: ...
