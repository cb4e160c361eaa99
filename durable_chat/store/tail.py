"""
The live end of a stream: what has just been committed, shared by all readers that wait for it.

A batch is made once and handed to everybody; its SSE form is encoded once and kept with it. Readers that fall behind
the batches kept here go back to the store, so a slow one costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

from durable_chat.protocol.offsets import encode_offset
from durable_chat.protocol.sse import encode_control, encode_data

KEPT_BYTES_MAX = 256 * 1024
"""Bytes of recent batches kept for readers at the tail: some seconds of the fastest model, small beside a socket."""

NEAR_BATCHES_MAX = 8
"""How many batches a reader may be behind and still get them one by one; beyond, one read of the store joins them."""


class Batch:
    """
    A run of messages on its way to readers; see `store.base.Batch`. Mutable state: `up_to_date`, taken back when
    something follows, and the encoded frame.
    """

    __slots__ = ("_data_event", "_frame", "_frame_key", "closed", "content_type", "data", "start", "stop", "up_to_date")

    def __init__(
        self, content_type: str, start: int, stop: int, data: bytes, *, up_to_date: bool, closed: bool
    ) -> None:
        self.content_type = content_type
        self.start = start
        self.stop = stop
        self.data = data
        self.up_to_date = up_to_date
        self.closed = closed
        self._data_event: bytes | None = None
        self._frame = b""
        self._frame_key: tuple[int, bool] | None = None

    @property
    def offset(self) -> str:
        return encode_offset(self.start)

    @property
    def next_offset(self) -> str:
        return encode_offset(self.stop)

    def sse(self, cursor: int) -> bytes:
        """The batch as one write: its `data` event, where it has data, and its `control` event."""
        key = (cursor, self.up_to_date)
        if self._frame_key != key:
            if self._data_event is None:
                self._data_event = encode_data(self.content_type, self.data) if self.stop > self.start else b""
            control = encode_control(self.next_offset, cursor, up_to_date=self.up_to_date, closed=self.closed)
            self._frame = self._data_event + control
            self._frame_key = key
        return self._frame


class Tail:
    """
    The recent batches of one stream and the readers that wait. Mutable state: `readers` (how many follow),
    `_batches` (kept only while somebody follows), `_waiting`.
    """

    __slots__ = ("_batches", "_bytes", "_waiting", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def publish(self, batch: Batch) -> None:
        """Hand over what has been committed; batches come in order and without a hole."""
        if self._batches:
            assert self._batches[-1].stop == batch.start
            self._batches[-1].up_to_date = False
        if self.readers:
            self._batches.append(batch)
            self._bytes += len(batch.data)
            while self._bytes > KEPT_BYTES_MAX and len(self._batches) > 1:
                self._bytes -= len(self._batches.popleft().data)
        else:
            self.clear()
        self.wake()

    def clear(self) -> None:
        self._batches.clear()
        self._bytes = 0

    def wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def after(self, position: int) -> Batch | None:
        """The kept batch that begins at a position, for a reader close behind; one further behind reads the store."""
        for batch in islice(reversed(self._batches), NEAR_BATCHES_MAX):
            if batch.start == position:
                return batch
        return None

    async def wait(self, wait_s: float) -> None:
        """Until something is published, `wake` is called, or the time is over."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self._waiting.add(waiting)
        timer = loop.call_later(wait_s, self._give_up, waiting)
        try:
            await waiting
        finally:
            timer.cancel()
            self._waiting.discard(waiting)

    def _give_up(self, waiting: asyncio.Future[None]) -> None:
        self._waiting.discard(waiting)
        if not waiting.done():
            waiting.set_result(None)
