"""
Decide what a posted request means, from the transcript and the runs in flight alone. Build the beginning of its turn:
the chunks that show its message in every tab, and whether the model is called.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, takewhile
from typing import Any, Protocol, Self

from durable_chat.errors import InvalidRequest
from durable_chat.sessions.running.posted import PARSED_HERE_BYTES_MAX, Posted, import_history
from durable_chat.transcripts.attachments import Artifact, same_parts
from durable_chat.transcripts.chunks import (
    Chunk,
    can_echo,
    created_at_of,
    encode_chunk,
    iso_time,
    messages_snapshot,
    to_message_echo_chunks,
    with_metadata,
)
from durable_chat.transcripts.parts import text_chars
from durable_chat.transcripts.resumes import resumed
from durable_chat.transcripts.tool_answers import Answer, accepted, give_answers
from durable_chat.transcripts.transcript import Transcript

SNAPSHOT_FRAME_BYTES = 100
"""The size of a snapshot without its messages: its type and its time."""


class Meaning(Enum):
    """
    The meaning of a posted request, and the action for it. The rules and their order are in docs/explanation/turns.md.
    """

    SAME = "same request as a run in flight: return that run"
    CONTINUE = "answers to waiting tool calls: write them, and let the model continue"
    RELEASE = "nothing new: write an empty run, so that the tab stops waiting"
    IMPORT = "first request of an empty session, with a history: write the history"
    NEW = "new user message: show and answer it"
    START = "known message without an answer: answer it without showing it again"
    EDIT = "known message with other parts: replace it and remove what follows"
    REGENERATE = "known message that was answered: remove what follows and answer it again"


class Live(Protocol):
    """A run that is active or waits for its turn. A `closing` run accepts no more requests."""

    @property
    def keys(self) -> Collection[str]:
        """The keys of its first request and of the repetitions."""
        ...

    @property
    def user_id(self) -> str | None: ...

    @property
    def answers(self) -> frozenset[str]:
        """The tool calls that its request answers."""
        ...

    @property
    def closing(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """The meaning of a request. `live` is the index of the run that it repeats; `answers` are those that count."""

    meaning: Meaning
    live: int | None = None
    answers: tuple[Answer, ...] = ()


def decide_turn(
    posted: Posted,
    transcript: Transcript,
    live: Sequence[Live] = (),
    *,
    key: str | None = None,
    server_tools: Container[str] = (),
) -> Decision:
    """
    Decide what a request means. While runs are `live`, the transcript is the one from before the active run, so the
    request is decided again at its own turn. Raises InvalidRequest.
    """
    if key is not None:
        same = next((at for at, run in enumerate(live) if key in run.keys), None)
        if same is not None:
            return Decision(Meaning.SAME, same)
    open_runs = {at: run for at, run in enumerate(live) if not run.closing}
    asked = posted.last_role == "user" and posted.user is not None
    answers = _news(posted, transcript, open_runs, server_tools)
    if not asked:
        if not len(transcript) and not live and len(posted.history) > 1:
            return Decision(Meaning.IMPORT)
        if answers:
            return Decision(Meaning.CONTINUE, answers=answers)
        same = _answering(posted, open_runs)
        return Decision(Meaning.RELEASE if same is None else Meaning.SAME, same)
    return _decide_message(posted, transcript, open_runs, answers)


def _decide_message(
    posted: Posted, transcript: Transcript, open_runs: Mapping[int, Live], answers: tuple[Answer, ...]
) -> Decision:
    """Apply the rules for a request whose last message is a user message."""
    user = posted.user
    assert user is not None
    same = next((at for at, run in open_runs.items() if run.user_id == user["id"]), None)
    known = transcript.message(user["id"])
    if same is not None:
        return Decision(Meaning.SAME, same)
    if known is None:
        if not len(transcript) and not open_runs and len(posted.history) > 1:
            return Decision(Meaning.IMPORT)
        return Decision(Meaning.NEW, answers=answers)
    if known["role"] != "user":
        raise InvalidRequest(
            "The id of the user message belongs to an answer in this session. Use a new id.", code="bad_message"
        )
    answers = _answers_before(transcript, known["id"], answers)
    # START comes before EDIT in the rules, but that would lose the edit of a message that was never answered.
    if not same_parts(user["parts"], known.get("parts")):
        return Decision(Meaning.EDIT, answers=answers)
    return Decision(Meaning.START if transcript.last_id == user["id"] else Meaning.REGENERATE, answers=answers)


def notice(
    posted: Posted, transcript: Transcript, live: Sequence[Live] = (), server_tools: Container[str] = ()
) -> Posted:
    """
    Add the answers that can only be recognised with the transcript: those to interrupts, and those in older messages to
    calls that still wait.

    If the request has answers and ends with a user message that is known or in flight, that message is only history. It
    is removed.
    """
    waiting = (answer for answer in posted.older if transcript.may_wait(answer.call_id))
    late = [answer for answer in waiting if accepted(transcript, answer, server_tools) is not None]
    found: dict[str, Answer] = {}
    for answer in (*resumed(posted.resume, transcript), *posted.answers, *late):
        found.setdefault(answer.call_id, answer)
    posted = replace(posted, answers=tuple(found.values()), older=())
    user_id = posted.user["id"] if posted.user is not None and posted.last_role == "user" else None
    open_runs = {at: run for at, run in enumerate(live) if not run.closing}
    is_live = user_id is not None and any(run.user_id == user_id for run in open_runs.values())
    answers = posted.resume or (is_live and _news(posted, transcript, open_runs, server_tools))
    if answers and (is_live or user_id in transcript):
        return replace(posted, user=None, last_role="")
    return posted


def _answers_before(transcript: Transcript, message_id: str, answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Keep the answers whose calls come before the message. Later calls are dropped with what follows it."""
    if not answers:
        return ()
    before = takewhile(lambda message: message["id"] != message_id, transcript.shown())
    calls = {part["id"] for message in before for part in message["parts"] if part.get("type") == "tool-call"}
    return tuple(answer for answer in answers if answer.call_id in calls)


def _news(
    posted: Posted, transcript: Transcript, open_runs: Mapping[int, Live], server_tools: Container[str]
) -> tuple[Answer, ...]:
    """
    Return the answers that count. Answers that a run in flight already has do not count. An answer to an unknown call
    counts while a run is in flight: that run may have just made the call.
    """
    news = []
    for answer in posted.answers:
        if any(answer.call_id in run.answers for run in open_runs.values()):
            continue
        taken = accepted(transcript, answer, server_tools)
        if taken is None and open_runs and transcript.calling(answer.call_id) is None:
            taken = answer
        if taken is not None:
            news.append(taken)
    return tuple(news)


def _answering(posted: Posted, open_runs: Mapping[int, Live]) -> int | None:
    """
    Return the run that a request with nothing new waits for: the one that has its answers, otherwise the last one.
    """
    called = {answer.call_id for answer in posted.answers}
    having = (at for at, run in open_runs.items() if called & run.answers)
    return next(having, max(open_runs, default=None))


@dataclass(frozen=True, slots=True)
class Opening:
    """
    The beginning of a turn. `chunks` are written before RUN_STARTED and `results` right after it. `approved` are the
    calls to carry out; `waits` says whether others still wait. `large` chunks are encoded off the event loop. `files`
    become durable before the chunks that refer to them. A `released` run answers nothing.
    """

    chunks: Sequence[Chunk] = ()
    asks_model: bool = True
    large: bool = False
    results: Sequence[Chunk] = ()
    approved: tuple[str, ...] = ()
    waits: bool = False
    files: Sequence[Artifact] = ()
    released: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """
    The circumstances in which a turn begins: the time, and whether it had to wait. A session whose snapshot has at most
    `snapshot_max_bytes` bytes of JSON begins every turn with a snapshot: only that makes `status` and `onFinish` right
    in tabs that watch.
    """

    now_ms: int
    waited: bool = False
    snapshot_max_bytes: int = 0


class Ask(Protocol):
    """What a request asks of a session. It is decided at its turn, on the transcript as it is then."""

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The user message that identifies it, if it has one."""
        ...

    @property
    def answers(self) -> frozenset[str]:
        """The tool calls that it answers. They identify it, too."""
        ...

    @property
    def files(self) -> Sequence[Artifact]:
        """The files that its user message refers to."""
        ...

    def noticed(self, transcript: Transcript, live: Sequence[Live]) -> Ask:
        """
        Return the request with the answers that only the transcript reveals, such as late answers to old questions.
        """
        ...

    def repeats(self, transcript: Transcript, live: Sequence[Live], key: str | None) -> Decision:
        """Decide whether it repeats one of the runs in flight, or is a turn of its own."""
        ...

    async def open(self, transcript: Transcript, stage: Stage) -> Opening: ...

    def queued(self) -> Ask:
        """Return the request without what is useless once other turns come before it."""
        ...


@dataclass(frozen=True, slots=True)
class PostedAsk:
    """A posted chat body. Clients must not supply the results of `server_tools`."""

    posted: Posted
    server_tools: frozenset[str] = frozenset()

    @property
    def user(self) -> Mapping[str, Any] | None:
        return self.posted.user if self.posted.last_role == "user" else None

    @property
    def answers(self) -> frozenset[str]:
        return frozenset(answer.call_id for answer in self.posted.answers)

    @property
    def files(self) -> Sequence[Artifact]:
        return self.posted.files

    def noticed(self, transcript: Transcript, live: Sequence[Live]) -> PostedAsk:
        return replace(self, posted=notice(self.posted, transcript, live, self.server_tools))

    def repeats(self, transcript: Transcript, live: Sequence[Live], key: str | None) -> Decision:
        return decide_turn(self.posted, transcript, live, key=key, server_tools=self.server_tools)

    def queued(self) -> PostedAsk:
        """Drop the history: it is only for a session that is empty, and it may be long."""
        return replace(self, posted=replace(self.posted, history=()))

    async def open(self, transcript: Transcript, stage: Stage) -> Opening:
        asked = self.noticed(transcript, ())
        decision = decide_turn(asked.posted, transcript, server_tools=self.server_tools)
        meaning, user = decision.meaning, asked.posted.user
        if meaning is Meaning.IMPORT:
            return await self._import(stage.now_ms)
        if meaning is Meaning.RELEASE:
            return _release(transcript, asked.posted.answers, stage.now_ms)
        if decision.answers:
            new = user if asked.user is not None else None
            return replace(_continue(transcript, decision.answers, new, stage.now_ms), files=self.files)
        assert user is not None
        if meaning is Meaning.NEW:
            return Opening(show_messages(transcript, [user], stage), files=self.files)
        if meaning is Meaning.START and not stage.waited:
            return Opening(show_messages(transcript, [], stage), files=self.files)
        messages = _with_message(transcript.messages(), user, stage.now_ms)
        return Opening([messages_snapshot(messages, timestamp=stage.now_ms)], files=self.files)

    async def _import(self, now_ms: int) -> Opening:
        messages, files = await import_history(self.posted)
        new_id = self.posted.user["id"] if self.posted.user is not None else None
        messages = [_dated(message, now_ms) if message["id"] == new_id else message for message in messages]
        large = self.posted.history_bytes > PARSED_HERE_BYTES_MAX
        asks_model = self.posted.last_role == "user"
        shown = messages_snapshot(messages, timestamp=now_ms)
        return Opening([shown], asks_model, large, files=files, released=not asks_model)


def _release(transcript: Transcript, answers: Sequence[Answer], now_ms: int) -> Opening:
    """
    End the turn of a tab that answered too late. If the tab shows something else than the log, write a snapshot to
    correct it.
    """
    differs = any(_differs(transcript, answer) for answer in answers)
    chunks = [messages_snapshot(transcript.messages(), timestamp=now_ms)] if differs else []
    return Opening(chunks, asks_model=False, released=True)


def _differs(transcript: Transcript, answer: Answer) -> bool:
    """Return whether the log differs from the answer. A call that the log does not contain has nothing to show."""
    call, result = transcript.asked(answer.call_id) or (None, None)
    if call is None:
        return False
    approval = call.get("approval") or {}
    if answer.approved not in (None, approval.get("approved")):
        return True
    return result is not None and answer.content not in (None, result.get("content"))


def _continue(
    transcript: Transcript, answers: Sequence[Answer], user: Mapping[str, Any] | None, now_ms: int
) -> Opening:
    """
    Continue after answers, and answer the new user message if there is one. Always write a snapshot, because no other
    chunk tells every tab that a call was approved.

    A late answer is applied at its call, which runs if it was approved. The model has continued without it, so it is
    not asked again. It receives the result with the next message.
    """
    given = give_answers(transcript, answers, now_ms)
    messages = given.messages if user is None else _with_message(given.messages, user, now_ms)
    waits = (given.waits or given.late) and user is None
    asks_model = bool(given.approved) or not waits
    shown = messages_snapshot(messages, timestamp=now_ms)
    return Opening([shown], asks_model, results=given.chunks, approved=given.approved, waits=waits)


def _with_message(
    messages: Sequence[Mapping[str, Any]], user: Mapping[str, Any], now_ms: int
) -> list[Mapping[str, Any]]:
    """
    Return the messages up to the user's message, which is replaced if the posted parts differ. A new message comes
    last.
    """
    at = next((at for at, message in enumerate(messages) if message["id"] == user["id"]), len(messages))
    kept = messages[at : at + 1] if at < len(messages) and same_parts(user["parts"], messages[at].get("parts")) else []
    return [*messages[:at], *(kept or [_dated(user, now_ms)])]


@dataclass(frozen=True, slots=True)
class _FixedAsk:
    """What is asked without a user's message, and means the same whatever the log says."""

    @property
    def user(self) -> Mapping[str, Any] | None:
        return None

    @property
    def answers(self) -> frozenset[str]:
        return frozenset()

    def noticed(self, transcript: Transcript, live: Sequence[Live]) -> Self:
        return self

    def queued(self) -> Self:
        return self


@dataclass(frozen=True, slots=True)
class EchoAsk(_FixedAsk):
    """New messages from the application itself. Each is shown once; a known id is not shown again."""

    messages: tuple[Mapping[str, Any], ...]
    files: tuple[Artifact, ...] = ()

    def repeats(self, transcript: Transcript, live: Sequence[Live], key: str | None) -> Decision:
        return Decision(Meaning.NEW)

    async def open(self, transcript: Transcript, stage: Stage) -> Opening:
        new = [message for message in self.messages if message["id"] not in transcript]
        return Opening(show_messages(transcript, new, stage), files=self.files)


@dataclass(frozen=True, slots=True)
class GenerationAsk(_FixedAsk):
    """A generation. It shows no message; `files` are those of its input."""

    files: tuple[Artifact, ...] = ()

    def repeats(self, transcript: Transcript, live: Sequence[Live], key: str | None) -> Decision:
        same = None if key is None else next((at for at, run in enumerate(live) if key in run.keys), None)
        return Decision(Meaning.NEW if same is None else Meaning.SAME, same)

    async def open(self, transcript: Transcript, stage: Stage) -> Opening:
        return Opening(files=self.files)


def show_messages(transcript: Transcript, new: Sequence[Mapping[str, Any]], stage: Stage) -> list[Chunk]:
    """
    Return the chunks that show the new messages: a snapshot, or echoes.

    A snapshot is written if it is short, if text chunks cannot express the messages, or if text would be taken for
    another message's. It is also written after a wait, to correct the tab that sent during another answer.
    """
    dated = [_dated(message, stage.now_ms) for message in new]
    must = stage.waited or transcript.names_next or not all(map(can_echo, dated))
    if must or _is_short(transcript, dated, stage.snapshot_max_bytes):
        return [messages_snapshot([*transcript.messages(), *dated], timestamp=stage.now_ms)]
    return [chunk for message in dated for chunk in to_message_echo_chunks(message, timestamp=stage.now_ms)]


def _dated(message: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """Return the message with its creation time, so that every tab shows the same time."""
    return {**message, "createdAt": created_at_of(message) or iso_time(now_ms)}


def _is_short(transcript: Transcript, new: Sequence[Mapping[str, Any]], bytes_max: int) -> bool:
    """
    Return whether a snapshot takes at most `bytes_max`. The work is bounded by that size, however long the session is.
    """
    left = bytes_max - SNAPSHOT_FRAME_BYTES
    for message in chain(new, transcript.shown()):
        if left <= 0 or text_chars(message) > left:
            return False
        left -= len(encode_chunk(with_metadata(message))) + 1
    return left >= 0
