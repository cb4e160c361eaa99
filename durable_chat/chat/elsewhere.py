"""
Several processes on one remote store, which tells nothing but the log: turns wait for the runs of others, and a run that
has said nothing for a lease is taken for dead. What was wrong about that is refused by the log: every append of a
session says after which one it comes, so that of two writers one is told that the other was there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing, contextmanager
from itertools import takewhile

from durable_chat.chat.chunks import Chunk
from durable_chat.chat.held import ENDS
from durable_chat.chat.leases import RENEWALS_PER_LEASE
from durable_chat.chat.recovery import Recovery
from durable_chat.chat.sessions import Session, Sessions, decode_chunks, encode_chunks
from durable_chat.chat.turns import queued_turn
from durable_chat.chat.writers import Writer
from durable_chat.errors import Conflict
from durable_chat.store.base import Log, Reader

ALIVE = "durable-chat.alive"
"""The CUSTOM chunk of a run that has nothing to say: for other processes, a renewal of its lease."""

LOOK_EVERY_S = 0.5
"""How soon a turn that waits for another process hears that its own goes down."""


class _Watch:
    """
    What is open in a log. Mutable state: the runs that have `started`, those that are `queued`, each in the order of
    the log; `last_ms`, the newest time seen.
    """

    def __init__(self, started: Iterable[str], queued: Iterable[str]) -> None:
        self.started = dict.fromkeys(started)
        self.queued = dict.fromkeys(queued)
        self.last_ms = 0

    def take(self, chunk: Chunk) -> None:
        kind, run_id, time_ms = chunk["type"], chunk.get("runId"), chunk.get("timestamp")
        if isinstance(time_ms, int | float):
            self.last_ms = max(self.last_ms, int(time_ms))
        if kind == "CUSTOM" and (turn := queued_turn(chunk)) is not None:
            self.queued[turn[0]] = None
        elif kind in ENDS and run_id is None:
            self.started.clear()
        elif kind in ENDS or kind == "RUN_STARTED":
            self.queued.pop(str(run_id), None)
            self.started.pop(str(run_id), None)
            if kind == "RUN_STARTED" and isinstance(run_id, str):
                self.started[run_id] = None

    def before(self, ours: Collection[str]) -> list[str]:
        """
        What comes before our runs: those of others that have started, or were queued before the first of ours. Each
        process has its own in order, so that of two processes that wait one is always the next.
        """
        started = [run_id for run_id in self.started if run_id not in ours]
        return [*started, *takewhile(lambda run_id: run_id not in ours, self.queued)]


class Others:
    """
    The runs of other processes that come before one of ours. Mutable state: `dead`, those that are to be ended first,
    and whether there `were_there` any that lived, both once `wait` is over.
    """

    def __init__(
        self, log: Log, session: Session, ours: Callable[[], Collection[str]], turns: str, lease_s: float
    ) -> None:
        self.dead: list[str] = []
        self.were_there = False
        self._log = log
        self._session = session
        self._ours = ours
        self._turns = turns
        self._lease_s = lease_s

    async def wait(self) -> AsyncGenerator[None]:
        """
        Until they have ended, are dead or are interrupted; says each LOOK_EVERY_S that there still are some. Raises
        Conflict where turns are refused.
        """
        async with self._session.lock:
            await self._session.catch_up()
            offset = self._session.position
            watch = _Watch(self._session.transcript.active_runs, self._session.queued)
        if self._session.elsewhere is None and not watch.before(self._ours()):
            return
        async with aclosing(await self._log.read(self._session.path, offset)) as reader:
            await _read_to_tail(reader, watch)
            now_s = asyncio.get_running_loop().time
            heard_s = now_s() - _age_s(watch.last_ms, self._lease_s)
            while others := watch.before(self._ours()):
                left_s = heard_s + self._lease_s - now_s()
                if left_s <= 0 or self._turns == "interrupt":
                    self.dead = others
                    return
                if self._turns == "refuse":
                    raise Conflict("The session is being answered.", code="run_active")
                self.were_there = True
                yield
                if await _read_to_tail(reader, watch, min(LOOK_EVERY_S, left_s)):
                    heard_s = now_s()


async def _read_to_tail(reader: Reader, watch: _Watch, wait_s: float = 0.0) -> bool:
    """Whether there was anything."""
    heard = False
    while True:
        batch = await reader.next(wait_s)
        for chunk in decode_chunks(batch.data) if batch.data else ():
            heard = True
            watch.take(chunk)
        if batch.up_to_date:
            return heard
        wait_s = 0.0


def _age_s(time_ms: int, most_s: float) -> float:
    """How long ago that was by our clock, which may be another one than the writer's; without a time just now."""
    return 0.0 if not time_ms else min(max(time.time() - time_ms / 1000, 0.0), most_s)


async def stop_elsewhere(
    sessions: Sessions, recovery: Recovery, session_id: str, run_id: str | None = None
) -> list[str]:
    """End the run that another process writes as stopped, the named one or any; that process is told with its next append."""
    with sessions.hold(session_id) as session:
        async with session.lock:
            if session.active is None:
                await session.catch_up()
            found = session.elsewhere
        if found is None or run_id not in (None, found):
            return []
        await recovery.end_elsewhere(session, [found], stopped=True)
        return [found]


@contextmanager
def staying_alive(writer: Writer, lease_s: float) -> Iterator[None]:
    """While a model is asked: a word in the log where it gives none for a while."""
    task = asyncio.create_task(_say_so(writer, lease_s), name="alive")
    try:
        yield
    finally:
        task.cancel()


async def _say_so(writer: Writer, lease_s: float) -> None:
    while writer.failure is None:
        before = writer.taken_bytes
        await asyncio.sleep(lease_s / RENEWALS_PER_LEASE)
        if writer.taken_bytes == before and writer.failure is None:
            alive = {"type": "CUSTOM", "name": ALIVE, "value": {}, "timestamp": time.time_ns() // 1_000_000}
            writer.add(encode_chunks([alive]))
