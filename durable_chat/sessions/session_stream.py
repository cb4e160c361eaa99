"""
A session's stream, as the session's writer uses it: it is created when something is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from durable_chat.errors import Conflict, DurableChatError, Gone, NotFound, StaleEpoch
from durable_chat.protocol.messages import JSON, is_json, join_messages
from durable_chat.protocol.requests import Append, Create, Producer
from durable_chat.sessions.writers import session_error
from durable_chat.store.base import Log, RecordWrite
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.codec import encode_chunks

Made = TypeVar("Made")


class SessionStream:
    """Mutable state: `_exists`, whether the stream was there when it was last looked up or written."""

    def __init__(self, log: Log, path: str, ttl_s: int | None) -> None:
        self._log = log
        self._path = path
        self._ttl_s = ttl_s
        self._exists = False

    def forget(self) -> None:
        """Look up the stream again before the next write."""
        self._exists = False

    async def append(
        self,
        messages: Sequence[bytes],
        records: Sequence[RecordWrite],
        *,
        seq: str | None,
        producer: Producer | None,
    ) -> str:
        """Append chunks, and return the tail after them. Raises log errors as session errors."""

        async def write() -> str:
            request = Append(join_messages(list(messages)), JSON, seq=seq, producer=producer)
            return (await self._log.append(self._path, request, records)).next_offset

        return await self.write(write)

    async def write(self, write: Callable[[], Awaitable[Made]]) -> Made:
        """
        Return the result of `write`, for which the stream is created if needed. Raises log errors as session errors.
        """
        try:
            for last in (False, True):
                await self.ensure()
                try:
                    return await write()
                except NotFound:  # deleted since the lookup: create it again
                    self._exists = False
                    if last:
                        raise
        except DurableChatError as error:
            self._exists = False
            raise session_error(error) from error
        raise AssertionError("one of the two attempts returned or raised")

    async def ensure(self) -> None:
        """Create the stream, or find it. Raises Conflict when the path holds a stream of another type."""
        if self._exists:
            return
        try:
            await self._log.create(self._path, Create(JSON, self._ttl_s))
        except Conflict:
            await self._accept_existing()
        self._exists = True

    async def _accept_existing(self) -> None:
        """Accept a stream that another client created, with any lifetime. Raises Conflict when its type is not JSON."""
        head = await self._log.head(self._path)
        if not is_json(head.content_type):
            raise Conflict("The session's stream is not JSON. Use another session id.", code="not_a_session")

    async def delete(self, last: Sequence[Chunk] = ()) -> None:
        """Append the `last` chunks for the readers, then delete the stream, if it exists."""
        try:
            if last:
                with suppress(Conflict, StaleEpoch):  # a closed stream is deleted without them
                    await self._log.append(self._path, Append(join_messages(encode_chunks(last)), JSON))
            await self._log.delete(self._path)
        except (NotFound, Gone):
            pass
