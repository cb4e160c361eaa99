"""
How runs whose process died go on or are ended. A run that cannot go on gets the end that it could not write itself,
exactly once, and keeps its text so far.

What a dead run left open is read from the log, from the offset in its record. One append writes its end and removes its
record. A crash before that append changes nothing, and the next start repeats the work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

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
from durable_chat.protocol.offsets import BEGINNING, decode_offset, encode_offset
from durable_chat.protocol.requests import Append
from durable_chat.sessions.recovering.leases import KIND, Leases, read_claim
from durable_chat.sessions.running.posted import new_message_id
from durable_chat.sessions.running.turns import Stage, show_messages
from durable_chat.sessions.running.waiting_chunks import TURN_ADVANCED, advanced, queued_turn, steers, taken_back
from durable_chat.sessions.session import FOLD_SLICE_CHUNKS, Session
from durable_chat.sessions.writers import OVERTAKEN, session_error
from durable_chat.store.base import Batch, Log, Record, Records, RecordWrite
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import Chunk, InvalidChunk
from durable_chat.transcripts.codec import decode_aside, encode_chunks
from durable_chat.transcripts.context_summaries import summary_in
from durable_chat.transcripts.runs.ends import INTERRUPTED, INTERRUPTED_CODE
from durable_chat.transcripts.runs.marks import ALIVE, RUN_RESUMED, run_resumed

OPEN_RUNS_FED_MAX = 16
"""
The number of open runs that receive a chunk, since chunks do not name their run. A session has one open run, plus one
for each crash since. In a log with more, some dead runs may leave parts without an end.
"""

NOT_SAID = (RUN_RESUMED, ALIVE, TURN_ADVANCED)
"""CUSTOM chunks that the server writes into a run. The model has not said them."""

_OVER = (RecordConflict, SequenceGap, StaleEpoch, StreamClosed, NotFound, Gone)
"""After these errors this process may no longer write the session, or there is nothing to write to."""

_AWAY = (UpstreamDown, UpstreamAuth)
"""After these errors the server is unavailable; the writer has already retried for long."""

log = logging.getLogger(__name__)


class OpenRun:
    """
    A run that has started and has no end. `started` is its RUN_STARTED, and `begun` the offset before that, on a log
    with records. Mutable state: `chunks`, with its open parts; `said`, its chunks since then, or since it was answered
    anew; `summaries`, those of earlier messages that it has written before; `resumes`, how often it was taken up, and
    `marks`, how many chunks say so.
    """

    def __init__(self, session_id: str, started: Chunk, begun: str) -> None:
        self.id = str(started["runId"])
        self.started = started
        self.begun = begun
        self.said: list[Chunk] = []
        self.summaries: list[Chunk] = []
        self.resumes = self.marks = 0
        self._session_id = session_id
        self._begin()

    def _begin(self) -> None:
        self.chunks = run_chunks(self.id, self._session_id)
        self.chunks.start()

    def take(self, chunk: Chunk) -> None:
        if chunk["type"] == "MESSAGES_SNAPSHOT" or (chunk["type"] == "CUSTOM" and chunk.get("name") in NOT_SAID):
            return
        self.said.append(chunk)
        with suppress(InvalidChunk):  # appended by another client
            self.chunks.accept(chunk)

    def note_resumed(self, attempt: int, kept: int | None) -> None:
        """
        Note that the run was taken up. With `kept`, all its chunks but the first `kept` were then dropped. Summaries of
        earlier messages stay in force.
        """
        self.resumes = max(self.resumes, attempt)
        self.marks += 1
        if kept is not None:
            self.summaries += [chunk for chunk in self.said[kept:] if summary_in(chunk) is not None]
            said, self.said = self.said[:kept], []
            self._begin()
            for chunk in said:
                self.take(chunk)


@dataclass(frozen=True, slots=True)
class QueuedTurn:
    """A turn that waits, as the log tells it: its message (None: there is none), and whether it steers."""

    message: Chunk | None
    steers: bool = False


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run of a dead process that waited for its turn. Its record is claimed."""

    id: str
    turn: QueuedTurn
    record: Record


class LoggedRuns:
    """
    The runs without an end in a part of a session's log. Mutable state: `open`, the started runs with their open parts,
    in log order; `queued`, the waiting runs in the order of their turns; `ended`; `tail`, where the log ended.
    """

    def __init__(self, session_id: str) -> None:
        self.open: dict[str, OpenRun] = {}
        self.queued: dict[str, QueuedTurn] = {}
        self.ended: set[str] = set()
        self.tail = ""
        self._session_id = session_id

    def take(self, chunk: Chunk, offset: str = "") -> None:
        """Process the next chunk of the log, which is at `offset`."""
        kind, run_id = chunk["type"], chunk.get("runId")
        if kind in ("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"):
            if isinstance(run_id, str):
                self._take_run(chunk, run_id, offset)
        elif kind == "CUSTOM" and (turn := queued_turn(chunk)) is not None:
            self.queued[turn[0]] = QueuedTurn(turn[1], steers(chunk))
        elif kind == "CUSTOM" and (gone := taken_back(chunk)) is not None:
            self._take_run(chunk, gone, "")
        elif kind == "CUSTOM" and (next_id := advanced(chunk)) is not None and next_id in self.queued:
            now = self.queued.pop(next_id)
            self.queued = {next_id: replace(now, steers=now.steers or steers(chunk)), **self.queued}
        elif (resumed := run_resumed(chunk)) is not None:
            if (taken_up := self.open.get(resumed[0])) is not None:
                taken_up.note_resumed(*resumed[1:])
        else:
            for run in islice(reversed(self.open.values()), OPEN_RUNS_FED_MAX):
                run.take(chunk)

    def _take_run(self, chunk: Chunk, run_id: str, offset: str) -> None:
        if chunk["type"] != "RUN_STARTED":
            self.queued.pop(run_id, None)
            self.open.pop(run_id, None)
            self.ended.add(run_id)
        elif run_id not in self.ended:
            self.queued.pop(run_id, None)
            self.open[run_id] = OpenRun(self._session_id, chunk, offset)

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
        started = self.open.get(run_id)
        run = run_chunks(run_id, self._session_id) if started is None else started.chunks
        if stopped:
            return run.restate() + run.stop()
        if failure is not None:
            return run.restate() + run.fail(failure.message, failure.code)
        return run.restate() + run.fail(INTERRUPTED, INTERRUPTED_CODE)


@dataclass(frozen=True, slots=True)
class TakenUp:
    """
    The runs of a session that another process goes on with. `keeps_turn`: one of them has begun, and keeps the
    session's turn. `count` is the number of those that are answered; the others end at their turn.
    """

    run_ids: frozenset[str] = frozenset()
    keeps_turn: bool = False
    count: int = 0


class TakeUp(Protocol):
    """Goes on with the dead runs of a session."""

    async def __call__(self, begun: OpenRun | None, record: Record | None, waiting: Sequence[WaitingRun]) -> TakenUp:
        """
        Go on with the run that has begun, and ask those that waited again, where that is possible. The records are
        claimed. The log is not written before this returns.
        """
        ...


class DeadRuns:
    """
    Ends runs in the log of their session. The caller has the session's turn, so nothing else in this process writes
    there; records and the log itself fence off other processes.
    """

    def __init__(self, log: Log, records: Records | None, leases: Leases) -> None:
        self._log = log
        self._records = records
        self._leases = leases

    async def end(
        self,
        session: Session,
        records: Sequence[Record],
        run_ids: Collection[str] = (),
        take_up: TakeUp | None = None,
    ) -> TakenUp:
        """
        End the runs of these records, and `run_ids`. For those without a record, read the whole log. With `take_up`,
        the last one that started may go on instead, and those that waited wait again. Return them.
        """
        taken = TakenUp()
        claimed = await self._claim(records)
        try:
            begun = {run_id: read_claim(record).offset for run_id, record in claimed.items()}
            offset = min(begun.values()) if begun.keys() >= set(run_ids) else BEGINNING
            logged = await self._read(session, offset)
            dead = logged.dead([*run_ids, *(run_id for run_id in claimed if run_id not in run_ids)])
            begun_ids = [run_id for run_id in dead if run_id in logged.open]
            for run_id in begun_ids[:-1]:
                await self._end_run(session, logged, run_id, claimed.pop(run_id, None))
            if take_up is not None:
                last = logged.open[begun_ids[-1]] if begun_ids else None
                record = None if last is None else claimed.get(last.id)
                taken = await take_up(last, record, _waiting(logged, claimed, dead))
                for run_id in taken.run_ids:
                    claimed.pop(run_id, None)
                if taken.keeps_turn:
                    return taken
            for run_id in dead[max(len(begun_ids) - 1, 0) :]:
                if run_id not in taken.run_ids:
                    await self._end_run(session, logged, run_id, claimed.pop(run_id, None))
        except (NotFound, Gone, InvalidRequest):  # no stream, or the offset is invalid in it
            pass
        except StreamClosed:
            log.warning("the stream of session %r was closed before its run had an end", session.id)
        await self._forget(claimed.values())
        return taken

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
        await self.end(session, records, dead)

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

    async def end_failed(
        self, session: Session, run_id: str, key: str, failure: DurableChatError, cause: object
    ) -> bool:
        """
        End a run of this process that the log has refused, with the failure as its error. Return whether it has an end
        now. The log decides what was written, not what was handed over. The caller has the session's turn. Raises a
        DurableChatError when the end cannot be written now.
        """
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
        return True

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
                chunks = await decode_aside(batch.data)
                for at, chunk in enumerate(chunks):
                    if chunk is not None:
                        has_offset = chunk["type"] == "RUN_STARTED" and self._records is not None
                        logged.take(chunk, offset_before(batch, len(chunks) - at) if has_offset else "")
                    if (at + 1) % FOLD_SLICE_CHUNKS == 0:
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
        message = logged.queued[run_id].message if run_id in logged.queued else None
        shown: list[Chunk] = []
        if message is not None:
            async with session.lock:
                await session.catch_up()
                if message["id"] not in session.transcript:
                    shown = show_messages(session.transcript, [message], Stage(unix_ms(), waited=True))
        if record is not None and run_id in logged.open:
            logged.open[run_id].chunks.carry_usage(read_claim(record).usage)
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


def _waiting(logged: LoggedRuns, claimed: Mapping[str, Record], dead: Iterable[str]) -> list[WaitingRun]:
    """Return those of the dead runs that waited, in the order of their turns."""
    return [
        WaitingRun(run_id, logged.queued[run_id], claimed[run_id])
        for run_id in dead
        if run_id in logged.queued and run_id in claimed
    ]


def offset_before(batch: Batch, count: int) -> str:
    """Return the offset before the last `count` messages of a batch, on a log that has one at every message."""
    life, position = decode_offset(batch.next_offset)
    return encode_offset(life, position - count)


def _removal(record: Record) -> RecordWrite:
    return RecordWrite(KIND, record.key, None, record.version)


def run_chunks(run_id: str, session_id: str) -> RunChunks:
    return RunChunks(run_id, session_id, new_message_id, unix_ms)
