"""
An SSE response that is written to by whoever commits, on a connection that can be written to from outside a task.

The app has returned by then: a reader that waits is a few small objects, and costs one write for what is new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from starlette.types import Message

from durable_chat.errors import DurableChatError, NotFound
from durable_chat.protocol.sse import PING
from durable_chat.store.base import FollowingReader, FramedBatch

LINE = "durable-chat.line"
"""The ASGI extension (`scope["extensions"]`) of a connection with a `Line`, as its `line`."""

log = logging.getLogger(__name__)


class Line(Protocol):
    """A response that is open, whoever began it."""

    def detach(self, left: Callable[[], None]) -> None:
        """The app returns and the response goes on; `left` is called when the client has left, which may be now."""
        ...

    async def send(self, message: Message) -> None:
        """ASGI's: waits while the client reads more slowly."""
        ...

    def push(self, body: bytes) -> bool:
        """Write a part of the body now; False for a client that does not read as fast, and nothing was written."""
        ...

    def finish(self) -> None:
        """The end of the body."""
        ...

    def cut(self) -> None:
        """The end of the connection, so that a torn body is not taken for a whole one."""
        ...


class Endings(Protocol):
    """The live reads, which can be ended from elsewhere."""

    def join(self, path: str, end: Callable[[], None]) -> None: ...

    def leave(self, path: str, end: Callable[[], None]) -> None: ...


class Follower:
    """
    Mutable state: `_task`, which catches up while the client is behind; `_timer`, to the next ping or the end;
    `_written_s`, when something was last pushed; `_open`, until the end.
    """

    __slots__ = (
        "_clock",
        "_ends_s",
        "_frame",
        "_line",
        "_live",
        "_open",
        "_path",
        "_ping_s",
        "_reader",
        "_task",
        "_timer",
        "_written_s",
    )

    def __init__(
        self,
        reader: FollowingReader,
        line: Line,
        frame: Callable[[FramedBatch], bytes],
        live: Endings,
        path: str,
        ping_s: float,
    ) -> None:
        self._reader = reader
        self._line = line
        self._frame = frame
        self._live = live
        self._path = path
        self._ping_s = ping_s
        self._open = False
        self._ends_s = 0.0
        self._written_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle
        self._clock: Callable[[], float]

    def begin(self, lasts_s: float) -> None:
        """Take over the response, whose head has been sent, and the reader."""
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._open = True
        self._written_s = loop.time()
        self._ends_s = self._written_s + lasts_s
        self._live.join(self._path, self.end)
        self._task = loop.create_task(self._catch_up(greets=True))
        self._timer = loop.call_later(min(self._ping_s, lasts_s), self._tick)
        self._line.detach(self._stop)

    def end(self) -> None:
        """End the response cleanly: its client comes back by offset."""
        if self._open:
            self._stop()
            self._line.finish()

    def _stop(self) -> None:
        if not self._open:
            return
        self._open = False
        self._live.leave(self._path, self.end)
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._reader.close()
        # It knows this follower, and neither would be freed without the garbage collector.
        del self._frame, self._reader

    def _fall_behind(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self, *, greets: bool = False) -> None:
        """Read and send as fast as the client takes it, up to the tail. The first answer says where that is."""
        try:
            while True:
                before = self._reader.offset
                batch = await self._reader.next()
                if batch.next_offset < before:  # deleted: the client comes back, and is told that it begins anew
                    break
                if batch.data or batch.closed or greets:
                    message = {"type": "http.response.body", "body": self._frame(batch), "more_body": True}
                    await self._line.send(message)
                    self._written_s = self._clock()
                greets = False
                if batch.closed:
                    break
                if self._reader.follow(self._take, self._fall_behind):
                    self._task = None
                    return
        except NotFound:
            pass
        except DurableChatError as error:
            log.warning("a live read was cut off: %s", error.code)
            self._cut()
        except Exception:
            log.exception("a live read was cut off by a bug")
            self._cut()
        self._task = None
        self.end()

    def _cut(self) -> None:
        self._stop()
        self._line.cut()

    def _take(self, batch: FramedBatch) -> bool:
        if not self._line.push(self._frame(batch)):
            return False
        self._written_s = self._clock()
        if batch.closed:
            self.end()
        return True

    def _tick(self) -> None:
        """The end, or a ping, unless something else was written since the last one."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s >= self._ends_s:
            self.end()
            return
        if now_s >= self._written_s + self._ping_s:
            if self._task is None:
                self._line.push(PING)
            self._written_s = now_s
        self._timer = loop.call_at(min(self._written_s + self._ping_s, self._ends_s), self._tick)
