"""
Deltas that gathered while an append was under way, joined: one chunk says what several did, and nothing else changes.

Only neighbours are joined, of the same kind, with the same ids, and equal in every other field but their time. So
every reader folds the joined chunks to what it would have made of each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

JOINED = frozenset({"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"})
"""The chunks that add to what there is; text of a structured output is TEXT_MESSAGE_CONTENT as well."""

JOINED_BYTES_MAX = 16 * 1024
"""A joined chunk takes no more: a reader shows it in one step, and a store with small limits takes it."""

_KINDS = frozenset(f'"{kind}"'.encode() for kind in JOINED)
_MARKS = tuple(sorted(kind.encode() for kind in JOINED))

# As almost all are: strings before the delta, without escapes, and nothing but the time after it.
_PLAIN = re.compile(
    rb'(\{"type":"(?:' + b"|".join(_MARKS) + rb')",(?:"[^"\\]*":"[^"\\]*",)*"delta":")'
    rb'([^"\\]*+(?:\\.[^"\\]*+)*+)("(,"timestamp":[0-9]+)?\})'
)

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Delta(NamedTuple):
    """A chunk that may be joined with neighbours of an equal `shape`; joined they are `before`, their texts and `after`."""

    message: bytes
    shape: object
    before: bytes
    text: bytes
    after: bytes


def coalesce(messages: Sequence[bytes]) -> list[bytes]:
    """The messages of a log, in order, with neighbouring deltas joined; each is a chunk as `encode_chunk` writes it."""
    return list(_joined(messages))


def _joined(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Strings are joined as they are written: each is whole UTF-8, so that no character is cut or made."""
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
    """One chunk with the first one's fields; one that has no neighbours is as it was."""
    return first.message if len(texts) == 1 else b"".join((first.before, *texts, first.after))


def _delta(message: bytes) -> _Delta | None:
    """The chunk taken apart, where it may be joined with others. The time is the first one's, which is the oldest."""
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
