"""
Offsets: opaque, fixed-width, sortable positions in a stream (PROTOCOL.md section 8).

A position counts messages in a JSON stream and bytes in any other, so every message boundary of a JSON stream has an
offset that may be read from, and a fork's offsets are its source's. The shape, two numbers of sixteen digits, is the
one that the protocol's own test suite takes the first offset to have; the first number is always zero here.
"""

from __future__ import annotations

from durable_chat.errors import InvalidRequest

DIGITS = 16
"""Digits of a position: 10**16 positions, which is past 2**53, the largest integer JavaScript counts exactly."""

BEGINNING = "-1"
NOW = "now"

_PREFIX = "0" * DIGITS + "_"
_WIDTH = len(_PREFIX) + DIGITS

ZERO = _PREFIX + "0" * DIGITS
"""The offset of the first message: constant, and valid for every way of reading."""


def encode_offset(position: int) -> str:
    """The offset of a position; `encode_offset(a) < encode_offset(b)` exactly when `a < b`."""
    assert 0 <= position < 10**DIGITS
    return _PREFIX + str(position).zfill(DIGITS)


def decode_offset(token: str) -> int:
    """The position an offset names; `-1` is 0. Raises InvalidRequest for `now` and for what no server gave out."""
    if token == BEGINNING:
        return 0
    digits = token[len(_PREFIX) :]
    if len(token) != _WIDTH or not token.startswith(_PREFIX) or not (digits.isascii() and digits.isdigit()):
        raise InvalidRequest("The offset is malformed.", code="bad_offset")
    return int(digits)
