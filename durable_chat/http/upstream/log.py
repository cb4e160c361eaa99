"""
A `Log` on a remote Durable Streams server: the same streams as the embedded ones, over HTTP.

Writing is exactly once by an idempotent producer per stream (PROTOCOL.md 5.2.1), whose epoch also fences: the process
that claimed a stream last writes it, and the one before is told so at its next append.
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
"""One for every process: whoever claims the next epoch of it fences all before."""

CLAIMS_MAX = 4
"""How often a fresh writer bids for the next epoch: more in a row means that two processes fight for one stream."""

WRITERS_MAX = 10_000
"""Streams whose producer numbers are kept; the one idle longest goes, and claims an epoch when it comes back."""

EPOCH_STEPS = 1024
"""Epochs of one millisecond, of which a new writer takes one at random; they last until the year 2248."""


def first_epoch() -> int:
    """
    A new writer's first epoch, by the clock. Counting from 0 would be wrong: a server that knows epoch 0, and has seen
    its sequence 0, would take a new process's first message for a repetition and drop it.
    """
    return time.time_ns() // 1_000_000 * EPOCH_STEPS + random.randrange(EPOCH_STEPS)


@dataclass(slots=True)
class _Writer:
    """
    The numbers of this process's producer in one stream. `claimed`: the server has taken `epoch`. `unsettled` is the
    append whose outcome is not known: the same one again goes with the same numbers, any other begins a new epoch.
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
        """A new epoch: whatever of the old one is still on its way will be refused."""
        self.epoch, self.seq = max(self.epoch, above) + 1, 0
        return Producer(PRODUCER_ID, self.epoch, self.seq)

    def settle(self, *, accepted: bool) -> None:
        self.unsettled = None
        if accepted:
            self.claimed = True
            self.seq += 1


class Upstream:
    """
    See `Log`. Mutable state: `_writers`, by path, those used last at the end.

    A path whose writer was fenced stays refused (StaleEpoch), so that no run goes on beside its successor. `read`,
    which every turn of a session begins with, makes this process a new writer: who has seen what the other one wrote
    may take over in turn.
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
        """See `Log.create`. After a lost answer, `existed` may be true of a stream that this very call created."""
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
        See `Log.append`. After UpstreamDown it is not known whether the messages are there: the same append may be
        sent again, and is then carried out once. A duplicate's `next_offset` may be a later tail than its own.
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
                # Somebody's epoch is newer than a new writer's clock, or the server has forgotten us: claim the next.
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
        # A close alone is answered with 204 also the first time.
        duplicate = answer.status == 204 and request.payload.units > 0
        if duplicate and "stream-next-offset" not in answer.headers:
            # The reference server leaves it out here.
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
        """See `Log.delete`. One that an earlier attempt of the same call deleted is no error."""
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
        See `Log.read`. The reader reconnects by itself, and reads no message twice. With `absent`, its first wait
        creates a stream that does not exist, since a remote can only be followed where there is one. The offset may be
        one inside an append.
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
        raise InvalidRequest("A content type is missing.", code="missing_content_type")
    return request.content_type


def _body_of(request: Append | Create) -> bytes:
    """As it goes on the wire: the messages of a JSON stream in the array that the server takes apart again."""
    payload: Payload = request.payload
    if payload.lengths is None or not (request.content_type is not None and is_json(request.content_type)):
        return payload.data
    return b"[" + payload.data + b"]" if payload.units else b""


async def open_upstream(base_url: str, secret: str | None) -> Store:
    """
    The store at a remote address (`https://host/v1/stream[/service]`): a log and no records. Asks the remote nothing
    yet: it may start later than we do. Raises StartError for an address or a secret that cannot be used.
    """
    upstream = Upstream(base_url, secret)
    return Store(upstream, None, upstream.aclose)
