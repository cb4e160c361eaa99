"""
Runs in flight. They belong to the application: whoever asked may leave, and the answer is written to its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from durable_chat.chat.chunks import Chunk, InvalidChunk
from durable_chat.chat.leases import Lease, Leases
from durable_chat.chat.providers.base import Model, ToolSpec, Turn
from durable_chat.chat.pumps import CANCEL_WAIT_S, Pump
from durable_chat.chat.recovery import INTERRUPTED, Recovery
from durable_chat.chat.requests import Requests, Seen
from durable_chat.chat.sequences import RunChunks
from durable_chat.chat.sessions import Session, Sessions, SessionSnapshot, encode_chunks
from durable_chat.chat.turns import Ask, Opening, Stage, queued_chunk
from durable_chat.chat.writers import Writer
from durable_chat.config import Settings
from durable_chat.errors import Conflict, DurableChatError, TooManyRequests, Unavailable
from durable_chat.store.base import Store

STOP_WAIT_S = 10.0
"""How long a stop waits until the end is in the log: a provider's connection closes in milliseconds, or not at all."""

END_WAIT_S = 5.0
"""How long interrupted runs are given to write their end when the time to drain is over."""

log = logging.getLogger(__name__)

Verdict = Literal["stopped", "interrupted", "lost"]
"""Why a run ends before its model does: somebody stopped it, the server goes down, or the log cannot be written."""


@dataclass(frozen=True, slots=True)
class Job:
    """A turn to be answered: in which session, by which model, under which key."""

    session_id: str
    model: Model
    data: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    key: str | None = None
    tools: tuple[ToolSpec, ...] = ()


class Run:
    """
    One answer. Mutable state: `ask`, until its turn comes; `offset`, where its chunks begin, once `accepted` is done; `failure`, when it could not
    be written; `error`, the message of its RUN_ERROR; `ending`, once its last chunk is on the way; `verdict`.
    """

    lease: Lease
    """Of a run that is carried out here."""

    def __init__(self, session_id: str, key: str | None = None, ask: Ask | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.ask = ask
        self.user_id = None if ask is None or ask.user is None else str(ask.user["id"])
        self.answers = frozenset[str]() if ask is None else ask.answers
        self.id = f"run-{uuid.uuid4()}"
        self.session_id = session_id
        self.key = key
        self.offset: str | None = None
        self.failure: DurableChatError | None = None
        self.error: str | None = None
        self.ending = False
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.verdict: asyncio.Future[Verdict] = loop.create_future()

    @classmethod
    def of_seen(cls, session_id: str, seen: Seen) -> Run:
        """A run that ended in another life of the process."""
        run = cls(session_id)
        run.id, run.error = seen.run_id, seen.error
        run.accept(seen.offset)
        run.ended.set_result(None)
        return run

    def accept(self, offset: str) -> None:
        if not self.accepted.done():
            self.offset = offset
            self.accepted.set_result(None)

    def end(self, failure: DurableChatError | None = None) -> None:
        self.failure = self.failure or failure
        for waited in (self.accepted, self.ended):
            if not waited.done():
                waited.set_result(None)

    def halt(self, verdict: Verdict) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)

    @property
    def halted(self) -> bool:
        return self.verdict.done()

    @property
    def closing(self) -> bool:
        """It was stopped, or its last chunk is on the way."""
        return self.halted or self.ending


class Runs:
    """
    Mutable state: `_runs`, those of each session that have not ended, in the order of their turns; `_tasks`, which
    carry them; `_strays`, cancelled models that do not end; whether it is `draining`, and takes no more.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        sessions: Sessions | None = None,
        *,
        cancel_wait_s: float = CANCEL_WAIT_S,
    ) -> None:
        self.draining = False
        self._cancel_wait_s = cancel_wait_s
        self.sessions = sessions or Sessions(store.log, ttl_s=settings.session_ttl_s, records=store.records)
        self._requests = Requests(store.records, self.sessions.path_of)
        self._leases = Leases(store.records, self.sessions.path_of, settings.lease_ms)
        self.recovery = Recovery(store, self.sessions, self._leases)
        self._settings = settings
        self._remote = store.records is None
        self._runs: dict[str, list[Run]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._strays: set[asyncio.Task[Any]] = set()

    @property
    def count(self) -> int:
        """The runs that have not ended, those that wait included."""
        return len(self._tasks)

    def of(self, session_id: str) -> list[Run]:
        """The session's runs that have not ended; the first is being written, the others wait."""
        return list(self._runs.get(session_id, ()))

    # From outside.

    async def start(self, job: Job, ask: Ask) -> Run:
        """
        The run that answers, once its beginning is durable; an earlier one when the request is a repetition. Raises
        InvalidRequest, Conflict, TooManyRequests, Unavailable; nothing has been written then.
        """
        run = await self._repeated(job, ask) or self._begin(job, ask)
        del ask  # it may hold a long history, and the wait below may be long
        await asyncio.shield(run.accepted)
        if run.offset is None:
            raise run.failure or Unavailable("The turn could not be taken.", code="not_taken")
        return run

    async def wait(self, run: Run, timeout_s: float) -> bool:
        """Whether the run ended in time. Leaving the wait ends nothing. Raises what kept the run from being written."""
        await asyncio.wait([run.ended], timeout=timeout_s)
        if run.ended.done() and run.failure is not None:
            raise run.failure
        return run.ended.done()

    async def stop(self, session_id: str, run_id: str | None = None) -> list[str]:
        """
        Stop one run of the session, or all of them, the waiting ones too; their ids. Returns when the end of those
        that were being written is in the log, or STOP_WAIT_S has passed.
        """
        stopped = [run for run in self.of(session_id) if run_id in (None, run.id) and not run.ending]
        for run in stopped:
            run.halt("stopped")
        active = self.of(session_id)[:1]
        waited = [run.ended for run in stopped if run_id is None or run in active]
        if waited:
            await asyncio.wait(waited, timeout=STOP_WAIT_S)
        return [run.id for run in stopped]

    async def snapshot(self, session_id: str) -> SessionSnapshot:
        """See `Session.snapshot`. A run whose last chunk is on its way is over for whoever asks now."""
        ending = [run.ended for run in self.of(session_id)[:1] if run.ending]
        if ending:
            await asyncio.wait(ending, timeout=END_WAIT_S)
        with self.sessions.hold(session_id) as session:
            return await session.snapshot()

    async def delete(self, session_id: str) -> None:
        """Stop the session's runs and remove its stream and records. Turns sent meanwhile come after."""
        with self.sessions.hold(session_id) as session:
            for run in self.of(session_id):
                run.halt("stopped")
            ticket = session.line.join()
            try:
                await asyncio.wait([ticket], timeout=STOP_WAIT_S)
                await session.delete()
                await self._requests.forget(session_id)
                await self._leases.forget(session_id)
            finally:
                session.line.leave(ticket)

    async def drain(self, timeout_s: float, *, for_good: bool = True) -> None:
        """
        Wait for the runs to end, at most `timeout_s`; what is left then ends as interrupted. With `for_good` no more
        are taken from now on.
        """
        self.draining = self.draining or for_good
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for run in [run for runs in self._runs.values() for run in runs]:
            run.halt("interrupted")
        for _ in range(2):
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._cancel_wait_s + END_WAIT_S)
            for task in self._tasks:
                task.cancel()
        if for_good:
            await self.sessions.close()

    # Taking a turn.

    async def _repeated(self, job: Job, ask: Ask) -> Run | None:
        """The run of an earlier request that this one repeats: the same key, or the same message while it runs."""
        run = self._live(job, ask)
        if run is not None or job.key is None:
            return run
        seen = await self._requests.seen(job.session_id, job.key)
        return Run.of_seen(job.session_id, seen) if seen is not None else self._live(job, ask)

    def _live(self, job: Job, ask: Ask) -> Run | None:
        """The run in flight that the request is the same as."""
        live = self.of(job.session_id)
        if not live:
            return None
        with self.sessions.hold(job.session_id) as session:
            decision = ask.repeats(session.transcript, live, job.key)
        return None if decision.live is None else live[decision.live]

    def _begin(self, job: Job, ask: Ask) -> Run:
        if self.draining:
            raise Unavailable("The server is going down; try again in a moment.", code="draining")
        if not self.recovery.done:
            raise Unavailable("The server is starting; try again in a moment.", code="recovering")
        self._admit(job.session_id, ask)
        session = self.sessions.take(job.session_id)
        run = Run(job.session_id, job.key, ask)
        run.lease = self._leases.take(job.session_id, run.id, lambda: run.halt("lost"))
        self._runs.setdefault(job.session_id, []).append(run)
        task = asyncio.create_task(self._carry(run, job, session, session.line.join()), name=run.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def _admit(self, session_id: str, ask: Ask) -> None:
        """
        Whether a session that is busy takes one more turn; an answer to what its run asks belongs to that run and
        waits, whatever the setting. Raises Conflict or TooManyRequests.
        """
        busy = [run for run in self.of(session_id) if not run.ending]
        if not busy:
            return
        answers = bool(ask.answers) and ask.user is None
        if self._settings.turns == "refuse" and not answers:
            raise Conflict("The session is being answered.", code="run_active")
        if len(busy) > self._settings.queue_max:
            raise TooManyRequests("Too many turns wait in this session.", code="queue_full")
        if self._settings.turns == "interrupt" and not answers:
            for run in busy:
                run.halt("stopped")

    # Carrying it out.

    async def _carry(self, run: Run, job: Job, session: Session, ticket: asyncio.Future[None]) -> None:
        """The life of a run, in a task of its own. Whatever happens, its waiters hear of it and the next one is called."""
        failure: DurableChatError | None = None
        try:
            await self._take_turn(run, job, session, ticket)
        except DurableChatError as error:
            failure = error
            log.warning("run %s could not be written: %s", run.id, error.code)
        except asyncio.CancelledError:
            failure = None if run.ending else Unavailable(INTERRUPTED, code="interrupted")
            raise
        except Exception:
            failure = Unavailable("The turn could not be carried out.", code="run_lost")
            log.exception("run %s ended by a bug", run.id)
        finally:
            if session.active == run.id:
                session.active = None
            self._leases.drop(run.lease)
            runs = self._runs[run.session_id]
            runs.remove(run)
            if not runs:
                del self._runs[run.session_id]
            session.line.leave(ticket)
            self.sessions.release(session)
            run.end(failure)

    async def _take_turn(self, run: Run, job: Job, session: Session, ticket: asyncio.Future[None]) -> None:
        waited = False
        if not ticket.done():
            waited = self._is_behind(run)
            if waited:
                await self._acknowledge_queued(run, session)
            await ticket
        try:
            opening = await self._open(run, session, waited=waited)
        except DurableChatError as error:
            if run.accepted.done():
                await self._refuse_late(run, session, error)
            raise
        await self._answer(run, job, session, opening)

    async def _refuse_late(self, run: Run, session: Session, error: DurableChatError) -> None:
        """A turn that was acknowledged, and cannot begin after all, has an end in the log where that can be written."""
        chunks = self._run_chunks(run, session)
        run.lease.end()
        async with run.lease.writing() as fence:
            await session.append(encode_chunks(chunks.fail(error.message, error.code)), fence)

    def _run_chunks(self, run: Run, session: Session, secrets: Sequence[str] = ()) -> RunChunks:
        return RunChunks(run.id, session.id, _new_id, _now_ms, known_ids=session.transcript, secrets=secrets)

    def _is_behind(self, run: Run) -> bool:
        """Whether the run has to wait for more than the last append of the one before it."""
        before = self.of(run.session_id)
        return any(not other.ending for other in before[: before.index(run)])

    async def _acknowledge_queued(self, run: Run, session: Session) -> None:
        assert run.ask is not None
        run.ask = run.ask.queued()
        message = encode_chunks([queued_chunk(run.id, run.ask, _now_ms())])
        run.lease.offset = session.offset  # that of the run before it at the latest
        async with run.lease.writing() as fence:
            run.accept(await session.append(message, [*self._requests.write(run), *fence]))

    async def _open(self, run: Run, session: Session, *, waited: bool) -> Opening:
        """Write what comes before RUN_STARTED, and fold up to there: what a reload in the middle of the run begins with."""
        ask, run.ask = run.ask, None
        assert ask is not None
        await self._end_dead_runs(session)
        async with session.lock:
            await session.catch_up()
            stage = Stage(_now_ms(), waited, self._settings.turn_snapshot_max_bytes)
            opening = await ask.open(session.transcript, stage)
            records = () if run.accepted.done() else self._requests.write(run, session.offset)
            run.lease.offset = run.lease.offset or session.offset
            if opening.chunks:
                messages = await _encode_opening(opening)
                async with run.lease.writing() as fence:
                    await session.append(messages, [*records, *fence])
                await session.catch_up()
            else:
                await session.ensure()
                async with run.lease.writing() as fence:
                    await self._requests.save([*records, *fence])
            session.active = run.id
            run.accept(session.offset)
        return opening

    async def _end_dead_runs(self, session: Session) -> None:
        """One run at a time: what is open in the log, and is not ours, died with its process."""
        await self.recovery.end_late(session, {run.id for run in self.of(session.id)})

    async def _answer(self, run: Run, job: Job, session: Session, opening: Opening) -> None:
        writer = session.writer(run.lease, lambda: run.halt("lost"))
        chunks = self._run_chunks(run, session, [job.api_key] if job.api_key else [])
        metadata = {"durableChat": {"offset": session.offset}} if self._remote else None
        writer.add(encode_chunks([*chunks.start(metadata), *opening.results]))
        speaks = opening.asks_model and not opening.waits and not run.halted
        chunks.resume(opening.approved, speaks=speaks)
        last: Sequence[Chunk] = ()
        cancelled = False
        if opening.asks_model and not run.halted:
            turn = _turn(run, job, session, opening)
            pump = Pump(run.id, job.model, turn, chunks, writer, self._settings)
            try:
                await pump.carry(run.verdict)
            except asyncio.CancelledError:
                cancelled = True
                run.halt("interrupted")
            await self._settle_pump(pump)
            last = pump.last
        if writer.failure is None:
            await self._end(run, writer, last or self._last_chunks(run, chunks))
        if cancelled:
            raise asyncio.CancelledError
        if writer.failure is not None:
            raise writer.failure

    async def _end(self, run: Run, writer: Writer, last: Sequence[Chunk]) -> None:
        """Write the run's last chunks, and with them how it ended."""
        run.ending = True
        try:
            messages = encode_chunks(last)
        except InvalidChunk:
            spare = RunChunks(run.id, run.session_id, _new_id, _now_ms)
            spare.start()
            last = spare.fail("The model sent something that is no chunk.", "invalid_chunk")
            messages = encode_chunks(last)
        run.error = str(last[-1]["message"]) if last[-1]["type"] == "RUN_ERROR" else None
        run.lease.end()
        writer.add(messages, self._requests.write(run, ended=True))
        await writer.settle()

    async def _settle_pump(self, pump: Pump) -> None:
        """A model that was cancelled cleans up, for a bounded time."""
        if await pump.end(self._cancel_wait_s):
            return
        task = pump.task
        assert task is not None
        log.warning("the model of run %s does not end when it is cancelled", pump.run_id)
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)

    def _last_chunks(self, run: Run, chunks: RunChunks) -> list[Chunk]:
        if not run.halted:
            return chunks.finish()
        if run.verdict.result() == "stopped":
            return chunks.stop()
        return chunks.fail(INTERRUPTED, "interrupted")


def _turn(run: Run, job: Job, session: Session, opening: Opening) -> Turn:
    messages, approved = tuple(session.messages()), opening.approved
    return Turn(messages, session.id, run.id, job.data, job.api_key, job.tools, approved, opening.waits)


async def _encode_opening(opening: Opening) -> list[bytes]:
    if opening.large:
        return await asyncio.to_thread(encode_chunks, opening.chunks)
    return encode_chunks(opening.chunks)


def _new_id() -> str:
    return f"msg-{uuid.uuid4()}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
