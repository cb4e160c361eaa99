"""
The live end of a stream: recent commits, shared by all readers that follow it.

A batch is created once for all readers, and its SSE form is encoded once and kept with it. A reader that falls behind
the batches kept here reads from the store again, so a slow reader costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from time import perf_counter, time_ns
from typing import TypeAlias

import durable_chat.metrics as metrics
from durable_chat.protocol.cursors import current_cursor
from durable_chat.protocol.messages import is_json
from durable_chat.protocol.offsets import ZERO
from durable_chat.protocol.sse import encode_control, encode_data
from durable_chat.protocol.states import StreamState
from durable_chat.store.base import Piece

KEPT_BYTES_MAX = 256 * 1024
"""Bytes of recent batches that are kept for readers close behind the tail: little compared with a socket buffer."""
KEPT_BATCHES_MAX = 8
"""The same limit in batches. A reader further behind gets what it missed as one batch from the store."""

ROUND_FOLLOWERS = 200
"""Followers that are notified in one go: one or two milliseconds of writing to sockets."""


class Batch:
    """
    A run of messages for readers; see `store.base.Batch`. Mutable state: `up_to_date`, which is reset when another
    batch follows; the interval of the first encoding; the newest encoding and its cursor.
    """

    __slots__ = (
        "_frame",
        "_framed_cursor",
        "_interval",
        "closed",
        "content_type",
        "data",
        "made_s",
        "start",
        "state",
        "stop",
        "up_to_date",
    )

    def __init__(
        self,
        content_type: str,
        state: StreamState | None,
        start: int,
        stop: int,
        data: bytes,
        *,
        up_to_date: bool,
        closed: bool,
    ) -> None:
        """`state` is any state of the stream, for its offsets; None when there is no stream."""
        self.content_type = content_type
        self.state = state
        self.start = start
        self.stop = stop
        self.data = data
        self.up_to_date = up_to_date
        self.closed = closed
        self.made_s = perf_counter()
        self._frame = b""
        self._framed_cursor = self._interval = -1

    @property
    def offset(self) -> str:
        return ZERO if self.state is None else self.state.offset(self.start)

    @property
    def next_offset(self) -> str:
        return ZERO if self.state is None else self.state.offset(self.stop)

    def overtake(self) -> None:
        """Note that another batch follows."""
        self.up_to_date = False
        self._framed_cursor = -1

    def sse(self, cursor_min: int) -> bytes:
        """
        The batch as one write: its `data` event, if it has data, and its `control` event. The cursor is the current one
        or the reader's own, whichever is later.
        """
        if self._interval < 0:
            self._interval = current_cursor(time_ns() // 1_000_000)
        cursor = max(cursor_min, self._interval)
        if cursor != self._framed_cursor:
            data = encode_data(self.content_type, self.data) if self.stop > self.start else b""
            control = encode_control(self.next_offset, cursor, up_to_date=self.up_to_date, closed=self.closed)
            self._frame = data + control
            self._framed_cursor = cursor
        return self._frame


log = logging.getLogger(__name__)

Follower: TypeAlias = Callable[[Batch | None], None]
"""
Called with each batch in order, starting when the follower was added; with None when something else happened to the
stream.
"""


class Tail:
    """
    The recent batches of one stream and its followers. Mutable state: `readers`, how many follow; `_batches`, kept only
    while somebody follows; `_fresh`, published and not handed out yet; `_odd`, whether `look` was called; `_waiting`;
    `followers`; `_scheduled`, whether a round is scheduled or running.
    """

    __slots__ = ("_batches", "_bytes", "_fresh", "_odd", "_scheduled", "_waiting", "followers", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self.followers: dict[Follower, None] = {}
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._fresh: list[Batch] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._odd = False
        self._scheduled = False

    def publish(self, batch: Batch) -> bool:
        """Add a committed batch, in order and without gaps. Returns True when the caller must call `hand_out`."""
        self._fresh.append(batch)
        if self._scheduled or not self.readers:
            return False
        self._scheduled = True
        return True

    def clear(self) -> None:
        """Drop the kept batches, because nobody follows or the stream is gone."""
        self._fresh.clear()
        self._batches.clear()
        self._bytes = 0

    def look(self) -> None:
        """Note that something other than messages happened to the stream. Later readers see it in its state."""
        if self.readers:
            self._odd = True
            self.wake()

    def wake(self) -> None:
        """
        Schedule a round. Callers that wait for the disk come first, and batches that arrive until then join the round.
        """
        if self.readers and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.hand_out)

    def hand_out(self) -> None:
        """Run a round: notify everybody of what arrived since the last one."""
        batch = self._join_fresh()
        told, self._odd = None if self._odd else batch, False
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        self._hand_on(told, list(self.followers))

    def _hand_on(self, batch: Batch | None, followers: list[Follower]) -> None:
        """Notify followers, some at a time, so that other tasks can run in between."""
        now, left = followers, followers[ROUND_FOLLOWERS:]
        if left:
            now = followers[:ROUND_FOLLOWERS]
        for follower in now:
            try:
                follower(batch)
            except Exception:
                log.exception("a reader failed to handle a committed batch and no longer follows the stream")
                self.followers.pop(follower, None)
        if batch is not None and now:
            metrics.delivery_seconds.observe(perf_counter() - batch.made_s, len(now))
        if left:
            asyncio.get_running_loop().call_soon(self._hand_on, batch, left)
            return
        self._scheduled = False
        if self._fresh or self._odd:
            self.wake()

    def _join_fresh(self) -> Batch | None:
        """Join what arrived since the last round into one batch, and keep it for readers close behind."""
        if not self._fresh:
            return None
        fresh, self._fresh = self._fresh, []
        batch = fresh[0] if len(fresh) == 1 else join_batches(fresh)
        if self._batches:
            self._batches[-1].overtake()
        self._batches.append(batch)
        self._bytes += len(batch.data)
        while len(self._batches) > KEPT_BATCHES_MAX or (self._bytes > KEPT_BYTES_MAX and len(self._batches) > 1):
            self._bytes -= len(self._batches.popleft().data)
        return batch

    def after(self, position: int, bytes_max: int) -> Batch | None:
        """
        Return everything kept from a position on, up to about `bytes_max`, as one batch. None if that position is not
        kept: read it from the store. If the result is a single batch, it is the shared object.
        """
        found: list[Batch] = []
        size = 0
        for batch in chain(self._batches, self._fresh):
            if size >= bytes_max:
                break
            if found or batch.start == position:
                found.append(batch)
                size += len(batch.data)
        if not found:
            return None
        newest = self._fresh[-1] if self._fresh else self._batches[-1]
        if len(found) == 1 and found[0].up_to_date is (found[0] is newest):
            return found[0]
        joined = join_batches(found)
        joined.up_to_date = found[-1] is newest
        return joined

    async def wait(self, wait_s: float) -> None:
        """Wait until something is published, `wake` is called, or the time is over."""
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


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Join consecutive batches into one."""
    first, last = batches[0], batches[-1]
    assert all(one.stop == two.start for one, two in pairwise(batches))
    data = (b"," if is_json(first.content_type) else b"").join([batch.data for batch in batches])
    kind, state = first.content_type, last.state
    return Batch(kind, state, first.start, last.stop, data, up_to_date=last.up_to_date, closed=last.closed)


def batch_of(state: StreamState, piece: Piece) -> Batch:
    """The batch of a piece that was just committed."""
    closed = state.closed
    return Batch(state.content_type, state, piece.start, piece.stop, piece.data, up_to_date=True, closed=closed)
