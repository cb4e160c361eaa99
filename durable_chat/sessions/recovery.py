"""
Recovery of runs whose process died. Each run gets the end that it could not write itself, exactly once, and keeps its
text so far.

What a dead run left open is read from the log, from the offset in its record. One append writes its end and removes its
record. A crash before that append changes nothing, and the next start repeats the work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

import durable_chat.metrics as metrics
from durable_chat.errors import (
    DurableChatError,
    Gone,
    InvalidRequest,
    NotFound,
    RecordConflict,
    SequenceGap,
    StaleEpoch,
    StreamClosed,
    UpstreamAuth,
    UpstreamDown,
)
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.requests import Append
from durable_chat.sessions.leases import KIND, Leases, read_claim
from durable_chat.sessions.posted import new_message_id
from durable_chat.sessions.sessions import (
    FOLD_SLICE_CHUNKS,
    LARGE_BYTES,
    Session,
    Sessions,
    decode_chunks,
    encode_chunks,
)
from durable_chat.sessions.turns import Stage, queued_turn, show_messages
from durable_chat.sessions.writers import OVERTAKEN, session_error
from durable_chat.store.base import Log, Record, RecordWrite, Store
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk
from durable_chat.transcripts.run_ends import INTERRUPTED, INTERRUPTED_CODE

SESSIONS_AT_ONCE = 64
"""Sessions recovered concurrently. Their appends share flushes, and the memory for what is read stays bounded."""

OPEN_RUNS_FED_MAX = 16
"""
The number of open runs that receive a chunk, since chunks do not name their run. A session has one open run, plus one
for each crash since. In a log with more, some dead runs may leave parts without an end.
"""

LATE_MAX = 10_000
"""
Sessions of a remote store whose last run has no end yet, kept for a retry. Further ones are recovered at their next
turn.
"""

_OVER = (RecordConflict, SequenceGap, StaleEpoch, StreamClosed, NotFound, Gone)
"""After these errors this process may no longer write the session, or there is nothing to write to."""

_AWAY = (UpstreamDown, UpstreamAuth)
"""After these errors the server is unavailable; the writer has already retried for long."""

log = logging.getLogger(__name__)


class LoggedRuns:
    """
    The runs without an end in a part of a session's log. Mutable state: `open`, the started runs with their open parts,
    in log order; `queued`, the messages of the waiting runs, in log order; `ended`; `tail`, where the log ended.
    """

    def __init__(self, session_id: str) -> None:
        self.open: dict[str, RunChunks] = {}
        self.queued: dict[str, Chunk | None] = {}
        self.ended: set[str] = set()
        self.tail = ""
        self._session_id = session_id

    def take(self, chunk: Chunk) -> None:
        """Process the next chunk of the log."""
        kind, run_id = chunk["type"], chunk.get("runId")
        if kind in ("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"):
            if isinstance(run_id, str):
                self._take_run(kind, run_id)
        elif kind == "CUSTOM" and (turn := queued_turn(chunk)) is not None:
            self.queued[turn[0]] = turn[1]
        else:
            for run in islice(reversed(self.open.values()), OPEN_RUNS_FED_MAX):
                with suppress(InvalidChunk):  # appended by another client
                    run.accept(chunk)

    def _take_run(self, kind: str, run_id: str) -> None:
        if kind != "RUN_STARTED":
            self.queued.pop(run_id, None)
            self.open.pop(run_id, None)
            self.ended.add(run_id)
        elif run_id not in self.ended:
            self.queued.pop(run_id, None)
            self.open[run_id] = run_chunks(run_id, self._session_id)
            self.open[run_id].start()

    def dead(self, run_ids: Collection[str]) -> list[str]:
        """Return those of these runs that have no end, in the order in which to end them: started runs first."""
        wanted = dict.fromkeys(run_ids)
        known = dict.fromkeys(run_id for run_id in (*self.open, *self.queued) if run_id in wanted)
        return [*known, *(run_id for run_id in wanted if run_id not in known and run_id not in self.ended)]

    def end(self, run_id: str, failure: DurableChatError | None = None, *, stopped: bool = False) -> list[Chunk]:
        """
        Return the chunks that end the run, preceded by what is missing of its beginning. Its readers lost their
        connection with the server, and have no open parts when they return.
        """
        run = self.open.get(run_id) or run_chunks(run_id, self._session_id)
        if stopped:
            return run.restate() + run.stop()
        if failure is not None:
            return run.restate() + run.fail(failure.message, failure.code)
        return run.restate() + run.fail(INTERRUPTED, INTERRUPTED_CODE)


class Recovery:
    """
    Ends dead runs: at the start all that the last process left, and later those found at a turn or a check.

    Mutable state: `ready`, unset until the runs found at the start have ended; `_late`, for each session of a remote
    store the run of ours that has no end; `_tasks`, which do the work.
    """

    def __init__(self, store: Store, sessions: Sessions, leases: Leases) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self._log: Log = store.log
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
            self.ready.clear()
            self._tasks.append(asyncio.create_task(self._recover_first(dead), name="recovery"))
        self._tasks.append(asyncio.create_task(self._watch(), name="late recovery"))

    async def close(self) -> None:
        """Stop the work. The next start ends the remaining runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _recover_first(self, dead: Sequence[Record]) -> None:
        started_s = time.monotonic()
        await self.recover(dead)
        self.ready.set()
        log.warning("ended %d interrupted runs in %.2f s", len(dead), time.monotonic() - started_s)

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
            await self.end_elsewhere(session, [run_id])

    def note(self, session_id: str, run_id: str) -> None:
        """Remember a run without an end, so that it is retried. On a store with records this does nothing."""
        if self._records is None and len(self._late) < LATE_MAX:
            self._late[session_id] = run_id

    async def end_failed(
        self, session: Session, run_id: str, key: str, failure: DurableChatError, cause: object
    ) -> bool:
        """
        End a run of this process that the log has refused, with the failure as its error. Return whether it has an end
        now. The log decides what was written, not what was handed over. The caller has the session's turn.
        """
        try:
            if isinstance(cause, _AWAY):
                raise failure
            record = None if self._records is None else await self._records.record(KIND, key)
            if isinstance(cause, _OVER) or getattr(cause, "code", None) == OVERTAKEN:
                if record is not None and not isinstance(cause, RecordConflict):
                    await self._forget([record])
                return False
            claimed = await self._claim([] if record is None else [record])
            logged = await self._read(session, session.position)
            if run_id in logged.ended:  # the append succeeded, but its response was lost
                await self._forget(claimed.values())
            else:
                await self._end_run(session, logged, run_id, claimed.get(run_id), failure)
        except DurableChatError as error:
            log.warning("run %s has no end in the log yet, and is retried later: %s", run_id, error.code)
            self.note(session.id, run_id)
            return False
        return True

    async def recover(self, dead: Iterable[Record]) -> None:
        """End the runs of these records. A failure in one session does not affect the others."""
        by_session: dict[str, list[Record]] = {}
        for record in dead:
            by_session.setdefault(read_claim(record).session_id, []).append(record)
        places = asyncio.Semaphore(SESSIONS_AT_ONCE)
        await asyncio.gather(*(self._recover(places, *found) for found in by_session.items()))

    async def _recover(self, places: asyncio.Semaphore, session_id: str, records: Sequence[Record]) -> None:
        async with places:
            with self._sessions.hold(session_id) as session:
                if len(session.line):  # a turn ends the dead runs before it begins; a deletion removes them
                    return
                ticket = session.line.join()
                try:
                    await ticket
                    await self._end(session, records, ())
                except DurableChatError as error:
                    log.warning("the interrupted runs of a session were not ended: %s", error.code)
                except Exception:
                    log.exception("the interrupted runs of a session were not ended")
                finally:
                    session.line.leave(ticket)

    async def end_late(self, session: Session, live: Collection[str]) -> None:
        """
        End the runs that have no end in the log and are not `live`, at the beginning of a turn. The caller has the
        session's turn, so nothing else writes.
        """
        async with session.lock:
            await session.catch_up()
        open_runs = (*session.transcript.active_runs, *session.queued)
        dead = [run_id for run_id in open_runs if run_id not in live]
        if not dead:
            return
        records: list[Record] = []
        if self._records is not None:
            found = await self._records.records(KIND, prefix=self._leases.prefix(session.id))
            records = [record for record in found if not self._leases.holds(record.key)]
        await self._end(session, records, dead)

    async def end_elsewhere(self, session: Session, run_ids: Sequence[str], *, stopped: bool = False) -> None:
        """
        End runs of other processes, on a log without records. Raises Unavailable `fenced` when one of them still
        writes.
        """
        folded = {*session.transcript.active_runs, *session.queued}
        offset = BEGINNING if folded.intersection(run_ids) else session.position
        logged = await self._read(session, offset)
        try:
            for run_id in logged.dead(run_ids):
                await self._end_run(session, logged, run_id, None, stopped=stopped)
        except DurableChatError as error:
            raise session_error(error) from error

    async def _end(self, session: Session, records: Sequence[Record], run_ids: Collection[str]) -> None:
        """End the runs of these records, and `run_ids`. For those without a record, read the whole log."""
        claimed = await self._claim(records)
        try:
            begun = {run_id: read_claim(record).offset for run_id, record in claimed.items()}
            offset = min(begun.values()) if begun.keys() >= set(run_ids) else BEGINNING
            logged = await self._read(session, offset)
            for run_id in logged.dead([*run_ids, *(run_id for run_id in claimed if run_id not in run_ids)]):
                await self._end_run(session, logged, run_id, claimed.pop(run_id, None))
        except (NotFound, Gone, InvalidRequest):  # no stream, or the offset is invalid in it
            pass
        except StreamClosed:
            log.warning("the stream of session %r was closed before its run had an end", session.id)
        await self._forget(claimed.values())

    async def _claim(self, records: Sequence[Record]) -> dict[str, Record]:
        """
        Take over the runs, so that no other process writes them. Raises RecordConflict when another process took one
        first.
        """
        claimed, writes = dict[str, Record](), list[RecordWrite]()
        for record in records:
            claim = read_claim(record)
            value = msgspec.json.encode(msgspec.structs.replace(claim, epoch=claim.epoch + 1))
            due_ms = unix_ms() + self._leases.lease_ms
            claimed[claim.run_id] = Record(KIND, record.key, record.version + 1, value, due_ms)
            writes.append(RecordWrite(KIND, record.key, value, record.version, due_ms))
        if writes:
            assert self._records is not None
            await self._records.write_records(writes)
        return claimed

    async def _read(self, session: Session, offset: str) -> LoggedRuns:
        logged = LoggedRuns(session.id)
        reader = await self._log.read(session.path, offset)
        try:
            while True:
                batch = await reader.next()
                chunks = await _decode(batch.data)
                for at, chunk in enumerate(chunks, 1):
                    logged.take(chunk)
                    if at % FOLD_SLICE_CHUNKS == 0:
                        await asyncio.sleep(0)
                if batch.up_to_date:
                    logged.tail = batch.next_offset
                    return logged
        finally:
            await reader.aclose()

    async def _end_run(
        self,
        session: Session,
        logged: LoggedRuns,
        run_id: str,
        record: Record | None,
        failure: DurableChatError | None = None,
        *,
        stopped: bool = False,
    ) -> None:
        message = logged.queued.get(run_id)
        shown: list[Chunk] = []
        if message is not None:
            async with session.lock:
                await session.catch_up()
                if message["id"] not in session.transcript:
                    shown = show_messages(session.transcript, [message], Stage(unix_ms(), waited=True))
        payload = join_messages(encode_chunks([*shown, *logged.end(run_id, failure, stopped=stopped)]))
        request = Append(payload, JSON, seq=logged.tail if self._records is None else None)
        appended = await self._log.append(session.path, request, [] if record is None else [_removal(record)])
        logged.tail = appended.next_offset
        if failure is None and not stopped:
            metrics.recoveries.add()

    async def _forget(self, records: Iterable[Record]) -> None:
        """Delete the records of runs that need no end, or cannot get one."""
        removals = [_removal(record) for record in records]
        if removals:
            assert self._records is not None
            with suppress(RecordConflict):
                await self._records.write_records(removals)


async def _decode(data: bytes) -> list[Chunk]:
    if len(data) > LARGE_BYTES:
        return await asyncio.to_thread(decode_chunks, data)
    return decode_chunks(data) if data else []


def _removal(record: Record) -> RecordWrite:
    return RecordWrite(KIND, record.key, None, record.version)


def run_chunks(run_id: str, session_id: str) -> RunChunks:
    return RunChunks(run_id, session_id, new_message_id, unix_ms)
