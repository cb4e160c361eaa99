"""Cutting and joining pieces: runs of messages, or of bytes, at a position."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from durable_chat.store.base import Piece

_DATA = attrgetter("data")
_LENGTHS = attrgetter("lengths")


def cut(piece: Piece, start: int, stop: int) -> Piece:
    """The part of a piece between two positions, both within it."""
    assert piece.start <= start < stop <= piece.stop
    if start == piece.start and stop == piece.stop:
        return piece
    if piece.lengths is None:
        return Piece(start, piece.data[start - piece.start : stop - piece.start], None)
    first, last = start - piece.start, stop - piece.start
    lengths = piece.lengths[first:last]
    begin = sum(piece.lengths[:first]) + first  # a comma follows each message
    end = begin + sum(lengths) + len(lengths) - 1
    return Piece(start, piece.data[begin:end], lengths)


def join(pieces: Sequence[Piece]) -> Piece:
    """One piece of several that follow each other."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if first.lengths is None:
        return Piece(first.start, b"".join(map(_DATA, pieces)), None)
    return Piece(first.start, b",".join(map(_DATA, pieces)), tuple(chain.from_iterable(map(_LENGTHS, pieces))))


def take(pieces: Sequence[Piece], start: int, stop: int, bytes_max: int) -> list[Piece]:
    """
    What lies between two positions of pieces in order, cut after about `bytes_max` bytes, but never to nothing. Where
    one is missing it ends.
    """
    taken: list[Piece] = []
    left, at = bytes_max, start
    for piece in pieces:
        begin, wanted = max(piece.start, at), min(piece.stop, stop)
        if begin >= wanted:
            continue
        if begin != at:
            break
        at = wanted
        end = _fit(piece, begin, wanted, left, at_least_one=not taken)
        if begin < end:
            taken.append(cut(piece, begin, end))
            left -= len(taken[-1].data)
        if end < wanted or left <= 0:
            break
    return taken


def _fit(piece: Piece, begin: int, end: int, bytes_max: int, *, at_least_one: bool) -> int:
    """The furthest position up to `end` so that what begins at `begin` holds at most `bytes_max` bytes."""
    if piece.lengths is None:
        return min(end, begin + max(bytes_max, 1 if at_least_one else 0))
    size = -1
    for index in range(begin - piece.start, end - piece.start):
        size += piece.lengths[index] + 1
        if size > bytes_max:
            return piece.start + index + (1 if at_least_one and index == begin - piece.start else 0)
    return end
