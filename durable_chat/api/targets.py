"""
The targets of the library functions: a stream of a remote server by its URL, or a session of this application.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from durable_chat.config.settings import Settings
from durable_chat.errors import InvalidRequest, StartError
from durable_chat.http.reads import LiveReads
from durable_chat.sessions.running.runs import END_WAIT_S, Runs
from durable_chat.sessions.sessions import Sessions
from durable_chat.store.base import Log, Store

SERVERS_MAX = 64
"""
The maximum number of remote servers (URLs with their headers) connected at once. Idle ones are closed for new ones.
"""


@dataclass(frozen=True, slots=True)
class DurableStreamTarget:
    """
    A stream on a Durable Streams server. `write_url` and `headers` (the server's secret) stay in this process.
    `read_url` is given to readers; usually it is your own route that answers with `durable_stream_proxy`.
    """

    write_url: str
    read_url: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    create_if_missing: bool = True
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class ChatSession:
    """A session of an application's own chat, from `DurableChat.session(id)`. The chat is mounted at `root_path`."""

    session_id: str
    runs: Runs = field(repr=False)
    store: Store = field(repr=False)
    settings: Settings = field(repr=False)
    live: LiveReads = field(repr=False)
    root_path: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A resolved target: its log, its path there, and the `Runs` that write runs to it."""

    session_id: str
    path: str
    log: Log
    runs: Runs
    settings: Settings
    live: LiveReads


@dataclass(slots=True)
class _Server:
    store: Store
    runs: Runs
    settings: Settings
    live: LiveReads


class Servers:
    """
    The remote servers of one event loop, and the background writes to them. Mutable state: `_servers`, most recently
    used last; `tasks`; `lives`, the open applications. The last application to close drains all of this.
    """

    def __init__(self) -> None:
        self.lives = 0
        self._servers: OrderedDict[tuple[Any, ...], _Server] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self.tasks: set[asyncio.Task[Any]] = set()

    def get(self, base_url: str, headers: Mapping[str, str]) -> _Server:
        key = (base_url, *sorted(headers.items()))
        if key not in self._servers:
            self._let_go()
            self._servers[key] = _connect(base_url, headers)
        self._servers.move_to_end(key)
        return self._servers[key]

    def _let_go(self) -> None:
        for key in [key for key, server in self._servers.items() if server.runs.count == 0]:
            if len(self._servers) < SERVERS_MAX:
                return
            task = asyncio.ensure_future(_close(self._servers.pop(key)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def drain(self, timeout_s: float) -> None:
        """See `responses.drain`."""
        servers = list(self._servers.values())
        self._servers.clear()
        ends = [server.runs.drain(timeout_s, for_good=False) for server in servers]
        await asyncio.gather(*ends, _drain_tasks(self.tasks, timeout_s))
        await asyncio.gather(*map(_close, servers), *self._closing)


async def _drain_tasks(tasks: set[asyncio.Task[Any]], timeout_s: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_WAIT_S)


async def _close(server: _Server) -> None:
    await server.store.close()


def _connect(base_url: str, headers: Mapping[str, str]) -> _Server:
    # Imported here, because an application without remote targets needs no HTTP client.
    from durable_chat.http.upstream.log import Upstream

    settings = Settings(store=base_url)
    try:
        upstream = Upstream(base_url, None, headers=headers)
    except StartError as error:  # raised here to answer the request
        raise _bad_url("The stream's URL or its headers are invalid.") from error
    store = Store(upstream, None, upstream.aclose)
    runs = Runs(store, settings, Sessions(upstream, path_of=lambda path: path))
    return _Server(store, runs, settings, LiveReads(settings.readers_per_session_max))


_servers: WeakKeyDictionary[asyncio.AbstractEventLoop, Servers] = WeakKeyDictionary()


def servers_here() -> Servers:
    """Return the servers of the running event loop. A connection belongs to the loop that created it."""
    return _servers.setdefault(asyncio.get_running_loop(), Servers())


def locate(stream: DurableStreamTarget | ChatSession) -> Place:
    """Resolve a target. Raises InvalidRequest for an invalid URL."""
    if isinstance(stream, ChatSession):
        path = stream.runs.sessions.path_of(stream.session_id)
        return Place(stream.session_id, path, stream.store.log, stream.runs, stream.settings, stream.live)
    base_url, path = split_stream_url(stream.write_url)
    server = servers_here().get(base_url, dict(stream.headers or {}))
    return Place(path, path, server.store.log, server.runs, server.settings, server.live)


def split_stream_url(url: str) -> tuple[str, str]:
    """Return the URL of a stream's server, and the stream's path there. Raises InvalidRequest."""
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not name:
        raise _bad_url("A stream's URL must be http(s)://host/path without a query.")
    if "@" in parts.netloc:  # URLs end up in logs
        raise _bad_url("A stream's URL must not contain a user and password. Send credentials in headers.")
    path = unquote(name, errors="surrogateescape")
    # The decoded path is encoded again for each request, and must give the same URL.
    if "/" in path or not path.isprintable():
        raise _bad_url("The last segment of a stream's URL contains an encoded slash or unprintable characters.")
    return f"{parts.scheme}://{parts.netloc}{folder}", path


def _bad_url(sentence: str) -> InvalidRequest:
    return InvalidRequest(sentence, code="bad_stream_url")
