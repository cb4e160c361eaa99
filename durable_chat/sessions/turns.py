"""
What a posted request means, decided from the transcript and the runs in flight alone, and what its turn begins with:
the chunks that show its message in every tab, and whether the model is asked at all.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, takewhile
from typing import Any, Protocol

from durable_chat.errors import InvalidRequest
from durable_chat.sessions.posted import PARSED_HERE_BYTES_MAX, Posted, import_history
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
from durable_chat.transcripts.conversions import to_ui_message
from durable_chat.transcripts.parts import text_chars
from durable_chat.transcripts.resumes import resumed
from durable_chat.transcripts.tool_answers import Answer, accepted, give_answers
from durable_chat.transcripts.transcript import Transcript

TURN_QUEUED = "durable-chat.turn-queued"
"""The CUSTOM chunk that acknowledges a turn which has to wait; its value holds the run's id and its message."""

SNAPSHOT_FRAME_BYTES = 100
"""What a snapshot takes beside its messages: its type and its time."""


class Meaning(Enum):
    """What a posted request means (DESIGN section 5, rules 1 to 8 in their order), and what is done."""

    SAME = "the same request as a run in flight: that run"
    CONTINUE = "answers to calls that wait: they are written, and the model goes on"
    RELEASE = "nothing new: an empty run, so that the tab which asked is released"
    IMPORT = "the first request of an empty session, with a history: that is written"
    NEW = "a new user message: it is shown and answered"
    START = "a known message that was never answered: it is, without an echo"
    EDIT = "a known message with other parts: it is replaced, and what follows it goes"
    REGENERATE = "a known message again: it is answered anew, and what follows it goes"


class Live(Protocol):
    """A run that is active or waits for its turn. One that is `closing` takes no more requests."""

    @property
    def keys(self) -> Collection[str]:
        """Those of the requests that it carries out: the first one's, and those of its repetitions."""
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
    """What a request means; `live` is the place of the run it is the same as; `answers` are those that count."""

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
    What a request means. While runs are `live` the transcript is that from before the active one, and what it leaves
    open is decided again when the request's own turn comes. Raises InvalidRequest.
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
    """The rules for a request whose last message is a user's."""
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
        raise InvalidRequest("The message id belongs to an answer.", code="bad_message")
    answers = _answers_before(transcript, known["id"], answers)
    # The rules put a start before an edit; an edit of a message that was never answered would be lost then.
    if not same_parts(user["parts"], known.get("parts")):
        return Decision(Meaning.EDIT, answers=answers)
    return Decision(Meaning.START if transcript.last_id == user["id"] else Meaning.REGENERATE, answers=answers)


def notice(
    posted: Posted, transcript: Transcript, live: Sequence[Live] = (), server_tools: Container[str] = ()
) -> Posted:
    """
    What was posted, with the answers that only the transcript shows to be some: those to interrupts, and those in older
    messages to calls that still wait. A request that answers, and ends with a user's message that is known or on its way,
    asks nothing with that: it is the history of the answer.
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
    """Those to calls that are not dropped with what follows the message."""
    if not answers:
        return ()
    before = takewhile(lambda message: message["id"] != message_id, transcript.shown())
    calls = {part["id"] for message in before for part in message["parts"] if part.get("type") == "tool-call"}
    return tuple(answer for answer in answers if answer.call_id in calls)


def _news(
    posted: Posted, transcript: Transcript, open_runs: Mapping[int, Live], server_tools: Container[str]
) -> tuple[Answer, ...]:
    """
    The answers that count. What a run in flight answers is taken; a call nobody has heard of may be one that the active
    run has just made.
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
    """The run in flight that a request with nothing new waits for: the one that has its answers, else the last."""
    called = {answer.call_id for answer in posted.answers}
    having = (at for at, run in open_runs.items() if called & run.answers)
    return next(having, max(open_runs, default=None))


@dataclass(frozen=True, slots=True)
class Opening:
    """
    What is written before RUN_STARTED, and the `results` right after it; the calls that were `approved` and are to be
    carried out; whether others still wait. `large` chunks are encoded off the event loop. `files` are made durable before
    the chunks, which refer to them. `released` says that the run answers nothing.
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
    When a turn begins: the time, whether it had to wait, and up to which size of it (in bytes of JSON) a snapshot of
    the session begins every turn, since that alone makes `status` and `onFinish` right in tabs that watch.
    """

    now_ms: int
    waited: bool = False
    snapshot_max_bytes: int = 0


class Ask(Protocol):
    """What a request wants of a session, decided when its turn comes, on the transcript as it is then."""

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The user message that makes it recognisable, when it has one."""
        ...

    @property
    def answers(self) -> frozenset[str]:
        """The tool calls it answers, which make it recognisable too."""
        ...

    @property
    def files(self) -> Sequence[Artifact]:
        """Those that its user message refers to."""
        ...

    def noticed(self, transcript: Transcript, live: Sequence[Live]) -> Ask:
        """The same, with what only the transcript shows that it is: an answer to a question of long ago."""
        ...

    def repeats(self, transcript: Transcript, live: Sequence[Live], key: str | None) -> Decision:
        """What it is while runs are in flight: the same as one of them, or a turn of its own."""
        ...

    async def open(self, transcript: Transcript, stage: Stage) -> Opening: ...

    def queued(self) -> Ask:
        """The same, without what is of no use once other turns are before it."""
        ...


@dataclass(frozen=True, slots=True)
class PostedAsk:
    """A posted chat body. What the tools of the server give is not a client's to say."""

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
        """The history is for a session that has none, and it may be long."""
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
    """A tab that answered too late shows its own answer; the snapshot puts right what differs."""
    differs = any(_differs(transcript, answer) for answer in answers)
    chunks = [messages_snapshot(transcript.messages(), timestamp=now_ms)] if differs else []
    return Opening(chunks, asks_model=False, released=True)


def _differs(transcript: Transcript, answer: Answer) -> bool:
    """Whether the log has something else than the answer; of a call it does not know there is nothing to show."""
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
    Always with a snapshot: no chunk says in every tab that a call was approved. With a message, that is answered. An
    answer that is late is carried out where its call is, and no more: the model has gone on without it, is not asked
    about what it has answered, and is told the result with the next message.
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
    """The messages up to the user's, which is as it was posted now where that differs; it comes last where it is new."""
    at = next((at for at, message in enumerate(messages) if message["id"] == user["id"]), len(messages))
    kept = messages[at : at + 1] if at < len(messages) and same_parts(user["parts"], messages[at].get("parts")) else []
    return [*messages[:at], *(kept or [_dated(user, now_ms)])]


@dataclass(frozen=True, slots=True)
class EchoAsk:
    """New messages of an application's own, each shown once; a known id is not shown again."""

    messages: tuple[Mapping[str, Any], ...]
    files: tuple[Artifact, ...] = ()

    @property
    def user(self) -> Mapping[str, Any] | None:
        return None

    @property
    def answers(self) -> frozenset[str]:
        return frozenset()

    def noticed(self, transcript: Transcript, live: Sequence[Live]) -> EchoAsk:
        return self

    def repeats(self, transcript: Transcript, live: Sequence[Live], key: str | None) -> Decision:
        return Decision(Meaning.NEW)

    def queued(self) -> EchoAsk:
        return self

    async def open(self, transcript: Transcript, stage: Stage) -> Opening:
        new = [message for message in self.messages if message["id"] not in transcript]
        return Opening(show_messages(transcript, new, stage), files=self.files)


def show_messages(transcript: Transcript, new: Sequence[Mapping[str, Any]], stage: Stage) -> list[Chunk]:
    """
    A snapshot with the new messages while it is short, where text chunks cannot say it all or would be taken for another
    message's, and after a wait: that heals the tab which sent in the middle of another answer. Else echoes.
    """
    dated = [_dated(message, stage.now_ms) for message in new]
    must = stage.waited or transcript.names_next or not all(map(can_echo, dated))
    if must or _is_short(transcript, dated, stage.snapshot_max_bytes):
        return [messages_snapshot([*transcript.messages(), *dated], timestamp=stage.now_ms)]
    return [chunk for message in dated for chunk in to_message_echo_chunks(message, timestamp=stage.now_ms)]


def _dated(message: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The message with the time it was made at, so that every tab shows the same one."""
    return {**message, "createdAt": created_at_of(message) or iso_time(now_ms)}


def _is_short(transcript: Transcript, new: Sequence[Mapping[str, Any]], bytes_max: int) -> bool:
    """Whether a snapshot takes at most `bytes_max`. No more is looked at than that, however long the session is."""
    left = bytes_max - SNAPSHOT_FRAME_BYTES
    for message in chain(new, transcript.shown()):
        if left <= 0 or text_chars(message) > left:
            return False
        left -= len(encode_chunk(with_metadata(message))) + 1
    return left >= 0


def queued_chunk(run_id: str, ask: Ask, now_ms: int) -> Chunk:
    value = {"runId": run_id, "message": dict(ask.user) if ask.user is not None else None}
    return {"type": "CUSTOM", "name": TURN_QUEUED, "value": value, "timestamp": now_ms}


def queued_turn(chunk: Chunk) -> tuple[str, Chunk | None] | None:
    """The inverse of `queued_chunk`: the run that waits, and its message; None for another chunk."""
    value = chunk.get("value")
    if chunk.get("name") != TURN_QUEUED or not isinstance(value, Mapping) or not isinstance(value.get("runId"), str):
        return None
    message = value.get("message")
    if isinstance(message, Mapping) and isinstance(message.get("id"), str) and message["id"]:
        return value["runId"], to_ui_message(message, lambda: message["id"])
    return value["runId"], None
