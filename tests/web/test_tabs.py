"""Many tabs of one browser over HTTP/1.1: all are current, each can send and stop, and they share one live read."""

from __future__ import annotations

import time
import urllib.request

import pytest
from playwright.sync_api import Error, Page, expect

from durable_chat.http.tokens import issue
from tests.conftest import Serve
from tests.servers import Process
from tests.web.tabs import (
    LONG,
    MEDIUM,
    Tabs,
    address,
    answers,
    finish,
    live_reads,
    shown,
    told,
    wait_done,
    wait_longer,
    write,
)

# An answer of about 4 s, and one of 40 s to a message with the word `long`.
SESSIONS = ("one", "two", "three/&ü")
TABS = 10


def wait_live_reads(page: Page, server: Process, count: int) -> None:
    """Wait until the server serves this number of live reads. It notices a disconnect a moment later."""
    for _ in range(200):
        if live_reads(server) == count:
            return
        page.wait_for_timeout(50)
    assert live_reads(server) == count


def open_all(tabs: Tabs, server: Process, count: int = TABS) -> list[Page]:
    """Open this number of tabs of one browser, on three sessions in turn."""
    first = tabs.open(address(server, SESSIONS[0]))
    others = [tabs.beside(first, address(server, SESSIONS[number % 3])) for number in range(1, count)]
    return [first, *others]


def test_ten_tabs(serve: Serve, tabs: Tabs) -> None:
    """Ten tabs on three sessions load, share one connection, show everything, and each can send and stop."""
    server = serve(**LONG)
    pages = open_all(tabs, server)
    wait_live_reads(pages[0], server, 1)
    for number, page in enumerate(pages):
        same = [other for at, other in enumerate(pages) if at % 3 == number % 3]
        write(page, f"a long one from tab {number}")
        for other in same:
            expect(other.locator(".message.user").last).to_contain_text(f"from tab {number}")
            expect(answers(other)).to_have_count(number // 3 + 1)
        wait_longer(same[-1], 3)
        assert live_reads(server) == 1
        page.get_by_role("button", name="Stop").click()
        for other in same:
            wait_done(other)
            expect(answers(other).last.get_by_text("Stopped", exact=True)).to_be_visible()
    for number, page in enumerate(pages):
        assert shown(page) == told(server, SESSIONS[number % 3])
        expect(answers(page)).to_have_count(len(range(number % 3, TABS, 3)))


def test_reader_closed_midway(unfinished: Process, tabs: Tabs) -> None:
    """
    When the reading tabs are closed one by one during answers, another one reads, and no word is missing or doubled.
    """
    server = unfinished
    pages = open_all(tabs, server, 6)
    for number in range(3):
        write(pages[3 + number], f"hello {number}")
    for page in pages[3:]:
        wait_longer(page, 5)
    for page in pages[:3]:
        page.close()
        before = [len(shown(left)) for left in pages[3:]]
        for left, count in zip(pages[3:], before, strict=True):
            wait_longer(left, count)
        wait_live_reads(pages[3], server, 1)
    finish(server)
    for number, page in enumerate(pages[3:]):
        assert wait_done(page) == told(server, SESSIONS[number])
        expect(page.locator(".message")).to_have_count(2)


def test_reader_crashed_midway(unfinished: Process, tabs: Tabs) -> None:
    """When the process of the reading tab dies, another tab reads at once."""
    server = unfinished
    first, second = open_all(tabs, server, 2)
    third = tabs.beside(first, address(server, SESSIONS[0]))
    write(third, "hello")
    wait_longer(third, 5)
    with pytest.raises(Error, match="crash"):
        first.goto("chrome://crash")
    wait_longer(third, len(shown(third)))
    finish(server)
    assert wait_done(third) == told(server, SESSIONS[0])
    write(second, "and here")
    assert wait_done(second) == told(server, SESSIONS[1])


HIDE = """hidden => {
    Object.defineProperty(document, 'visibilityState', {value: hidden ? 'hidden' : 'visible', configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_hidden_reader_gives_way(serve: Serve, tabs: Tabs) -> None:
    """A visible tab reads in place of a hidden one. The hidden one is current when it is shown again."""
    server = serve(**MEDIUM)
    first, second = open_all(tabs, server, 2)
    first.evaluate(HIDE, True)
    other = tabs.beside(first, address(server, SESSIONS[0]))
    write(other, "hello")
    wait_done(other)
    first.evaluate("() => document.dispatchEvent(new Event('freeze'))")
    write(other, "again")
    wait_done(other)
    expect(answers(other)).to_have_count(2)
    first.evaluate("() => document.dispatchEvent(new Event('resume'))")
    first.evaluate(HIDE, False)
    expect(answers(first)).to_have_count(2)
    assert wait_done(first) == told(server, SESSIONS[0])
    wait_live_reads(second, server, 1)


def test_server_restarted(serve: Serve, tabs: Tabs) -> None:
    """After a kill and a restart, all tabs reconnect over one connection, and each can send."""
    tabs.network_fails = True
    server = serve(**MEDIUM)
    pages = open_all(tabs, server, 4)
    write(pages[0], "hello")
    wait_longer(pages[0], 5)
    server.kill()
    for page in pages:
        expect(page.locator("#state")).not_to_have_attribute("data-state", "live")
    server.start()
    for page in pages:
        expect(page.locator("#state")).to_have_attribute("data-state", "live")
    wait_live_reads(pages[0], server, 1)
    write(pages[2], "and here")
    assert wait_done(pages[2]) == told(server, SESSIONS[2])


def test_session_deleted(serve: Serve, tabs: Tabs) -> None:
    """A deleted session begins again in every tab that follows it."""
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="2")
    pages = open_all(tabs, server, 5)
    write(pages[0], "hello")
    for page in (pages[0], pages[3]):
        wait_done(page)
    request = urllib.request.Request(f"{server.url}/api/chat?id=one", method="DELETE")
    urllib.request.urlopen(request, timeout=30).close()
    for page in (pages[0], pages[3]):
        expect(page.locator(".message")).to_have_count(0)
    write(pages[3], "afresh")
    assert wait_done(pages[3]) == wait_done(pages[0]) == told(server, "one")


def test_other_tokens_do_not_share(serve: Serve, tabs: Tabs) -> None:
    """Tabs with different tokens each read their own sessions, all are current, and connections remain for sending."""
    secret = "a-secret-of-the-tests-long-enough"
    server = serve(DURABLE_CHAT_TOKEN_SECRET=secret, DURABLE_CHAT_DEMO_DELAY_MS="2")
    urls = []
    for number in range(8):
        text = issue(secret, f"s{number}", ["read", "send", "stop"], now_s=time.time(), ttl_s=600)
        urls.append(f"{server.url}/?id=s{number}#token={text}")
    first = tabs.open(urls[0])
    pages = [first, *(tabs.beside(first, url) for url in urls[1:])]
    for number, page in enumerate(pages):
        write(page, f"hello {number}")
        expect(page.locator(".message.user")).to_contain_text(f"hello {number}")
        wait_done(page)
        expect(answers(page)).to_have_count(1)
        expect(answers(page)).to_contain_text(f"hello {number}")
    assert live_reads(server) <= 3


NO_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', { get: () => undefined })"


@pytest.mark.parametrize("lacks", ["locks", "route"])
def test_nothing_to_share_with(serve: Serve, tabs: Tabs, lacks: str) -> None:
    """Without Web Locks, or behind a proxy that blocks `/api/events`, each tab reads by itself."""
    tabs.network_fails = True
    server = serve(DURABLE_CHAT_DEMO_DELAY_MS="2")
    first = tabs.open(address(server, "elsewhere"))
    if lacks == "locks":
        first.context.add_init_script(NO_LOCKS)
    else:
        first.context.route("**/api/events**", lambda route: route.fulfill(status=404, body="not here"))
    pages = [tabs.beside(first, address(server, "one")) for _ in range(2)]
    first.close()
    write(pages[0], "hello")
    for page in pages:
        expect(answers(page)).to_have_count(1)
        assert wait_done(page) == told(server, "one")
    wait_live_reads(pages[0], server, 2)
