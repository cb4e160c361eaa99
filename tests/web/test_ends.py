"""How an answer ended, on the page in Chromium: a reloaded or later tab shows the same as the tab that watched."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import Serve
from tests.servers import Process, start_app
from tests.web.tabs import (
    LONG,
    SHOWN_MAX_MS,
    Tabs,
    answer,
    answers,
    error,
    failing_once,
    session_of,
    snapshot,
    try_again,
    wait_done,
    wait_longer,
    write,
)

FAILURE = 'ProviderError("The model is out of ideas.", "no_ideas")'


def test_a_failed_answer_after_a_reload(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """
    After a reload, the tab and another one show the error of a failed answer with "Try again", and the button works.
    """
    page = tabs.open(start_app(tmp_path / "app", failing_once(FAILURE), processes).url)
    write(page, "hello")
    expect(error(page)).to_contain_text("The model is out of ideas.")
    page.reload()
    other = tabs.open(page.url)
    for tab in (page, other):
        expect(answer(tab)).to_have_text("Half of it,")
        expect(error(tab)).to_contain_text("The model is out of ideas.")
        expect(try_again(tab)).to_be_visible()
    try_again(page).click()
    for tab in (page, other):
        expect(answer(tab)).to_have_text("Half of it, and the rest.")
        expect(tab.get_by_role("alert")).to_have_count(0)
        expect(answers(tab)).to_have_count(1)
    page.reload()
    expect(answer(page)).to_have_text("Half of it, and the rest.")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_stopped_answer_after_a_reload(serve: Serve, tabs: Tabs) -> None:
    """After a reload, a stopped answer shows "Stopped", also when another answer follows."""
    page = tabs.open(serve(**LONG).url)
    write(page, "a long one")
    wait_longer(page, 5)
    page.get_by_role("button", name="Stop").click()
    wait_done(page)
    write(page, "hello")
    expect(answers(page)).to_have_count(2)
    wait_done(page)
    page.reload()
    for tab in (page, tabs.open(page.url)):
        expect(answers(tab).first).to_contain_text("Stopped")
        expect(answers(tab).last).not_to_contain_text("Stopped")
        expect(tab.get_by_role("alert")).to_have_count(0)


def test_an_answer_whose_server_was_killed_after_a_reload(serve: Serve, tabs: Tabs) -> None:
    """After a reload, an answer whose server was killed shows that it was interrupted, and "Try again" works."""
    tabs.network_fails = True
    server = serve(**LONG)
    page = tabs.open(server.url)
    write(page, "a long one")
    words = wait_longer(page, 5)
    server.restart()  # with a kill
    page.reload()
    other = tabs.open(page.url)
    for tab in (page, other):
        expect(error(tab)).to_contain_text("The answer was interrupted.")
        expect(try_again(tab)).to_be_visible()
        assert wait_done(tab)[:3] == words[:3]
    assert snapshot(server, session_of(page))["lastRun"]["status"] == "interrupted"
    try_again(other).click()
    expect(other.locator("#stop")).to_be_visible()
    expect(answers(other)).to_have_count(1)
    other.get_by_role("button", name="Stop").click()
    for tab in (page, other):
        expect(answers(tab).last).to_contain_text("Stopped")
        expect(tab.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(("mode", "says"), [("retry", "answers again"), ("continue", "goes on with this answer")])
def test_an_answer_that_goes_on_after_its_server_was_killed(serve: Serve, tabs: Tabs, mode: str, says: str) -> None:
    """Every tab says so, without a reload, and comes to the end of one answer."""
    tabs.network_fails = True
    server = serve(**LONG, DURABLE_CHAT_AFTER_CRASH=mode)
    page = tabs.open(server.url)
    other = tabs.open(page.url)
    write(page, "a long one")
    wait_longer(page, 5)
    server.restart()  # with a kill
    for tab in (page, other):
        expect(tab.get_by_text(f"The server came back and {says}")).to_be_visible(timeout=SHOWN_MAX_MS)
        expect(tab.locator("#stop")).to_be_visible()
    later = tabs.open(page.url)
    page.get_by_role("button", name="Stop").click()
    for tab in (page, other, later):
        expect(tab.get_by_text("Stopped", exact=True)).to_be_visible()
        expect(tab.get_by_text("The server came back")).to_have_count(0)
        expect(tab.get_by_role("alert")).to_have_count(0)
    texts = [" ".join(wait_done(tab)) for tab in (page, other, later)]
    assert texts[0] == texts[1] == texts[2]
