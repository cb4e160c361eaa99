"""
A `Log` on a remote Durable Streams server: the same streams as in the embedded store, over HTTP.

Each stream has an idempotent producer (PROTOCOL.md 5.2.1), so every append is written exactly once. The producer's
epoch is also a fencing token: only the process that claimed a stream last can write to it. The process before it gets
StaleEpoch at its next append.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from durable_chat.errors import Conflict, InvalidRequest, SequenceGap, StaleEpoch
from durable_chat.http.upstream.reader import UpstreamReader, open_reader
from durable_chat.http.upstream.sub_offsets import InsideReader, open_inside
from durable_chat.http.upstream.wire import (
    ANSWER_MAX_S,
    ATTEMPTS_MAX,
    RUN_ATTEMPTS_MAX,
    Answer,
    Ask,
    UpstreamWire,
    head_of,
    refusal,
)
from durable_chat.protocol.messages import BINARY, Payload, is_json
from durable_chat.protocol.producers import NUMBER_MAX
from durable_chat.protocol.requests import Append, Appended, Create, Created, Producer
from durable_chat.protocol.sub_offsets import split_inside
from durable_chat.store.base import Head, RecordWrite, Store

PRODUCER_ID = "durable-chat"
"""All processes use the same producer id, so a claim of the next epoch fences the previous process."""

CLAIMS_MAX = 4
"""How many times a new writer tries to claim the next epoch. If that fails, two processes compete for the stream."""

WRITERS_MAX = 10_000
"""Streams whose producer numbers are kept. The least recently used is dropped and later claims a new epoch."""

EPOCH_STEPS = 1024
"""Epochs for each millisecond. A new writer picks one of them at random. The numbers suffice until the year 2248."""


def first_epoch() -> int:
    """
    Return a new writer's first epoch, from the clock. It cannot be 0: a server that has seen sequence 0 of epoch 0
    would treat the new process's first message as a duplicate and drop it.
    """
    return time.time_ns() // 1_000_000 * EPOCH_STEPS + random.randrange(EPOCH_STEPS)


@dataclass(slots=True)
class _Writer:
    """
    The numbers of this process's producer in one stream. `claimed` is true once the server has accepted `epoch`.
    `unsettled` is an append whose outcome is unknown: a retry uses the same numbers, any other append a new epoch.
    """

    epoch: int
    seq: int = 0
    claimed: bool = False
    fenced_by: int | None = None
    unsettled: Append | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin(self, request: Append) -> Producer:
        if self.fenced_by is not None:
            raise StaleEpoch(self.fenced_by)
        if self.unsettled is not None and self.unsettled != request:
            self.renew()
        self.unsettled = request
        return Producer(PRODUCER_ID, self.epoch, self.seq)

    def renew(self, above: int = 0) -> Producer:
        """Start a new epoch. Requests of the old epoch that are still in flight will be refused."""
        self.epoch, self.seq = max(self.epoch, above) + 1, 0
        return Producer(PRODUCER_ID, self.epoch, self.seq)

    def settle(self, *, accepted: bool) -> None:
        self.unsettled = None
        if accepted:
            self.claimed = True
            self.seq += 1


class Upstream:
    """
    See `Log`. Mutable state: `_writers`, by path, the most recently used last.

    Appends to a path whose writer was fenced fail with StaleEpoch, so that no run continues beside its successor. A
    `read`, which every turn begins with, makes this process a new writer: it has then seen what the other process wrote
    and may take over.
    """

    def __init__(
        self,
        base_url: str,
        secret: str | None,
        *,
        headers: Mapping[str, str] | None = None,
        epoch: Callable[[], int] = first_epoch,
        answer_max_s: float = ANSWER_MAX_S,
        writers_max: int = WRITERS_MAX,
    ) -> None:
        self._writers_max = writers_max
        self.wire = UpstreamWire(base_url, secret, headers, answer_max_s)
        self._epoch = epoch
        self._writers: OrderedDict[str, _Writer] = OrderedDict()

    async def aclose(self) -> None:
        await self.wire.aclose()

    async def create(self, path: str, request: Create) -> Created:
        """See `Log.create`. After a lost response, `existed` may be true for a stream that this call created."""
        answer = await self.wire.exchange(
            Ask("PUT", path, headers=self._create_headers(request), body=_body_of(request))
        )
        if answer.status not in (200, 201):
            raise refusal(answer.status, answer.headers)
        content_type = answer.headers.get("content-type") or request.content_type or BINARY
        return Created(answer.status == 200, content_type, answer.next_offset, answer.closed)

    def _create_headers(self, request: Create) -> dict[str, str]:
        headers = {
            "Content-Type": request.content_type,
            "Stream-TTL": None if request.ttl_s is None else str(request.ttl_s),
            "Stream-Expires-At": request.expires_at,
            "Stream-Closed": "true" if request.closed else None,
        }
        if request.fork is not None:
            headers["Stream-Forked-From"] = self.wire.stream_path(request.fork.source)
            headers["Stream-Fork-Offset"] = request.fork.offset
            headers["Stream-Fork-Sub-Offset"] = str(request.fork.sub_offset) if request.fork.sub_offset else None
        return {name: value for name, value in headers.items() if value is not None}

    async def append(self, path: str, request: Append, records: Sequence[RecordWrite] = ()) -> Appended:
        """
        See `Log.append`. After UpstreamDown it is unknown whether the messages were written. The same append may be
        retried and takes effect once. The `next_offset` of a duplicate may be after a later append.
        """
        assert not records, "a remote log has no records"
        if request.producer is not None:
            answer = await self._post(path, request, request.producer)
            if not _accepted(answer):
                raise refusal(answer.status, answer.headers)
            return await self._appended(path, request, request.producer, answer)
        writer = self._writer(path)
        async with writer.lock:
            return await self._append(path, request, writer)

    async def _append(self, path: str, request: Append, writer: _Writer) -> Appended:
        again = writer.unsettled == request
        numbers = writer.begin(request)
        attempts_max = RUN_ATTEMPTS_MAX if writer.claimed else ATTEMPTS_MAX
        for _ in range(CLAIMS_MAX):
            answer = await self._post(path, request, numbers, attempts_max)
            if _accepted(answer):
                appended = await self._appended(path, request, numbers, answer)
                writer.settle(accepted=True)
                return appended
            error = refusal(answer.status, answer.headers)
            doubtful = answer.repeated or again
            if isinstance(error, StaleEpoch) and (writer.claimed or doubtful):
                writer.fenced_by = error.current_epoch
                raise error
            if isinstance(error, StaleEpoch | SequenceGap) and not doubtful:
                # Another epoch is newer than this writer's clock, or the server has lost our state: claim the next.
                numbers = writer.renew(error.current_epoch if isinstance(error, StaleEpoch) else 0)
                continue
            if not doubtful:
                writer.settle(accepted=False)
            if type(error) is Conflict and request.seq is not None:
                raise Conflict("Stream-Seq must increase.", code="sequence_conflict")
            raise error
        writer.settle(accepted=False)
        raise StaleEpoch(writer.epoch)

    async def _post(self, path: str, request: Append, numbers: Producer, attempts_max: int = ATTEMPTS_MAX) -> Answer:
        headers = {
            "Producer-Id": numbers.id,
            "Producer-Epoch": str(numbers.epoch),
            "Producer-Seq": str(numbers.seq),
        }
        if request.payload.units:
            headers["Content-Type"] = _type_of(request)
        if request.close:
            headers["Stream-Closed"] = "true"
        if request.seq is not None:
            headers["Stream-Seq"] = request.seq
        body = _body_of(request)
        return await self.wire.exchange(Ask("POST", path, headers=headers, body=body, attempts_max=attempts_max))

    async def _appended(self, path: str, request: Append, numbers: Producer, answer: Answer) -> Appended:
        # A request that only closes the stream gets 204 the first time, too.
        duplicate = answer.status == 204 and request.payload.units > 0
        if duplicate and "stream-next-offset" not in answer.headers:
            # The reference server omits the offset here.
            tail = await self.head(path)
            return Appended(tail.next_offset, tail.closed, duplicate, numbers)
        return Appended(answer.next_offset, answer.closed, duplicate, numbers)

    def _writer(self, path: str) -> _Writer:
        writer = self._writers.get(path)
        if writer is None:
            epoch = self._epoch()
            assert 0 <= epoch <= NUMBER_MAX
            writer = self._writers[path] = _Writer(epoch)
            self._forget_idle()
        self._writers.move_to_end(path)
        return writer

    def _forget_idle(self) -> None:
        if len(self._writers) <= self._writers_max:
            return
        path, oldest = next(iter(self._writers.items()))
        if not oldest.lock.locked():
            del self._writers[path]

    async def delete(self, path: str) -> None:
        """See `Log.delete`. A stream that an earlier attempt of the same call deleted is not an error."""
        answer = await self.wire.exchange(Ask("DELETE", path))
        self._writers.pop(path, None)
        if answer.status in (200, 204) or (answer.repeated and answer.status in (404, 410)):
            return
        raise refusal(answer.status, answer.headers)

    async def head(self, path: str) -> Head:
        answer = await self.wire.exchange(Ask("HEAD", path))
        if answer.status != 200:
            raise refusal(answer.status, answer.headers)
        return head_of(answer)

    async def read(self, path: str, offset: str, *, absent: str | None = None) -> UpstreamReader | InsideReader:
        """
        See `Log.read`. The reader reconnects by itself and reads no message twice. With `absent`, its first wait
        creates a missing stream, because a remote stream must exist to be followed. The offset may be inside an append.
        """
        inside = split_inside(offset)
        opened = await open_reader(self.wire, path, offset if inside is None else inside[0], absent)
        reader = opened if inside is None else await open_inside(opened, *inside)
        writer = self._writers.get(path)
        if writer is not None and writer.fenced_by is not None:
            del self._writers[path]
        return reader


def _accepted(answer: Answer) -> bool:
    return answer.status in (200, 204)


def _type_of(request: Append) -> str:
    if request.content_type is None:
        raise InvalidRequest("The content type is missing.", code="missing_content_type")
    return request.content_type


def _body_of(request: Append | Create) -> bytes:
    """Return the body as it is sent: the messages of a JSON stream are sent as an array, which the server splits."""
    payload: Payload = request.payload
    if payload.lengths is None or not (request.content_type is not None and is_json(request.content_type)):
        return payload.data
    return b"[" + payload.data + b"]" if payload.units else b""


async def open_upstream(base_url: str, secret: str | None) -> Store:
    """
    Return the store at a remote address (`https://host/v1/stream[/service]`): a log without records. It does not
    connect yet, because the remote server may start later. Raises StartError for an invalid address or secret.
    """
    upstream = Upstream(base_url, secret)
    return Store(upstream, None, upstream.aclose)
