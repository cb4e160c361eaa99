"""
What a store must do: the log that everything above reads and writes, and the backend that keeps its bytes.

`Log` is the interface of the whole product: `Streams` implements it on a backend, the remote client over HTTP.
`Backend` is the interface of an engine: physical methods only, no policy.
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
    A stream as its readers may know it: `next_offset` is the durable tail; times are in the units they name. `id` tells
    a stream from an earlier one at the same path, where the log knows (0 where not).
    """

    content_type: str
    next_offset: str
    closed: bool = False
    ttl_s: int | None = None
    expires_at: str | None = None
    id: int = 0


class Batch(Protocol):
    """
    A run of messages on the way to a reader, in order and without a hole: `offset` is where it begins, `next_offset`
    where it ends. `data` is as on the wire: comma-joined JSON without brackets for a JSON stream, else the bytes.
    An empty batch says that nothing came; `up_to_date` that the tail is reached, `closed` that nothing will follow.
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
    """One reader's place in a stream. Closed by `aclose`, or with `async with`."""

    @property
    def head(self) -> Head:
        """The stream as it was when the reader was opened."""
        ...

    async def next(self, wait_s: float = 0.0) -> Batch:
        """
        The next batch. At the tail of an open stream, waits at most `wait_s` seconds for one, then gives an empty
        batch. Raises NotFound when the stream has been deleted meanwhile; a reader with `absent` gives an empty batch
        at the beginning then, and goes on when there is a stream again.
        """
        ...

    async def aclose(self) -> None: ...


class ClosedOnExit(ABC):
    """What `aclose` closes, as a context."""

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
    """
    A small versioned value. `version` counts its writes from 1; `due_ms` (Unix time) lets a sweep find it.
    """

    kind: str
    key: str
    version: int
    value: bytes
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RecordWrite:
    """
    One change to a record. `expected` is the version it must have now (0: must not exist; None: any); `value` None
    deletes it. With `check` the record stays as it is, and only its version is looked at.
    """

    kind: str
    key: str
    value: bytes | None
    expected: int | None = None
    due_ms: int | None = None
    check: bool = False


class FramedBatch(Batch, Protocol):
    """A batch that is encoded once for all who read it."""

    def sse(self, cursor_min: int) -> bytes:
        """Its `data` event, where it has data, and its `control` event, with the cursor of the time or a later one."""
        ...


@runtime_checkable
class FollowingReader(Reader, Protocol):
    """A reader of a log in this process, which can be told of what is committed without a task that waits for it."""

    @property
    def offset(self) -> str:
        """Where it stands."""
        ...

    async def next(self, wait_s: float = 0.0) -> FramedBatch: ...

    def follow(self, push: Callable[[FramedBatch], bool], left: Callable[[], None]) -> bool:
        """
        Hand each batch from here on to `push`, as it is committed, while that returns True for taken. Otherwise, and
        when the stream is closed or deleted, following ends, `left` is called, and `next` goes on from where it stands.
        False when the reader is not at the tail: then `next` is asked first.
        """
        ...

    def close(self) -> None:
        """`aclose`, at once."""
        ...


class Log(Protocol):
    """Streams by path. A path is decoded segments joined by `/`, without a leading slash."""

    async def create(self, path: str, request: Create) -> Created:
        """Create, or find one that matches. Raises Conflict, NotFound (a fork's source) or InvalidRequest."""
        ...

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        """
        Append and/or close, and write the records in the same atomic step; durable on return. A log without records
        (`records` of `Store` is None) takes none. Raises NotFound, Gone, StreamClosed, Conflict, StaleEpoch,
        SequenceGap, RecordConflict, InvalidRequest, StoreFailed.
        """
        ...

    async def delete(self, path: str) -> None:
        """Delete; a stream that forks still read becomes Gone. Raises NotFound or Gone."""
        ...

    async def head(self, path: str) -> Head:
        """Raises NotFound or Gone. Does not count as a read for a sliding TTL."""
        ...

    async def read(self, path: str, offset: str, *, absent: str | None = None) -> Reader:
        """
        A reader at `offset` (`-1`, `now`, or one given out). Raises NotFound, Gone or InvalidRequest; OffsetGone for an
        offset of an earlier stream at the path. With `absent`, a content type, a stream that does not exist reads as an
        empty one of that type, and is live when it is created; there an offset past the end is an earlier stream's too.
        """
        ...


Done = Callable[[Appended | None, DurableChatError | None], None]
"""Told once of an append: what it gave when it is durable, the error it was lost with, or neither: it has to be asked anew."""
CreateDone = Callable[[Created | None, DurableChatError | None], None]
"""The same of a creation."""


@runtime_checkable
class PromptLog(Protocol):
    """A log in this process, which decides most appends and creations at once."""

    def append_soon(self, path: str, request: Append, done: Done, records: Sequence[RecordWrite] = ()) -> bool:
        """
        `Log.append` without a task that waits: `done` is called on the loop. False when nothing was done, and it is for
        `append` to do it, or to say what is wrong with it.
        """
        ...

    def create_soon(self, path: str, request: Create, done: CreateDone) -> bool:
        """`Log.create` in the same way, of a stream that is likely not to be there."""
        ...


class Records(Protocol):
    """Small values beside the log, which may change in the same atomic write as an append."""

    async def record(self, kind: str, key: str) -> Record | None: ...

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]:
        """Of one kind, by key; with `due_before_ms` only those due by then."""
        ...

    async def write_records(self, writes: Sequence[RecordWrite]) -> None:
        """All or none, durable on return. Raises RecordConflict when an expected version is not the one there."""
        ...


@dataclass(frozen=True, slots=True)
class Figures:
    """What a store in this process tells of itself: counts since its start, and how many there are now."""

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
    An open store: its log, and its records where it has them (a remote one has none). `failure` gives the error after
    which it takes no more writes, or None while all is well. What is put into `on_drop` is called with the path of each
    stream that has gone, deleted or expired; a remote one does not tell.
    """

    log: Log
    records: Records | None
    close: Callable[[], Awaitable[None]]
    failure: Callable[[], DurableChatError | None] = lambda: None
    on_drop: list[Callable[[str], None]] = field(default_factory=list)
    figures: Callable[[], Figures] = Figures


CUT_BYTES = 512 * 1024
"""
A long append of bytes is read in parts whose ends lie at multiples of this from its beginning. So it is known which
positions inside an append were given out. What is staged is written in parts of the same size.
"""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """
    Bytes at a position, as on the wire. For a JSON stream `lengths` are those of its messages and `data` is the
    messages joined by commas; for any other it is None and `data` stands for itself. `staged` says where the backend
    has written the bytes ahead of the commit. Where there are no messages, `appends` are the lengths of the appends in
    it: None for just one, and empty where that is not known, in what an earlier version has stored.
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
    One stream's part in a write: its new state, whose `version` is one above the one it must have now, what is
    appended, and the producers that moved. With `drop` the stream and its bytes go.
    """

    state: StreamState
    piece: Piece | None = None
    producers: Mapping[str, ProducerState] | None = None
    drop: bool = False


class Write(msgspec.Struct, frozen=True, gc=False):
    """What one decision makes durable, all of it or nothing."""

    streams: tuple[StreamChange, ...] = ()
    records: tuple[RecordWrite, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stream as the backend has it: its state and all of its producers, and whether bytes of it are known to be lost."""

    state: StreamState
    producers: dict[str, ProducerState]
    damaged: bool = False


@runtime_checkable
class Journaled(Protocol):
    """A backend with a journal: how long that is, and how much of it is in memory too."""

    @property
    def journal_bytes(self) -> int: ...
    @property
    def uncompacted_bytes(self) -> int: ...


class Backend(Protocol):
    """
    An engine: keeps bytes, knows no rule of the protocol. All errors of the engine leave as StoreFailed, and after one
    from `commit` nothing more is written: a failed fsync is never taken for success later.
    """

    @property
    def failure(self) -> StoreFailed | None:
        """The error after which nothing is written any more; None while all is well."""
        ...

    async def open(self) -> None:
        """Take the store for this process and recover it. Raises StartError when that cannot be."""
        ...

    async def close(self) -> None: ...

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        """
        Make the writes durable (fsync, or the engine's quorum) before returning. Each is all or nothing; the indexes
        of those refused, because a stream or record had another version than expected, are returned.
        """
        ...

    async def stage(self, data: bytes) -> int | None:
        """
        Write the bytes of a large piece ahead of its commit, in steps that let the flushes of others in between; for
        `Piece.staged`. None where a flush takes no longer for it. What is never committed is gone at the next open.
        """
        ...

    async def load(self, path: str) -> Loaded | None: ...

    async def read(self, stream_id: int, start: int, stop: int, bytes_max: int) -> list[Piece]:
        """
        Pieces from exactly `start`, in order and without a hole, up to `stop` or until they hold `bytes_max` bytes (at
        least one message; of bytes an append, or up to the next CUT_BYTES of it). They end before what is missing or damaged: none at all means that, or that the
        stream has been dropped meanwhile.
        """
        ...

    async def append_start(self, stream_id: int, position: int) -> int:
        """Where the append begins that holds a position of a stream of bytes; the position where that is not known."""
        ...

    async def expired(self, now_ms: int, limit: int) -> list[str]:
        """Paths of streams whose time is up by `now_ms`, soft-deleted ones included, at most `limit`."""
        ...

    async def next_stream_id(self) -> int:
        """A number no stream has or had; called once at open, counted on by the engine's owner."""
        ...

    async def record(self, kind: str, key: str) -> Record | None: ...

    async def records(self, kind: str, *, due_before_ms: int | None = None, prefix: str = "") -> list[Record]: ...
