"""
The writer of a run: chunks collect while one append is in progress, and go into the next one.

The model does not wait for each token, and is never further ahead of the store than the two limits below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import durable_chat.metrics as metrics
from durable_chat.errors import (
    Conflict,
    DurableChatError,
    Gone,
    NotFound,
    Overloaded,
    RecordConflict,
    SequenceGap,
    StaleEpoch,
    StreamClosed,
    TooLarge,
    Unavailable,
)
from durable_chat.protocol.messages import JSON, Payload, is_json, join_messages
from durable_chat.protocol.requests import Append, Appended
from durable_chat.sessions.recovering.leases import Lease
from durable_chat.store.base import Log, PromptLog, RecordWrite
from durable_chat.transcripts.answers.coalescing import coalesce

AHEAD_CHUNKS_MAX = 256
"""The maximum number of chunks that are not durable yet: five seconds of a fast model, or dozens of appends."""

AHEAD_BYTES_MAX = 1024 * 1024
"""The same limit in bytes, for models that send long chunks. It bounds a run's memory, apart from its largest chunk."""

PATIENCE_S = 120.0
"""How long a run waits for an overloaded store by default: as long as for a silent model."""

RETRY_FIRST_S, RETRY_MAX_S = 0.05, 1.0
"""
The first and the longest delay between retries; it doubles each time. An overload ends quickly, or many runs wait for
it.
"""

OVERTAKEN = "sequence_conflict"
"""The error code of an append that does not follow the expected append."""
BATCH_BYTES_MAX = AHEAD_BYTES_MAX
"""The size of one append, unless a single chunk is longer. One append of everything could exceed the store's limit."""

log = logging.getLogger(__name__)

Made = TypeVar("Made")


async def patiently(attempt: Callable[[], Awaitable[Made]], patience_s: float) -> Made:
    """
    Return the result of `attempt`, retried while the store is overloaded. Raises Overloaded when this lasts too long.
    Only the time waited here counts, because the process may have been suspended.
    """
    left_s, wait_s = patience_s, RETRY_FIRST_S
    while True:
        try:
            return await attempt()
        except Overloaded:  # nothing of the attempt was written
            if left_s <= 0:
                raise
            metrics.writes_delayed.add()
            wait_s = min(wait_s, left_s)
            await asyncio.sleep(wait_s)
            left_s -= wait_s
            wait_s = min(2 * wait_s, RETRY_MAX_S)


class Writer:
    """
    Appends one run's chunks, in order. With `coalesces`, it joins the deltas of one append (see `coalescing`).

    Mutable state: `_waiting` and `_records`, not handed to the log yet; `_chunks` and `_bytes`, the amount that is not
    durable; `_flight`, the task of the current append; `_flies`, set during an append without a task; `failure`, after
    which nothing is written, and `cause`, the log's error; `taken_bytes`, the total handed over; `_seq`, the tail that
    the next append must follow, on a log with other writers; `_ends`, set once the run's end was handed over;
    `_batch_bytes`, the size of an append that the log accepts.
    """

    def __init__(
        self,
        log: Log,
        path: str,
        on_failure: Callable[[], None] = lambda: None,
        content_type: str = JSON,
        lease: Lease | None = None,
        *,
        seq: str | None = None,
        coalesces: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._patience_s = patience_s
        self.failure: DurableChatError | None = None
        self.cause: DurableChatError | None = None
        self.taken_bytes = 0
        self._content_type = content_type
        self._is_json = is_json(content_type)
        self._log = log
        self._path = path
        self._on_failure = on_failure
        self._lease = lease
        self._seq = seq
        self._coalesces = coalesces
        self._ends = False
        self._batch_bytes = BATCH_BYTES_MAX
        self._waiting: list[bytes] = []
        self._records: list[RecordWrite] = []
        self._chunks = 0
        self._bytes = 0
        self._flight: asyncio.Task[None] | None = None
        self._flies = False
        self._prompt = log if isinstance(log, PromptLog) else None
        self._flushed = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._chunks >= AHEAD_CHUNKS_MAX or self._bytes >= AHEAD_BYTES_MAX

    def add(self, messages: Sequence[bytes], records: Sequence[RecordWrite] = ()) -> None:
        """Hand over chunks. The records are written atomically with the last of them. Raises the failure."""
        if self.failure is not None:
            raise self.failure
        if not messages:
            return
        self._waiting += messages
        self._records += records
        self._chunks += len(messages)
        size = sum(map(len, messages))
        self._bytes += size
        self.taken_bytes += size
        if not self._flies and self._flight is None and not self._append_soon():
            self._begin_flush()

    def end(self, messages: Sequence[bytes], records: Sequence[RecordWrite] = ()) -> None:
        """
        Hand over the run's last chunks. The lease is removed atomically with the last of them. Raises the failure.
        """
        self._ends = True
        self.add(messages, records)

    def note_usage(self, usage: list[dict[str, Any]]) -> None:
        """Keep what the finished steps of the run have used. It is written with the next chunks."""
        if self._lease is not None:
            self._lease.used(usage)

    async def room(self) -> None:
        """Wait until the backlog is within its limits. Raises the failure."""
        while self.full and self.failure is None:
            await self._next_flush()
        if self.failure is not None:
            raise self.failure

    async def settle(self) -> None:
        """Wait until everything is durable. Raises the failure."""
        while self._is_busy:
            await self._next_flush()
        if self.failure is not None:
            raise self.failure

    async def _next_flush(self) -> None:
        self._flushed.clear()
        await self._flushed.wait()

    @property
    def _is_busy(self) -> bool:
        return self._flight is not None or self._flies

    def _begin_flush(self) -> None:
        self._flight = asyncio.create_task(self._flush(), name=f"flush {self._path}")

    def _append_soon(self) -> bool:
        """
        Append without a waiting task, on a log in this process. This is the fast path for the deltas within a run,
        which are most of the chunks. Return False when the path does not apply.
        """
        prompt = self._prompt
        if prompt is None or self._ends or self._records or self._bytes > self._batch_bytes:
            return False
        fence = () if self._lease is None else self._lease.fence()
        if fence is None:
            return False
        messages, self._waiting = self._waiting, []
        request = Append(self._payload(messages), self._content_type, seq=self._seq)
        self._flies = prompt.append_soon(self._path, request, partial(self._appended, messages), fence)
        if not self._flies:
            self._waiting = messages
        return self._flies

    def _appended(self, messages: list[bytes], appended: Appended | None, failure: DurableChatError | None) -> None:
        self._flies = False
        if appended is None:  # `_flush` retries it, or gets the error to raise
            if failure is None:
                self._waiting[:0] = messages
                self._begin_flush()
            else:
                self._fail(failure)
                self._flushed.set()
            return
        self._settle(messages, appended)
        if self._waiting and not self._append_soon():
            self._begin_flush()

    def _settle(self, messages: Sequence[bytes], appended: Appended) -> None:
        if self._seq is not None:
            self._seq = appended.next_offset
        self._chunks -= len(messages)
        self._bytes -= sum(map(len, messages))
        self._flushed.set()

    async def _flush(self) -> None:
        try:
            while True:
                await patiently(self._append, self._patience_s)
                if not self._waiting or self._append_soon():
                    break
        except DurableChatError as error:
            self._fail(error)
        except BaseException as error:
            if isinstance(error, Exception):
                log.exception("writing to %s failed because of an internal error", self._path)
            self._fail(
                Unavailable("The answer could not be written because of an internal error.", code="write_failed")
            )
            if not isinstance(error, Exception):
                raise
        finally:
            self._flight = None
            self._flushed.set()

    async def _append(self) -> None:
        messages = self._take_batch()
        last = not self._waiting
        records, self._records = (self._records, []) if last else ([], self._records)
        try:
            async with self._writing(last=last and self._ends) as fence:
                request = Append(self._payload(messages), self._content_type, seq=self._seq)
                appended = await self._log.append(self._path, request, [*records, *fence])
        except TooLarge:  # nothing of it was written
            if len(messages) == 1:
                raise
            self._put_back(messages, records)
            self._batch_bytes = sum(map(len, messages)) // 2
            return
        except Overloaded:
            self._put_back(messages, records)
            raise
        self._settle(messages, appended)

    def _put_back(self, messages: list[bytes], records: list[RecordWrite]) -> None:
        self._waiting[:0] = messages
        self._records[:0] = records

    def _take_batch(self) -> list[bytes]:
        """Take the chunks of the next append: all that wait, up to the size limit."""
        if self._bytes <= self._batch_bytes:
            batch, self._waiting = self._waiting, []
            return batch
        size = len(self._waiting[0])
        count = 1
        while count < len(self._waiting) and (size := size + len(self._waiting[count])) <= self._batch_bytes:
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _payload(self, messages: list[bytes]) -> Payload:
        if not self._is_json:
            return Payload(b"".join(messages))
        if len(messages) > 1 and self._coalesces:
            messages = coalesce(messages)
        return join_messages(messages)

    def _writing(self, *, last: bool) -> AbstractAsyncContextManager[Sequence[RecordWrite]]:
        return nullcontext(()) if self._lease is None else self._lease.writing(last=last)

    def _fail(self, error: DurableChatError) -> None:
        self.cause = error
        self.failure = session_error(error) if self._lease is None else _run_error(error)
        self._waiting.clear()
        self._records.clear()
        self._on_failure()


def session_error(error: DurableChatError) -> DurableChatError:
    """Translate a log's error into a session's error."""
    # On a remote store, the producer's sequence numbers reveal the other process: both write as the same producer.
    if isinstance(error, RecordConflict | StaleEpoch | SequenceGap) or error.code == OVERTAKEN:
        return Unavailable("Another process took over the answer and ended it.", code="fenced")
    if isinstance(error, StreamClosed):
        return Conflict("The session's stream is closed. Start a new session.", code="session_closed")
    return error


def _run_error(error: DurableChatError) -> DurableChatError:
    """Translate an error like `session_error`, for a writer whose stream existed when it began."""
    if isinstance(error, NotFound | Gone):
        return Conflict("The session was deleted during the answer.", code="session_deleted")
    return session_error(error)
