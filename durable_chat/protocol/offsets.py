"""
Offsets: opaque, fixed-width, sortable positions in a stream (PROTOCOL.md section 8).

An offset is two numbers of sixteen digits: the life of the stream that it belongs to, and a position. A position counts
messages in a JSON stream and bytes in any other, so every message boundary of a JSON stream has an offset that may be
read from. A stream that is deleted and created again begins a life with a higher number, so that an offset of the
earlier one is known for what it is. A fork's offsets are its source's up to where it branches off.

The first offset belongs to every life: clients know it before there is a stream, and the protocol's own test suite
writes it down.
"""

from __future__ import annotations

from durable_chat.errors import InvalidRequest

DIGITS = 16
"""Digits of a number: 10**16, which is past 2**53, the largest integer JavaScript counts exactly."""

BEGINNING = "-1"
NOW = "now"

_WIDTH = DIGITS + 1 + DIGITS

ZERO = "0" * DIGITS + "_" + "0" * DIGITS
"""The offset of the first message: constant, and valid for every way of reading."""


def encode_offset(life: int, position: int) -> str:
    """The offset of a position in a life. Of one life `encode_offset(_, a) < encode_offset(_, b)` exactly when `a < b`."""
    assert 0 <= position < 10**DIGITS and 0 <= life < 10**DIGITS
    return f"{life:016d}_{position:016d}" if position else ZERO


def decode_offset(token: str) -> tuple[int, int]:
    """The life and the position an offset names; `-1` is (0, 0). Raises InvalidRequest for `now` and what is none."""
    if token == BEGINNING:
        return 0, 0
    life, mark, position = token[:DIGITS], token[DIGITS : DIGITS + 1], token[DIGITS + 1 :]
    digits = life + position
    if len(token) != _WIDTH or mark != "_" or not (digits.isascii() and digits.isdigit()):
        raise InvalidRequest("The offset is malformed.", code="bad_offset")
    return int(life), int(position)
