"""Cut and join pieces: runs of messages or bytes at a position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter

from durable_chat.store.base import CUT_BYTES, Piece

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
    """Join consecutive pieces into one."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if first.lengths is None:
        return Piece(first.start, b"".join(map(_DATA, pieces)), None, None, _join_appends(pieces))
    return Piece(first.start, b",".join(map(_DATA, pieces)), tuple(chain.from_iterable(map(_LENGTHS, pieces))))


def _join_appends(pieces: Sequence[Piece]) -> tuple[int, ...]:
    known = [appends_of(piece) for piece in pieces]
    return tuple(chain.from_iterable(known)) if all(known) else ()


def appends_of(piece: Piece) -> tuple[int, ...]:
    """The lengths of the appends in a byte piece; empty if they are not known."""
    return (len(piece.data),) if piece.appends is None else piece.appends


def append_start(start: int, appends: tuple[int, ...] | None, position: int) -> int:
    """The beginning of the append that holds a position. The appends follow each other from `start` on."""
    if appends is None:
        return start
    ends = list(accumulate(appends, initial=start))
    return ends[bisect_right(ends, position) - 1] if appends else position


def given_out(start: int, position: int) -> int:
    """
    The position itself if a reader may have received it, otherwise `start`, the beginning of the append that holds it.
    """
    return position if (position - start) % CUT_BYTES == 0 else start


def take(pieces: Sequence[Piece], start: int, stop: int, bytes_max: int) -> list[Piece]:
    """
    Return what lies between two positions of ordered pieces. It is cut after about `bytes_max` bytes but is never cut
    to nothing. It ends before a gap.
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
    """The furthest position, up to `end`, such that the data from `begin` to it has at most `bytes_max` bytes."""
    # Most blobs of a catch-up are taken whole. Adding up a thousand lengths would take longer than reading them.
    if begin == piece.start and end == piece.stop and len(piece.data) <= bytes_max:
        return end
    if piece.lengths is None:
        return _fit_bytes(piece, begin, end, bytes_max, at_least_one=at_least_one)
    size = -1
    for index in range(begin - piece.start, end - piece.start):
        size += piece.lengths[index] + 1
        if size > bytes_max:
            return piece.start + index + (1 if at_least_one and index == begin - piece.start else 0)
    return end


def _fit_bytes(piece: Piece, begin: int, end: int, bytes_max: int, *, at_least_one: bool) -> int:
    """The same for a byte piece: cut between appends, or inside a long one where `given_out` allows it."""
    most = begin + bytes_max
    if most >= end:
        return end
    appends = appends_of(piece)
    if not appends:
        return max(most, begin + 1 if at_least_one else begin)
    ends = list(accumulate(appends, initial=piece.start))
    last = ends[bisect_right(ends, most) - 1]
    if last > begin:  # between two appends
        return last
    first = ends[bisect_right(ends, begin) - 1]
    inside = first + (most - first) // CUT_BYTES * CUT_BYTES
    if inside > begin:
        return inside
    if not at_least_one:
        return begin
    return min(end, inside + CUT_BYTES, ends[bisect_right(ends, begin)])
