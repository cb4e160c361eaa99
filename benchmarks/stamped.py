"""
This server with a model that says when each delta left it: `python -m benchmarks.stamped PORT`, settings by environment.

It is served exactly as `durable-chat serve` does. A turn's text asks for the deltas: see `Order`.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from durable_chat.app import create_app
from durable_chat.cli import run
from durable_chat.config.settings import Settings
from durable_chat.models.base import Turn, last_user_text
from durable_chat.notices import set_log_levels
from durable_chat.transcripts.chunks import text_content, text_end, text_start

DELTA_CHARS = 24
DELTA = re.compile(r"([0-9]{6}):([0-9a-f]{16});")


def stamp(number: int, left_ns: int) -> str:
    """A delta's text: which it is and when it left the model, on the machine's monotonic clock."""
    return f"{number:06d}:{left_ns:016x};"


@dataclass(frozen=True, slots=True)
class Order:
    """What a turn asks of the model: so many deltas, so many a second."""

    count: int
    per_s: int

    @property
    def text(self) -> str:
        return f"{self.count} deltas, {self.per_s} a second"

    @classmethod
    def read(cls, text: str) -> Order:
        count, per_s = map(int, re.findall(r"[0-9]+", text))
        return cls(count, per_s)


class Clock:
    """
    What all answers wait for: with a timer for each delta, timers would be much of what is measured (uvloop makes a
    handle of each; Node.js keeps its own in lists). Mutable state: who waits, by the millisecond they wait for.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    async def until(self, due_ns: int) -> None:
        """At the first whole millisecond from then on."""
        due_ms = -(-due_ns // 1_000_000)
        waiting = self._waiting.get(due_ms)
        if waiting is None:
            waiting = self._waiting[due_ms] = []
            self._set(due_ms)
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        waiting.append(done)
        await done

    def _set(self, due_ms: int) -> None:
        # Both loops count whole milliseconds, and may ring in the one before.
        wait_ms = max(0, due_ms - time.monotonic_ns() // 1_000_000)
        asyncio.get_running_loop().call_later(wait_ms / 1000, self._ring, due_ms)

    def _ring(self, due_ms: int) -> None:
        if time.monotonic_ns() < due_ms * 1_000_000:
            self._set(due_ms)
            return
        for done in self._waiting.pop(due_ms):
            if not done.done():
                done.set_result(None)


CLOCK = Clock()


async def answer(turn: Turn) -> AsyncIterator[dict[str, Any]]:
    """
    Each delta at its time, counted from the beginning, so that one that comes late makes none of the others later.
    """
    order = Order.read(last_user_text(turn))
    message_id = f"msg-{turn.run_id}"
    yield text_start(message_id, timestamp=_now_ms())
    begun_ns = time.monotonic_ns()
    for number in range(order.count):
        due_ns = begun_ns + number * 1_000_000_000 // order.per_s
        await CLOCK.until(due_ns)
        yield text_content(message_id, stamp(number, time.monotonic_ns()), timestamp=_now_ms())
    yield text_end(message_id, timestamp=_now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main(port: str) -> None:
    chat = create_app(Settings.from_env(os.environ, port=port))
    chat.model(answer)
    set_log_levels("info")
    run(chat)


if __name__ == "__main__":
    main(sys.argv[1])
