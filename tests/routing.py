"""What the application serves: every route of its routing tables, for tests that must not forget one."""

from __future__ import annotations

from typing import Any, cast

from starlette.routing import BaseRoute, Route

from durable_chat.api.routes import chat_routes
from durable_chat.app import PROTOCOL_PREFIXES, DurableChat, probe_routes
from durable_chat.config.settings import Settings
from durable_chat.http.auth import PROTOCOL_METHODS
from durable_chat.web.pages import page_routes
from durable_chat.web.templates import Page


def served() -> set[tuple[str, str]]:
    """Every method and path that the application answers."""
    anything = cast(Any, None)
    routes: list[BaseRoute] = [
        *page_routes(Settings(), Page()),
        *probe_routes(DurableChat("memory://", settings=Settings())),
    ]
    routes += chat_routes(anything, anything, Settings(), anything, anything)
    found = {(method, prefix + "{path}") for prefix in PROTOCOL_PREFIXES for method in PROTOCOL_METHODS.split(", ")}
    for route in routes:
        assert isinstance(route, Route)
        assert route.methods
        # A session's id in a path may contain slashes, which only the routing table says.
        path = route.path.replace("{id:path}", "{id}")
        found |= {(method, path) for method in route.methods if method != "HEAD"}
    return found
