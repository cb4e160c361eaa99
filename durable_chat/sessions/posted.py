"""
What was posted: the message and answers that a turn is about, and the history that an empty session takes over.
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
"""A longer body is parsed in a thread: to check one of that length takes up to some milliseconds."""

LARGE_BYTES = 256 * 1024
"""From here files are decoded in a thread: below, that takes less than handing them over is worth (about 1 ms)."""

_ROLES = frozenset({"user", "assistant"})


@dataclass(frozen=True, slots=True)
class Posted:
    """
    What a client posted: the newest user message as a UIMessage with an id, the last message's role, what the messages
    next to it answer to tool calls and what `older` ones do, the client's own tools, and the session's name where the
    body has one. `resume` are AG-UI's answers to interrupts, `run_id` is the client's name of this request and
    `parent_run_id` that of the one it goes on with. `history` is all of the messages as they came, for a session that has
    none yet. Once its long files are detached, `files` are those of the user message, and `detacher` takes out those of
    the history.
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
    """The value of what was posted. Raises InvalidRequest."""
    try:
        return decode_json(bytes(raw))
    except InvalidChunk as error:
        raise InvalidRequest("The body is not valid JSON.", code="bad_json") from error


def to_ui_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """
    The message, which keeps the rules, with `parts`, `metadata` and an id of its own where it came without. Raises
    InvalidRequest for an id that is none.
    """
    message_id = message.get("id")
    if message_id is None:
        message_id = new_message_id()
    if not is_id(message_id):
        raise InvalidRequest(f"A message id is a string of 1 to {MESSAGE_ID_CHARS_MAX} characters.", code="bad_message")
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
    """A client's metadata of a message, without what only this server says there, such as how its run ended."""
    return {key: value for key, value in metadata.items() if key != OURS} if isinstance(metadata, dict) else {}


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = message.get("parts")
    if parts is None:
        parts = message.get("content") or []
    if isinstance(parts, str):
        parts = [{"type": "text", "content": parts}] if parts else []
    return [_part(part) for part in parts]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """AG-UI and the AI SDK write a text part's text as `text`."""
    if part["type"] == "text" and part.get("content") is None:
        return {**{key: value for key, value in part.items() if key != "text"}, "content": part["text"]}
    return dict(part)


def new_message_id() -> str:
    return f"msg-{uuid.uuid4()}"


async def detach_files(posted: Posted, detacher: Detacher) -> Posted:
    """What was posted, with the long files of the user message beside it. Raises InvalidRequest and TooLarge."""
    posted = replace(posted, detacher=detacher)
    user = posted.user
    if user is None or posted.last_role != "user":  # what is not new is in the log
        return posted
    long = has_long_data([user], LARGE_BYTES)
    user, files = await asyncio.to_thread(detacher.detach, user) if long else detacher.detach(user)
    return replace(posted, user=user, files=tuple(files))


Imported = tuple[list[dict[str, Any]], list[Artifact]]
"""Messages and their files."""


async def import_history(posted: Posted) -> Imported:
    """
    All that was posted, as UIMessages, the newest user message as `posted.user` has it; and their long files. Raises
    InvalidRequest and TooLarge.
    """
    if posted.history_bytes <= PARSED_HERE_BYTES_MAX:
        return _import_detached(posted)
    return await asyncio.to_thread(_import_detached, posted)


def _import_detached(posted: Posted) -> Imported:
    messages = _import(posted)
    if posted.detacher is None:
        return messages, []
    # That of the user message is taken out already, and there is nothing more to find in it.
    messages, files = _detach_all(messages, posted.detacher)
    return messages, [*posted.files, *files]


async def detach_all(messages: Sequence[dict[str, Any]], detacher: Detacher) -> Imported:
    """Messages with their long files beside them. Raises InvalidRequest and TooLarge."""
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
    """Those a transcript keeps: a client's word counts for nothing as a system's or a developer's."""
    seen: set[str] = set()
    for message in messages:
        if message.get("role") not in _ROLES:
            continue
        shaped = to_ui_message(message)
        if shaped["id"] not in seen:
            seen.add(shaped["id"])
            yield shaped
