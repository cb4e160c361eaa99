"""
The chat routes during a shutdown: new turns and new reads are refused, what continues a running answer is served.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from durable_chat.api.doors.tanstack import follows_run
from durable_chat.errors import Unavailable
from durable_chat.generations.adapters import INPUTS
from durable_chat.http.reads import LiveReads

GENERATIONS = tuple(f"/api/generate/{activity}{path}" for activity in INPUTS for path in ("", "/ndjson"))
CHAT = ("/api/chat", "/api/chat/ndjson", "/api/generate", *GENERATIONS)
READS = (*CHAT, "/api/chat-stream", "/api/chat-snapshot", "/api/events")
REFUSED_WHEN_DRAINING = {
    *(("POST", path) for path in (*CHAT, "/api/agui", "/api/events")),
    *((method, path) for method in ("GET", "HEAD") for path in READS),
}


class Drained:
    """
    Refuses new turns and new reads during a shutdown, also on open connections. Answers can still be stopped. A refused
    client retries on a new connection, which leads to a server that stays up.
    """

    def __init__(self, app: ASGIApp, live: LiveReads) -> None:
        self.app = app
        self.live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.live.closing and _is_refused_when_draining(scope):
            error = Unavailable("The server is shutting down. Retry in a moment.", code="draining")
            if scope.get("http_version", "1.1").startswith("1"):
                error.headers["Connection"] = "close"
            raise error
        await self.app(scope, receive, send)


def _is_refused_when_draining(scope: Scope) -> bool:
    """Requests that continue or join a running answer are served, because the shutdown waits for that answer."""
    path = path_of(scope)
    if (scope["method"], path) not in REFUSED_WHEN_DRAINING:
        return False
    return path not in CHAT or not follows_run(scope)


def path_of(scope: Scope) -> str:
    """Return the path relative to the mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
