"""
Encode, decode, create, echo and sanitize AG-UI chunks as TanStack AI sends them. No I/O, no clock, no randomness.
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
"""One AG-UI event: `type`, and the fields of that type."""

MESSAGE_ID_CHARS_MAX = 256
"""
Maximum length of the ids of messages, runs and tool calls. Longer ids are rejected, because every chunk of a message
repeats them.
"""

NESTING_MAX = 200
"""Maximum nesting of a value: far above what people and tools write, far below the limits of decoders and encoders."""

ERROR_CHARS_MAX = 300
"""
Maximum length of an error message. A longer one is a dump and not a sentence for a person, and may contain secrets.
"""

OURS = "durableChat"
"""The key of this server's own metadata on chunks and messages."""

GENERIC_ERROR = "The model failed to answer."


def _as_builtin(value: object) -> Any:
    """Convert a str or number of a library's own class, such as LangChain's `message.text`, to the built-in type."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


_encoder = msgspec.json.Encoder(enc_hook=_as_builtin)
_decoder = msgspec.json.Decoder()

# Text that looks like a key, a token or a URL.
_SECRETIVE = re.compile(r"://|(?=[\w\-.+/=*]*\d)(?=[\w\-.+/=*]*[A-Za-z])[\w\-.+/=*]{16,}|\b(?:sk|pk|Bearer)[-_ ]\S+")


class InvalidChunk(ValueError):
    """Output of a model that is not a chunk. The message tells the developer of the model what is wrong."""


def encode_chunk(chunk: Mapping[str, Any]) -> bytes:
    """
    Encode a chunk as compact JSON. A lone surrogate, which UTF-8 cannot encode, becomes U+FFFD. Raises InvalidChunk.
    """
    return encode_json(chunk)


def encode_json(value: Any) -> bytes:
    """Encode any value as compact JSON, in the same way as `encode_chunk`. Raises InvalidChunk."""
    try:
        try:
            return _encoder.encode(value)
        except UnicodeEncodeError:
            return _encoder.encode(_mend(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidChunk("A chunk contains a value that cannot be written as JSON.") from error


def decode_chunk(data: bytes) -> Chunk:
    """Decode the chunk in a log message. Raises InvalidChunk when it is not a JSON object with a type."""
    value = decode_json(data)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise InvalidChunk("A chunk must be a JSON object with a type.")
    return value


_OLD_FIELDS = {
    "RUN_FINISHED": ("finishReason",),
    "STEP_FINISHED": ("stepId", "signature"),
    "TOOL_CALL_END": ("input",),
    "TOOL_CALL_RESULT": ("state",),
}


def decode_json(data: bytes | str, levels_max: int = NESTING_MAX) -> Any:
    """Decode a JSON value of at most `levels_max` levels, with lone surrogates repaired. Raises InvalidChunk."""
    if len(data) > 2 * levels_max and nests_deeper(data, levels_max):
        raise InvalidChunk(f"The JSON nests deeper than {levels_max} levels.")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:  # msgspec rejects the escape of a lone surrogate, which JavaScript reads and writes
        return _mend(json.loads(data, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise InvalidChunk("The text is not valid JSON.") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON.")


def _mend(value: Any) -> Any:
    """Return the value with surrogate halves joined into pairs; a lone half is replaced."""
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
    """Return the end of a run that did not fail. `usage` is AG-UI's list of counts, one for each model call."""
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
    """Return the end of a run that failed. `message` is shown to people: see `safe_message`."""
    return {
        "type": "RUN_ERROR",
        "threadId": thread_id,
        "runId": run_id,
        "timestamp": timestamp,
        "message": message,
        "code": code,
    }


def text_start(message_id: str, *, role: str = "assistant", timestamp: int, created_at: str | None = None) -> Chunk:
    """
    Return the start of a message. `created_at` (ISO) defaults to the timestamp, so that every tab shows the same time.
    """
    created_at = created_at or iso_time(timestamp)
    return {
        "type": "TEXT_MESSAGE_START",
        "messageId": message_id,
        "role": role,
        "timestamp": timestamp,
        "metadata": {"tanstack": {"createdAt": created_at}},
    }


def text_restart(message_id: str, *, timestamp: int) -> Chunk:
    """Return another start of a message that has already started. Clients treat it as the same message."""
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant", "timestamp": timestamp}


def text_content(message_id: str, delta: str, *, timestamp: int) -> Chunk:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta, "timestamp": timestamp}


def text_end(message_id: str, *, timestamp: int) -> Chunk:
    return {"type": "TEXT_MESSAGE_END", "messageId": message_id, "timestamp": timestamp}


def tool_result(message_id: str, tool_call_id: str, content: str, *, timestamp: int, error: bool = False) -> Chunk:
    """Return the result of a tool call. `content` is text or JSON in a string; `message_id` is the result's own id."""
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
    """
    Return a snapshot of UIMessages with parts. Each message gets metadata, because tabs otherwise keep the metadata
    they had.
    """
    return {"type": "MESSAGES_SNAPSHOT", "messages": list(map(with_metadata, messages)), "timestamp": timestamp}


def with_metadata(message: Mapping[str, Any]) -> dict[str, Any]:
    return dict(message) | {"metadata": message.get("metadata") or {}}


def can_echo(message: Mapping[str, Any]) -> bool:
    """Whether three text chunks can represent the whole message. If not, the message is written as a snapshot."""
    if not is_id(message.get("id")) or message.get("role") != "user":
        return False
    text = message_text(message)
    parts = message.get("parts")
    return bool(text) and (parts is None or len(parts) == 1)


def message_text(message: Mapping[str, Any]) -> str | None:
    """Return the text of a UIMessage or of a `{content}` message. Return None if it contains anything else."""
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
    Return the chunks that show a posted user message in every tab: start, content and end. They use the posted id, so
    that the sender recognizes its own copy. They contain only the text; `can_echo` tells whether that is everything. A
    message without a creation time gets `timestamp`, so that every tab shows the same time. Raises ValueError if the
    message has no id.
    """
    message_id = message.get("id")
    if not isinstance(message_id, str) or not message_id:
        raise ValueError("A message must have an id to be echoed.")
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
    """Return the creation time of a message in ISO form, from `createdAt` or `metadata.tanstack`, or None."""
    value = message.get("createdAt") or tanstack_metadata(message).get("createdAt")
    if isinstance(value, datetime):
        return iso_time(round(value.timestamp() * 1000))
    return normalize_time(value)


def tanstack_metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `metadata.tanstack` of a chunk or a message; empty if there is none."""
    metadata = value.get("metadata")
    tanstack = metadata.get("tanstack") if isinstance(metadata, Mapping) else None
    return tanstack if isinstance(tanstack, Mapping) else {}


def iso_time(time_ms: int) -> str:
    """Format milliseconds since 1970 as JavaScript's `toISOString` does."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def normalize_time(value: Any) -> str | None:
    """Return an ISO time in JavaScript's form, in UTC; None if the value is not a time."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    # JavaScript truncates to milliseconds, as isoformat does here.
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sanitize_chunk_for_storage(chunk: Mapping[str, Any]) -> Chunk:
    """
    Return the chunk without fields that the log does not need: the accumulated `content` of each text delta, which
    clients ignore, and the provider's `rawEvent`, which may contain anything.
    """
    kept = dict(chunk)
    kept.pop("rawEvent", None)
    if kept.get("type") == "TEXT_MESSAGE_CONTENT":
        kept.pop("content", None)
    return kept


def with_default(chunk: Chunk, key: str, value: str) -> Chunk:
    """Return the chunk with `value` under the key, unless it already has a string there."""
    return chunk if isinstance(chunk.get(key), str) else chunk | {key: value}


def timestamp_of(chunk: Chunk | None) -> int | None:
    value = (chunk or {}).get("timestamp")
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None


def with_old_fields(chunk: Chunk) -> Chunk:
    """
    Copy fields from `metadata.tanstack` to the chunk's top level, where clients before @tanstack/ai 0.54 expect them.
    Without these fields, such clients treat a failed tool as successful. They also repeat their request, because they
    do not know why the turn ended.
    """
    names = _OLD_FIELDS.get(chunk["type"])
    if names is None or "metadata" not in chunk:
        return chunk
    tanstack = tanstack_metadata(chunk)
    return chunk | {name: tanstack[name] for name in names if name in tanstack and name not in chunk}


def merged_metadata(metadata: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge two metadata objects, with `tanstack` merged key by key."""
    if not isinstance(more, Mapping):
        return dict(metadata)
    tanstack = {**_tanstack(metadata), **_tanstack(more)}
    return {**metadata, **more} | ({"tanstack": tanstack} if tanstack else {})


def _tanstack(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    return tanstack_metadata({"metadata": metadata})


def safe_message(message: object, secrets: Iterable[str] = ()) -> str:
    """
    Return the message if it is safe to show to anyone, otherwise a generic one. Text that contains a known secret, that
    looks like it contains a key, a token or a URL, or that is too long is not safe.
    """
    if not isinstance(message, str) or not message.strip() or len(message) > ERROR_CHARS_MAX:
        return GENERIC_ERROR
    if any(secret and secret in message for secret in secrets) or _SECRETIVE.search(message):
        return GENERIC_ERROR
    return message


def safe_code(code: Any) -> str:
    """
    Return a provider's error code if it is a short, safe name or number, otherwise `provider_error`. JavaScript's
    `undefined` does not count as a name.
    """
    text = str(code) if isinstance(code, int) else code
    known = isinstance(text, str) and text not in ("", "undefined") and safe_message(text) == text
    return text if known and isinstance(text, str) and len(text) <= 64 else "provider_error"


def is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MESSAGE_ID_CHARS_MAX


def string_at(value: Mapping[str, Any], key: str) -> str | None:
    """Return the string under a key, or None if the value is not a string."""
    found = value.get(key)
    return found if isinstance(found, str) else None
