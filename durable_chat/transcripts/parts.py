"""
Messages that grow in constant time, and the state of what is being streamed into each.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import OURS, normalize_time
from durable_chat.transcripts.conversions import tanstack_of
from durable_chat.transcripts.runs.ends import RunEnd

DUPLICATES_MAX = 32
"""
Maximum messages with the same id, or with a call of the same id, that change together. Clients change all of them.
"""

LOOKED_BACK_MAX = 100
"""Maximum messages to search backwards for an answer. Most messages have one right before them."""

REPEATED_CHARS_MAX = 1024
"""
Maximum length of a text that is repeated. If more text arrives after a part that is not a call, clients repeat the text
before that part. Writers avoid this. For logs that contain such a sequence, only short texts are repeated, so that
messages do not grow faster than the log.
"""

METADATA_KEYS_MAX = 256
"""
Maximum keys in the metadata of a message, and in its `tanstack`. Each chunk with metadata copies all of them. Clients
write a handful.
"""

PARSED_MAX = 64
"""Maximum prefixes of unfinished JSON to try, longest first. All but the last few have the same value, or none."""

# Metadata that belongs to a delta and not to its message.
_NOT_MERGED = frozenset({"content", "args"})


class Rope:
    """
    Text that grows at its end in constant time. State: its pieces, which are joined when read, and their total length.
    """

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
    """The first `chars` characters of a rope: the text of a part whose rope may keep growing."""

    rope: Rope
    chars: int

    def text(self) -> str:
        return self.rope.text()[: self.chars]


class Progress:
    """
    The value of unfinished JSON: that of the longest prefix that has one, otherwise `before`. Parsed when read. State:
    the ends of the prefixes.
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
"""A part in the form it is shown, except that texts may be a Span or a Rope and unfinished JSON a Progress."""


class Message:
    """
    A message. State: its fields except `parts`; its parts; indexes of the parts by the keys that chunks use; the form
    in which it was last shown, until it changes.
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
        """Append a part. It is indexed if it is the first of its kind and id."""
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
        """Replace the old part, or append the part if there was none."""
        if old is None:
            self.add(part)
            return
        old.clear()
        old.update(part)
        self.shown = None

    def set_text(self, segment: Rope) -> None:
        """Show the segment as the last part: replace that part if it is text, otherwise append."""
        last = self.parts[-1] if self.parts else None
        part: Part = {"type": "text", "content": Span(segment, segment.chars)}
        self.put(last if last is not None and last.get("type") == "text" else None, part)

    def last_text(self) -> str:
        """Return the text of the last part, or an empty string if that part is not text."""
        last = self.parts[-1] if self.parts else {}
        content = last.get("content") if last.get("type") == "text" else ""
        return content.text() if isinstance(content, Span) else content if isinstance(content, str) else ""

    def is_blank(self) -> bool:
        """Whether the message has parts and all of them are blank text."""
        return bool(self.parts) and all(
            part.get("type") == "text" and javascript.is_blank(str(_shown_value(part.get("content"))))
            for part in self.parts
        )

    def show(self) -> dict[str, Any]:
        """Return the message as a UIMessage. It is cached until the message changes; do not modify it."""
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
    """
    Count the characters of texts in a shown message: a lower bound of its size in bytes, computed without encoding.
    """
    return sum(_text_chars(value) for part in message["parts"] for value in part.values())


def _text_chars(value: Any) -> int:
    if isinstance(value, Mapping):  # the source of a file
        value = value.get("value")
    return len(value) if isinstance(value, str) else 0


class Messages:
    """
    The messages in order. State: the messages by identity, and indexes by message id and by tool call id.

    An id occurs twice only in a damaged log. A chunk for it then changes all messages with that id, as in a client, up
    to DUPLICATES_MAX messages.
    """

    __slots__ = ("_by_call", "_by_id", "_listed")

    def __init__(self) -> None:
        self._listed: dict[int, Message] = {}
        self._by_id: dict[str, list[Message]] = {}
        self._by_call: dict[str, list[Message]] = {}

    @classmethod
    def of(cls, shown: Iterable[dict[str, Any]]) -> Messages:
        """Create from messages in their shown form."""
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
        """Add or replace the part of a tool call."""
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
        Record the end of a run on the last message, unless the answer is complete. A stop or a crash does not affect an
        answer that already existed `before` the run.
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
        """Remove a recorded end from the last message if it is a user's, because a new run answers it."""
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
        """Return this server's own part of a message's metadata, and all of the metadata."""
        metadata = message.fields.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        ours = metadata.get(OURS)
        return ours if isinstance(ours, Mapping) else {}, metadata

    def would_repeat(self, message_id: str, segment: Rope) -> bool:
        """Whether more text would appear after a non-text part and repeat more than REPEATED_CHARS_MAX characters."""
        if segment.chars <= REPEATED_CHARS_MAX:
            return False
        first = self.first(message_id)
        return first is not None and bool(first.parts) and first.parts[-1].get("type") != "text"

    def merge_metadata(self, message_id: str, metadata: Any) -> None:
        """Merge metadata of a chunk into its message. `tanstack` is merged key by key and may set the creation time."""
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
    """Return the last ids, newest first."""
    return islice(reversed(message_ids), LOOKED_BACK_MAX)


def _note(places: dict[str, list[Message]], key: str, message: Message) -> None:
    """
    Index a message under a key. Above DUPLICATES_MAX, keep the first message, which lookups return, and the newest
    ones.
    """
    listed = places.setdefault(key, [])
    listed.append(message)
    if len(listed) > DUPLICATES_MAX:
        del listed[1]


@dataclass(slots=True)
class Call:
    """A tool call that is being streamed. `state` is the state of its input only; the part may be in a later state."""

    name: str
    arguments: Rope = field(default_factory=Rope)
    state: str = "awaiting-input"
    metadata: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Streaming:
    """What is being streamed into a message: the current text segment, thinking by step, and tool calls."""

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
