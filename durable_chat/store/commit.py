"""
Group commit: write many decided writes in one flush, then report to all of their callers.

One flush runs at a time. It takes everything that gathered during the last one. After a failed flush nothing more is
written: the content of the disk is then unknown, and a retried fsync may report a success that did not happen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter

import durable_chat.metrics as metrics
from durable_chat.errors import Overloaded, StoreFailed, Unavailable
from durable_chat.store.base import Backend, Write

QUEUE_BYTES_MAX = 64 * 1024 * 1024
"""
The limit for queued bytes, above which writes are refused: about a second of a fast disk. A single write may be longer.
"""
QUEUE_WRITES_MAX = 20_000
"""The limit for queued writes. A flush takes them all at once."""

log = logging.getLogger(__name__)


Settle = Callable[[bool, StoreFailed | None], None]
"""
Called once for a write: True when it is durable, False when it was refused because of a version, False with the error
when it was lost.
"""


_Item = tuple[Write, Settle, float]
"""A write, its callback, and the time when it was submitted."""


class Committer:
    """Mutable state: `_queue` (decided, not yet written), `_failure` (the error that ended writing)."""

    def __init__(
        self,
        backend: Backend,
        writes_max: int = QUEUE_WRITES_MAX,
        bytes_max: int = QUEUE_BYTES_MAX,
        *,
        flushed: Callable[[], None] = lambda: None,
    ) -> None:
        """`flushed` is called after all callbacks of a flush."""
        self._backend = backend
        self._flushed = flushed
        self._writes_max = writes_max
        self._bytes_max = bytes_max
        self._queue: list[_Item] = []
        self._queue_bytes = 0
        self._wakeup = asyncio.Event()
        self._failure: StoreFailed | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def failure(self) -> StoreFailed | None:
        return self._failure

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="committer")

    async def close(self) -> None:
        """Write what is queued, then stop."""
        self._closing = True
        self._wakeup.set()
        if self._task is not None:
            await self._task

    def check(self, size: int) -> None:
        """Raise if a write of `size` bytes is not accepted now. Call it before deciding anything."""
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise Unavailable("The server is shutting down.", code="shutting_down")
        if not self.takes(size):
            raise Overloaded("The disk cannot keep up. Try again later.")

    def takes(self, size: int) -> bool:
        """Whether `check` would raise nothing."""
        if self._failure is not None or self._closing:
            return False
        queue = self._queue
        return len(queue) < self._writes_max and (not queue or self._queue_bytes + size <= self._bytes_max)

    def submit(self, write: Write, settle: Settle) -> None:
        """Queue a write. `settle` is called on the event loop, in the order of the writes."""
        self._queue.append((write, settle, perf_counter()))
        for change in write.streams:
            if change.piece is not None:
                self._queue_bytes += len(change.piece.data)
        self._wakeup.set()

    async def _run(self) -> None:
        while not self._closing or self._queue:
            await self._wakeup.wait()
            await asyncio.sleep(0)  # one tick, so that tasks that are ready to write share this flush
            self._wakeup.clear()
            if self._queue:
                await self._flush(self._take())

    def _take(self) -> list[_Item]:
        items, self._queue, self._queue_bytes = self._queue, [], 0
        return items

    async def _flush(self, items: list[_Item]) -> None:
        begun_s = perf_counter()
        try:
            if self._failure is not None:
                raise self._failure
            refused = await self._backend.commit([write for write, _, _ in items])
        except Exception as error:  # noqa: BLE001 - whatever it is, all waiting callers must get it
            self._fail(error, items)
            return
        now_s = perf_counter()
        metrics.flush_writes.observe(len(items))
        metrics.flush_seconds.observe(now_s - begun_s)
        metrics.write_seconds.observe_all([now_s - submitted_s for _, _, submitted_s in reversed(items)])
        for index, (_, settle, _) in enumerate(items):
            settle(index not in refused, None)
        self._flushed()

    def _fail(self, error: Exception, items: list[_Item]) -> None:
        if self._failure is None:
            known = isinstance(error, StoreFailed)
            log.critical(
                "the store accepts no more writes until the server is restarted", exc_info=None if known else error
            )
            self._failure = (
                error if isinstance(error, StoreFailed) else StoreFailed("The store failed. It accepts no more writes.")
            )
        for _, settle, _ in (*items, *self._queue):
            settle(False, self._failure)
        self._queue, self._queue_bytes = [], 0
