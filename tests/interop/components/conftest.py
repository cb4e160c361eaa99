"""Pages with the components of CopilotKit and assistant-ui, built by Vite and served by the server that they use."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route

from tests.conftest import DEMO_SETTINGS
from tests.servers import INTEROP, Server, run_node

HERE = INTEROP / "components"
BUILD_MAX_S = 240.0
# The longest answer, to a message with the word `long`, then takes 20 s: enough to act during it.
PACE = {**DEMO_SETTINGS, "DURABLE_CHAT_DEMO_DELAY_MS": "10"}
PAGES = "/pages/"

Open = Callable[..., Page]
Transcript = Callable[[], list[dict[str, Any]]]


def _digest() -> str:
    """Return a digest of everything that the build depends on."""
    files = sorted((HERE / "src").iterdir())
    digest = hashlib.sha256((INTEROP / "package-lock.json").read_bytes())
    for path in [*files, *sorted(HERE.glob("*.html")), HERE / "vite.config.js", HERE / "package-lock.json"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def built() -> Path:
    """Build the pages with Vite, once for each state of their sources, in one process at a time."""
    if not (HERE / "node_modules" / ".installed").exists():
        pytest.skip("scripts/node --all")
    folder = HERE / ".dist" / _digest()
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for old in folder.parent.iterdir():
                shutil.rmtree(old, ignore_errors=True)
            unfinished = folder.with_suffix(".unfinished")
            command: list[str | Path] = ["node_modules/vite/bin/vite.js", "build", HERE, "--outDir", unfinished]
            run_node([*command, "--emptyOutDir"], timeout_s=BUILD_MAX_S)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of a module. Each test has its own session."""
    server = Server(tmp_path_factory.mktemp("chat"), PACE)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", str(request.node.name))


@pytest.fixture
def open_page(chromium: Browser, chat: Server, built: Path, session: str) -> Iterator[Open]:
    """
    Open a page on the test's session in its own browser. A page that logs an error fails the test, unless the test
    makes the network fail.
    """
    contexts, complaints = [], []

    def fulfill(route: Route) -> None:
        route.fulfill(path=built / urlsplit(route.request.url).path.removeprefix(PAGES))

    def complain(text: str, network_fails: bool) -> None:
        if not network_fails:  # the components log such a failure with different messages
            complaints.append(text)

    def open_page(name: str, *, network_fails: bool = False, **query: str) -> Page:
        context = chromium.new_context()
        contexts.append(context)
        context.route(f"{chat.url}{PAGES}**", fulfill)
        page = context.new_page()
        page.on("pageerror", lambda error: complain(str(error), network_fails))
        page.on("console", lambda message: complain(message.text, network_fails) if message.type == "error" else None)
        page.goto(f"{chat.url}{PAGES}{name}.html?{urlencode({'id': session, **query})}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def transcript(chat: Server, session: str) -> Transcript:
    """Return the session's messages on the server."""

    def read() -> list[dict[str, Any]]:
        found = httpx.get(f"{chat.url}/api/chat-snapshot", params={"id": session}, timeout=20).json()
        messages: list[dict[str, Any]] = found["messages"]
        return messages

    return read
