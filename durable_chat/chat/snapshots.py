"""
A session's transcript: its chunks folded to messages one by one, readable at any time, and stored as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from durable_chat.chat.chunks import InvalidChunk, decode_json, encode_json
from durable_chat.chat.folding import Fold
from durable_chat.chat.parts import Call, Message, Part, Progress, Rope, Span, Streaming
from durable_chat.chat.run_ends import RunEnd

VERSION = 3
"""Of the stored form. A transcript of another version is folded again from the log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The session's messages (UIMessages) folded up to `offset`, from which to read on."""

    messages: list[dict[str, Any]]
    offset: str


class Transcript(Fold):
    """
    The messages of a session: message for message what TanStack AI's client has after the same chunks. Each chunk
    takes constant time; texts are joined when they are read.
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
        """The messages as UIMessages. They are shared with later answers: not to be changed."""
        return list(self.shown())

    def shown(self) -> Iterator[dict[str, Any]]:
        """The same, for whoever may not need all of them."""
        return (message.show() for message in self._messages)

    def message(self, message_id: str) -> dict[str, Any] | None:
        """One message by its id."""
        found = self._messages.first(message_id)
        return None if found is None else found.show()

    @property
    def names_next(self) -> bool:
        """Whether clients would take the next message that starts for one without an id that came before it."""
        return self._waiting_id is not None

    @property
    def last_id(self) -> str | None:
        """The last message's id."""
        return self._messages.last_id

    def calling(self, call_id: str) -> dict[str, Any] | None:
        """The message that holds a tool call, by the call's id."""
        found = next(iter(self._messages.calling(call_id)), None)
        return None if found is None else found.show()

    def copy(self) -> Transcript:
        """Another with the same messages; what is folded into one does not show in the other."""
        return Transcript.from_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Everything needed to fold on, as lines of JSON. Takes as long as the session is large."""
        return b"\n".join(self.lines())

    def lines(self) -> Iterator[bytes]:
        """The same, line by line, so that no step is long: the state, each message, and what is streamed into them."""
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
                "generated": self._generated,
                "last_end": None if self.last_end is None else asdict(self.last_end),
            }
        )
        for message in self._messages:
            yield ropes.line([message.fields, [ropes.pack(part) for part in message.parts]])
        for message_id, streaming in self._streaming.items():
            yield ropes.line([message_id, ropes.pack_streaming(streaming)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Transcript:
        """The transcript that was stored. Raises ValueError for what is none, or is of another version."""
        lines = iter(data.split(b"\n"))
        state = decode_json(next(lines))
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise InvalidChunk("The stored transcript is of another version.")
        made, ropes = cls(), _Ropes()
        for line in islice(lines, state["messages"]):
            fields, parts = ropes.take(line)
            made._messages.append(Message(fields, [ropes.unpack(part) for part in parts]))
        for line in lines:
            message_id, packed = ropes.take(line)
            made._streaming[message_id] = ropes.unpack_streaming(packed)
        made._active = dict.fromkeys(state["active"])
        made._routes = state["routes"]
        made._waiting_id, made._waiting_step = state["waiting"]
        made._structured = dict.fromkeys(state["structured"])
        made._runs = dict.fromkeys(state["runs"])
        made._open_runs = dict.fromkeys(state["open_runs"])
        made._failed, made._generated = state["failed"], state["generated"]
        made.last_end = None if state["last_end"] is None else RunEnd(**state["last_end"])
        return made


class _Ropes:
    """
    The ropes of a transcript by number, so that a part and what is streamed into it share one again.
    State: the ropes, their numbers by identity, and how many are in the lines that were made.
    """

    def __init__(self) -> None:
        self.listed: list[Rope] = []
        self._numbers: dict[int, int] = {}
        self._written = 0

    def line(self, packed: Any) -> bytes:
        """What was packed, with the ropes that are new in it."""
        new = [rope.text() for rope in self.listed[self._written :]]
        self._written = len(self.listed)
        return encode_json([new, packed])

    def take(self, line: bytes) -> Any:
        """What was packed into a line, its ropes listed."""
        new, packed = decode_json(line)
        self.listed += map(Rope, new)
        return packed

    def number(self, rope: Rope) -> int:
        if id(rope) not in self._numbers:
            self._numbers[id(rope)] = len(self.listed)
            self.listed.append(rope)
        return self._numbers[id(rope)]

    def pack(self, part: Part) -> list[Any]:
        """A part's plain fields, its spans, its whole ropes and its unfinished JSON."""
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

    def unpack_streaming(self, packed: list[Any]) -> Streaming:
        role, segment, after_call, step, steps, signatures, calls = packed
        return Streaming(
            role=role,
            segment=self.listed[segment],
            after_call=after_call,
            step=step,
            steps={name: self.listed[number] for name, number in steps.items()},
            signatures=signatures,
            calls={
                call_id: Call(name, self.listed[number], state, metadata)
                for call_id, (name, number, state, metadata) in calls.items()
            },
        )
