"""
A turn to be answered, and the answer while it is being written.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import durable_chat.metrics as metrics
from durable_chat.config.settings import Settings
from durable_chat.errors import DurableChatError
from durable_chat.models.base import Model, ToolSpec
from durable_chat.models.choosing import KEY_VARIABLES
from durable_chat.sessions.recovering.leases import Lease
from durable_chat.sessions.recovering.plans import Plan
from durable_chat.sessions.running.idempotency import Seen
from durable_chat.sessions.running.model_streams import Pump
from durable_chat.sessions.running.turns import Ask

Verdict = Literal["stopped", "interrupted", "lost"]
"""Why a run ends before its model does: a client stopped it, the server shuts down, or the log cannot be written."""


@dataclass(frozen=True, slots=True)
class Job:
    """
    A turn to answer: its session, its model, its key, and the client's run that it continues. A generation has an
    `activity` and an `input`, see `Turn`. `is_applications`: the model is the one that the application chooses for this
    kind of turn, so that another process can go on with it after a crash.
    """

    session_id: str
    model: Model
    data: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    key: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    parent_run_id: str | None = None
    activity: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    turns: str | None = None
    """What the turn does while an answer is running, if it is not what the settings say."""
    is_applications: bool = False

    @property
    def generation(self) -> Mapping[str, Any]:
        """What RUN_STARTED records of a generation, so that it can be resumed after a crash. Empty for a chat."""
        return {} if self.activity is None else {"activity": self.activity, "input": dict(self.input)}

    def plan(self, approved: tuple[str, ...] = (), *, waits: bool = False) -> Plan | None:
        """
        Return what it takes to go on with the run after a crash. None if that is impossible without the user's key.
        """
        if not self.is_applications or self.api_key:
            return None
        return Plan(dict(self.data), self.tools, approved, waits)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets to remove from everything that is shown of the answer: the caller's own key, and the model's."""
        own = (self.api_key,) if self.api_key else ()
        return (*own, *getattr(self.model, "secrets", ()))


class Run:
    """
    One answer. Mutable state: `keys`, the keys of its requests; `after`, the deletion that it waits for; `ask`, until
    its turn comes; `offset`, where its chunks begin, once `accepted` is done; `failure`, if it could not be written;
    `error`, the message of its RUN_ERROR; `writing`, once its chunks are next in the log; `ending`, once its last chunk
    is being written; `joined`, if another process carries it out; `verdict`; `steers`, if a running answer may hear its
    message; `waits`, from its acknowledgment to its turn; `appends`, of its chunks while it waits; `withdrawn`, whether
    its message was taken back, once someone has tried; `is_shown`, while tabs may still show it; `heir`, the run whose
    message its model hears; `pump`, the model that goes on in this run; `outlasts`, if its work goes on without this
    process; `left`, if a shutdown left it to the next process.

    `resumes` is how often its log says that it was taken up after a crash.
    """

    lease: Lease
    """The lease of a run that this process carries out."""

    ticket: asyncio.Future[None]
    """Its place in the session's queue of turns."""

    def __init__(self, session_id: str, key: str | None = None, ask: Ask | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.steers = self.waits = self.is_shown = False
        self.appends = 0
        self.api_key: str | None = None
        self.withdrawn: asyncio.Future[bool] | None = None
        self.heir: Run | None = None
        self.pump: Pump | None = None
        self.ask = ask
        self.user_id = None if ask is None or ask.user is None else str(ask.user["id"])
        self.answers = frozenset[str]() if ask is None else ask.answers
        self.id = f"run-{uuid.uuid4()}"
        self.session_id = session_id
        self.after: asyncio.Future[None] | None = None
        self.keys = [] if key is None else [key]
        self.offset: str | None = None
        self.failure: DurableChatError | None = None
        self.error: str | None = None
        self.writing = self.ending = self.joined = False
        self.outlasts = self.left = False
        self.resumes = 0
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.verdict: asyncio.Future[Verdict] = loop.create_future()

    @classmethod
    def of_seen(cls, session_id: str, seen: Seen) -> Run:
        """Return a run that ended before this process started, or whose end is stored."""
        run = cls(session_id)
        run.id, run.error = seen.run_id, seen.error
        run.accept(seen.offset)
        run.ended.set_result(None)
        return run

    @classmethod
    def of_waiting(cls, session_id: str, run_id: str, offset: str, keys: list[str], ask: Ask) -> Run:
        """Return a run that waited in another process, which acknowledged it, and that waits again here."""
        run = cls(session_id, ask=ask)
        run.id, run.keys = run_id, keys
        run.accept(offset)
        return run

    @classmethod
    def of_dead(cls, session_id: str, run_id: str, offset: str, keys: list[str], resumes: int) -> Run:
        """Return a run that another process began, at an offset, and that goes on here."""
        run = cls(session_id)
        run.id, run.keys, run.writing, run.resumes = run_id, keys, True, resumes
        run.accept(offset)
        return run

    def accept(self, offset: str) -> None:
        if not self.accepted.done():
            self.offset = offset
            self.accepted.set_result(None)

    def join(self, run_id: str, offset: str) -> None:
        """Mark the run as carried out by another process, under another id."""
        self.id, self.joined = run_id, True
        self.accept(offset)

    def end(self, failure: DurableChatError | None = None) -> None:
        if self.ended.done():
            return
        self.failure = self.failure or failure
        if self.offset is not None and not self.joined:  # otherwise it never began, or another process counts it
            metrics.runs.add(self._outcome())
        for waited in (self.accepted, self.ended):
            if not waited.done():
                waited.set_result(None)

    def _outcome(self) -> str:
        verdict = self.verdict.result() if self.verdict.done() else None
        if self.failure is None and verdict in ("stopped", "interrupted"):
            return str(verdict)
        return "finished" if self.failure is None and self.error is None else "failed"

    def halt(self, verdict: Verdict) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)

    @property
    def halted(self) -> bool:
        return self.verdict.done()

    @property
    def is_stopped(self) -> bool:
        """Whether a client stopped it and its end is not in the log yet."""
        return self.verdict.done() and self.verdict.result() == "stopped" and not self.ended.done()

    @property
    def closing(self) -> bool:
        """Whether it was stopped, or its last chunk is being written."""
        return self.halted or self.ending


def server_secrets(settings: Settings) -> tuple[str, ...]:
    """Return the providers' keys in the environment, and the secrets in the settings."""
    keys = (os.environ.get(variable, "").strip() for variable in KEY_VARIABLES)
    found = (*keys, settings.secret, settings.token_secret)
    return tuple(secret for secret in found if secret)
