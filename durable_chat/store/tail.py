"""
The live end of a stream: what has just been committed, shared by all readers that wait for it.

A batch is made once and handed to everybody; its SSE form is encoded once and kept with it. Readers that fall behind
the batches kept here go back to the store, so a slow one costs no memory.
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
"""Bytes of recent batches kept for readers close behind the tail: small beside a socket."""
KEPT_BATCHES_MAX = 8
"""The same in batches: a reader further behind is given what it has missed as one, from the store."""

ROUND_FOLLOWERS = 200
"""Followers told at once: one or two milliseconds of writing to sockets."""


class Batch:
    """
    A run of messages on its way to readers; see `store.base.Batch`. Mutable state: `up_to_date`, taken back when
    something follows, the interval in which it was first framed, and the newest frame with its cursor.
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
        """`state` is any of the stream's, which knows its offsets; None where there is no stream."""
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
        """Something follows."""
        self.up_to_date = False
        self._framed_cursor = -1

    def sse(self, cursor_min: int) -> bytes:
        """
        The batch as one write: its `data` event, where it has data, and its `control` event, with the cursor of the
        time or a reader's own, which may be later.
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
"""Given each batch, in order, from when it was added; None says that something else has happened to the stream."""


class Tail:
    """
    The recent batches of one stream, and those who are told of what comes. Mutable state: `readers` (how many follow),
    `_batches` (kept only while somebody follows), `_fresh` (published and not yet handed out), `_odd` (`look` was
    called), `_waiting`, `followers`, and whether a round is under way or `_scheduled`.
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
        """Take what has been committed, in order and without a hole. When it says True, `hand_out` is to be called."""
        self._fresh.append(batch)
        if self._scheduled or not self.readers:
            return False
        self._scheduled = True
        return True

    def clear(self) -> None:
        """Forget what is kept: nobody follows, or the stream is gone."""
        self._fresh.clear()
        self._batches.clear()
        self._bytes = 0

    def look(self) -> None:
        """Something else than messages has happened to the stream. Whoever comes later finds it so."""
        if self.readers:
            self._odd = True
            self.wake()

    def wake(self) -> None:
        """Tell everybody soon. Whoever waits for the disk is told first, and what comes meanwhile goes along."""
        if self.readers and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.hand_out)

    def hand_out(self) -> None:
        """A round: everybody is told of what came since the last one."""
        batch = self._join_fresh()
        told, self._odd = None if self._odd else batch, False
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        self._hand_on(told, list(self.followers))

    def _hand_on(self, batch: Batch | None, followers: list[Follower]) -> None:
        """The round, some followers at a time, so that others get their turn."""
        now, left = followers, followers[ROUND_FOLLOWERS:]
        if left:
            now = followers[:ROUND_FOLLOWERS]
        for follower in now:
            try:
                follower(batch)
            except Exception:
                log.exception("a reader could not be told of what was committed")
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
        """What came since the last round, as one batch that is kept for those close behind."""
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
        All that is kept from a position on, as far as it fits, for a reader close behind; one further behind reads the
        store. The newest batch alone is the one that all share.
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


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Batches that follow each other as one."""
    first, last = batches[0], batches[-1]
    assert all(one.stop == two.start for one, two in pairwise(batches))
    data = (b"," if is_json(first.content_type) else b"").join([batch.data for batch in batches])
    kind, state = first.content_type, last.state
    return Batch(kind, state, first.start, last.stop, data, up_to_date=last.up_to_date, closed=last.closed)


def batch_of(state: StreamState, piece: Piece) -> Batch:
    """What has just been committed."""
    closed = state.closed
    return Batch(state.content_type, state, piece.start, piece.stop, piece.data, up_to_date=True, closed=closed)
