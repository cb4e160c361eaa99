"""
A session's transcript: its chunks folded to messages one by one, readable at any time, and stored as bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from durable_chat.chat.chunks import InvalidChunk, decode_json, encode_json
from durable_chat.chat.folding import Fold, RunEnd
from durable_chat.chat.parts import Call, Message, Messages, Part, Progress, Rope, Span, Streaming

VERSION = 1
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
        return [message.show() for message in self._messages]

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
        """Everything needed to fold on, as JSON. Takes as long as the session is large."""
        ropes = _Ropes()
        state = {
            "messages": [[message.fields, [ropes.pack(part) for part in message.parts]] for message in self._messages],
            "streaming": {message_id: ropes.pack_streaming(s) for message_id, s in self._streaming.items()},
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
        return encode_json({"version": VERSION, "ropes": [rope.text() for rope in ropes.listed], **state})

    @classmethod
    def from_bytes(cls, data: bytes) -> Transcript:
        """The transcript that was stored. Raises ValueError for what is none, or is of another version."""
        state = decode_json(data)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise InvalidChunk("The stored transcript is of another version.")
        made = cls()
        ropes = _Ropes([Rope(text) for text in state["ropes"]])
        made._messages = Messages()
        for fields, parts in state["messages"]:
            made._messages.append(Message(fields, [ropes.unpack(part) for part in parts]))
        made._streaming = {key: ropes.unpack_streaming(packed) for key, packed in state["streaming"].items()}
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
    State: the ropes, and their numbers by identity.
    """

    def __init__(self, listed: list[Rope] | None = None) -> None:
        self.listed = listed or []
        self._numbers: dict[int, int] = {}

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
