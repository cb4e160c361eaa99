"""Actions on a message in Chromium, also with the keyboard alone: copy, edit, regenerate, stop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.servers import Server
from tests.web.tabs import Tabs, address, answer, answers, session_of, snapshot, wait_done, wait_longer, write

# Long enough to be stopped during it.
SLOW = {"DURABLE_CHAT_DEMO_DELAY_MS": "20"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests. Each test has its own session."""
    settings = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_STORE": "memory://", **SLOW}
    server = Server(tmp_path_factory.mktemp("actions"), settings)
    server.start()
    yield server
    server.kill()


def said(page: Page) -> str:
    """Return the last announcement for screen readers."""
    return page.locator("#announcer").inner_text()


def press(page: Page, button: str) -> None:
    """Press a button with the keyboard."""
    page.get_by_role("button", name=button, exact=True).last.focus()
    page.keyboard.press("Enter")


def expect_composer_focused(page: Page) -> None:
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


@pytest.mark.parametrize("button", ["Approve", "Deny"])
def test_an_answer_by_keyboard_keeps_the_focus(server: Server, tabs: Tabs, button: str) -> None:
    """An approval is announced. When its buttons disappear, the composer gets the focus."""
    page = tabs.open(server.url)
    write(page, "approve this")
    expect(page.locator(".tool").get_by_role("button", name="Approve")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Your approval is needed: save_note")
    press(page, button)
    expect(page.locator(".tool").get_by_role("button", name="Approve")).to_be_hidden()
    expect_composer_focused(page)
    wait_done(page)
    expect(page.locator("#announcer")).to_have_text("The answer is complete")
    expect_composer_focused(page)


def test_a_stop_by_keyboard_keeps_the_focus(server: Server, tabs: Tabs) -> None:
    """A stop is announced, and the composer gets the focus."""
    page = tabs.open(server.url)
    write(page, "a long one")
    wait_longer(page, 3)
    assert said(page) == "Answering"
    press(page, "Stop")
    wait_done(page)
    expect(page.locator("#announcer")).to_have_text("The answer was stopped")
    expect_composer_focused(page)


def test_escape_stops(server: Server, tabs: Tabs) -> None:
    """Escape stops an answer, but not while a dialog is open or an input method composes."""
    page = tabs.open(server.url)
    write(page, "a long one")
    before = wait_longer(page, 3)
    page.get_by_role("button", name="Settings").click()
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    page.locator("#text").evaluate(
        "text => text.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', isComposing: true, bubbles: true}))"
    )
    wait_longer(page, len(before))
    expect(page.locator("#stop")).to_be_visible()
    page.locator("#text").focus()
    page.keyboard.press("Escape")
    wait_done(page)
    expect(answers(page).get_by_text("Stopped", exact=True)).to_be_visible()


def test_trying_again_by_keyboard_keeps_the_focus(server: Server, tabs: Tabs) -> None:
    """When the failed answer's button disappears, the focus is kept."""
    page = tabs.open(server.url)
    write(page, "please fail")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("The answer failed")
    press(page, "Try again")
    expect(page.locator("#announcer")).to_have_text("Answering")
    expect_composer_focused(page)


def test_an_answer_is_given_again(server: Server, tabs: Tabs) -> None:
    """A regenerated answer replaces the old one in every tab, and everything after it is removed."""
    page = tabs.open(server.url)
    other = tabs.open(address(server, session_of(page)))
    for text in ("one", "two"):
        write(page, text)
        wait_done(page)
    expect(answers(page)).to_have_count(2)
    first = answers(page).first.get_attribute("data-id")
    answers(page).first.hover()
    answers(page).first.get_by_role("button", name="Regenerate").click()
    for tab in (page, other):
        expect(tab.locator(f'[data-id="{first}"]')).to_have_count(0)
        expect(answers(tab)).to_have_count(1)
        expect(tab.locator(".message.user .body")).to_have_text(["one"])
        wait_done(tab)
    assert [message["role"] for message in snapshot(server, session_of(page))["messages"]] == ["user", "assistant"]


def test_a_message_is_edited_in_place(server: Server, tabs: Tabs) -> None:
    """
    After an edit with the keyboard, later messages are removed and the new text is answered, in every tab. Escape
    changes nothing.
    """
    page = tabs.open(server.url)
    other = tabs.open(address(server, session_of(page)))
    for text in ("one", "two"):
        write(page, text)
        wait_done(page)
    first = page.locator(".message.user").first
    edit = first.get_by_role("button", name="Edit", exact=True)
    edit.focus()
    page.keyboard.press("Enter")
    field = page.get_by_label("Edit the message")
    expect(field).to_be_focused()
    expect(field).to_have_value("one")
    page.keyboard.type(" and more")
    page.keyboard.press("Escape")
    expect(edit).to_be_focused()
    expect(first.locator(".body")).to_have_text("one")
    page.keyboard.press("Enter")
    page.keyboard.type("hundred")
    page.keyboard.press("Enter")
    for tab in (page, other):
        expect(tab.locator(".message.user .body")).to_have_text(["onehundred"])
        expect(answer(tab)).to_contain_text("onehundred")
        wait_done(tab)
        expect(answers(tab)).to_have_count(1)
    expect_composer_focused(page)
    messages = snapshot(server, session_of(page))["messages"]
    assert [part["content"] for part in messages[0]["parts"]] == ["onehundred"]


def test_an_edit_is_left_while_another_tab_is_answered(server: Server, tabs: Tabs) -> None:
    """The running answer hides the Edit button, so Escape moves the focus to the composer and does not lose it."""
    page = tabs.open(server.url)
    other = tabs.open(address(server, session_of(page)))
    write(page, "one")
    wait_done(page)
    press(page, "Edit")
    expect(page.get_by_label("Edit the message")).to_be_focused()
    write(other, "long")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.get_by_label("Edit the message")).to_be_focused()
    page.keyboard.press("Escape")
    expect_composer_focused(page)
    page.locator("#stop").click()
    wait_done(page)


def test_a_message_is_copied(server: Server, tabs: Tabs) -> None:
    """A message is copied as it was written, with its Markdown."""
    page = tabs.open(server.url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    write(page, "some *words*")
    wait_done(page)
    press(page, "Copy")
    expect(answers(page).get_by_role("button", name="Copied")).to_be_visible()
    message = snapshot(server, session_of(page))["messages"][1]
    assert page.evaluate("navigator.clipboard.readText()") == message["parts"][0]["content"]
