"""
What a turn begins with: the chunks that show its user message in every tab, and whether the model is asked at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from durable_chat.chat.bodies import LARGE_BYTES, Posted, import_history
from durable_chat.chat.chunks import Chunk, can_echo, messages_snapshot, to_message_echo_chunks
from durable_chat.chat.snapshots import Transcript
from durable_chat.errors import InvalidRequest

TURN_QUEUED = "durable-chat.turn-queued"
"""The CUSTOM chunk that acknowledges a turn which has to wait; its value holds the run's id and its message."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What is written before RUN_STARTED. `large` chunks are encoded off the event loop."""

    chunks: Sequence[Chunk] = ()
    asks_model: bool = True
    large: bool = False


class Ask(Protocol):
    """What a request wants of a session, decided when its turn comes, on the transcript as it is then."""

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The user message that makes it recognisable, when it has one."""
        ...

    async def open(self, transcript: Transcript, *, waited: bool, now_ms: int) -> Opening: ...

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

    async def open(self, transcript: Transcript, *, waited: bool, now_ms: int) -> Opening:
        user = self.posted.user
        if len(transcript) == 0 and len(self.posted.history) > 1:
            return await self._import(now_ms)
        if self.posted.last_role != "user":
            return Opening(asks_model=False)  # answers given already: the tab is released
        if user["id"] not in transcript:
            return Opening(show_messages(transcript, [user], waited=waited, now_ms=now_ms))
        return _again(transcript, user, waited=waited, now_ms=now_ms)

    async def _import(self, now_ms: int) -> Opening:
        messages = await import_history(self.posted)
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

    async def open(self, transcript: Transcript, *, waited: bool, now_ms: int) -> Opening:
        new = [message for message in self.messages if message["id"] not in transcript]
        return Opening(show_messages(transcript, new, waited=waited, now_ms=now_ms))


def show_messages(
    transcript: Transcript, new: Sequence[Mapping[str, Any]], *, waited: bool, now_ms: int
) -> list[Chunk]:
    """
    Echoes, or a snapshot where text chunks cannot say it all, and after a wait: that heals the tab which sent in the
    middle of another answer.
    """
    if waited or not all(map(can_echo, new)):
        return [messages_snapshot([*transcript.messages(), *new], timestamp=now_ms)]
    return [chunk for message in new for chunk in to_message_echo_chunks(message, timestamp=now_ms)]


def _again(transcript: Transcript, user: Mapping[str, Any], *, waited: bool, now_ms: int) -> Opening:
    """A known message: its first answer if it has none yet, else another one in place of what follows it."""
    messages = transcript.messages()
    at = next(at for at, message in enumerate(messages) if message["id"] == user["id"])
    if messages[at]["role"] != "user":
        raise InvalidRequest("The message id belongs to an answer.", code="bad_message")
    if at == len(messages) - 1 and not waited:
        return Opening()
    edited = user["parts"] != messages[at].get("parts")
    kept = [*messages[:at], user if edited else messages[at]]
    return Opening([messages_snapshot(kept, timestamp=now_ms)])


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
