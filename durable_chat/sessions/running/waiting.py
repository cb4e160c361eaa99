"""
The turns that wait for the answer before them: which of them a running answer hears, taking one back, and sending one
now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from durable_chat.errors import Conflict, DurableChatError, NotFound
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.protocol.requests import Producer
from durable_chat.sessions.running.idempotency import Requests
from durable_chat.sessions.running.run import Run
from durable_chat.sessions.running.waiting_chunks import TURN_ADVANCED, TURN_TAKEN_BACK, waiting_chunk
from durable_chat.sessions.session import Session
from durable_chat.sessions.sessions import Sessions
from durable_chat.store.base import RecordWrite
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.chunks import messages_snapshot
from durable_chat.transcripts.codec import encode_aside, encode_chunks

TAKEN_BACK = "The message was taken back."
"""The outcome of a turn whose message was taken back, for a request that waits for its answer."""

Sending = Literal["steer", "interrupt"]
"""How a waiting message is sent now: the running answer hears it at its next step, or is stopped."""


@dataclass(frozen=True, slots=True)
class WaitingTurn:
    """A turn that waits: its run, its message (None: answers to tool calls), and whether it steers."""

    run_id: str
    message: Mapping[str, Any] | None
    steers: bool


class WaitingTurns:
    """
    The unfinished runs of each session, in turn order. Mutable state: `_runs`, which the caller adds to and removes
    from; `_tasks`, which write what they have begun to write even if their request is gone.
    """

    def __init__(self, runs: Mapping[str, list[Run]], sessions: Sessions, requests: Requests, *, remote: bool) -> None:
        self._runs = runs
        self._sessions = sessions
        self._requests = requests
        self._remote = remote
        self._tasks: set[asyncio.Task[None]] = set()

    def unfinished(self, session_id: str) -> list[Run]:
        """Return the session's unfinished runs. The first is being written; the others wait."""
        return list(self._runs.get(session_id, ()))

    def listed(self, session_id: str) -> list[WaitingTurn]:
        """Return the turns that wait in this process and can be taken back, in the order in which they will begin."""
        waiting = (run for run in self.unfinished(session_id) if run.waits and not run.closing)
        return [WaitingTurn(run.id, run.ask.user, run.steers) for run in waiting if run.ask is not None]

    def heir(self, run: Run) -> Run | None:
        """
        Return the next run whose message the model of this one hears, or None. It becomes the next turn and cannot be
        taken back any more.

        Only a new message can be heard: an edit or a regeneration changes what the model was given. The model goes on
        with the key of its own sender, so a sender with another key gets a turn of their own.
        """
        with self._sessions.hold(run.session_id) as session:
            for other in self.unfinished(run.session_id):
                new = other.user_id is not None and other.user_id not in session.transcript and not other.answers
                if new and other.steers and other.waits and not other.closing and other.api_key == run.api_key:
                    self._advance(other, session)
                    other.waits = False
                    return other
        return None

    async def take_back(self, session_id: str, message_id: str) -> str | None:
        """
        Take back a waiting message and return the id of its run; it is in no transcript. Return None if it was taken
        back before, or is unknown. Raises Conflict if its turn has begun, and what the log raises.
        """
        with self._sessions.hold(session_id) as session:
            run = await self._find(session, message_id)
            if run is None:
                return None
            run.waits = False
            run.withdrawn = asyncio.get_running_loop().create_future()
            await self._finish(self._withdraw(run, session))
            return run.id

    async def send_now(self, session_id: str, message_id: str, how: Sending) -> str:
        """
        Make a waiting message the next one, and let the running answer hear it or stop that answer. Return the id of
        its run. Sent again, it changes nothing. Raises NotFound if it does not wait, Conflict if its turn has begun,
        and what the log raises.
        """
        with self._sessions.hold(session_id) as session:
            run = await self._find(session, message_id)
            if run is None:
                raise NotFound("No message with this id waits in this session.", code="unknown_turn")
            advances = self.unfinished(session_id)[1:2] != [run] or (how == "steer" and not run.steers)
            run.steers = run.steers or how == "steer"
            self._advance(run, session)
            if advances:
                chunk = waiting_chunk(TURN_ADVANCED, run.id, run.user_id, unix_ms(), turns=how)
                await self.append(run, session, encode_chunks([chunk]))
            if how == "interrupt":
                for other in self.unfinished(session_id)[:1]:
                    if other is not run and not other.ending:
                        other.halt("stopped")
            return run.id

    async def append(
        self, run: Run, session: Session, messages: Sequence[bytes], records: Sequence[RecordWrite] = ()
    ) -> str:
        """Append chunks of a run that waits, and return the tail after them."""
        # On a remote store, use a separate producer: another process may be writing the run before this one.
        producer = Producer(run.id, 0, run.appends) if self._remote else None
        run.appends += 1
        return await session.append(messages, records, producer=producer)

    async def show_without(self, run: Run, session: Session) -> None:
        """
        Write a snapshot without the message that was taken back, once the answer before it is over: the tab that sent
        the message shows it until then. A message that waits begins its turn with a snapshot, which does the same.
        """
        others = (other for other in self.unfinished(run.session_id) if other.user_id is not None)
        if not run.is_shown or any(not other.closing for other in others):
            return
        async with session.lock:
            await session.catch_up()
            if session.position == BEGINNING or session.elsewhere is not None:
                return
            shown = messages_snapshot(session.messages(), timestamp=unix_ms())
            await session.append(await encode_aside([shown], large=True), placed=True)
            self.note_snapshot(session.id)

    def note_snapshot(self, session_id: str) -> None:
        """Note that a snapshot was written: no tab shows a message any more that was taken back before."""
        for run in self.unfinished(session_id):
            run.is_shown = False

    async def _find(self, session: Session, message_id: str) -> Run | None:
        """Return the run of a waiting message, or None. Raises Conflict if its turn has begun."""
        for run in self.unfinished(session.id):
            if run.user_id != message_id or run.joined:
                continue
            if run.withdrawn is not None and await asyncio.shield(run.withdrawn):
                continue
            if run.waits and not run.closing:
                return run
            raise _begun(message_id)
        async with session.lock:
            if session.active is None:
                await session.catch_up()
        if message_id in session.transcript:
            raise _begun(message_id)
        return None

    async def _withdraw(self, run: Run, session: Session) -> None:
        assert run.withdrawn is not None
        chunk = waiting_chunk(TURN_TAKEN_BACK, run.id, run.user_id, unix_ms())
        try:
            run.error = TAKEN_BACK
            async with run.lease.writing(last=True) as fence:
                records = [*self._requests.write(run, ended=True), *fence]
                await self.append(run, session, encode_chunks([chunk]), records)
        except DurableChatError:
            run.error = None
            run.waits = not run.ticket.done()
            run.withdrawn.set_result(False)
            raise
        run.ending = run.is_shown = True
        run.halt("stopped")
        run.withdrawn.set_result(True)
        run.end()

    async def _finish(self, work: Any) -> None:
        """Finish what is begun, even if the request that began it is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    def _advance(self, run: Run, session: Session) -> None:
        """Make a waiting run the next one."""
        runs = self._runs[run.session_id]
        if runs[0] is not run:
            runs.remove(run)
            runs.insert(1, run)
            session.line.advance(run.ticket)


def _begun(message_id: str) -> Conflict:
    return Conflict(f"The turn of message {message_id} has begun. Stop its answer instead.", code="turn_begun")
