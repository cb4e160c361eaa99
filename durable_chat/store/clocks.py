"""The time of day, and one that goes on evenly when somebody sets the machine's clock back."""

from __future__ import annotations

import time
from collections.abc import Callable


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class SteadyClock:
    """
    Unix time in milliseconds that never goes back: a span of time ends when it is over, whatever the clock says then.
    A clock that is put forward is followed, since a suspended machine's is. Mutable state: the last time it gave, and
    what the monotonic clock said then.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._last_ns = wall_ns()
        self._at_ns = monotonic_ns()

    def __call__(self) -> int:
        at_ns = self._monotonic_ns()
        self._last_ns = max(self._wall_ns(), self._last_ns + at_ns - self._at_ns)
        self._at_ns = at_ns
        return self._last_ns // 1_000_000
