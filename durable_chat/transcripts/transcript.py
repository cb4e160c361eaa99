"""
A session's transcript: chunks folded to messages one by one, readable at any time, and stored as bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, TypeVar

import msgspec

from durable_chat.transcripts.chunks import NESTING_MAX, InvalidChunk, decode_json, encode_json
from durable_chat.transcripts.context_summaries import Context
from durable_chat.transcripts.folding.containments import contain
from durable_chat.transcripts.folding.fold import Fold
from durable_chat.transcripts.parts import Call, Message, Part, Progress, Rope, Span, Streaming, shown_part
from durable_chat.transcripts.runs.ends import RunEnd
from durable_chat.transcripts.schemas import transcript_problem

VERSION = 6
"""The version of the stored form. A transcript of another version is folded again from the log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The session's messages (UIMessages) folded up to `offset`. Reading continues from there."""

    messages: list[dict[str, Any]]
    offset: str


class _State(msgspec.Struct):
    """The first line of the stored form: the state of a fold except its messages."""

    version: int
    messages: int
    active: list[str]
    routes: dict[str, str]
    waiting: tuple[str | None, str | None]
    structured: list[str]
    runs: list[str | None]
    open_runs: list[str]
    failed: bool
    before: str | None
    generated: int
    last_end: RunEnd | None
    context: Context


class _Packed(msgspec.Struct, array_like=True):
    """What is being streamed into a message, with ropes replaced by their numbers."""

    role: str
    segment: int
    after_call: bool
    step: str | None
    steps: dict[str, int]
    signatures: dict[str, str]
    calls: dict[str, tuple[str, int, str, dict[str, Any] | None]]


_LEVELS_MAX = NESTING_MAX + 16
"""Maximum nesting of a line. The values of a chunk are some levels deeper in it."""

Kind = TypeVar("Kind")


def _read(value: Any, kind: type[Kind]) -> Kind:
    """Convert a stored value. Raises InvalidChunk when it is damaged."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidChunk(f"The stored transcript is damaged: {error}.") from error


class Transcript(Fold):
    """
    The messages of a session, identical to those of TanStack AI's client after the same chunks. Each chunk takes
    constant time. Texts are joined when they are read.
    """

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._messages

    @property
    def active_runs(self) -> tuple[str, ...]:
        """The runs that have started and not ended, oldest first."""
        return tuple(self._open_runs)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages as UIMessages. Later calls return the same objects; do not modify them."""
        return list(self.shown())

    def shown(self) -> Iterator[dict[str, Any]]:
        """Like `messages`, for callers that may not need all of them."""
        return (message.show() for message in self._messages)

    def message(self, message_id: str) -> dict[str, Any] | None:
        """Return one message by its id, or None."""
        found = self._messages.first(message_id)
        return None if found is None else found.show()

    @property
    def names_next(self) -> bool:
        """Whether clients would give the id of the next message that starts to an earlier message without an id."""
        return self._waiting_id is not None

    @property
    def last_id(self) -> str | None:
        """The last message's id."""
        return self._messages.last_id

    @property
    def call_ids(self) -> Container[str]:
        """The ids of the tool calls in the last snapshot and since then."""
        return self._messages.call_ids

    def may_wait(self, call_id: str) -> bool:
        """
        Whether a tool call may still wait for an answer: a quick check, since most calls of a session were answered
        long ago.
        """
        owner = next(iter(self._messages.calling(call_id)), None)
        part = None if owner is None else owner.calls.get(call_id)
        return part is not None and part.get("output") is None and part.get("state") not in ("complete", "error")

    def calling(self, call_id: str) -> dict[str, Any] | None:
        """Return the message that contains a tool call, by the call's id."""
        found = next(iter(self._messages.calling(call_id)), None)
        return None if found is None else found.show()

    async def fold_apart(self, snapshot: Mapping[str, Any]) -> None:
        """Apply a MESSAGES_SNAPSHOT, which may be long, in a thread. Nothing else may be folded meanwhile."""
        messages = snapshot.get("messages")
        if not isinstance(messages, list):
            return
        try:
            self.replace(*await asyncio.to_thread(self.shape, messages))
        except Exception as error:  # noqa: BLE001 - as in `fold`
            contain(error, "MESSAGES_SNAPSHOT")

    def asked(self, call_id: str) -> tuple[Part, Part | None] | None:
        """
        Return a tool call and its result by the call's id. Takes constant time, however many calls its message has.
        """
        found = next(iter(self._messages.calling(call_id)), None)
        return None if found is None else (shown_part(found.calls[call_id]), found.results.get(call_id))

    def copy(self) -> Transcript:
        """Return an independent copy."""
        return Transcript.from_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """
        Return the state needed to continue folding, as lines of JSON. Takes time proportional to the session's size.
        """
        return b"\n".join(self.lines())

    def lines(self) -> Iterator[bytes]:
        """
        Yield the stored form line by line, so that no step is long: the state, each message, and what is being streamed
        into them.
        """
        ropes = _Ropes()
        yield encode_json(
            {
                "version": VERSION,
                "messages": len(self),
                "active": list(self._active),
                "routes": self._routes,
                "waiting": [self._waiting_id, self._waiting_step],
                "structured": list(self._structured),
                "runs": list(self._runs),
                "open_runs": list(self._open_runs),
                "failed": self._failed,
                "before": self._before,
                "generated": self._generated,
                "last_end": None if self.last_end is None else _fields_of(self.last_end),
                "context": self.context,
            }
        )
        for message in self._messages:
            yield ropes.line([message.fields, [ropes.pack(part) for part in message.parts]])
        for message_id, streaming in self._streaming.items():
            yield ropes.line([message_id, ropes.pack_streaming(streaming)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Transcript:
        """
        Restore a stored transcript. Raises ValueError if the data is not a transcript of this version. Damaged data may
        also raise LookupError, TypeError or AttributeError.
        """
        lines = iter(data.split(b"\n"))
        state = decode_json(next(lines), _LEVELS_MAX)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise InvalidChunk("The stored transcript has another version.")
        made, ropes = cls(), _Ropes()
        made._take_state(_read(state, _State))
        for line in islice(lines, state["messages"]):
            told, parts = ropes.take(line)
            made._messages.append(Message(told, [ropes.unpack(part) for part in parts]))
        for line in lines:
            message_id, packed = ropes.take(line)
            made._take_streaming(_read(message_id, str), ropes.unpack_streaming(_read(packed, _Packed)))
        problem = transcript_problem(made.messages())
        if problem is not None:
            raise InvalidChunk(f"The stored transcript is damaged: {problem}.")
        return made

    def _take_streaming(self, message_id: str, streaming: Streaming) -> None:
        self._streaming[message_id] = streaming
        for call_id, call in streaming.calls.items():
            if call.state != "input-complete":
                self._open_calls[message_id, call_id] = call

    def _take_state(self, state: _State) -> None:
        self._active = dict.fromkeys(state.active)
        self._routes = state.routes
        self._waiting_id, self._waiting_step = state.waiting
        self._structured = dict.fromkeys(state.structured)
        self._runs = dict.fromkeys(state.runs)
        self._open_runs = dict.fromkeys(state.open_runs)
        self._failed, self._before = state.failed, state.before
        self._generated, self.last_end, self.context = state.generated, state.last_end, state.context


def _fields_of(end: RunEnd) -> dict[str, Any]:
    """Return the fields of a RunEnd. `asdict` recurses in Python, and `usage` may be deeply nested."""
    return {field.name: getattr(end, field.name) for field in fields(end)}


class _Ropes:
    """
    The ropes of a transcript by number, so that a restored part and its stream share one rope. State: the ropes, their
    numbers by identity, and how many are in the lines already made.
    """

    def __init__(self) -> None:
        self.listed: list[Rope] = []
        self._numbers: dict[int, int] = {}
        self._written = 0

    def line(self, packed: Any) -> bytes:
        """Return a line with the packed value and the ropes that are new in it."""
        new = [rope.text() for rope in self.listed[self._written :]]
        self._written = len(self.listed)
        return encode_json([new, packed])

    def take(self, line: bytes) -> Any:
        """Return the value packed into a line, and register its ropes."""
        new, packed = decode_json(line, _LEVELS_MAX)
        self.listed += map(Rope, _read(new, list[str]))
        return packed

    def number(self, rope: Rope) -> int:
        if id(rope) not in self._numbers:
            self._numbers[id(rope)] = len(self.listed)
            self.listed.append(rope)
        return self._numbers[id(rope)]

    def pack(self, part: Part) -> list[Any]:
        """Return a part's plain fields, spans, whole ropes and unfinished JSON, without empty entries at the end."""
        plain, spans, ropes, progress = {}, {}, {}, {}
        for key, value in part.items():
            if isinstance(value, Span):
                spans[key] = [self.number(value.rope), value.chars]
            elif isinstance(value, Rope):
                ropes[key] = self.number(value)
            elif isinstance(value, Progress):
                progress[key] = [self.number(value.rope), value.before, value.ends]
            else:
                plain[key] = value
        packed = [plain, spans, ropes, progress]
        while not packed[-1] and len(packed) > 1:
            packed.pop()
        return packed

    def unpack(self, packed: list[Any]) -> Part:
        plain, spans, ropes, progress = packed + [{}] * (4 - len(packed))
        made: Part = dict(plain)
        made |= {key: Span(self.listed[number], chars) for key, (number, chars) in spans.items()}
        made |= {key: self.listed[number] for key, number in ropes.items()}
        made |= {key: Progress(self.listed[number], before, ends) for key, (number, before, ends) in progress.items()}
        return made

    def pack_streaming(self, streaming: Streaming) -> list[Any]:
        steps = {step: self.number(rope) for step, rope in streaming.steps.items()}
        calls = {
            call_id: [call.name, self.number(call.arguments), call.state, call.metadata]
            for call_id, call in streaming.calls.items()
        }
        return [
            streaming.role,
            self.number(streaming.segment),
            streaming.after_call,
            streaming.step,
            steps,
            streaming.signatures,
            calls,
        ]

    def unpack_streaming(self, packed: _Packed) -> Streaming:
        return Streaming(
            role=packed.role,
            segment=self.listed[packed.segment],
            after_call=packed.after_call,
            step=packed.step,
            steps={name: self.listed[number] for name, number in packed.steps.items()},
            signatures=packed.signatures,
            calls={
                call_id: Call(name, self.listed[number], state, metadata)
                for call_id, (name, number, state, metadata) in packed.calls.items()
            },
        )
