"""
Time limits that count only while this process runs.

A process that was stopped, or starved, for longer than a limit finds it over when it wakes, and what it waited for lies
unread in its sockets. So a limit is looked at in intervals: whatever was missed between two looks counts as one.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

LOOKS = 20
"""Intervals of a limit. It may take a twentieth longer."""


class AwakeTimeout:
    """
    Like `asyncio.timeout`, in the time that this process was awake. Setting a timer costs more than a delta, so whoever
    hears something only sets `heard`, and the limit counts from the next look.

    Mutable state: `heard`; `paused`, while it does not count; `_silent`, the looks in a row with nothing heard; the
    timer of the next one.
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
        """Raises TimeoutError when the limit is over."""
        self._timer.cancel()
        await self._clock.__aexit__(kind, error, trace)

    def _look(self) -> None:
        self._silent = 0 if self.heard or self.paused else self._silent + 1
        self.heard = False
        if self._silent >= LOOKS:
            self._clock.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(self._every_s, self._look)
