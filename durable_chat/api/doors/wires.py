"""
How the chunks of one run become a frontend's wire format, without I/O: the interface of a wire, and the part of the log
that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from durable_chat.api.doors.retries import Retries
from durable_chat.api.run_places import offset_after
from durable_chat.sessions.running.waiting_chunks import TURN_ADVANCED, TURN_QUEUED, TURN_TAKEN_BACK, taken_back
from durable_chat.store.base import Batch
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.chunks import Chunk, run_error, run_finished, run_started
from durable_chat.transcripts.runs.ends import ENDS, INTERRUPTED, INTERRUPTED_CODE
from durable_chat.transcripts.runs.marks import ALIVE

INTERNAL = frozenset({TURN_QUEUED, TURN_TAKEN_BACK, TURN_ADVANCED, ALIVE})
"""CUSTOM chunks between those of a run that are not about it: other turns that wait, and the process is alive."""

NOT_LOGGED = ""
"""The offset of a chunk that is not in the log, such as the error of a response that has to end early."""


class Wire(Protocol):
    """
    The wire format of one response. It is a small state machine: it is given the chunks of one run in order, from
    RUN_STARTED to the terminal chunk. Each call returns bytes to send, which may be empty or hold several events.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response, with its Content-Type."""
        ...

    @property
    def ping(self) -> bytes:
        """What clients ignore. It is sent while nothing else is, so that proxies keep the connection."""
        ...

    def begin(self) -> bytes:
        """Return what comes before the first chunk."""
        ...

    def chunk(self, chunk: Chunk, offset: str) -> bytes:
        """
        Return a chunk as the client expects it. `offset` is the position after it in the session, or NOT_LOGGED.
        """
        ...

    def end(self) -> bytes:
        """Return what comes after the terminal chunk."""
        ...


class RunPart:
    """
    The part of a session's log that belongs to one run, on a wire. Mutable state: `has_begun`, from RUN_STARTED on;
    `has_ended`, after the terminal chunk; `_skipped`, how many of the next messages were rendered already;
    `_with_others`, while others' chunks are rendered, too; `_retries`, if there is something to leave out.
    """

    __slots__ = ("_retries", "_skipped", "_with_others", "has_begun", "has_ended", "run_id", "session_id", "wire")

    def __init__(
        self,
        session_id: str,
        run_id: str,
        wire: Wire,
        *,
        inside: bool = False,
        with_others: bool = False,
        resumes: int = 0,
    ) -> None:
        """
        `inside` says that the first message is one inside the run, so that there will be no RUN_STARTED. `with_others`
        renders also what comes before the run, such as the runs that it waits for. What was dropped in the first
        `resumes` resumptions of the run is left out.
        """
        self.session_id = session_id
        self.run_id = run_id
        self.wire = wire
        self.has_begun = inside or with_others
        self._with_others = with_others
        self._retries = Retries(resumes) if resumes else None
        self.has_ended = False
        self._skipped = 0

    def skip(self, messages: int) -> None:
        """Note that so many messages will be read again."""
        self._skipped = messages

    def take(self, messages: Sequence[Chunk | None], batch: Batch, *, remote: bool) -> bytes:
        """Return the batch's messages (None is one that is not a chunk) as far as they belong to the run."""
        skipped = min(self._skipped, len(messages))
        self._skipped -= skipped
        parts: list[bytes] = []
        for at in range(skipped, len(messages)):
            chunk = messages[at]
            if chunk is None or not self._belongs(chunk):
                if chunk is not None and taken_back(chunk) == self.run_id:
                    parts += self._end_unbegun()
                    break
                continue
            if chunk["type"] == "RUN_STARTED" and not self._starts(chunk):  # another process took over
                parts.append(self.fail(INTERRUPTED, INTERRUPTED_CODE))
                break
            self._render(chunk, offset_after(batch, at, len(messages), remote=remote), parts)
            if self.has_ended:
                break
        return b"".join(parts)

    def fail(self, message: str, code: str) -> bytes:
        """Return the end of a response that cannot wait for the run's own end. Nothing of it is in the log."""
        if self.has_ended:
            return b""
        error = run_error(self.run_id, self.session_id, timestamp=unix_ms(), message=message, code=code)
        parts: list[bytes] = []
        self._render(error, NOT_LOGGED, parts)
        return b"".join(parts)

    def _end_unbegun(self) -> list[bytes]:
        """Return the run of a message that was taken back: clients need its start and its end."""
        parts: list[bytes] = []
        self._render(run_started(self.run_id, self.session_id, timestamp=unix_ms()), NOT_LOGGED, parts)
        end = run_finished(self.run_id, self.session_id, timestamp=unix_ms(), stopped=True)
        self._render(end, NOT_LOGGED, parts)
        return parts

    def _belongs(self, chunk: Chunk) -> bool:
        kind = chunk["type"]
        if not self.has_begun:
            # A run that never began has only a terminal chunk.
            of_run = kind in ("RUN_STARTED", *ENDS) and chunk.get("runId") == self.run_id
            self.has_begun = of_run
            return of_run
        if kind in ENDS:
            return self._with_others or chunk.get("runId") in (None, self.run_id)
        return kind != "CUSTOM" or str(chunk.get("name")) not in INTERNAL

    def _starts(self, chunk: Chunk) -> bool:
        """Return whether the start of a run may be rendered. After the own one, none may."""
        is_own = chunk.get("runId") == self.run_id
        self._with_others = self._with_others and not is_own
        return is_own or self._with_others

    def _render(self, chunk: Chunk, offset: str, parts: list[bytes]) -> None:
        if self._retries is None:
            parts.append(self.wire.chunk(chunk, offset))
        else:
            parts += [self.wire.chunk(each, offset) for each in self._retries.take(chunk)]
        if chunk["type"] in ENDS and chunk.get("runId") in (None, self.run_id):
            self.has_ended = True
            parts.append(self.wire.end())
