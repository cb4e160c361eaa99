"""The page in Chromium on a server that requires tokens, with and without a token."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from durable_chat.config.settings import ACTIONS, Action
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
# An answer of about 8 s: a token of 3 s expires during it.
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
    """Open tabs as in the other tests, with refused requests expected."""
    tabs.network_fails = True
    return tabs


def enter(page: Page, text: str) -> None:
    """Enter a token as a user does."""
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_label("Token", exact=True).fill(text)
    page.keyboard.press("Enter")


def give(page: Page, text: str) -> None:
    """Follow a link with a token to the open chat."""
    page.evaluate("token => { location.hash = `token=${token}` }", text)


def test_token_in_the_fragment(guarded: Server, tabs: Tabs) -> None:
    """
    A link with a token opens the chat. The page removes the token from the address at once, and keeps it over a
    reload.
    """
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
    """A link with only a token opens the chat that the token is for."""
    page = tabs.open(f"{guarded.url}/#token={token()}")
    assert session_of(page) == SESSION
    assert "token" not in page.url


def test_missing(guarded: Server, tabs: Tabs) -> None:
    """Without a token the page explains what is needed and accepts one. Another chat's token leads to that chat."""
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
    """Cancelling the dialog sends nothing."""
    page = tabs.open(address(guarded, SESSION), settled="closed")
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_label("Token", exact=True).fill(token())
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(state(page)).to_have_attribute("data-state", "closed")


@pytest.mark.parametrize("way", ["dialog", "link"])
def test_expired_midway(guarded: Server, tabs: Tabs, way: str) -> None:
    """
    When the token expires during an answer, the shown text stays, the page names the reason, and a new token
    continues.
    """
    page = tabs.open(address(guarded, SESSION), settled="closed")
    give(page, token(ttl_s=SHORT_S))  # the token's lifetime must not include loading the page
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
    """A user with read permission only sees the chat, and the page explains why nothing can be sent."""
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
    """When the application's own authorization refuses a user, the page does not ask for a token."""
    app = start_app(tmp_path / "refusing", REFUSING, processes)
    page = tabs.open(f"{app.url}/?id=a", settled="closed")
    expect(page.get_by_text("You may not do this in this chat.")).to_be_visible()
    expect(page.get_by_role("button", name="Enter a token")).to_be_hidden()
