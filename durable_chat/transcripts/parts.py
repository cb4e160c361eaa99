"""
Messages that can be added to in constant time, and what is being streamed into each.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import OURS, normalize_time
from durable_chat.transcripts.conversions import tanstack_of
from durable_chat.transcripts.run_ends import RunEnd

DUPLICATES_MAX = 32
"""Messages of one id, and messages that hold a call of one id, which change together. Clients change all of them."""

LOOKED_BACK_MAX = 100
"""Messages without an answer among them, after which none is looked for any further: there is one after most messages."""

REPEATED_CHARS_MAX = 1024
"""
Clients repeat a text before a part that is no call, whenever more text comes after it. No writer lets them; of a log that
does, only the repetition of short texts is shown, so that what is shown grows no faster than the log.
"""

METADATA_KEYS_MAX = 256
"""Of a message, and of `tanstack` in it: all are copied when a chunk says one more. Clients write a handful."""

PARSED_MAX = 64
"""Ends of unfinished JSON that are tried, from the last one back. All but the last few give the same value, or none."""

# Metadata of a delta that is the delta's own, not the message's.
_NOT_MERGED = frozenset({"content", "args"})


class Rope:
    """Text that grows at its end in constant time. State: its pieces, joined when it is read, and their length."""

    __slots__ = ("chars", "pieces")

    def __init__(self, text: str = "") -> None:
        self.pieces = [text] if text else []
        self.chars = len(text)

    def append(self, delta: str) -> None:
        self.pieces.append(delta)
        self.chars += len(delta)

    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


@dataclass(frozen=True, slots=True)
class Span:
    """The first `chars` characters of a rope: what a part shows of a text that others may go on with."""

    rope: Rope
    chars: int

    def text(self) -> str:
        return self.rope.text()[: self.chars]


class Progress:
    """
    What can be read of unfinished JSON: the value of the longest piece that has one, else what was there before.
    Parsed when it is read. State: where the pieces end.
    """

    __slots__ = ("before", "ends", "rope")

    def __init__(self, rope: Rope, before: Any, ends: list[int]) -> None:
        self.rope = rope
        self.before = before
        self.ends = ends

    def value(self) -> Any:
        text = self.rope.text()
        for end in self.ends[: -PARSED_MAX - 1 : -1]:
            value = javascript.parse_partial(text[:end])
            if value is not None:
                return value
        return self.before


Part = dict[str, Any]
"""A part as it is shown, but that texts in it may be a Span and unfinished JSON a Progress."""


class Message:
    """
    A message. State: its fields but `parts`, its parts, the parts that chunks look for by what they look for, and the
    message as it was last shown, until it changes.
    """

    __slots__ = ("calls", "fields", "parts", "results", "shown", "steps", "structured")

    def __init__(self, fields: dict[str, Any], parts: list[Part]) -> None:
        self.fields = fields
        self.parts: list[Part] = []
        self.calls: dict[str, Part] = {}
        self.results: dict[str, Part] = {}
        self.steps: dict[str, Part] = {}
        self.structured: Part | None = None
        self.shown: dict[str, Any] | None = None
        for part in parts:
            self.add(part)

    @property
    def id(self) -> str:
        return str(self.fields["id"])

    def add(self, part: Part) -> None:
        """A part at the end, found from now on where it is the first of its kind and id."""
        self.parts.append(part)
        self.shown = None
        kind = part.get("type")
        if kind == "tool-call":
            self.calls.setdefault(str(part.get("id")), part)
        elif kind == "tool-result":
            self.results.setdefault(str(part.get("toolCallId")), part)
        elif kind == "thinking" and "stepId" in part:
            self.steps.setdefault(str(part["stepId"]), part)
        elif kind == "structured-output" and self.structured is None:
            self.structured = part

    def put(self, old: Part | None, part: Part) -> None:
        """The part in the place of the old one; at the end when there was none."""
        if old is None:
            self.add(part)
            return
        old.clear()
        old.update(part)
        self.shown = None

    def set_text(self, segment: Rope) -> None:
        """The segment as the last part: in its place when that is text, else after it."""
        last = self.parts[-1] if self.parts else None
        part: Part = {"type": "text", "content": Span(segment, segment.chars)}
        self.put(last if last is not None and last.get("type") == "text" else None, part)

    def last_text(self) -> str:
        """The text of the last part, when it is text."""
        last = self.parts[-1] if self.parts else {}
        content = last.get("content") if last.get("type") == "text" else ""
        return content.text() if isinstance(content, Span) else content if isinstance(content, str) else ""

    def is_blank(self) -> bool:
        """Whether it holds some text and nothing but white space."""
        return bool(self.parts) and all(
            part.get("type") == "text" and javascript.is_blank(str(_shown_value(part.get("content"))))
            for part in self.parts
        )

    def show(self) -> dict[str, Any]:
        """The message as UIMessage. Kept until it changes, so it must not be changed."""
        if self.shown is None:
            self.shown = {**self.fields, "parts": [shown_part(part) for part in self.parts]}
        return self.shown


def shown_part(part: Part) -> Part:
    made = {key: _shown_value(value) for key, value in part.items()}
    if isinstance(part.get("partial"), Progress) and made["partial"] is None:
        del made["partial"]
    return made


def _shown_value(value: Any) -> Any:
    if isinstance(value, Span | Rope):
        return value.text()
    return value.value() if isinstance(value, Progress) else value


def text_chars(message: Mapping[str, Any]) -> int:
    """Characters of the texts in a message that is shown: fewer than the bytes it takes, and counted without encoding."""
    return sum(_text_chars(value) for part in message["parts"] for value in part.values())


def _text_chars(value: Any) -> int:
    if isinstance(value, Mapping):  # the source of a file
        value = value.get("value")
    return len(value) if isinstance(value, str) else 0


class Messages:
    """
    The messages in their order. State: them, by their identity, and where they are by id and by the tool calls they hold.
    An id is there twice only in a damaged log; what happens to it then happens to both, as in a client, and to the last
    DUPLICATES_MAX where there are more.
    """

    __slots__ = ("_by_call", "_by_id", "_listed")

    def __init__(self) -> None:
        self._listed: dict[int, Message] = {}
        self._by_id: dict[str, list[Message]] = {}
        self._by_call: dict[str, list[Message]] = {}

    @classmethod
    def of(cls, shown: Iterable[dict[str, Any]]) -> Messages:
        """These messages, as they are shown."""
        made = cls()
        for message in shown:
            made.append(Message({key: value for key, value in message.items() if key != "parts"}, message["parts"]))
        return made

    def __len__(self) -> int:
        return len(self._listed)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._listed.values())

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._by_id

    @property
    def call_ids(self) -> Container[str]:
        return self._by_call.keys()

    @property
    def last_id(self) -> str | None:
        return None if self._last is None else self._last.id

    @property
    def _last(self) -> Message | None:
        return next(reversed(self._listed.values()), None)

    def named(self, message_id: str | None) -> Sequence[Message]:
        return self._by_id.get(message_id, ()) if message_id else ()

    def calling(self, call_id: str) -> Sequence[Message]:
        return self._by_call.get(call_id, ())

    def first(self, message_id: str | None) -> Message | None:
        return next(iter(self.named(message_id)), None)

    def append(self, message: Message) -> None:
        self._listed[id(message)] = message
        _note(self._by_id, message.id, message)
        for call_id in message.calls:
            _note(self._by_call, call_id, message)

    def put_call(self, message: Message, call_id: str, part: Part) -> None:
        """The part of a tool call, in the place of the one before it."""
        old = message.calls.get(call_id)
        if old is None:
            _note(self._by_call, call_id, message)
        message.put(old, part)

    def rename(self, old: str, new: str) -> None:
        for message in self._by_id.pop(old, []):
            message.fields["id"] = new
            message.shown = None
            _note(self._by_id, new, message)

    def remove(self, message_id: str) -> None:
        for message in self._by_id.pop(message_id, []):
            for call_id in message.calls:
                if message in self._by_call[call_id]:
                    self._by_call[call_id].remove(message)
            del self._listed[id(message)]

    def note_end(self, end: RunEnd, before: str | None) -> None:
        """
        The last message says how the run at its end ended, unless it is whole. An answer that was there `before` the run
        was not stopped or cut with it.
        """
        message = self._last
        if message is None or end.is_ordinary:
            return
        begun = message.id != before or message.fields.get("role") == "user"
        if begun or end.error is not None:
            ours, metadata = self._ours(message)
            message.fields["metadata"] = {**metadata, OURS: {**ours, "run": end.shown()}}
            message.shown = None

    def forget_end(self) -> None:
        """A run begins: the user's message that comes last is being answered after all."""
        message = self._last
        if message is None or message.fields.get("role") != "user":
            return
        ours, metadata = self._ours(message)
        if "run" in ours:
            ours = {key: value for key, value in ours.items() if key != "run"}
            rest = {key: value for key, value in metadata.items() if key != OURS}
            message.fields["metadata"] = rest | ({OURS: ours} if ours else {})
            message.shown = None

    @staticmethod
    def _ours(message: Message) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What a message's metadata says of this server's, and all of it."""
        metadata = message.fields.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        ours = metadata.get(OURS)
        return ours if isinstance(ours, Mapping) else {}, metadata

    def would_repeat(self, message_id: str, segment: Rope) -> bool:
        """Whether more of a text would be shown after a part that is none, with more of it repeated than may be."""
        if segment.chars <= REPEATED_CHARS_MAX:
            return False
        first = self.first(message_id)
        return first is not None and bool(first.parts) and first.parts[-1].get("type") != "text"

    def merge_metadata(self, message_id: str, metadata: Any) -> None:
        """What a chunk says of its message; `tanstack` is merged key by key, and says when it was made."""
        first = self.first(message_id)
        if first is None or not isinstance(metadata, Mapping):
            return
        before = first.fields.get("metadata")
        before = before if isinstance(before, Mapping) else {}
        if len(before) + len(metadata) > METADATA_KEYS_MAX:
            return
        merged = {**before, **metadata}
        if isinstance(metadata.get("tanstack"), Mapping):
            own = {key: value for key, value in metadata["tanstack"].items() if key not in _NOT_MERGED}
            kept = before.get("tanstack")
            kept = kept if isinstance(kept, Mapping) else {}
            merged["tanstack"] = {**kept, **own} if len(kept) + len(own) <= METADATA_KEYS_MAX else kept
        created_at = normalize_time(tanstack_of(metadata).get("createdAt"))
        for message in self.named(message_id):
            message.fields["metadata"] = merged
            message.fields |= {"createdAt": created_at} if created_at else {}
            message.shown = None


def last_of(message_ids: dict[str, Any]) -> Iterable[str]:
    """The last of the ids, from the end."""
    return islice(reversed(message_ids), LOOKED_BACK_MAX)


def _note(places: dict[str, list[Message]], key: str, message: Message) -> None:
    """A message under a key. Of too many the first one stays, since it is the one that is found, and the last ones do."""
    listed = places.setdefault(key, [])
    listed.append(message)
    if len(listed) > DUPLICATES_MAX:
        del listed[1]


@dataclass(slots=True)
class Call:
    """A tool call being streamed; `state` is its input's alone, the part's may be further."""

    name: str
    arguments: Rope = field(default_factory=Rope)
    state: str = "awaiting-input"
    metadata: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Streaming:
    """What is being streamed into a message: the current text segment, thinking by step, tool calls."""

    role: str
    segment: Rope = field(default_factory=Rope)
    after_call: bool = False
    step: str | None = None
    steps: dict[str, Rope] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)

    def new_segment(self) -> None:
        self.segment = Rope()
        self.after_call = False
