"""Cutting and joining pieces never loses, doubles or reorders a message."""

from __future__ import annotations

import itertools
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from durable_chat.protocol.messages import split_messages
from durable_chat.store.base import Piece, Record, StreamChange
from durable_chat.store.pieces import cut, join, take
from durable_chat.store.sqlite.journal import decode_lengths, decode_writes, encode_lengths, encode_writes
from durable_chat.store.sqlite.writer import BLOB_BYTES, Blob, blobs_of
from durable_chat.store.tables import Accepted
from tests.store.making import make_state

messages = st.lists(st.binary(min_size=1, max_size=20).filter(lambda m: b"," not in m), min_size=1, max_size=8)
pieces_of_messages = st.lists(messages, min_size=1, max_size=6)


def as_pieces(groups: list[list[bytes]]) -> list[Piece]:
    pieces, position = [], 0
    for group in groups:
        pieces.append(Piece(position, b",".join(group), tuple(map(len, group))))
        position += len(group)
    return pieces


def messages_of(piece: Piece) -> list[bytes]:
    assert piece.lengths is not None
    return split_messages(piece.data, piece.lengths)


@given(pieces_of_messages, st.data())
def test_cutting_a_joined_piece_gives_the_messages_between(groups: list[list[bytes]], data: st.DataObject) -> None:
    """The messages between two positions are the slice of a list."""
    flat = [message for group in groups for message in group]
    start = data.draw(st.integers(0, len(flat) - 1))
    stop = data.draw(st.integers(start + 1, len(flat)))
    part = cut(join(as_pieces(groups)), start, stop)
    assert messages_of(part) == flat[start:stop]
    assert (part.start, part.stop) == (start, stop)


@given(pieces_of_messages, st.data())
def test_taking_gives_a_prefix_within_the_bound(groups: list[list[bytes]], data: st.DataObject) -> None:
    """
    `take` begins at the given position, never skips, and returns at least one message and at most the allowed bytes.
    """
    flat = [message for group in groups for message in group]
    start = data.draw(st.integers(0, len(flat) - 1))
    stop = data.draw(st.integers(start + 1, len(flat)))
    bytes_max = data.draw(st.integers(1, 200))
    taken = take(as_pieces(groups), start, stop, bytes_max)
    got = [message for piece in taken for message in messages_of(piece)]
    assert got and got == flat[start : start + len(got)]
    assert start + len(got) <= stop
    assert len(got) == 1 or sum(len(piece.data) for piece in taken) <= bytes_max


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5), st.data())
def test_bytes_are_taken_like_a_slice(parts: list[bytes], data: st.DataObject) -> None:
    """Positions in a stream that is not JSON count bytes."""
    pieces, position = [], 0
    for part in parts:
        pieces.append(Piece(position, part, None))
        position += len(part)
    whole = b"".join(parts)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    bytes_max = data.draw(st.integers(1, 100))
    got = b"".join(piece.data for piece in take(pieces, start, stop, bytes_max))
    assert got and whole[start:stop].startswith(got)
    ends = list(accumulate(map(len, parts)))
    first = next(end for end in ends if end > start)  # at least what begins there, whole
    assert len(got) <= bytes_max or start + len(got) == min(first, stop)
    assert start + len(got) in (*ends, stop)


@given(st.one_of(st.none(), st.lists(st.integers(0, 2**32 - 1)).map(tuple)))
def test_lengths_survive_their_encoding(lengths: tuple[int, ...] | None) -> None:
    """Decoding returns what was encoded."""
    assert decode_lengths(encode_lengths(lengths)) == lengths


@given(messages, st.booleans())
def test_writes_survive_the_journal(group: list[bytes], drop: bool) -> None:
    """A flush that is read from the journal equals the flush that was written."""
    change = StreamChange(make_state("a/b", tail=len(group)), as_pieces([group])[0], None, drop)
    writes = [Accepted((change,), (("k", "a", Record("k", "a", 3, b"v", 4)), ("k", "b", None)))]
    assert decode_writes(encode_writes(writes)) == writes


_sizes = st.integers(1, BLOB_BYTES + 2)


@given(st.lists(st.tuples(_sizes, st.booleans()), max_size=12), st.none() | _sizes)
def test_blobs_are_filled_up(parts: list[tuple[int, bool]], open_size: int | None) -> None:
    """All pieces are there in order. A staged piece is one blob, and of the others only the last may have room."""
    pieces: list[Piece] = []
    blob = None if open_size is None else Blob(7, Piece(0, bytes(open_size), None))
    position = open_size or 0
    for number, (size, staged) in enumerate(parts):
        pieces.append(Piece(position, bytes(size), None, number if staged else None))
        position += size
    made = list(blobs_of(pieces, blob))
    continued = blob is not None and made != [] and made[0][0] == 7
    assert [blob_id for blob_id, _ in made if blob_id is not None] == [7] * continued
    expected = [blob.piece, *pieces] if blob is not None and continued else pieces
    assert [piece for _, gathered in made for piece in gathered] == expected
    assert not pieces or pieces[0].staged is not None or continued == (blob is not None)
    for _, gathered in made:
        assert len(gathered) == 1 or all(piece.staged is None for piece in gathered)
        assert sum(len(piece.data) for piece in gathered[:-1]) < BLOB_BYTES
    for (_, gathered), (_, following) in itertools.pairwise(made):
        if gathered[0].staged is None and following[0].staged is None:
            assert sum(len(piece.data) for piece in gathered) >= BLOB_BYTES
