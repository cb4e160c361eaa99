"""
Uvicorn's HTTP/1.1 connection, with a short way for the most frequent request there is: an append to a stream.

An append waits for the disk. Without a task for each that is a callback; everything else goes the ordinary way, and so
does an append that is not like the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from durable_chat.errors import DurableChatError
from durable_chat.http.followers import PUSH
from durable_chat.http.streams import Answered, RawHeaders

BODY_BYTES_MAX = 32 * 1024
"""Of a request that is handled from its last byte on; a longer one is read by a task, which can slow its sender down."""

PostSoon = Callable[[Scope, bytes, Answered], bool]
"""See `StreamApp.post_soon`."""


def connection_class(post_soon: PostSoon) -> type[asyncio.Protocol]:
    """A class for uvicorn's setting `http`."""

    class ChatConnection(Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.post_soon = post_soon

    return ChatConnection


class Connection(HttpToolsProtocol):
    """
    Mutable state, beside uvicorn's: `_held`, the request whose body is being waited for before it is known which way it
    goes, with the app that it goes to otherwise; `_is_new`, while its headers are looked at.
    """

    post_soon: PostSoon

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._held: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._is_new = False

    def on_headers_complete(self) -> None:
        self._is_new = True
        super().on_headers_complete()
        self._is_new = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["method"] == "GET":
            cycle.scope["extensions"] = {PUSH: {"push": partial(self._push, cycle)}}
        if self._is_new and app is self.app and self._may_be_soon(cycle):
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _may_be_soon(self, cycle: RequestResponseCycle) -> bool:
        scope = cycle.scope
        if scope["method"] != "POST" or self.flow.write_paused or cycle.waiting_for_100_continue:
            return False
        for name, value in scope["headers"]:
            if name == b"content-length":
                return len(value) <= 5 and value.isdigit() and int(value) <= BODY_BYTES_MAX
        return False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held is not None:
            cycle, app = self._held
            self._held = None
            if not self.post_soon(cycle.scope, bytes(cycle.body), partial(self._answer, cycle, app)):  # type: ignore[arg-type]
                super()._start_asgi_task(cycle, app)

    def _push(self, cycle: RequestResponseCycle, body: bytes) -> bool:
        """See `followers.PUSH`."""
        if self.flow.write_paused or cycle.disconnected or cycle.response_complete or self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def _answer(
        self,
        cycle: RequestResponseCycle,
        app: ASGI3Application,
        given: tuple[int, RawHeaders] | None,
        failure: DurableChatError | None,
    ) -> None:
        if cycle.disconnected or self.transport.is_closing():
            cycle.response_complete = True
        elif given is None:
            # The app finds out anew what is to be said; whatever was lost has not been written.
            super()._start_asgi_task(cycle, app)
        else:
            self._write(cycle, *given)

    def _write(self, cycle: RequestResponseCycle, status: int, headers: RawHeaders) -> None:
        """A whole response without a body."""
        parts = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        if status != 204:
            parts.append(b"content-length: 0\r\n")
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        self.transport.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
