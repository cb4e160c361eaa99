"""
The content of a posted body: the message and answers of the turn, and the history that an empty session imports.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from durable_chat.errors import InvalidRequest
from durable_chat.models.base import ToolSpec
from durable_chat.transcripts.answers.call_names import with_unique_calls
from durable_chat.transcripts.attachments import Artifact, Detacher, has_long_data
from durable_chat.transcripts.chunks import MESSAGE_ID_CHARS_MAX, OURS, InvalidChunk, created_at_of, decode_json, is_id
from durable_chat.transcripts.resumes import Resume
from durable_chat.transcripts.tool_answers import Answer

PARSED_HERE_BYTES_MAX = 32 * 1024
"""Longer bodies are parsed in a thread. Checking a body of this length takes a few milliseconds."""

LARGE_BYTES = 256 * 1024
"""
Longer files are decoded in a thread. Below this size, decoding (about 1 ms) costs less than switching to a thread.
"""

_ROLES = frozenset({"user", "assistant"})


@dataclass(frozen=True, slots=True)
class Posted:
    """
    A posted body. `user` is the newest user message, as a UIMessage with an id. `last_role` is the last message's role.
    `answers` are the answers to tool calls in the messages next to it, `older` those in earlier messages. `tools` are
    the client's own tools. `session_ids` are the session ids in the body.

    `resume` holds AG-UI's answers to interrupts. `run_id` is the client's id of this request, and `parent_run_id` that
    of the run it continues. `history` is all messages as they came, for an empty session. After the long files are
    detached, `files` are those of the user message, and `detacher` detaches those of the history.
    """

    user: dict[str, Any] | None
    last_role: str
    history: tuple[msgspec.Raw, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    session_ids: frozenset[str] = frozenset()
    answers: tuple[Answer, ...] = ()
    older: tuple[Answer, ...] = ()
    resume: tuple[Resume, ...] = ()
    run_id: str | None = None
    parent_run_id: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    files: tuple[Artifact, ...] = ()
    detacher: Detacher | None = None

    @property
    def history_bytes(self) -> int:
        return sum(len(bytes(raw)) for raw in self.history)


def decoded(raw: msgspec.Raw) -> Any:
    """Return the value of raw JSON. Raises InvalidRequest."""
    try:
        return decode_json(bytes(raw))
    except InvalidChunk as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error


def to_ui_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a valid posted message with `parts`, `metadata`, and a new id if it has none. Raises InvalidRequest for an
    invalid id.
    """
    message_id = message.get("id")
    if message_id is None:
        message_id = new_message_id()
    if not is_id(message_id):
        raise InvalidRequest(
            f"A message id must be a string of 1 to {MESSAGE_ID_CHARS_MAX} characters.", code="bad_message"
        )
    metadata = message.get("metadata")
    shaped = {
        "id": message_id,
        "role": message.get("role"),
        "parts": _parts(message),
        "metadata": posted_metadata(metadata),
    }
    created_at = created_at_of(message)
    return shaped | ({"createdAt": created_at} if created_at else {})


def posted_metadata(metadata: Any) -> dict[str, Any]:
    """
    Return a client's metadata of a message, without the keys that only this server sets, such as the run's outcome.
    """
    return {key: value for key, value in metadata.items() if key != OURS} if isinstance(metadata, dict) else {}


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = message.get("parts")
    if parts is None:
        parts = message.get("content") or []
    if isinstance(parts, str):
        parts = [{"type": "text", "content": parts}] if parts else []
    return [_part(part) for part in parts]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Rename `text` to `content`: AG-UI and the AI SDK write a text part's text as `text`."""
    if part["type"] == "text" and part.get("content") is None:
        return {**{key: value for key, value in part.items() if key != "text"}, "content": part["text"]}
    return dict(part)


def new_message_id() -> str:
    return f"msg-{uuid.uuid4()}"


async def detach_files(posted: Posted, detacher: Detacher) -> Posted:
    """Detach the long files of the user message. Raises InvalidRequest and TooLarge."""
    posted = replace(posted, detacher=detacher)
    user = posted.user
    if user is None or posted.last_role != "user":  # other messages are already in the log
        return posted
    long = has_long_data([user], LARGE_BYTES)
    user, files = await asyncio.to_thread(detacher.detach, user) if long else detacher.detach(user)
    return replace(posted, user=user, files=tuple(files))


Imported = tuple[list[dict[str, Any]], list[Artifact]]
"""Messages and their files."""


async def import_history(posted: Posted) -> Imported:
    """
    Return all posted messages as UIMessages, with `posted.user` as the newest user message, and their long files.
    Raises InvalidRequest and TooLarge.
    """
    if posted.history_bytes <= PARSED_HERE_BYTES_MAX:
        return _import_detached(posted)
    return await asyncio.to_thread(_import_detached, posted)


def _import_detached(posted: Posted) -> Imported:
    messages = _import(posted)
    if posted.detacher is None:
        return messages, []
    # The user message's files are already detached.
    messages, files = _detach_all(messages, posted.detacher)
    return messages, [*posted.files, *files]


async def detach_all(messages: Sequence[dict[str, Any]], detacher: Detacher) -> Imported:
    """Detach the long files of the messages. Raises InvalidRequest and TooLarge."""
    if has_long_data(messages, LARGE_BYTES):
        return await asyncio.to_thread(_detach_all, messages, detacher)
    return _detach_all(messages, detacher)


def _detach_all(messages: Iterable[dict[str, Any]], detacher: Detacher) -> Imported:
    made, files = [], list[Artifact]()
    for message in messages:
        detached, found = detacher.detach(message)
        made.append(detached)
        files += found
    return made, files


def _import(posted: Posted) -> list[dict[str, Any]]:
    messages = [*_ui_messages(map(decoded, posted.history))]
    at = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=None)
    if at is not None and posted.user is not None:
        messages[at] = posted.user
    return with_unique_calls(messages)


def _ui_messages(messages: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """
    Yield the messages that a transcript keeps. Clients must not supply system or developer messages. The messages of
    subagents are no part of the conversation.
    """
    seen: set[str] = set()
    for message in messages:
        if message.get("role") not in _ROLES or message.get("subagentRunId"):
            continue
        shaped = to_ui_message(message)
        if shaped["id"] not in seen:
            seen.add(shaped["id"])
            yield shaped
