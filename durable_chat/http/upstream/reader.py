"""
A reader of a remote stream. It catches up with plain reads, then follows live, and reconnects by itself.

It advances its position only together with the messages before it, so a lost connection loses and repeats no message.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import httpx

from durable_chat.errors import InvalidRequest, UpstreamDown, UpstreamFailed
from durable_chat.http.upstream.wire import Answer, Ask, UpstreamWire, backoff_s, foreign, head_of, read_body, refusal
from durable_chat.protocol.events import EventDecoder, decode_control, is_offset_like
from durable_chat.protocol.messages import is_json, is_text, normalize_content_type
from durable_chat.protocol.offsets import BEGINNING, NOW, ZERO
from durable_chat.store.base import ClosedOnExit, Head

FAILURES_MAX = 6
"""Live connections in a row that may return nothing before the reader raises UpstreamDown: about 5 s of pauses."""

QUICK_S = 1.0
"""After an empty live connection that was shorter than this, the reader pauses, to avoid a tight loop of requests."""

_WHITESPACE = b" \t\n\r"


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """See `store.base.Batch`. The next live read sends `cursor` back to the server (PROTOCOL.md 10.1)."""

    offset: str
    next_offset: str
    data: bytes
    up_to_date: bool
    closed: bool = False
    cursor: str | None = None


async def open_reader(wire: UpstreamWire, path: str, offset: str, absent: str | None) -> UpstreamReader:
    """Open a reader and make its first read, so that an error in the stream or the offset is raised here."""
    if not is_offset_like(offset):
        raise InvalidRequest("The offset is malformed.", code="bad_offset")
    answer = await _get(wire, path, offset)
    if answer.status == 404 and absent is not None:
        start = ZERO if offset in (BEGINNING, NOW) else offset
        first = RemoteBatch(start, start, b"", up_to_date=True)
        wire_offset = BEGINNING if offset == NOW else offset
        return UpstreamReader(wire, path, Head(absent, start), wire_offset, first, missing=True)
    first = _batch_of(answer, offset)
    head = head_of(answer) if first.up_to_date else await _head(wire, path)
    return UpstreamReader(wire, path, head, first.next_offset, first)


class UpstreamReader(ClosedOnExit):
    """
    See `Reader`. Mutable state: `_offset`, the position after the last received batch; `_given`, the position after the
    last returned batch; `_first`, the batch that `open_reader` read; `_missing`, true while the stream does not exist;
    `_live`, the open live read; `_waiting`, the wait for its next batch, which continues when `next` times out.
    """

    def __init__(
        self, wire: UpstreamWire, path: str, head: Head, offset: str, first: RemoteBatch, *, missing: bool = False
    ) -> None:
        self._wire = wire
        self._path = path
        self._head = head
        self._offset = offset
        self._first: RemoteBatch | None = first
        self._given = first.offset
        self._missing = missing
        self._up_to_date = False
        self._closed = False
        self._cursor: str | None = None
        self._live: AsyncGenerator[RemoteBatch] | None = None
        self._waiting: asyncio.Future[RemoteBatch] | None = None

    @property
    def head(self) -> Head:
        return self._head

    async def aclose(self) -> None:
        """End the wait and close the connection to the remote server."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})
            if not waiting.cancelled():
                waiting.exception()  # mark it as retrieved, or asyncio logs it
        live, self._live = self._live, None
        if live is not None:
            await live.aclose()

    async def next(self, wait_s: float = 0.0) -> RemoteBatch:
        """See `Reader.next`. Raises UpstreamDown if the remote server does not respond to any of the retries."""
        first, self._first = self._first, None
        if first is not None:
            batch = self._hand_out(first)
            if batch.data or batch.closed or not batch.up_to_date or wait_s <= 0:
                return batch
        if self._closed:
            return self._nothing()
        if self._live is None and (wait_s <= 0 or not self._up_to_date):
            return self._hand_out(await self._catch_up())
        return await self._next_live(wait_s)

    async def _next_live(self, wait_s: float) -> RemoteBatch:
        if self._live is None:
            self._live = self._follow()
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(anext(self._live))
        done, _ = await asyncio.wait({self._waiting}, timeout=max(wait_s, 0.0))
        if not done:
            return self._nothing()
        waiting, self._waiting = self._waiting, None
        if waiting.exception() is not None:
            self._live = None
        return self._hand_out(waiting.result())

    def _hand_out(self, batch: RemoteBatch) -> RemoteBatch:
        self._given = batch.next_offset
        self._up_to_date = batch.up_to_date
        self._closed = batch.closed
        return batch

    def _nothing(self) -> RemoteBatch:
        return RemoteBatch(self._given, self._given, b"", up_to_date=True, closed=self._closed)

    async def _catch_up(self) -> RemoteBatch:
        answer = await _get(self._wire, self._path, self._offset)
        if answer.status == 404 and self._missing:
            return self._nothing()
        self._missing = False
        return self._take(_batch_of(answer, self._offset))

    def _take(self, batch: RemoteBatch) -> RemoteBatch:
        self._offset = batch.next_offset
        self._cursor = batch.cursor or self._cursor
        return batch

    async def _follow(self) -> AsyncGenerator[RemoteBatch]:
        """Yield batches that are not empty, over as many connections as needed. Ends only with an error."""
        clock = asyncio.get_running_loop().time
        failures = quick = 0
        while True:
            begun_s = clock()
            heard = useful = False
            try:
                if self._missing:
                    await self._create()
                async with aclosing(self._connection()) as connection:
                    async for batch in connection:
                        heard = True
                        self._take(batch)
                        if batch.data or batch.closed:
                            useful = True
                            yield batch
                pause_s = 0.0 if heard else backoff_s(failures)
            except UpstreamDown as error:
                if not heard and failures + 1 >= FAILURES_MAX:
                    raise
                pause_s = max(backoff_s(failures), _asked_s(error))
            failures = 0 if heard else failures + 1
            if failures >= FAILURES_MAX:
                raise UpstreamDown("The stream server ends every live read immediately.")
            quick = 0 if useful or clock() - begun_s >= QUICK_S else quick + 1
            await asyncio.sleep(max(pause_s, backoff_s(quick) if quick else 0.0))

    def _connection(self) -> AsyncGenerator[RemoteBatch]:
        # SSE does not preserve the kind of line ending, so only a long-poll delivers text unchanged.
        content_type = self._head.content_type
        return self._long_poll() if is_text(content_type) and not is_json(content_type) else self._sse()

    async def _create(self) -> None:
        answer = await self._wire.ensure_stream(self._path, self._head.content_type)
        if answer.status == 201 and self._offset == BEGINNING:
            self._offset = answer.next_offset
        self._missing = False

    def _query(self, live: str) -> dict[str, str]:
        query = {"live": live, "offset": self._offset}
        return query if self._cursor is None else {**query, "cursor": self._cursor}

    async def _long_poll(self) -> AsyncGenerator[RemoteBatch]:
        response = await self._wire.open_live(self._path, self._query("long-poll"))
        try:
            body = await read_body(response, wanted=response.status_code == 200)
            yield _batch_of(Answer(response.status_code, response.headers, body), self._offset)
        except httpx.HTTPError as error:
            raise foreign(error) from error
        finally:
            await response.aclose()

    async def _sse(self) -> AsyncGenerator[RemoteBatch]:
        # Compression would delay events.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        response = await self._wire.open_live(self._path, self._query("sse"), headers)
        try:
            if response.status_code != 200:
                raise refusal(response.status_code, response.headers)
            if normalize_content_type(response.headers.get("content-type", "")) != "text/event-stream":
                raise UpstreamFailed("The stream server's live read is not an event stream.")
            base64 = response.headers.get("stream-sse-data-encoding", "").lower() == "base64"
            decoder = EventDecoder()
            parts: list[bytes] = []
            async for chunk in response.aiter_bytes():
                for event in decoder.feed(chunk):
                    if event.name == "data":
                        parts.append(self._event_data(event.data, base64=base64))
                    elif event.name == "control":
                        yield self._controlled(event.data, parts)
                        parts = []
        except httpx.HTTPError as error:
            raise foreign(error) from error
        finally:
            await response.aclose()

    def _event_data(self, data: bytes, *, base64: bool) -> bytes:
        if not base64:
            return _messages(data) if is_json(self._head.content_type) else data
        try:
            return b64decode(data.translate(None, b"\r\n"), validate=True)
        except binascii.Error as error:
            raise UpstreamFailed("The stream server sent an event that is not valid base64.") from error

    def _controlled(self, data: bytes, parts: list[bytes]) -> RemoteBatch:
        """Return the batch of a `control` event and of the `data` events before it, of which there may be several."""
        control = decode_control(data)
        joint = b"," if is_json(self._head.content_type) else b""
        return _checked(
            RemoteBatch(
                self._offset,
                control.stream_next_offset,
                joint.join(part for part in parts if part),
                up_to_date=control.up_to_date or control.stream_closed,
                closed=control.stream_closed,
                cursor=control.stream_cursor,
            )
        )


async def _get(wire: UpstreamWire, path: str, offset: str) -> Answer:
    return await wire.exchange(Ask("GET", path, {"offset": offset}, wants_body=True))


async def _head(wire: UpstreamWire, path: str) -> Head:
    answer = await wire.exchange(Ask("HEAD", path))
    if answer.status != 200:
        raise refusal(answer.status, answer.headers)
    return head_of(answer)


def _batch_of(answer: Answer, offset: str) -> RemoteBatch:
    """Return the batch of a plain or long-poll read (PROTOCOL.md 5.6, 5.7)."""
    if answer.status not in (200, 204):
        raise refusal(answer.status, answer.headers)
    data = answer.body
    if answer.status == 200 and is_json(answer.headers.get("content-type", "")):
        data = _messages(data)
    up_to_date = answer.closed or answer.is_true("stream-up-to-date")
    batch = RemoteBatch(
        answer.next_offset if offset == NOW else offset,
        answer.next_offset,
        data,
        up_to_date=up_to_date,
        closed=answer.closed,
        cursor=answer.headers.get("stream-cursor"),
    )
    if not (batch.data or up_to_date) and batch.next_offset == offset:
        raise UpstreamFailed("The stream server sent no data, although it says that there is more.")
    return _checked(batch)


def _checked(batch: RemoteBatch) -> RemoteBatch:
    if batch.data and batch.next_offset == batch.offset:
        raise UpstreamFailed("The stream server sent messages but did not advance the offset.")
    return batch


def _messages(body: bytes) -> bytes:
    """Return the messages of a JSON array as the log stores them: joined by commas, without the brackets."""
    body = body.strip(_WHITESPACE)
    if not (body.startswith(b"[") and body.endswith(b"]")):
        raise UpstreamFailed("The stream server sent JSON that is not an array.")
    return body[1:-1].strip(_WHITESPACE)


def _asked_s(error: UpstreamDown) -> float:
    """Return the pause that the remote server asked for. One second is our own default, so it counts as none."""
    asked_s = int(error.headers["Retry-After"])
    return float(asked_s) if asked_s > 1 else 0.0
