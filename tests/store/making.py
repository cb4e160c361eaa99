"""States, writes and requests for the tests of the store, and backends that fail or wait on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from durable_chat.errors import DurableChatError, StoreFailed
from durable_chat.protocol.messages import JSON, join_messages
from durable_chat.protocol.offsets import decode_offset, encode_offset
from durable_chat.protocol.requests import Append, Create, Created, Producer
from durable_chat.protocol.states import ProducerState, StreamState
from durable_chat.store.base import Piece, RecordWrite, StreamChange, Write
from durable_chat.store.memory import MemoryBackend
from durable_chat.store.streams import Streams


def make_state(path: str, *, stream_id: int = 1, version: int = 1, tail: int = 0, **more: Any) -> StreamState:
    fields: dict[str, Any] = {"content_type": JSON, "created_ms": 1, "accessed_ms": 1, **more}
    return StreamState(id=stream_id, path=path, version=version, tail=tail, **fields)


def write_of(
    state: StreamState,
    piece: Piece | None = None,
    *,
    producers: dict[str, ProducerState] | None = None,
    drop: bool = False,
    records: Sequence[RecordWrite] = (),
) -> Write:
    return Write((StreamChange(state, piece, producers, drop),), tuple(records))


def json_piece(start: int, *messages: bytes) -> Piece:
    return Piece(start, b",".join(messages), tuple(map(len, messages)))


def json_create(**more: Any) -> Create:
    return Create(JSON, **more)


def json_append(*messages: bytes, producer: Producer | None = None, **more: Any) -> Append:
    return Append(join_messages(list(messages)), JSON, producer=producer, **more)


async def offset_at(streams: Streams, path: str, position: int) -> str:
    """The offset of a position in a stream that is not empty."""
    life, _ = decode_offset((await streams.head(path)).next_offset)
    return encode_offset(life, position)


class FailingBackend(MemoryBackend):
    """A backend whose disk fails at the nth flush, once. A retry would succeed."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self.flushes = 0
        self.fails_at = fails_at

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        self.flushes += 1
        if self.flushes == self.fails_at:
            raise StoreFailed("The store could not write to its disk.")
        return await super().commit(writes)


class GatedBackend(MemoryBackend):
    """
    A backend whose flushes wait while it is held, so that a test can look at what is decided and not yet durable.
    Mutable state: the `gate`, `asked` (a flush waits at the gate), and the number of writes of each flush.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.batches: list[int] = []

    def hold(self) -> None:
        self.gate.clear()
        self.asked.clear()

    async def commit(self, writes: Sequence[Write]) -> frozenset[int]:
        self.asked.set()
        await self.gate.wait()
        self.batches.append(len(writes))
        return await super().commit(writes)


async def create_soon(streams: Streams, path: str, request: Create) -> Created:
    """`Streams.create`, through `create_soon` if possible, as a connection does it."""
    told: asyncio.Future[Created | None] = asyncio.get_running_loop().create_future()

    def tell(created: Created | None, failure: DurableChatError | None) -> None:
        told.set_result(created) if failure is None else told.set_exception(failure)

    created = await told if streams.create_soon(path, request, tell) else None
    return created or await streams.create(path, request)
