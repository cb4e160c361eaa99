"""
A reader that starts inside an append of a remote stream: it reads from the offset before and skips the first messages.
"""

from __future__ import annotations

from durable_chat.errors import InvalidRequest
from durable_chat.http.upstream.reader import RemoteBatch, UpstreamReader
from durable_chat.protocol.messages import is_json, split_array
from durable_chat.protocol.sub_offsets import past
from durable_chat.store.base import ClosedOnExit, Head


class InsideReader(ClosedOnExit):
    """See `Reader`. Mutable state: `_first`, the rest of the batch that `open_inside` read."""

    def __init__(self, reader: UpstreamReader, first: RemoteBatch) -> None:
        self._reader = reader
        self._first: RemoteBatch | None = first

    @property
    def head(self) -> Head:
        return self._reader.head

    async def aclose(self) -> None:
        await self._reader.aclose()

    async def next(self, wait_s: float = 0.0) -> RemoteBatch:
        first, self._first = self._first, None
        if first is not None and (first.data or first.closed or not first.up_to_date or wait_s <= 0):
            return first
        return await self._reader.next(wait_s)


async def open_inside(reader: UpstreamReader, base: str, messages: int) -> InsideReader:
    """
    Return a reader that starts `messages` messages after the offset `base`. Raises InvalidRequest, and closes the
    reader, if the stream does not have that position.
    """
    try:
        if not is_json(reader.head.content_type):
            raise _none_such()
        left = messages
        while True:
            batch = await reader.next()
            found = split_array(batch.data) if batch.data else []
            if left <= len(found):
                data = b",".join(found[left:])
                first = RemoteBatch(
                    past(base, messages), batch.next_offset, data, up_to_date=batch.up_to_date, closed=batch.closed
                )
                return InsideReader(reader, first)
            if batch.up_to_date:
                raise _none_such()
            left -= len(found)
    except BaseException:
        await reader.aclose()
        raise


def _none_such() -> InvalidRequest:
    return InvalidRequest("The offset does not exist in this stream.", code="bad_offset")
