"""
Arbitrary JSON, valid documents with values replaced, and bytes that are costly to parse, from one seeded generator.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

NESTED_MAX = 3
"""Levels of an arbitrary value; deep nesting has its own bodies."""

NAMES = (
    *("__proto__", "constructor", "toString", "hasOwnProperty", "", "id", "type", "role", "parts", "content", "text"),
    *("metadata", "tanstack", "toolCallId", "messageId", "runId", "state", "name", "value", "delta", "input", "output"),
)
"""Keys that mean something somewhere, and the names that every JavaScript object has."""

TEXTS = (
    *("", " ", "a", "hello", "think", "tool", "approve", "fail", "user", "assistant", "text", "tool-call", "-1", "now"),
    *("toString", "__proto__", "constructor", "\u0000", "\u2028", "\ud83d", "\udc00x", "é🙂", "null", "{}", "[", '"'),
    *("2026-01-02T03:04:05Z", "data:image/png;base64,AAAA", "http://[::1", "../..", "%2F", "RUN_FINISHED", "c0", "m0"),
)
NUMBERS = (0, 1, -1, 1.5, -0.0, 1e308, 2**53, 2**63, 2**64 + 1, 10**400, -(10**30), float("nan"), float("inf"))
MESSAGE_TEXTS = ("hello", "please think", "use a tool", "approve this", "fail now", "code in python", "")


def scalar(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.2:
        return rng.choice((None, True, False))
    if kind < 0.4:
        return rng.choice(NUMBERS[:-2] if rng.random() < 0.95 else NUMBERS)
    if kind < 0.97:
        return rng.choice(TEXTS)
    return rng.choice(TEXTS) * rng.choice((50, 300, 5000))


def arbitrary(rng: random.Random, depth: int = NESTED_MAX) -> Any:
    """Return any JSON value, usually a small one."""
    kind = rng.random()
    if depth == 0 or kind < 0.5:
        return scalar(rng)
    size = rng.choice((0, 0, 1, 2, 4))
    if kind < 0.75:
        return [arbitrary(rng, depth - 1) for _ in range(size)]
    return {rng.choice(NAMES): arbitrary(rng, depth - 1) for _ in range(size)}


def mutated(rng: random.Random, value: Any, times: int) -> Any:
    """Return the value with some places replaced, removed, doubled or added."""
    made = copy.deepcopy(value)
    for _ in range(times):
        made = _mutate_once(rng, made)
    return made


def _mutate_once(rng: random.Random, value: Any) -> Any:
    places: list[tuple[Any, Any]] = []
    _collect(value, places)
    if not places:
        return arbitrary(rng)
    holder, key = rng.choice(places)
    what = rng.random()
    if what < 0.65:
        holder[key] = arbitrary(rng)
    elif what < 0.8:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]) if what < 0.9 else arbitrary(rng))
    else:
        holder[rng.choice(NAMES)] = arbitrary(rng)
    return value


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Yield every place below a value: its container and its key."""
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = [*value.items()]
    elif isinstance(value, list):
        items = [*enumerate(value)]
    else:
        return
    for key, inner in items:
        places.append((value, key))
        _collect(inner, places)


def encode(rng: random.Random, value: Any) -> bytes:
    """Encode as JSON, with or without escapes. An unescaped lone surrogate gives invalid UTF-8."""
    escaped = rng.random() < 0.8
    return json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


def damaged(rng: random.Random, body: bytes) -> bytes:
    """Return the bytes cut off, with a byte changed, or with bytes added."""
    what = rng.random()
    at = rng.randrange(len(body) + 1)
    if what < 0.4:
        return body[:at]
    if what < 0.7:
        return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    return body[:at] + rng.choice((b"\xff\xfe", b"\x00", b"]", b'"', b"NaN", b"\xed\xa0\x80", b"\\ud83d")) + body[at:]


def _message(parts: bytes, role: bytes = b"user") -> bytes:
    return b'{"id":"u","role":"' + role + b'","parts":' + parts + b"}"


def _chat(messages: bytes) -> bytes:
    return b'{"messages":[' + messages + b"]}"


def _text(content: bytes) -> bytes:
    return _chat(_message(b'[{"type":"text","content":"' + content + b'"}]'))


def _many(count: int, row: Callable[[int], bytes]) -> bytes:
    return b",".join(map(row, range(count)))


def _results(count: int) -> bytes:
    row = b'{"id":"r%d","role":"assistant","parts":[{"type":"tool-result","toolCallId":"c%d","content":"1"}]}'
    return _chat(_many(count, lambda at: row % (at, at)) + b"," + _message(b'[{"type":"text","content":"x"}]'))


COSTLY: tuple[Callable[[int], bytes], ...] = (
    lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    lambda size: b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
    lambda size: b"[]," * 201 + b'"' + b'\\"' * (size // 2) + b'"',
    lambda size: _chat(b"[]," * 201 + b'"' + b'\\"' * (size // 2) + b'"'),
    lambda size: _chat(_message(b"[" * (size // 2) + b"]" * (size // 2))),
    lambda size: _results(size // 80),
    lambda size: _chat(_many(size // 3, lambda _: b"{}")),
    lambda size: _chat(_many(size // 45, lambda at: b'{"id":"%d","role":"user","parts":[]}' % at)),
    lambda size: _chat(_many(size // 20, lambda _: b'{"role":"user"}')),
    lambda size: _chat(_message(b"[" + _many(size // 30, lambda _: b'{"type":"text","content":"a"}') + b"]")),
    lambda size: _text(b"http://" + b")" * size),
    lambda size: _text(b"[" * size),
    lambda size: _text(b"\\ud83d" * (size // 6)),
    lambda size: _text(b"`*_" * (size // 3)),
    lambda size: _text(b"1" * size),
    lambda size: b'{"messages":' + b"1" * size + b"}",
    lambda size: b" " * size,
    lambda size: b'{"messages":[],' + _many(size // 10, lambda at: b'"k%d":1' % at) + b"}",
    lambda size: (
        b'{"messages":[{"role":"user","content":"x"}],"tools":['
        + _many(size // 40, lambda at: b'{"name":"t%d","description":"x"}' % at)
        + b"]}"
    ),
    lambda size: b"[" + _many(size // 60, lambda at: b'{"type":"TOOL_CALL_RESULT","toolCallId":"c%d"}' % at) + b"]",
    lambda size: b"[" + _many(size // 40, lambda at: b'{"type":"CUSTOM","name":"%d"}' % at) + b"]",
    lambda size: (
        b'[{"type":"TOOL_CALL_START","toolCallId":"c","toolCallName":"t"}'
        + b',{"type":"TOOL_CALL_ARGS","toolCallId":"c","delta":"["}' * (size // 60)
        + b"]"
    ),
)
"""Bodies of about a size, each of which a parser, a fold or a conversion may take too long over."""


def costly(rng: random.Random) -> bytes:
    sizes = (2_000, 16_000, 64_000, 250_000, 500_000, 1_000_000, 2_000_000)
    return rng.choice(COSTLY)(8_000_000 if rng.random() < 0.02 else rng.choice(sizes))
