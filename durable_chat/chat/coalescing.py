"""
Deltas that gathered while an append was under way, joined: one chunk says what several did, and nothing else changes.

Only neighbours are joined, of the same kind, with the same ids, and equal in every other field but their time. So
every reader folds the joined chunks to what it would have made of each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

JOINED = frozenset({"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"})
"""The chunks that add to what there is; text of a structured output is TEXT_MESSAGE_CONTENT as well."""

JOINED_BYTES_MAX = 16 * 1024
"""A joined chunk takes no more: a reader shows it in one step, and a store with small limits takes it."""

_KINDS = frozenset(f'"{kind}"'.encode() for kind in JOINED)
_MARKS = tuple(kind.encode() for kind in JOINED)

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

_Fields = dict[str, bytes]
"""A chunk's fields with their values as JSON: equal is what is written alike."""


def coalesce(messages: Sequence[bytes]) -> list[bytes]:
    """The messages of a log, in order, with neighbouring deltas joined; each is a chunk as `encode_chunk` writes it."""
    return list(messages) if len(messages) < 2 else list(_joined(messages))


def _joined(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Strings are joined as they are written: each is whole UTF-8, so that no character is cut or made."""
    first: bytes | None = None
    shape: _Fields = {}
    deltas: list[bytes] = []
    size = 0
    for message in messages:
        fields = _delta_fields(message)
        delta = b"" if fields is None else fields.pop("delta")[1:-1]
        if fields is not None and deltas and _alike(fields, shape) and size + len(delta) <= JOINED_BYTES_MAX:
            deltas.append(delta)
            size += len(delta)
            continue
        if first is not None:
            yield _written(first, shape, deltas)
        first, shape = message, fields or {}
        deltas = [] if fields is None else [delta]
        size = len(message)
    if first is not None:
        yield _written(first, shape, deltas)


def _delta_fields(message: bytes) -> _Fields | None:
    """The fields of a chunk that may be joined with others."""
    if len(message) > JOINED_BYTES_MAX or not any(mark in message for mark in _MARKS):
        return None
    fields = {key: bytes(value) for key, value in _decode(message).items()}
    if fields.get("type") not in _KINDS or not fields.get("delta", b"").startswith(b'"'):
        return None
    return fields


def _alike(fields: _Fields, shape: _Fields) -> bool:
    if len(fields) != len(shape):
        return False
    return all(key == "timestamp" or shape.get(key) == value for key, value in fields.items()) and (
        ("timestamp" in fields) == ("timestamp" in shape)
    )


def _written(first: bytes, shape: _Fields, deltas: Sequence[bytes]) -> bytes:
    """One chunk with the first one's fields, its time too, which is the oldest."""
    if len(deltas) < 2:
        return first
    joined = {key: msgspec.Raw(value) for key, value in shape.items()}
    return _encode({**joined, "delta": msgspec.Raw(b'"' + b"".join(deltas) + b'"')})
