"""
What a turn begins with: the chunks that show its user message in every tab, and whether the model is asked at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from durable_chat.chat.bodies import LARGE_BYTES, Posted, import_history
from durable_chat.chat.chunks import (
    Chunk,
    can_echo,
    created_at_of,
    encode_chunk,
    iso_time,
    messages_snapshot,
    to_message_echo_chunks,
    with_metadata,
)
from durable_chat.chat.parts import text_chars
from durable_chat.chat.snapshots import Transcript
from durable_chat.errors import InvalidRequest

TURN_QUEUED = "durable-chat.turn-queued"
"""The CUSTOM chunk that acknowledges a turn which has to wait; its value holds the run's id and its message."""

SNAPSHOT_FRAME_BYTES = 100
"""What a snapshot takes beside its messages: its type and its time."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What is written before RUN_STARTED. `large` chunks are encoded off the event loop."""

    chunks: Sequence[Chunk] = ()
    asks_model: bool = True
    large: bool = False


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

    async def open(self, transcript: Transcript, stage: Stage) -> Opening: ...

    def queued(self) -> Ask:
        """The same, without what is of no use once other turns are before it."""
        ...


@dataclass(frozen=True, slots=True)
class PostedAsk:
    """A posted chat body (DESIGN section 5, rules 3 to 8 of what a request means; a key is looked at before)."""

    posted: Posted

    @property
    def user(self) -> Mapping[str, Any] | None:
        return self.posted.user if self.posted.last_role == "user" else None

    def queued(self) -> PostedAsk:
        """The history is for a session that has none, and it may be long."""
        posted = self.posted
        return PostedAsk(Posted(posted.user, posted.last_role, (), posted.data, posted.session_ids))

    async def open(self, transcript: Transcript, stage: Stage) -> Opening:
        user = self.posted.user
        if len(transcript) == 0 and len(self.posted.history) > 1:
            return await self._import(stage.now_ms)
        if self.posted.last_role != "user":
            return Opening(asks_model=False)  # answers given already: the tab is released
        if user["id"] not in transcript:
            return Opening(show_messages(transcript, [user], stage))
        return _again(transcript, user, stage)

    async def _import(self, now_ms: int) -> Opening:
        messages = await import_history(self.posted)
        new = self.posted.user
        messages = [_dated(message, now_ms) if message is new else message for message in messages]
        large = self.posted.history_bytes >= LARGE_BYTES
        asks_model = self.posted.last_role == "user"
        return Opening([messages_snapshot(messages, timestamp=now_ms)], asks_model, large)


@dataclass(frozen=True, slots=True)
class EchoAsk:
    """New messages of an application's own, each shown once; a known id is not shown again."""

    messages: tuple[Mapping[str, Any], ...]

    @property
    def user(self) -> Mapping[str, Any] | None:
        return None

    def queued(self) -> EchoAsk:
        return self

    async def open(self, transcript: Transcript, stage: Stage) -> Opening:
        new = [message for message in self.messages if message["id"] not in transcript]
        return Opening(show_messages(transcript, new, stage))


def show_messages(transcript: Transcript, new: Sequence[Mapping[str, Any]], stage: Stage) -> list[Chunk]:
    """
    A snapshot with the new messages while it is short, where text chunks cannot say it all, and after a wait: that
    heals the tab which sent in the middle of another answer. Else echoes.
    """
    dated = [_dated(message, stage.now_ms) for message in new]
    if stage.waited or not all(map(can_echo, dated)) or _is_short(transcript, dated, stage.snapshot_max_bytes):
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


def _again(transcript: Transcript, user: Mapping[str, Any], stage: Stage) -> Opening:
    """A known message: its first answer if it has none yet, else another one in place of what follows it."""
    messages = transcript.messages()
    at = next(at for at, message in enumerate(messages) if message["id"] == user["id"])
    if messages[at]["role"] != "user":
        raise InvalidRequest("The message id belongs to an answer.", code="bad_message")
    if at == len(messages) - 1 and not stage.waited:
        return Opening(show_messages(transcript, [], stage))
    edited = user["parts"] != messages[at].get("parts")
    kept = [*messages[:at], _dated(user, stage.now_ms) if edited else messages[at]]
    return Opening([messages_snapshot(kept, timestamp=stage.now_ms)])


def queued_chunk(run_id: str, ask: Ask, now_ms: int) -> Chunk:
    value = {"runId": run_id, "message": dict(ask.user) if ask.user is not None else None}
    return {"type": "CUSTOM", "name": TURN_QUEUED, "value": value, "timestamp": now_ms}


def queued_turn(chunk: Chunk) -> tuple[str, Chunk | None] | None:
    """The inverse of `queued_chunk`: the run that waits, and its message; None for another chunk."""
    value = chunk.get("value")
    if chunk.get("name") != TURN_QUEUED or not isinstance(value, Mapping) or not isinstance(value.get("runId"), str):
        return None
    message = value.get("message")
    if isinstance(message, Mapping) and isinstance(message.get("id"), str):
        return value["runId"], dict(message)
    return value["runId"], None
