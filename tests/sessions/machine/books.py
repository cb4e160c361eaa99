"""
What a session has to be, kept in the plainest way: the messages of its user, the requests in their order, the questions
and their first answers. It is told what was sent, reads along in the log, and says where the log is wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from durable_chat.models.anthropic.messages import to_anthropic, tools_named_in
from durable_chat.transcripts.tool_answers import call_of
from durable_chat.transcripts.transcript import Transcript
from tests.models.strict import refusals
from tests.sessions.machine.gates import Event
from tests.transcripts.logs import Chunks

Said = tuple[str, str]
Answer = bool | str
WORD = re.compile(r"\[(\w+)\.(\d+)\]")


@dataclass(frozen=True, slots=True)
class Ask:
    """
    A request: the user's message, or answers to calls (several to one call when tabs say different things at once); the
    user's messages in the history that came with it.
    """

    user: Said | None = None
    answers: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    history: tuple[Said, ...] = ()


@dataclass(slots=True)
class Run:
    """
    What became of a request that was accepted. `group` is that of requests sent at once, whose order is not known;
    `ends` are the ends it may have; `lost`, when its process died before its turn came; `told`, the messages the model
    is to be given; `asks`, whether it is asked (None: it may be); `steers`, whether the answer before it may hear it.
    """

    id: str
    ask: Ask
    group: int
    ends: set[str]
    asks: bool | None = True
    started: bool = False
    stopped: bool = False
    steers: bool = False
    lost: bool = False
    told: list[Said] = field(default_factory=list)
    asked: int = 0
    words: int = 0
    end: str | None = None


@dataclass(slots=True)
class Call:
    """A tool call: after which message of the user it came, in which message it is, and how it was answered."""

    user_id: str
    message_id: str
    name: str = ""
    open: bool = False
    answer: Answer | None = None


class Book:
    """Mutable state: what its fields say; `chunks`, the log so far; what is kept of the session before it was deleted."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.runs: dict[str, Run] = {}
        self.posted: dict[str, str] = {}
        """All messages of the user that were ever sent, with their last text."""
        self.stale: list[dict[str, Any]] = []
        self.stale_calls: dict[str, Call] = {}
        self.begin()

    def begin(self) -> None:
        """An empty session."""
        self.users: list[Said] = []
        self.calls: dict[str, Call] = {}
        self.keys: dict[str, str] = {}
        self.line: list[Run] = []
        self.chunks: Chunks = []
        self.results = Counter[str]()
        self.transcript = Transcript()
        self.maybe: Ask | None = None
        self.owes = False
        """Whether a snapshot must come without a message that was taken back, when the answer before it is over."""

    @property
    def active(self) -> Run | None:
        return next((run for run in self.line if run.started), None)

    # What is sent.

    def same(self, ask: Ask, key: str | None) -> str | None:
        """The run that a request must be the same as, when it is sent while nothing moves."""
        if key is not None and key in self.keys:
            return self.keys[key]
        if ask.user is None:
            return None
        wanted = (run.id for run in self.line if not run.stopped and run.ask.user is not None)
        return next((run_id for run_id in wanted if self.runs[run_id].ask.user[0] == ask.user[0]), None)  # type: ignore[index]

    def accept(self, run_id: str, ask: Ask, key: str | None, group: int, *, steers: bool = False) -> None:
        """A request that was answered with 202."""
        if key is not None:
            assert self.keys.setdefault(key, run_id) == run_id, "a key is of two runs"
        if ask.user is not None:
            self.posted.setdefault(*ask.user)
        if run_id in self.runs:
            return
        ends = {"failed" if ask.user is not None and "fail" in ask.user[1].split() else "finished"}
        self.runs[run_id] = run = Run(run_id, ask, group, ends)
        self.line.append(run)
        if steers:
            self.steer(run)

    def steer(self, run: Run) -> None:
        """The answer before it may hear it. If it hears a further one as well, that one has the answer."""
        run.steers, run.asks = True, None
        run.ends = run.ends | {"finished"}

    def advance(self, run: Run) -> None:
        """Its message is sent now: it is the next one."""
        self.line.remove(run)
        self.line.insert(1 if self.active else 0, run)

    def take_back(self, run: Run) -> None:
        """Its message is gone, and the model is not asked."""
        run.end, run.asks = "taken back", False
        self.line.remove(run)
        self.owes = True

    def adopt(self, run_id: str) -> None:
        """The run of a request whose sender has not heard of it, or not what became of it before the process died."""
        assert self.maybe is not None, "a run that nobody asked for"
        ask, self.maybe = self.maybe, None
        self.runs[run_id] = Run(run_id, ask, 0, {"interrupted", "finished", "failed"}, asks=None)
        self.line.append(self.runs[run_id])

    def stop(self, runs: Iterable[Run]) -> None:
        for run in runs:
            run.stopped = True
            run.ends = {"stopped"}
            run.asks = run.asked == 1  # it was held, or waited

    def die(self) -> None:
        """The process is gone: whoever waited is lost."""
        self.owes = False
        for run in self.line:
            run.ends, run.lost = {"interrupted"}, not run.started
            run.asks = run.asked == 1

    def drain(self, *, free: bool) -> None:
        """The process was told to end, and its runs were held or not. What waits is begun, to be ended."""
        for run in self.line:
            run.ends = run.ends | {"interrupted"} if free else {"interrupted"} | ({"stopped"} if run.stopped else set())
            if run.asks and run.asked == 0:
                run.asks = None if free else False

    # What is in the log.

    def read(self, chunks: Chunks) -> None:
        for chunk in chunks:
            self.take(chunk)

    def take(self, chunk: dict[str, Any]) -> None:
        kind = chunk["type"]
        if kind == "RUN_STARTED":
            self._start(chunk["runId"])
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            self._end(chunk)
        elif kind == "TEXT_MESSAGE_START" and chunk["role"] == "user":
            assert chunk["messageId"] not in self.transcript, "a message is echoed twice"
        elif kind == "TEXT_MESSAGE_CONTENT":
            self._words(chunk["delta"])
        elif kind == "MESSAGES_SNAPSHOT" and self.active is None:
            self.owes = False
        elif kind.startswith("TOOL_CALL") or kind == "CUSTOM":
            self._call(kind, chunk)
        self.transcript.fold(chunk)
        self.chunks.append(chunk)

    def _start(self, run_id: str) -> None:
        assert self.active is None, "two runs at once"
        if run_id not in self.runs:
            self.adopt(run_id)
        run = self.runs[run_id]
        assert run.end is None, "a run started again"
        steering = next((other for other in self.line if other.steers), None)
        assert run.group == self.line[0].group or run in (self.line[0], steering), "a run jumped the queue"
        run.started = True
        self._apply(run)
        run.told = list(self.users)

    def _apply(self, run: Run) -> None:
        """What a request does when its turn comes. What was lost shows its message, and does nothing else."""
        if run.ask.user is not None:
            self._put(run.ask.user, run)
        elif run.lost or not self._goes_on(run):
            run.asks = False

    def _put(self, user: Said, run: Run) -> None:
        known = [message_id for message_id, _ in self.users]
        if not self.users and run.ask.history and not run.lost:
            self.users = [*run.ask.history, user]
            self.calls = deepcopy(self.stale_calls)
        elif user[0] not in known:
            self.users.append(user)
        elif not run.lost:
            at = known.index(user[0])
            self.users[at:] = [user]
            self.calls = {call_id: call for call_id, call in self.calls.items() if call.user_id in known[:at]}

    def _goes_on(self, run: Run) -> bool:
        """The first answer to each call counts. Whether the model goes on: not with calls that the user has left behind."""
        news = [call_id for call_id in run.ask.answers if call_id in self.calls and self.calls[call_id].open]
        for call_id in news:
            call = self.calls[call_id]
            call.open = False
            call.answer = self._shown_answer(call_id)
            assert call.answer in run.ask.answers[call_id], "nobody has answered so"
        in_time = [self.calls[call_id] for call_id in news if self.calls[call_id].user_id == self.users[-1][0]]
        touched = {call.message_id for call in in_time}
        waits = any(call.open and call.message_id in touched for call in self.calls.values())
        return bool(in_time) and not waits

    def _shown_answer(self, call_id: str) -> Answer | None:
        message = self.transcript.calling(call_id)
        assert message is not None
        part = call_of(message, call_id)
        assert part is not None
        answer: Answer | None = part["approval"].get("approved") if part.get("approval") else part.get("output")
        return answer

    def _end(self, chunk: dict[str, Any]) -> None:
        run = self.active
        assert run is not None, "an end without a start"
        assert chunk["runId"] == run.id, "an end of another run"
        if chunk["type"] == "RUN_ERROR":
            run.end = chunk["code"]
        else:
            run.end = "stopped" if chunk["metadata"]["tanstack"].get("stopped") else "finished"
        if any(other.steers for other in self.line) and run.asks is True:
            run.asks = None  # what it was to be asked, the run of the message that it heard was asked
        assert run.end in run.ends, f"{run.id} ended as {run.end}, not {run.ends}"
        self.line.remove(run)

    def _words(self, delta: str) -> None:
        run = self.active
        for tag, number in WORD.findall(delta):
            assert run is not None, "a word outside of its run"
            assert tag == run.id[4:12], "a word of another run"
            assert int(number) == run.words, f"word {number} after {run.words} words"
            run.words += 1

    def _call(self, kind: str, chunk: dict[str, Any]) -> None:
        value = chunk.get("value") or {}
        call_id = str(chunk.get("toolCallId") or value.get("toolCallId"))
        if kind == "TOOL_CALL_START" and call_id not in self.calls:
            self.calls[call_id] = Call(self.users[-1][0], chunk["parentMessageId"], chunk["toolCallName"])
        elif kind == "CUSTOM" and call_id in self.calls:
            self.calls[call_id].open = True
        elif kind == "TOOL_CALL_RESULT":
            self.results[call_id] += 1
            assert self.results[call_id] == 1, "a call has two results"
            if call_id in self.calls:
                self.calls[call_id].open = False

    # What the model was asked.

    def check_asked(self, events: Iterable[Event]) -> None:
        """Each accepted request at most once, with the right messages, in a form that a provider takes."""
        for event in events:
            run = self.runs[event["run"]]
            users = [message for message in event["messages"] if message["role"] == "user"]
            assert [(message["id"], message["parts"][0]["content"]) for message in users] == run.told
            conversation = to_anthropic(event["messages"])
            assert refusals({"messages": conversation, "tools": tools_named_in(conversation)}) == []
            if event["step"] == 0:
                run.asked += 1
                assert run.asked == 1, "the model was asked twice for one request"
                assert run.asks is not False, "the model was asked for nothing"

    def check_ended(self) -> None:
        """When nothing runs: every request was carried out."""
        for run in self.runs.values():
            assert run.end is not None, "a run without an end"
            assert run.asks is None or run.asked == int(run.asks), f"{run.id} asked {run.asked} times, not {run.asks}"
        shown = [message for message in self.transcript.messages() if message["role"] == "user"]
        assert [(message["id"], message["parts"][0]["content"]) for message in shown] == self.users
        for call_id, call in self.calls.items():
            if call.answer is not None:
                shown_now = self._shown_answer(call_id)
                assert shown_now == call.answer, f"an answer was changed: {call_id}, {call}, {shown_now}"

    def delete(self) -> None:
        """The session is deleted; its tabs still show it."""
        if len(self.transcript):
            self.stale = deepcopy(self.transcript.messages())
            self.stale_calls = deepcopy(self.calls)
        self.runs.clear()
        self.begin()
