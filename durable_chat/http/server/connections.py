"""
An HTTP/1.1 connection for uvicorn (its setting `http`): httptools parses, and the same ASGI app answers.

Uvicorn has HTTP/1.1 protocols of its own, and `DURABLE_CHAT_HTTP=uvicorn` serves on one of them. This one exists
because it is cheaper where it matters. Instructions for each operation, counted from outside the process, on uvicorn's
protocol with httptools and on this one:

- an append: 306,000 against 204,000, 1.5 times as many;
- a delta with two deliveries: 300,000 against 227,000, 1.3 times;
- a delivery in a fan-out to 1,000 readers: 65,000 against 26,000, 2.5 times.

An idle connection, or one that follows a stream, keeps little state, because there may be thousands. An append, the
most frequent request, waits for the disk without a task. `tests/http/test_parsing.py` compares its reading with h11's.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Scope
from uvicorn import Config
from uvicorn.server import ServerState

import durable_chat.metrics as metrics
from durable_chat.errors import DurableChatError
from durable_chat.http.callers import address_of
from durable_chat.http.server.exchanges import Exchange, RawHeaders
from durable_chat.http.server.framing import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    WATCHED,
    Headers,
    Refused,
    check_coding,
    check_trailers,
    check_version,
    head_too_large,
    is_continue_expected,
    lines_of,
    refusal,
    refused_for,
    request_timeout,
    split_target,
)
from durable_chat.http.server.parsers import DEAF, Resumed, framed_like
from durable_chat.http.server.waits import Waits
from durable_chat.http.streams import Answered

SOON_BYTES_MAX = 32 * 1024
"""The body of a request that is handled when its last byte is there; a longer one is read by a task."""
SOON_METHODS = frozenset({"POST", "PUT"})
"""Of those: what `StreamApp.write_soon` takes."""
TURNED_AWAY = refusal(Refused(503, "too_many_connections", "Too many connections are open."), b"retry-after: 1\r\n")
"""What one connection too many is answered, whatever it would have asked."""

DEFAULT_WAITS = Waits()

WriteSoon = Callable[[Scope, bytes, Answered], bool]
"""See `StreamApp.write_soon`."""

log = logging.getLogger(__name__)


def connection_class(write_soon: WriteSoon, *, waits: Waits = DEFAULT_WAITS, connections_max: int = sys.maxsize) -> Any:
    """What uvicorn's setting `http` takes."""
    return partial(Connection, terms=Terms(write_soon, waits, connections_max))


@dataclass(frozen=True, slots=True)
class Terms:
    """What all connections of a server have in common, beside the app."""

    write_soon: WriteSoon
    waits: Waits
    connections_max: int


class Connection(asyncio.Protocol):
    """
    Mutable state: the transport; the request that is being read (`_url`, `_headers`, `_head_bytes`, `_heading` until
    its headers are there, `_is_short`, whether its body is soon there, `_body_bytes`), since `_began_s`, and
    `_quiet_bytes`, what came since the parser found anything, `_found_bytes` of the body at last; `_exchange`, the one
    that is answered, whose request may still be read, `_waiting`, those that a client sent before the answer, and
    `_last_words`, the answer to what cannot be read behind these; `_held`, whether the exchange waits for its body to
    be handled at once; `_asks_upgrade`, when its head does, and `_upgraded`, that exchange and a head for its body,
    until another parser reads that; `write_paused` and `_drained`, while the client reads more slowly than we write;
    `_reads`, or not since `_paused_s`; `_seen_s`, when something last came; two timers.
    """

    __slots__ = (
        *("_app", "_asks_upgrade", "_began_s", "_body_bytes", "_client", "_drained", "_exchange", "_expects_continue"),
        *("_found_bytes", "_head_bytes", "_headers", "_heading", "_held", "_is_short", "_last_words", "_loop"),
        *("_parser", "_paused_s", "_quiet_bytes", "_reading", "_reads", "_seen_s", "_server", "_state", "_terms"),
        *("_timer", "_transport", "_upgraded", "_url", "_waiting", "_write_timer", "write", "write_paused"),
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        terms: Terms,
    ) -> None:
        self._app: ASGIApp = config.loaded_app
        self._state = server_state
        self._terms = terms
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._reading: Exchange | None = None
        self._waiting: deque[Exchange] | None = None
        self._last_words: bytes | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._heading = False
        self._quiet_bytes = self._body_bytes = self._found_bytes = 0
        self._held = False
        self._asks_upgrade = False
        self._upgraded: tuple[Exchange, bytes] | None = None
        self._reads = True
        self.write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._seen_s = self._began_s = self._paused_s = self._loop.time()

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        metrics.connections.value += 1
        self._state.connections.add(self)  # type: ignore[arg-type] # uvicorn names its own; it asks for `shutdown`
        self._server = address_of(transport.get_extra_info("sockname"))
        self._client = address_of(transport.get_extra_info("peername"))
        if len(self._state.connections) > self._terms.connections_max:
            self._turn_away()
        else:
            self._arm()

    def _turn_away(self) -> None:
        """There are too many: whoever balances the load tries another server."""
        metrics.refused.add("too_many_connections")
        self.write(TURNED_AWAY)
        self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        metrics.connections.value -= 1
        self._state.connections.discard(self)
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        for exchange in (self._exchange, *(self._waiting or ())):
            if exchange is not None:
                exchange.leave()
        # Each of these knows this connection, and none would be freed without the garbage collector.
        self._exchange = self._reading = self._waiting = None
        self._parser = DEAF
        self.resume_writing()

    def eof_received(self) -> None:
        return None

    def data_received(self, data: bytes) -> None:
        self._seen_s = self._loop.time()
        rest: bytes | memoryview = data
        while True:
            try:
                if self._upgraded is not None:
                    self._resume(*self._upgraded)
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                if self._upgraded is None:
                    self._stop_reading()
                    return
                rest = memoryview(rest)[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(refused_for(error.__context__))
                return
        # Where the parser has come to the end of a request, it keeps nothing.
        if self._reading is not None or self._heading or self._exchange is None:
            self._note_quiet(len(data))

    def _resume(self, exchange: Exchange, head: bytes) -> None:
        """
        A parser ends at the head of a request that asks for another protocol. Nothing else is spoken here, so the
        request is answered as if it had not asked (RFC 9110, 7.8), and another parser reads on from its body.
        """
        self._reading, self._upgraded = exchange, None
        self._parser = httptools.HttpRequestParser(Resumed(self))
        self._parser.feed_data(head)

    def _note_quiet(self, size: int) -> None:
        """The parser keeps what it cannot hand over yet: one header, or what follows the last chunk."""
        self._quiet_bytes = self._quiet_bytes + size if self._body_bytes == self._found_bytes else 0
        self._found_bytes = self._body_bytes
        if self._quiet_bytes > HEAD_BYTES_MAX:
            self._refuse(head_too_large())

    def _stop_reading(self) -> None:
        """After CONNECT, which has no other meaning: what follows is not HTTP."""
        self._parser = DEAF
        last = self._waiting[-1] if self._waiting else self._exchange
        if last is None:
            self._transport.close()
        else:
            last.keep_alive = False

    def pause_writing(self) -> None:
        self.write_paused = True
        self._write_timer = self._loop.call_later(self._terms.waits.write_s, self._transport.abort)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # From uvicorn.

    def shutdown(self) -> None:
        """The server goes down: what is being answered is answered, and no more."""
        if self._exchange is None:
            self._transport.close()
        else:
            self._exchange.keep_alive = False

    # From the parser.

    def on_message_begin(self) -> None:
        self._url = b""
        self._head_bytes = 0
        self._expects_continue = self._is_short = False
        self._heading = True
        self._began_s = self._seen_s

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES_MAX:
            raise head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX:
            raise head_too_large()
        name = name.lower()
        # The parser leaves the spaces behind a value, which are no part of it (RFC 9110, 5.5).
        value = value.rstrip()
        if name in WATCHED:
            self._watch(name, value)
        self._headers.append((name, value))

    def _watch(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            check_trailers([name])
        elif name == b"content-length":
            self._is_short = len(value) <= 5 and value.isdigit() and int(value) <= SOON_BYTES_MAX
        elif name == b"expect":
            self._expects_continue = is_continue_expected(value)
        elif name == b"upgrade":
            self._asks_upgrade = True
        else:
            check_coding(value)

    def on_headers_complete(self) -> None:
        if self._parser is DEAF:
            return  # the client has left amid what it sent, and all of that is still being parsed
        version = self._parser.get_http_version()
        headers = self._headers
        if len(headers) > HEADERS_MAX:
            raise head_too_large()
        is_current = version == "1.1"
        if not is_current:
            check_version(version, headers)
        scope = self._scope(version, headers)
        # What comes now are the trailers, or the next request's headers; they are none of this one's.
        self._headers = []
        self._heading = False
        self._began_s = self._seen_s
        self._body_bytes = self._found_bytes = self._quiet_bytes = 0
        keep_alive = is_current and self._parser.should_keep_alive()
        expects_continue = self._expects_continue and is_current
        exchange = self._reading = Exchange(self, scope, keep_alive=keep_alive, expects_continue=expects_continue)
        if self._asks_upgrade:
            self._asks_upgrade = False
            if self._parser.should_upgrade():  # and takes this head for all of the request
                self._reading, self._upgraded = None, (exchange, framed_like(headers))
        if self._exchange is not None:
            # The client did not wait for the answer before; it is not read from until that is there.
            self._waiting = self._waiting or deque()
            self._waiting.append(exchange)
            self._pause()
            return
        self._exchange = exchange
        if self._is_short and scope["method"] in SOON_METHODS and not (expects_continue or self.write_paused):
            self._held = True
        else:
            self._start(exchange)

    def _scope(self, version: str, headers: Headers) -> Scope:
        url = self._url
        if url.startswith(b"/") and url.find(b"#") < 0:  # `in` would raise an exception inside and drop it
            raw_path, _, query = url.partition(b"?")
        else:
            raw_path, query = split_target(url, headers)
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": self._client,
            "server": self._server,
        }

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        exchange = self._reading
        if exchange is not None and not exchange.complete:
            exchange.take_body(body)
            if exchange.is_flooded:
                self._pause()

    def on_message_complete(self) -> None:
        exchange = self._reading
        if exchange is None:
            return
        if self._headers:
            check_trailers(name for name, _ in self._headers)
            self._headers = []
        self._reading = None
        exchange.end_body()
        if self._held and exchange is self._exchange:
            self._held = False
            answer = partial(self._answer, exchange)
            if not self._terms.write_soon(exchange.scope, exchange.body, answer):
                self._start(exchange)

    # Answering.

    def _start(self, exchange: Exchange) -> None:
        task = self._loop.create_task(exchange.run(self._app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _answer(
        self, exchange: Exchange, given: tuple[int, RawHeaders] | None, failure: DurableChatError | None
    ) -> None:
        if exchange.gone:
            return
        if given is None:
            # The app finds out anew what is to be said; what was lost with the store has not been written.
            self._start(exchange)
        else:
            exchange.answer(*given)

    def _refuse(self, refused: Refused) -> None:
        """
        A request that is none, or does not come. The app hears nothing more of it, and its answer comes after those to
        the requests before it.
        """
        if self._parser is DEAF:
            return  # it was given its last answer, or has left
        self._parser = DEAF
        self._heading = self._held = False
        exchange, self._reading = self._reading, None
        if exchange is not None:
            exchange.leave()
            if exchange.started:  # half of another answer has gone out, or all of it
                self.close()
                return
            if self._waiting:
                self._waiting.pop()
            else:
                self._exchange = None
        self._last_words = refusal(refused)
        if self._exchange is None:
            self._end()

    def _end(self) -> None:
        assert self._last_words is not None
        self.write(self._last_words)
        self._linger()

    def _linger(self) -> None:
        """
        Close when the client has, which may still be sending: to close before it has read the answer would reset the
        connection, and the answer with it (RFC 9112, 9.6).
        """
        self._parser = DEAF
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._terms.waits.linger_s, self._transport.abort)

    # For exchanges.

    def close(self) -> None:
        self._transport.close()

    def default_head(self) -> bytes:
        return lines_of(self._state.default_headers)

    async def drain(self) -> None:
        while self.write_paused:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def read_on(self) -> None:
        if not self._reads and not self._waiting:
            self._reads = True
            # The client could not send meanwhile, which is not held against it.
            self._seen_s = self._loop.time()
            self._began_s += self._seen_s - self._paused_s
            self._transport.resume_reading()
            self._arm()

    def _pause(self) -> None:
        if self._reads:
            self._reads = False
            self._paused_s = self._loop.time()
            self._transport.pause_reading()

    def exchanged(self) -> None:
        self._state.total_requests += 1
        self._exchange = None
        if self._transport.is_closing():
            return
        if self._waiting:
            self._exchange = self._waiting.popleft()
            self._start(self._exchange)
        elif self._last_words is not None:
            self._end()
        else:
            self.read_on()
            if self._timer is None:
                self._seen_s = self._loop.time()  # the answer took long; the client has its time from now on
                self._arm()

    # Waits that end.

    def _arm(self) -> None:
        """
        One timer for many requests: it looks when something last came, and is not set anew each time. It looks often
        enough to see each request that takes too long.
        """
        if self._timer is None:
            at_s = min(self._due_s(), self._loop.time() + self._terms.waits.look_s)
            self._timer = self._loop.call_at(at_s, self._look)

    def _due_s(self) -> float:
        """Until when the client has time for what comes next."""
        waits = self._terms.waits
        if self._reading is not None:
            enough_s = waits.enough_s(self._body_bytes)
        elif self._heading:
            enough_s = waits.head_s
        else:
            return self._seen_s + waits.idle_s
        return min(self._seen_s + waits.read_s, self._began_s + enough_s)

    def _look(self) -> None:
        self._timer = None
        if self._exchange is not None and (self._reading is None or not self._reads):
            return  # it is being answered; when that is done, the timer is set again
        if self._loop.time() < self._due_s():
            self._arm()
        elif self._heading or self._reading is not None:
            self._refuse(request_timeout())
        else:
            self._transport.close()
