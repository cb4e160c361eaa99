"""Messages that wait for an answer to end, in Chromium: they are taken back or sent now in every tab, with a keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.servers import Process, start_app
from tests.web.tabs import Tabs, write

APP = """
import asyncio
from durable_chat import DurableChat

chat = DurableChat("memory://")

@chat.model
async def answer(turn):
    yield f"On {turn.text}."
    while "wait" in turn.text and (heard := await turn.heard()) is None:
        await asyncio.sleep(0.02)
    if "wait" in turn.text:
        yield f"Heard {heard.text}."
"""


def message(page: Page, text: str) -> Locator:
    return page.locator(".message.user").filter(has_text=text)


def press(page: Page, text: str, button: str) -> None:
    """Press the button of a waiting message as a keyboard does."""
    message(page, text).get_by_role("button", name=button, exact=True).focus()
    page.keyboard.press("Enter")


def expect_messages(page: Page, *texts: str) -> None:
    expect(page.locator(".message .body")).to_have_text(list(texts))


def test_waiting_messages(tmp_path: Path, processes: list[Process], tabs: Tabs) -> None:
    """What one tab does with a waiting message is seen by the other one, and by one that was reloaded."""
    page = tabs.open(start_app(tmp_path / "app", APP, processes).url)
    write(page, "wait for me")
    expect_messages(page, "wait for me", "On wait for me.")
    other = tabs.open(page.url)
    write(page, "a mistake")
    write(page, "second")
    write(page, "third")
    for tab in (page, other):
        expect_messages(tab, "wait for me", "On wait for me.", "a mistake", "second", "third")
        expect(tab.get_by_role("button", name="Take back")).to_have_count(3)
    press(page, "a mistake", "Take back")
    expect(page.get_by_label("Message", exact=True)).to_have_value("a mistake")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    for tab in (page, other):
        expect_messages(tab, "wait for me", "On wait for me.", "second", "third")
    other.reload()
    expect_messages(other, "wait for me", "On wait for me.", "second", "third")
    press(other, "third", "Send now")
    heard = ("wait for me", "On wait for me.", "third", "Heard third.", "second", "On second.")
    for tab in (page, other):
        expect_messages(tab, *heard)
        expect(tab.get_by_role("button", name="Send now")).to_have_count(0)
    page.reload()
    expect_messages(page, *heard)


def test_a_message_that_the_answer_does_not_hear_can_interrupt_it(
    tmp_path: Path, processes: list[Process], tabs: Tabs
) -> None:
    """A model that takes no further step is stopped, if the person asks for that as well."""
    app = APP.replace("await turn.heard()", "None")
    page = tabs.open(start_app(tmp_path / "app", app, processes).url)
    write(page, "wait for me")
    expect_messages(page, "wait for me", "On wait for me.")
    write(page, "second")
    press(page, "second", "Send now")
    expect(message(page, "second")).to_contain_text("The answer above hears this at its next step")
    press(page, "second", "Stop the answer and send now")
    expect_messages(page, "wait for me", "On wait for me.", "second", "On second.")
