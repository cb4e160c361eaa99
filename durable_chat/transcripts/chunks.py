"""
AG-UI chunks as TanStack AI sends them: coded, made, echoed and cleaned. No I/O, no clock, no randomness.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from durable_chat.protocol.nesting import nests_deeper

Chunk = dict[str, Any]
"""One AG-UI event: `type`, and what its type asks for."""

MESSAGE_ID_CHARS_MAX = 256
"""Longer ids of messages, runs and tool calls are refused: they are kept with every chunk of a message."""

NESTING_MAX = 200
"""Levels of a value: far above what people and tools write, far below where a decoder or an encoder gives up."""

ERROR_CHARS_MAX = 300
"""A longer error message is no sentence for a person but a dump, and may hold anything."""

OURS = "durableChat"
"""The key of this server's own in the metadata of chunks and messages."""

GENERIC_ERROR = "The model failed to answer."


def _as_builtin(value: object) -> Any:
    """A str or a number of a library's own class, such as LangChain's `message.text`, as the built-in one."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_encoder = msgspec.json.Encoder(enc_hook=_as_builtin)
_decoder = msgspec.json.Decoder()

# What looks like a key, a token or an address with a password in it.
_SECRETIVE = re.compile(r"://|(?=[\w\-.+/=*]*\d)(?=[\w\-.+/=*]*[A-Za-z])[\w\-.+/=*]{16,}|\b(?:sk|pk|Bearer)[-_ ]\S+")


class InvalidChunk(ValueError):
    """What a model gave is no chunk; the message says what is wrong with it, for the developer of the model."""


def encode_chunk(chunk: Mapping[str, Any]) -> bytes:
    """Compact JSON. A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD. Raises InvalidChunk."""
    return encode_json(chunk)


def encode_json(value: Any) -> bytes:
    """Any value as compact JSON, in the same way."""
    try:
        try:
            return _encoder.encode(value)
        except UnicodeEncodeError:
            return _encoder.encode(_mend(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidChunk("A chunk holds something that cannot be written as JSON.") from error


def decode_chunk(data: bytes) -> Chunk:
    """The chunk a log message holds. Raises InvalidChunk when it is not a JSON object with a type."""
    value = decode_json(data)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise InvalidChunk("A chunk is a JSON object with a type.")
    return value


_OLD_FIELDS = {
    "RUN_FINISHED": ("finishReason",),
    "STEP_FINISHED": ("stepId", "signature"),
    "TOOL_CALL_END": ("input",),
    "TOOL_CALL_RESULT": ("state",),
}


def decode_json(data: bytes | str, levels_max: int = NESTING_MAX) -> Any:
    """Any JSON value of at most so many levels, with lone surrogates mended. Raises InvalidChunk."""
    if len(data) > 2 * levels_max and nests_deeper(data, levels_max):
        raise InvalidChunk(f"The JSON nests deeper than {levels_max} levels.")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:  # msgspec refuses the escape of a lone surrogate, which JavaScript writes and reads
        return _mend(json.loads(data, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise InvalidChunk("The text is not JSON.") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON.")


def _mend(value: Any) -> Any:
    """The value with halves of surrogate pairs joined where both are there, and replaced where one is alone."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {_mend(key): _mend(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mend(item) for item in value]
    return value


def run_started(run_id: str, thread_id: str, *, timestamp: int, metadata: Mapping[str, Any] | None = None) -> Chunk:
    chunk = {"type": "RUN_STARTED", "threadId": thread_id, "runId": run_id, "timestamp": timestamp}
    return chunk | ({"metadata": dict(metadata)} if metadata else {})


def run_finished(
    run_id: str,
    thread_id: str,
    *,
    timestamp: int,
    finish_reason: str | None = "stop",
    stopped: bool = False,
    usage: list[dict[str, Any]] | None = None,
) -> Chunk:
    """The end of a run that did not fail. `usage` is AG-UI's: a list of counts, one for each call of a model."""
    tanstack: dict[str, Any] = {"finishReason": finish_reason}
    if stopped:
        tanstack["stopped"] = True
    chunk = {
        "type": "RUN_FINISHED",
        "threadId": thread_id,
        "runId": run_id,
        "timestamp": timestamp,
        "metadata": {"tanstack": tanstack},
    }
    return with_old_fields(chunk | ({"usage": usage} if usage else {}))


def run_error(run_id: str, thread_id: str, *, timestamp: int, message: str, code: str) -> Chunk:
    """The end of a run that failed. `message` is shown to people: see `safe_message`."""
    return {
        "type": "RUN_ERROR",
        "threadId": thread_id,
        "runId": run_id,
        "timestamp": timestamp,
        "message": message,
        "code": code,
    }


def text_start(message_id: str, *, role: str = "assistant", timestamp: int, created_at: str | None = None) -> Chunk:
    """The start of a message. `created_at` (ISO) defaults to the timestamp, so that every tab shows the same time."""
    created_at = created_at or iso_time(timestamp)
    return {
        "type": "TEXT_MESSAGE_START",
        "messageId": message_id,
        "role": role,
        "timestamp": timestamp,
        "metadata": {"tanstack": {"createdAt": created_at}},
    }


def text_restart(message_id: str, *, timestamp: int) -> Chunk:
    """A start of a message that has been started before; clients take it for the same one."""
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant", "timestamp": timestamp}


def text_content(message_id: str, delta: str, *, timestamp: int) -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta, "timestamp": timestamp}


def text_end(message_id: str, *, timestamp: int) -> Chunk:
    return {"type": "TEXT_MESSAGE_END", "messageId": message_id, "timestamp": timestamp}


def tool_result(message_id: str, tool_call_id: str, content: str, *, timestamp: int, error: bool = False) -> Chunk:
    """The result of a tool call; `content` is text or JSON in a string. `message_id` is the result's own id."""
    chunk: Chunk = {
        "type": "TOOL_CALL_RESULT",
        "messageId": message_id,
        "toolCallId": tool_call_id,
        "role": "tool",
        "content": content,
        "timestamp": timestamp,
    }
    return with_old_fields(chunk | {"metadata": {"tanstack": {"state": "output-error"}}}) if error else chunk


def messages_snapshot(messages: Iterable[Mapping[str, Any]], *, timestamp: int) -> Chunk:
    """A parts-shaped snapshot. Each message gets metadata, or a tab would keep what it had (WIRE 4.4, rule 6)."""
    return {"type": "MESSAGES_SNAPSHOT", "messages": list(map(with_metadata, messages)), "timestamp": timestamp}


def with_metadata(message: Mapping[str, Any]) -> dict[str, Any]:
    return dict(message) | {"metadata": message.get("metadata") or {}}


def can_echo(message: Mapping[str, Any]) -> bool:
    """Whether three text chunks can say the whole message; if not, it is written as a snapshot (WIRE 4.2)."""
    if not is_id(message.get("id")) or message.get("role") != "user":
        return False
    text = message_text(message)
    parts = message.get("parts")
    return bool(text) and (parts is None or len(parts) == 1)


def message_text(message: Mapping[str, Any]) -> str | None:
    """The text of a UIMessage, or of a `{content}` message; None when it holds anything that is not text."""
    parts = message.get("parts")
    if parts is None:
        content = message.get("content")
        return content if isinstance(content, str) else None
    if not isinstance(parts, list):
        return None
    texts = [_part_text(part) for part in parts]
    return None if None in texts else "".join(text for text in texts if text)


def _part_text(part: Any) -> str | None:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        return None
    content = part.get("content", part.get("text"))
    return content if isinstance(content, str) else None


def to_message_echo_chunks(message: Mapping[str, Any], *, timestamp: int | None = None) -> list[Chunk]:
    """
    The chunks that show a posted user message in every tab: start, content, end, with the posted id, so that the
    sender's own copy is recognised. Only its text: ask `can_echo` whether that is all. Where the message does not say
    when it was made, it was at `timestamp`, so that every tab shows the same. Raises ValueError without an id.
    """
    message_id = message.get("id")
    if not isinstance(message_id, str) or not message_id:
        raise ValueError("A message needs an id to be echoed.")
    parts = message.get("parts")
    texts = [_part_text(part) for part in parts] if isinstance(parts, list) else [message_text(message)]
    text = "".join(text for text in texts if text)
    start: Chunk = {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "user"}
    metadata = dict(message["metadata"]) if isinstance(message.get("metadata"), Mapping) else {}
    if created_at := created_at_of(message) or (None if timestamp is None else iso_time(timestamp)):
        metadata["tanstack"] = {**tanstack_metadata(message), "createdAt": created_at}
    if metadata:
        start["metadata"] = metadata
    content = {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text}
    end = {"type": "TEXT_MESSAGE_END", "messageId": message_id}
    chunks: list[Chunk] = [start, *([content] if text else []), end]
    return chunks if timestamp is None else [chunk | {"timestamp": timestamp} for chunk in chunks]


def created_at_of(message: Mapping[str, Any]) -> str | None:
    """When the message was made, in ISO form, where it says so: in `createdAt` or in `metadata.tanstack`."""
    value = message.get("createdAt") or tanstack_metadata(message).get("createdAt")
    if isinstance(value, datetime):
        return iso_time(round(value.timestamp() * 1000))
    return normalize_time(value)


def tanstack_metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """`metadata.tanstack` of a chunk or a message, empty when there is none."""
    metadata = value.get("metadata")
    tanstack = metadata.get("tanstack") if isinstance(metadata, Mapping) else None
    return tanstack if isinstance(tanstack, Mapping) else {}


def iso_time(time_ms: int) -> str:
    """Milliseconds since 1970 as JavaScript's `toISOString` writes them."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def normalize_time(value: Any) -> str | None:
    """An ISO time in JavaScript's form, in UTC; None when it is no time."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    # JavaScript cuts what is finer than a millisecond, and so does isoformat.
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sanitize_chunk_for_storage(chunk: Mapping[str, Any]) -> Chunk:
    """
    The chunk without what the log need not keep: the growing `content` beside each text delta, which clients ignore,
    and the provider's `rawEvent`, which could hold anything.
    """
    kept = dict(chunk)
    kept.pop("rawEvent", None)
    if kept.get("type") == "TEXT_MESSAGE_CONTENT":
        kept.pop("content", None)
    return kept


def with_default(chunk: Chunk, key: str, value: str) -> Chunk:
    """The chunk with a string under a key, where it has none."""
    return chunk if isinstance(chunk.get(key), str) else chunk | {key: value}


def timestamp_of(chunk: Chunk | None) -> int | None:
    value = (chunk or {}).get("timestamp")
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None


def with_old_fields(chunk: Chunk) -> Chunk:
    """
    The chunk with what `metadata.tanstack` says at its top, too, where clients before @tanstack/ai 0.54 look for it: they
    would take a failed tool for one that worked, and ask again after a turn of which they do not know why it ended.
    """
    names = _OLD_FIELDS.get(chunk["type"])
    if names is None or "metadata" not in chunk:
        return chunk
    tanstack = tanstack_metadata(chunk)
    return chunk | {name: tanstack[name] for name in names if name in tanstack and name not in chunk}


def merged_metadata(metadata: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata with more of it, `tanstack` merged key by key."""
    if not isinstance(more, Mapping):
        return dict(metadata)
    tanstack = {**_tanstack(metadata), **_tanstack(more)}
    return {**metadata, **more} | ({"tanstack": tanstack} if tanstack else {})


def _tanstack(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    return tanstack_metadata({"metadata": metadata})


def safe_message(message: object, secrets: Iterable[str] = ()) -> str:
    """
    The message when it can be shown to anyone, else a generic one: text that holds a known secret, or what looks like
    a key, a token or an address, or that is too long to be a sentence does not pass.
    """
    if not isinstance(message, str) or not message.strip() or len(message) > ERROR_CHARS_MAX:
        return GENERIC_ERROR
    if any(secret and secret in message for secret in secrets) or _SECRETIVE.search(message):
        return GENERIC_ERROR
    return message


def safe_code(code: Any) -> str:
    """A provider's code when it is a name or a number, and not JavaScript's word for none."""
    text = str(code) if isinstance(code, int) else code
    known = isinstance(text, str) and text not in ("", "undefined") and safe_message(text) == text
    return text if known and isinstance(text, str) and len(text) <= 64 else "provider_error"


def is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MESSAGE_ID_CHARS_MAX


def string_at(value: Mapping[str, Any], key: str) -> str | None:
    """The string under a key; None where there is something else."""
    found = value.get(key)
    return found if isinstance(found, str) else None
