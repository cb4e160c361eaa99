"""
Convert an item of a model's answer (text, a dict, or an event of the `ag_ui` package) to a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from durable_chat.transcripts.answers.subagents import set_apart
from durable_chat.transcripts.chunks import Chunk, InvalidChunk, sanitize_chunk_for_storage, with_old_fields

TYPE_CHARS_MAX = 60
"""Characters of an unknown type that an error shows: enough to identify it, too few to leak other content."""

WORKING = "WORKING"
"""The type of a chunk that is never stored. It only signals that a model's tools are running."""

ACCEPTED = "Yield text (str), an AG-UI event or a dict with an AG-UI type; None and '' are skipped."


def as_chunk(item: object) -> Chunk | None:
    """
    Convert a model's str, dict or ag_ui event (anything with pydantic's `model_dump`) to a chunk; the event of a
    subagent is set apart. Return None for None and for empty text. Raises InvalidChunk.
    """
    if isinstance(item, str):
        text = item if type(item) is str else str.__str__(item)  # libraries have their own subclasses of str
        return {"type": "TEXT_MESSAGE_CONTENT", "delta": text} if text else None
    if item is None:
        return None
    value = item if isinstance(item, dict) else _dumped(item)
    kind = value.get("type")
    if type(kind) is not str:
        value = value | {"type": _kind(kind, item)}
    chunk = with_old_fields(sanitize_chunk_for_storage(value))
    return set_apart(chunk) if "subagentRunId" in chunk else chunk


def text_field(chunk: Mapping[str, Any], key: str, *, optional: bool = False) -> Any:
    """Return a field that must be a string (or may be missing, when optional). Raises InvalidChunk."""
    value = chunk.get(key)
    if isinstance(value, str) or (value is None and optional):
        return value
    raise InvalidChunk(f"{chunk.get('type', 'The value')}: {key} must be a string.")


def delta_of(chunk: Mapping[str, Any]) -> Any:
    """Return the text to append, or None when a provider's last event contains none. Raises InvalidChunk."""
    return text_field(chunk, "delta", optional="delta" in chunk)


def unknown_type(kind: str) -> InvalidChunk:
    """Return the error for a chunk whose type AG-UI does not define."""
    return InvalidChunk(f"The model yielded a chunk of unknown type {kind[:TYPE_CHARS_MAX]!r}. {ACCEPTED}")


def _dumped(item: object) -> Chunk:
    value = dump_event(item)
    if not isinstance(value, Mapping):
        raise InvalidChunk(f"The model yielded an object of type {_name_of(item)}. {ACCEPTED}")
    return dict(value)


def _kind(value: Any, item: object) -> str:
    kind = value.value if isinstance(value, Enum) else value
    if not isinstance(kind, str):
        raise InvalidChunk(f"The model yielded an object of type {_name_of(item)} without a `type`. {ACCEPTED}")
    return kind


def _name_of(item: object) -> str:
    return type(item).__name__[:TYPE_CHARS_MAX]


def dump_event(item: object, **options: Any) -> Any:
    """
    Return a pydantic model as a dict, without optional fields that are unset or null: clients reject null for an
    optional field. Null stays where it is a value, as in a CUSTOM event or a patch. Return anything else unchanged.
    """
    dump = getattr(item, "model_dump", None)
    if not callable(dump):
        return item
    dumped = dump(by_alias=True, **options)
    _prune(dumped, item)
    return dumped


def _prune(dumped: Any, item: object) -> None:
    """
    Remove nulls of optional fields from models at every level. Plain dicts belong to the developer and stay unchanged.
    """
    if isinstance(item, list | tuple):
        if isinstance(dumped, list | tuple) and len(dumped) == len(item):
            for part, inner in zip(dumped, item, strict=True):
                _prune(part, inner)
        return
    fields = getattr(type(item), "model_fields", None)
    if not isinstance(dumped, dict) or not isinstance(fields, Mapping):
        return
    for name, field in fields.items():
        alias = field.serialization_alias or field.alias or name
        if alias not in dumped:
            continue
        if dumped[alias] is None and not field.is_required():
            del dumped[alias]
        else:
            _prune(dumped[alias], getattr(item, name, None))
