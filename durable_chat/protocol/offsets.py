"""
Offsets: opaque, fixed-width, sortable positions in a stream (PROTOCOL.md section 8).

An offset has two numbers of sixteen digits: the life of the stream, and a position. A position counts messages in a
JSON stream and bytes in any other, so every message boundary of a JSON stream has a readable offset. A stream that is
deleted and created again begins a life with a higher number, so the server recognizes offsets of the earlier stream. A
fork has its source's offsets up to the fork position.

All lives share the first offset: clients know it before a stream exists, and the protocol's own test suite contains it.
"""

from __future__ import annotations

from functools import lru_cache

from durable_chat.errors import InvalidRequest

DIGITS = 16
"""Digits of a number. 10**16 is more than 2**53, up to which JavaScript represents integers exactly."""
NUMBERS = 10**DIGITS
"""How many numbers have that many digits."""

BEGINNING = "-1"
NOW = "now"

_WIDTH = DIGITS + 1 + DIGITS

ZERO = "0" * DIGITS + "_" + "0" * DIGITS
"""The offset of the first message. It is the same in every stream and valid for every kind of read."""


def encode_offset(life: int, position: int) -> str:
    """
    Encode the offset of a position in a life. Within one life, `encode_offset(_, a) < encode_offset(_, b)` exactly when
    `a < b`.
    """
    assert 0 <= position < NUMBERS and 0 <= life < NUMBERS
    # Each append has an offset. Format specifications take several times as long as `str` and `zfill`.
    return _encode_life(life) + str(position).zfill(DIGITS) if position else ZERO


@lru_cache(maxsize=2048)  # about the streams that are written to now
def _encode_life(life: int) -> str:
    return str(life).zfill(DIGITS) + "_"


def decode_offset(token: str) -> tuple[int, int]:
    """
    Decode an offset to its life and position; `-1` is (0, 0). Raises InvalidRequest for `now` and for malformed
    offsets.
    """
    if token == BEGINNING:
        return 0, 0
    life, mark, position = token[:DIGITS], token[DIGITS : DIGITS + 1], token[DIGITS + 1 :]
    digits = life + position
    if len(token) != _WIDTH or mark != "_" or not (digits.isascii() and digits.isdigit()):
        raise InvalidRequest("The offset is malformed.", code="bad_offset")
    return int(life), int(position)
