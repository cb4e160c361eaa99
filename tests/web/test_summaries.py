"""The note about earlier messages that the model is given as a summary, on the page in Chromium."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.conftest import Serve
from tests.web.tabs import Tabs, answers, wait_done, write

SMALL = {"DURABLE_CHAT_CONTEXT_TOKENS": "500", "DURABLE_CHAT_DEMO_DELAY_MS": "0", "DURABLE_CHAT_MODEL": "demo"}
NOTE = "Earlier messages are summarized for the model"


def note(page: Page) -> Locator:
    return page.get_by_text(NOTE)


def talk(page: Page, *texts: str) -> None:
    for text in texts:
        count = answers(page).count()
        write(page, text)
        expect(answers(page)).to_have_count(count + 1)
        wait_done(page)


def test_the_note_in_every_tab(serve: Serve, tabs: Tabs) -> None:
    """
    Once the limit is exceeded, each tab shows one quiet note with the summary in it: the tab that wrote, one that
    watches, and both after a reload. All messages are still there.
    """
    page = tabs.open(serve(**SMALL).url)
    other = tabs.open(page.url)
    talk(page, "My cat is called Minka.", "And my dog is called Rex.")
    expect(note(page)).to_have_count(0)
    talk(page, "I like them.", "What are they called?")
    for again in (False, True):
        for tab in (page, other):
            if again:
                tab.reload()
            expect(answers(tab)).to_have_count(4)
            expect(note(tab)).to_have_count(1)
            expect(tab.get_by_text("User: My cat is called Minka.")).to_be_hidden()
            note(tab).click()
            expect(tab.get_by_text("User: My cat is called Minka.")).to_be_visible()


def test_the_note_goes_with_an_edit(serve: Serve, tabs: Tabs) -> None:
    """After an edit of a summarized message the note is gone in every tab, because the summary does not hold."""
    page = tabs.open(serve(**SMALL).url)
    other = tabs.open(page.url)
    talk(page, "My cat is called Minka.", "And my dog is called Rex.", "I like them.", "What are they called?")
    expect(note(other)).to_have_count(1)
    first = page.locator("article.user").first
    first.hover()
    first.get_by_role("button", name="Edit").click()
    box = first.get_by_role("textbox")
    box.fill("My cat is called Tiger.")
    box.press("Enter")
    for tab in (page, other):
        expect(answers(tab)).to_have_count(1)
        expect(answers(tab)).to_contain_text("Tiger")
        expect(note(tab)).to_have_count(0)
