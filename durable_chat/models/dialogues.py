"""
A session's messages in a form that any provider accepts: what users said, and answers in which every tool call has a
result.

Each provider's format is built from this one. Rules for interrupted or refused calls, duplicate ids and empty messages
are therefore in one place.
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
    """
    A tool call of a model and its output: text, or any JSON value. `input` is always an object, even if the arguments
    were not.
    """

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
        """The output as text, which is never empty for an error."""
        text = self.output if isinstance(self.output, str) else encode_json(self.output).decode()
        return FAILED if self.failed and not text.strip() else text


@dataclass(frozen=True, slots=True)
class Asked:
    """A user's message: its parts (text, images, audio, video, documents), none of which is blank."""

    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Answered:
    """
    One answer of the model, up to where it waits for the results of its calls: text, thinking and calls in order. It
    never contains only thinking.
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
    Convert UIMessages to a dialogue, in order. System and developer messages come from clients and are left out. A
    UIMessage may contain several rounds of a tool loop: a part after a result starts the next round.
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
    """
    Return whether a user can send this part. Other parts of a user's message, such as thinking, are not passed to
    providers.
    """
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
    """Return the part if it has content that the model may receive as its own words, otherwise None."""
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
    """Return the call's arguments as an object; empty if they were cut off."""
    value = part.get("input")
    if not isinstance(value, Mapping):
        try:
            value = decode_json(str(part.get("arguments") or "{}"))
        except (InvalidChunk, msgspec.DecodeError):
            value = None
    return dict(value) if isinstance(value, Mapping) else {}


def text_in(part: Part) -> str:
    """Return the text of a text or structured-output part; empty if it is blank or another part."""
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
