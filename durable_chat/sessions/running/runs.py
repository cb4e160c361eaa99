"""
Runs in flight. They belong to the application: a run continues to its end even when the client that asked disconnects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import durable_chat.metrics as metrics
from durable_chat.config.settings import Settings
from durable_chat.errors import AnswerLost, Conflict, DurableChatError, TooManyRequests, Unavailable
from durable_chat.models.base import Model
from durable_chat.sessions.expiry import Leftovers, session_of
from durable_chat.sessions.recovering.dead_runs import OpenRun, TakenUp, WaitingRun
from durable_chat.sessions.recovering.leases import Leases, read_claim
from durable_chat.sessions.recovering.recovery import Recovery
from durable_chat.sessions.recovering.shared_log import stop_elsewhere
from durable_chat.sessions.running.execution import Executor
from durable_chat.sessions.running.idempotency import KEYS_PER_RUN_MAX, Requests
from durable_chat.sessions.running.model_streams import CANCEL_WAIT_S
from durable_chat.sessions.running.requeueing import asked_again, ended_again
from durable_chat.sessions.running.run import Job, Run
from durable_chat.sessions.running.turns import Ask
from durable_chat.sessions.running.waiting import WaitingTurns
from durable_chat.sessions.session import Session, SessionSnapshot
from durable_chat.sessions.sessions import Sessions
from durable_chat.sessions.writers import session_error
from durable_chat.store.base import Record, Store
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.chunks import messages_snapshot
from durable_chat.transcripts.runs.ends import INTERRUPTED

STOP_WAIT_S = 10.0
"""How long `stop` waits for the end in the log. A provider's connection closes within milliseconds or not at all."""

END_WAIT_S = 5.0
"""How long interrupted runs have to write their end after the drain timeout."""

log = logging.getLogger(__name__)


class Runs:
    """
    Accepts, stops and drains runs. Mutable state: `_runs`, the unfinished runs of each session in turn order; `_tasks`,
    which execute them; `_deleting`, the sessions being deleted; `draining`, set when no more runs are accepted.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        sessions: Sessions | None = None,
        *,
        cancel_wait_s: float = CANCEL_WAIT_S,
        stop_wait_s: float = STOP_WAIT_S,
    ) -> None:
        self.draining = False
        self._cancel_wait_s = cancel_wait_s
        self._stop_wait_s = stop_wait_s
        self.sessions = sessions or Sessions.of(store, settings)
        self._requests = Requests(store.records, self.sessions.path_of)
        self._leases = Leases(store.records, self.sessions.path_of, settings.lease_ms)
        self.recovery = Recovery(store, self.sessions, self._leases)
        self._leftovers = Leftovers(store.log, self.sessions, self._forget)
        self._deleting: set[str] = set()
        self._settings = settings
        store.on_drop.append(self._drop)
        self._remote = store.records is None
        self._runs: dict[str, list[Run]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = WaitingTurns(self._runs, self.sessions, self._requests, remote=self._remote)
        self._executor = Executor(store, settings, self._requests, self.recovery, self.waiting, cancel_wait_s)

    @property
    def count(self) -> int:
        """The number of unfinished runs, including those that wait."""
        return len(self._tasks)

    def of(self, session_id: str) -> list[Run]:
        """Return the session's unfinished runs. The first is being written; the others wait."""
        return self.waiting.unfinished(session_id)

    def unfinished(self, session_id: str, run_id: str) -> Run | None:
        """Return the unfinished run with this id, or None."""
        return next((run for run in self._runs.get(session_id, ()) if run.id == run_id), None)

    def go_on_with(self, model_of: Callable[[str | None], Model | None]) -> None:
        """
        Go on with runs of a dead process. `model_of` returns the application's model for an activity (None: the chat).
        Call this before the recovery starts.
        """
        self.recovery.go_on = partial(self._go_on, model_of)

    # Public operations.

    async def start(self, job: Job, ask: Ask) -> Run:
        """
        Return the run that answers, once its beginning is durable, or the earlier run that the request repeats. Raises
        InvalidRequest, Conflict, TooManyRequests or Unavailable; nothing has been written then.
        """
        if live := self.of(job.session_id):
            with self.sessions.hold(job.session_id) as session:
                ask = ask.noticed(session.transcript, live)
        repeated = await self._repeated(job, ask)
        run = repeated or self._begin(job, ask)
        del ask  # it may hold a long history, and the wait below may be long
        await asyncio.shield(run.accepted)
        if run.offset is None:
            raise run.failure or Unavailable("The turn was not accepted. Send the request again.", code="not_taken")
        if repeated is not None and job.key in repeated.keys:
            await self._remember(repeated)
        return run

    async def find(self, session_id: str, key: str) -> Run | None:
        """
        Return the accepted run that a request with this key started, or the unfinished run with this id. Raises what
        the store raises.
        """
        seen = await self._requests.seen(session_id, key)
        live = next((run for run in self.of(session_id) if key == run.id or key in run.keys), None)
        if live is None:
            return None if seen is None else Run.of_seen(session_id, seen)
        await asyncio.wait([live.accepted])
        return None if live.offset is None else live

    async def wait(self, run: Run, timeout_s: float) -> bool:
        """Return whether the run ended in time. A timeout does not stop it. Raises what kept it from being written."""
        await asyncio.wait([run.ended], timeout=timeout_s)
        if run.ended.done() and (failure := run.failure) is not None:
            # The request itself was valid, so the failure of its answer is not a client error.
            raise failure if failure.status >= 500 else AnswerLost(failure.message, code=failure.code)
        return run.ended.done()

    async def stop(self, session_id: str, run_id: str | None = None) -> list[str]:
        """
        Stop one run of the session, by its id or the key of its request, or all of them including those that wait, and
        return their ids. Returns when the end of each run being written is in the log, or after STOP_WAIT_S.
        """
        running = [run for run in self.of(session_id) if not run.ending]
        stopped = [run for run in running if run_id in (None, run.id) or run_id in run.keys]
        for run in stopped:
            run.halt("stopped")
        for run in stopped:
            if run.waits:  # its end is written at its turn; a server that dies before must not answer it
                await run.lease.forget_plan()
        active = self.of(session_id)[:1]
        waited = [run.ended for run in stopped if run_id is None or run in active]
        if waited:
            await asyncio.wait(waited, timeout=self._stop_wait_s)
        if self._remote and not stopped:
            return await stop_elsewhere(self.sessions, self.recovery.dead_runs, session_id, run_id)
        return [run.id for run in stopped]

    async def snapshot(self, session_id: str) -> SessionSnapshot:
        """Return `Session.snapshot`. If the last chunk of a run is being written, wait for it first."""
        await self.recovery.decided(session_id)
        ending = [run.ended for run in self.of(session_id)[:1] if run.ending]
        if ending:
            await asyncio.wait(ending, timeout=END_WAIT_S)
        with self.sessions.hold(session_id) as session:
            return await session.snapshot()

    async def delete(self, session_id: str) -> None:
        """
        Stop the session's runs and delete its stream and records. Open tabs receive an empty snapshot first. Turns sent
        meanwhile wait until the session is deleted.
        """
        with self.sessions.hold(session_id) as session:
            for run in self.of(session_id):
                run.halt("stopped")
            ticket = session.line.join()
            self._deleting.add(session_id)
            deletion = session.deletion = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait([ticket], timeout=self._stop_wait_s)
                await session.delete([messages_snapshot([], timestamp=unix_ms())])
                await self._forget_records(session_id)
            finally:
                self._deleting.discard(session_id)
                deletion.set_result(None)
                session.line.leave(ticket)

    async def _forget(self, session: Session) -> None:
        """Delete what is stored for a session outside its stream, after the stream is deleted."""
        await session.clear()
        await self._forget_records(session.id)

    async def _forget_records(self, session_id: str) -> None:
        waiting = [run for run in self.of(session_id) if not run.writing]
        await self._requests.forget(session_id, [key for run in waiting for key in run.keys])
        await self._leases.forget(session_id, [run.id for run in waiting])

    def _drop(self, path: str) -> None:
        """End the run of a stream that expired or was deleted other than by `delete`, and clear what remains."""
        session_id = session_of(path)
        if session_id is None or session_id in self._deleting or self._remote:
            return
        for run in self.of(session_id)[:1]:
            if run.writing:
                run.halt("lost")
        self._leftovers.clear(session_id)

    async def drain(self, timeout_s: float, *, for_good: bool = True) -> None:
        """Wait at most `timeout_s` for the runs to end, then interrupt the rest. `for_good`: accept no more runs."""
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
            await self._leftovers.close()
            await self.sessions.close()

    # Accepting a turn.

    async def _repeated(self, job: Job, ask: Ask) -> Run | None:
        """Return the earlier run that this request repeats: by its key, or by its message while that run lasts."""
        if job.key is not None:
            seen = await self._requests.seen(job.session_id, job.key)
            live = next((run for run in self.of(job.session_id) if job.key in run.keys), None)
            if live is not None or seen is not None:
                return live or (Run.of_seen(job.session_id, seen) if seen is not None else None)
        return self._live(job, ask)

    def _live(self, job: Job, ask: Ask) -> Run | None:
        """Return the unfinished run that this request repeats, and add the request's key to it."""
        live = self.of(job.session_id)
        if not live:
            return None
        with self.sessions.hold(job.session_id) as session:
            decision = ask.repeats(session.transcript, live, job.key)
        run = None if decision.live is None else live[decision.live]
        if run is not None and job.key is not None:
            if len(run.keys) >= KEYS_PER_RUN_MAX:
                raise TooManyRequests("This answer has too many keys. Reuse one of them.", code="too_many_repeats")
            run.keys.append(job.key)
        return run

    async def _remember(self, run: Run) -> None:
        """Store the key of a repeated request, so that it identifies the run after its end and after a restart."""
        if run.ending:  # the last append stores all keys
            await asyncio.wait([run.ended])
        else:
            await self._requests.save(self._requests.write(run))

    def _begin(self, job: Job, ask: Ask) -> Run:
        if self.draining:
            raise Unavailable("The server is shutting down. Try again in a moment.", code="draining")
        if not self.recovery.done:
            raise Unavailable("The server is starting. Try again in a moment.", code="recovering")
        turns = job.turns or self._settings.turns
        self._admit(job.session_id, ask, turns)
        session = self.sessions.take(job.session_id)
        run = Run(job.session_id, job.key, ask)
        run.steers, run.api_key, run.ticket = turns == "steer", job.api_key, session.line.join()
        run.after = session.deletion
        run.lease = self._leases.take(job.session_id, run.id, lambda: run.halt("lost"))
        self._runs.setdefault(job.session_id, []).append(run)
        work = partial(self._executor.execute, run, job, session, run.ticket)
        self._spawn(run, self._carry(run, session, run.ticket, work))
        return run

    def _admit(self, session_id: str, ask: Ask, turns: str) -> None:
        """
        Check that the session accepts another turn, and interrupt its runs if `turns` says so. Answers to a run's tool
        calls always wait, whatever the setting. Raises Conflict or TooManyRequests.
        """
        busy = [run for run in self.of(session_id) if not run.ending]
        if not busy:
            return
        answers = bool(ask.answers) and ask.user is None
        if turns == "refuse" and not answers:
            raise Conflict("The session already has a running answer. Wait for its end or stop it.", code="run_active")
        if len(busy) > self._settings.queue_max:
            raise TooManyRequests("Too many turns wait in this session. Try again later.", code="queue_full")
        if turns == "interrupt" and not answers:
            for run in busy:
                run.halt("stopped")

    # Going on after a crash.

    async def _go_on(
        self,
        model_of: Callable[[str | None], Model | None],
        session: Session,
        ticket: asyncio.Future[None],
        begun: OpenRun | None,
        record: Record | None,
        waiting: Sequence[WaitingRun],
    ) -> TakenUp:
        """See `GoOn`."""
        keys = [await self._requests.keys_of(session.id, each.id) for each in waiting]
        work = None if begun is None else await self._resume(model_of, session, ticket, begun, record)
        if work is None and self._settings.after_crash == "end":
            return TakenUp()
        # Those that wait join the queue before the run goes on, which may hear their messages.
        count = sum(self._wait_again(model_of, session, each, own) for each, own in zip(waiting, keys, strict=True))
        taken = frozenset(each.id for each in waiting)
        if begun is None or work is None:
            return TakenUp(taken, count=count)
        work()
        return TakenUp(taken | {begun.id}, keeps_turn=True, count=count + 1)

    async def _resume(
        self,
        model_of: Callable[[str | None], Model | None],
        session: Session,
        ticket: asyncio.Future[None],
        dead: OpenRun,
        record: Record | None,
    ) -> Callable[[], None] | None:
        """Return what lets the run go on, or None if it cannot. If it can, it is the session's active run."""
        keys = await self._requests.keys_of(session.id, dead.id)
        run = Run.of_dead(session.id, dead.id, dead.begun, keys, dead.marks + 1)
        run.api_key, run.ticket = None, ticket
        run.lease = self._leases.adopt(session.id, run.id, record, lambda: run.halt("lost"))
        try:
            found = await self._executor.find_way(run, session, dead, model_of)
        except BaseException:
            self._leases.drop(run.lease)
            raise
        if found is None:
            self._leases.drop(run.lease)
            return None
        self._runs.setdefault(session.id, []).insert(0, run)
        work = partial(self._executor.go_on, run, found[0], self.sessions.take(session.id), found[1])
        return lambda: self._spawn(run, self._carry(run, session, ticket, work))

    def _wait_again(
        self,
        model_of: Callable[[str | None], Model | None],
        session: Session,
        waiting: WaitingRun,
        keys: list[str],
    ) -> bool:
        """Let a run of a dead process wait for its turn. Return whether it is answered then. Otherwise it ends."""
        answered = None
        if self._settings.after_crash != "end":
            answered = asked_again(session.id, waiting, model_of, self._settings.resumes_max)
        job, ask = answered or ended_again(session.id, waiting)
        run = Run.of_waiting(session.id, waiting.id, read_claim(waiting.record).offset, keys, ask)
        run.steers, run.ticket = waiting.turn.steers, session.line.join()
        run.lease = self._leases.adopt(session.id, run.id, waiting.record, lambda: run.halt("lost"))
        if answered is None:
            metrics.recoveries.add()
            run.halt("interrupted")
        else:
            metrics.resumes.add("wait")
        self._runs.setdefault(session.id, []).append(run)
        session = self.sessions.take(session.id)
        work = partial(self._executor.execute, run, job, session, run.ticket)
        self._spawn(run, self._carry(run, session, run.ticket, work))
        return answered is not None

    def _spawn(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=run.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Carrying it out.

    async def _carry(
        self, run: Run, session: Session, ticket: asyncio.Future[None], work: Callable[[], Awaitable[None]]
    ) -> None:
        """Carry out a run in its own task. On every outcome, notify its waiters and call the next turn."""
        failure: DurableChatError | None = None
        try:
            await work()
        except DurableChatError as error:
            failure = session_error(error)
            log.warning("run %s in session %s was not written: %s", run.id, run.session_id, failure.code)
        except asyncio.CancelledError:
            failure = None if run.ending else Unavailable(INTERRUPTED, code="interrupted")
            raise
        except Exception:
            failure = Unavailable("The turn failed because of an internal error.", code="run_lost")
            log.exception("run %s in session %s failed because of an internal error", run.id, run.session_id)
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
