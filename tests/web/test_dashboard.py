"""A dashboard: one page that follows hundreds of sessions through `/durable-chat.js`, over one connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request

from tests.conftest import Serve
from tests.servers import Process, start_app
from tests.web.tabs import SHOWN_MAX_MS, live_reads

SESSIONS = 250

FOLLOW = """async ({ ids, headers }) => {
  const { durable } = await import("/durable-chat.js")
  const heard = (globalThis.heard = Object.fromEntries(ids.map((id) => [id, []])))
  globalThis.failed = {}
  globalThis.leaving = new AbortController()
  const options = { headers, share: "dashboard" }
  for (const id of ids) {
    const connection = durable({ sendUrl: `/api/chat?id=${id}`, ...options })
    const read = async () => {
      for await (const chunk of connection.subscribe(globalThis.leaving.signal)) heard[id].push(chunk)
    }
    read().catch((error) => (globalThis.failed[id] = error.status))
  }
}"""
ENDED = "(ids) => ids.every((id) => globalThis.heard[id].some(({ type }) => type === 'RUN_FINISHED'))"
TEXT = """(id) => globalThis.heard[id].filter(({ type }) => type === 'TEXT_MESSAGE_CONTENT').map(({ delta }) => delta).join("")"""


def names(count: int = SESSIONS) -> list[str]:
    """Return ids as long as those of most applications."""
    return [f"{number:08d}-aaaa-4bbb-8ccc-dddddddddddd" for number in range(count)]


@pytest.fixture
def page(chromium: Browser) -> Any:
    """A page of the server's origin, without its own chat."""
    context = chromium.new_context()
    context.set_default_timeout(SHOWN_MAX_MS)
    yield context.new_page()
    context.close()


def send(server: Process, session: str, text: str, **options: Any) -> None:
    body = {"messages": [{"id": text, "role": "user", "parts": [{"type": "text", "content": text}]}]}
    httpx.post(f"{server.url}/api/chat", params={"id": session}, json=body, timeout=30, **options).raise_for_status()


def wait_followed(page: Page, server: Process, sessions: int) -> None:
    """Wait until the one connection carries all sessions and each is caught up."""
    page.wait_for_function(f"Object.values(globalThis.heard).filter(({{ length }}) => length).length >= {sessions}")
    for _ in range(200):
        if live_reads(server) == 1:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{live_reads(server)} live reads")


def test_a_dashboard_of_many_sessions(serve: Serve, page: Page) -> None:
    """
    All sessions are live over one connection, and their messages arrive completely, at once, without another request.
    """
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="0")
    ids = names()
    page.goto(f"{server.url}/healthz")
    page.evaluate(FOLLOW, {"ids": ids})
    wait_followed(page, server, len(ids))
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    spoken = [ids[0], ids[99], ids[-1]]
    for session in spoken:
        send(server, session, "hello")
    page.wait_for_function(ENDED, arg=spoken)
    assert [request for request in requests if "chat-stream" in request.url] == [], "no session had to be asked for"
    assert live_reads(server) == 1
    for session in spoken:
        snapshot = httpx.get(f"{server.url}/api/chat-snapshot", params={"id": session}, timeout=30).json()
        assert page.evaluate(TEXT, session) == snapshot["messages"][-1]["parts"][-1]["content"]


def test_a_dashboard_comes_back(serve: Serve, page: Page) -> None:
    """After a restart of the server, all sessions are live again over one connection, and none has a chunk twice."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="0")
    ids = names()
    page.goto(f"{server.url}/healthz")
    page.evaluate(FOLLOW, {"ids": ids})
    wait_followed(page, server, len(ids))
    send(server, ids[3], "hello")
    page.wait_for_function(ENDED, arg=[ids[3]])
    before = page.evaluate("(id) => globalThis.heard[id].length", ids[3])
    server.restart()
    send(server, ids[-1], "hello")
    page.wait_for_function(ENDED, arg=[ids[-1]])
    wait_followed(page, server, len(ids))
    assert page.evaluate("(id) => globalThis.heard[id].length", ids[3]) == before


APP = """
from durable_chat import DurableChat, Settings

async def allow(request, session_id, action):
    return int(session_id[:8]) < 110

chat = DurableChat("memory://", settings=Settings(model="demo", demo_delay_ms=0), authorize=allow)
"""


def test_each_session_is_guarded(tmp_path: Path, processes: list[Process], page: Page) -> None:
    """The application's hook decides for each session of the connection, and a refused one is not read."""
    server = start_app(tmp_path / "app", APP, processes)
    ids = names(120)
    page.goto(f"{server.url}/healthz")
    page.evaluate(FOLLOW, {"ids": ids})
    page.wait_for_function("Object.keys(globalThis.failed).length === 10")
    assert page.evaluate("globalThis.failed") == dict.fromkeys(ids[110:], 403)
    wait_followed(page, server, 110)
    for session in ids[108:110]:
        send(server, session, "hello")
    page.wait_for_function(ENDED, arg=ids[108:110])
    assert page.evaluate("(ids) => ids.flatMap((id) => globalThis.heard[id])", ids[110:]) == []


def test_where_no_body_is_taken(serve: Serve, page: Page) -> None:
    """
    Behind a proxy that refuses POST on the route, the sessions that fit an address are live, and the page polls for
    the others.
    """
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="0")
    ids = names(150)
    page.route(
        "**/api/events",
        lambda route: route.fulfill(status=405) if route.request.method == "POST" else route.continue_(),
    )
    page.goto(f"{server.url}/healthz")
    page.evaluate(FOLLOW, {"ids": ids})
    wait_followed(page, server, len(ids))
    for session in (ids[0], ids[-1]):
        send(server, session, "hello")
    page.wait_for_function(ENDED, arg=[ids[0], ids[-1]])
