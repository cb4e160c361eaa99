"""
Rows of the SQLite tables: encoding, decoding and upserts.

One statement writes many rows. SQLite releases the GIL at each step of a statement, and a thread may wait 0.5 ms to get
it back when the event loop is busy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Loaded
from durable_chat.store.sqlite.checksums import BlobRow

Row = tuple[Any, ...]

_COLUMNS = (
    *("id", "path", "version", "content_type", "tail", "created_ms", "accessed_ms", "closed", "closed_by", "ttl_s"),
    *("expires_at", "expires_at_ms", "last_seq", "source", "source_id", "fork_position", "fork_offset"),
    *("fork_sub_offset", "forks", "deleted", "life", "source_lives"),
)
_CLOSED, _CLOSED_BY, _DELETED, _LIVES = map(_COLUMNS.index, ("closed", "closed_by", "deleted", "source_lives"))
_NAMES = ", ".join(_COLUMNS)
_CLOSER = msgspec.json.Decoder(tuple[str, int, int])
_SOURCE_LIVES = msgspec.json.Decoder(tuple[tuple[int, int], ...])
_PRODUCERS = msgspec.json.Decoder(list[tuple[str, int, int, int]])

assert StreamState.__struct_fields__ == _COLUMNS

ROWS_MAX = 32
"""
The most rows of one statement. The numbers of rows are powers of two, so that few statements must be prepared and
cached.
"""

AMONG = "IN (SELECT value FROM json_each(?))"
"""A condition for any number of values, passed as one JSON array. The statement text is always the same."""


@dataclass(frozen=True)
class Upsert:
    """Insert rows into a table; for rows whose `key` exists, update the `changing` columns."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    changing: tuple[str, ...]

    def store(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        at = 0
        while left := len(rows) - at:
            count = min(ROWS_MAX, 1 << left.bit_length() - 1)
            values = [value for row in rows[at : at + count] for value in row]
            connection.execute(_statement(self, count), values)
            at += count


@lru_cache(maxsize=64)
def _statement(upsert: Upsert, count: int) -> str:
    marks = f"({', '.join('?' * len(upsert.columns))})"
    return (
        f"INSERT INTO {upsert.table} ({', '.join(upsert.columns)}) VALUES {', '.join([marks] * count)}"
        f" ON CONFLICT ({', '.join(upsert.key)}) DO UPDATE SET"
        f" {', '.join(f'{name} = excluded.{name}' for name in upsert.changing)}"
    )


_PRODUCER_COLUMNS = ("stream_id", "producer_id", "epoch", "seq", "updated_ms")
_BLOB_COLUMNS = BlobRow._fields
_RECORD_COLUMNS = ("kind", "key", "version", "value", "due_ms")

# The path of a stream never changes. Leaving it out of the update avoids work on its index.
STREAMS = Upsert("streams", (*_COLUMNS, "deadline_ms"), ("id",), (*_COLUMNS[2:], "deadline_ms"))
PRODUCERS = Upsert("producers", _PRODUCER_COLUMNS, _PRODUCER_COLUMNS[:2], _PRODUCER_COLUMNS[2:])
BLOBS = Upsert("blobs", _BLOB_COLUMNS, ("id",), ("stop", "lengths", "size", "data", "crc"))
COUNTERS = Upsert("counters", ("name", "value"), ("name",), ("value",))
RECORDS = Upsert("records", _RECORD_COLUMNS, _RECORD_COLUMNS[:2], _RECORD_COLUMNS[2:])

# Includes the producers, so that loading a stream takes one query.
SELECT_ALL_STREAMS = f"""
SELECT {_NAMES}, (
    SELECT json_group_array(json_array(producer_id, epoch, seq, updated_ms)) FROM producers WHERE stream_id = streams.id
) FROM streams
"""
SELECT_STREAMS = f"{SELECT_ALL_STREAMS} WHERE path {AMONG}"


def among(values: Sequence[str] | Sequence[int]) -> tuple[str]:
    """The argument of `AMONG`. No value contains a NUL, where SQLite would cut the text off."""
    return (msgspec.json.encode(values).decode(),)


def stream_to_row(state: StreamState) -> Row:
    """The values of `STREAMS`. A deleted stream that is kept for its forks has no deadline."""
    values = list(msgspec.structs.astuple(state))
    if state.closed_by is not None:
        values[_CLOSED_BY] = msgspec.json.encode(state.closed_by).decode()
    values[_LIVES] = msgspec.json.encode(state.source_lives).decode() if state.source_lives else None
    return (*values, None if state.deleted else state.deadline_ms(state.accessed_ms))


def stream_from_row(row: Row) -> Loaded:
    """Decode a row of `SELECT_STREAMS`. The inverse of `stream_to_row`."""
    *values, producers = row
    values[_CLOSED] = bool(values[_CLOSED])
    values[_DELETED] = bool(values[_DELETED])
    if values[_CLOSED_BY] is not None:
        values[_CLOSED_BY] = _CLOSER.decode(values[_CLOSED_BY])
    values[_LIVES] = () if values[_LIVES] is None else _SOURCE_LIVES.decode(values[_LIVES])
    found = {name: ProducerState(*numbers) for name, *numbers in _PRODUCERS.decode(producers)}
    return Loaded(StreamState(*values), found)
