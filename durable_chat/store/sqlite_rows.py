"""Streams and their producers as rows of the SQLite tables, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from durable_chat.protocol.states import ProducerState, StreamState

Row = tuple[Any, ...]

_COLUMNS = (
    *("id", "path", "version", "content_type", "tail", "created_ms", "accessed_ms", "closed", "closed_by", "ttl_s"),
    *("expires_at", "expires_at_ms", "last_seq", "source", "source_id", "fork_position", "fork_offset"),
    *("fork_sub_offset", "forks", "deleted"),
)
_CLOSED, _CLOSED_BY, _DELETED = (_COLUMNS.index(name) for name in ("closed", "closed_by", "deleted"))
_NAMES = ", ".join(_COLUMNS)
_CLOSER = msgspec.json.Decoder(tuple[str, int, int])

assert StreamState.__struct_fields__ == _COLUMNS

SELECT_STREAMS = f"SELECT {_NAMES} FROM streams WHERE path IN (%s)"
UPSERT_STREAM = (
    f"INSERT INTO streams ({_NAMES}, deadline_ms) VALUES ({', '.join('?' * (len(_COLUMNS) + 1))})"
    f" ON CONFLICT (id) DO UPDATE SET ({_NAMES}, deadline_ms)"
    f" = ({', '.join('excluded.' + name for name in (*_COLUMNS, 'deadline_ms'))})"
)
SELECT_PRODUCERS = "SELECT stream_id, producer_id, epoch, seq, updated_ms FROM producers WHERE stream_id IN (%s)"
UPSERT_PRODUCER = "INSERT OR REPLACE INTO producers (stream_id, producer_id, epoch, seq, updated_ms) VALUES (?,?,?,?,?)"


def stream_to_row(state: StreamState) -> Row:
    """The values of `UPSERT_STREAM`. A stream that is kept for its forks has no deadline of its own."""
    values = list(msgspec.structs.astuple(state))
    if state.closed_by is not None:
        values[_CLOSED_BY] = msgspec.json.encode(state.closed_by).decode()
    return (*values, None if state.deleted else state.deadline_ms(state.accessed_ms))


def stream_from_row(row: Row) -> StreamState:
    """The inverse of `stream_to_row`, from `SELECT_STREAMS`."""
    values = list(row)
    values[_CLOSED] = bool(values[_CLOSED])
    values[_DELETED] = bool(values[_DELETED])
    if values[_CLOSED_BY] is not None:
        values[_CLOSED_BY] = _CLOSER.decode(values[_CLOSED_BY])
    return StreamState(*values)


def producer_from_row(row: Row) -> tuple[int, str, ProducerState]:
    """The stream's id, the producer's, and its state."""
    return int(row[0]), str(row[1]), ProducerState(row[2], row[3], row[4])
