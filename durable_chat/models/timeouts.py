"""
Time limits that count only while this process runs.

A process may be stopped or starved for longer than a limit. When it resumes, the limit appears to be over, although
unread data waits in its sockets. A limit is therefore checked in intervals. All time missed between two checks counts
as one interval.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

LOOKS = 20
"""Intervals of a limit. A timeout may fire up to one twentieth late."""


class AwakeTimeout:
    """
    Like `asyncio.timeout`, but counts only time in which this process runs.

    Setting a timer costs more than handling a delta. To report activity, callers therefore only set `heard`, and the
    limit restarts at the next check.

    Mutable state: `heard`; `paused`, while time does not count; `_silent`, the number of consecutive checks without
    activity; the timer of the next check.
    """

    def __init__(self, limit_s: float) -> None:
        self.heard = False
        self.paused = False
        self._every_s = limit_s / LOOKS
        self._silent = 0
        self._clock = asyncio.timeout(None)

    @property
    def expired(self) -> bool:
        return self._clock.expired()

    async def __aenter__(self) -> Self:
        await self._clock.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._every_s, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the limit. Raises TimeoutError when it is over."""
        self._timer.cancel()
        await self._clock.__aexit__(kind, error, trace)

    def _look(self) -> None:
        self._silent = 0 if self.heard or self.paused else self._silent + 1
        self.heard = False
        if self._silent >= LOOKS:
            self._clock.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(self._every_s, self._look)
