"""The page in Chromium on a server that asks for tokens: what a person with and without one sees."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from durable_chat.config import ACTIONS, Action
from durable_chat.http.tokens import issue
from tests.conftest import Serve
from tests.servers import Process, Server, start_app
from tests.web.tabs import (
    Tabs,
    address,
    answers,
    begins_with,
    session_of,
    state,
    wait_done,
    wait_longer,
    write,
)

SECRET = "a-secret-of-the-tests-long-enough"
# An answer of about 8 s: a token of 3 s ends in its middle.
SETTINGS = {
    "DURABLE_CHAT_TOKEN_SECRET": SECRET,
    "DURABLE_CHAT_DEMO_CHUNKS": "200",
    "DURABLE_CHAT_DEMO_DELAY_MS": "40",
}
SHORT_S = 3
SESSION = "für Ada/1"


def token(*can: Action, session: str = SESSION, ttl_s: int = 600) -> str:
    return issue(SECRET, session, can or ACTIONS, now_s=time.time(), ttl_s=ttl_s)


@pytest.fixture
def guarded(serve: Serve) -> Server:
    return serve(**SETTINGS)


@pytest.fixture
def tabs(tabs: Tabs) -> Tabs:
    """As in the other tests of the page; here requests are refused on purpose."""
    tabs.network_fails = True
    return tabs


def enter(page: Page, text: str) -> None:
    """Pastes a token as a person does."""
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_label("Token", exact=True).fill(text)
    page.keyboard.press("Enter")


def give(page: Page, text: str) -> None:
    """Follows a link with a token to the chat that is open."""
    page.evaluate("token => { location.hash = `token=${token}` }", text)


def test_token_in_the_fragment(guarded: Server, tabs: Tabs) -> None:
    """A link with a token opens the chat; the token is out of the address at once, and a reload still has it."""
    page = tabs.open(f"{address(guarded, SESSION)}#token={token()}")
    assert "token" not in page.url
    assert session_of(page) == SESSION
    write(page, "hello")
    wait_longer(page, 3)
    page.reload()
    expect(state(page)).to_have_attribute("data-state", "live")
    wait_longer(page, 3)
    page.get_by_role("button", name="Stop").click()
    wait_done(page)


def test_token_says_the_chat(guarded: Server, tabs: Tabs) -> None:
    """A link with nothing but a token opens the chat that it is for."""
    page = tabs.open(f"{guarded.url}/#token={token()}")
    assert session_of(page) == SESSION
    assert "token" not in page.url


def test_missing(guarded: Server, tabs: Tabs) -> None:
    """Without a token the page says what is needed and takes one; another chat's leads to that chat."""
    page = tabs.open(address(guarded, SESSION), settled="closed")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("asks for a token")
    enter(page, "nonsense")
    expect(notice).to_contain_text("does not take this token")
    enter(page, token("send"))
    expect(notice).to_contain_text("does not allow")
    enter(page, token())
    expect(state(page)).to_have_attribute("data-state", "live")
    expect(notice).to_be_hidden()
    page.get_by_role("button", name="New chat").click()
    expect(notice).to_contain_text("asks for a token")
    enter(page, token(session="another"))
    expect(state(page)).to_have_attribute("data-state", "live")
    assert session_of(page) == "another"


def test_cancelled(guarded: Server, tabs: Tabs) -> None:
    """Who changes their mind sends nothing."""
    page = tabs.open(address(guarded, SESSION), settled="closed")
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_label("Token", exact=True).fill(token())
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(state(page)).to_have_attribute("data-state", "closed")


@pytest.mark.parametrize("way", ["dialog", "link"])
def test_expired_midway(guarded: Server, tabs: Tabs, way: str) -> None:
    """In the middle of an answer the access ends: what is there stays, the page says why, and a new token goes on."""
    page = tabs.open(address(guarded, SESSION), settled="closed")
    give(page, token(ttl_s=SHORT_S))  # its time is not for loading the page
    expect(state(page)).to_have_attribute("data-state", "live")
    write(page, "hello")
    before = wait_longer(page, 3)
    expect(state(page)).to_have_attribute("data-state", "closed")
    expect(page.get_by_role("alert")).to_contain_text("has expired")
    assert begins_with(wait_longer(page, len(before) - 1), before)
    if way == "dialog":
        enter(page, token())
    else:
        give(page, token())
    expect(state(page)).to_have_attribute("data-state", "live")
    assert begins_with(wait_done(page), before)
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_reader_only(guarded: Server, tabs: Tabs) -> None:
    """Who may only read sees the chat, and is told why nothing can be sent."""
    page = tabs.open(f"{address(guarded, SESSION)}#token={token('read')}")
    write(page, "hello")
    expect(page.get_by_text("The token does not allow this action.")).to_be_visible()
    expect(state(page)).to_have_attribute("data-state", "live")


REFUSING = (
    "from durable_chat import DurableChat\nchat = DurableChat('memory://', model='demo', authorize=lambda *_: False)\n"
)


def test_who_is_known_by_a_cookie_is_not_asked_for_a_token(
    tmp_path: Path, processes: list[Process], tabs: Tabs
) -> None:
    """Where the application decides and says no, no token would help, and none is asked for."""
    app = start_app(tmp_path / "refusing", REFUSING, processes)
    page = tabs.open(f"{app.url}/?id=a", settled="closed")
    expect(page.get_by_text("You may not do this in this chat.")).to_be_visible()
    expect(page.get_by_role("button", name="Enter a token")).to_be_hidden()
