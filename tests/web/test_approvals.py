"""Approvals on the page in Chromium: asked, answered from any tab, executed once, and shown alike in every tab."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.servers import Server
from tests.web.tabs import Tabs, address, answer, answers, session_of, snapshot, told, wait_done, write


def card(page: Page) -> Locator:
    return page.locator(".tool")


def press(page: Page, button: str) -> None:
    card(page).get_by_role("button", name=button, exact=True).click()


def ask(page: Page) -> None:
    write(page, "approve this")
    expect(card(page)).to_contain_text("Needs your approval")


@pytest.mark.parametrize(
    ("button", "state", "words"),
    [("Approve", "Done", "The note is saved."), ("Deny", "Denied", "You did not approve")],
    ids=["approved", "denied"],
)
def test_an_approval_is_answered(server: Server, tabs: Tabs, button: str, state: str, words: str) -> None:
    """Every tab, also one loaded later, shows the decision, its result and the text after it."""
    page = tabs.open(server.url)
    ask(page)
    other = tabs.open(address(server, session_of(page)))
    expect(card(other)).to_contain_text("Needs your approval")
    press(page, button)
    later = []
    for tab in (page, other):
        expect(answer(tab)).to_contain_text(words)
        expect(card(tab)).to_contain_text(state)
        wait_done(tab)
        later.append(tab)
    later.append(tabs.open(address(server, session_of(page))))
    for tab in later:
        expect(answers(tab)).to_have_count(2)
        expect(card(tab)).to_contain_text(state)
        expect(card(tab)).to_contain_text("approve this")
        expect(card(tab).get_by_role("button", name="Approve")).to_be_hidden()
        assert wait_done(tab) == told(server, session_of(page))


def test_an_approval_is_answered_on_another_device_after_a_restart(server: Server, tabs: Tabs) -> None:
    """The question is in the log, so it can be answered without the tab and the server process that asked it."""
    page = tabs.open(server.url)
    ask(page)
    session = session_of(page)
    wait_done(page)
    page.context.close()
    server.restart()
    other = tabs.open(address(server, session))
    expect(card(other)).to_contain_text("Needs your approval")
    press(other, "Approve")
    expect(answer(other)).to_contain_text("The note is saved.")
    wait_done(other)  # until then the server's snapshot is an older one
    assert [message["role"] for message in snapshot(server, session)["messages"]] == ["user", "assistant", "assistant"]


def test_two_devices_answer_one_question(server: Server, tabs: Tabs) -> None:
    """The first decision counts. The other device shows it as well, and both can continue."""
    page = tabs.open(server.url)
    ask(page)
    other = tabs.open(address(server, session_of(page)))
    expect(card(other)).to_contain_text("Needs your approval")
    held: list[Route] = []
    other.route("**/api/chat?*", lambda route: held.append(route))
    with other.expect_request("**/api/chat?*"):
        press(other, "Deny")
    press(page, "Approve")
    for tab in (page, other):
        expect(answer(tab)).to_contain_text("The note is saved.")
        expect(card(tab)).to_contain_text("Done")
    with other.expect_response("**/api/chat?*") as late:
        held[0].continue_()
    assert late.value.status == 202
    other.unroute("**/api/chat?*")
    write(other, "hello")
    for tab in (page, other):
        expect(answers(tab)).to_have_count(3)
        wait_done(tab)
        expect(card(tab)).to_contain_text("Done")


@pytest.mark.parametrize(("button", "state"), [("Approve", "Done"), ("Deny", "Denied")], ids=["approved", "denied"])
def test_a_question_is_answered_after_more_was_said(server: Server, tabs: Tabs, button: str, state: str) -> None:
    """An older call is executed or denied in its place, and later messages stay unchanged in every tab."""
    page = tabs.open(server.url)
    ask(page)
    wait_done(page)
    for count in (2, 3):
        write(page, "hello")
        expect(answers(page)).to_have_count(count)
        wait_done(page)
    before = snapshot(server, session_of(page))["messages"]
    page.reload()
    other = tabs.open(address(server, session_of(page)))
    press(page, button)
    for tab in (page, other):
        expect(card(tab)).to_contain_text(state)
        wait_done(tab)
        expect(answers(tab)).to_have_count(3)
    page.reload()
    expect(card(page)).to_contain_text(state)
    after = snapshot(server, session_of(page))["messages"]
    assert after[2:] == before[2:]
    (result,) = [part for part in after[1]["parts"] if part["type"] == "tool-result"]
    assert ("saved" in result["content"]) == (button == "Approve")
