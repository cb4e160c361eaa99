"""
Join deltas that accumulated while an append was in progress, so that one chunk replaces several.

Only adjacent deltas are joined, and only if they have the same type, the same ids and the same other fields, except the
timestamp. Every reader therefore folds a joined chunk to the same result as the separate chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

JOINED = frozenset({"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"})
"""The chunk types that append text. Structured output also arrives as TEXT_MESSAGE_CONTENT."""

JOINED_BYTES_MAX = 16 * 1024
"""The maximum size of a joined chunk. A reader shows it in one step, and stores with small limits accept it."""

_KINDS = frozenset(f'"{kind}"'.encode() for kind in JOINED)
_MARKS = tuple(sorted(kind.encode() for kind in JOINED))

# The form of almost all deltas: string fields without escapes before the delta, and only the timestamp after it.
_PLAIN = re.compile(
    rb'(\{"type":"(?:' + b"|".join(_MARKS) + rb')",(?:"[^"\\]*":"[^"\\]*",)*"delta":")'
    rb'([^"\\]*+(?:\\.[^"\\]*+)*+)("(,"timestamp":[0-9]+)?\})'
)

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Delta(NamedTuple):
    """
    A chunk that may be joined with adjacent chunks of an equal `shape`. The joined chunk is `before`, all their texts,
    then `after`.
    """

    message: bytes
    shape: object
    before: bytes
    text: bytes
    after: bytes


def coalesce(messages: Sequence[bytes]) -> list[bytes]:
    """
    Return the messages of a log in order, with adjacent deltas joined. Each message is a chunk as `encode_chunk` writes
    it.
    """
    return list(_joined(messages))


def _joined(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Join the encoded strings. Each is complete UTF-8, so joining cannot split or create a character."""
    first: _Delta | None = None
    texts: list[bytes] = []
    size = 0
    for message in messages:
        delta = _delta(message)
        if first is not None:
            if delta is not None and delta.shape == first.shape and size + len(delta.text) <= JOINED_BYTES_MAX:
                texts.append(delta.text)
                size += len(delta.text)
                continue
            yield _written(first, texts)
        if delta is None:
            yield message
        first, texts, size = delta, [] if delta is None else [delta.text], len(message)
    if first is not None:
        yield _written(first, texts)


def _written(first: _Delta, texts: Sequence[bytes]) -> bytes:
    """Return one chunk with the fields of the first. A delta that was not joined is returned unchanged."""
    return first.message if len(texts) == 1 else b"".join((first.before, *texts, first.after))


def _delta(message: bytes) -> _Delta | None:
    """
    Split a chunk that may be joined with others; otherwise return None. A joined chunk has the timestamp of its first
    chunk.
    """
    if len(message) > JOINED_BYTES_MAX:
        return None
    plain = _PLAIN.fullmatch(message)
    if plain is not None:
        before, text, after, time = plain.groups()
        return _Delta(message, (before, time is None), before, text, after)
    if not any(mark in message for mark in _MARKS):
        return None
    fields = {key: bytes(value) for key, value in _decode(message).items()}
    if fields.get("type") not in _KINDS or not fields.get("delta", b"").startswith(b'"'):
        return None
    text = fields.pop("delta")[1:-1]
    before = _encode({key: msgspec.Raw(value) for key, value in fields.items()})[:-1] + b',"delta":"'
    shape = fields | ({"timestamp": b""} if "timestamp" in fields else {})
    return _Delta(message, shape, before, text, b'"}')
