"""
Several processes on one remote store, which share nothing but the log. A turn waits for the runs of other processes. A
run that writes nothing for the length of a lease is considered dead.

If that was wrong, the log refuses the later writer: every append of a session names the append it must follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import aclosing, contextmanager
from itertools import takewhile
from typing import Any, Protocol

from durable_chat.errors import Conflict, Unavailable
from durable_chat.sessions.recovering.dead_runs import DeadRuns
from durable_chat.sessions.recovering.leases import RENEWALS_PER_LEASE
from durable_chat.sessions.running.waiting_chunks import queued_turn, taken_back
from durable_chat.sessions.session import Session
from durable_chat.sessions.sessions import Sessions
from durable_chat.sessions.writers import Writer
from durable_chat.store.base import Log, Reader
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.chunks import Chunk, timestamp_of
from durable_chat.transcripts.codec import decode_chunks, encode_chunks
from durable_chat.transcripts.runs.ends import ENDS, INTERRUPTED
from durable_chat.transcripts.runs.marks import ALIVE

LOOK_EVERY_S = 0.5
"""How soon a turn that waits for another process notices that its own process shuts down."""


class _Watch:
    """
    The open runs of a log. Mutable state: `started`, and `queued` with the ids of their messages, in log order;
    `errors`, the messages of the failed runs; `last_ms`, the newest timestamp.
    """

    def __init__(self, started: Iterable[str], queued: Iterable[str]) -> None:
        self.started = dict.fromkeys(started)
        self.queued: dict[str, object] = dict.fromkeys(queued)
        self.errors: dict[str, str] = {}
        self.last_ms = 0

    def take(self, chunk: Chunk) -> None:
        kind, run_id = chunk["type"], chunk.get("runId")
        self.last_ms = max(self.last_ms, timestamp_of(chunk) or 0)
        if kind == "CUSTOM" and (turn := queued_turn(chunk)) is not None:
            self.queued[turn[0]] = turn[1] and turn[1]["id"]
        elif kind == "CUSTOM" and (gone := taken_back(chunk)) is not None:
            self.queued.pop(gone, None)
        elif kind in ENDS and run_id is None:
            self.started.clear()
        elif kind in ENDS or kind == "RUN_STARTED":
            self.queued.pop(str(run_id), None)
            self.started.pop(str(run_id), None)
            if kind == "RUN_STARTED" and isinstance(run_id, str):
                self.started[run_id] = None
            elif kind == "RUN_ERROR":
                self.errors[str(run_id)] = str(chunk.get("message"))

    def before(self, ours: Collection[str]) -> list[str]:
        """
        Return the runs of others that come before ours: those that have started, or were queued before our first. Each
        process orders its own runs, so of two waiting processes one is always next.
        """
        started = [run_id for run_id in self.started if run_id not in ours]
        return [*started, *takewhile(lambda run_id: run_id not in ours, self.queued)]


class Others:
    """
    The runs of other processes that come before one of ours. Mutable state: `same`, the one that already answers our
    message; `heard`, whether it wrote anything meanwhile. Valid once `wait` is over: `dead`, the runs to end first;
    `were_there`, whether any were alive; `error`, the error of the `same` run.
    """

    def __init__(
        self,
        log: Log,
        session: Session,
        ours: Callable[[], Collection[str]],
        user_id: str | None,
        turns: str,
        lease_s: float,
    ) -> None:
        self.same: str | None = None
        self.heard = False
        self.dead: list[str] = []
        self.were_there = False
        self.error: str | None = None
        self._user_id = user_id
        self._log = log
        self._session = session
        self._ours = ours
        self._turns = turns
        self._lease_s = lease_s

    async def wait(self) -> AsyncGenerator[None]:
        """
        Wait until the other runs have ended, are dead or are to be interrupted. Yields every LOOK_EVERY_S while there
        are some. Raises Conflict when the settings refuse turns.
        """
        async with self._session.lock:
            await self._session.catch_up()
            offset = self._session.position
            watch = _Watch(self._session.transcript.active_runs, self._session.queued)
            if self._user_id is not None and self._session.transcript.last_id == self._user_id:
                self.same = self._session.elsewhere
        if self._session.elsewhere is None and not watch.before(self._ours()):
            return
        async with aclosing(await self._log.read(self._session.path, offset)) as reader:
            await _read_to_tail(reader, watch)
            self.same = self.same or self._same_queued(watch)
            now_s = asyncio.get_running_loop().time
            heard_s = now_s() - _age_s(watch.last_ms, self._lease_s)
            while others := self._left(watch):
                left_s = heard_s + self._lease_s - now_s()
                if left_s <= 0 or self.interrupts:
                    self.dead = others
                    return
                if self._turns == "refuse" and self.same is None:
                    raise Conflict(
                        "The session already has a running answer. Wait for its end or stop it.", code="run_active"
                    )
                self.were_there = True
                yield
                if await _read_to_tail(reader, watch, min(LOOK_EVERY_S, left_s)):
                    heard_s = now_s()
                    self.heard = True
            if self.same is not None:
                self.error = watch.errors.get(self.same)

    @property
    def interrupts(self) -> bool:
        return self._turns == "interrupt" and self.same is None

    def _left(self, watch: _Watch) -> list[str]:
        if self.same is None:
            return watch.before(self._ours())
        return [self.same] if self.same in watch.started or self.same in watch.queued else []

    def _same_queued(self, watch: _Watch) -> str | None:
        found = (run_id for run_id, message_id in watch.queued.items() if message_id == self._user_id)
        return next((run_id for run_id in found if run_id not in self._ours()), None) if self._user_id else None


class Comer(Protocol):
    """A run of this process that is next."""

    id: str
    error: str | None
    joined: bool
    accepted: asyncio.Future[None]
    verdict: asyncio.Future[Any]

    def join(self, run_id: str, offset: str) -> None:
        """Mark it as accepted, and carried out by another process under that id."""
        ...


async def give_way(
    others: Others, run: Comer, session: Session, dead_runs: DeadRuns, acknowledge: Callable[[], Awaitable[None]]
) -> None:
    """
    Wait until no runs of other processes come before this one. If one of them is the same request, join it and wait for
    its end. Raises Unavailable when the server shuts down meanwhile, and what `Others.wait` raises.
    """
    async with aclosing(others.wait()) as waiting:
        async for _ in waiting:
            verdict = run.verdict.result() if run.verdict.done() else None
            if verdict == "interrupted":
                raise Unavailable(INTERRUPTED, code="interrupted")
            if run.joined and verdict == "stopped":
                await dead_runs.end_elsewhere(session, [run.id], stopped=True)
            elif others.same is None and not run.accepted.done():
                await acknowledge()
            elif others.same is not None and others.heard:
                run.join(others.same, session.offset)
    if others.dead:
        await dead_runs.end_elsewhere(session, others.dead, stopped=others.interrupts)
    if others.same is not None and (run.joined or not others.dead):
        run.join(others.same, session.offset)
        run.error = INTERRUPTED if others.dead else others.error


async def _read_to_tail(reader: Reader, watch: _Watch, wait_s: float = 0.0) -> bool:
    """Read up to the tail. Return whether there were any chunks."""
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
    """
    Return how long ago that was by our clock, at most `most_s`. The writer's clock may differ. Returns 0 without a
    timestamp.
    """
    return 0.0 if not time_ms else min(max(time.time() - time_ms / 1000, 0.0), most_s)


async def stop_elsewhere(
    sessions: Sessions, dead_runs: DeadRuns, session_id: str, run_id: str | None = None
) -> list[str]:
    """Stop a run that another process writes: the named one, or any. The log refuses that process's next append."""
    with sessions.hold(session_id) as session:
        async with session.lock:
            if session.active is None:
                await session.catch_up()
            found = session.elsewhere
        if found is None or run_id not in (None, found):
            return []
        await dead_runs.end_elsewhere(session, [found], stopped=True)
        return [found]


@contextmanager
def staying_alive(writer: Writer, lease_s: float) -> Iterator[None]:
    """Write a chunk to the log at intervals while the model sends nothing."""
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
            alive = {"type": "CUSTOM", "name": ALIVE, "value": {}, "timestamp": unix_ms()}
            writer.add(encode_chunks([alive]))
