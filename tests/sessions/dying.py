"""
A server that kills itself at a chosen point of the log: right before or right after a flush that holds given bytes.

Start it with uvicorn as `dying:app`. DIE_AT is the content of the flush. DIE is `before` or `after` it is durable.
Without DIE_AT the server lives on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import durable_chat.store.sqlite.backend as sqlite
from durable_chat.app import DurableChat
from durable_chat.store.base import Write

DIE_AT = os.environ.get("DIE_AT", "").encode()
BEFORE = os.environ.get("DIE") == "before"


class DyingBackend(sqlite.SqliteBackend):
    """A SQLite store whose process dies."""

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        fatal = bool(DIE_AT) and any(DIE_AT in held for write in writes for held in _held(write))
        if fatal and BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        refused = await super().commit(writes)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return refused


def _held(write: Write) -> list[bytes]:
    """The content of a write: appended bytes, and values of records."""
    pieces = [change.piece.data for change in write.streams if change.piece is not None]
    return pieces + [record.value for record in write.records if record.value is not None]


sqlite.SqliteBackend = DyingBackend  # type: ignore[misc]
app = DurableChat("sqlite:///chat.db", protocol=True).app
