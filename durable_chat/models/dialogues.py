"""
A session's messages as any provider takes them: what users said, and answers in which every tool call has its result.

Each provider's shape is made from this one, so that it is decided once what becomes of calls that were interrupted or
refused, of doubled ids and of empty messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from durable_chat.transcripts.attachments import MEDIA_KINDS
from durable_chat.transcripts.chunks import InvalidChunk, decode_json, encode_json

UNANSWERED = "The call was interrupted before it had a result."
NOT_APPROVED = "The call was not approved."
FAILED = "The call failed."

Part = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a model and what it gave: text, or any JSON. `input` is an object, also where the arguments were none."""

    id: str
    name: str
    input: Mapping[str, Any]
    output: Any
    failed: bool

    @property
    def arguments(self) -> str:
        return encode_json(self.input).decode()

    @property
    def output_text(self) -> str:
        """The output as text; of an error never empty."""
        text = self.output if isinstance(self.output, str) else encode_json(self.output).decode()
        return FAILED if self.failed and not text.strip() else text


@dataclass(frozen=True, slots=True)
class Asked:
    """A user's message: its parts (text, images, audio, video, documents), none of them blank."""

    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Answered:
    """
    One answer of the model, up to where it waits for the results of its calls: text, thinking and calls in order. There
    is always something beside thinking.
    """

    parts: Sequence[Part | Call]

    @property
    def calls(self) -> list[Call]:
        return [part for part in self.parts if isinstance(part, Call)]

    @property
    def text(self) -> str:
        return "".join(text_in(part) for part in self.parts if not isinstance(part, Call))


def dialogue(messages: Iterable[Mapping[str, Any]]) -> list[Asked | Answered]:
    """
    UIMessages in the order in which they were said. System and developer roles are a client's word and are left out. A
    UIMessage may hold several rounds of a tool loop: what comes after a result begins the next.
    """
    listed = list(messages)
    results: dict[str, Part] = {}
    for message in listed:
        results |= {part["toolCallId"]: part for part in parts_of(message) if _is_result(part)}
    made: list[Asked | Answered] = []
    used: set[str] = set()
    for message in listed:
        if message.get("role") == "user":
            parts = [part for part in parts_of(message) if _is_asked(part)]
            made += [Asked(parts)] if parts else []
        elif message.get("role") == "assistant":
            made += _rounds(parts_of(message), results, used)
    return made


def _is_asked(part: Part) -> bool:
    """A part that a user can say: anything else in a user's message, such as thinking, is no provider's to read."""
    return part.get("type") in MEDIA_KINDS or (part.get("type") == "text" and bool(text_in(part)))


def _rounds(parts: Iterable[Part], results: Mapping[str, Part], used: set[str]) -> list[Answered]:
    rounds: list[list[Part | Call]] = [[]]
    here: set[str] = set()
    answered = False
    for part in parts:
        if _is_result(part):
            answered = answered or part["toolCallId"] in here
            continue
        said = _call(part, results, used) if part.get("type") == "tool-call" else _spoken(part)
        if said is None:
            continue
        if answered:
            rounds.append([])
            here, answered = set(), False
        rounds[-1].append(said)
        if isinstance(said, Call):
            here.add(said.id)
    return [Answered(said) for said in rounds if not all(map(_is_thinking, said))]


def _spoken(part: Part) -> Part | None:
    """A part with something in it that a model may be told of its own words."""
    if _is_thinking(part):
        content = part.get("content")
        return part if part.get("signature") or (isinstance(content, str) and content.strip()) else None
    return part if text_in(part) else None


def _call(part: Part, results: Mapping[str, Part], used: set[str]) -> Call | None:
    call_id, name = part.get("id"), part.get("name")
    if not isinstance(call_id, str) or not call_id or not isinstance(name, str) or not name or call_id in used:
        return None
    used.add(call_id)
    result = results.get(call_id)
    if result is not None:
        return Call(call_id, name, _input_of(part), result.get("content"), result.get("state") == "error")
    if part.get("output") is not None:
        return Call(call_id, name, _input_of(part), part["output"], part.get("state") == "error")
    asked = isinstance(part.get("approval"), Mapping) and part["approval"].get("approved") is not True
    return Call(call_id, name, _input_of(part), NOT_APPROVED if asked else UNANSWERED, failed=True)


def _input_of(part: Part) -> dict[str, Any]:
    """The call's arguments, which must be an object; of arguments cut short, none."""
    value = part.get("input")
    if not isinstance(value, Mapping):
        try:
            value = decode_json(str(part.get("arguments") or "{}"))
        except (InvalidChunk, msgspec.DecodeError):
            value = None
    return dict(value) if isinstance(value, Mapping) else {}


def text_in(part: Part) -> str:
    """The text of a text or structured-output part; empty where it is blank, and of any other part."""
    text = part.get("content") if part.get("type") == "text" else None
    if part.get("type") == "structured-output":
        text = part.get("raw")
    return text if isinstance(text, str) and text.strip() else ""


def parts_of(message: Mapping[str, Any]) -> list[Part]:
    parts = message.get("parts")
    if isinstance(parts, list | tuple):
        return [part for part in parts if isinstance(part, Mapping)]
    content = message.get("content")
    return [{"type": "text", "content": content}] if isinstance(content, str) else []


def _is_result(part: Part) -> bool:
    return part.get("type") == "tool-result" and isinstance(part.get("toolCallId"), str)


def _is_thinking(part: Part | Call) -> bool:
    return not isinstance(part, Call) and part.get("type") == "thinking"
