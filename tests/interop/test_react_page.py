"""
A React page with `useChat`, built by Vite and served from another origin than the chat's: conversations in Chromium.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Serve
from tests.proxies import proxied
from tests.servers import INTEROP, Server, run_node
from tests.web.tabs import SHOWN_MAX_MS, Tabs, address, live_reads, snapshot, wait_done, words, write

SOURCES = INTEROP / "react"
BUILD_MAX_S = 120.0
# The longest answer, to a message with the word `long`, then takes 20 s: enough to act during it.
PACE = {"DURABLE_CHAT_DEMO_DELAY_MS": "10"}

RESETS = 5
IDLE = 'main[data-generating="false"]'
BUSY = 'main[data-generating="true"]'
# The text that the page shows as the answer to user message number `turn` (0 is the first), over all messages of the
# turn.
ANSWER = """turn => [...document.querySelectorAll('li')].reduce(
    ({ at, text }, item) => item.dataset.role === 'user' ? { at: at + 1, text }
        : { at, text: at === turn ? text + [...item.querySelectorAll('p')].map(p => p.textContent).join('') : text },
    { at: -1, text: '' }).text"""

# Chromium's own log line about a failed request.
NETWORK = ("Failed to load resource:", "Access to fetch at")


class Quiet(SimpleHTTPRequestHandler):
    """A server of the built files that logs nothing."""

    def log_message(self, *args: Any) -> None:
        pass


def sources_digest() -> str:
    """Return a digest of everything that the build depends on."""
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    digest = hashlib.sha256((INTEROP / "package-lock.json").read_bytes())
    for path in files:
        digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="module")
def built() -> Path:
    """Build the page with Vite, once for each state of its sources."""
    folder = INTEROP / ".dist" / sources_digest()
    if not folder.is_dir():
        for old in folder.parent.glob("*"):
            if not old.suffix:
                shutil.rmtree(old, ignore_errors=True)
        unfinished = folder.with_suffix(f".{os.getpid()}")  # another process may be building it, too
        command: list[str | Path] = [
            "node_modules/vite/bin/vite.js",
            "build",
            SOURCES,
            "--outDir",
            unfinished,
            "--emptyOutDir",
        ]
        run_node(command, timeout_s=BUILD_MAX_S)
        try:
            unfinished.rename(folder)
        except OSError:
            shutil.rmtree(unfinished)
    assert folder.is_dir()
    return folder


@pytest.fixture
def site(built: Path) -> Iterator[str]:
    """The origin that serves the page."""
    handler = functools.partial(Quiet, directory=str(built))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


Open = Callable[..., Page]


@pytest.fixture
def chat(serve: Serve, site: str) -> Server:
    """A chat server that allows the page's origin."""
    return serve(DURABLE_CHAT_ALLOW_ORIGINS=site, **PACE)


@pytest.fixture
def open_page(chromium: Browser, site: str, chat: Server) -> Iterator[Open]:
    """
    Open pages on one session, each in its own browser. A page that logs an error fails the test, except for failed
    requests when the test expects them.
    """
    contexts, complaints = [], []

    def complain(text: str, network_fails: bool) -> None:
        if not (network_fails and text.startswith(NETWORK)):
            complaints.append(text)

    def open_page(*, network_fails: bool = False, **query: str) -> Page:
        context = chromium.new_context()
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complain(message.text, network_fails) if message.type == "error" else None)
        page.goto(f"{site}/?{urlencode({'id': 'react', 'api': chat.url, **query})}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def transcript(page: Page) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = page.evaluate("window.transcript")
    return messages


def told_by(chat: Server, path: str = "/api/chat-snapshot?id=react") -> list[dict[str, Any]]:
    """Return the messages that the pages should show, from the server."""
    messages = httpx.get(f"{chat.url}{path}", timeout=20).json()["messages"]
    return [{name: message[name] for name in ("id", "role", "parts")} for message in messages]


def wait_for_streaming(page: Page, turn: int) -> None:
    """Wait until the answer to message number `turn` shows some text and then more."""
    length = 0
    for _ in ("some", "more"):
        shown = f"([turn, length]) => ({ANSWER})(turn).length > length && document.querySelector({BUSY!r}) !== null"
        page.wait_for_function(shown, arg=[turn, length], timeout=SHOWN_MAX_MS)
        length = len(page.evaluate(ANSWER, turn))


def wait_until_equal(page: Page, expected: list[dict[str, Any]]) -> None:
    """Wait until the page has these messages, in any order of keys."""
    page.wait_for_function(
        """expected => {
            const sorted = (_key, value) => value && typeof value === 'object' && !Array.isArray(value)
                ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value
            return JSON.stringify(window.transcript, sorted) === JSON.stringify(expected, sorted)
        }""",
        arg=expected,
        timeout=SHOWN_MAX_MS,
    )


def wait_for_end(page: Page, turn: int) -> None:
    """Wait until the answer to message number `turn` is complete."""
    over = f"turn => ({ANSWER})(turn).length > 0 && document.querySelector({IDLE!r}) !== null"
    page.wait_for_function(over, arg=turn, timeout=SHOWN_MAX_MS)


def test_conversation(open_page: Open) -> None:
    """
    After sending, watching from a second page, a reload during an answer, a stop and another message, every page has
    the same messages.
    """
    first = open_page()
    second = open_page(plain="")
    for page in (first, second):
        expect(page.locator("main")).to_be_visible()
    send(first, "hello")
    for page in (first, second):
        wait_for_end(page, 0)
    wait_until_equal(second, transcript(first))

    send(second, "please think and use a tool, and make it long")
    for page in (first, second):
        wait_for_streaming(page, 1)
    first.reload()
    wait_for_streaming(first, 1)
    first.get_by_role("button", name="Stop").click()
    for page in (first, second):
        wait_for_end(page, 1)
    wait_until_equal(first, transcript(second))

    send(first, "goodbye")
    for page in (first, second):
        wait_for_end(page, 2)
    told = transcript(second)
    wait_until_equal(first, told)
    wait_until_equal(open_page(), told)
    assert [message["role"] for message in told if message["role"] == "user"] == ["user"] * 3
    assert {part["type"] for message in told for part in message["parts"]} >= {"text", "thinking", "tool-call"}
    assert first.get_by_role("alert").count() == 0


@pytest.mark.cell("tanstack-module", "stream", "second tab")
def test_many_tabs(open_page: Open, chat: Server) -> None:
    """
    Eight tabs of one browser on HTTP/1.1, with the served module, share one live read, are all current, and each
    sends and stops.
    """
    first = open_page(module="")
    pages = [first]
    for number in range(1, 8):
        page = first.context.new_page()
        page.goto(first.url.replace("id=react", f"id=react{number % 2 or ''}"))
        pages.append(page)
    for page in pages:
        expect(page.locator("main")).to_be_visible()
    for number in (7, 6):
        same = [page for at, page in enumerate(pages) if at % 2 == number % 2]
        send(pages[number], "make it long")
        for page in same:
            wait_for_streaming(page, 0)
        assert live_reads(chat) == 1
        same[0].get_by_role("button", name="Stop").click()
        for page in same:
            wait_for_end(page, 0)
            wait_until_equal(page, transcript(same[0]))


def test_failure(open_page: Open) -> None:
    """When a model fails, each page shows it to the user, and the next message is answered."""
    first, second = open_page(), open_page()
    send(first, "fail")
    for page in (first, second):
        expect(page.get_by_role("alert")).to_be_visible()
        expect(page.locator(IDLE)).to_be_visible()
    send(first, "hello")
    for page in (first, second):
        wait_for_end(page, 1)
    wait_until_equal(second, transcript(first))
    expect(first.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("query", [{}, {"module": ""}], ids=["stock", "module"])
def test_server_killed(open_page: Open, chat: Server, query: dict[str, str]) -> None:
    """
    When the server is killed during an answer and restarted, every page reconnects by itself, and all show the same.
    """
    pages = [open_page(network_fails=True, **query), open_page(network_fails=True, plain="", **query)]
    for page in pages:
        expect(page.locator("main")).to_be_visible()
    send(pages[0], "make it long")
    for page in pages:
        wait_for_streaming(page, 0)
    chat.kill()
    shown = [page.evaluate(ANSWER, 0) for page in pages]
    chat.start()
    for page, before in zip(pages, shown, strict=True):
        wait_for_end(page, 0)
        expect(page.get_by_role("alert")).to_be_visible()
        assert page.evaluate(ANSWER, 0).startswith(before)
    for page in pages:
        wait_until_equal(page, told_by(chat))
    send(pages[1], "hello")
    for page in pages:
        wait_for_end(page, 1)
        wait_until_equal(page, told_by(chat))


def test_connection_reset(open_page: Open, chat: Server) -> None:
    """After a connection reset, the page reconnects by itself with the module, and not with the stock connection."""
    with proxied(chat.port) as proxy:
        stock = open_page(network_fails=True, api=proxy.url)
        module = open_page(network_fails=True, api=proxy.url, module="")
        for page in (stock, module):
            expect(page.locator("main")).to_be_visible()
        send(module, "make it long")
        for page in (stock, module):
            wait_for_streaming(page, 0)
        assert proxy.reset() >= 2
        expect(stock.locator('main[data-connection="error"]')).to_be_visible()
        wait_for_streaming(module, 0)
        resets = 0
        while resets < RESETS:
            resets += proxy.reset()
            length = len(module.evaluate(ANSWER, 0))
            module.wait_for_function(f"length => ({ANSWER})(0).length > length", arg=length, timeout=SHOWN_MAX_MS)
        module.get_by_role("button", name="Stop").click()
        wait_for_end(module, 0)
        wait_until_equal(module, told_by(chat))


def test_connection_lost(open_page: Open, chat: Server) -> None:
    """With the module, a page that has no network for a while continues where it was."""
    page = open_page(network_fails=True, module="")
    expect(page.locator("main")).to_be_visible()
    send(page, "make it long")
    wait_for_streaming(page, 0)
    page.context.set_offline(True)
    before = page.evaluate(ANSWER, 0)
    page.context.set_offline(False)
    page.wait_for_function(f"length => ({ANSWER})(0).length > length", arg=len(before), timeout=SHOWN_MAX_MS)
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page, 0)
    assert page.evaluate(ANSWER, 0).startswith(before)
    wait_until_equal(page, told_by(chat))


@pytest.fixture
def own_page(chromium: Browser, chat: Server) -> Iterator[Page]:
    """The server's own page on the same session, in its own browser."""
    tabs = Tabs(chromium)
    yield tabs.open(address(chat, "react"))
    tabs.close()
    assert tabs.problems == []


# The messages with text that the server's own page shows, and their text.
WORDS_SHOWN = r"""wanted => {
    const words = text => text.match(/[\p{L}\p{N}]+/gu) ?? []
    const shown = [...document.querySelectorAll('.message')].map(message => [
        message.dataset.id,
        words([...message.querySelectorAll('.plain, .prose:not(.thoughts)')].map(text => text.innerText).join(' ')),
    ])
    return JSON.stringify(shown.filter(([, words]) => words.length > 0)) === JSON.stringify(wanted)
}"""


def wait_until_one_story(chat: Server, react: Page, own: Page) -> list[dict[str, Any]]:
    """Wait until no answer is running and both pages show the server's messages, and return them."""
    expect(react.locator(IDLE)).to_be_visible()
    wait_done(own)
    told = [{key: message[key] for key in ("id", "role", "parts")} for message in snapshot(chat, "react")["messages"]]
    wait_until_equal(react, told)
    said = [[message["id"], said_in(message)] for message in told if said_in(message)]
    own.wait_for_function(WORDS_SHOWN, arg=said, timeout=SHOWN_MAX_MS)
    return told


def wait_until_carried_out(chat: Server, calls: int) -> None:
    """Wait until this many calls were approved and have their results, and the continued answers have ended."""
    deadline_s = time.monotonic() + SHOWN_MAX_MS / 1000
    while time.monotonic() < deadline_s:
        told = snapshot(chat, "react")
        parts = [part for message in told["messages"] for part in message["parts"] if "approval" in part]
        if told["activeRun"] is None and [part["state"] for part in parts] == ["complete"] * calls:
            return
        time.sleep(0.02)
    raise AssertionError(f"not carried out: {parts}")


def said_in(message: dict[str, Any]) -> list[str]:
    return words(" ".join(part["content"] for part in message["parts"] if part["type"] == "text"))


def test_beside_the_servers_own_page(open_page: Open, own_page: Page, chat: Server) -> None:
    """
    With text, tools, a stop and approvals from either page, and a reload of both during an answer, both pages show
    the same.
    """
    react = open_page()
    expect(react.locator("main")).to_be_visible()
    write(own_page, "hello")
    wait_for_end(react, 0)
    wait_until_one_story(chat, react, own_page)

    send(react, "think and use a tool")
    wait_for_end(react, 1)
    told = wait_until_one_story(chat, react, own_page)
    assert {part["type"] for message in told for part in message["parts"]} >= {"text", "thinking", "tool-call"}

    send(react, "long")
    wait_for_streaming(react, 2)
    own_page.locator("#stop").click()
    wait_until_one_story(chat, react, own_page)

    write(own_page, "approve this")
    react.get_by_role("button", name="Approve").click()
    wait_until_carried_out(chat, 1)
    wait_for_end(react, 3)
    send(react, "approve this")
    own_page.get_by_role("button", name="Approve", exact=True).click()
    wait_until_carried_out(chat, 2)
    wait_for_end(react, 4)
    wait_until_one_story(chat, react, own_page)

    write(own_page, "long")
    wait_for_streaming(react, 5)
    react.reload()
    own_page.reload()
    wait_for_streaming(react, 5)
    react.get_by_role("button", name="Stop").click()
    wait_until_one_story(chat, react, own_page)


def connections(*cases: str) -> list[Any]:
    """The request-scoped connections, each with the cases of the table that a test covers."""
    kinds = ("sse", "ndjson")
    return [pytest.param(kind, marks=pytest.mark.cell(f"tanstack-{kind}", *cases)) for kind in kinds]


@pytest.mark.parametrize("connection", [*connections("reload midway", "second tab"), "xhr-sse", "xhr-ndjson"])
def test_reload_in_the_middle_of_a_resumable_answer(open_page: Open, chat: Server, connection: str) -> None:
    """
    A page that stores nothing in the browser is reloaded during an answer: it shows the conversation, joins the
    answer and gets all of it, like a second page opened then. Leaving a page cancels nothing.
    """
    first = open_page(connection=connection)
    send(first, "hello")
    wait_for_end(first, 0)
    send(first, "please think and use a tool, and make it long")
    wait_for_streaming(first, 1)
    first.reload()
    wait_for_streaming(first, 1)
    second = open_page(connection=connection)
    wait_for_streaming(second, 1)
    first.get_by_role("button", name="Stop").click()
    for page in (first, second):
        wait_for_end(page, 1)
        wait_until_equal(page, told_by(chat))
    send(second, "goodbye")
    wait_for_end(second, 2)
    first.reload()
    wait_until_equal(first, told_by(chat))
    assert [message["role"] for message in transcript(first) if message["role"] == "user"] == ["user"] * 3
    assert first.get_by_role("alert").count() == 0


@pytest.mark.parametrize("connection", connections("approval"))
def test_an_approval_after_a_reload(open_page: Open, chat: Server, connection: str) -> None:
    """A reloaded page asks for the pending approval. The approved call runs, and the next message is answered."""
    page = open_page(connection=connection)
    send(page, "approve this")
    expect(page.get_by_role("button", name="Approve")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    wait_until_carried_out(chat, 1)  # until the answer goes on, the page is idle and has its text already
    wait_for_end(page, 0)
    wait_until_equal(page, told_by(chat))
    send(page, "goodbye")
    wait_for_end(page, 1)
    wait_until_equal(page, told_by(chat))
    assert page.get_by_role("alert").count() == 0


@pytest.mark.parametrize("connection", ["sse", "ndjson"])
def test_pages_of_a_long_conversation(open_page: Open, chat: Server, connection: str) -> None:
    """A page shows the newest messages, and older ones on request. It can send without knowing the first ones."""
    first = open_page(connection=connection)
    for turn, text in enumerate(("hello", "how are you", "fine")):
        send(first, text)
        wait_for_end(first, turn)
    told = told_by(chat)
    page = open_page(connection=connection, pageSize="2")
    wait_until_equal(page, told[-2:])
    for shown in (4, 6):
        page.get_by_role("button", name="Older").click()
        wait_until_equal(page, told[-shown:])
    expect(page.get_by_role("button", name="Older")).to_have_count(0)
    page.reload()
    wait_until_equal(page, told[-2:])
    send(page, "goodbye")
    wait_for_end(page, 1)
    assert transcript(page) == told_by(chat)[-4:]
    assert len(told_by(chat)) == 8
