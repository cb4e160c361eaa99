"""The wall clock, and a clock that never goes back."""

from __future__ import annotations

import time
from collections.abc import Callable


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class SteadyClock:
    """
    Unix time in milliseconds that never goes back: when the wall clock is set back, durations still end on time. It
    follows a wall clock that is set forward, because that also happens after a suspended machine resumes. Mutable
    state: `_ahead_ns`, the most that the wall clock has been ahead of the monotonic clock.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._ahead_ns = wall_ns() - monotonic_ns()

    def __call__(self) -> int:
        at_ns = self._monotonic_ns()
        ahead_ns = self._wall_ns() - at_ns
        if ahead_ns > self._ahead_ns:
            self._ahead_ns = ahead_ns
        return (at_ns + self._ahead_ns) // 1_000_000
