"""
When the runs of a dead process are ended: at the start of this one, and at regular checks. See `dead_runs` for how.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from durable_chat.errors import DurableChatError
from durable_chat.sessions.recovering.dead_runs import DeadRuns, OpenRun, TakenUp, WaitingRun
from durable_chat.sessions.recovering.leases import KIND, Leases, read_claim
from durable_chat.sessions.session import Session
from durable_chat.sessions.sessions import Sessions
from durable_chat.store.base import Record, Store
from durable_chat.store.clocks import unix_ms

SESSIONS_AT_ONCE = 64
"""Sessions recovered concurrently. Their appends share flushes, and the memory for what is read stays bounded."""

LATE_MAX = 10_000
"""
Sessions of a remote store whose last run has no end yet, kept for a retry. Further ones are recovered at their next
turn.
"""

DECIDED_WAIT_S = 5.0
"""How long a read waits for the runs of its session. Recovery takes milliseconds, unless the store is in trouble."""

log = logging.getLogger(__name__)


class GoOn(Protocol):
    """Goes on with the dead runs of a session, each in a task of its own."""

    async def __call__(
        self,
        session: Session,
        ticket: asyncio.Future[None],
        begun: OpenRun | None,
        record: Record | None,
        waiting: Sequence[WaitingRun],
    ) -> TakenUp:
        """See `TakeUp`. A run that has begun keeps the ticket until its end; the others take their own."""
        ...


class Recovery:
    """
    Decides when dead runs end: at the start all that the last process left, and later those found at a check. With
    `go_on`, those found at the start go on where they can.

    Mutable state: `ready`, unset until the runs found at the start have ended or go on; `_undecided`, the sessions
    whose runs have not yet, with events for those who wait; `left`, the sessions of these runs by the runs' ids;
    `_late`, for each session of a remote store the run of ours that has no end; `_tasks`, which do the work.
    """

    def __init__(self, store: Store, sessions: Sessions, leases: Leases) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self.dead_runs = DeadRuns(store.log, store.records, leases)
        self.left: Mapping[str, str] = {}
        self.go_on: GoOn | None = None
        self._undecided: dict[str, asyncio.Event] = {}
        self._records = store.records
        self._sessions = sessions
        self._leases = leases
        self._late: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def done(self) -> bool:
        return self.ready.is_set()

    async def start(self) -> None:
        """
        Look for the runs that the last process left, and begin to end them. No other process can own a run, because the
        store belongs to this one, and this one has no run yet.
        """
        dead = await self._records.records(KIND) if self._records is not None else ()
        if dead:
            self.left = {claim.run_id: claim.session_id for claim in map(read_claim, dead)}
            planned = [claim.session_id for claim in map(read_claim, dead) if claim.plan] if self.go_on else []
            self._undecided = {session_id: asyncio.Event() for session_id in planned}
            self.ready.clear()
            self._tasks.append(asyncio.create_task(self._recover_first(dead), name="recovery"))
        self._tasks.append(asyncio.create_task(self._watch(), name="late recovery"))

    async def close(self) -> None:
        """Stop the work. The next start ends the remaining runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for event in self._undecided.values():
            event.set()

    async def _recover_first(self, dead: Sequence[Record]) -> None:
        started_s = time.monotonic()
        going_on = await self.recover(dead, self.go_on)
        self.ready.set()
        took_s = time.monotonic() - started_s
        if going_on:
            log.warning("went on with %d interrupted runs in %.2f s", going_on, took_s)
        if len(dead) > going_on:
            log.warning("ended %d interrupted runs in %.2f s", len(dead) - going_on, took_s)

    async def decided(self, session_id: str) -> None:
        """
        Wait until the runs that the last process left in a session have ended or go on, at most DECIDED_WAIT_S. What a
        reader is given before that would be wrong if one goes on.
        """
        if (event := self._undecided.get(session_id)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), DECIDED_WAIT_S)

    async def _watch(self) -> None:
        """End runs of this process whose end could not be written, once it can be and their lease has expired."""
        while True:
            await asyncio.sleep(self._leases.lease_ms / 1000)
            await self.ready.wait()
            try:
                await self._end_overdue()
                await self._end_noted()
            except DurableChatError as error:
                log.warning("the check for dead runs failed: %s", error.code)
            except Exception:
                log.exception("the check for dead runs failed because of an internal error")

    async def _end_overdue(self) -> None:
        if self._records is not None:
            overdue = await self._records.records(KIND, due_before_ms=unix_ms())
            await self.recover([record for record in overdue if not self._leases.holds(record.key)])

    async def _end_noted(self) -> None:
        """End the noted runs. Raises the first error, because all of them are on the same server."""
        for session_id, run_id in list(self._late.items()):
            with self._sessions.hold(session_id) as session:
                if len(session.line):  # a new turn ends the dead runs before it begins
                    continue
                ticket = session.line.join()
                try:
                    await ticket
                    await self._end_own(session, run_id)
                finally:
                    session.line.leave(ticket)
            del self._late[session_id]

    async def _end_own(self, session: Session, run_id: str) -> None:
        """
        End a run of this process on a log without records, unless it has an end. Runs of other processes are left to
        them.
        """
        async with session.lock:
            await session.catch_up()
        if run_id == session.elsewhere or run_id in session.queued:
            await self.dead_runs.end_elsewhere(session, [run_id])

    def note(self, session_id: str, run_id: str) -> None:
        """Remember a run without an end, so that it is retried. On a store with records this does nothing."""
        if self._records is None and len(self._late) < LATE_MAX:
            self._late[session_id] = run_id

    async def end_failed(
        self, session: Session, run_id: str, key: str, failure: DurableChatError, cause: object
    ) -> bool:
        """
        `DeadRuns.end_failed`, but when the log or the store cannot be written, note the run for a retry and return
        False.
        """
        try:
            return await self.dead_runs.end_failed(session, run_id, key, failure, cause)
        except DurableChatError as error:
            log.warning("run %s has no end in the log yet, and is retried later: %s", run_id, error.code)
            self.note(session.id, run_id)
            return False

    async def recover(self, dead: Iterable[Record], go_on: GoOn | None = None) -> int:
        """
        End the runs of these records, or go on with them. A failure in one session does not affect the others. Return
        how many go on.
        """
        by_session: dict[str, list[Record]] = {}
        for record in dead:
            by_session.setdefault(read_claim(record).session_id, []).append(record)
        places = asyncio.Semaphore(SESSIONS_AT_ONCE)
        found = await asyncio.gather(*(self._recover(places, go_on, *found) for found in by_session.items()))
        return sum(found)

    async def _recover(
        self, places: asyncio.Semaphore, go_on: GoOn | None, session_id: str, records: Sequence[Record]
    ) -> int:
        async with places:
            with self._sessions.hold(session_id) as session:
                try:
                    return await self._settle(session, go_on, records)
                finally:
                    if (event := self._undecided.pop(session_id, None)) is not None:
                        event.set()

    async def _settle(self, session: Session, go_on: GoOn | None, records: Sequence[Record]) -> int:
        """Return how many of the runs go on."""
        if len(session.line):  # a turn ends the dead runs before it begins; a deletion removes them
            return 0
        ticket = session.line.join()
        taken = TakenUp()
        try:
            await ticket
            take_up = None if go_on is None else partial(go_on, session, ticket)
            taken = await self.dead_runs.end(session, records, take_up=take_up)
        except DurableChatError as error:
            log.warning("the interrupted runs of a session were not ended: %s", error.code)
        except Exception:
            log.exception("the interrupted runs of a session were not ended")
        finally:
            if not taken.keeps_turn:
                session.line.leave(ticket)
        return taken.count
