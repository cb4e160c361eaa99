"""
The access log: a line for each request with method, address, status, size of the response body and duration. It never
contains a body, and shows only the query values that are known to be harmless.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from durable_chat.errors import DurableChatError
from durable_chat.http.followers import LINE, Line
from durable_chat.http.paths import raw_path
from durable_chat.http.streams import Answered, RawHeaders

SHOWN = frozenset({"id", "runId", "offset", "live", "cursor", "mode", "artifact", "threadId"})
"""Query parameters whose values are shown. Any other may contain a token or a prompt."""
TARGET_CHARS_MAX = 1024
"""The length of an address in a line. Longer addresses, of very long session ids, are cut."""

log = logging.getLogger("durable_chat.access")


def target_of(scope: Scope) -> str:
    """Return the path and the query as the log shows them."""
    pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    query = "&".join(f"{quote(name)}={quote(value) if name in SHOWN else '...'}" for name, value in pairs)
    path = raw_path(scope).decode("latin-1")
    return (f"{path}?{query}" if query else path)[:TARGET_CHARS_MAX]


class Entry:
    """A line of the log. Mutable state: `status` and `size` of the response so far; `_written`, once it is logged."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._began_s = time.monotonic()
        self._written = False
        self.status = 0
        self.size = 0

    def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.size += len(message.get("body", b""))

    def write(self) -> None:
        if not self._written:
            self._written = True
            took_ms = (time.monotonic() - self._began_s) * 1000
            target = target_of(self._scope)
            log.info("%s %s %d %d bytes %.1f ms", self._scope["method"], target, self.status, self.size, took_ms)


class LoggedLine:
    """A `Line` that writes its entry when the response ends, which may be long after the app has returned."""

    def __init__(self, line: Line, entry: Entry) -> None:
        self._line = line
        self._entry = entry
        self.detached = False

    def detach(self, left: Callable[[], None]) -> None:
        def leave() -> None:
            self._entry.write()
            left()

        self.detached = True
        self._line.detach(leave)

    async def send(self, message: Message) -> None:
        await self._line.send(message)
        self._entry.note(message)

    def push(self, body: bytes) -> bool:
        pushed = self._line.push(body)
        if pushed:
            self._entry.size += len(body)
        return pushed

    def finish(self) -> None:
        self._line.finish()
        self._entry.write()

    def cut(self) -> None:
        self._line.cut()
        self._entry.write()


async def logged(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the app, and write its line when the response ends."""
    entry = Entry(scope)
    extensions = scope.get("extensions") or {}
    line = LoggedLine(extensions[LINE]["line"], entry) if LINE in extensions else None
    if line is not None:
        scope = {**scope, "extensions": {**extensions, LINE: {"line": line}}}

    async def noted(message: Message) -> None:
        entry.note(message)
        await send(message)

    try:
        await app(scope, receive, noted)
    finally:
        if line is None or not line.detached:
            entry.write()


def logged_soon(scope: Scope, done: Answered) -> Answered:
    """
    Do the same for a request that is answered without the app. A request that is then handed to the app after all gets
    its line from `logged`.
    """
    entry = Entry(scope)

    def tell(given: tuple[int, RawHeaders] | None, failure: DurableChatError | None) -> None:
        done(given, failure)
        if given is not None:
            entry.status = given[0]
            entry.write()

    return tell
