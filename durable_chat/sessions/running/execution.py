"""
The execution of a run: wait for its turn, open it in the log, and write the model's answer and the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import durable_chat.metrics as metrics
from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError, Unavailable
from durable_chat.models.base import Model, Turn
from durable_chat.sessions.expiry import kept
from durable_chat.sessions.recovering.dead_runs import OpenRun
from durable_chat.sessions.recovering.plans import read_plan
from durable_chat.sessions.recovering.recovery import Recovery
from durable_chat.sessions.recovering.shared_log import Others, give_way, staying_alive
from durable_chat.sessions.running.idempotency import Requests
from durable_chat.sessions.running.model_streams import Hearing, Pump, Saving
from durable_chat.sessions.running.posted import new_message_id
from durable_chat.sessions.running.requeueing import opened_plan, waiting_plan
from durable_chat.sessions.running.resuming import Resumption, generation_of, resumption
from durable_chat.sessions.running.run import Job, Run, server_secrets
from durable_chat.sessions.running.turns import Opening, Stage
from durable_chat.sessions.running.waiting import WaitingTurns
from durable_chat.sessions.running.waiting_chunks import queued_chunk
from durable_chat.sessions.session import Session
from durable_chat.sessions.writers import Writer, patiently, session_error
from durable_chat.store.base import Store
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.chunks import OURS, Chunk, InvalidChunk
from durable_chat.transcripts.codec import encode_aside, encode_chunks
from durable_chat.transcripts.context_summaries import context_after
from durable_chat.transcripts.runs.ends import INTERRUPTED, INTERRUPTED_CODE, RELEASED

OPENINGS_MAX = 4
"""The maximum number of attempts to open a turn on a remote store. More conflicts mean that two processes compete."""

log = logging.getLogger(__name__)


class Executor:
    """
    Executes the runs of one store. `waiting` knows the unfinished runs of each session, in turn order. Mutable state:
    `_strays`, cancelled models that have not ended; `_left`, the sessions whose run a shutdown left to the next process.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        requests: Requests,
        recovery: Recovery,
        waiting: WaitingTurns,
        cancel_wait_s: float,
    ) -> None:
        self._log = store.log
        self._remote = store.records is None
        self._settings = settings
        self._secrets = server_secrets(settings)
        self._requests = requests
        self._recovery = recovery
        self._waiting = waiting
        self._runs_of = waiting.unfinished
        self._cancel_wait_s = cancel_wait_s
        self._strays: set[asyncio.Task[Any]] = set()
        self._left: set[str] = set()

    async def execute(self, run: Run, job: Job, session: Session, ticket: asyncio.Future[None]) -> None:
        """
        Wait for the session's turn and carry out the run to its end in the log. Raises the error when the end could not
        be written.
        """
        waited = run.accepted.done()  # by another process, in which it waited
        if run.after is not None:  # what is written before the deletion is deleted with the session
            await asyncio.wait([run.after])
        if not ticket.done():
            if not waited and self._is_behind(run):
                waited = True
                await self._acknowledge_queued(run, job, session)
            run.waits = waited
            await ticket
            run.waits = False
        if session.id in self._left:  # nothing may be written behind the run that goes on elsewhere
            run.left = True
            return
        if run.withdrawn is not None and await run.withdrawn:
            with suppress(DurableChatError):  # the next turn's snapshot does it, too
                await self._waiting.show_without(run, session)
            return
        try:
            await self._carry_out(run, job, session, waited=waited)
        finally:
            if run.pump is not None:  # the turn did not begin, or had another meaning
                await self._settle_pump(run.pump)

    async def _carry_out(self, run: Run, job: Job, session: Session, *, waited: bool) -> None:
        """Begin the turn and answer it."""
        try:
            # A client that has no response yet is told to retry; an accepted turn waits until there is room.
            patience_s = self._settings.stall_s if run.accepted.done() else 0.0
            opening = await patiently(partial(self._open, run, job, session, waited=waited), patience_s)
        except DurableChatError as error:
            if not run.accepted.done():
                raise
            await self._refuse_late(run, session, error)
            return
        if opening is None:
            return
        async with kept(self._log, session.path, self._settings.session_ttl_s):
            await self._answer(run, job, session, opening)

    async def _refuse_late(self, run: Run, session: Session, error: DurableChatError) -> None:
        """Write an end for an acknowledged turn that cannot begin. Raises the error when that cannot be written."""
        if session.elsewhere is not None:  # the process that writes there ends the run, once this one stops renewing it
            raise error
        run.error = error.message
        end = encode_chunks(self._run_chunks(run, session).fail(error.message, error.code))
        try:
            async with run.lease.writing(last=True) as fence:
                await session.append(end, [*self._requests.write(run, ended=True), *fence])
        except DurableChatError:
            self._recovery.note(session.id, run.id)
            raise

    def _run_chunks(self, run: Run, session: Session, job: Job | None = None) -> RunChunks:
        secrets = self._secrets if job is None else (*self._secrets, *job.secrets)
        known, calls = session.transcript, session.transcript.call_ids
        return RunChunks(
            run.id, session.id, new_message_id, unix_ms, known_ids=known, known_calls=calls, secrets=secrets
        )

    def _resumed_chunks(self, run: Run, session: Session, job: Job) -> RunChunks:
        """Return the state of a run of a dead process before its first chunk."""
        chunks = self._run_chunks(run, session, job)
        chunks.carry_usage(run.lease.recorded_usage)
        return chunks

    def _is_behind(self, run: Run) -> bool:
        """Return whether the run must wait for more than the last append of the run before it."""
        before = self._runs_of(run.session_id)
        return any(not other.ending for other in before[: before.index(run)])

    async def _acknowledge_queued(self, run: Run, job: Job, session: Session) -> None:
        assert run.ask is not None
        run.ask = run.ask.noticed(session.transcript, ()).queued()
        message = encode_chunks([queued_chunk(run.id, run.ask.user, unix_ms(), steers=run.steers)])
        await session.keep(run.ask.files)
        for other in self._runs_of(session.id):  # what this turn interrupts does not go on after a crash
            if other is not run and other.is_stopped:
                await other.lease.forget_plan()
        run.lease.offset = session.offset  # at the latest, where the run before it begins
        run.lease.plan(waiting_plan(job, run.ask))
        async with run.lease.writing() as fence:
            records = [*self._requests.write(run, run.lease.offset), *fence]
            run.accept(await self._waiting.append(run, session, message, records))

    async def _open(self, run: Run, job: Job, session: Session, *, waited: bool) -> Opening | None:
        """
        Write what comes before RUN_STARTED, and fold the log up to there; a reload in the middle of the run begins with
        that. Return None when another process has answered the same message meanwhile.
        """
        for left in reversed(range(OPENINGS_MAX)):
            try:
                waited = await self._end_dead_runs(run, job, session) or waited
                if run.joined:
                    return None
                return await self._open_once(run, job, session, waited=waited)
            except DurableChatError as error:
                if not (self._remote and left and session_error(error).code == "fenced"):
                    raise
        raise AssertionError("one of the attempts returned or raised")

    async def _open_once(self, run: Run, job: Job, session: Session, *, waited: bool) -> Opening:
        assert run.ask is not None
        async with session.lock:
            await session.catch_up()
            if session.elsewhere is not None:
                raise Unavailable("Another process is answering this session.", code="fenced")
            stage = Stage(unix_ms(), waited, self._settings.turn_snapshot_max_bytes)
            opening = await run.ask.open(session.transcript, stage)
            records = () if run.accepted.done() else self._requests.write(run, session.offset)
            run.lease.offset = run.lease.offset or session.offset
            run.lease.plan(opened_plan(job, opening, waited=waited))
            await session.keep(opening.files)
            if opening.chunks:
                messages = await encode_aside(opening.chunks, large=opening.large)
                async with run.lease.writing() as fence:
                    await session.append(messages, [*records, *fence], placed=True)
                if opening.chunks[0]["type"] == "MESSAGES_SNAPSHOT":
                    self._waiting.note_snapshot(session.id)
                await session.catch_up()
            else:
                await session.ensure()
                async with run.lease.writing() as fence:
                    await self._requests.save([*records, *fence])
            run.ask = None  # it may hold a long history
            session.active = run.id
            run.writing = True
            run.accept(session.offset)
        return opening

    async def _end_dead_runs(self, run: Run, job: Job, session: Session) -> bool:
        """
        End the open runs in the log that are not ours: their process died. On a remote store, wait for the runs of
        other processes first. Returns whether there were any.
        """

        def ours() -> set[str]:
            return {other.id for other in self._runs_of(session.id) if not other.joined}

        if not self._remote:
            await self._recovery.dead_runs.end_late(session, ours())
            return False
        turns = "queue" if run.answers and run.user_id is None else job.turns or self._settings.turns
        others = Others(self._log, session, ours, run.user_id, turns, self._settings.lease_ms / 1000)
        await give_way(
            others, run, session, self._recovery.dead_runs, partial(self._acknowledge_queued, run, job, session)
        )
        return others.were_there

    async def _answer(self, run: Run, job: Job, session: Session, opening: Opening) -> None:
        writer = self._writer(run, session)
        chunks = self._run_chunks(run, session, job)
        metadata = self._recorded(job, session)
        writer.add(encode_chunks([*chunks.start(metadata, job.parent_run_id), *opening.results]))
        passes_on = run.pump is not None and not run.halted and self._choose_heir(run)
        # A generation has a result in place of a message.
        speaks = opening.asks_model and not opening.waits and not run.halted and not passes_on and job.activity is None
        chunks.resume(opening.approved, speaks=speaks)
        pump: Pump | None = None
        last: Sequence[Chunk] = ()
        if passes_on:  # the model hears several messages at once
            pump, run.pump = run.pump, None
            last = chunks.finish(RELEASED)
        elif opening.asks_model and not run.halted:
            turn = _turn(run, job, session, opening.approved, waits=opening.waits)
            pump = self._pump(run, job, turn, opening, chunks, writer)
            run.outlasts = outlasts(job.model, turn) and not self._remote  # without records, nobody takes it up
        await self._carry(run, session, writer, chunks, pump, last, released=opening.released)

    def _writer(self, run: Run, session: Session) -> Writer:
        options = {"coalesces": self._settings.coalesce == "on", "patience_s": self._settings.stall_s}
        return session.writer(run.lease, lambda: run.halt("lost"), **options)

    def _recorded(self, job: Job, session: Session) -> dict[str, Any] | None:
        """
        Return what RUN_STARTED records: what a generation is to make, and on a log without records where it begins.
        """
        recorded: dict[str, Any] = dict(job.generation)
        if self._remote:
            recorded["offset"] = session.offset
        return {OURS: recorded} if recorded else None

    async def _carry(
        self,
        run: Run,
        session: Session,
        writer: Writer,
        chunks: RunChunks,
        pump: Pump | None,
        last: Sequence[Chunk] = (),
        *,
        released: bool = False,
    ) -> None:
        """
        Carry the model's answer to its end in the log. Without a pump, no model is asked. `last` are the last chunks of
        a run whose model goes on in another one.
        """
        cancelled = False
        if pump is not None and not last:
            try:
                with staying_alive(writer, self._settings.lease_ms / 1000) if self._remote else nullcontext():
                    await pump.carry(run.verdict)
            except asyncio.CancelledError:
                cancelled = True
                run.halt("interrupted")
            if pump.handing.done() and not run.halted:
                chunks = pump.chunks
                last = chunks.finish()
            else:
                await self._settle_pump(pump)
                chunks, last, pump = pump.chunks, pump.last, None
        if run.outlasts and not chunks.ended and await self._leave(run, writer):
            if cancelled:
                raise asyncio.CancelledError
            return
        try:
            if writer.failure is None:
                with suppress(DurableChatError):  # the writer keeps it as its `failure`
                    await self._end(run, writer, last or self._last_chunks(run, chunks, released=released))
            if writer.failure is None and pump is not None and run.heir is not None:
                run.heir.pump, pump = pump, None
        finally:
            if pump is not None:
                await self._settle_pump(pump)
        whole = writer.failure is None or await self._end_failed(run, session, writer)
        if cancelled:
            raise asyncio.CancelledError
        if writer.failure is not None and not whole:
            raise writer.failure

    def _choose_heir(self, run: Run) -> bool:
        run.heir = self._waiting.heir(run)
        return run.heir is not None

    def _pump(self, run: Run, job: Job, turn: Turn, opening: Opening, chunks: RunChunks, writer: Writer) -> Pump:
        """Return the model of the run before, if it goes on in this one, or one that begins."""
        has_heir = partial(self._choose_heir, run)
        if run.pump is None or turn.approved or turn.waits or opening.results:
            return Pump(run.id, job.model, turn, chunks, writer, self._settings, has_heir)
        pump, run.pump = run.pump, None
        pump.adopt(run.id, turn, chunks, writer, has_heir)
        return pump

    async def find_way(
        self,
        run: Run,
        session: Session,
        dead: OpenRun,
        model_of: Callable[[str | None], Model | None],
    ) -> tuple[Job, Resumption] | None:
        """
        Return how a dead run goes on, or None if it cannot. If it can, it becomes the session's active run. The caller
        has the session's turn and the run's record. Raises what the log raises.
        """
        plan = read_plan(run.lease.recorded_plan)
        activity, asked = generation_of(dead)
        model = model_of(activity)
        mode = self._settings.after_crash
        if plan is None or model is None or dead.resumes >= self._settings.resumes_max:
            return None
        if mode == "end" and not hasattr(model, "resume"):
            return None
        await session.rewind(run.id, dead.begun)
        found: Resumption | None = None
        try:
            job = Job(
                session.id, model, plan.data, tools=plan.tools, activity=activity, input=asked, is_applications=True
            )
            turn = _turn(run, job, session, plan.approved, waits=plan.waits)
            turn = replace(turn, context=context_after(turn.context, (*dead.summaries, *dead.said)))
            newest = turn.messages[-1] if turn.messages else {}
            run.user_id = newest["id"] if newest.get("role") == "user" else None
            found = resumption(dead, turn, model, mode, partial(self._resumed_chunks, run, session, job))
        finally:
            if found is None:
                session.active = None
        return None if found is None else (job, found)

    async def go_on(self, run: Run, job: Job, session: Session, found: Resumption) -> None:
        """Carry a dead run on to its end in the log. Raises the error when that could not be written."""
        metrics.resumes.add(found.how)
        async with kept(self._log, session.path, self._settings.session_ttl_s):
            writer = self._writer(run, session)
            writer.add(encode_chunks(found.first))
            pump: Pump | None = None
            if not run.halted:
                has_heir = partial(self._choose_heir, run)
                otherwise = partial(_otherwise, run, found)
                options = (self._settings, has_heir, otherwise)
                pump = Pump(run.id, found.model, found.turn, found.chunks, writer, *options)
                run.outlasts = outlasts(job.model, found.turn)
            await self._carry(run, session, writer, found.chunks, pump)

    async def _leave(self, run: Run, writer: Writer) -> bool:
        """
        At a shutdown, leave a run whose work goes on elsewhere without an end: the next process takes it up, as after a
        crash. Return whether that is so.
        """
        if not run.halted or run.verdict.result() != "interrupted":
            return False
        with suppress(DurableChatError):  # the writer keeps it as its `failure`
            await writer.settle()
        run.left = writer.failure is None
        if run.left:
            self._left.add(run.session_id)
        return run.left

    async def _end(self, run: Run, writer: Writer, last: Sequence[Chunk]) -> None:
        """Write the run's last chunks together with its outcome."""
        run.ending = True
        try:
            messages = encode_chunks(last)
        except InvalidChunk:
            spare = RunChunks(run.id, run.session_id, new_message_id, unix_ms)
            spare.start()
            last = spare.fail("The model sent an invalid chunk.", "invalid_chunk")
            messages = encode_chunks(last)
        run.error = str(last[-1]["message"]) if last[-1]["type"] == "RUN_ERROR" else None
        writer.end(messages, self._requests.write(run, ended=True))
        await writer.settle()

    async def _end_failed(self, run: Run, session: Session, writer: Writer) -> bool:
        """Try to end a run whose append the log refused with an error chunk. Returns whether the end was written."""
        failure = writer.failure
        assert failure is not None
        if not await self._recovery.end_failed(session, run.id, run.lease.key, failure, writer.cause):
            return False
        run.ending, run.error = True, failure.message
        await self._requests.save(self._requests.write(run, ended=True))
        return True

    async def _settle_pump(self, pump: Pump) -> None:
        """Give a cancelled model a bounded time to clean up."""
        if await pump.end(self._cancel_wait_s):
            return
        task = pump.task
        assert task is not None
        log.warning("the model of run %s did not end within the time limit after it was cancelled", pump.run_id)
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)

    def _last_chunks(self, run: Run, chunks: RunChunks, *, released: bool) -> list[Chunk]:
        if released:
            return chunks.finish(RELEASED)
        if not run.halted:
            return chunks.finish()
        if run.verdict.result() == "stopped":
            return chunks.stop()
        return chunks.fail(INTERRUPTED, INTERRUPTED_CODE)


def _otherwise(run: Run, found: Resumption) -> Resumption | None:
    """Return how a run goes on whose model cannot resume it after all. Its log will say once more that it goes on."""
    way = found.otherwise()
    run.resumes += way is not None
    return way


def outlasts(model: Model, turn: Turn) -> bool:
    """Return whether the model's work on a turn goes on without this process, for example a provider's video job."""
    check = getattr(model, "outlasts", None)
    return check is not None and bool(check(turn))


def _turn(run: Run, job: Job, session: Session, approved: tuple[str, ...], *, waits: bool) -> Turn:
    return Turn(
        tuple(session.messages()),
        session.id,
        run.id,
        job.data,
        job.api_key,
        job.tools,
        approved,
        waits,
        load=partial(session.artifacts.load, session.path),
        saved=Saving(),
        heard=Hearing(),
        activity=job.activity,
        input=job.input,
        keep=session.keep_file,
        context=session.transcript.context,
    )
