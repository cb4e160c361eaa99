"""The page in Chromium, on a real server: what a person does, and what must be on the screen then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import Serve
from tests.servers import Server
from tests.web.tabs import (
    SHOWN_MAX_MS,
    Tabs,
    answers,
    begins_with,
    session_of,
    shown,
    snapshot,
    state,
    told,
    wait_done,
    wait_longer,
    write,
)

# An answer of about 4 s: enough to do something in the middle of it, and not too long to see its end.
MEDIUM = {"DURABLE_CHAT_DEMO_DELAY_MS": "40", "DURABLE_CHAT_DEMO_CHUNKS": "100"}
# The longest answer, to a message with the word `long`, takes 40 s then; no test waits for its end.
LONG = {"DURABLE_CHAT_DEMO_DELAY_MS": "20"}

expect.set_options(timeout=SHOWN_MAX_MS)


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Opens tabs, closes them, and fails the test where a page complained about anything."""
    opened = Tabs(chromium)
    yield opened
    opened.close()
    assert opened.problems == []


# One tab.


def test_answer_streams_in(serve: Serve, tabs: Tabs) -> None:
    """What is sent is shown at once, its answer grows on the screen, and at its end all of it is there."""
    server = serve(**MEDIUM)
    page = tabs.open(server.url)
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    write(page, "hello there")
    expect(page.locator(".message.user .body")).to_have_text("hello there")
    first = wait_longer(page, 0)
    second = wait_longer(page, len(first))
    expect(page.locator("#stop")).to_be_visible()
    assert begins_with(second, first)
    final = wait_done(page)
    assert begins_with(final, second) and len(final) > len(second)
    assert final == told(server, session_of(page))
    expect(answers(page)).to_have_count(1)


def test_reload_midway(serve: Serve, tabs: Tabs) -> None:
    """A page that is reloaded in the middle of an answer shows what was there, goes on, and is complete at the end."""
    server = serve(**MEDIUM)
    page = tabs.open(server.url)
    write(page, "hello")
    before = wait_longer(page, 10)
    assert snapshot(server, session_of(page))["activeRun"] is not None
    page.reload()
    after = wait_longer(page, len(before))
    assert begins_with(after, before)
    final = wait_done(page)
    assert begins_with(final, after)
    assert final == told(server, session_of(page))
    expect(page.locator(".message")).to_have_count(2)


def test_new_tab_is_live(serve: Serve, tabs: Tabs) -> None:
    """A second device that opens the address in the middle shows the same, while it streams and at its end."""
    server = serve(**MEDIUM)
    first = tabs.open(server.url)
    write(first, "hello")
    wait_longer(first, 5)
    second = tabs.open(first.url)
    seen = wait_longer(second, 0)
    assert len(wait_longer(second, len(seen))) > len(seen)
    assert wait_done(first) == wait_done(second) == told(server, session_of(first))
    expect(second.locator(".message.user")).to_contain_text("hello")


def test_waiting_tab_is_live(server: Server, tabs: Tabs) -> None:
    """A tab of a chat that has not begun shows the first message when another one sends it."""
    first = tabs.open(server.url)
    second = tabs.open(first.url)
    write(first, "hello from over here")
    expect(second.locator(".message.user")).to_contain_text("hello from over here")
    assert wait_done(first) == wait_done(second)


def test_stop_from_another_tab(serve: Serve, tabs: Tabs) -> None:
    """Stopped in one tab, the answer ends in both, says so, and what was shown stays."""
    server = serve(**LONG)
    first = tabs.open(server.url)
    write(first, "a long one")
    second = tabs.open(first.url)
    before = wait_longer(first, 10)
    wait_longer(second, 10)
    second.get_by_role("button", name="Stop").click()
    final = wait_done(first)
    assert begins_with(final, before)
    assert final == wait_done(second) == told(server, session_of(first))
    for page in (first, second):
        expect(answers(page).get_by_text("Stopped", exact=True)).to_be_visible()


# The connection.


def test_server_killed_midway(serve: Serve, tabs: Tabs) -> None:
    """Killed and started again, the server has every word that had been shown; the page finds it by itself."""
    tabs.network_fails = True
    server = serve(**LONG)
    page = tabs.open(server.url)
    write(page, "a long one")
    wait_longer(page, 20)
    server.kill()
    before = shown(page)
    expect(state(page)).not_to_have_attribute("data-state", "live")
    assert shown(page) == before
    server.start()
    expect(state(page)).to_have_attribute("data-state", "live")
    after = wait_done(page)
    assert begins_with(after, before)
    assert after == told(server, session_of(page))
    expect(answers(page).get_by_role("alert")).to_be_visible()
    write(page, "and now a short one")
    expect(answers(page)).to_have_count(2)
    assert wait_done(page) == told(server, session_of(page))


def test_connection_dropped(serve: Serve, tabs: Tabs) -> None:
    """Without a network the page says so; when it is back, it goes on from where it was."""
    tabs.network_fails = True
    server = serve(**MEDIUM)
    page = tabs.open(server.url)
    write(page, "hello")
    before = wait_longer(page, 10)
    page.context.set_offline(True)
    expect(state(page)).to_contain_text("Offline")
    page.context.set_offline(False)
    expect(state(page)).to_have_attribute("data-state", "live")
    final = wait_done(page)
    assert begins_with(final, before)
    assert final == told(server, session_of(page))
