"""Waiting in tests without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.02


def wait_until(holds: Callable[[], bool], what: str, max_s: float) -> None:
    """Wait until something holds. It fails with `what` after `max_s`."""
    deadline_s = time.monotonic() + max_s
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(POLL_S)
